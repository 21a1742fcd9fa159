"""Training on several processes is the training of one; a killed one goes on to the same end, bit for bit; labels move
by the exact derivative."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import functional_call

from dreamprm_lib.commands.run import load_profile
from dreamprm_lib.commands.train import train
from dreamprm_lib.engine import fine_tuning as ft
from dreamprm_lib.engine import parallel
from dreamprm_lib.engine.backbone import Backbone
from dreamprm_lib.engine.fine_tuning import Example, Lora, Recipe, fine_tune, recipe_of
from dreamprm_lib.engine.problems import Problem, load_problems
from dreamprm_lib.errors import InputError
from dreamprm_lib.reward_model import training_examples
from dreamprm_lib.study.folder import Study
from dreamprm_lib.study.rows import Program, StepLabel

PROBLEM = Problem("p", "P", "Add the two numbers of the line.", "easy", "train", (), ())
GOOD, BAD = ["def main():\n    print(add())\n\n\n", "def add():\n    return 1\n"], ["def main():\n    pass\n"]
STATEMENTS = ("Add.", "Print the larger one.", "Count the words.", "Sort the row.", "Say whether it is even.")
EXAMPLES = [
    Example(replace(PROBLEM, statement=text), [GOOD, BAD], [[0.25 * (k % 4), 1.0], [np.nan]], [[True, False], [True]])
    for k, text in enumerate(STATEMENTS)
]
META = [Example(replace(PROBLEM, statement=f"{s} Twice."), [GOOD], [[np.nan, float(k % 2)]])
        for k, s in enumerate(STATEMENTS[:3])]  # fmt: skip
RECIPE = Recipe(
    Lora(rank=2, alpha=4), epochs=1, iterations=6, learning_rate=1e-2, accumulation=3, iteration_accumulation=3,
    precision="double", meta_lr=0.05, smoothing=0.1, save_every=1,
)  # fmt: skip


def eye(folder):
    return Backbone(folder, (3,), dtype="float32")


def all_of(tuned):
    """Everything that a training ends with, as one row of numbers."""
    tensors = [t.double().flatten() for _, t in sorted(tuned.tuning.tensors().items())]
    labels = tuned.labels
    return np.concatenate([*map(np.asarray, tensors), tuned.weight, [tuned.bias], tuned.losses, labels])


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small products on a busy machine: threads would only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alone(tiny_backbone):
    return fine_tune(eye(tiny_backbone), EXAMPLES, RECIPE, META)


@pytest.mark.parametrize("shard, distance", [(False, 1e-5), (True, 1e-2)])
def test_two_processes_train_what_one_does(tiny_backbone, alone, shard, distance):
    """Five examples in groups of three: the shares are uneven.  Where weights are sharded, labels move by two forward
    passes, which the norms' float32 keeps a little away from the exact product."""
    together = fine_tune(eye(tiny_backbone), EXAMPLES, replace(RECIPE, processes=2, shard=shard), META)
    np.testing.assert_allclose(all_of(together), all_of(alone), rtol=0, atol=distance)


def test_only_open_labels_move_and_only_after_the_warm_up(tiny_backbone, alone):
    moved = alone.labels[3:5] - EXAMPLES[1].labels[0]  # an example has three steps
    assert abs(moved[0]) > 0.05 and moved[1] == 0 and np.isnan(alone.labels[5])
    warm = fine_tune(eye(tiny_backbone), EXAMPLES, replace(RECIPE, epochs=4, iterations=0), META)
    assert warm.labels.reshape(-1, 3)[:, :2].tolist() == [e.labels[0] for e in EXAMPLES]
    plain = fine_tune(eye(tiny_backbone), EXAMPLES, RECIPE)
    assert (plain.weight == warm.weight).all() and (plain.weight != alone.weight).any()


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_labels_move_by_the_exact_derivative(tiny_backbone, loss):
    """Against double backward through the same step, its preconditioner held fixed."""
    recipe = replace(RECIPE, part=Lora(rank=2), loss=loss, iteration_accumulation=9, epochs=0, iterations=2)
    backbone = eye(tiny_backbone)
    torch.manual_seed(0)
    scorer, batches, _ = ft._prepared(backbone, [*EXAMPLES, *META], recipe)
    training = ft._Training(scorer, batches[:5], batches[5:], recipe)
    training.step()  # so that head and LoRA are no longer zero
    before = {n: p.detach().clone() for n, p in training.trained.items()}
    labels = training.table.clone()
    training.step()

    def mean_loss(parameters, some, recipe, values):
        logits = (functional_call(scorer, parameters, (b["ends"], b["inputs"])) for b in some)
        losses = (ft._loss(z, values[b["ids"]] if values is not None else b["labels"], recipe)
                  for b, z in zip(some, logits, strict=True))  # fmt: skip
        return sum(losses) / len(some)

    y = labels.clone().requires_grad_()
    phi = {n: p.clone().requires_grad_() for n, p in before.items()}
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        slope = torch.autograd.grad(mean_loss(phi, batches[:5], recipe, y), phi.values(), create_graph=True)
        length = torch.sqrt(sum((g.detach() ** 2).sum() for g in slope))
        after = {}
        for (name, p), g in zip(training.trained.items(), slope, strict=True):
            moment = training.optimiser.state[p]["exp_avg_sq"] / (1 - 0.999**2)
            scale = min(1.0, 1 / float(length)) / (moment.sqrt() + 1e-8)
            after[name] = p.detach() - recipe.learning_rate * scale * (g - g.detach())
        (expected,) = torch.autograd.grad(mean_loss(after, batches[5:], ft.OUTCOMES, None), y)
    found = training.table.grad.to_dense()
    moves = training.movable & ~torch.isnan(labels)
    assert moves.sum() == 5 and (found[~moves] == 0).all() and expected[moves].abs().min() > 0
    np.testing.assert_allclose(found[moves], expected[moves].detach(), rtol=1e-3)  # norms compute in float32


def test_a_killed_training_ends_as_one_that_was_not(tiny_backbone, alone, tmp_path):
    child = subprocess.Popen([sys.executable, __file__, tiny_backbone, str(tmp_path)])
    try:
        while not list(tmp_path.glob("*.pt")):
            assert child.poll() is None
            time.sleep(0.02)
        time.sleep(0.2)
    finally:
        child.kill()
        child.wait()
    (state,) = tmp_path.glob("*.pt")
    assert 0 < torch.load(state, weights_only=True)["done"] < 8
    for _ in ("resumed", "complete"):  # the second time nothing is left to do
        again = fine_tune(eye(tiny_backbone), EXAMPLES, RECIPE, META, tmp_path)
        np.testing.assert_array_equal(all_of(again), all_of(alone))


@pytest.mark.parametrize("iterations, looks", [(0, [0]), (3, [0, 1, 2, 3]), (50, [0, 2, 5, 8, 10, 12, 15, 18, 20])])
def test_held_out_examples_are_looked_at_evenly(iterations, looks):
    found = Recipe(iterations=iterations).looks
    assert found[: len(looks)] == looks and found[-1] == iterations and len(found) <= ft.LOOKS


def test_held_out_examples_teach_nothing_and_their_loss_is_that_of_the_model_as_it_stands(tiny_backbone, tmp_path):
    """Each look equals the loss of a training that ends there; one that was stopped goes on with the same looks."""
    taught, unseen = META[:1], [*META[1:], Example(PROBLEM, [GOOD, BAD], [[0.0, 1.0], [1.0]])]
    recipe = replace(RECIPE, iterations=2, save_every=2)
    done = fine_tune(eye(tiny_backbone), EXAMPLES, recipe, taught, tmp_path, unseen)
    assert done.held_out.shape == (3, 3)
    for look in range(3):
        there = fine_tune(eye(tiny_backbone), EXAMPLES, replace(recipe, iterations=look), taught)
        judge = replace(eye(tiny_backbone), tuning=there.tuning)
        for example, loss in zip(unseen, done.held_out[look], strict=True):
            states = np.concatenate(judge.features(example.problem, example.programs))[:, 0, 0]
            z, y = states @ there.weight + there.bias, np.concatenate(example.labels)
            assert loss == pytest.approx(np.nansum(np.logaddexp(0, z) - y * z), rel=1e-4)
    again = fine_tune(eye(tiny_backbone), EXAMPLES, recipe, taught, tmp_path, unseen)
    np.testing.assert_array_equal(all_of(again), all_of(done))
    np.testing.assert_array_equal(again.held_out, done.held_out)


def test_another_training_does_not_go_on_from_this_one(tiny_backbone, tmp_path):
    recipe = replace(RECIPE, epochs=1, iterations=0)
    for other in ({}, {"learning_rate": 1.0}, {"save_every": 2}):
        fine_tune(eye(tiny_backbone), EXAMPLES, replace(recipe, **other), (), tmp_path)
    fine_tune(eye(tiny_backbone), EXAMPLES[:4], recipe, (), tmp_path)
    assert len(list(tmp_path.glob("*.pt"))) == 3  # how often it is saved makes no other training


def test_mixed_precision_is_near_and_an_unknown_one_is_named(tiny_backbone):
    recipe = replace(RECIPE, iterations=2)
    full, mixed = (fine_tune(eye(tiny_backbone), EXAMPLES, replace(recipe, precision=p), META)
                   for p in ("backbone", "mixed"))  # fmt: skip
    np.testing.assert_allclose(mixed.losses, full.losses, rtol=0.05)
    assert (mixed.weight != full.weight).any()
    with pytest.raises(InputError, match="no precision 'half'"):
        fine_tune(eye(tiny_backbone), EXAMPLES, replace(recipe, precision="half"))


def test_what_is_trained_apart_is_what_the_notebook_goes_on_from(tiny_backbone, tmp_path):
    study = Study(tmp_path, "s")
    problems = load_problems("starter")
    learned, meta = (next(p for p in problems if p.split == split) for split in ("train", "meta"))
    study.write("solutions.jsonl", [Program(p.id, 0, "".join(GOOD), GOOD, True, "passed", 9) for p in (learned, meta)])
    labels = [StepLabel(learned.id, 0, k, GOOD[0], 1, 1, 1.0, clean) for k, clean in enumerate((False, True))]
    study.write("labels.jsonl", labels)
    options = [f"04.backbones=[{tiny_backbone}]", "04.layers=[3]", "04.dtype=float32"]
    for chapter in ("04", "05"):
        options += [f"{chapter}.training=lora", f"{chapter}.recipe={{epochs: 1, iterations: 0}}"]
    for method, states in {"prm_cof": 1, "dreamprm_code": 3}.items():  # the last one with a fold held out, and whole
        folder = train(load_profile("quick"), method, "s", options, tmp_path)
        assert len(list(folder.glob("*.pt"))) == states
    examples, _ = training_examples(
        {p.id: p for p in problems}, study.read("solutions.jsonl", Program), labels, "prm_cof"
    )
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*.pt")}
    fine_tune(eye(tiny_backbone), examples, recipe_of("lora", {"epochs": 1, "iterations": 0}, 0), saved=folder)
    assert {p: p.stat().st_mtime_ns for p in folder.glob("*.pt")} == before
    with pytest.raises(InputError, match="one backbone and one layer"):
        train(load_profile("quick"), "prm_cof", "s", options[:1], tmp_path)
    with pytest.raises(InputError, match="`training` is 'head'"):
        train(load_profile("quick"), "prm_cof", "s", options[:3], tmp_path)
    with pytest.raises(InputError, match="no field `colour`"):
        recipe_of("lora", {"colour": 1}, 0)


def test_shares_cover_all_items_once_and_even_ones_are_equal(monkeypatch):
    assert parallel.share("abc", even=True) == [("a", 1.0), ("b", 1.0), ("c", 1.0)]  # a process alone
    monkeypatch.setattr(parallel, "size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        shares.append(parallel.share("abcd", even=True))
    assert [len(s) for s in shares] == [2, 2, 2]
    assert sorted(item for s in shares for item, part in s if part) == ["a", "b", "c", "d"]


def _slowly(folder, saved):
    """What the killed process runs: the same training, slower."""
    backward = torch.Tensor.backward

    def slow(*arguments, **options):
        backward(*arguments, **options)
        time.sleep(0.1)

    torch.Tensor.backward = slow
    fine_tune(eye(folder), EXAMPLES, RECIPE, META, Path(saved))


if __name__ == "__main__":
    torch.set_num_threads(1)
    _slowly(*sys.argv[1:])
