"""Label correction: the noisy labels of intermediate steps become variables, and clean outcomes teach them.

Lower level: a PRM is fitted to the current labels.  Upper level: the labels change so that the PRM, one lower step
later, predicts the clean outcomes of a meta set (DreamPRM-Code, section 3.3); `engine.hypergradient` has the
derivative.  The released code of the original learns a weight a sample instead.  Both are here, under their own names,
with a way to hold free labels back (their own likelihood), and beside the simpler uses of the same clean outcomes.

`correct` is one loop for whatever scorer is fitted: a linear head (`LinearScorer`), or a head with low-rank matrices in
the backbone beneath it (`engine.fine_tuning.LoraScorer`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from dreamprm_lib.engine import parallel
from dreamprm_lib.engine.fine_tuning import Recipe, smoothed
from dreamprm_lib.engine.hypergradient import (
    BatchLoss,
    Lower,
    Parameters,
    differentiated_step,
    forward_mode,
    linear,
    unrolled,
)
from dreamprm_lib.engine.losses import PAIRWISE, Pairs
from dreamprm_lib.errors import InputError
from dreamprm_lib.reward_model import Head, fit_head, fit_rows, folds_by_problem, platt, standardiser
from dreamprm_lib.steps import StepTable

LEARNED = {"labels": 1.0, "weights": 2.0}  # what may be learned, and its upper bound
RIDGES = (0.01, 0.1, 1.0, 10.0, 100.0, 1e4)  # candidates where a strength is chosen on held-out meta problems
PRIORS = (0.003, 0.03, 0.3)
Fitted = TypeVar("Fitted", covariant=True)


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

    `learn` is `labels` (in [0, 1], started at the MC estimate: the paper) or `weights` (in [0, 2], started at 1: the
    released code).  `meta_lr` is the step size of Adam on them.  `prior` holds a label by its own likelihood: the upper
    loss grows by `prior` times the mean of -log Binomial(k | n, y); 0 is the paper's method.  `smoothing` pulls the
    lower level's labels towards 0.5.

    The other fields are the lower level of a linear head.  `loss` is one of `reward_model.HEAD_LOSSES`, and `ridge` the
    penalty.  The lower step is preconditioned by the inverse of a bound on the Hessian (XᵀX/4n + ridge for a loss by
    step), so that `lr = 1` never overshoots and one step comes near the optimum; `unroll` of them are taken and
    differentiated at each iteration.  It starts at the fit to the raw labels (`warm_start`), or at zero.
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

    @classmethod
    def of(cls, recipe: Recipe) -> Correction:
        """The settings that a recipe of LoRA names."""
        smoothing, loss = recipe.smoothing, recipe.loss
        return cls(iterations=recipe.iterations, meta_lr=recipe.meta_lr, smoothing=smoothing, loss=loss)


class Scorer(Protocol[Fitted]):
    """A model between its two levels.

    Held-out rows are looked at `looks` times at most; `processes` share the work.
    """

    @property
    def looks(self) -> int: ...
    @property
    def processes(self) -> int: ...
    def begin(
        self, train: StepTable, meta: StepTable, held_out: StepTable | None, settings: Correction, labels: torch.Tensor
    ) -> Mapping[str, Any]:
        """The lower level alone, to labels [m].  Of a correction that was broken off: what `keep` was given."""

    def differentiated(
        self, turn: int, labels: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One lower step, and the derivative of the upper loss after it by the label and the weight of each row [m];
        NaN for rows that had no part in it."""

    def look(self) -> np.ndarray:
        """What each row that is held out adds to the upper loss, NaN where it has no outcome."""

    def keep(self, kept: Mapping[str, Any], last: bool) -> None:
        """Remember how far the correction got, in `kept`, for a run that is broken off."""

    def fitted(self) -> Fitted:
        """The model as it is."""


@dataclass(frozen=True)
class Corrected(Generic[Fitted]):
    """The outcome: the fitted head (with what is tuned beneath it), labels and weights [m] as they ended, and the loss
    of each row that was held out, by iteration [looks, rows]."""

    head: Fitted
    labels: np.ndarray
    weights: np.ndarray
    held_out: pd.DataFrame


def correct(
    scorer: Scorer[Fitted],
    train: StepTable,
    meta: StepTable,
    settings: Correction,
    held_out: StepTable | None = None,
) -> Corrected[Fitted]:
    """Learn labels (or weights) of the movable training rows by the meta set's clean outcomes.

    Each iteration takes a lower step, asks how the upper loss after it changes with each label, and moves the labels
    against that by Adam.  `held_out` outcomes teach nothing, and are only looked at.  With `iterations = 0` this is the
    plain fit to the labels that it starts with.
    """
    if settings.learn not in LEARNED:
        raise InputError(f"`learn` is {settings.learn!r}; choose one of {', '.join(LEARNED)}.")
    if scorer.processes > parallel.size() == 1:
        return parallel.launch(scorer.processes, correct, scorer, train, meta, settings, held_out)
    learned, seen = _Learned(train, settings), {}
    if kept := scorer.begin(train, meta, held_out, settings, learned.target()):
        learned.state, seen = kept["learned"], kept["seen"]
    looks = np.linspace(0, settings.iterations, min(scorer.looks, settings.iterations + 1)).round()
    for turn in range(learned.turn, settings.iterations + 1):
        if held_out is not None and turn in looks and turn not in seen:
            seen[turn] = scorer.look().tolist()
        if turn < settings.iterations:
            learned.move(*scorer.differentiated(turn, learned.target(), learned.weights))
            scorer.keep({"learned": learned.state, "seen": seen}, turn + 1 == settings.iterations)
    labels, weights = learned.labels().numpy().copy(), learned.weights.numpy().copy()
    return Corrected(scorer.fitted(), labels, weights, pd.DataFrame.from_dict(seen, "index"))


class _Learned:
    """The upper level's variables, and Adam on them."""

    def __init__(self, train: StepTable, settings: Correction):
        self.settings = settings
        self.raw = torch.tensor(train.label, dtype=torch.float64)
        self.rollouts = torch.tensor(train.rollouts, dtype=torch.float64)
        self.movable = torch.tensor(train.movable)
        start = self.raw.clone() if settings.learn == "labels" else torch.ones_like(self.raw)
        zero, count = torch.zeros_like(start), torch.zeros(1)
        self.state = {"variable": start, "mean": zero, "square": zero.clone(), "turn": count}

    @property
    def turn(self) -> int:
        """How often the variables have moved."""
        return int(self.state["turn"])

    @property
    def weights(self) -> torch.Tensor:
        """The weights as they stand [m]."""
        return self.state["variable"] if self.settings.learn == "weights" else torch.ones_like(self.raw)

    def labels(self) -> torch.Tensor:
        """The labels as they stand [m]."""
        return self.state["variable"] if self.settings.learn == "labels" else self.raw

    def target(self) -> torch.Tensor:
        """What the lower level is fitted to [m]."""
        return smoothed(self.labels(), self.settings.smoothing)

    def move(self, by_label: torch.Tensor, by_weight: torch.Tensor) -> None:
        """One step of Adam against the derivatives of the upper loss by the lower level's labels and weights [m]; those
        that are NaN stay where they are."""
        learn, labels = self.settings.learn, self.labels()
        by_label = (1 - self.settings.smoothing) * by_label
        if self.settings.prior:
            inside = labels.clamp(1e-3, 1 - 1e-3)
            unlikely = self.rollouts * (inside - self.raw) / (inside * (1 - inside))
            by_label = by_label + self.settings.prior / len(labels) * unlikely
        slope = by_weight if learn == "weights" else by_label
        rows = torch.nonzero(self.movable & ~slope.isnan())[:, 0]
        slope = slope[rows]
        self.state["turn"] += 1
        mean, square = self.state["mean"], self.state["square"]
        mean[rows] = 0.9 * mean[rows] + 0.1 * slope
        square[rows] = 0.999 * square[rows] + 0.001 * slope**2
        scale = (square[rows] / (1 - 0.999**self.turn)).sqrt() + 1e-8
        moved = self.state["variable"][rows] - self.settings.meta_lr * mean[rows] / (1 - 0.9**self.turn) / scale
        self.state["variable"][rows] = moved.clamp(0, LEARNED[learn])


def choose(
    scorer: Scorer,
    train: StepTable,
    meta: StepTable,
    candidates: Sequence[Correction],
    folds: int,
    rng: np.random.Generator,
) -> tuple[Correction, pd.Series]:
    """The settings and the number of iterations with the least loss on meta problems that are held out, over `folds`
    folds; and their mean held-out loss by iteration.

    Free labels that run to convergence only learn the meta set; this stops them.  Where the best iteration is not
    better than none by more than one standard error over problems, there is nothing to correct, and it is 0.
    """
    fold = folds_by_problem(meta.problem, folds, np.random.default_rng(int(rng.integers(2**32))))
    tried = []
    for settings in candidates:
        parts = []
        for k in np.unique(fold):
            outside = np.flatnonzero(fold == k)
            found = correct(scorer, train, meta.take(fold != k), settings, meta.take(outside)).held_out
            parts.append(found.set_axis(outside, axis="columns"))
        losses = pd.concat(parts, axis="columns").dropna(axis="columns").sort_index(axis="columns")
        curve = losses.mean(axis="columns")
        stop = int(curve.idxmin())
        if not _clearly_less(losses.loc[stop], losses.loc[0], meta.problem[losses.columns]):
            stop = 0
        tried.append((replace(settings, iterations=stop), curve))
    return min(tried, key=lambda found: found[1][found[0].iterations])


# ------------------------------------------------------------------------------------------------- two scorers


class LinearScorer:
    """A linear head on the states of a table: its logits are X φ.

    The upper loss is that of the clean outcomes: pairwise if the lower one is, else cross-entropy.
    """

    looks, processes = 10**9, 1  # a look costs nothing

    def begin(
        self, train: StepTable, meta: StepTable, held_out: StepTable | None, settings: Correction, labels: torch.Tensor
    ) -> Mapping[str, Any]:
        self.settings, self.held_out = settings, held_out
        self.mean, self.scale = standardiser(train.states)
        x, meta_x = (_with_bias((rows.states - self.mean) / self.scale) for rows in (train, meta))
        self.phi = torch.zeros(x.shape[1], dtype=torch.float64)
        penalty = torch.full_like(self.phi, settings.ridge)
        penalty[-1] *= 1e-6  # the bias is free, but for a trace so that an inverse exists
        share, reach = torch.full((len(x),), 1 / len(x), dtype=torch.float64), x
        loss: str | BatchLoss = settings.loss
        outcomes = torch.tensor(meta.label, dtype=torch.float64)
        outcome_loss = partial(binary_cross_entropy_with_logits, target=outcomes)
        if settings.loss == PAIRWISE:
            pairs = Pairs.within(train.problem)
            loss, share, reach = pairs.loss, torch.tensor(pairs.share), x[pairs.first] - x[pairs.second]
            outcome_loss = partial(Pairs.within(meta.problem).loss, labels=outcomes, weights=torch.ones_like(outcomes))
        bound = reach.T @ (share[:, None] * reach) / 4  # of the lower loss's Hessian
        inverse = torch.linalg.inv(bound + torch.diag(penalty))
        self.meta_loss = lambda p: outcome_loss(meta_x @ p["phi"])
        self.lower = Lower(
            forward=lambda p: x @ p["phi"],
            labels=labels,
            lr=settings.lr,
            loss=loss,
            precondition=lambda gradient: {"phi": inverse @ gradient["phi"]},
            penalty=lambda p: (penalty * p["phi"] ** 2).sum() / 2,
        )
        if settings.warm_start:
            start = fit_rows(replace(train, label=labels.numpy()), settings.ridge, settings.loss)
            self.phi = torch.tensor(np.append(start.weight, start.bias))
        return {}

    def differentiated(
        self, _turn: int, labels: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        lower, phi = replace(self.lower, labels=labels, weights=weights), {"phi": self.phi}
        if self.settings.unroll > 1:
            step = unrolled(lower, phi, self.meta_loss, self.settings.unroll)
        else:
            step = differentiated_step(lower, phi, self.meta_loss, linear)
        self.phi = step.parameters["phi"]
        return step.by_label, step.by_weight

    def look(self) -> np.ndarray:
        return outcome_losses(self.fitted(), self.held_out, self.settings.loss) if self.held_out else np.empty(0)

    def keep(self, _kept: Mapping[str, Any], _last: bool) -> None:
        """Nothing: a correction takes seconds."""

    def fitted(self) -> Head:
        return Head(self.phi[:-1].numpy(), float(self.phi[-1]), self.mean, self.scale)


# ------------------------------------------------------------------------------------------------- simpler uses


def recalibrate(
    raw: Head, meta: StepTable, ridges: Sequence[float], folds: int, rng: np.random.Generator
) -> tuple[Head, float]:
    """The raw PRM's logit, scaled and shifted to the clean outcomes (Platt), plus a penalised linear correction.

    The strength of the penalty is chosen among `ridges` by held-out loss over meta problems, the strongest one that is
    not clearly worse than the best.  Returns the sum, which is a head again, and the ridge.
    """

    def fit(rows: StepTable, ridge: float) -> Head:
        base = raw.mapped(*platt(raw.logits(rows.states), rows.label))
        change = fit_head(rows.states, rows.label, ridge, offset=base.logits(rows.states), like=raw)
        return Head(base.weight + change.weight, base.bias + change.bias, raw.mean, raw.scale)

    return by_held_out_loss(fit, meta, ridges, folds, rng)


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


def _clearly_less(losses: np.ndarray | pd.Series, others: np.ndarray | pd.Series, problems: np.ndarray) -> bool:
    """Whether the mean of `losses` [m] is less than that of `others` by more than one standard error over problems."""
    gain = pd.Series(others - losses).groupby(problems).sum()
    return bool(gain.sum() > gain.std() * np.sqrt(len(gain)))


def outcome_losses(head: Head, rows: StepTable, loss: str = "cross_entropy") -> np.ndarray:
    """What each row [m] adds to the upper loss of a head, in nats; their mean is that loss.

    Cross-entropy of its score to its label; or, for `pairwise`, half of the loss of each pair that it is in.
    """
    z = head.logits(rows.states)
    if loss != PAIRWISE:
        return np.logaddexp(0, z) - rows.label * z
    pairs = Pairs.within(rows.problem)
    labels = torch.tensor(rows.label)
    losses = pairs.losses(torch.tensor(z), labels, torch.ones_like(labels)).numpy()
    ends = np.concatenate([pairs.first, pairs.second])
    return len(rows) * np.bincount(ends, np.tile(losses / 2, 2), minlength=len(rows))


def _with_bias(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.column_stack([x, np.ones(len(x))]), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------- every method


@dataclass(frozen=True)
class Outcome:
    """What a method ends with: a head, and labels of the training rows [m] (None: it has none of its own)."""

    head: Head
    labels: np.ndarray | None = None

    def labels_of(self, train: StepTable) -> np.ndarray:
        """The method's labels of the training rows [m], or else its scores of them."""
        return self.head.scores(train.states) if self.labels is None else self.labels


Method = Callable[[StepTable, StepTable, Correction, np.random.Generator], Outcome]


def _fitted(relabel: Callable[[np.ndarray], np.ndarray]) -> Method:
    """The fit to what `relabel` makes of the training labels [m]."""

    def method(train: StepTable, _meta: StepTable, settings: Correction, _rng) -> Outcome:
        labels = relabel(train.label)
        return Outcome(fit_rows(train.relabelled(labels), settings.ridge, settings.loss), labels)

    return method


def _meta_only(_train: StepTable, meta: StepTable, settings: Correction, rng) -> Outcome:
    """The fit to the meta rows alone, with the ridge that the held-out ones choose."""
    fit = partial(fit_rows, loss=settings.loss)
    return Outcome(by_held_out_loss(fit, meta, RIDGES, 3, rng, settings.loss)[0])


def _recalibration(train: StepTable, meta: StepTable, settings: Correction, rng) -> Outcome:
    return Outcome(recalibrate(fit_rows(train, settings.ridge, settings.loss), meta, RIDGES, 3, rng)[0])


def correction_method(learn: str, priors: Sequence[float] = (0.0,), stopped: bool = True) -> Method:
    """Correction of `learn` with the prior and the number of iterations that held-out meta problems choose; or, not
    `stopped`, with the first of the priors and all iterations."""

    def method(train: StepTable, meta: StepTable, settings: Correction, rng) -> Outcome:
        candidates = [replace(settings, learn=learn, prior=prior) for prior in priors]
        chosen = choose(LinearScorer(), train, meta, candidates, 3, rng)[0] if stopped else candidates[0]
        done = correct(LinearScorer(), train, meta, chosen)
        return Outcome(done.head, done.labels)

    return method


METHODS: dict[str, Method] = {
    "raw labels": _fitted(lambda label: label),
    "hard labels (any pass)": _fitted(lambda label: (label > 0).astype(float)),
    "hard labels (majority)": _fitted(lambda label: (label > 0.5).astype(float)),
    "meta only": _meta_only,
    "recalibrated": _recalibration,
    "corrected": correction_method("labels"),
    "corrected, likelihood": correction_method("labels", PRIORS),
}
