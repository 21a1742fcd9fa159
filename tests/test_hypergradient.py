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


def network_of(dtype, loss):
    """A two-layer network with a lower level on one batch, and a meta loss on other rows."""
    x, meta_x = draw(N, WIDTH, seed=1).to(dtype), draw(9, WIDTH, seed=2).to(dtype)
    meta_y = (draw(9, seed=3) > 0).to(dtype)
    phi = {"a": draw(WIDTH, HIDDEN, seed=4).to(dtype), "b": draw(HIDDEN, seed=5).to(dtype)}

    def network(p, rows):
        return torch.tanh(rows @ p["a"]) @ p["b"]

    lower = hg.Lower(
        forward=lambda p: network(p, x),
        labels=torch.sigmoid(draw(N, seed=6)).to(dtype),
        lr=0.7,
        loss=loss,
        weights=(0.5 + torch.sigmoid(draw(N, seed=7))).to(dtype),
        precondition=scale,
        penalty=lambda p: 0.05 * (p["a"] ** 2).sum(),
    )
    return lower, phi, lambda p: sample_losses(network(p, meta_x), meta_y).mean()


@pytest.fixture(params=LOSSES)
def toy(request):
    return network_of(torch.float64, request.param)


def double_backward(lower, phi, meta_loss, steps=1):
    """The truth, by autograd's own double backward."""
    labels, weights = (t.clone().requires_grad_() for t in lower.upper)
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


def test_one_product_and_unrolling_are_exact_and_two_forwards_near(toy):
    truth = double_backward(*toy)
    assert worst(hg.differentiated_step(*toy), truth) < 1e-10
    assert worst(hg.differentiated_step(*toy, hg.two_forwards), truth) < 1e-8
    for steps in (1, 3):
        assert worst(hg.unrolled(*toy, steps), double_backward(*toy, steps)) < 1e-10


def test_numerical_derivatives_of_a_lower_step_say_the_same(toy):
    lower, phi, meta_loss = toy
    y, w = lower.upper

    def meta_after(weights):
        return float(meta_loss(lower.step(phi, y, weights)[0]))

    by_weight = [(meta_after(w + d) - meta_after(w - d)) / 2e-5 for d in 1e-5 * torch.eye(N, dtype=torch.float64)]
    assert worst(hg.differentiated_step(*toy), (hg.nudged(*toy), torch.tensor(by_weight).double())) < 1e-6


@pytest.mark.parametrize("loss", LOSSES)
def test_in_single_precision_two_forwards_keep_four_digits(loss):
    truth = double_backward(*network_of(torch.float64, loss))
    found = hg.differentiated_step(*network_of(torch.float32, loss), hg.two_forwards)
    assert worst(found, [t.float() for t in truth]) < 1e-4


def test_ridge_regression_has_the_closed_form():
    """The optimum is (XᵀX/n + ridge)⁻¹ Xᵀy/n, so its derivative by the labels is known."""
    x, target, ridge = draw(N, WIDTH, seed=1), draw(WIDTH, seed=2), 0.3
    inverse = torch.linalg.inv(x.T @ x / N + ridge * torch.eye(WIDTH, dtype=torch.float64))
    truth = x @ inverse @ target / N  # of the meta loss w · target
    lower = hg.Lower(
        forward=lambda p: x @ p["w"],
        labels=draw(N, seed=3),
        lr=0.2,
        loss=lambda logits, labels, weights: (weights * (logits - labels) ** 2 / 2).mean(),
        penalty=lambda p: ridge / 2 * (p["w"] ** 2).sum(),
    )
    # One preconditioned step is Newton's, so it is the whole way; plain steps come there in the end.
    newton = replace(lower, lr=1.0, precondition=lambda g: {"w": inverse @ g["w"]})
    start, meta_loss = {"w": torch.zeros(WIDTH, dtype=torch.float64)}, lambda p: p["w"] @ target
    for along in (hg.forward_mode, hg.linear):
        found = hg.differentiated_step(newton, start, meta_loss, along).by_label
        torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(hg.unrolled(lower, start, meta_loss, 400).by_label, truth, rtol=1e-6, atol=1e-9)


def test_the_chapter_s_function_gives_the_same(toy):
    lower, phi, meta_loss = toy
    expected = hg.differentiated_step(*toy).by_label
    options = dict(weights=lower.weights, precondition=scale, penalty=lower.penalty)
    arguments = (lower.forward, phi, lower.labels, meta_loss, 0.7, lower.loss)
    assert (lc.label_hypergradient(*arguments, **options) == expected).all()
    near = lc.label_hypergradient(*arguments, along=hg.two_forwards, **options)
    assert np.allclose(near, expected, rtol=1e-6)
    with pytest.raises(InputError, match="hinge"):
        hg.differentiated_step(replace(lower, loss="hinge"), phi, meta_loss)
