"""Best-of-N against enumeration, intervals against simulated coverage, tests against known values."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamprm_lib import test_time_scaling as tts
from dreamprm_lib.artifacts import CandidateScores, Program
from dreamprm_lib.candidate_solutions import pass_at_k
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.engine.statistics import holm, interval, mcnemar, mcnemar_power, problems_needed, resamples
from dreamprm_lib.errors import InputError


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


@pytest.mark.parametrize("n", [0, 3])
def test_best_of_n_refuses_what_it_cannot_give(n):
    with pytest.raises(InputError):
        tts.best_of_n([0.1, 0.2], [True, False], n)


def test_oracle_and_random_are_the_ends():
    passed = [True, False, False, True, False]
    for n in range(1, 6):
        assert tts.best_of_n(passed, passed, n) == pytest.approx(pass_at_k(5, 2, n))
        assert tts.best_of_n([0] * 5, passed, n) == pytest.approx(0.4)


@pytest.mark.parametrize(
    "how, expected",
    [("mean", 0.5), ("min", 0.2), ("product", 0.16), ("last", 0.8), ("log_odds", 0.0)],
)
def test_aggregation_literals(how, expected):
    assert tts.aggregate([0.2, 0.8], how) == pytest.approx(expected)


def test_an_empty_program_is_never_picked_and_a_wrong_rule_is_refused():
    assert tts.aggregate([], "mean") == float("-inf")
    with pytest.raises(InputError, match="median"):
        tts.aggregate([0.5], "median")


def test_bootstrap_intervals_cover():
    """Nominal 95 % over 600 simulated studies of 60 problems: the share lies within 93 to 97 %."""
    rng = np.random.default_rng(0)
    truth, hits = 0.4, 0
    counts = resamples(60, 1000, np.random.default_rng(1))
    for _ in range(600):
        values = rng.beta(2, 3, size=60)  # mean 0.4
        low, high = interval(values, counts)
        hits += low <= truth <= high
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
    assert list(table.columns) == ["method", "difficulty", "n", "pass_rate", "ci_low", "ci_high", "problems"]
    rate = table.set_index(["method", "difficulty"]).pass_rate
    assert rate["good", "overall"] == rate["oracle", "overall"] == 1 and rate["bad", "hard"] == 0
    assert rate["random", "easy"] == pytest.approx(1 / 3)
    curve = tts.scaling_curve(pool, 200)
    assert list(curve.columns) == ["method", "n", "pass_rate", "ci_low", "ci_high"]
    assert sorted(curve.n.unique()) == [1, 2, 3]
    at_one = curve[curve.n == 1].pass_rate
    np.testing.assert_allclose(at_one, 1 / 3)


def test_differences_and_their_verdict():
    rows = tts.differences(make_pool(), [("good", "bad"), ("good", "good")], 200)
    assert rows.difference.tolist() == [1.0, 0.0] and rows.wins.tolist() == [2, 0] and rows.losses.tolist() == [0, 0]
    assert rows.p_value.tolist() == [0.5, 1.0]
    better, same = tts.verdict(rows)
    assert "`good` may be better than `bad`" in better and "cannot be told apart" in same
    worse = tts.verdict(pd.DataFrame([dict(rows.iloc[0], difference=-0.2, ci_low=-0.3, ci_high=-0.1)]))
    assert "may be worse than" in worse[0]


def test_a_pool_without_candidates_is_refused():
    with pytest.raises(InputError, match="no candidate"):
        tts.make_pool([make_problem("a")], [], [])


# ------------------------------------------------------------------------------------------------- many comparisons


def test_holm_literals():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0] and len(holm([])) == 0


@pytest.mark.parametrize("problems, win, loss", [(40, 0.2, 0.05), (131, 0.05, 0.01), (60, 0.1, 0.1)])
def test_power_equals_simulation(problems, win, loss):
    rng = np.random.default_rng(0)
    counts = rng.multinomial(problems, [win, loss, 1 - win - loss], size=4000)
    rejected = np.mean([mcnemar(w, lost) <= 0.05 for w, lost, _ in counts])
    assert mcnemar_power(problems, win, loss) == pytest.approx(rejected, abs=0.025)


def test_the_number_of_problems_needed_has_the_power():
    needed = problems_needed(0.2, 0.05)
    assert mcnemar_power(needed, 0.2, 0.05) >= 0.8 > mcnemar_power(needed - 8, 0.2, 0.05)
    assert problems_needed(0.1, 0.1) is None and problems_needed(0.0, 0.0) is None
    # One problem of 131, the published step: with no loss at all it would take about a thousand.
    assert 900 < problems_needed(1 / 131, 0.0) < 1200


@pytest.fixture
def small_pool():
    problem = Problem("p", "P", "", "easy", "test", (), ())
    scores = {"a": [np.array([1.0, 1.0, 0.0])], "b": [np.array([0.2, 0.7, 0.9])]}
    return tts.Pool([problem], [np.array([False, False, True])], scores)


def test_ties_of_one_selector_are_broken_by_the_next(small_pool):
    assert tts.ordered_by(small_pool, "a", "b")[0].tolist() == [1.0, 2.0, 0.0]
    assert tts.ordered_by(small_pool, "a")[0].tolist() == [1.0, 1.0, 0.0]


def test_regrets_name_the_pick_and_the_best_candidate_that_was_there(small_pool):
    assert [(p.id, picked, there) for p, picked, there in tts.regrets(small_pool, "a")] == [("p", 0, 2)]
    assert tts.regrets(small_pool, "b") == []


def test_the_verdict_asks_for_both_the_interval_and_the_adjusted_test():
    row = dict(method="m", baseline="b", difference=0.1, ci_high=0.2, wins=9, losses=1, p_value=0.02)
    table = pd.DataFrame([row | {"ci_low": low, "p_holm": p} for low, p in ((0.01, 0.04), (0.01, 0.2), (-0.1, 0.2))])
    said = tts.verdict(table)
    assert "is better than" in said[0] and "may be better than" in said[1] and "cannot be told apart" in said[2]
