"""The two losses of a step's score to its label in [0, 1]: cross-entropy, and the original's squared error."""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from dreamprm_lib.errors import InputError

LOSSES = ("cross_entropy", "mse")


def check_loss(loss: str) -> None:
    """Raise `InputError` unless `loss` is one of `LOSSES`."""
    if loss not in LOSSES:
        raise InputError(f"There is no loss {loss!r}: choose one of {', '.join(LOSSES)}.")


def sample_losses(logits: torch.Tensor, labels: torch.Tensor, loss: str = "cross_entropy") -> torch.Tensor:
    """The loss of each sample [n]: cross-entropy on logits (nats), or the squared error of the score."""
    check_loss(loss)
    if loss == "mse":
        return mse_loss(torch.sigmoid(logits), labels, reduction="none")
    return binary_cross_entropy_with_logits(logits, labels, reduction="none")
