"""Best-of-N against enumeration, intervals against simulated coverage, tests against known values."""

from dataclasses import replace
from itertools import combinations, product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multinomial

from dreamprm_lib import test_time_scaling as tts
from dreamprm_lib.candidate_solutions import pass_at_k
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.errors import InputError
from dreamprm_lib.evidence.statistics import (
    counted,
    holm,
    mcnemar,
    mcnemar_power,
    mean_with_interval,
    problems_needed,
    problems_to_settle,
    sign_flip_test,
)
from dreamprm_lib.study.rows import CandidateScores, Program


def by_enumeration(scores, passed, n):
    picks = []
    for subset in combinations(range(len(scores)), n):
        top = max(scores[i] for i in subset)
        picks.append(np.mean([passed[i] for i in subset if scores[i] == top]))
    return np.mean(picks)


pools = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.9]), st.booleans()), min_size=1, max_size=7)


@given(pools, st.data())
@settings(max_examples=150, deadline=None)
def test_best_of_n_equals_enumeration(pool, data):
    scores, passed = zip(*pool, strict=True)
    n = data.draw(st.integers(1, len(pool)))
    assert tts.best_of_n(scores, passed, n) == pytest.approx(by_enumeration(scores, passed, n), abs=1e-12)


def test_best_of_n_literals():
    assert tts.best_of_n([0.9, 0.1, 0.5], [True, False, False], 3) == 1.0
    assert tts.best_of_n([0.9, 0.1, 0.5], [True, False, False], 2) == pytest.approx(2 / 3)
    assert tts.best_of_n([0.5, 0.5], [True, False], 2) == 0.5
    assert tts.best_of_n([float("-inf"), 0.2], [True, False], 2) == 0.0


def test_scores_that_are_no_numbers_are_named_by_their_row():
    scores = np.array([0.1, np.nan, 0.3])
    with pytest.raises(InputError, match="scores: row 1 holds nan"):
        tts.best_of_n(scores, [True, False, True], 2)
    with pytest.raises(InputError, match="passed: row 1 holds nan"):
        tts.best_of_n([0.1, 0.2, 0.3], scores, 2)
    with pytest.raises(InputError, match="The scores of `m` for p: row 1 holds nan"):
        tts.Pool([make_problem("p")], [np.array([True, False, True])], {"random": [np.zeros(3)], "m": [scores]})


@pytest.mark.parametrize("n", [0, 3])
def test_best_of_n_refuses_what_it_cannot_give(n):
    with pytest.raises(InputError):
        tts.best_of_n([0.1, 0.2], [True, False], n)


def test_oracle_and_random_are_the_ends():
    passed = [True, False, False, True, False]
    for n in range(1, 6):
        assert tts.best_of_n(passed, passed, n) == pytest.approx(pass_at_k(5, 2, n))
        assert tts.best_of_n([0] * 5, passed, n) == pytest.approx(0.4)


def test_bootstrap_intervals_cover():
    """Nominal 95 % over 600 simulated studies of 60 problems: the share lies within 93 to 97 %."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(600):
        _, low, high = mean_with_interval(rng.beta(2, 3, size=60), 1000)
        hits += low <= 0.4 <= high
    assert 0.93 <= hits / 600 <= 0.97


@pytest.mark.parametrize(
    "wins, losses, p", [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (6, 1, 0.125), (10, 0, 2 / 1024)]
)
def test_mcnemar_literals(wins, losses, p):
    assert mcnemar(wins, losses) == pytest.approx(p)
    assert mcnemar(losses, wins) == pytest.approx(p)


def make_problem(name, difficulty="easy"):
    return Problem(name, name, "Do it.", difficulty, "test", (), ())


def make_pool():
    """Two problems of three candidates; `good` always picks right, `bad` always wrong."""
    problems = [make_problem("a"), make_problem("b", "hard")]
    passed = {"a": [True, False, False], "b": [False, True, False]}
    candidates, scores = [], []
    for name, outcomes in passed.items():
        for i, ok in enumerate(outcomes):
            candidates.append(Program(name, i, "x\n", ["x\n"], ok, "passed" if ok else "wrong_answer", 1))
            scores += [CandidateScores("good", name, i, [float(ok)]), CandidateScores("bad", name, i, [float(not ok)])]
    return tts.make_pool(problems, candidates[::-1], scores)


def test_tables_of_a_pool_have_the_contract_columns_and_the_right_numbers():
    pool = make_pool()
    table = tts.difficulty_table(pool, 200)
    columns = ["method", "samples", "difficulty", "n", "pass_rate", "ci_low", "ci_high", "problems"]
    assert list(table.columns) == columns and table.samples.eq(0).all()
    rate = table.set_index(["method", "difficulty"]).pass_rate
    assert rate["good", "overall"] == rate["oracle", "overall"] == 1 and rate["bad", "hard"] == 0
    assert rate["random", "easy"] == pytest.approx(1 / 3)
    curve = tts.scaling_curve(pool, 200)
    assert list(curve.columns) == ["method", "samples", "n", "pass_rate", "ci_low", "ci_high"]
    assert sorted(curve.n.unique()) == [1, 2, 3]
    at_one = curve[curve.n == 1].pass_rate
    np.testing.assert_allclose(at_one, 1 / 3)


def test_differences_and_their_verdict():
    rows = tts.differences(make_pool(), [("good", "bad"), ("good", "good")], 200)
    assert rows.difference.tolist() == [1.0, 0.0] and rows.wins.tolist() == [2, 0] and rows.losses.tolist() == [0, 0]
    assert rows.p_value.tolist() == [0.5, 1.0]
    better, same = rows.verdict
    assert "`good` may be better than `bad`" in better and "cannot be told apart" in same
    assert "ahead on 2 problems, behind on 0, exact sign-flip p = 0.5 (1 by Holm for 2 comparisons)" in better
    worse = tts.verdict(pd.DataFrame([dict(rows.iloc[0], difference=-0.2, ci_low=-0.3, ci_high=-0.1)]))
    assert "may be worse than" in worse[0]


def test_each_set_of_problems_is_compared_alone_without_samples_and_adjusted_within_it():
    pool, pairs = make_pool(), [("good", "bad"), ("good", "random")]
    old, new = pool.problems[0], replace(pool.problems[1], date="2026-11-28")
    mixed = replace(pool, problems=[old, new], samples=[np.ones((3, 2), bool)] * 2)
    rows = tts.by_set(mixed, pairs, "2026-11-28", 200)
    assert list(rows.set) == ["seen", "seen", "new", "new"] and rows.problems.eq(1).all() and rows.samples.eq(0).all()
    alone = tts.differences(mixed.part([False, True]), pairs, 200).query("samples == 0").reset_index(drop=True)
    same = ["method", "baseline", "difference", "ci_low", "ci_high", "p_value", "spread"]
    pd.testing.assert_frame_equal(rows[2:].reset_index(drop=True)[same], alone[same])
    assert "for 2 comparisons" in rows.verdict[3]
    assert set(tts.by_set(mixed, pairs, "2026-11-29", 200).set) == {"seen"}
    others = replace(mixed, problems=[replace(new, source="humaneval"), old])
    assert list(tts.by_set(others, pairs, "2026-11-28", 200).set) == ["seen", "seen", "humaneval", "humaneval"]


def test_sets_that_rate_no_difficulty_follow_those_that_do():
    problems = [make_problem(name, name) for name in ("humaneval", "hard", "codeio", "easy")]
    pool = tts.Pool(problems, [np.ones(1, bool)] * 4, {"random": [np.zeros(1)] * 4})
    levels = list(tts.difficulty_table(pool, 10).difficulty)
    assert levels == ["easy", "hard", "codeio", "humaneval", "overall"]


def fractional_pool(passed, **scores):
    """A pool of one difficulty: outcomes and scores, a list a problem."""
    problems = [make_problem(f"p{k}") for k in range(len(passed))]
    outcomes = [np.array(ok, bool) for ok in passed]
    zeros = [np.zeros(len(ok)) for ok in outcomes]
    return tts.Pool(problems, outcomes, {"random": zeros, **{m: [*map(np.array, s)] for m, s in scores.items()}})


HALF = [[1, 0], [0, 1]]  # of two candidates one passes
TIED = [[0.5, 0.5, 0.1]]  # the first two tie for the top


@pytest.mark.parametrize(
    "passed, scores, gains",
    [
        (HALF, [[2, 1], [2, 1]], [0.5, -0.5]),  # always the first: no better than chance, won and lost once
        ([[0, 0, 1, 1]] * 3, [[4, 3, 2, 1]] * 3, [-0.5] * 3),
        ([[1, 0, 0]], TIED, [1 / 2 - 1 / 3]),
        ([[0, 1, 1]], TIED, [1 / 2 - 2 / 3]),
        ([[1, 1], [0, 0]], [[1, 2], [2, 1]], [0, 0]),  # nothing to choose
        ([[1, 0], [0, 1]], [[7, 7], [-1, -1]], [0, 0]),  # equal scores are `random` by another name
    ],
)
def test_interval_test_and_counts_are_of_the_same_gains(passed, scores, gains):
    """Ties are averaged on both sides: `random` is the mean over candidates, not the first one."""
    row = tts.differences(fractional_pool(passed, it=scores), [("it", "random")], 200).iloc[0]
    flips = [abs(np.dot(signs, gains)) for signs in product((1, -1), repeat=len(gains))]
    assert row.difference == pytest.approx(np.mean(gains)) and row.spread == pytest.approx(np.std(gains))
    assert (row.wins, row.losses) == (sum(g > 0 for g in gains), sum(g < 0 for g in gains))
    assert row.p_value == pytest.approx(np.mean([f >= abs(sum(gains)) - 1e-12 for f in flips]))
    assert row.ci_low <= row.difference <= row.ci_high


gain_lists = st.lists(st.sampled_from([-1, -2 / 3, -0.5, -1 / 16, 0, 1 / 7, 0.25, 1 / 3, 1]), max_size=9)


@given(gain_lists)
@settings(max_examples=80, deadline=None)
def test_the_sign_flip_test_equals_enumeration(gains):
    gains = np.array(gains, float)
    flips = [abs(np.dot(signs, gains)) for signs in product((1, -1), repeat=len(gains))]
    p = sign_flip_test(gains)
    assert p == pytest.approx(np.mean([f >= abs(gains.sum()) - 1e-9 for f in flips])) and p == sign_flip_test(-gains)


@pytest.mark.parametrize(
    "wins, losses, ties", [(0, 0, 5), (1, 0, 0), (6, 1, 9), (19, 0, 21), (40, 25, 3), (200, 150, 0)]
)
def test_for_whole_problems_it_is_mcnemars_test(wins, losses, ties):
    gains = np.repeat([1.0, -1.0, 0.0], [wins, losses, ties])
    assert sign_flip_test(gains) == pytest.approx(mcnemar(wins, losses))


@pytest.mark.parametrize("shift", [0.0, 0.02, 0.05])
def test_with_sums_too_many_to_follow_it_stays_near_a_simulation(shift):
    gains = np.random.default_rng(0).uniform(-0.5, 0.5, 300) + shift
    signs = np.random.default_rng(1).choice([-1, 1], (40_000, 300))
    assert sign_flip_test(gains) == pytest.approx((abs(signs @ gains) >= abs(gains.sum())).mean(), abs=0.01)


@pytest.mark.parametrize("mean, spread", [(0.05, 0.2), (0.1, 0.45), (-0.15, 0.5)])
def test_the_problems_that_settle_a_gain_give_the_power(mean, spread):
    """Fractional gains: the test rejects four times in five."""
    needed = problems_to_settle(mean, spread)
    rng = np.random.default_rng(0)
    rejected = np.mean([sign_flip_test(rng.normal(mean, spread, needed), 100) <= 0.05 for _ in range(60)])
    assert rejected == pytest.approx(0.8, abs=0.15)


@pytest.mark.parametrize(
    "mean, spread, needed", [(0.0, 0.3, None), (0.001, 0.5, None), (1.0, 0.0, 6), (-0.5, 0.0, 6), (0.1, 0.3, 71)]
)
def test_what_no_number_of_problems_settles_has_none(mean, spread, needed):
    assert problems_to_settle(mean, spread) == needed


def test_one_is_one():
    assert [counted(n, "label") for n in (0, 1, 2000)] == ["0 labels", "1 label", "2,000 labels"]


def test_a_pool_without_candidates_is_refused():
    with pytest.raises(InputError, match="no candidate"):
        tts.make_pool([make_problem("a")], [], [])


# ------------------------------------------------------------------------------------------------- many comparisons


def test_holm_literals():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0] and len(holm([])) == 0


@pytest.mark.parametrize("problems, win, loss, level", [(12, 0.4, 0.1, 0.05), (9, 0.5, 0.5, 0.2), (7, 0.3, 0.0, 0.05)])
def test_power_equals_the_sum_over_all_outcomes(problems, win, loss, level):
    total = 0.0
    for wins in range(problems + 1):
        for losses in range(problems + 1 - wins):
            if mcnemar(wins, losses) <= level:
                split = [wins, losses, problems - wins - losses]
                total += multinomial.pmf(split, problems, [win, loss, 1 - win - loss])
    assert mcnemar_power(problems, win, loss, level) == pytest.approx(total, abs=1e-9)


def test_the_number_of_problems_needed_has_the_power():
    needed = problems_needed(0.2, 0.05)
    assert mcnemar_power(needed, 0.2, 0.05) >= 0.8 > mcnemar_power(needed - 8, 0.2, 0.05)
    assert problems_needed(0.1, 0.1) is None and problems_needed(0.0, 0.0) is None
    # One problem of 131, the published step: with no loss at all it would take about a thousand.
    assert 900 < problems_needed(1 / 131, 0.0) < 1200


def test_a_missed_pick_names_the_pick_and_the_best_candidate_that_was_there():
    pool = fractional_pool([[0, 0, 1]], a=[[1.0, 1.0, 0.0]], b=[[0.2, 0.7, 0.9]])
    assert [(p.id, picked, there) for p, picked, there in tts.missed_picks(pool, "a")] == [("p0", 0, 2)]
    assert tts.missed_picks(pool, "b") == []


def test_the_verdict_asks_for_both_the_interval_and_the_adjusted_test():
    row = dict(method="m", baseline="b", samples=0, difference=0.1, ci_high=0.2, wins=9, losses=1, p_value=0.02)
    table = pd.DataFrame([row | {"ci_low": low, "p_holm": p} for low, p in ((0.01, 0.04), (0.01, 0.2), (-0.1, 0.2))])
    said = tts.verdict(table)
    assert "is better than" in said[0] and "may be better than" in said[1] and "cannot be told apart" in said[2]


# ------------------------------------------------------------------------------------------------- samples first

LOW = float("-inf")
ROWS = st.lists(
    st.tuples(st.sampled_from([LOW, 0.0, 0.5, 1.0]), st.booleans(), st.booleans(), st.booleans()),
    min_size=1,
    max_size=6,
)


def by_the_rule(rows, samples, n):
    """Best-of-n as anyone would do it: run the samples, drop what fails unless all fail, take the best that is left."""
    outcomes = []
    for some in combinations(rows, n):
        left = [row for row in some if all(row[1 : 1 + samples])] or some
        top = max(score for score, *_ in left)
        outcomes.append(np.mean([row[3] for row in left if row[0] == top]))
    return np.mean(outcomes)


@given(ROWS, st.data())
@settings(max_examples=150, deadline=None)
def test_what_runs_samples_first_is_best_of_n_among_those_that_pass(rows, data):
    known, samples = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))
    n = data.draw(st.integers(1, len(rows)))
    scores, *passes, passed = (np.array(column) for column in zip(*rows, strict=True))
    pool = tts.Pool([make_problem("p")], [passed], {"it": [scores]}, [np.column_stack(passes)[:, :known]])
    assert pool.best_of("it", n, samples)[0] == pytest.approx(by_the_rule(rows, min(samples, known), n))


def sampled_pool():
    """Two problems; of three candidates the first sample lets two by, both samples one: the right one."""
    problems, rows, scores = [make_problem("a"), make_problem("b", "hard")], [], []
    for name, right in (("a", 2), ("b", 1)):
        for i in range(3):
            rows.append(Program(name, i, "x\n", ["x\n"], i == right, "passed" if i == right else "wrong_answer", 1))
            passes = [float(i != 0), float(i == right)]
            scores += [CandidateScores("public_samples", name, i, passes), CandidateScores("bad", name, i, [3.0 - i])]
    return tts.make_pool(problems, rows, scores)


def test_every_table_tells_every_selector_after_0_1_and_2_samples():
    pool = sampled_pool()
    assert list(pool.regimes) == [0, 1, 2] and set(pool.scores) == {"random", "bad", "oracle"}
    curve, table = tts.scaling_curve(pool, 100), tts.difficulty_table(pool, 100)
    for found in (curve, table):
        assert set(zip(found.method, found.samples, strict=True)) == {(m, s) for m in pool.scores for s in range(3)}
    best = curve[curve.n == 3].set_index(["method", "samples"]).pass_rate
    assert best["random"].tolist() == pytest.approx([1 / 3, 1 / 2, 1])
    assert best["bad"].tolist() == [0, 0.5, 1] and best["oracle"].tolist() == [1, 1, 1]
    np.testing.assert_allclose(curve[curve.n == 1].pass_rate, 1 / 3)
    overall = table[table.difficulty == "overall"].set_index(["method", "samples"]).pass_rate
    assert overall["bad"].tolist() == [0, 0.5, 1]


def test_differences_are_of_selectors_that_know_the_same():
    table = tts.differences(sampled_pool(), [("bad", "random")], 100)
    assert table[["method", "baseline", "samples"]].values.tolist() == [
        ["bad", "random", 0], ["random", "random without samples", 1], ["bad", "random", 1],
        ["random", "random without samples", 2], ["bad", "random", 2],
    ]  # fmt: skip
    assert table.difference.tolist() == pytest.approx([-1 / 3, 1 / 6, 0, 2 / 3, 0])
    assert table.verdict[0].startswith("`bad` ") and table.verdict[2].startswith("After 1 sample `bad` cannot")
    assert table.verdict[3].startswith("After 2 samples `random` may be better than `random without samples`")
    assert all("for 5 comparisons" in said for said in table.verdict)


# ------------------------------------------------------------------------------------------------- several selectors


def test_only_scores_of_steps_are_aggregated():
    rows = [("prm", [0.2, 0.6]), ("prm", [0.5]), ("orm", [0.1, 0.9]), ("first", [-3.0]), (tts.SAMPLES, [1.0, 0.0])]
    scores = [CandidateScores(method, "p", k, each) for k, (method, each) in enumerate(rows)]
    rules = tts.aggregation_rules(scores, "mean")
    assert rules == {"prm": "mean", "orm": "last", "first": "last", tts.SAMPLES: "last"}


def test_the_aggregation_table_compares_with_the_chosen_rule():
    problem = make_problem("p")
    candidates = [Program("p", k, "x", ["x"], k == 0, "passed", 1) for k in range(2)]
    scores = [CandidateScores("m", "p", 0, [0.9, 0.1]), CandidateScores("m", "p", 1, [0.4, 0.4])]
    table = tts.aggregation_table([problem], candidates, scores, "mean", 100).set_index("aggregation")
    assert table.pass_rate.to_dict() == {"mean": 1, "min": 0, "product": 0, "last": 0, "log_odds": 1}
    assert table.difference["mean"] == 0 and table.difference["last"] == -1 == table.diff_low["last"]


def test_what_would_settle_a_difference_is_said_from_the_table():
    rows = [("a", "b", 0.1, 100.0), ("c", "b", 0.0, None), ("d", "b", 0.225, 20.0), ("e", "b", 0.001, None)]
    table = pd.DataFrame(rows, columns=["method", "baseline", "difference", "problems_needed"]).assign(samples=0)
    said, pair = tts.settled_by(table, 40, "a", "b")
    assert "2 of 4 differences" in said and "by 60 problems or fewer; 1 by the 40" in said
    assert "`a` against `b` (+10.0 points) would take 100 problems" in pair
    assert "settle nothing" in tts.settled_by(table, 40, "c", "b")[1]
    assert "would take over 20,000 problems" in tts.settled_by(table, 40, "e", "b")[1]


def test_step_scores_are_kept_to_six_digits_so_that_equal_programs_tie():
    problem = Problem("p", "p", "", "", "", (), ())
    programs = [Program("p", sample, "x", [], False, "passed", 1) for sample in (0, 1)]
    model = SimpleNamespace(score=lambda _, codes: [[0.1234567891, 1e-9], [0.1234567894, 1e-9]][: len(codes)])
    rows = tts.score_candidates(model, "prm", [problem], programs)
    assert [(row.method, row.sample, row.scores) for row in rows] == [
        ("prm", sample, [0.123457, 1e-9]) for sample in (0, 1)
    ]
