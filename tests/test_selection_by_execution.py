"""Selectors on tables of answers: against counting, enumeration and numerical integration."""

from itertools import product

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.stats import kendalltau

from dreamprm_lib import selection_by_execution as sx
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.engine.sandbox.consensus import FAILED
from dreamprm_lib.study.rows import CandidateScores
from dreamprm_lib.test_time_scaling import Pool

TABLE = np.array([[0, 0, 1], [0, 0, 1], [0, 1, 0], [1, FAILED, 0], [FAILED] * 3, [FAILED] * 3])


def test_the_majority_counts_equal_rows_and_silence_is_no_cluster():
    assert sx.majority(TABLE) == pytest.approx(np.array([2, 2, 1, 1, 0, 0]) / 6)


def test_a_sum_over_a_cluster_brings_each_member_s_weight():
    weights = np.array([0.2, 0.5, 0.6, 0.1, 9.0, 9.0])
    assert sx.summed(TABLE, weights) == pytest.approx([0.7, 0.7, 0.6, 0.1, 0, 0])
    assert sx.summed(TABLE, np.full(6, 1 / 6)) == pytest.approx(sx.majority(TABLE))


def log_posterior(tests, good, true):
    """The integral of the likelihood of `tests` [programs, tests] over the four chances, one after the other."""

    def over(hits, prior):
        def density(chance):
            return stats.beta(*prior).pdf(chance) * np.prod(np.where(hits, chance, 1 - chance))

        return np.log(integrate.quad(density, 0, 1)[0])

    if (tests[good] != true).any():
        return -np.inf  # a right program passes the right tests and no other
    wrong = tests[~good]
    uniform = [over(x, sx.UNIFORM) for x in (good, true, wrong[:, true].ravel())]
    return sum(uniform) + over(wrong[:, ~true].ravel(), sx.RARELY)


def test_b4_is_the_best_of_all_ways_to_call_programs_and_tests_right():
    table = TABLE[:4]
    tests = np.array([c == a for c in table.T for a in sorted(set(c.tolist()) - {FAILED})]).T
    ways = {
        (good, true): log_posterior(tests, np.array(good), np.array(true))
        for good in product([False, True], repeat=len(table))
        for true in product([False, True], repeat=tests.shape[1])
        if any(good)
    }
    scores = sx.b4(table)
    for program, row in enumerate(tests):
        cluster = tuple((tests == row).all(axis=1).tolist())
        assert scores[program] == pytest.approx(ways[cluster, tuple(row.tolist())], abs=1e-6)
    assert max(ways.values()) == pytest.approx(scores.max(), abs=1e-6)


def test_b4_gives_no_score_to_silence():
    assert sx.b4(np.full((2, 2), FAILED)).tolist() == [-np.inf] * 2
    assert np.isfinite(sx.b4(TABLE)).tolist() == [True] * 4 + [False] * 2


def test_inputs_are_taken_by_the_pairs_that_they_newly_split():
    table = np.array([[0, 0, 0, 0], [0, 0, 1, 0], [1, 0, 2, 0], [1, 0, 2, 1]])
    assert sx.separating(table, 3) == [2, 3, 0]
    assert sx.separating(table, 9) == [2, 3, 0, 1]


def test_a_new_selector_is_a_function_and_a_line(monkeypatch):
    def answers_at_all(table):
        """How many inputs a program answers."""
        return (table != FAILED).sum(axis=1)

    monkeypatch.setitem(sx.SELECTORS, "answers", answers_at_all)
    every = sx.execution_scores({"p": TABLE}, {"p": [0, 2, 3, 5, 6, 8]})
    assert {row.method for row in every} == {"consensus", "majority", "b4", "answers"}
    rows = [row for row in every if row.method == "answers"]
    assert rows[1] == CandidateScores("answers", "p", 2, [3.0]) and [r.scores[0] for r in rows[3:]] == [2, 0, 0]


def test_rank_agreement_is_kendalls_tau_b():
    rng = np.random.default_rng(0)
    scores = {m: [rng.integers(0, 4, 9).astype(float) for _ in range(5)] for m in "ab"}
    scores["a"][0][:] = 1.0  # all equal: no tau
    scores["b"][1][2] = float("-inf")  # an empty program
    problem = Problem("p", "p", "Do it.", "easy", "test", (), ())
    table = sx.rank_agreement(Pool([problem] * 5, [np.ones(9, bool)] * 5, scores), ["a", "b"], 200)
    row = table[(table.method == "a") & (table.other == "b")].iloc[0]
    expected = [kendalltau(a, b).statistic for a, b in zip(scores["a"][1:], scores["b"][1:], strict=True)]
    assert row.tau == pytest.approx(np.mean(expected)) and row.problems == 4
    assert table[table.method == table.other].tau.tolist() == pytest.approx([1, 1])


def test_risk_and_coverage_by_hand():
    found = sx.risk_coverage(np.array([0.9, 0.9, 0.5, 0.1]), np.array([1.0, 0.5, 0.0, 1.0]))
    assert found.coverage.tolist() == [0.5, 0.75, 1.0]
    assert found.risk.tolist() == pytest.approx([0.25, 0.5, 0.375])


def test_a_threshold_keeps_its_promise():
    """Of a selector that is right with the chance that it states, over many calibration sets: the true risk above the
    threshold is at most 0.2 in at least 90 % of them."""
    rng = np.random.default_rng(0)
    kept, promised = [], []
    for _ in range(400):
        sure = rng.random(60)
        threshold = sx.safe_threshold(sure, (rng.random(60) < sure).astype(float))
        promised.append(threshold is not None)
        kept.append(threshold is None or (1 - threshold) / 2 <= 0.2)
    assert np.mean(kept) >= 0.9 and np.mean(promised) > 0.25
    assert sx.safe_threshold(np.ones(10), np.ones(10)) is None  # ten problems are too few
    assert sx.safe_threshold(np.ones(11), np.ones(11)) == 1.0
    assert sx.safe_threshold(np.ones(11), np.full(11, 0.5)) is None
