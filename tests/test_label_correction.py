"""The hypergradient against finite differences, double backward and a closed form; correction against known truth."""

import numpy as np
import pytest
import torch

from dreamprm_lib import label_correction as lc
from dreamprm_lib.engine.losses import LOSSES, sample_losses
from dreamprm_lib.errors import InputError
from dreamprm_lib.reward_model import fit_head

N, WIDTH, HIDDEN = 7, 4, 5


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def toy():
    """A two-layer network, its batch, and a meta loss on other rows."""
    x, meta_x = draw(N, WIDTH, seed=1), draw(9, WIDTH, seed=2)
    meta_y = (draw(9, seed=3) > 0).double()
    phi = {"a": draw(WIDTH, HIDDEN, seed=4), "b": draw(HIDDEN, seed=5)}
    labels = torch.sigmoid(draw(N, seed=6))
    weights = 0.5 + torch.sigmoid(draw(N, seed=7))

    def network(p, rows):
        return torch.tanh(rows @ p["a"]) @ p["b"]

    def forward(p):
        return network(p, x)

    def meta_loss(p):
        return sample_losses(network(p, meta_x), meta_y).mean()

    return forward, phi, labels, weights, meta_loss


def after_step(forward, phi, labels, weights, meta_loss, lr, loss, precondition, penalty):
    """The meta loss after one lower step, differentiable by labels and weights (double backward)."""
    phi = {k: v.clone().requires_grad_() for k, v in phi.items()}
    lower = (weights * sample_losses(forward(phi), labels, loss)).mean() + penalty(phi)
    slopes = torch.autograd.grad(lower, list(phi.values()), create_graph=True)
    step = precondition(dict(zip(phi, slopes, strict=True)))
    return meta_loss({k: v - lr * step[k] for k, v in phi.items()})


def scale(gradient):
    return {"a": 0.3 * gradient["a"], "b": 2.0 * gradient["b"]}


def ridge(phi):
    return 0.05 * (phi["a"] ** 2).sum()


@pytest.mark.parametrize("loss", LOSSES)
def test_both_hypergradients_equal_double_backward(toy, loss):
    forward, phi, labels, weights, meta_loss = toy
    options = dict(weights=weights, precondition=scale, penalty=ridge)
    y, w = labels.clone().requires_grad_(), weights.clone().requires_grad_()
    value = after_step(forward, phi, y, w, meta_loss, 0.7, loss, scale, ridge)
    by_label, by_weight = torch.autograd.grad(value, (y, w))
    ours = lc.label_hypergradient(forward, phi, labels, meta_loss, 0.7, loss, **options)
    torch.testing.assert_close(ours, by_label, rtol=1e-10, atol=1e-14)
    ours = lc.weight_hypergradient(forward, phi, labels, meta_loss, 0.7, loss, **options)
    torch.testing.assert_close(ours, by_weight, rtol=1e-10, atol=1e-14)


def test_the_label_hypergradient_equals_finite_differences(toy):
    forward, phi, labels, _, meta_loss = toy
    ones, nothing = torch.ones(N, dtype=torch.float64), lambda _: torch.zeros((), dtype=torch.float64)

    def value(y):
        return float(after_step(forward, phi, y, ones, meta_loss, 0.7, "cross_entropy", lambda g: g, nothing).detach())

    numeric = [(value(labels + d) - value(labels - d)) / 2e-5 for d in 1e-5 * torch.eye(N, dtype=torch.float64)]
    exact = lc.label_hypergradient(forward, phi, labels, meta_loss, 0.7)
    assert np.allclose(exact, numeric, rtol=1e-6)


def test_a_linear_model_has_the_closed_form():
    x, v = draw(N, WIDTH, seed=1), draw(WIDTH, seed=2)
    phi = {"w": draw(WIDTH, seed=3)}
    got = lc.label_hypergradient(lambda p: x @ p["w"], phi, torch.full((N,), 0.5), lambda p: p["w"] @ v, lr=0.2)
    torch.testing.assert_close(got, 0.2 / N * x @ v)


def test_a_wrong_loss_is_refused(toy):
    forward, phi, labels, _, meta_loss = toy
    with pytest.raises(InputError, match="hinge"):
        lc.label_hypergradient(forward, phi, labels, meta_loss, 0.7, "hinge")


# ------------------------------------------------------------------------------------------------- correction


@pytest.fixture(scope="module")
def world():
    """Labels of a completer that fails on half of the space, and clean outcomes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, 3))
    values = 1 / (1 + np.exp(-2 * x[:, 0]))
    share = np.where(x[:, 1] > 0, 1.0, 0.2)
    labels = rng.binomial(4, values * share) / 4
    outcomes = rng.binomial(1, values).astype(float)
    names = [str(i // 4) for i in range(600)]
    train = lc.Labelled(x[:300], labels[:300], names[:300], np.arange(300) % 3 > 0)
    meta = lc.Labelled(x[300:], outcomes[300:], names[300:])
    return train, meta, values


def test_without_iterations_it_is_the_fit_to_the_raw_labels(world):
    train, meta, _ = world
    settings = lc.Correction(iterations=0, smoothing=0.0, ridge=0.1)
    head = lc.correct(train, meta, settings).head
    expected = fit_head(train.features, train.labels, 0.1)
    np.testing.assert_allclose(head.weight, expected.weight, atol=1e-4)
    assert head.bias == pytest.approx(expected.bias, abs=1e-4)


def test_correction_brings_biased_labels_closer_to_the_truth(world):
    train, meta, values = world
    done = lc.correct(train, meta, lc.Correction(iterations=100, ridge=0.01))
    before = np.mean((train.labels - values[:300])[train.movable] ** 2)
    after = np.mean((done.labels - values[:300])[train.movable] ** 2)
    assert after < 0.6 * before
    assert done.meta_losses[-1] < done.meta_losses[0]
    assert done.labels.min() >= 0 and done.labels.max() <= 1


def test_clean_labels_and_the_input_never_move(world):
    train, meta, _ = world
    kept = train.labels.copy()
    done = lc.correct(train, meta, lc.Correction(iterations=10))
    np.testing.assert_array_equal(train.labels, kept)
    np.testing.assert_array_equal(done.labels[~train.movable], kept[~train.movable])
    assert (done.labels[train.movable] != kept[train.movable]).any()


def test_weights_stay_in_their_range_and_leave_labels_alone(world):
    train, meta, _ = world
    done = lc.correct(train, meta, lc.Correction("weights", iterations=100, meta_lr=0.1))
    np.testing.assert_array_equal(done.labels, train.labels)
    assert done.weights.min() >= 0 and done.weights.max() <= 2
    assert (done.weights[~train.movable] == 1).all()


def test_the_number_of_iterations_is_chosen_on_held_out_meta_problems(world):
    train, meta, _ = world
    settings = lc.Correction(iterations=30)
    stop, losses = lc.choose_iterations(train, meta, settings, 3, np.random.default_rng(0))
    assert losses.shape == (31,) and stop == losses.argmin()
    # Meta labels that contradict themselves across problems teach nothing that holds out.
    noise = lc.Labelled(meta.features, np.random.default_rng(1).integers(0, 2, len(meta)).astype(float), meta.problems)
    stop_on_noise, _ = lc.choose_iterations(train, noise, settings, 3, np.random.default_rng(0))
    assert stop_on_noise <= stop or stop == 0


def test_recalibration_keeps_the_raw_head_where_the_outcomes_say_nothing_new(world):
    _, meta, values = world
    raw = fit_head(meta.features, values[300:], 0.001)  # as good as it gets
    head, strength = lc.recalibrate(raw, meta, (0.01, 100.0, 1e6), 3, np.random.default_rng(0))
    assert strength >= 100
    np.testing.assert_allclose(head.weight, raw.weight, atol=0.02)


def test_recalibration_mends_a_wrong_head(world):
    train, meta, _ = world
    raw = fit_head(train.features, train.labels, 0.01)
    head, _ = lc.recalibrate(raw, meta, (0.01, 1.0, 1e4), 3, np.random.default_rng(0))
    assert lc.log_loss(head, meta) < lc.log_loss(raw, meta)


@pytest.mark.parametrize("bias, mean_share", [("none", 1.0), ("constant", 0.5)])
def test_planted_labels_have_the_planted_mean(bias, mean_share):
    world = lc.planted_world(np.random.default_rng(0).standard_normal((4000, 3)), 8, bias, np.random.default_rng(1))
    assert world.labels.mean() == pytest.approx(mean_share * world.values.mean(), abs=0.02)


def test_pair_ranking_counts_pairs():
    assert lc.pair_ranking(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3])) == 1.0
    assert lc.pair_ranking(np.array([3.0, 2.0, 1.0]), np.array([0.1, 0.2, 0.3])) == 0.0
    assert lc.pair_ranking(np.array([1.0, 1.0]), np.array([0.1, 0.2])) == 0.5
