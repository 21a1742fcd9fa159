"""Label correction and the simpler uses of the same outcomes, against known truth."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from dreamprm_lib import label_correction as lc
from dreamprm_lib.errors import InputError
from dreamprm_lib.evidence.planted import planted_world
from dreamprm_lib.evidence.statistics import pair_ranking
from dreamprm_lib.reward_model import HEAD_LOSSES, fit_head
from dreamprm_lib.steps import StepTable

HEAD = lc.LinearScorer()


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
    head = lc.correct(HEAD, train, meta, lc.Correction(iterations=0, smoothing=0.0, ridge=0.1)).head
    expected = fit_head(train.states, train.label, 0.1)
    np.testing.assert_allclose([*head.weight, head.bias], [*expected.weight, expected.bias], atol=1e-4)


def test_correction_brings_biased_labels_closer_to_the_truth(world):
    """Clean labels and the input stay; the completer fails where the second feature is negative, which is found."""
    train, meta, values = world
    kept, mine = train.label.copy(), train.movable
    done = lc.correct(HEAD, train, meta, lc.Correction(iterations=150, ridge=0.01, smoothing=0.0), meta)
    before, after = (np.mean((y - values[:300])[mine] ** 2) for y in (kept, done.labels))
    assert after < 0.6 * before and done.labels.min() >= 0 and done.labels.max() <= 1
    np.testing.assert_array_equal(train.label, kept)
    np.testing.assert_array_equal(done.labels[~mine], kept[~mine])
    losses = done.held_out.mean(axis="columns")
    assert losses.iloc[-1] < losses.iloc[0]
    lifted, weak = (done.labels - kept)[mine], train.states[mine, 1] < 0
    assert lifted[weak].mean() > 0.1 + lifted[~weak].mean()


@pytest.mark.parametrize("loss", HEAD_LOSSES)
@pytest.mark.parametrize("unroll", [1, 3])
def test_the_derivative_through_a_head_is_that_of_finite_differences(world, loss, unroll):
    """After one step, so that nothing is zero: nudge each label and each weight of the next one."""
    train, meta, _ = world
    train = train.take(np.arange(12))
    labels, weights = torch.tensor(train.label), torch.linspace(0.5, 1.5, 12, dtype=torch.float64)

    def second_step(labels, weights):
        scorer = lc.LinearScorer()
        scorer.begin(train, meta, meta, lc.Correction(loss=loss, ridge=0.01, unroll=unroll), torch.tensor(train.label))
        scorer.differentiated(0, torch.tensor(train.label), torch.ones(12))
        return scorer.differentiated(1, labels, weights), scorer.look().mean()

    found, _ = second_step(labels, weights)
    nudges = 1e-5 * torch.eye(12, dtype=torch.float64)
    by_label = [second_step(labels + d, weights)[1] - second_step(labels - d, weights)[1] for d in nudges]
    by_weight = [second_step(labels, weights + d)[1] - second_step(labels, weights - d)[1] for d in nudges]
    for derivative, differences in zip(found, (by_label, by_weight), strict=True):
        np.testing.assert_allclose(derivative, np.array(differences) / 2e-5, rtol=1e-5, atol=1e-9)


def test_several_lower_steps_and_a_cold_start_come_to_the_same_end(world):
    """Near the lower level's optimum neither changes what is learned much."""
    train, meta, _ = world
    base = lc.Correction(iterations=30, meta_lr=0.05, ridge=0.1, smoothing=0.0)
    changes = ({}, {"unroll": 3}, {"warm_start": False})
    plain, more, cold = (lc.correct(HEAD, train, meta, replace(base, **c), meta) for c in changes)
    assert np.abs(more.labels - plain.labels).mean() < 0.05 > np.abs(cold.labels - plain.labels).mean()
    assert cold.held_out.loc[0].mean() == pytest.approx(np.log(2)) and cold.held_out.loc[30].mean() < 0.6


def test_weights_stay_in_their_range_and_leave_labels_alone(world):
    train, meta, _ = world
    done = lc.correct(HEAD, train, meta, lc.Correction("weights", iterations=100, meta_lr=0.1))
    np.testing.assert_array_equal(done.labels, train.label)
    assert done.weights.min() >= 0 and done.weights.max() <= 2
    assert (done.weights[~train.movable] == 1).all()
    with pytest.raises(InputError, match="labels, weights"):
        lc.correct(HEAD, train, meta, lc.Correction("rewards"))


CURVES = {  # held-out losses of six problems by look, whatever scorer had them, and the iteration that they choose
    "the middle": (np.outer([0.7, 0.4, 0.5], np.ones(6)), 10),
    "the end": (np.outer([0.7, 0.6, 0.5], np.ones(6)), 20),
    "none: it only got worse": (np.outer([0.7, 0.8, 0.9], np.ones(6)), 0),
    "none: one problem gains much and the others lose a little": (np.array([[0.7] * 6, [0.1] + [0.75] * 5]), 0),
    "a small gain of all": (np.array([[0.7] * 6, [0.6, 0.61, 0.6, 0.59, 0.6, 0.62]]), 10),
}


@pytest.mark.parametrize("folds", [2, 3])
@pytest.mark.parametrize("losses, stop", CURVES.values(), ids=CURVES)
def test_correction_is_stopped_by_problems_that_did_not_teach(monkeypatch, losses, stop, folds):
    """Rows of a meta table without an outcome count for nothing."""
    label = np.tile([np.nan, 1.0], 6)
    meta = StepTable(np.zeros((12, 1)), label, np.repeat([f"m{k}" for k in range(6)], 2))
    seen = []

    def fake(_scorer, _train, taught, settings, held_out):
        seen.append((set(taught.problem), set(held_out.problem), settings.iterations))
        rows = [int(name[1:]) for name in held_out.problem]
        found = np.where(np.isnan(held_out.label), np.nan, losses[:, rows])
        return lc.Corrected(None, None, None, pd.DataFrame(found, index=range(0, 10 * len(losses), 10)))

    monkeypatch.setattr(lc, "correct", fake)
    settings = lc.Correction(iterations=20)
    chosen, curve = lc.choose("scorer", "train", meta, [settings], folds, np.random.default_rng(0))
    assert chosen == replace(settings, iterations=stop) and curve.tolist() == pytest.approx(losses.mean(axis=1))
    assert len(seen) == folds and all(not inside & out and n == 20 for inside, out, n in seen)
    assert sorted(name for _, out, _ in seen for name in out) == sorted(set(meta.problem))


def test_settings_are_chosen_by_held_out_loss(world):
    train, meta, _ = world
    hopeless, useful = lc.Correction(iterations=5, meta_lr=1e-9), lc.Correction(iterations=60, meta_lr=0.04)
    chosen, curve = lc.choose(HEAD, train, meta, [hopeless, useful], 3, np.random.default_rng(0))
    assert chosen.meta_lr == 0.04 and chosen.iterations == curve.idxmin() > 0 and len(curve) == 61


def test_recalibration_keeps_a_head_that_is_right_and_mends_one_that_is_not(world):
    train, meta, values = world
    right, wrong = fit_head(meta.states, values[300:], 0.001), fit_head(train.states, train.label, 0.01)
    head, strength = lc.recalibrate(right, meta, (0.01, 100.0, 1e6), 3, np.random.default_rng(0))
    assert strength >= 100 and head.weight[0] == pytest.approx(right.weight[0], rel=0.1)
    np.testing.assert_allclose(head.weight / head.weight[0], right.weight / right.weight[0], atol=0.02)
    mended, _ = lc.recalibrate(wrong, meta, (0.01, 1.0, 1e4), 3, np.random.default_rng(0))
    assert lc.outcome_losses(mended, meta).mean() < lc.outcome_losses(wrong, meta).mean()


def test_a_prior_holds_well_measured_labels_and_lets_the_others_go(world):
    train, meta, _ = world
    rollouts = np.where(np.arange(300) % 2, 64, 1)
    train = replace(train, rollouts=rollouts)
    settings = lc.Correction(iterations=60, meta_lr=0.05)
    moved, free = (
        np.abs(lc.correct(HEAD, train, meta, replace(settings, prior=p)).labels - train.label)[train.movable]
        for p in (0.03, 0.0)
    )
    many = rollouts[train.movable] == 64
    assert moved[many].mean() < 0.25 * free[many].mean()
    assert moved[~many].mean() > 2 * moved[many].mean()


@pytest.mark.parametrize("method", lc.METHODS)
def test_every_method_ends_with_a_head_that_ranks(world, method):
    train, meta, values = world
    settings = lc.Correction(iterations=20, meta_lr=0.05)
    train = replace(train, rollouts=np.full(300, 4))
    outcome = lc.METHODS[method](train, meta, settings, np.random.default_rng(0))
    assert pair_ranking(outcome.head.scores(meta.states), values[300:]) > 0.7
    if outcome.labels is not None:
        assert outcome.labels.shape == (300,) and 0 <= outcome.labels.min() <= outcome.labels.max() <= 1


def test_planted_labels_have_the_planted_mean_and_pairs_are_counted():
    for bias, share in (("none", 1.0), ("constant", 0.5)):
        world = planted_world(np.random.default_rng(0).standard_normal((4000, 3)), 8, bias, np.random.default_rng(1))
        assert world.labels.mean() == pytest.approx(share * world.values.mean(), abs=0.02)
    values = np.array([0.1, 0.2, 0.3])
    assert [pair_ranking(np.array(s), values)[0] for s in ([1, 2, 3], [3, 2, 1], [1, 1, 1])] == [1.0, 0.0, 0.5]
    assert pair_ranking(np.arange(3), np.ones(3))[0] == 0.5  # none is better
    scores, values = np.array([1, 3, 2, 2]), np.array([0, 0, 1, 2])
    weights = np.array([[1, 1, 1, 1], [2, 0, 1, 3]])
    assert pair_ranking(scores, values, weights).tolist() == pytest.approx([2.5 / 5, 9.5 / 11])
