"""The bill against sums by hand, the ways of sharing it out, and best-of-N at equal cost."""

import numpy as np
import pandas as pd
import pytest

from dreamprm_lib import compute
from dreamprm_lib.artifacts import Program, StepLabel
from dreamprm_lib.chain_of_functions import cof_prompt
from dreamprm_lib.engine.backbone import Backbone, Template, parameters_read
from dreamprm_lib.engine.policy import render_chatml
from dreamprm_lib.engine.problems import Problem, Test
from dreamprm_lib.errors import InputError
from dreamprm_lib.monte_carlo_labels import rollout_prompt
from dreamprm_lib.reward_model import RewardModel
from dreamprm_lib.test_time_scaling import Pool

CASE = Test("1\n", "1\n")
TRAIN = Problem("a", "A", "Do it.", "easy", "train", (CASE,), (CASE, CASE, CASE))
TEST = Problem("b", "B", "Do that.", "easy", "test", (CASE, CASE), (CASE,))
SPEED = compute.Speed(1e9, 0.5)
STEPS = ["ab\n", "cdef\n"]  # a token a letter, by the byte-level tokenizer


def program(name, sample=0, tokens=10):
    return Program(name, sample, "".join(STEPS), STEPS, True, "passed", tokens)


def label(tokens, prefix="ab\n"):
    return StepLabel("a", 0, 0, prefix, 4, 2, 0.5, False, tokens)


def bill(tiny_backbone, labels, about=None):
    model = RewardModel(Backbone(tiny_backbone, (2,), Template("S\n"), dtype="float32"), None, about or {})
    candidates = [program("b", k, 20) for k in range(2)]
    return compute.cost_table(model, 1000, SPEED, [TRAIN, TEST], [program("a")], labels, candidates).set_index(
        ["part", "each"]
    )


def test_the_parameters_read_are_those_of_the_layers_by_hand(tiny_backbone):
    attention, mlp, norms = 2 * 32 * 32 + 2 * 32 * 16, 3 * 32 * 64, 2 * 32
    assert parameters_read(tiny_backbone, 2) == 2 * (attention + mlp + norms)


def test_the_bill_equals_sums_by_hand(tiny_backbone):
    table = bill(tiny_backbone, [label(33), label(33)])  # the same prefix twice is asked for once
    prompts = (cof_prompt(TRAIN), rollout_prompt(TRAIN, "ab\n"), cof_prompt(TEST))
    letters = [len(render_chatml(p).encode()) for p in prompts]
    assert table.tokens.tolist() == [letters[0] + 10, letters[1], 33, 2 + 8, letters[2], 20, 2, 8, 0, 0]
    assert table.flops["rollouts", "study"] == 2 * 1000 * 33
    assert table.flops["training", "study"] == 2 * parameters_read(tiny_backbone, 2) * 10
    assert table.runs.tolist() == [3, 0, 12, 0, 0, 0, 0, 0, 2, 8]
    assert table.seconds["rollouts", "study"] == pytest.approx(66_000 / 1e9 + 12 * 0.5)
    assert not table.estimated.any()


def test_training_the_backbone_costs_three_forward_passes_an_epoch(tiny_backbone):
    frozen, tuned = bill(tiny_backbone, []), bill(tiny_backbone, [], {"losses": [0.5, 0.4]})
    assert tuned.flops["training", "study"] == 3 * 2 * frozen.flops["training", "study"]


def test_rollouts_whose_tokens_were_not_kept_are_estimated_and_marked(tiny_backbone):
    table = bill(tiny_backbone, [label(None)])
    assert table.tokens["rollouts", "study"] == pytest.approx(4 * 10 * 5 / 8)  # the rest of the program, four times
    assert table.estimated.sum() == 1 and table.estimated["rollouts", "study"]


# ------------------------------------------------------------------------------------------------- sharing it out

COSTS = pd.DataFrame(
    [
        ("programs", "study", 1000.0, 10),
        ("rollouts", "study", 500.0, 20),
        ("candidates", "problem", 50.0, 0),
        ("candidates", "candidate", 10.0, 0),
        ("scoring", "candidate", 1.0, 0),
        ("consensus", "candidate", 0.0, 8),
        ("samples", "candidate", 0.0, 2),
    ],
    columns=["part", "each", "tokens", "runs"],
).assign(flops=lambda t: 2 * t.tokens, seconds=lambda t: t.tokens + t.runs)


@pytest.mark.parametrize(
    "method, n, uses, tokens, runs",
    [
        ("random", 4, 1, 60, 0),  # one candidate is enough
        ("self_certainty", 4, 1, 90, 0),
        ("consensus", 4, 1, 90, 32),
        ("orm", 4, 10, 90 + 100 + 4, 1),
        ("prm_cof", 4, 10, 90 + 150 + 4, 3),
        ("prm_cof", 4, np.inf, 90 + 4, 0),
        ("samples, prm_cof", 4, 10, 90 + 150 + 4, 3 + 8),
        ("prm_cof x consensus", 4, 10, 90 + 150 + 4, 3 + 32),
    ],
)
def test_what_a_problem_costs(method, n, uses, tokens, runs):
    cost = compute.cost_of(COSTS, method, n, uses)
    assert (cost.tokens, cost.runs) == pytest.approx((tokens, runs))
    assert cost.flops == 2 * cost.tokens and cost.seconds == pytest.approx(tokens + runs)


def test_a_share_of_the_rollouts_changes_nothing_else():
    half = compute.with_rollouts(COSTS, 0.5)
    assert half.tokens.tolist() == [1000, 250, *COSTS.tokens[2:]] and half.runs[1] == 10
    assert COSTS.tokens[1] == 500


@pytest.mark.parametrize("uses", [0, -1])
def test_costs_are_shared_by_somebody(uses):
    with pytest.raises(InputError, match="at least one problem"):
        compute.cost_of(COSTS, "orm", 1, uses)


@pytest.mark.parametrize("numbers", [(0, 0.1), (1e9, -1), (float("nan"), 0)])
def test_a_speed_is_positive(numbers):
    with pytest.raises(InputError, match="FLOPs a second"):
        compute.Speed(*numbers)


# ------------------------------------------------------------------------------------------------- what it buys


@pytest.fixture
def pool():
    """Two problems of four candidates; `prm_cof` is always right, `self_certainty` always wrong."""
    problem = Problem("p", "P", "", "easy", "test", (), ())
    passed = [np.array([True, False, False, False]), np.array([False, True, False, False])]
    right = [ok.astype(float) for ok in passed]
    scores = {"random": [np.zeros(4)] * 2, "self_certainty": [-r for r in right], "prm_cof": right}
    return Pool([problem] * 2, passed, scores)


def test_the_curve_has_the_cost_of_each_point(pool):
    curve = compute.cost_curve(pool, COSTS, ["random", "prm_cof"], 10, 100)
    assert curve.n.tolist() == [1, 1, 2, 4] and curve.pass_rate.tolist() == pytest.approx([0.25, 0.25, 0.5, 1])
    assert curve.tokens.tolist() == [60, 60 + 150 + 1, 70 + 150 + 2, 90 + 150 + 4]


@pytest.mark.parametrize("uses, n", [(10, 0), (50, 0), (150, 2), (np.inf, 3)])
def test_at_equal_cost_a_method_gets_what_the_budget_pays_for(pool, uses, n):
    """Budget: 4 candidates of `self_certainty`, 90 tokens; a candidate with its score costs 11."""
    (row,) = compute.at_equal_cost(pool, COSTS, ["prm_cof"], "self_certainty", uses, draws=100).itertuples()
    assert row.n == n == sum(50 + 1500 / uses + 11 * k <= 90 for k in range(1, 5))
    assert (np.isnan(row.difference)) if n == 0 else row.difference == pytest.approx(n / 4)


def test_answers_are_said_from_the_intervals():
    zero, more = (pd.Series({q: v for q in compute.QUANTITIES}) for v in (0.0, 2e12))
    rise, mixed = np.ones(4), np.array([1.0, -1, 1, -1])
    rows = [
        compute.purchase("More", name, (0 * rise, zero), (gain, more), 200)
        for name, gain in (("a", rise), ("b", mixed))
    ]
    said = compute.answers(pd.DataFrame(rows))
    assert said[0].startswith("More, a: a gain, +100.0 points (+100.0 to +100.0)") and "+2.00 TFLOPs" in said[0]
    assert "More, b: cannot be told apart from no gain" in said[1]
    assert "Of 2 offers the intervals of 1" in said[2] and "More, a" in said[2] and "More, b" not in said[2]
    assert compute.answers(pd.DataFrame(rows[1:]))[-1] == "No interval lies above no gain on these problems."
