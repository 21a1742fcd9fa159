"""Costs against sums by hand, the ways of sharing them out, best-of-N at equal cost, and one value a constant."""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dreamprm_lib.chain_of_functions import cof_prompt
from dreamprm_lib.cost_and_search import study_bill
from dreamprm_lib.engine.backbone import Backbone, Template, parameters_read
from dreamprm_lib.engine.policy.policy import render_chatml
from dreamprm_lib.engine.problems import Problem, Test
from dreamprm_lib.errors import InputError
from dreamprm_lib.evidence import costs
from dreamprm_lib.monte_carlo_labels import rollout_prompt
from dreamprm_lib.reward_model import RewardModel
from dreamprm_lib.study.rows import Program, StepLabel
from dreamprm_lib.test_time_scaling import Pool, scaling_curve

CASE = Test("1\n", "1\n")
TRAIN = Problem("a", "A", "Do it.", "easy", "train", (CASE,), (CASE, CASE, CASE))
TEST = Problem("b", "B", "Do that.", "easy", "test", (CASE, CASE), (CASE,))
MACHINE = costs.Machine(run=0.5, written=4, reads=1e9, price=1)
STEPS = ["ab\n", "cdef\n"]  # a token a letter, by the byte-level tokenizer


def program(name, sample=0, tokens=10):
    return Program(name, sample, "".join(STEPS), STEPS, True, "passed", tokens)


def label(tokens, prefix="ab\n"):
    return StepLabel("a", 0, 0, prefix, 4, 2, 0.5, False, tokens)


def bill(tiny_backbone, labels, about=None, judges=None):
    model = RewardModel(Backbone(tiny_backbone, (2,), Template("S\n"), dtype="float32"), None, about or {})
    candidates = [program("b", k, 20) for k in range(2)]
    table = study_bill(model, 1000, MACHINE, [TRAIN, TEST], [program("a")], labels, candidates, judges)
    return table.set_index(["part", "each"])


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
    assert table.runs.tolist() == [3, 0, 12, 0, 0, 0, 0, 0, 1, 8]
    assert table.seconds["rollouts", "study"] == pytest.approx(33 / 4 + 12 * 0.5)
    assert table.seconds["prefixes", "study"] == pytest.approx(2 * 1000 * letters[1] / 1e9)


def test_a_judge_reads_the_problem_and_a_program_with_all_its_layers(tiny_backbone):
    judged = bill(tiny_backbone, [], judges={"judge": f"{tiny_backbone}?yes=+&no=-"}).loc["judge", "candidate"]
    assert (judged.tokens, judged.flops) == (2 + 8, 10 * 2 * parameters_read(tiny_backbone))


def test_training_the_backbone_costs_its_passes_an_epoch(tiny_backbone):
    frozen, tuned = bill(tiny_backbone, []), bill(tiny_backbone, [], {"losses": [0.5, 0.4]})
    assert tuned.flops["training", "study"] == costs.TRAINING * 2 * frozen.flops["training", "study"]
    with pytest.raises(InputError, match="run chapter 2 again"):
        bill(tiny_backbone, [label(None)])


# ------------------------------------------------------------------------------------------------- sharing it out

BILL = pd.DataFrame(
    [
        ("programs", "study", 1000.0, 10),
        ("rollouts", "study", 500.0, 20),
        ("candidates", "problem", 50.0, 0),
        ("candidates", "candidate", 10.0, 0),
        ("scoring", "candidate", 1.0, 0),
        ("consensus", "candidate", 0.0, 8),
        ("samples", "candidate", 0.0, 1),
        ("judge", "candidate", 3.0, 0),
    ],
    columns=["part", "each", "tokens", "runs"],
).assign(flops=lambda t: 2 * t.tokens, seconds=lambda t: t.tokens + t.runs)


@pytest.mark.parametrize(
    "method, n, uses, samples, tokens, runs",
    [
        ("random", 4, 1, 0, 60, 0),  # one candidate is enough
        ("random", 4, 10, 1, 90, 4),  # but every candidate is run on a sample
        ("mean_logprob", 4, 1, 0, 90, 0),
        ("consensus", 2, 10, 2, 70, 16 + 2 * 2),
        ("orm", 4, 10, 0, 90 + 100 + 4, 1),
        ("prm_cof", 4, 10, 2, 90 + 150 + 4, 3 + 4 * 2),
        ("prm_cof", 4, np.inf, 0, 90 + 4, 0),
        ("prm_cof + consensus", 4, 10, 0, 90 + 150 + 4, 3 + 32),
        ("all three", 4, 10, 0, 90 + 150 + 4, 3 + 32),
        ("majority", 2, 10, 0, 70, 16),
        ("judge", 4, 10, 0, 90 + 12, 0),
        ("mean_logprob + judge", 4, 10, 0, 90 + 12, 0),
    ],
)
def test_what_a_problem_costs(method, n, uses, samples, tokens, runs):
    cost = costs.cost_of(BILL, method, n, uses, samples)
    assert (cost.tokens, cost.runs) == pytest.approx((tokens, runs))
    assert cost.flops == 2 * cost.tokens and cost.seconds == pytest.approx(tokens + runs)


def test_a_share_of_the_rollouts_changes_nothing_else():
    half = costs.with_rollouts(BILL, 0.5)
    assert half.tokens.tolist() == [1000, 250, *BILL.tokens[2:]] and half.runs[1] == 10
    assert BILL.tokens[1] == 500


def test_replies_of_another_kind_are_priced_like_candidates():
    """Two replies of five tokens, each with a prompt of 50 to read; and a run, which takes a second in this bill."""
    asked = costs.with_replies(BILL, "tests", "problem", 2, 5)
    asked = costs.with_replies(asked, "tests", "candidate", 0, 0, runs=3)
    cost = costs.cost_of(asked, "codet", 4, 1)
    assert (cost.tokens, cost.runs) == pytest.approx((50 + 40 + 2 * (50 + 5), 4 * 3))
    assert cost.flops == pytest.approx(2 * cost.tokens) and cost.seconds == pytest.approx(cost.tokens + cost.runs)
    assert costs.cost_of(asked, "mean_logprob", 4, 1).tokens == 90


def test_a_machine_by_its_name_and_with_own_numbers():
    assert costs.machine_of("gpu") == costs.GPU
    mine = costs.machine_of("core", run=0.25)
    assert (mine.run, mine.reads) == (0.25, costs.CORE.reads)


@pytest.mark.parametrize(
    "price, said",
    [
        (lambda: costs.machine_of("abacus"), "no machine 'abacus': known are core, gpu"),
        (lambda: costs.machine_of("core", colour=1), "machine core: .*colour"),
        (lambda: costs.machine_of("core", run=0), "above 0"),
        (lambda: costs.machine_of("core", written=float("nan")), "above 0"),
        (lambda: costs.cost_of(BILL, "orm", 1, uses=0), "at least one problem"),
    ],
)
def test_what_cannot_be_is_refused(price, said):
    with pytest.raises(InputError, match=said):
        price()


# ------------------------------------------------------------------------------------------------- what it buys


@pytest.fixture
def pool():
    """Two problems of four candidates; `prm_cof` is always right, `mean_logprob` always wrong."""
    problem = Problem("p", "P", "", "easy", "test", (), ())
    passed = [np.array([True, False, False, False]), np.array([False, True, False, False])]
    right = [ok.astype(float) for ok in passed]
    scores = {"random": [np.zeros(4)] * 2, "mean_logprob": [-r for r in right], "prm_cof": right}
    return Pool([problem] * 2, passed, scores)


def price(uses):
    return partial(costs.cost_of, BILL, uses=uses)


def test_the_curve_has_the_cost_of_each_point(pool):
    curve = costs.cost_curve(scaling_curve(pool, 100).query("method != 'mean_logprob'"), price(10))
    assert curve.n.tolist() == [1, 1, 2, 4] and curve.pass_rate.tolist() == pytest.approx([0.25, 0.25, 0.5, 1])
    assert curve.tokens.tolist() == [60, 60 + 150 + 1, 70 + 150 + 2, 90 + 150 + 4]
    after = costs.cost_curve(scaling_curve(replace(pool, samples=[np.ones((4, 1), bool)] * 2), 100), price(10))
    assert after[(after.method == "random") & (after.samples == 1)].runs.tolist() == [1, 2, 4]


@pytest.mark.parametrize("uses, n", [(10, 0), (50, 0), (150, 2), (np.inf, 3)])
def test_at_equal_cost_a_method_gets_what_the_budget_pays_for(pool, uses, n):
    """Budget: 4 candidates of `mean_logprob`, 90 tokens; a candidate with its score costs 11."""
    table = costs.at_equal_cost(pool.best_of, price(uses), ["prm_cof"], "mean_logprob", pool.size, 100)
    (row,) = table.itertuples()
    assert row.n == n == sum(50 + 1500 / uses + 11 * k <= 90 for k in range(1, 5))
    assert (np.isnan(row.difference)) if n == 0 else row.difference == pytest.approx(n / 4)


def test_answers_are_said_from_the_intervals():
    zero, more = (pd.Series({q: v for q in costs.QUANTITIES}) for v in (0.0, 2e12))
    rise, mixed = np.ones(4), np.array([1.0, -1, 1, -1])
    rows = [
        costs.purchase("More", name, (0 * rise, zero), (gain, more), 200) for name, gain in (("a", rise), ("b", mixed))
    ]
    said = costs.answers(pd.DataFrame(rows))
    assert said[0].startswith("More, a: a gain, +100.0 points (+100.0 to +100.0)") and "+2.00 TFLOPs" in said[0]
    assert "More, b: cannot be told apart from no gain" in said[1]
    assert "Of 2 offers the intervals of 1" in said[2] and "More, a" in said[2] and "More, b" not in said[2]
    assert costs.answers(pd.DataFrame(rows[1:]))[-1] == "No interval lies above no gain on these problems."


# ------------------------------------------------------------------------------------------------- growth

UNIT = costs.Machine(run=0.36, written=100, reads=2 * costs.JUDGE / 0.0036, price=0.04)


def test_work_grows_by_hand():
    table = costs.growth(costs.Scale(test_problems=1000, candidates=64), UNIT).set_index("work")
    assert table.tokens.to_dict() == pytest.approx(
        {"write candidates": 19_200_000, "grade candidates": 0, "score candidates": 19_700_000}
    )
    assert table.runs["grade candidates"] == 640_000
    assert table.flops["write candidates"] == pytest.approx(19_200_000 * 2 * costs.POLICY)
    assert table.hours.tolist() == pytest.approx([192_000 / 3600, 64, 19.7])
    scale = costs.Scale(problems=10, programs=10, rollouts=4, epochs=2, tests=3)
    table = costs.growth(scale, UNIT).set_index("work")
    assert table.index.tolist() == [
        "write programs", "write rollouts", "grade programs", "grade rollouts", "train", "correct labels"
    ]  # fmt: skip
    assert table.runs["grade rollouts"] == 800 * 3 and table.tokens["write rollouts"] == 120_000
    assert table.tokens["train"] == table.tokens["correct labels"] == 2 * (5000 + 30_000)
    assert table.seconds["train"] == pytest.approx(70_000 * 0.0036 * costs.TRAINING)
    assert table.hours["correct labels"] / table.hours["train"] == pytest.approx(costs.CORRECTION / costs.TRAINING)


# ------------------------------------------------------------------------------------------------- one value each

ROOT = Path(__file__).resolve().parent.parent
NAMES = (  # under which a constant of a machine goes, or went
    "run written reads price run_seconds test_seconds written_a_second flops flops_per_second gpu_price core_price "
    "statement_tokens unit_costs TRAINING CORRECTION ROLLOUT_SHARE JUDGE POLICY"
).split()
BOUND = re.compile(  # x = 1, x: float = 1, "x": 1; no expression, and not 0
    rf"\b({'|'.join(NAMES)})\b[\"']?(?:: *\w+)? *[=:] *(?!0\b(?!\.))([\d.][\d._e+-]*) *(?=$|[\n,)}}#])"
)


def test_each_constant_has_one_value_in_one_place():
    assert BOUND.findall("Machine(run=2)\n  flops_per_second: 4.0e+14") == [
        ("run", "2"),
        ("flops_per_second", "4.0e+14"),
    ]
    files = [p for p in ROOT.glob("profiles/*.yaml")] + [*ROOT.glob("dreamprm_lib/**/*.py")]
    texts = {path: path.read_text() for path in files}
    for path in ROOT.glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        texts[path] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    home = texts.pop(ROOT / "dreamprm_lib" / "evidence" / "costs.py")
    assert home.count("run=0.0049") == home.count("1 / 0.083") == home.count("JUDGE / 0.0020") == 1
    again = {path.name: found for path, text in texts.items() if (found := BOUND.findall(text))}
    assert not again, "numbers that evidence/costs.py holds are written a second time"
