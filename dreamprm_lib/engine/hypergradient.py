"""Hypergradients: how a meta loss, one lower step later, changes with every label or weight of the batch.

One lower step from parameters φ with labels y and weights w, and its consequence for the meta loss:

    φ' = φ - η P ∇φ L(z(φ), y, w),        v = P ∇φ' L_meta(φ').

Labels and weights enter the step through the loss's gradient by the logits z alone.  So, with u = Dᵥ z the derivative
of the logits along v,

    ∂L_meta/∂(y, w) = -η ∂/∂(y, w) ⟨∇z L(z, y, w), u⟩.

For a mean of losses of samples, L = (1/n) Σᵢ wᵢ ℓ(zᵢ, yᵢ), this is

    ∂L_meta/∂yᵢ = -(η/n) wᵢ (∂²ℓ/∂z∂y) Dᵥ zᵢ,        ∂L_meta/∂wᵢ = -(η/n) (∂ℓ/∂z) Dᵥ zᵢ.

All derivatives of the batch are one directional derivative of its logits: no second derivative by φ.  One forward-mode
product gives it exactly, two passes without any gradient nearly.  Beside it, to compare: nudging each label, and double
backward through several steps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.func import grad, jvp

from dreamprm_lib.engine.losses import sample_losses

Parameters = Mapping[str, torch.Tensor]
Forward = Callable[[Parameters], torch.Tensor]
BatchLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Lower:
    """The lower level on one batch.

    `forward` maps parameters to logits [n]; `labels` [n] in [0, 1]; `lr` is η; `loss` names a loss of a sample
    (`losses.LOSSES`), or is a function of logits, labels and weights [n] that gives the loss of the batch; `weights`
    [n] or one for all; `precondition` is the fixed symmetric linear map P (default: the identity); `penalty` is a part
    of the lower loss that no label enters.
    """

    forward: Forward
    labels: torch.Tensor
    lr: float
    loss: str | BatchLoss = "cross_entropy"
    weights: torch.Tensor | float = 1.0
    precondition: Callable[[Parameters], Parameters] = dict
    penalty: Callable[[Parameters], torch.Tensor | float] = lambda _: 0.0

    @property
    def upper(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What the upper level may move: labels and weights, both [n]."""
        return self.labels, self.weights * torch.ones_like(self.labels)

    def batch_loss(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The loss of the batch, without the penalty."""
        if callable(self.loss):
            return self.loss(logits, labels, weights)
        return (weights * sample_losses(logits, labels, self.loss)).mean()

    def step(
        self, parameters: Parameters, labels: torch.Tensor, weights: torch.Tensor
    ) -> tuple[Parameters, torch.Tensor]:
        """The parameters after one lower step, and the logits before it."""

        def value(phi: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
            logits = self.forward(phi)
            return self.batch_loss(logits, labels, weights) + self.penalty(phi), logits

        slope, logits = grad(value, has_aux=True)(parameters)
        move = self.precondition(slope)
        return {name: value - self.lr * move[name] for name, value in parameters.items()}, logits


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
    along: Callable[[Forward, Parameters, Parameters], torch.Tensor] | None = None,
) -> LowerStep:
    """Take one lower step, and differentiate the meta loss after it by labels and weights.

    `along` is `forward_mode` (the default; exact), `two_forwards`, or `linear`.
    """
    after, logits = lower.step(parameters, *lower.upper)
    v = lower.precondition(grad(meta_loss)(after))
    derivative = (along or forward_mode)(lower.forward, parameters, v)
    by_label, by_weight = by_sample(lower.batch_loss, logits, *lower.upper, derivative)
    return LowerStep(after, -lower.lr * by_label, -lower.lr * by_weight)


def by_sample(
    loss: BatchLoss, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, derivative: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """∂/∂(y, w) ⟨∇z L(z, y, w), u⟩: by label and by weight [n], from the logits' derivative u [n] along v."""
    z, y, w = (t.detach().requires_grad_() for t in (logits, labels, weights))
    (slope,) = torch.autograd.grad(loss(z, y, w), z, create_graph=True)
    by_label, by_weight = torch.autograd.grad(slope @ derivative, (y, w))
    return by_label, by_weight


def forward_mode(forward: Forward, parameters: Parameters, direction: Parameters) -> torch.Tensor:
    """The derivative of the logits along `direction` [n], exact: one forward-mode product."""
    return jvp(forward, (parameters,), (direction,))[1]


def linear(forward: Forward, _parameters: Parameters, direction: Parameters) -> torch.Tensor:
    """The same for logits that are a linear function of the parameters."""
    return forward(direction)


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


# ------------------------------------------------------------------------------------------------- other ways


def nudged(
    lower: Lower, parameters: Parameters, meta_loss: Callable[[Parameters], torch.Tensor], size: float = 1e-5
) -> torch.Tensor:
    """The derivative by every label [n], as anyone would check it: nudge the label by `size` both ways, take the step
    again, look at the meta loss.  Two lower steps a label."""
    labels, weights = lower.upper

    def meta_after(labels: torch.Tensor) -> torch.Tensor:
        return meta_loss(lower.step(parameters, labels, weights)[0])

    nudges = size * torch.eye(len(labels), dtype=labels.dtype)
    return torch.stack([meta_after(labels + d) - meta_after(labels - d) for d in nudges]) / (2 * size)


def unrolled(
    lower: Lower, parameters: Parameters, meta_loss: Callable[[Parameters], torch.Tensor], steps: int = 1
) -> LowerStep:
    """`steps` lower steps with the same labels, differentiated by double backward: exact, and costly in memory."""

    def meta_after(labels: torch.Tensor, weights: torch.Tensor):
        phi = parameters
        for _ in range(steps):
            phi, _ = lower.step(phi, labels, weights)
        return meta_loss(phi), phi

    (by_label, by_weight), after = grad(meta_after, argnums=(0, 1), has_aux=True)(*lower.upper)
    return LowerStep(after, by_label, by_weight)
