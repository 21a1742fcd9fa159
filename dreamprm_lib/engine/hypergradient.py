"""Hypergradients: how a meta loss, one lower step later, changes with every label or weight of the batch.

One lower step from parameters φ with labels y and weights w, and its consequence for the meta loss:

    φ' = φ - η P ∇φ (1/n) Σᵢ wᵢ ℓ(zᵢ(φ), yᵢ),        v = P ∇φ' L_meta(φ').

A label enters the lower gradient as wᵢ ∂ℓ/∂z(zᵢ, yᵢ) ∇φ zᵢ, so with Dᵥ the derivative along v

    ∂L_meta/∂yᵢ = -(η/n) wᵢ (∂²ℓ/∂z∂y) Dᵥ zᵢ,        ∂L_meta/∂wᵢ = -(η/n) (∂ℓ/∂z) Dᵥ zᵢ.

For cross-entropy ∂²ℓ/∂z∂y = -1.  All derivatives of the batch are one directional derivative of its logits: no second
derivative by φ.  One forward-mode product gives it exactly, two passes without any gradient nearly.

A loss L(z, y, w) that joins the samples (such as `losses.Pairs.loss`) needs no more: with u = Dᵥ z,

    ∂L_meta/∂(y, w) = -η ∂/∂(y, w) ⟨∇z L(z, y, w), u⟩.

Beside it, to compare: finite differences of the lower loss's gradient (the released code's way, by `betty`), and double
backward through several steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.func import grad, jvp

from dreamprm_lib.engine.losses import sample_losses

Parameters = Mapping[str, torch.Tensor]
Forward = Callable[[Parameters], torch.Tensor]
BatchLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def identity(gradient: Parameters) -> Parameters:
    """The preconditioner of plain gradient descent."""
    return gradient


@dataclass(frozen=True)
class Lower:
    """The lower level on one batch.

    `forward` maps parameters to logits [n]; `labels` [n] in [0, 1]; `lr` is η; `loss` names a loss of a sample
    (`losses.LOSSES`), or is a function of logits, labels and weights [n] that gives the loss of the batch; `weights`
    [n] (default 1); `precondition` is the fixed symmetric linear map P; `penalty` is a part of the lower loss that no
    label enters.
    """

    forward: Forward
    labels: torch.Tensor
    lr: float
    loss: str | BatchLoss = "cross_entropy"
    weights: torch.Tensor | None = None
    precondition: Callable[[Parameters], Parameters] = identity
    penalty: Callable[[Parameters], torch.Tensor] | None = None

    def batch_loss(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """The loss of the batch, without the penalty."""
        if callable(self.loss):
            return self.loss(logits, labels, torch.ones_like(logits) if weights is None else weights)
        losses = sample_losses(logits, labels, self.loss)
        return (losses if weights is None else weights * losses).mean()

    def slopes(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """∂ℓ/∂z and ∂²ℓ/∂z∂y of each sample [n], for a loss that is one of a sample."""
        score = torch.sigmoid(logits)
        if self.loss == "cross_entropy":
            return score - self.labels, -torch.ones_like(score)
        steepness = 2 * score * (1 - score)
        return steepness * (score - self.labels), -steepness

    def value(
        self, parameters: Parameters, labels: torch.Tensor, weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The lower loss, and the logits that it was computed from."""
        logits = self.forward(parameters)
        value = self.batch_loss(logits, labels, weights)
        return value + self.penalty(parameters) if self.penalty else value, logits

    def step(
        self, parameters: Parameters, labels: torch.Tensor, weights: torch.Tensor | None
    ) -> tuple[Parameters, torch.Tensor]:
        """The parameters after one lower step, and the logits before it."""
        slope, logits = grad(lambda phi: self.value(phi, labels, weights), has_aux=True)(parameters)
        move = self.precondition(slope)
        return {name: value - self.lr * move[name] for name, value in parameters.items()}, logits


# ------------------------------------------------------------------------------------------------- one step


def forward_mode(forward: Forward, parameters: Parameters, direction: Parameters) -> torch.Tensor:
    """The derivative of the logits along `direction` [n], exact: one forward-mode product."""
    return jvp(forward, (parameters,), (direction,))[1]


def two_forwards(forward: Forward, parameters: Parameters, direction: Parameters) -> torch.Tensor:
    """The same by a central difference of two passes without gradients; the error falls with the square of the step.

    The step has the length of the cube root of the precision, where rounding and curvature weigh about the same.
    """
    length = torch.stack([(d.detach() ** 2).sum() for d in direction.values()]).sum().sqrt()
    size = torch.finfo(length.dtype).eps ** (1 / 3) / (length + torch.finfo(length.dtype).tiny)
    with torch.no_grad():
        up, down = (
            forward({name: value + sign * size * direction[name] for name, value in parameters.items()})
            for sign in (1, -1)
        )
    return (up - down) / (2 * size)


@dataclass(frozen=True)
class LowerStep:
    """One lower step, differentiated: the parameters after it, and the derivative of the meta loss by every label and
    by every weight of the batch, both [n]."""

    parameters: Parameters
    by_label: torch.Tensor
    by_weight: torch.Tensor


def differentiated_step(
    lower: Lower,
    parameters: Parameters,
    meta_loss: Callable[[Parameters], torch.Tensor],
    along: Callable[[Forward, Parameters, Parameters], torch.Tensor] = forward_mode,
) -> LowerStep:
    """Take one lower step, and differentiate the meta loss after it by labels and weights.

    `along` is `forward_mode` (exact) or `two_forwards`.
    """
    after, logits = lower.step(parameters, lower.labels, lower.weights)
    derivative = along(lower.forward, parameters, lower.precondition(grad(meta_loss)(after)))
    return LowerStep(after, *by_sample(lower, logits, derivative))


def by_sample(lower: Lower, logits: torch.Tensor, derivative: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Derivatives by label and by weight [n], from the logits' derivative along v."""
    if not callable(lower.loss):
        slope, mixed = lower.slopes(logits)
        scale = -lower.lr / len(logits) * derivative
        return scale * mixed * (1 if lower.weights is None else lower.weights), scale * slope

    def slope_along(labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return grad(lower.batch_loss)(logits, labels, weights) @ derivative

    ones = torch.ones_like(logits) if lower.weights is None else lower.weights
    by_label, by_weight = grad(slope_along, argnums=(0, 1))(lower.labels, ones)
    return -lower.lr * by_label, -lower.lr * by_weight


# ------------------------------------------------------------------------------------------------- other ways


def nudged(
    lower: Lower, parameters: Parameters, meta_loss: Callable[[Parameters], torch.Tensor], size: float = 1e-5
) -> torch.Tensor:
    """The derivative by every label [n], as anyone would check it: nudge the label by `size` both ways, take the step
    again, look at the meta loss.  Two lower steps a label."""

    def meta_after(labels: torch.Tensor) -> torch.Tensor:
        return meta_loss(lower.step(parameters, labels, lower.weights)[0])

    nudges = size * torch.eye(len(lower.labels), dtype=lower.labels.dtype)
    return torch.stack([meta_after(lower.labels + d) - meta_after(lower.labels - d) for d in nudges]) / (2 * size)


def released_way(
    lower: Lower, parameters: Parameters, meta_loss: Callable[[Parameters], torch.Tensor], size: float = 0.01
) -> LowerStep:
    """One lower step, and the derivatives as the released code has them: the lower loss's gradient by labels and
    weights, at the parameters moved by `size` along v and against it, and the difference of both."""
    after, logits = lower.step(parameters, lower.labels, lower.weights)
    direction = lower.precondition(grad(meta_loss)(after))
    length = torch.stack([(d**2).sum() for d in direction.values()]).sum().sqrt()
    ones = torch.ones_like(logits) if lower.weights is None else lower.weights
    slopes = []
    for sign in (1, -1):
        moved = {
            name: (value + sign * size / length * direction[name]).detach().requires_grad_()
            for name, value in parameters.items()
        }
        upper = [lower.labels.detach().clone().requires_grad_(), ones.detach().clone().requires_grad_()]
        slopes.append(torch.autograd.grad(lower.value(moved, *upper)[0], upper))
    scale = -lower.lr * length / (2 * size)
    return LowerStep(after, *(scale * (up - down) for up, down in zip(*slopes, strict=True)))


def unrolled(
    lower: Lower, parameters: Parameters, meta_loss: Callable[[Parameters], torch.Tensor], steps: int = 1
) -> LowerStep:
    """`steps` lower steps with the same labels, differentiated by double backward: exact, and costly in memory."""
    ones = torch.ones_like(lower.labels) if lower.weights is None else lower.weights

    def meta_after(labels: torch.Tensor, weights: torch.Tensor):
        phi = parameters
        for _ in range(steps):
            phi, _ = lower.step(phi, labels, weights)
        return meta_loss(phi), phi

    (by_label, by_weight), after = grad(meta_after, argnums=(0, 1), has_aux=True)(lower.labels, ones)
    return LowerStep(after, by_label, by_weight)
