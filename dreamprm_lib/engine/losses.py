"""The losses of scores to labels: by step (cross-entropy; the original's squared error), and by pairs of a problem.

The pairwise loss is Bradley and Terry's model within problems.  Were the outcomes of two steps i and j of a problem
independent, with chances yᵢ and yⱼ to pass, then i would pass and j fail with chance yᵢ(1 - yⱼ); the loss of that event
is -log σ(zᵢ - zⱼ).  The loss of a pair is the mean over both ways round, and each problem counts the same:

    L(z, y) = mean over problems of mean over pairs i < j of  yᵢ(1 - yⱼ) s(zⱼ - zᵢ) + yⱼ(1 - yᵢ) s(zᵢ - zⱼ),

with s the softplus.  For outcomes 0 and 1 it is logistic regression, without an intercept, on the differences of a
passing and a failing program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss, softplus

from dreamprm_lib.errors import InputError

LOSSES = ("cross_entropy", "mse")  # of a step by itself
PAIRWISE = "pairwise"


def check_loss(loss: str, known: Sequence[str] = LOSSES) -> None:
    """Raise `InputError` unless `loss` is one of those that are known."""
    if loss not in known:
        raise InputError(f"There is no loss {loss!r}: choose one of {', '.join(known)}.")


def sample_losses(logits: torch.Tensor, labels: torch.Tensor, loss: str = "cross_entropy") -> torch.Tensor:
    """The loss of each sample [n]: cross-entropy on logits (nats), or the squared error of the score."""
    check_loss(loss)
    if loss == "mse":
        return mse_loss(torch.sigmoid(logits), labels, reduction="none")
    return binary_cross_entropy_with_logits(logits, labels, reduction="none")


@dataclass(frozen=True)
class Pairs:
    """All pairs of rows that belong to one problem: indices `first` < `second` and the `share` of each in the mean
    (they sum to 1), all [pairs]."""

    first: np.ndarray
    second: np.ndarray
    share: np.ndarray

    @classmethod
    def within(cls, problems: Sequence[str] | np.ndarray) -> Pairs:
        """The pairs of rows whose `problems` are equal.  Raises `InputError` if there is none."""
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(problems):
            rows.setdefault(name, []).append(row)
        found = [np.array(list(combinations(mine, 2))) for mine in rows.values() if len(mine) > 1]
        if not found:
            raise InputError("The pairwise loss compares steps of one problem, and no problem has two.")
        share = np.concatenate([np.full(len(pairs), 1 / len(pairs)) for pairs in found]) / len(found)
        first, second = np.concatenate(found).T
        return cls(first, second, share)

    def losses(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """What each pair adds to the loss [pairs], of logits and labels [n]; it counts by the product of its weights
        [n]."""
        gap = logits[self.first] - logits[self.second]
        y, other = labels[self.first], labels[self.second]
        share = torch.as_tensor(self.share).to(logits) * weights[self.first] * weights[self.second]
        return share * (y * (1 - other) * softplus(-gap) + other * (1 - y) * softplus(gap))

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The loss of the batch."""
        return self.losses(logits, labels, weights).sum()
