"""Hypergradients against double backward, numerical derivatives and a closed form; orders of the approximate ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamprm_lib import label_correction as lc
from dreamprm_lib.engine import hypergradient as hg
from dreamprm_lib.engine.losses import LOSSES, sample_losses
from dreamprm_lib.errors import InputError

N, WIDTH, HIDDEN = 7, 4, 5


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scale(gradient):
    return {"a": 0.3 * gradient["a"], "b": 2.0 * gradient["b"]}


@pytest.fixture
def toy():
    """A two-layer network with a lower level on one batch, and a meta loss on other rows."""
    x, meta_x = draw(N, WIDTH, seed=1), draw(9, WIDTH, seed=2)
    meta_y = (draw(9, seed=3) > 0).double()
    phi = {"a": draw(WIDTH, HIDDEN, seed=4), "b": draw(HIDDEN, seed=5)}

    def network(p, rows):
        return torch.tanh(rows @ p["a"]) @ p["b"]

    lower = hg.Lower(
        forward=lambda p: network(p, x),
        labels=torch.sigmoid(draw(N, seed=6)),
        lr=0.7,
        weights=0.5 + torch.sigmoid(draw(N, seed=7)),
        precondition=scale,
        penalty=lambda p: 0.05 * (p["a"] ** 2).sum(),
    )
    return lower, phi, lambda p: sample_losses(network(p, meta_x), meta_y).mean()


def double_backward(lower, phi, meta_loss, steps=1):
    """The truth, by autograd's own double backward."""
    labels, weights = (t.clone().requires_grad_() for t in (lower.labels, lower.weights))
    now = {name: value.clone().requires_grad_() for name, value in phi.items()}
    for _ in range(steps):
        losses = (weights * sample_losses(lower.forward(now), labels, lower.loss)).mean() + lower.penalty(now)
        slope = dict(zip(now, torch.autograd.grad(losses, list(now.values()), create_graph=True), strict=True))
        move = lower.precondition(slope)
        now = {name: value - lower.lr * move[name] for name, value in now.items()}
    return torch.autograd.grad(meta_loss(now), (labels, weights))


def worst(found, truth):
    """The largest error of a step's derivatives, relative to the largest derivative."""
    pairs = zip((found.by_label, found.by_weight), truth, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("loss", LOSSES)
def test_one_forward_mode_product_is_exact(toy, loss):
    lower, phi, meta_loss = toy
    lower = replace(lower, loss=loss)
    assert worst(hg.differentiated_step(lower, phi, meta_loss), double_backward(lower, phi, meta_loss)) < 1e-10


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("steps", [1, 3])
def test_unrolling_is_exact_for_any_number_of_steps(toy, loss, steps):
    lower, phi, meta_loss = toy
    lower = replace(lower, loss=loss)
    found = hg.unrolled(lower, phi, meta_loss, steps)
    assert worst(found, double_backward(lower, phi, meta_loss, steps)) < 1e-10


def test_numerical_derivatives_of_a_lower_step_say_the_same(toy):
    lower, phi, meta_loss = toy

    def meta_after(labels, weights):
        return float(meta_loss(lower.step(phi, labels, weights)[0]))

    nudges = 1e-5 * torch.eye(N, dtype=torch.float64)
    y, w = lower.labels, lower.weights
    by_label = hg.nudged(lower, phi, meta_loss)
    by_weight = [(meta_after(y, w + d) - meta_after(y, w - d)) / 2e-5 for d in nudges]
    truth = by_label, torch.tensor(by_weight, dtype=torch.float64)
    assert worst(hg.differentiated_step(lower, phi, meta_loss), truth) < 1e-6


@pytest.mark.parametrize("loss", LOSSES)
def test_two_forwards_and_the_released_way_are_near(toy, loss):
    lower, phi, meta_loss = toy
    lower = replace(lower, loss=loss)
    truth = double_backward(lower, phi, meta_loss)
    assert worst(hg.differentiated_step(lower, phi, meta_loss, hg.two_forwards), truth) < 1e-8
    assert worst(hg.released_way(lower, phi, meta_loss), truth) < 1e-3


def test_central_differences_are_of_second_order(toy):
    """Half the step, a quarter of the error."""
    lower, phi, meta_loss = toy
    truth = double_backward(lower, phi, meta_loss)
    errors = [worst(hg.released_way(lower, phi, meta_loss, size), truth) for size in (0.2, 0.1, 0.05)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1) and errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_in_single_precision_two_forwards_keep_four_digits(toy):
    lower, phi, meta_loss = toy
    truth = double_backward(lower, phi, meta_loss)
    x, meta_x = draw(N, WIDTH, seed=1).float(), draw(9, WIDTH, seed=2).float()
    meta_y = (draw(9, seed=3) > 0).float()

    def network(p, rows):
        return torch.tanh(rows @ p["a"]) @ p["b"]

    single = replace(lower, forward=lambda p: network(p, x), labels=lower.labels.float(), weights=lower.weights.float())
    small = {name: value.float() for name, value in phi.items()}
    found = hg.differentiated_step(
        single, small, lambda p: sample_losses(network(p, meta_x), meta_y).mean(), hg.two_forwards
    )
    assert worst(found, [t.float() for t in truth]) < 1e-4


def squared(logits, labels, weights):
    return (weights * (logits - labels) ** 2 / 2).mean()


def test_ridge_regression_has_the_closed_form():
    """The optimum is (XᵀX/n + ridge)⁻¹ Xᵀy/n, so its derivative by the labels is known."""
    x, target, ridge = draw(N, WIDTH, seed=1), draw(WIDTH, seed=2), 0.3
    labels = draw(N, seed=3)
    inverse = torch.linalg.inv(x.T @ x / N + ridge * torch.eye(WIDTH, dtype=torch.float64))
    lower = hg.Lower(lambda p: x @ p["w"], labels, 0.2, squared, penalty=lambda p: ridge / 2 * (p["w"] ** 2).sum())
    truth = x @ inverse @ target / N  # of the meta loss w · target

    def meta_loss(p):
        return p["w"] @ target

    # One preconditioned step is Newton's, so it is the whole way; plain steps come there in the end.
    newton = replace(lower, lr=1.0, precondition=lambda g: {"w": inverse @ g["w"]})
    start = {"w": torch.zeros(WIDTH, dtype=torch.float64)}
    torch.testing.assert_close(hg.differentiated_step(newton, start, meta_loss).by_label, truth, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(hg.unrolled(lower, start, meta_loss, 400).by_label, truth, rtol=1e-6, atol=1e-9)


def test_the_chapter_s_functions_give_the_same(toy):
    lower, phi, meta_loss = toy
    step = hg.differentiated_step(lower, phi, meta_loss)
    options = dict(weights=lower.weights, precondition=scale, penalty=lower.penalty)
    arguments = (lower.forward, phi, lower.labels, meta_loss, 0.7)
    assert (lc.label_hypergradient(*arguments, **options) == step.by_label).all()
    near = lc.label_hypergradient(*arguments, along=hg.two_forwards, **options)
    assert np.allclose(near, step.by_label, rtol=1e-6)


def test_a_wrong_loss_is_refused(toy):
    lower, phi, meta_loss = toy
    with pytest.raises(InputError, match="hinge"):
        hg.differentiated_step(replace(lower, loss="hinge"), phi, meta_loss)
