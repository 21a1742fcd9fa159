"""Fine-tuning of a small backbone: what is taken out of training scores as the trained model did, and gradients are
those of finite differences."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamprm_lib.engine import backbone as bb
from dreamprm_lib.engine.backbone import Backbone, Template
from dreamprm_lib.engine.fine_tuning import LoraScorer, Recipe, fine_tune, recipe_of
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.errors import InputError, WeightsError
from dreamprm_lib.steps import StepTable

pytestmark = pytest.mark.usefixtures("float32_backbones")

PROBLEM = Problem("p", "P", "Add the two numbers of the line.", "easy", "train", (), ())
PROBLEMS = {"p": PROBLEM, "q": replace(PROBLEM, id="q", statement="Print the larger number.")}
GOOD, BAD = ["def main():\n    print(add())\n\n\n", "def add():\n    return 1\n"], ["def main():\n    pass\n"]


def table_of(problem, label, programs=(GOOD, BAD)):
    """The steps of a problem's programs with their labels, which may move."""
    text = np.array([step for p in programs for step in p], object)
    step, size = np.array([k for p in programs for k in range(len(p))]), len(text)
    names = np.full(size, problem)
    return StepTable(np.empty((size, 0)), np.array(label, float), names, np.full(size, True), step=step, text=text)


TABLE = table_of("p", [0.75, 1.0, 0.0]).followed_by(table_of("q", [0.0, np.nan, 1.0], (BAD, GOOD)))
META = table_of("q", [np.nan, 1.0, 0.0])
SMALL = Recipe(rank=2, epochs=2, save_every=1)


def trained(folder, recipe=SMALL, table=TABLE, saved=None):
    return fine_tune(Backbone(folder, (3,)), PROBLEMS, table, recipe, saved)


@pytest.mark.parametrize("template", [Template(), Template(after="<end>")], ids=["open", "closed"])
def test_what_is_taken_out_scores_as_the_trained_model(tiny_backbone, template):
    eye = Backbone(tiny_backbone, (3,), template)
    scorer = LoraScorer(eye, PROBLEMS, Recipe(rank=4, alpha=8.0, epochs=30, learning_rate=1e-2, loss="cross_entropy"))
    scorer.begin(TABLE, None, None, None, torch.tensor(TABLE.label))
    tuned = scorer.fitted()
    assert tuned.losses[-1] < 0.6 * tuned.losses[0] and len(tuned.losses) == 30
    changed = [float((b @ a).norm()) for a, b in tuned.tuning.lora.values()]
    assert len(changed) == 4 * 3 and min(changed) > 0  # four projections in each of three layers, each with a gradient
    for pack, (name, programs) in zip(scorer.packs, {"p": [GOOD, BAD], "q": [BAD, GOOD]}.items(), strict=True):
        logits = scorer.logits(pack).detach().numpy()
        plain, states = (
            np.concatenate(replace(eye, tuning=t).features(PROBLEMS[name], programs))[:, 0, 0]
            for t in (None, tuned.tuning)
        )
        np.testing.assert_allclose(states @ tuned.weight + tuned.bias, logits, rtol=1e-3, atol=1e-3)
        assert np.abs(plain @ tuned.weight + tuned.bias - logits).max() > 0.1


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_the_derivative_through_a_backbone_is_that_of_finite_differences(tiny_backbone, loss):
    """In float64, after a step, so that head and LoRA are not zero: nudge each label and weight of the next one, its
    preconditioner and the rest of its move held as they were."""
    recipe = Recipe(rank=2, epochs=0, loss=loss, learning_rate=1e-2, precision="double")
    scorer = LoraScorer(Backbone(tiny_backbone, (3,)), PROBLEMS, recipe)
    y, w = torch.tensor(TABLE.label), torch.linspace(0.5, 1.5, len(TABLE), dtype=torch.float64)
    scorer.begin(TABLE, META, None, None, y)
    scorer.differentiated(0, y, w)
    before = {name: p.detach().clone() for name, p in scorer.trained.items()}
    found = scorer.differentiated(1, y, w)

    def gradient(labels, weights):
        def mean_loss(phi):
            return sum(pack.loss(scorer.logits(pack, phi), labels, weights, loss) for pack in scorer.packs) / 2

        return torch.func.grad(mean_loss)(before)

    usual = gradient(y, w)

    def meta_after(labels, weights):
        change = scorer.precondition({name: g - usual[name] for name, g in gradient(labels, weights).items()})
        after = {name: p.detach() - recipe.learning_rate * change[name] for name, p in scorer.trained.items()}
        (pack,) = scorer.meta
        return pack.loss(scorer.logits(pack, after), torch.tensor(META.label), torch.ones(3), "cross_entropy").item()

    known = ~y.isnan()
    assert known.sum() == 5 and all(slopes[~known].isnan().all() and slopes[known].all() for slopes in found)
    for row in torch.nonzero(known)[:, 0]:
        d = 1e-3 * torch.eye(len(y), dtype=torch.float64)[row]
        by_label = (meta_after(y + d, w) - meta_after(y - d, w)) / 2e-3
        by_weight = (meta_after(y, w + d) - meta_after(y, w - d)) / 2e-3
        # norms compute in float32
        assert [slopes[row].item() for slopes in found] == pytest.approx([by_label, by_weight], rel=2e-3, abs=1e-6)


def test_the_pairwise_loss_teaches_the_order_within_each_problem(tiny_backbone):
    recipe = Recipe(rank=4, epochs=30, learning_rate=1e-2, loss="pairwise")
    scorer = LoraScorer(Backbone(tiny_backbone, (3,)), PROBLEMS, recipe)
    scorer.begin(TABLE, None, None, None, torch.tensor(TABLE.label))
    assert scorer.losses[0] == pytest.approx(np.mean([(0.25 + 0.75 + 1) / 3, 1]) * np.log(2), rel=1e-5)
    by_row = torch.cat([scorer.logits(pack) for pack in scorer.packs]).tolist()
    assert by_row[2] < by_row[0] < by_row[1] and by_row[3] < by_row[5]


def test_checkpointing_changes_no_result_and_the_shared_backbone_stays_as_it_was(tiny_backbone):
    before = {n: p.clone() for n, p in bb.open_model(tiny_backbone, "float32", 3)[1].named_parameters()}
    plain, saved = (trained(tiny_backbone, replace(SMALL, checkpointing=c)) for c in (False, True))
    np.testing.assert_allclose(plain.weight, saved.weight, rtol=1e-5)
    assert plain.losses == pytest.approx(saved.losses, rel=1e-5)
    after = dict(bb.open_model(tiny_backbone, "float32", 3)[1].named_parameters())
    assert all((after[n] == p).all() for n, p in before.items())


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "change, said",
    [
        ({"recipe": Recipe(targets=("nowhere",))}, "LoRA can't be put on nowhere"),
        ({"table": table_of("p", [np.nan] * 3)}, "No step"),
        ({"table": table_of("p", [0.5, 7.0, 1.0])}, r"p, step 1: the label 7.0 lies outside \[0, 1\]"),
        ({"table": table_of("p", [0.5, 0.5, -np.inf])}, "p, step 0: the label -inf lies outside"),
    ],
)
def test_what_cannot_train_is_named(tiny_backbone, change, said):
    with pytest.raises(InputError, match=said):
        trained(tiny_backbone, **change)


def test_a_tuned_backbone_is_not_tuned_again(tiny_backbone):
    with pytest.raises(InputError, match="tuned already"):
        fine_tune(Backbone(tiny_backbone, (3,), tuning=bb.Tuning(16.0)), PROBLEMS, TABLE, SMALL)


def tuning_of(name, rank_in=2, rank_out=2):
    return bb.Tuning(16.0, {name: (torch.ones(2, rank_in), torch.ones(rank_out, 2))})


@pytest.mark.parametrize(
    "tuning, said",
    [
        (tuning_of("layers.0.self_attn.q_proj", 16, 32), r"has shape \(32, 32\) there"),
        (tuning_of("layers.0.self_attn.query"), "has no such parameter"),
        (tuning_of("layers.3.mlp.up_proj"), "has no such parameter"),
    ],
)
def test_a_tuning_of_another_backbone_is_refused(tiny_backbone, tuning, said):
    with pytest.raises(WeightsError, match=said):
        Backbone(tiny_backbone, (2,), tuning=tuning).features(PROBLEM, [GOOD])


def test_training_that_diverges_says_so_and_keeps_no_state(tiny_backbone, tmp_path):
    with pytest.raises(InputError, match=r"diverged in step \d .*Lower `learning_rate`"):
        trained(tiny_backbone, replace(SMALL, epochs=4, learning_rate=1e25, accumulation=1), saved=tmp_path)
    for path in tmp_path.glob("*.pt"):
        kept = torch.load(path, weights_only=True)["trained"].values()
        assert all(bool(torch.isfinite(t).all()) for t in kept)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_text("hello"),
        lambda path: torch.save([1, 2], path),
    ],
)
def test_a_saved_state_that_is_damaged_is_named_and_counts_for_nothing(tiny_backbone, tmp_path, damage):
    trained(tiny_backbone, saved=tmp_path)
    (path,) = tmp_path.glob("*.pt")
    damage(path)
    with pytest.raises(InputError, match=rf"{path.name}, the saved state of training, is damaged .*Delete it"):
        trained(tiny_backbone, saved=tmp_path)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"epochs": "3"}, "`epochs` is '3'"),
        ({"epochs": 0, "accumulation": 0}, "`epochs` is 0.*`accumulation` is 0"),
        ({"learning_rate": float("nan")}, "`learning_rate` is nan"),
        ({"smoothing": 1.0}, "`smoothing` is 1.0"),
        ({"loss": "hinge", "precision": "half"}, "`loss` is 'hinge'.*`precision` is 'half'"),
        ({"loss": "pairwise", "iterations": 1}, "under the loss mse or cross_entropy; the recipe's is pairwise"),
        ({"epoch": 3}, r"no field `epoch` \(did you mean `epochs`\?\)"),
    ],
)
def test_a_recipe_that_does_not_fit_is_named_by_field(settings, said):
    with pytest.raises(InputError, match=said):
        recipe_of("lora", settings, 0)


def test_a_tuning_of_layers_that_are_not_read_changes_nothing(tiny_backbone):
    above = tuning_of("layers.2.mlp.up_proj", 32, 64)
    plain, tuned = (Backbone(tiny_backbone, (2,), tuning=t).features(PROBLEM, [GOOD])[0] for t in (None, above))
    assert (plain == tuned).all()
