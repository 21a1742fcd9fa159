"""Training on several processes is the training of one; a killed one goes on to the same end, bit for bit."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamprm_lib.engine import parallel
from dreamprm_lib.engine.backbone import Backbone
from dreamprm_lib.engine.fine_tuning import LoraScorer, Recipe, fine_tune
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.label_correction import Correction, correct
from dreamprm_lib.steps import StepTable

PROBLEM = Problem("p", "P", "Add the two numbers of the line.", "easy", "train", (), ())
GOOD, BAD = ["def main():\n    print(add())\n\n\n", "def add():\n    return 1\n"], ["def main():\n    pass\n"]
STATEMENTS = ("Add.", "Print the larger one.", "Count the words.", "Sort the row.", "Say whether it is even.")
PROBLEMS = {f"{t}{k}": replace(PROBLEM, id=f"{t}{k}", statement=f"{text}{' Twice.' * (t == 'm')}")
            for t in "tmh" for k, text in enumerate(STATEMENTS)}  # fmt: skip


def rows_of(letter, programs, labels, movable):
    """The step table of the problems of a letter, one for each row of labels."""
    lengths, count = [len(p) for p in programs], len(labels)
    return StepTable(
        states=np.empty((sum(lengths) * count, 0)),
        label=np.concatenate(labels),
        problem=np.repeat([f"{letter}{k}" for k in range(count)], sum(lengths)),
        movable=np.tile(movable, count),
        step=np.tile([k for n in lengths for k in range(n)], count),
        text=np.tile(np.array([text for p in programs for text in p], object), count),
    )


TRAIN = rows_of("t", [GOOD, BAD], [[0.25 * (k % 4), 1.0, np.nan] for k in range(5)], [True, False, True])
META = rows_of("m", [GOOD], [[np.nan, float(k % 2)] for k in range(3)], [False] * 2)
RECIPE = Recipe(
    rank=2, alpha=4.0, epochs=1, iterations=6, learning_rate=1e-2, accumulation=3, iteration_accumulation=3,
    precision="double", meta_lr=0.05, smoothing=0.1, save_every=1,
)  # fmt: skip


def eye(folder):
    return Backbone(folder, (3,), dtype="float32")


def corrected(folder, recipe, meta=META, saved=None, held_out=None, train=TRAIN):
    return correct(LoraScorer(eye(folder), PROBLEMS, recipe, saved), train, meta, Correction.of(recipe), held_out)


def all_of(done):
    """Everything that a correction ends with, as one row of numbers."""
    tensors = [t.double().flatten() for _, t in sorted(done.head.tuning.tensors().items())]
    return np.concatenate([*tensors, done.head.weight, [done.head.bias], done.head.losses, done.labels])


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small products on a busy machine: threads would only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alone(tiny_backbone):
    return corrected(tiny_backbone, RECIPE)


def test_two_processes_train_what_one_does(tiny_backbone, alone):
    """Five examples in groups of three: the shares are uneven."""
    together = corrected(tiny_backbone, replace(RECIPE, processes=2))
    np.testing.assert_allclose(all_of(together), all_of(alone), rtol=0, atol=1e-5)


def test_sharded_weights_train_what_whole_ones_do(tiny_backbone, alone):
    """Their labels move by two forward passes, which the norms' float32 keeps a little away from the exact product."""
    sharded = corrected(tiny_backbone, replace(RECIPE, processes=2, shard=True))
    np.testing.assert_allclose(all_of(sharded), all_of(alone), rtol=0, atol=1e-2)


def test_only_open_labels_move_and_only_after_the_warm_up(tiny_backbone, alone):
    moved = alone.labels[3:6] - TRAIN.label[3:6]  # an example has three steps
    assert abs(moved[0]) > 0.05 and moved[1] == 0 and np.isnan(alone.labels[5])
    warm = corrected(tiny_backbone, replace(RECIPE, epochs=4, iterations=0))
    np.testing.assert_array_equal(warm.labels, TRAIN.label)
    plain = fine_tune(eye(tiny_backbone), PROBLEMS, TRAIN, replace(RECIPE, epochs=4))
    assert (plain.weight == warm.head.weight).all() and (plain.weight != alone.head.weight).any()


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
    resumed = corrected(tiny_backbone, RECIPE, saved=tmp_path)
    np.testing.assert_array_equal(all_of(resumed), all_of(alone))
    complete = corrected(tiny_backbone, RECIPE, saved=tmp_path)  # nothing is left to do
    np.testing.assert_array_equal(all_of(complete), all_of(alone))


@pytest.mark.parametrize("iterations, looks", [(0, [0]), (3, [0, 1, 2, 3]), (50, [0, 2, 5, 8, 10, 12, 15, 18, 20])])
def test_held_out_examples_are_looked_at_evenly(tiny_backbone, iterations, looks, monkeypatch):
    monkeypatch.setattr(LoraScorer, "differentiated", lambda _self, _turn, y, w: (y * 0, w * 0))
    found = corrected(tiny_backbone, replace(RECIPE, epochs=0, iterations=iterations), held_out=META).held_out.index
    assert found[: len(looks)].tolist() == looks and found[-1] == iterations and len(found) <= LoraScorer.looks


def test_held_out_examples_teach_nothing_and_their_loss_is_that_of_the_model_as_it_stands(tiny_backbone, tmp_path):
    """Each look equals the loss of a training that ends there; one that was stopped goes on with the same looks."""
    taught = META.take(np.arange(2))
    unseen = rows_of("h", [GOOD, BAD], [[0.0, 1.0, 1.0], [np.nan, 1.0, 0.0]], [False] * 3)
    recipe = replace(RECIPE, iterations=2, save_every=2)
    done = corrected(tiny_backbone, recipe, taught, tmp_path, unseen)
    assert done.held_out.shape == (3, 6)
    for look in range(3):
        there = corrected(tiny_backbone, replace(recipe, iterations=look), taught).head
        judge = replace(eye(tiny_backbone), tuning=there.tuning)
        states = np.concatenate([s for k in "01" for s in judge.features(PROBLEMS[f"h{k}"], [GOOD, BAD])])[:, 0, 0]
        z = states @ there.weight + there.bias
        np.testing.assert_allclose(done.held_out.loc[look], np.logaddexp(0, z) - unseen.label * z, rtol=1e-4)
    again = corrected(tiny_backbone, recipe, taught, tmp_path, unseen)
    np.testing.assert_array_equal(all_of(again), all_of(done))
    np.testing.assert_array_equal(again.held_out, done.held_out)


def test_another_training_does_not_go_on_from_this_one(tiny_backbone, tmp_path):
    recipe = replace(RECIPE, epochs=1, iterations=0)
    for other in ({}, {"learning_rate": 1.0}, {"save_every": 2}):
        fine_tune(eye(tiny_backbone), PROBLEMS, TRAIN, replace(recipe, **other), tmp_path)
    fine_tune(eye(tiny_backbone), PROBLEMS, TRAIN.take(np.arange(12)), recipe, tmp_path)
    assert len(list(tmp_path.glob("*.pt"))) == 3  # how often it is saved makes no other training


def test_mixed_precision_is_near(tiny_backbone):
    recipe = replace(RECIPE, iterations=2)
    full, mixed = (corrected(tiny_backbone, replace(recipe, precision=p)).head for p in ("backbone", "mixed"))
    np.testing.assert_allclose(mixed.losses, full.losses, rtol=0.05)
    assert (mixed.weight != full.weight).any()


def _slowly(folder, saved):
    """What the killed process runs: the same training, slower."""
    backward = torch.Tensor.backward

    def slow(*arguments, **options):
        backward(*arguments, **options)
        time.sleep(0.1)

    torch.Tensor.backward = slow
    corrected(folder, RECIPE, saved=Path(saved))


if __name__ == "__main__":
    torch.set_num_threads(1)
    _slowly(*sys.argv[1:])


def test_shares_cover_all_items_once_and_even_ones_are_equal(monkeypatch):
    assert parallel.share("abc", even=True) == [("a", 1.0), ("b", 1.0), ("c", 1.0)]  # a process alone
    monkeypatch.setattr(parallel, "size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        shares.append(parallel.share("abcd", even=True))
    assert [len(s) for s in shares] == [2, 2, 2]
    assert sorted(item for s in shares for item, part in s if part) == ["a", "b", "c", "d"]
