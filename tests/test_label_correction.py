"""Label correction and the simpler uses of the same outcomes, against known truth."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dreamprm_lib import label_correction as lc
from dreamprm_lib.engine.fine_tuning import Example, Recipe
from dreamprm_lib.engine.hypergradient import nudged, unrolled
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.errors import InputError
from dreamprm_lib.evidence.planted import pair_ranking, planted_world
from dreamprm_lib.reward_model import HEAD_LOSSES, fit_head
from dreamprm_lib.steps import StepTable


@pytest.fixture(scope="module")
def world():
    """Labels of a completer that fails on half of the space, and clean outcomes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, 3))
    values = 1 / (1 + np.exp(-2 * x[:, 0]))
    share = np.where(x[:, 1] > 0, 1.0, 0.2)
    labels = rng.binomial(4, values * share) / 4
    outcomes = rng.binomial(1, values).astype(float)
    names = np.array([str(i // 4) for i in range(600)])
    train = StepTable(x[:300], labels[:300], names[:300], np.arange(300) % 3 > 0)
    meta = StepTable(x[300:], outcomes[300:], names[300:])
    return train, meta, values


def test_without_iterations_it_is_the_fit_to_the_raw_labels(world):
    train, meta, _ = world
    settings = lc.Correction(iterations=0, smoothing=0.0, ridge=0.1)
    head = lc.correct(train, meta, settings).head
    expected = fit_head(train.states, train.label, 0.1)
    np.testing.assert_allclose(head.weight, expected.weight, atol=1e-4)
    assert head.bias == pytest.approx(expected.bias, abs=1e-4)


def test_correction_brings_biased_labels_closer_to_the_truth(world):
    train, meta, values = world
    done = lc.correct(train, meta, lc.Correction(iterations=100, ridge=0.01))
    before = np.mean((train.label - values[:300])[train.movable] ** 2)
    after = np.mean((done.labels - values[:300])[train.movable] ** 2)
    assert after < 0.6 * before
    assert done.meta_losses[-1] < done.meta_losses[0]
    assert done.labels.min() >= 0 and done.labels.max() <= 1


def test_clean_labels_and_the_input_never_move(world):
    train, meta, _ = world
    kept = train.label.copy()
    done = lc.correct(train, meta, lc.Correction(iterations=10))
    np.testing.assert_array_equal(train.label, kept)
    np.testing.assert_array_equal(done.labels[~train.movable], kept[~train.movable])
    assert (done.labels[train.movable] != kept[train.movable]).any()


@pytest.mark.parametrize("loss", HEAD_LOSSES)
def test_the_closed_form_of_a_step_is_the_general_one(world, loss):
    """The step that is written out for a linear head, against double backward and against nudging each label."""
    train, meta, _ = world
    train = train.take(np.arange(40))
    levels = lc.LinearLevels(train, meta, lc.Correction(loss=loss, ridge=0.01))
    phi, labels = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64), torch.tensor(train.label)
    weights = torch.linspace(0.5, 1.5, len(train), dtype=torch.float64)
    lower, step = levels.lower(labels, weights), levels.step(phi, labels, weights)
    general = unrolled(lower, {"phi": phi}, levels.meta_loss)
    for got, expected in (
        (step.parameters["phi"], general.parameters["phi"]),
        (step.by_label, general.by_label),
        (step.by_weight, general.by_weight),
    ):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(step.by_label, nudged(lower, {"phi": phi}, levels.meta_loss), rtol=1e-5, atol=1e-10)


def test_several_lower_steps_and_a_cold_start_come_to_the_same_end(world):
    """Near the lower level's optimum neither changes what is learned much."""
    train, meta, _ = world
    base = lc.Correction(iterations=30, meta_lr=0.05, ridge=0.1, smoothing=0.0)
    plain, more, cold = (
        lc.correct(train, meta, replace(base, **c)) for c in ({}, {"unroll": 3}, {"warm_start": False})
    )
    assert np.abs(more.labels - plain.labels).mean() < 0.05 > np.abs(cold.labels - plain.labels).mean()
    assert cold.meta_losses[0] == pytest.approx(np.log(2)) and cold.meta_losses[-1] < 0.6


def test_weights_stay_in_their_range_and_leave_labels_alone(world):
    train, meta, _ = world
    done = lc.correct(train, meta, lc.Correction("weights", iterations=100, meta_lr=0.1))
    np.testing.assert_array_equal(done.labels, train.label)
    assert done.weights.min() >= 0 and done.weights.max() <= 2
    assert (done.weights[~train.movable] == 1).all()


def test_the_number_of_iterations_is_chosen_on_held_out_meta_problems(world):
    train, meta, _ = world
    settings = lc.Correction(iterations=30)
    stop, losses = lc.choose_iterations(train, meta, settings, 3, np.random.default_rng(0))
    assert losses.shape == (31,) and stop == losses.argmin()
    # Meta labels that contradict themselves across problems teach nothing that holds out.
    noise = StepTable(meta.states, np.random.default_rng(1).integers(0, 2, len(meta)).astype(float), meta.problem)
    stop_on_noise, _ = lc.choose_iterations(train, noise, settings, 3, np.random.default_rng(0))
    assert stop_on_noise <= stop or stop == 0


LOOKED = {  # the loss of each of six meta problems by look, and the iteration that it chooses of 0, 10, 20
    "the middle": ([0.7, 0.4, 0.5], 10),
    "the end": ([0.7, 0.6, 0.5], 20),
    "none: it only got worse": ([0.7, 0.8, 0.9], 0),
}


@pytest.mark.parametrize("folds", [2, 3])
@pytest.mark.parametrize("losses, stop", LOOKED.values(), ids=LOOKED)
def test_correction_through_a_backbone_is_stopped_on_problems_that_did_not_teach(monkeypatch, losses, stop, folds):
    problem = Problem("", "", "", "easy", "meta", (), ())
    meta = [Example(replace(problem, id=f"m{k}"), [["x"]], [[1.0]]) for k in range(6)]
    seen, recipe = [], Recipe(iterations=20)
    monkeypatch.setattr(Recipe, "looks", [0, 10, 20])

    def fake(_backbone, examples, recipe, taught, saved, held_out=()):
        seen.append((recipe.iterations, {e.problem.id for e in taught}, [e.problem.id for e in held_out]))
        return SimpleNamespace(held_out=np.outer(losses, np.ones(len(held_out))), labels="corrected")

    monkeypatch.setattr(lc, "fine_tune", fake)
    done = lc.correct_through("b", ["e"], meta, recipe, folds, np.random.default_rng(0), "folder")
    names = {e.problem.id for e in meta}
    *trials, last = seen
    assert len(trials) == folds and all(n == 20 and taught == names - set(out) for n, taught, out in trials)
    assert sorted(name for *_, out in trials for name in out) == sorted(names)
    assert last == (stop, names, []) and (done.iterations, done.tuned.labels) == (stop, "corrected")
    assert done.losses.to_dict() == pytest.approx(dict(zip([0, 10, 20], losses, strict=True)))


def test_a_gain_on_few_problems_is_no_reason_to_correct():
    """One problem of six gains much, the others lose a little: the mean is less, but not clearly."""
    losses = np.array([[0.7] * 6, [0.1] + [0.75] * 5])
    assert lc._where_to_stop(losses, list("abcdef")) == 0
    assert lc._where_to_stop(losses[::-1], list("abcdef")) == 0
    assert lc._where_to_stop(np.array([[0.7] * 6, [0.6, 0.61, 0.6, 0.59, 0.6, 0.62]]), list("abcdef")) == 1


def test_recalibration_keeps_the_raw_head_where_the_outcomes_say_nothing_new(world):
    _, meta, values = world
    raw = fit_head(meta.states, values[300:], 0.001)  # as good as it gets
    head, strength = lc.recalibrate(raw, meta, (0.01, 100.0, 1e6), 3, np.random.default_rng(0))
    assert strength >= 100
    np.testing.assert_allclose(head.weight / head.weight[0], raw.weight / raw.weight[0], atol=0.02)
    assert head.weight[0] == pytest.approx(raw.weight[0], rel=0.1)  # its scale may move by the outcomes' noise


def test_recalibration_mends_a_wrong_head(world):
    train, meta, _ = world
    raw = fit_head(train.states, train.label, 0.01)
    head, _ = lc.recalibrate(raw, meta, (0.01, 1.0, 1e4), 3, np.random.default_rng(0))
    assert lc.outcome_losses(head, meta).mean() < lc.outcome_losses(raw, meta).mean()


def test_a_prior_holds_well_measured_labels_and_lets_the_others_go(world):
    train, meta, _ = world
    rollouts = np.where(np.arange(300) % 2, 64, 1)
    train = replace(train, rollouts=rollouts)
    settings = lc.Correction(iterations=60, meta_lr=0.05, prior=0.03)
    moved = np.abs(lc.correct(train, meta, settings).labels - train.label)[train.movable]
    free = np.abs(lc.correct(train, meta, replace(settings, prior=0.0)).labels - train.label)[train.movable]
    many = rollouts[train.movable] == 64
    assert moved[many].mean() < 0.25 * free[many].mean()
    assert moved[~many].mean() > 2 * moved[many].mean()


def test_a_formula_moves_labels_by_their_states_alone(world):
    """The completer fails where the second feature is negative: the formula finds that out."""
    train, meta, values = world
    done = lc.correct(train, meta, lc.Correction("formula", iterations=150, ridge=0.01, smoothing=0.0))
    lifted = (done.labels - train.label)[train.movable]
    weak = train.states[train.movable, 1] < 0
    assert lifted[weak].mean() > 0.1 + lifted[~weak].mean()
    after, before = (np.mean((y - values[:300])[train.movable] ** 2) for y in (done.labels, train.label))
    assert after < 0.8 * before
    np.testing.assert_array_equal(done.labels[~train.movable], train.label[~train.movable])


def test_what_may_be_learned_is_named(world):
    train, meta, _ = world
    with pytest.raises(InputError, match="labels, weights, formula"):
        lc.correct(train, meta, lc.Correction("rewards"))


def test_settings_are_chosen_by_held_out_loss(world):
    train, meta, _ = world
    hopeless = lc.Correction(iterations=5, meta_lr=1e-9)
    useful = lc.Correction(iterations=60, meta_lr=0.04)
    assert lc.choose(train, meta, [hopeless, useful], 3, np.random.default_rng(0))[0].meta_lr == 0.04


def test_shrunken_labels_lie_between_themselves_and_their_mean(world):
    train, _, _ = world
    near = lc.shrunken(train)
    middle = train.label[train.movable].mean()
    assert ((near - train.label) * (middle - train.label) >= -1e-12)[train.movable].all()
    assert np.isclose(
        lc.shrunken(replace(train, label=np.full(300, 0.25), rollouts=np.full(300, 4))), 0.25, atol=1e-3
    ).all()


def test_confident_rows_are_those_that_rollouts_settle():
    rows = StepTable(
        np.zeros((5, 1)),
        np.array([0, 0.5, 1, 0.5, 1]),
        np.array(list("abcde")),
        np.ones(5, bool),
        np.array([4, 4, 4, 64, 1]),
    )
    assert lc.confident(rows).tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("method", lc.METHODS)
def test_every_method_ends_with_a_head_that_ranks(world, method):
    train, meta, values = world
    settings = lc.Correction(iterations=20, meta_lr=0.05)
    train = replace(train, rollouts=np.full(300, 4))
    outcome = lc.METHODS[method](train, meta, settings, np.random.default_rng(0))
    assert pair_ranking(outcome.head.scores(meta.states), values[300:]) > 0.7
    if outcome.labels is not None:
        assert outcome.labels.shape == (300,) and 0 <= outcome.labels.min() <= outcome.labels.max() <= 1


@pytest.mark.parametrize("bias, mean_share", [("none", 1.0), ("constant", 0.5)])
def test_planted_labels_have_the_planted_mean(bias, mean_share):
    world = planted_world(np.random.default_rng(0).standard_normal((4000, 3)), 8, bias, np.random.default_rng(1))
    assert world.labels.mean() == pytest.approx(mean_share * world.values.mean(), abs=0.02)


def test_pair_ranking_counts_pairs():
    assert pair_ranking(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3])) == 1.0
    assert pair_ranking(np.array([3.0, 2.0, 1.0]), np.array([0.1, 0.2, 0.3])) == 0.0
    assert pair_ranking(np.array([1.0, 1.0]), np.array([0.1, 0.2])) == 0.5
