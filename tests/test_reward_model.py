"""The head against closed forms, ranking literals, and checkpoints that refuse what does not fit."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from dreamprm_lib import reward_model as rm
from dreamprm_lib.engine.losses import Pairs
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.errors import InputError, WeightsError
from dreamprm_lib.steps import StepTable
from dreamprm_lib.study.rows import Program, StepLabel

PROBLEM = Problem("p", "P", "Add the two numbers of the line.", "easy", "test", (), ())


pytestmark = pytest.mark.usefixtures("float32_backbones")


# ------------------------------------------------------------------------------------------------- the head


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_the_gradient_vanishes_at_the_fitted_head(loss):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 5)) * [1, 10, 0.1, 1, 0], rng.random(40)
    offset = rng.standard_normal(40)
    head = rm.fit_head(x, y, 0.3, offset=offset, loss=loss)
    p = 1 / (1 + np.exp(-(head.logits(x) + offset)))
    by_logit = (p - y) * (2 * p * (1 - p) if loss == "mse" else 1)
    slope = head.standardise(x).T @ by_logit / 40 + 0.3 * head.weight
    assert np.abs(slope).max() < 1e-6 and abs(by_logit.mean()) < 1e-6
    mean = rm.fit_head(np.zeros((4, 2)), np.array([0.0, 0.25, 0.5, 0.25]), 1.0, loss=loss)
    assert mean.scores(np.zeros((1, 2)))[0] == pytest.approx(0.25) and not mean.weight.any()


@pytest.mark.parametrize(
    "how, expected",
    [("mean", 0.5), ("min", 0.2), ("product", 0.16), ("last", 0.8), ("log_odds", 0.0)],
)
def test_aggregation_literals(how, expected):
    assert rm.aggregate([0.2, 0.8], how) == pytest.approx(expected)


def test_an_empty_program_is_never_picked_and_what_is_no_score_or_rule_is_refused():
    assert rm.aggregate([], "mean") == float("-inf")
    with pytest.raises(InputError, match="median"):
        rm.aggregate([0.5], "median")
    with pytest.raises(InputError, match="step scores: row 1 holds nan"):
        rm.aggregate([0.5, float("nan"), 0.5], "mean")


def test_ranking_literals():
    scores, passed = [0.9, 0.1, 0.5, 0.5, 0.3, 0.2], [1, 0, 1, 0, 1, 1]
    problems = ["a", "a", "b", "b", "c", "c"]
    assert rm.within_problem_ranking(scores, passed, problems) == {"a": 1.0, "b": 0.5}
    values = [0.5, 0.0, 0.25]  # of three prefixes: of the pairs that differ, one is in order, one tied, one not
    assert rm.within_problem_ranking([0.5, 0.5, 0.9], values, ["a"] * 3) == {"a": pytest.approx(0.5)}
    assert rm.within_problem_ranking([0.5, -np.inf, -np.inf], [1, 0, 0], ["a"] * 3) == {"a": 1.0}


def test_folds_keep_problems_together():
    problems = [f"p{i % 7}" for i in range(40)]
    fold = rm.folds_by_problem(problems, 3, np.random.default_rng(0))
    assert all(len({f for f, q in zip(fold, problems, strict=True) if q == p}) == 1 for p in problems)
    assert set(fold) == {0, 1, 2}


def test_out_of_fold_scores_never_saw_their_problem():
    """Labels are the problem's own coin, which features name: seen problems would be predicted, unseen ones cannot."""
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(30), 4)
    coin = rng.integers(0, 2, 30)[owner].astype(float)
    x = np.eye(30)[owner]
    problems = [str(o) for o in owner]
    fold = rm.folds_by_problem(problems, 5, rng)
    rows = StepTable(x, coin, np.array(problems))
    logits = rm.cross_validated_logits(rows, 0.01, fold, np.full(len(rows), True))
    seen = rm.fit_rows(rows, 0.01).scores(x)
    assert ((seen > 0.5) == coin).all()
    assert np.corrcoef(logits, coin)[0, 1] < 0.2


def test_the_pairwise_head_is_logistic_regression_on_differences():
    """Outcomes of three problems: each pair of a passing and a failing program is one row, without an intercept."""
    rng = np.random.default_rng(0)
    x, passed, problems = rng.standard_normal((12, 3)), rng.integers(0, 2, 12), np.repeat(list("abc"), 4)
    head = rm.fit_head(x, passed.astype(float), 0.1, loss="pairwise", problems=problems)
    rows, shares = [], []
    for name in "abc":
        mine = np.flatnonzero(problems == name)
        for good, bad in product(mine[passed[mine] == 1], mine[passed[mine] == 0]):
            rows.append(head.standardise(x)[good] - head.standardise(x)[bad])
            shares.append(1 / 6 / 3)
    errors = 1 - 1 / (1 + np.exp(-np.array(rows) @ head.weight))
    np.testing.assert_allclose(np.array(rows).T @ (shares * errors), 0.1 * head.weight, atol=1e-7)
    assert head.bias == 0


def test_the_loss_of_soft_pairs_is_the_mean_over_drawn_outcomes():
    """Labels are chances: the pairwise loss is its own mean over independent outcomes drawn with them."""
    generator = torch.Generator().manual_seed(2)
    y, z = (torch.rand(5, generator=generator, dtype=torch.float64) for _ in range(2))
    pairs, ones = Pairs.within(list("aaabb")), torch.ones(5, dtype=torch.float64)
    outcomes = (torch.rand(4000, 5, generator=generator) < y).double()
    mean = torch.stack([pairs.loss(z, row, ones) for row in outcomes]).mean()
    assert float(pairs.loss(z, y, ones)) == pytest.approx(float(mean), rel=0.02)


def test_platt_s_method_finds_stretch_and_shift_and_keeps_the_order():
    rng = np.random.default_rng(3)
    logits = rng.standard_normal(20_000)
    passed = (rng.random(20_000) < 1 / (1 + np.exp(-(2 * logits - 1)))).astype(float)
    assert rm.platt(logits, passed) == (pytest.approx(2, abs=0.1), pytest.approx(-1, abs=0.1))
    assert rm.platt(-logits, passed)[0] > 0
    head = rm.Head(np.ones(1), 0.5, np.zeros(1), np.ones(1)).mapped(2.0, -1.0)
    assert head.logits(np.array([[3.0]]))[0] == 2 * 3.5 - 1


# ------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture
def checkpoint(tiny_backbone, tmp_path):
    head = rm.Head(np.linspace(-1, 1, 32), 0.25, np.zeros(32), np.ones(32))
    model = rm.RewardModel(rm.Backbone(tiny_backbone, (2,)), head, {"ridge": 0.3})
    model.save(tmp_path / "m.safetensors")
    return model, tmp_path / "m.safetensors"


def test_a_checkpoint_scores_as_the_model_that_was_saved(checkpoint, ragged_programs):
    model, path = checkpoint
    loaded = rm.RewardModel.load(path)
    scores = loaded.score(PROBLEM, ragged_programs)
    assert scores == model.score(PROBLEM, ragged_programs) and loaded.about == {"ridge": 0.3}
    assert loaded.backbone.dtype == "float32"
    assert [len(s) for s in scores] == [3, 1, 2, 0] and all(0 <= x <= 1 for s in scores for x in s)


def test_a_checkpoint_that_is_damaged_or_missing_is_refused(checkpoint):
    _, path = checkpoint
    whole = path.read_bytes()
    for damaged in (whole[:100], b"\x80\x04" + whole, b""):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match="not a whole safetensors file"):
            rm.RewardModel.load(path)
    path.unlink()
    with pytest.raises(WeightsError, match=r"There is no checkpoint .*m\.safetensors"):
        rm.RewardModel.load(path)


# ------------------------------------------------------------------------------------------------- calibration


def test_reliability_literals():
    table = rm.reliability([0.0, 0.1, 0.9, 1.0, 0.95], [0, 1, 1, 1, 0], bins=2)
    assert table.to_dict("list") == {
        "score": pytest.approx([0.05, 0.95]), "outcome": pytest.approx([0.5, 2 / 3]), "rows": [2, 3],
    }  # fmt: skip
    assert rm.calibration_error([0.0, 0.1, 0.9, 1.0, 0.95], [0, 1, 1, 1, 0], 2) == pytest.approx(
        (2 * 0.45 + 3 * (0.95 - 2 / 3)) / 5
    )


def test_each_method_s_tables():
    """Programs of two problems, mingled with one of a meta problem, as a file may have them."""
    rows = [("b", 1, 0.1), ("m", 0, None), ("a", 0, 0.3), ("b", 0, 0.5)]
    splits = {"a": "train", "b": "train", "m": "meta"}
    problems = {name: Problem(name, name, "Add.", "easy", split, (), ()) for name, split in splits.items()}
    programs = [Program(name, sample, "xy", ["x", "y"], name != "m", "passed", 2) for name, sample, _ in rows]
    labels = [
        StepLabel(name, sample, step, "x", 1, 1, y if step == 0 else 1.0, step == 1)
        for name, sample, y in rows if y is not None for step in (0, 1)
    ]  # fmt: skip
    whole, _ = rm.training_tables(problems, programs, labels, "orm")
    np.testing.assert_array_equal(whole.label, [np.nan, 1.0] * 3)
    table, taught = rm.training_tables(problems, programs, labels, "dreamprm_code")
    assert table.label.tolist() == [0.1, 1.0, 0.5, 1.0, 0.3, 1.0] and table.movable.tolist() == [True, False] * 3
    assert table.problem.tolist() == list("bbbbaa") and table.sample.tolist() == [1, 1, 0, 0, 0, 0]
    np.testing.assert_array_equal(taught.label, [np.nan, 0.0])
    with pytest.raises(InputError, match="'consensus' is not fine-tuned"):
        rm.training_tables(problems, programs, labels, "consensus")


# ------------------------------------------------------------------------------------------------- what is no number


@pytest.mark.parametrize(
    "change, said",
    [
        ({"features": (1, -np.inf)}, "features: row 1 holds -inf"),
        ({"labels": (3, np.nan)}, "labels: row 3 holds nan"),
        ({"labels": (0, 7.0)}, "labels: row 0 holds 7"),
        ({"labels": (2, -0.5)}, "labels: row 2 holds -0.5"),
        ({"offset": (3, np.inf)}, "offset: row 3 holds inf"),
    ],
)
def test_a_head_is_fitted_to_numbers_alone(change, said):
    given = {"features": np.eye(4), "labels": np.array([0, 1, 0, 1.0]), "offset": np.zeros(4)}
    for name, (row, value) in change.items():
        given[name][row] = value
    with pytest.raises(InputError, match=said):
        rm.fit_head(given["features"], given["labels"], 1.0, given["offset"])
    with pytest.raises(InputError, match="not 3 for 2"):
        rm.fit_head(np.zeros((2, 1)), np.zeros(3), 1.0)
    with pytest.raises(InputError, match="no loss 'hinge'"):
        rm.fit_head(np.eye(2), np.zeros(2), 0.05, loss="hinge")


def change(path, metadata=None, **tensors):
    """Write other metadata (None: leave it out) and tensors into a checkpoint."""
    with safe_open(str(path), "numpy") as file:
        said = {name: value for name, value in (file.metadata() | (metadata or {})).items() if value is not None}
    save_file(load_file(path) | {name: np.asarray(value, float) for name, value in tensors.items()}, path, said)


LORA = "lora.layers.0.self_attn.q_proj."


@pytest.mark.parametrize(
    "tensors, said",
    [
        ({"weight": [np.nan] * 32}, "weight holds values that are no numbers"),
        ({"bias": [np.inf]}, "bias holds values that are no numbers"),
        ({"scale": [0.0] * 32}, "`scale` holds zero or less"),
        ({"weight": np.ones(31)}, "shapes .* do not fit"),
        ({"weight": np.ones((2, 16))}, "shapes .* do not fit"),
        ({"bias": []}, "shapes .* do not fit"),
        ({LORA + "A": np.ones((4, 32))}, r"lacks lora\.layers\.0\.self_attn\.q_proj\.B"),
        ({LORA + "A": np.ones((4, 32)), LORA + "B": np.ones((32, 3))}, "LoRA"),
        ({LORA + "A": np.ones(4), LORA + "B": np.ones((32, 4))}, "LoRA"),
        ({LORA + "A": np.ones((4, 32)), LORA + "B": np.full((32, 4), np.nan)}, r"q_proj\.B holds values that are no"),
    ],
)
def test_a_checkpoint_that_no_training_gives_is_refused(checkpoint, tensors, said):
    _, path = checkpoint
    change(path, **tensors)
    with pytest.raises(WeightsError, match=said):
        rm.RewardModel.load(path)


@pytest.mark.parametrize(
    "metadata, said",
    [
        ({"backbone_digest": "0" * 64}, "other weights"),
        ({"format": "x"}, "not a checkpoint"),
        ({"layers": "two"}, "`layers` is 'two'"),
        ({"views": '["first"]'}, "`views"),
        ({"alpha": "nan"}, "`alpha` is"),
        ({"template": '{"before": 3}'}, "`before` is 3"),
        ({"about": ""}, "not JSON"),
        ({"dtype": "float8"}, "no precision 'float8'"),
        ({"backbone": None, "template": None}, "`backbone` is missing, and so is `template`"),
    ],
)
def test_metadata_that_does_not_fit_is_named(checkpoint, metadata, said):
    _, path = checkpoint
    change(path, metadata)
    with pytest.raises(WeightsError, match=said):
        rm.RewardModel.load(path)


def test_a_head_of_another_width_than_the_backbone_is_refused(checkpoint):
    _, path = checkpoint
    change(path, **{name: np.ones(31) for name in ("weight", "mean", "scale")})
    with pytest.raises(WeightsError, match=r"reads states of 31 numbers, and .* gives 32"):
        rm.RewardModel.load(path).score(PROBLEM, ["x = 1\n"])


def test_equal_models_are_equal_files_with_their_metadata_in_order(checkpoint):
    model, path = checkpoint
    first = path.read_bytes()
    for _ in range(5):
        model.save(path)
        assert path.read_bytes() == first
    size = int.from_bytes(first[:8], "little")
    header = json.loads(first[8 : 8 + size])
    assert list(header) == sorted(header) and size % 8 == 0
    assert list(header["__metadata__"]) == sorted(header["__metadata__"])
