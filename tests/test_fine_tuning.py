"""Fine-tuning of a small backbone: what is taken out of training scores as the trained model did, and gradients are
those of finite differences."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamprm_lib.engine import backbone as bb
from dreamprm_lib.engine import fine_tuning as ft
from dreamprm_lib.engine.backbone import Backbone, Template
from dreamprm_lib.engine.fine_tuning import Example, Lora, Recipe, StepScorer, _loss, _prepared, fine_tune
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.errors import InputError, WeightsError

pytestmark = pytest.mark.usefixtures("float32_backbones")

PROBLEM = Problem("p", "P", "Add the two numbers of the line.", "easy", "train", (), ())
GOOD, BAD = ["def main():\n    print(add())\n\n\n", "def add():\n    return 1\n"], ["def main():\n    pass\n"]
EXAMPLES = [
    Example(PROBLEM, [GOOD, BAD], [[0.75, 1.0], [0.0]]),
    Example(replace(PROBLEM, statement="Print the larger number."), [BAD, GOOD], [[0.0], [np.nan, 1.0]]),
]


@pytest.mark.parametrize("template", [Template(), Template(after="<end>")], ids=["open", "closed"])
def test_what_is_taken_out_scores_as_the_trained_model(tiny_backbone, template, monkeypatch):
    made = []
    monkeypatch.setattr(ft, "_prepared", lambda *a: made.append(_prepared(*a)) or made[0])
    eye = Backbone(tiny_backbone, (3,), template)
    part = Lora(rank=4, alpha=8)
    tuned = fine_tune(eye, EXAMPLES, Recipe(part, epochs=30, learning_rate=1e-2, accumulation=2, loss="cross_entropy"))
    assert tuned.losses[-1] < 0.6 * tuned.losses[0]
    scorer, batches, _ = made[0]
    with torch.no_grad():
        trained = [scorer.eval()(batch["ends"], batch["inputs"]).numpy() for batch in batches]
    for example, logits in zip(EXAMPLES, trained, strict=True):
        plain, states = (
            np.concatenate(replace(eye, tuning=t).features(example.problem, example.programs))[:, 0, 0]
            for t in (None, tuned.tuning)
        )
        np.testing.assert_allclose(states @ tuned.weight + tuned.bias, logits, rtol=1e-3, atol=1e-3)
        assert np.abs(plain @ tuned.weight + tuned.bias - logits).max() > 0.1


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_gradients_are_those_of_finite_differences(tiny_backbone, loss):
    torch.manual_seed(0)
    recipe = Recipe(Lora(rank=2), loss=loss, smoothing=0.1)
    scorer, batches, _ = _prepared(Backbone(tiny_backbone, (3,)), EXAMPLES, recipe)
    scorer = scorer.double()
    for p in scorer.parameters():
        if p.requires_grad:
            p.data += 0.05 * torch.randn_like(p)

    def value():
        return sum(_loss(scorer(b["ends"], b["inputs"]).double(), b["labels"].double(), recipe) for b in batches)

    value().backward()
    trained = [p for p in scorer.parameters() if p.requires_grad]
    direction = [torch.randn_like(p) for p in trained]
    slope = sum((p.grad * d).sum() for p, d in zip(trained, direction, strict=True)).item()
    ends = []
    for sign in (1, -1):
        for p, d in zip(trained, direction, strict=True):
            p.data += sign * 1e-4 * d
        with torch.no_grad():
            ends.append(value().item())
        for p, d in zip(trained, direction, strict=True):
            p.data -= sign * 1e-4 * d
    # The norms of the backbone compute in float32, also where all else is float64.
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-3)


def test_only_the_part_that_trains_has_gradients(tiny_backbone):
    lora, _, _ = _prepared(Backbone(tiny_backbone, (3,)), EXAMPLES, Recipe(Lora(rank=2)))
    assert {n.split(".")[-3] for n, p in lora.named_parameters() if p.requires_grad and "lora" in n} == {
        "lora_A",
        "lora_B",
    }
    assert not any(p.requires_grad for n, p in lora.named_parameters() if "lora" not in n and "head" not in n)


def test_checkpointing_changes_no_result(tiny_backbone):
    eye, recipe = Backbone(tiny_backbone, (3,)), Recipe(Lora(rank=2), epochs=2, learning_rate=1e-2)
    plain, saved = (fine_tune(eye, EXAMPLES, replace(recipe, checkpointing=c)) for c in (False, True))
    np.testing.assert_allclose(plain.weight, saved.weight, rtol=1e-5)
    assert plain.losses == pytest.approx(saved.losses, rel=1e-5)


def test_the_shared_backbone_stays_as_it_was(tiny_backbone):
    before = {n: p.clone() for n, p in bb.open_model(tiny_backbone, "float32", 3)[1].named_parameters()}
    fine_tune(Backbone(tiny_backbone, (3,)), EXAMPLES, Recipe(Lora(rank=2), epochs=1))
    after = dict(bb.open_model(tiny_backbone, "float32", 3)[1].named_parameters())
    assert all((after[n] == p).all() for n, p in before.items())


@pytest.mark.parametrize(
    "recipe, said",
    [
        (Recipe(loss="hinge"), "no loss 'hinge'"),
        (Recipe(Lora(targets=("nowhere",))), "LoRA can't be put on nowhere"),
    ],
)
def test_what_cannot_train_is_named(tiny_backbone, recipe, said):
    with pytest.raises(InputError, match=said):
        fine_tune(Backbone(tiny_backbone, (3,)), EXAMPLES, recipe)


def test_examples_without_labels_are_refused(tiny_backbone):
    blank = [replace(e, labels=[[np.nan] * len(x) for x in e.labels]) for e in EXAMPLES]
    with pytest.raises(InputError, match="No step"):
        fine_tune(Backbone(tiny_backbone, (3,)), blank, Recipe())


def test_a_tuning_of_another_backbone_is_refused(tiny_backbone):
    tuning = bb.Tuning(16.0, {"layers.0.self_attn.q_proj": (torch.zeros(2, 16), torch.zeros(32, 2))})
    with pytest.raises(WeightsError, match=r"has shape \(32, 32\) there"):
        Backbone(tiny_backbone, (3,), tuning=tuning).features(PROBLEM, [GOOD])


@pytest.mark.parametrize("name", ["layers.0.self_attn.query", "layers.3.mlp.up_proj", "head"])
def test_a_tuning_of_what_the_backbone_lacks_is_refused(tiny_backbone, name):
    tuning = bb.Tuning(16.0, {name: (torch.zeros(2, 2), torch.zeros(2, 2))})
    with pytest.raises(WeightsError, match="has no such parameter"):
        Backbone(tiny_backbone, (2,), tuning=tuning).features(PROBLEM, [GOOD])


def test_a_tuning_of_layers_that_are_not_read_changes_nothing(tiny_backbone):
    above = bb.Tuning(16.0, {"layers.2.mlp.up_proj": (torch.ones(2, 32), torch.ones(64, 2))})
    eye = Backbone(tiny_backbone, (2,))
    states = [replace(eye, tuning=t).features(PROBLEM, [GOOD])[0] for t in (None, above)]
    assert (states[0] == states[1]).all()


def test_a_tuned_backbone_is_not_tuned_again(tiny_backbone):
    with pytest.raises(InputError, match="tuned already"):
        fine_tune(Backbone(tiny_backbone, (3,), tuning=bb.Tuning(16.0)), EXAMPLES, Recipe())


def test_a_scorer_starts_without_an_opinion(tiny_backbone):
    assert torch.equal(StepScorer(torch.nn.Identity(), 4).head.weight, torch.zeros(1, 4))


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("label", [7.0, -0.1, 1.5, np.inf])
@pytest.mark.parametrize("role", ["train", "meta"])
def test_labels_outside_their_range_are_named(tiny_backbone, label, role):
    strange = [Example(PROBLEM, [GOOD], [[0.5, label]])]
    train, meta = (strange, ()) if role == "train" else (EXAMPLES, strange)
    with pytest.raises(InputError, match=f"p, program 0, step 1: the label {label} lies outside"):
        fine_tune(Backbone(tiny_backbone, (3,)), train, Recipe(Lora(rank=2)), meta)


@pytest.mark.parametrize("rate", [1e36, 1e30, 1e25])
def test_training_that_diverges_says_so_and_keeps_no_state(tiny_backbone, tmp_path, rate):
    recipe = Recipe(Lora(rank=2), epochs=4, learning_rate=rate, save_every=1, accumulation=1)
    with pytest.raises(InputError, match=r"diverged in step \d of 8 .*Lower `learning_rate`"):
        fine_tune(Backbone(tiny_backbone, (3,)), EXAMPLES, recipe, saved=tmp_path)
    for path in tmp_path.iterdir():
        kept = torch.load(path, weights_only=True)["trained"].values()
        assert all(bool(torch.isfinite(t).all()) for t in kept)


def state_of(path, **changes):
    state = torch.load(path, weights_only=True)
    torch.save(state | {name: change(state[name]) for name, change in changes.items()}, path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("hello"),
        lambda path: torch.save([1, 2], path),
        lambda path: state_of(path, done=lambda _: 10**9),
        lambda path: state_of(path, done=lambda _: "4"),
        lambda path: state_of(path, losses=lambda _: []),
        lambda path: state_of(path, table=lambda t: t[:1]),
        lambda path: state_of(path, trained=lambda t: {}),
        lambda path: state_of(path, trained=lambda t: {n: v * np.nan for n, v in t.items()}),
        lambda path: state_of(path, trained=lambda t: {n: v.sum() for n, v in t.items()}),
        lambda path: state_of(path, optimiser=lambda o: {}),
    ],
)
def test_a_saved_state_that_is_damaged_is_named_and_counts_for_nothing(tiny_backbone, tmp_path, damage):
    recipe = Recipe(Lora(rank=2), epochs=2, save_every=1)
    eye = Backbone(tiny_backbone, (3,))
    fine_tune(eye, EXAMPLES, recipe, saved=tmp_path)
    (path,) = tmp_path.iterdir()
    damage(path)
    with pytest.raises(InputError, match=rf"{path.name}, the saved state of training, is damaged .*Delete it"):
        fine_tune(eye, EXAMPLES, recipe, saved=tmp_path)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"epochs": "3"}, "`epochs` is '3'"),
        ({"epochs": 0, "accumulation": 0}, "`epochs` is 0.*`accumulation` is 0"),
        ({"learning_rate": float("nan")}, "`learning_rate` is nan"),
        ({"learning_rate": -1.0}, "`learning_rate` is -1.0"),
        ({"smoothing": 1.0}, "`smoothing` is 1.0"),
        ({"checkpointing": 1}, "`checkpointing` is 1"),
        ({"epoch": 3}, r"no field `epoch` \(did you mean `epochs`\?\)"),
    ],
)
def test_a_recipe_that_does_not_fit_is_named_by_field(settings, said):
    with pytest.raises(InputError, match=said):
        ft.recipe_of("lora", settings, 0)
