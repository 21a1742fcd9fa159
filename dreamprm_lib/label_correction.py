"""Label correction: the noisy labels of intermediate steps become variables, and clean outcomes teach them.

Lower level: a PRM is fitted to the current labels.  Upper level: the labels change so that the PRM, one lower step
later, predicts the clean outcomes of a meta set (DreamPRM-Code, section 3.3); `engine.hypergradient` has the
derivative.  The released code of the original learns a weight a sample instead.  Both are here, under their own names,
with two ways to hold free labels back (their own likelihood; a formula of few parameters), and beside the simpler uses
of the same clean outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.func import grad
from torch.nn.functional import binary_cross_entropy_with_logits

from dreamprm_lib.engine.backbone import Backbone
from dreamprm_lib.engine.fine_tuning import Example, FineTuned, Recipe, fine_tune
from dreamprm_lib.engine.hypergradient import (
    BatchLoss,
    Lower,
    LowerStep,
    Parameters,
    by_sample,
    differentiated_step,
    forward_mode,
    unrolled,
)
from dreamprm_lib.engine.losses import PAIRWISE, Pairs
from dreamprm_lib.errors import InputError
from dreamprm_lib.evidence.statistics import beta_binomial_prior, wilson_interval
from dreamprm_lib.reward_model import Head, fit_head, fit_rows, folds_by_problem, standardiser
from dreamprm_lib.steps import StepTable

LEARNED = ("labels", "weights", "formula")
RIDGES = (0.01, 0.1, 1.0, 10.0, 100.0, 1e4)  # candidates where a strength is chosen on held-out meta problems
PRIORS = (0.003, 0.03, 0.3)


def label_hypergradient(
    forward: Callable[[Parameters], torch.Tensor],
    parameters: Parameters,
    labels: torch.Tensor,
    meta_loss: Callable[[Parameters], torch.Tensor],
    lr: float,
    loss: str = "cross_entropy",
    *,
    along: Callable = forward_mode,
    **options,
) -> torch.Tensor:
    """∂L_meta(φ')/∂yᵢ for every label of the batch [n], for one lower step; exact unless `along` is `two_forwards`.

    `forward` maps parameters to logits [n]; `options` are further fields of `engine.hypergradient.Lower`.
    """
    return differentiated_step(Lower(forward, labels, lr, loss, **options), parameters, meta_loss, along).by_label


# ------------------------------------------------------------------------------------------------- correction


@dataclass(frozen=True)
class Correction:
    """What label correction does at each iteration.

    `learn` is `labels` (in [0, 1], started at the MC estimate: the paper), `weights` (in [0, 2], started at 1: the
    released code), or `formula`: label = sigmoid(logit((k + 1/2) / (n + 1)) + states · θ + c), with θ and c learned.
    `meta_lr` is the step size of Adam on them.  `prior` holds a label by its own likelihood: the upper loss grows by
    `prior` times the mean of -log Binomial(k | n, y); 0 is the paper's method.  `smoothing` pulls the lower level's
    labels towards 0.5.  `loss` is one of `reward_model.HEAD_LOSSES`, and `ridge` the head's penalty.  The lower step is
    preconditioned by the inverse of a bound on the Hessian (XᵀX/4n + ridge for a loss by step), so that `lr = 1` never
    overshoots and one step comes near the optimum; `unroll` of them are taken and differentiated at each iteration.  It
    starts at the fit to the raw labels (`warm_start`), or at zero.
    """

    learn: str = "labels"
    iterations: int = 200
    meta_lr: float = 0.02
    lr: float = 1.0
    smoothing: float = 0.1
    ridge: float = 0.1
    loss: str = "cross_entropy"
    prior: float = 0.0
    unroll: int = 1
    warm_start: bool = True


@dataclass(frozen=True)
class Corrected:
    """The outcome: the fitted head, labels and weights [m] as they ended, the loss on the meta set [iterations + 1],
    and that of each row held out from it [iterations + 1, rows]."""

    head: Head
    labels: np.ndarray
    weights: np.ndarray
    meta_losses: np.ndarray
    held_out_losses: np.ndarray


def correct(train: StepTable, meta: StepTable, settings: Correction, held_out: StepTable | None = None) -> Corrected:
    """Learn labels (or weights, or a formula) of the movable training rows by the meta set's clean outcomes.

    With `iterations = 0` this is the plain fit to the labels that it starts with.
    """
    if settings.learn not in LEARNED:
        raise InputError(f"`learn` is {settings.learn!r}; choose one of {', '.join(LEARNED)}.")
    levels, learned = LinearLevels(train, meta, settings), _Learned(train, settings)

    def smoothed() -> torch.Tensor:
        return (1 - settings.smoothing) * learned.labels() + settings.smoothing / 2

    phi = torch.zeros(levels.x.shape[1], dtype=torch.float64)
    if settings.warm_start:  # the lower level alone
        start = fit_rows(replace(train, label=smoothed().numpy()), settings.ridge, settings.loss)
        phi = torch.tensor(np.append(start.weight, start.bias))
    meta_losses: list[float] = []
    held_out_losses: list[np.ndarray | list[float]] = []
    for iteration in range(settings.iterations + 1):
        head = levels.head(phi)
        meta_losses.append(outcome_losses(head, meta, settings.loss).mean())
        held_out_losses.append(outcome_losses(head, held_out, settings.loss) if held_out else [])
        if iteration == settings.iterations:
            break
        step = levels.step(phi, smoothed(), learned.weights)
        learned.move((1 - settings.smoothing) * step.by_label, step.by_weight)
        phi = step.parameters["phi"]
    labels, weights = learned.labels().numpy().copy(), learned.weights.numpy().copy()
    return Corrected(head, labels, weights, np.array(meta_losses), np.array(held_out_losses))


class LinearLevels:
    """Both levels for a linear head.

    The upper loss is that of the clean outcomes: pairwise if the lower one is, else cross-entropy.
    """

    def __init__(self, train: StepTable, meta: StepTable, settings: Correction):
        self.settings, (self.mean, self.scale) = settings, standardiser(train.states)
        self.x, self.meta_x = (_with_bias((rows.states - self.mean) / self.scale) for rows in (train, meta))
        self.penalty = settings.ridge * _ridge_diagonal(self.x.shape[1])
        meta_y = torch.tensor(meta.label, dtype=torch.float64)
        self.loss: str | BatchLoss = settings.loss
        self.outcome_loss = partial(binary_cross_entropy_with_logits, target=meta_y)
        share = torch.full((len(train),), 1 / len(train), dtype=torch.float64)
        reach = self.x
        if settings.loss == PAIRWISE:
            pairs, outcome_pairs = Pairs.within(train.problem), Pairs.within(meta.problem)
            self.loss = pairs.loss
            self.outcome_loss = partial(outcome_pairs.loss, labels=meta_y, weights=torch.ones_like(meta_y))
            share, reach = torch.tensor(pairs.share), self.x[pairs.first] - self.x[pairs.second]
        bound = reach.T @ (share[:, None] * reach) / 4  # of the lower loss's Hessian
        self.inverse = torch.linalg.inv(bound + torch.diag(self.penalty))

    def head(self, phi: torch.Tensor) -> Head:
        """The head of parameters φ [width + 1]."""
        return Head(phi[:-1].numpy(), float(phi[-1]), self.mean, self.scale)

    def lower(self, labels: torch.Tensor, weights: torch.Tensor) -> Lower:
        """The lower level for labels and weights [m]."""
        return Lower(
            forward=lambda p: self.x @ p["phi"],
            labels=labels,
            lr=self.settings.lr,
            loss=self.loss,
            weights=weights,
            precondition=lambda gradient: {"phi": self.inverse @ gradient["phi"]},
            penalty=lambda p: (self.penalty * p["phi"] ** 2).sum() / 2,
        )

    def step(self, phi: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> LowerStep:
        """One upper iteration's lower steps, differentiated."""
        lower = self.lower(labels, weights)
        if self.settings.unroll > 1:
            return unrolled(lower, {"phi": phi}, self.meta_loss, self.settings.unroll)
        return self._in_closed_form(lower, phi)

    def meta_loss(self, parameters: Parameters) -> torch.Tensor:
        """The upper loss: that of the clean outcomes."""
        return self.outcome_loss(self.meta_x @ parameters["phi"])

    def _in_closed_form(self, lower: Lower, phi: torch.Tensor) -> LowerStep:
        """`engine.hypergradient.differentiated_step`, written out for linear logits: D_v z = X v."""
        logits = self.x @ phi
        slope = grad(lower.batch_loss)(logits, lower.labels, lower.weights)
        after = phi - lower.lr * self.inverse @ (self.x.T @ slope + self.penalty * phi)
        v = self.inverse @ (self.meta_x.T @ grad(self.outcome_loss)(self.meta_x @ after))
        return LowerStep({"phi": after}, *by_sample(lower, logits, self.x @ v))


class _Learned:
    """The upper level's variables, and Adam on them."""

    def __init__(self, train: StepTable, settings: Correction):
        self.settings = settings
        self.raw = torch.tensor(train.label, dtype=torch.float64)
        self.rollouts = torch.tensor(train.rollouts, dtype=torch.float64)
        self.movable = torch.tensor(train.movable)
        self.weights = torch.ones_like(self.raw)
        mean, scale = standardiser(train.states)
        self.traits = _with_bias((train.states - mean) / scale)
        self.variable = {
            "labels": self.raw.clone(),
            "weights": self.weights,
            "formula": torch.zeros(self.traits.shape[1], dtype=torch.float64),
        }[settings.learn]
        self.optimiser = torch.optim.Adam([self.variable], lr=settings.meta_lr)

    def labels(self) -> torch.Tensor:
        """The labels as they stand [m]."""
        if self.settings.learn == "labels":
            return self.variable
        if self.settings.learn == "weights":
            return self.raw
        start = (self.raw * self.rollouts + 0.5) / (self.rollouts + 1)  # so that it has a logit
        return torch.where(self.movable, torch.sigmoid(torch.logit(start) + self.traits @ self.variable), self.raw)

    def move(self, by_label: torch.Tensor, by_weight: torch.Tensor) -> None:
        """One step of Adam against the derivatives of the meta loss [m]."""
        labels = self.labels()
        if self.settings.prior:
            inside = labels.clamp(1e-3, 1 - 1e-3)
            unlikely = self.rollouts * (inside - self.raw) / (inside * (1 - inside))
            by_label = by_label + self.settings.prior / len(labels) * unlikely
        by_label, by_weight = (torch.where(self.movable, slope, 0.0) for slope in (by_label, by_weight))
        if self.settings.learn == "formula":
            inside = labels.clamp(1e-3, 1 - 1e-3)
            self.variable.grad = self.traits.T @ (inside * (1 - inside) * by_label)
        else:
            self.variable.grad = by_label if self.settings.learn == "labels" else by_weight
        self.optimiser.step()
        if self.settings.learn != "formula":
            self.variable.clamp_(0.0, 1.0 if self.settings.learn == "labels" else 2.0)


def choose_iterations(
    train: StepTable, meta: StepTable, settings: Correction, folds: int, rng: np.random.Generator
) -> tuple[int, np.ndarray]:
    """How long to correct: the iteration with the least loss on meta problems that are held out, over `folds` folds.

    Free labels that run to convergence only learn the meta set; this stops them.  Where the best iteration is not
    better than none by more than one standard error over problems, there is nothing to correct, and it is 0.  Returns
    the iteration and the mean held-out loss at each [iterations + 1].
    """
    fold = folds_by_problem(meta.problem, folds, rng)
    losses = np.empty((settings.iterations + 1, len(meta)))
    for k in range(folds):
        outside = fold == k
        losses[:, outside] = correct(train, meta.take(~outside), settings, meta.take(outside)).held_out_losses
    return _where_to_stop(losses, meta.problem), losses.mean(axis=1)


def _where_to_stop(losses: np.ndarray, problems: Sequence[str] | np.ndarray) -> int:
    """The row of `losses` [looks, m] with the least sum; the first, unless that is clearly less."""
    best = int(losses.sum(axis=1).argmin())
    return best if _clearly_less(losses[best], losses[0], problems) else 0


def choose(
    train: StepTable, meta: StepTable, candidates: Sequence[Correction], folds: int, rng: np.random.Generator
) -> tuple[Correction, np.ndarray]:
    """The settings, and the number of iterations, with the least loss on held-out meta problems; and their mean loss
    at each iteration [iterations + 1]."""
    seed = int(rng.integers(2**32))  # the same folds for all
    tried = [(c, *choose_iterations(train, meta, c, folds, np.random.default_rng(seed))) for c in candidates]
    best, stop, curve = min(tried, key=lambda found: found[2][found[1]])
    return replace(best, iterations=stop), curve


@dataclass(frozen=True)
class CorrectedThrough:
    """Correction through a backbone: the training as it ended, after how many iterations, and the mean loss of a
    held-out outcome by iteration."""

    tuned: FineTuned
    iterations: int
    losses: pd.Series


def correct_through(
    backbone: Backbone,
    examples: Sequence[Example],
    meta: Sequence[Example],
    recipe: Recipe,
    folds: int,
    rng: np.random.Generator,
    saved: Path | None = None,
) -> CorrectedThrough:
    """`choose` and `correct` where a part of the backbone trains with the head (`engine.fine_tuning`): up to
    `recipe.iterations`, and as many as held-out meta problems choose.  It takes `folds` + 1 trainings."""
    names = [example.problem.id for example in meta]
    fold = folds_by_problem(names, folds, rng)
    losses = np.empty((len(recipe.looks), len(meta)))
    for k in np.unique(fold):
        inside, outside = ([e for e, out in zip(meta, fold == k, strict=True) if out == held] for held in (False, True))
        losses[:, fold == k] = fine_tune(backbone, examples, recipe, inside, saved, outside).held_out
    stop = recipe.looks[_where_to_stop(losses, names)]
    tuned = fine_tune(backbone, examples, replace(recipe, iterations=stop), meta, saved)
    outcomes = sum(np.isfinite(row).sum() for example in meta for row in example.labels)
    return CorrectedThrough(tuned, stop, pd.Series(losses.sum(axis=1) / outcomes, recipe.looks))


# ------------------------------------------------------------------------------------------------- simpler uses


def recalibrate(
    raw: Head, meta: StepTable, ridges: Sequence[float], folds: int, rng: np.random.Generator
) -> tuple[Head, float]:
    """The raw PRM's logit, scaled and shifted to the clean outcomes (Platt), plus a penalised linear correction.

    The strength of the penalty is chosen among `ridges` by held-out loss over meta problems, the strongest one that is
    not clearly worse than the best.  Returns the sum, which is a head again, and the ridge.
    """
    return by_held_out_loss(lambda rows, ridge: _recalibrated(raw, rows, ridge), meta, ridges, folds, rng)


def _recalibrated(raw: Head, meta: StepTable, ridge: float) -> Head:
    platt = fit_head(raw.logits(meta.states)[:, None], meta.label, 1e-3)
    slope = max(float(platt.weight[0] / platt.scale[0]), 0.0)  # outcomes may weaken the order, not turn it round
    base = Head(slope * raw.weight, slope * raw.bias, raw.mean, raw.scale)
    change = fit_head(meta.states, meta.label, ridge, offset=base.logits(meta.states), like=raw)
    return Head(base.weight + change.weight, base.bias + change.bias, raw.mean, raw.scale)


def by_held_out_loss(
    fit: Callable[[StepTable, float], Head],
    meta: StepTable,
    ridges: Sequence[float],
    folds: int,
    rng: np.random.Generator,
    loss: str = "cross_entropy",
) -> tuple[Head, float]:
    """The head that `fit` makes of the rows, and its ridge: the strongest of `ridges` whose loss on held-out problems
    is not worse than the least one by more than one standard error over problems."""
    fold = folds_by_problem(meta.problem, folds, rng)
    losses = {ridge: np.empty(len(meta)) for ridge in sorted(ridges, reverse=True)}
    for ridge, k in product(losses, range(folds)):
        losses[ridge][fold == k] = outcome_losses(fit(meta.take(fold != k), ridge), meta.take(fold == k), loss)
    least = min(losses.values(), key=np.mean)
    chosen = next(ridge for ridge, found in losses.items() if not _clearly_less(least, found, meta.problem))
    return fit(meta, chosen), chosen


def _clearly_less(losses: np.ndarray, others: np.ndarray, problems: Sequence[str] | np.ndarray) -> bool:
    """Whether the mean of `losses` [m] is less than that of `others` by more than one standard error over problems."""
    gain = pd.Series(others - losses).groupby(np.asarray(problems)).sum()
    return bool(gain.sum() > gain.std() * np.sqrt(len(gain)))


def shrunken(rows: StepTable) -> np.ndarray:
    """Labels drawn to their common mean as far as their own noise warrants: the posterior mean of a Beta-binomial."""
    mine = rows.movable
    a, b = beta_binomial_prior(np.rint(rows.label[mine] * rows.rollouts[mine]), rows.rollouts[mine])
    return (rows.label * rows.rollouts + a) / (rows.rollouts + a + b)


def confident(rows: StepTable) -> np.ndarray:
    """The rows whose label is clearly on one side of 1/2 (90 % interval), and those that may not move [m] bool."""
    low, high = wilson_interval(rows.label * rows.rollouts, rows.rollouts, 0.9)
    return ~rows.movable | (low > 0.5) | (high < 0.5)


def outcome_losses(head: Head, rows: StepTable, loss: str = "cross_entropy") -> np.ndarray:
    """What each row [m] adds to the upper loss of a head, in nats; their mean is that loss.

    Cross-entropy of its score to its label; or, for `pairwise`, half of the loss of each pair that it is in.
    """
    z = head.logits(rows.states)
    if loss != PAIRWISE:
        return np.logaddexp(0, z) - rows.label * z
    pairs = Pairs.within(rows.problem)
    gap = z[pairs.first] - z[pairs.second]
    y, other = rows.label[pairs.first], rows.label[pairs.second]
    losses = pairs.share * (y * (1 - other) * np.logaddexp(0, -gap) + other * (1 - y) * np.logaddexp(0, gap))
    ends = np.concatenate([pairs.first, pairs.second])
    return len(rows) * np.bincount(ends, np.tile(losses / 2, 2), minlength=len(rows))


def _with_bias(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.column_stack([x, np.ones(len(x))]), dtype=torch.float64)


def _ridge_diagonal(width: int) -> torch.Tensor:
    """The penalty's weights [width]: 1, but for the bias, which gets a trace so that an inverse exists."""
    diagonal = torch.ones(width, dtype=torch.float64)
    diagonal[-1] = 1e-6
    return diagonal


# ------------------------------------------------------------------------------------------------- every method


@dataclass(frozen=True)
class Outcome:
    """What a method ends with: a head, and labels of the training rows [m] (None: it has none of its own)."""

    head: Head
    labels: np.ndarray | None = None


Method = Callable[[StepTable, StepTable, Correction, np.random.Generator], Outcome]


def _raw(train: StepTable, _meta: StepTable, settings: Correction, _rng) -> Outcome:
    return Outcome(fit_rows(train, settings.ridge, settings.loss), train.label)


def _relabelled(rule: Callable[[StepTable], np.ndarray]) -> Method:
    def method(train: StepTable, _meta: StepTable, settings: Correction, _rng) -> Outcome:
        rows = train.relabelled(rule(train))
        return Outcome(fit_rows(rows, settings.ridge, settings.loss), rows.label)

    return method


def _confident(train: StepTable, _meta: StepTable, settings: Correction, _rng) -> Outcome:
    kept = confident(train)
    return Outcome(fit_rows(train.take(kept) if kept.any() else train, settings.ridge, settings.loss))


def _meta_only(_train: StepTable, meta: StepTable, settings: Correction, rng) -> Outcome:
    fit = partial(fit_rows, loss=settings.loss)
    return Outcome(by_held_out_loss(fit, meta, RIDGES, 3, rng, settings.loss)[0])


def _joint(train: StepTable, meta: StepTable, settings: Correction, rng) -> Outcome:
    def both(rows: StepTable, ridge: float) -> Head:
        return fit_rows(train.followed_by(rows), ridge, settings.loss)

    return Outcome(by_held_out_loss(both, meta, (0.01, 0.05, 0.2, 1.0), 3, rng, settings.loss)[0])


def _recalibration(train: StepTable, meta: StepTable, settings: Correction, rng) -> Outcome:
    return Outcome(recalibrate(fit_rows(train, settings.ridge, settings.loss), meta, RIDGES, 3, rng)[0])


def correction_method(learn: str, priors: Sequence[float] = (0.0,), stopped: bool = True) -> Method:
    """Correction of `learn` with the prior and the number of iterations that held-out meta problems choose; or, not
    `stopped`, with the first of the priors and all iterations."""

    def method(train: StepTable, meta: StepTable, settings: Correction, rng) -> Outcome:
        candidates = [replace(settings, learn=learn, prior=prior) for prior in priors]
        chosen = choose(train, meta, candidates, 3, rng)[0] if stopped else candidates[0]
        done = correct(train, meta, chosen)
        return Outcome(done.head, done.labels)

    return method


METHODS: dict[str, Method] = {
    "raw labels": _raw,
    "hard labels (any pass)": _relabelled(lambda rows: (rows.label > 0).astype(float)),
    "hard labels (majority)": _relabelled(lambda rows: (rows.label > 0.5).astype(float)),
    "shrunken labels": _relabelled(shrunken),
    "confident labels": _confident,
    "meta only": _meta_only,
    "joint": _joint,
    "recalibrated": _recalibration,
    "corrected": correction_method("labels"),
    "corrected, likelihood": correction_method("labels", PRIORS),
    "corrected, formula": correction_method("formula"),
    "weights": correction_method("weights"),
}
