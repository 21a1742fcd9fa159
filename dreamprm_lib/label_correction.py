"""Label correction: the noisy labels of intermediate steps become variables, and clean outcomes teach them.

Lower level: a PRM with parameters φ is fitted to the current labels.  Upper level: the labels change so that the PRM,
one lower step later, predicts the clean outcomes of a meta set (DreamPRM-Code, section 3.3).  The released code of the
original learns a weight a sample instead; both are here, under their own names, beside simpler uses of the same clean
outcomes.

The derivative of the upper loss by all labels at once needs no second derivative.  With one lower step

    φ' = φ - η P ∇φ (1/n) Σᵢ ℓ(zᵢ(φ), yᵢ)        and        v = P ∇φ' L_meta(φ'),

the cross-entropy ℓ has ∂ℓ/∂z = σ(z) - y, so ∂φ'/∂yᵢ = (η/n) P ∇φ zᵢ, and therefore

    ∂L_meta/∂yᵢ = (η/n) ⟨∇φ zᵢ, v⟩ = (η/n) Dᵥ zᵢ :

a directional derivative of the batch's logits along v, computed by one forward-mode product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.special import expit
from torch.func import grad, jvp
from torch.nn.functional import binary_cross_entropy_with_logits

from dreamprm_lib.engine.losses import sample_losses
from dreamprm_lib.errors import InputError
from dreamprm_lib.reward_model import Head, fit_head, folds_by_problem, standardiser

Parameters = dict[str, torch.Tensor]


# ------------------------------------------------------------------------------------------------- hypergradients


@dataclass(frozen=True)
class LowerStep:
    """One lower step, differentiated: the parameters after it, the batch's logits before it, and the logits'
    derivative along v = P ∇L_meta(φ'), both [n]."""

    parameters: Parameters
    logits: torch.Tensor
    along_meta: torch.Tensor


def lower_step(
    forward: Callable[[Parameters], torch.Tensor],
    parameters: Parameters,
    labels: torch.Tensor,
    meta_loss: Callable[[Parameters], torch.Tensor],
    lr: float,
    loss: str = "cross_entropy",
    weights: torch.Tensor | None = None,
    precondition: Callable[[Parameters], Parameters] = lambda gradient: gradient,
    penalty: Callable[[Parameters], torch.Tensor] | None = None,
) -> LowerStep:
    """Take one lower step and the forward-mode product that gives every hypergradient of it.

    `forward` maps parameters to the batch's logits [n]; `labels` [n] in [0, 1]; `weights` [n] (default 1);
    `precondition` is the fixed symmetric linear map P (identity: plain gradient descent); `penalty` is a part of the
    lower loss that no label enters.
    """

    def lower_loss(phi: Parameters) -> torch.Tensor:
        losses = sample_losses(forward(phi), labels, loss)
        value = (losses if weights is None else weights * losses).mean()
        return value + penalty(phi) if penalty else value

    step = precondition(grad(lower_loss)(parameters))
    after = {name: value - lr * step[name] for name, value in parameters.items()}
    direction = precondition(grad(meta_loss)(after))
    logits, along_meta = jvp(forward, (parameters,), (direction,))
    return LowerStep(after, logits, along_meta)


def label_hypergradient(
    forward: Callable[[Parameters], torch.Tensor],
    parameters: Parameters,
    labels: torch.Tensor,
    meta_loss: Callable[[Parameters], torch.Tensor],
    lr: float,
    loss: str = "cross_entropy",
    **options,
) -> torch.Tensor:
    """∂L_meta(φ')/∂yᵢ for every label of the batch [n], exact for one lower step.

    Arguments as in `lower_step`.  Cross-entropy: (η/n) wᵢ Dᵥzᵢ; squared error: (2η/n) wᵢ σ'(zᵢ) Dᵥzᵢ.
    """
    step = lower_step(forward, parameters, labels, meta_loss, lr, loss, **options)
    return _by_label(step, lr, loss, options.get("weights"))


def weight_hypergradient(
    forward: Callable[[Parameters], torch.Tensor],
    parameters: Parameters,
    labels: torch.Tensor,
    meta_loss: Callable[[Parameters], torch.Tensor],
    lr: float,
    loss: str = "cross_entropy",
    **options,
) -> torch.Tensor:
    """∂L_meta(φ')/∂wᵢ for every sample weight of the batch [n]: -(η/n) Dᵥℓᵢ, exact for one lower step."""
    step = lower_step(forward, parameters, labels, meta_loss, lr, loss, **options)
    return _by_weight(step, labels, lr, loss)


def _by_label(step: LowerStep, lr: float, loss: str, weights: torch.Tensor | None) -> torch.Tensor:
    scale = lr / len(step.logits) * (1.0 if weights is None else weights)
    if loss == "mse":
        score = torch.sigmoid(step.logits)
        scale = scale * 2 * score * (1 - score)
    return scale * step.along_meta


def _by_weight(step: LowerStep, labels: torch.Tensor, lr: float, loss: str) -> torch.Tensor:
    slope = grad(lambda z: sample_losses(z, labels, loss).sum())(step.logits)
    return -lr / len(labels) * slope * step.along_meta


# ------------------------------------------------------------------------------------------------- correction


@dataclass(frozen=True)
class Labelled:
    """Rows for a head: features [m, width], labels [m] in [0, 1], the problem of each row, and which labels may move
    (the noisy ones)."""

    features: np.ndarray
    labels: np.ndarray
    problems: list[str]
    movable: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Labelled:
        movable = self.movable[rows] if len(self.movable) else self.movable
        return Labelled(
            self.features[rows], self.labels[rows], [p for p, r in zip(self.problems, rows, strict=True) if r], movable
        )


@dataclass(frozen=True)
class Correction:
    """What label correction does at each iteration.

    `learn` is `labels` (in [0, 1], started at the MC estimate: the paper) or `weights` (in [0, 2], started at 1: the
    released code).  `meta_lr` is the step size of Adam on them.  `smoothing` pulls the lower level's labels towards
    0.5.  `ridge` is the head's penalty.  The lower step is preconditioned by the inverse of a bound on the Hessian,
    XᵀX/4n + ridge, so that `lr = 1` never overshoots and one step comes near the optimum.
    """

    learn: str = "labels"
    iterations: int = 200
    meta_lr: float = 0.02
    lr: float = 1.0
    smoothing: float = 0.1
    ridge: float = 0.1
    loss: str = "cross_entropy"


@dataclass(frozen=True)
class Corrected:
    """The outcome: the fitted head, labels and weights [m] as they ended, and the losses [iterations + 1] on the meta
    set and on rows held out from it (NaN where there are none)."""

    head: Head
    labels: np.ndarray
    weights: np.ndarray
    meta_losses: np.ndarray
    held_out_losses: np.ndarray


def correct(train: Labelled, meta: Labelled, settings: Correction, held_out: Labelled | None = None) -> Corrected:
    """Learn labels (or weights) of the movable training rows by the meta set's clean outcomes.

    With `iterations = 0` this is the plain fit to the raw labels, approached by the same lower steps.
    """
    if settings.learn not in ("labels", "weights"):
        raise InputError(f"`learn` is {settings.learn!r}; choose labels or weights.")
    mean, scale = standardiser(train.features)
    x, meta_x = (_with_bias((rows.features - mean) / scale) for rows in (train, meta))
    meta_y = torch.tensor(meta.labels, dtype=torch.float64)
    movable = torch.tensor(train.movable)
    labels = torch.tensor(train.labels, dtype=torch.float64)
    weights = torch.ones_like(labels)
    learned, top = (labels, 1.0) if settings.learn == "labels" else (weights, 2.0)

    curvature = x.T @ x / (4 * len(x)) + settings.ridge * _ridge_diagonal(x.shape[1])
    inverse = torch.linalg.inv(curvature)
    parameters = {"phi": torch.zeros(x.shape[1], dtype=torch.float64)}

    def one_step(phi: Parameters) -> LowerStep:
        return lower_step(
            forward=lambda p: x @ p["phi"],
            parameters=phi,
            labels=(1 - settings.smoothing) * labels + settings.smoothing / 2,
            meta_loss=lambda p: binary_cross_entropy_with_logits(meta_x @ p["phi"], meta_y),
            lr=settings.lr,
            loss=settings.loss,
            weights=weights,
            precondition=lambda gradient: {"phi": inverse @ gradient["phi"]},
            penalty=lambda p: settings.ridge / 2 * (p["phi"][:-1] ** 2).sum(),
        )

    for _ in range(20):  # warm-up: the lower level alone, to the raw labels
        parameters = one_step(parameters).parameters

    optimiser = torch.optim.Adam([learned], lr=settings.meta_lr)
    meta_losses, held_out_losses = [], []
    for iteration in range(settings.iterations + 1):
        head = Head(parameters["phi"][:-1].numpy(), float(parameters["phi"][-1]), mean, scale)
        meta_losses.append(log_loss(head, meta))
        held_out_losses.append(log_loss(head, held_out) if held_out else float("nan"))
        if iteration == settings.iterations:
            break
        step = one_step(parameters)
        smoothed = (1 - settings.smoothing) * labels + settings.smoothing / 2
        if settings.learn == "labels":
            slope = (1 - settings.smoothing) * _by_label(step, settings.lr, settings.loss, weights)
        else:
            slope = _by_weight(step, smoothed, settings.lr, settings.loss)
        learned.grad = torch.where(movable, slope, 0.0)
        optimiser.step()
        learned.clamp_(0.0, top)
        parameters = step.parameters
    return Corrected(head, labels.numpy(), weights.numpy(), np.array(meta_losses), np.array(held_out_losses))


def stopped(settings: Correction, iterations: int) -> Correction:
    """The same settings with another number of iterations."""
    return replace(settings, iterations=iterations)


def choose_iterations(
    train: Labelled, meta: Labelled, settings: Correction, folds: int, rng: np.random.Generator
) -> tuple[int, np.ndarray]:
    """How long to correct: the iteration with the least loss on meta problems that are held out, over `folds` folds.

    Free labels that run to convergence only learn the meta set; this stops them.  Returns the iteration and the mean
    held-out loss at each [iterations + 1].
    """
    fold = folds_by_problem(meta.problems, folds, rng)
    losses = np.zeros(settings.iterations + 1)
    for k in range(folds):
        outside = fold == k
        losses += correct(train, meta.take(~outside), settings, meta.take(outside)).held_out_losses * outside.mean()
    return int(losses.argmin()), losses


def recalibrate(
    raw: Head, meta: Labelled, ridges: Sequence[float], folds: int, rng: np.random.Generator
) -> tuple[Head, float]:
    """The simple use of the same clean outcomes: the raw PRM's logit as an offset, plus a penalised linear correction.

    Its strength is chosen among `ridges` by held-out loss over meta problems.  Returns the sum of both heads, which is
    a head again, and the ridge.
    """
    fold = folds_by_problem(meta.problems, folds, rng)
    losses = {}
    for ridge in ridges:
        parts = [_shifted(raw, meta.take(fold != k), ridge) for k in range(folds)]
        losses[ridge] = sum(log_loss(head, meta.take(fold == k)) * (fold == k).mean() for k, head in enumerate(parts))
    best = min(losses, key=losses.get)
    return _shifted(raw, meta, best), best


def _shifted(raw: Head, meta: Labelled, ridge: float) -> Head:
    change = fit_head(meta.features, meta.labels, ridge, offset=raw.logits(meta.features), like=raw)
    return Head(raw.weight + change.weight, raw.bias + change.bias, raw.mean, raw.scale)


def log_loss(head: Head, rows: Labelled) -> float:
    """Mean cross-entropy of a head's scores to labels, in nats."""
    z = head.logits(rows.features)
    return float(np.mean(np.logaddexp(0, z) - rows.labels * z))


def _with_bias(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.column_stack([x, np.ones(len(x))]), dtype=torch.float64)


def _ridge_diagonal(width: int) -> torch.Tensor:
    """The penalty's Hessian: the identity but for the bias, which gets a trace of it so that an inverse exists."""
    diagonal = torch.eye(width, dtype=torch.float64)
    diagonal[-1, -1] = 1e-6
    return diagonal


# ------------------------------------------------------------------------------------------------- planted truth

BIASES = ("none", "constant", "by state")


@dataclass(frozen=True)
class PlantedWorld:
    """Real features with a planted truth: the value of each state [m] and its MC label from `rollouts` completions by
    a completer whose values are biased."""

    features: np.ndarray
    values: np.ndarray
    labels: np.ndarray


def planted_world(features: np.ndarray, rollouts: int, bias: str, rng: np.random.Generator) -> PlantedWorld:
    """Plant a value function on features [m, width] and draw labels.

    Value: a sigmoid of a random linear function.  Completer: the values themselves (`none`), half of them
    (`constant`), or a share between 0.15 and 1 that depends on another random direction (`by state`).
    """
    if bias not in BIASES:
        raise InputError(f"There is no bias {bias!r}: choose one of {', '.join(BIASES)}.")
    mean, scale = standardiser(features)
    x = (features - mean) / scale
    direction, other = rng.standard_normal((2, x.shape[1]))
    values = expit(2.0 * _unit_variance(x @ direction))
    share = {"none": 1.0, "constant": 0.5, "by state": 0.15 + 0.85 * expit(3.0 * _unit_variance(x @ other))}[bias]
    labels = rng.binomial(rollouts, values * share) / rollouts
    return PlantedWorld(features, values, labels)


def planted_comparison(
    features: np.ndarray, rollouts: int, bias: str, rng: np.random.Generator, meta_size: int | None = None
) -> list[dict]:
    """One planted world, every method: rows with bias, method, ranking (of held-out states, 0 to 1), label_mse (of the
    labels the method ends with), value_mse (of its scores on held-out states).

    A third of the states trains, a third gives `meta_size` clean outcomes (one draw a state; None: all of them), a
    third is held out.
    """
    world = planted_world(features, rollouts, bias, rng)
    order = rng.permutation(len(features))
    train_rows, meta_rows, test_rows = np.array_split(order, 3)
    meta_rows = meta_rows[:meta_size]
    names = [str(i) for i in range(len(order))]
    train = Labelled(
        world.features[train_rows],
        world.labels[train_rows],
        [names[i] for i in train_rows],
        np.ones(len(train_rows), bool),
    )
    outcomes = rng.binomial(1, world.values[meta_rows]).astype(float)
    meta = Labelled(world.features[meta_rows], outcomes, [names[i] for i in meta_rows])
    settings = Correction(iterations=60, meta_lr=0.04, ridge=0.05, smoothing=0.0)
    stop, _ = choose_iterations(train, meta, settings, 3, rng)
    corrected = correct(train, meta, stopped(settings, stop))
    raw = fit_head(train.features, train.labels, settings.ridge)
    heads = {
        "raw labels": (raw, train.labels),
        "corrected": (corrected.head, corrected.labels),
        "recalibrated": (recalibrate(raw, meta, (0.1, 1.0, 10.0, 1e4), 3, rng)[0], None),
        "meta only": (fit_head(meta.features, meta.labels, settings.ridge), None),
    }
    truth = world.values[test_rows]
    rows = []
    for method, (head, labels) in heads.items():
        scores = head.scores(world.features[test_rows])
        if labels is None:
            labels = head.scores(train.features)
        rows.append(
            {
                "bias": bias,
                "method": method,
                "ranking": pair_ranking(scores, truth),
                "label_mse": float(np.mean((labels - world.values[train_rows]) ** 2)),
                "value_mse": float(np.mean((scores - truth) ** 2)),
            }
        )
    return rows


def pair_ranking(scores: np.ndarray, values: np.ndarray) -> float:
    """The chance that of two states the one of higher value has the higher score (ties count half)."""
    higher = np.sign(values[:, None] - values[None])
    agree = np.sign(scores[:, None] - scores[None]) * higher
    return float((agree[higher != 0].mean() + 1) / 2)


def principal_components(features: np.ndarray, count: int) -> np.ndarray:
    """Features [m, width] projected on their first principal components [m, count], each with unit variance."""
    mean, scale = standardiser(features)
    centred = (features - mean) / scale
    left, _, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, :count] * np.sqrt(len(features))


def _unit_variance(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / x.std()
