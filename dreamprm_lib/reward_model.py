"""The reward model: a causal LM reads the problem and the program, and gives each step a score in [0, 1].

A backbone with frozen weights (`engine/backbone.py`) turns each prefix into one feature vector, for all steps of all
candidates in one pass, and a linear head with a sigmoid turns that into a score.  Trained on Monte-Carlo labels of all
steps the model is PRM-CoF; trained on whole programs alone it is the ORM (DreamPRM-Code, section 3.2).  LoRA
matrices can be trained with the head (`engine/fine_tuning.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field, Json
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from scipy.optimize import minimize
from scipy.sparse import csr_matrix, identity
from scipy.special import expit, logit

from dreamprm_lib.chain_of_functions import split_steps
from dreamprm_lib.engine.backbone import Backbone, Template, Tuning, layer_count
from dreamprm_lib.engine.files import DATA, from_json, write_atomically
from dreamprm_lib.engine.foreign import foreign_model
from dreamprm_lib.engine.losses import LOSSES, PAIRWISE, Pairs, check_loss
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.engine.released import TEMPLATE as RELEASED_TEMPLATE
from dreamprm_lib.engine.released import read_released
from dreamprm_lib.engine.schema import Form, checked, row_of
from dreamprm_lib.errors import InputError, WeightsError
from dreamprm_lib.evidence.statistics import numbers
from dreamprm_lib.steps import StepTable, in_order, viewed
from dreamprm_lib.study.rows import Program, StepLabel

if TYPE_CHECKING:
    from dreamprm_lib.engine.fine_tuning import FineTuned

FORMAT = "dreamprm-reward-model-4"
# A small PRM that is shipped (SmolLM2-135M, layer 2): the tour uses it, and it steered the recorded searches.
SMALL_PRM = DATA / "small_prm.safetensors"
HEAD = ("weight", "bias", "mean", "scale")
HEAD_LOSSES = (*LOSSES, PAIRWISE)
FINE_TUNED = ("orm", "prm_cof", "dreamprm_code")
AGGREGATIONS: dict[str, Callable[[np.ndarray], float]] = {
    "mean": np.mean,
    "min": np.min,
    "product": np.prod,
    "last": lambda p: p[-1],
    "log_odds": lambda p: np.mean(logit(np.clip(p, 1e-6, 1 - 1e-6))),
}


# ------------------------------------------------------------------------------------------------- the head


@dataclass(frozen=True)
class Head:
    """A linear head on standardised features: score = sigmoid(weight · (x - mean) / scale + bias).  Arrays [width]."""

    weight: np.ndarray
    bias: float
    mean: np.ndarray
    scale: np.ndarray

    def standardise(self, features: np.ndarray) -> np.ndarray:
        return (features - self.mean) / self.scale

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits [m] of features [m, width]."""
        return self.standardise(features) @ self.weight + self.bias

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Scores [m] in [0, 1] of features [m, width]."""
        return expit(self.logits(features))

    def mapped(self, stretch: float, shift: float) -> Head:
        """The head whose logit is `stretch` times this one's plus `shift`."""
        return Head(stretch * self.weight, stretch * self.bias + shift, self.mean, self.scale)

    @classmethod
    def bare(cls, weight: np.ndarray, bias: float) -> Head:
        """A head on features as they are."""
        return cls(weight, bias, np.zeros(len(weight)), np.ones(len(weight)))


def standardiser(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale [width] of features [m, width]; a constant feature has scale 1."""
    scale = features.std(axis=0)
    return features.mean(axis=0), np.where(scale > 1e-8, scale, 1.0)


def fit_head(
    features: np.ndarray,
    labels: np.ndarray,
    ridge: float,
    offset: np.ndarray | None = None,
    like: Head | None = None,
    loss: str = "cross_entropy",
    problems: Sequence[str] = (),
) -> Head:
    """The head that minimises a mean loss to soft labels plus `ridge/2 · |weight|²`.

    `features` [m, width]; `labels` [m] in [0, 1]; `offset` [m] is added to the logits and not trained; `like` gives
    mean and scale instead of these features' own.  `loss` is cross-entropy, `pairwise` (`engine.losses.Pairs`, within
    the `problems` [m], which is cross-entropy of the gaps between logits; the bias is then 0), whose problems are
    convex, or `mse`, the squared error of the score (the original's), which is not.  All are solved by Newton's method
    with conjugate gradients, with the Gauss-Newton curvature.  Raises `InputError` for what is no such number, by its
    row.
    """
    check_loss(loss, HEAD_LOSSES)
    features, labels = numbers("features", features, finite=True), numbers("labels", labels)
    if strange := [i for i, label in enumerate(labels) if not 0 <= label <= 1]:
        raise InputError(f"labels: row {strange[0]} holds {labels[strange[0]]} where a label in [0, 1] was expected.")
    if len(features) != len(labels) or len(labels) == 0:
        raise InputError(f"A head needs one label for each feature row, not {len(labels)} for {len(features)}.")
    mean, scale = (like.mean, like.scale) if like else standardiser(features)
    x = np.column_stack([(features - mean) / scale, np.ones(len(features))])
    shift = np.zeros(len(x)) if offset is None else numbers("offset", offset, finite=True)
    penalty = np.append(np.full(x.shape[1] - 1, ridge), 0.0)  # the bias is free
    gaps = identity(len(x), format="csr")  # what the loss reads of the logits
    share = np.full(len(x), 1 / len(x))
    if loss == PAIRWISE:
        pairs = Pairs.within(problems)
        rows, ends = np.tile(np.arange(len(pairs.share)), 2), np.append(pairs.first, pairs.second)
        gaps = csr_matrix((np.repeat([1.0, -1.0], len(pairs.share)), (rows, ends)), (len(pairs.share), len(x)))
        up, down = (labels[i] * (1 - labels[j]) for i, j in ((pairs.first, pairs.second), (pairs.second, pairs.first)))
        share = pairs.share * (up + down)
        labels = np.divide(up, up + down, out=np.zeros(len(up)), where=up + down > 0)
    steep = (lambda p: 2 * p * (1 - p)) if loss == "mse" else np.ones_like

    def value(beta: np.ndarray) -> float:
        z = gaps @ (x @ beta + shift)
        losses = (expit(z) - labels) ** 2 if loss == "mse" else np.logaddexp(0, z) - labels * z
        return float(share @ losses + penalty @ beta**2 / 2)

    def slope(beta: np.ndarray) -> np.ndarray:
        p = expit(gaps @ (x @ beta + shift))
        return x.T @ (gaps.T @ (share * (p - labels) * steep(p))) + penalty * beta

    def curvature(beta: np.ndarray, direction: np.ndarray) -> np.ndarray:
        p = expit(gaps @ (x @ beta + shift))
        return x.T @ (gaps.T @ (share * p * (1 - p) * steep(p) * (gaps @ (x @ direction)))) + penalty * direction

    start = np.zeros(x.shape[1])
    beta = minimize(value, start, jac=slope, hessp=curvature, method="Newton-CG", options={"xtol": 1e-9}).x
    return Head(beta[:-1], 0.0 if loss == PAIRWISE else float(beta[-1]), mean, scale)


def platt(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """How to stretch and shift logits [m] so that their sigmoids are probabilities of the labels [m] (Platt 1999).

    The logits are best those of heads on problems that they did not see; `labels` lie in [0, 1].  The stretch is
    positive, so that the order of scores stays.
    """
    fitted = fit_head(np.asarray(logits)[:, None], labels, 1e-6)
    slope = float(fitted.weight[0] / fitted.scale[0])
    return max(slope, 1e-6), fitted.bias - slope * float(fitted.mean[0])


@dataclass(frozen=True)
class RewardModel:
    """A backbone with the layers that are read, the views of a step that are read there, and a head on them.

    `about` says how it was trained and is kept in the checkpoint.
    """

    backbone: Backbone
    head: Head
    about: dict = field(default_factory=dict)
    views: tuple[str, ...] = ("last",)

    def states(self, problem: Problem, programs: Sequence[str]) -> list[np.ndarray]:
        """What the head reads of each step of each program: arrays [steps, width]."""
        texts = [[step.text for step in split_steps(code)] for code in programs]
        states = self.backbone.features(problem, texts)
        return [viewed(s, range(len(self.backbone.layers)), self.views) for s in states]

    def score(self, problem: Problem, programs: Sequence[str]) -> list[list[float]]:
        """The score of every step of every program, in [0, 1].  An empty program has no steps and no scores."""
        states = self.states(problem, programs)
        if strange := [s.shape[1] for s in states if len(s) and s.shape[1] != len(self.head.weight)]:
            raise WeightsError(
                f"The head reads states of {len(self.head.weight)} numbers, and {self.backbone.name} gives "
                f"{strange[0]}: it was trained on another backbone."
            )
        return [self.head.scores(s).tolist() if len(s) else [] for s in states]

    def save(self, path: Path | str) -> None:
        """Write the checkpoint: head and tuning as safetensors, and in the metadata the backbone with its digest, the
        layer, the precision, the template and `about`."""
        tuning = self.backbone.tuning
        metadata = {
            "format": FORMAT,
            "backbone": self.backbone.name,
            "backbone_digest": self.backbone.digest,
            "layers": json.dumps(self.backbone.layers),
            "views": json.dumps(self.views),
            "dtype": self.backbone.dtype,
            "template": json.dumps(asdict(self.backbone.template)),
            "alpha": str(tuning.alpha if tuning else 0.0),
            "about": json.dumps(self.about, sort_keys=True),
        }
        head = asdict(self.head) | {"bias": np.array([self.head.bias])}
        tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in head.items()}
        tensors |= {name: t.contiguous() for name, t in (tuning.tensors() if tuning else {}).items()}
        write_atomically(Path(path), _in_order(save(tensors, metadata)))

    @classmethod
    def load(cls, path: Path | str) -> RewardModel:
        """Read a checkpoint.

        What is no file, and not called `….safetensors`, names a reward model of another project (`engine.foreign`).
        Raises `WeightsError` if it is no such file, holds what no training gives (NaN, a scale of zero, shapes that do
        not fit), or was made with other weights under the backbone's name.
        """
        if Path(path).suffix != ".safetensors" and not Path(path).is_file():
            head = Head.bare(np.ones(1), 0.0)  # the score is the sigmoid of the model's logit
            return cls(foreign_model(str(path)), head, {"model": str(path)})
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except FileNotFoundError as error:
            raise WeightsError(f"There is no checkpoint {path}. Notebook 04 makes those of a study.") from error
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path} is not a whole safetensors file ({error}). Run notebook 04 again.") from error
        if metadata.get("format") != FORMAT:
            raise WeightsError(
                f"{path} is of format {metadata.get('format')!r}, not {FORMAT!r}: not a checkpoint of this version of "
                "the suite. Train it again with notebook 04."
            )
        try:
            said = checked(_Metadata, metadata, path)
            template = row_of(Template, from_json(said.template, path), path)
            about = from_json(said.about, path)
            tuning = Tuning.of_tensors(tensors, said.alpha, path)
            backbone = Backbone(said.backbone, tuple(said.layers), template, tuning, said.dtype)
        except InputError as error:
            raise WeightsError(f"{error} Train the checkpoint again with notebook 04.") from error
        _refuse_strange(path, tensors)
        if backbone.digest != said.backbone_digest:
            raise WeightsError(
                f"{path} was trained on other weights of {backbone.name} (digest {said.backbone_digest[:12]}…, "
                f"here {backbone.digest[:12]}…). Fetch those, or train it again."
            )
        weight, mean, scale = (tensors[name].numpy() for name in ("weight", "mean", "scale"))
        return cls(backbone, Head(weight, float(tensors["bias"][0]), mean, scale), about, tuple(said.views))

    @classmethod
    def of_tuned(cls, backbone: Backbone, tuned: FineTuned, about: dict) -> RewardModel:
        """What `engine.fine_tuning` made of a backbone, as a reward model; `about` gets its losses."""
        head = Head.bare(tuned.weight, tuned.bias)
        return cls(replace(backbone, tuning=tuned.tuning), head, about | {"losses": tuned.losses})

    @classmethod
    def from_released(cls, path: Path | str, backbone: str, alpha: float = 16.0) -> RewardModel:
        """The reward model of a checkpoint of the original project, `reward_model_step_*.pt`, read without running
        anything in it.  `backbone` is the model that it was trained on; see `engine.released` for what is refused."""
        tuning, weight, bias = read_released(path, backbone, alpha)
        eye = Backbone(backbone, (layer_count(backbone),), RELEASED_TEMPLATE, tuning)
        return cls(eye, Head.bare(weight.numpy(), bias), {"released": Path(path).name, "alpha": alpha})


class _Metadata(Form, extra="ignore", strict=False, allow_inf_nan=False):
    """The metadata of a checkpoint; all values are stored as text."""

    backbone: str
    backbone_digest: str
    layers: Json[list[Annotated[int, Field(ge=0)]]]
    views: Json[list[Literal["last", "step", "prefix"]]]
    dtype: str
    template: str
    alpha: float
    about: str


def _refuse_strange(path: Path | str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise `WeightsError` unless the tensors can be a head and what was tuned with it."""
    shapes = {name: tuple(tensors[name].shape) if name in tensors else None for name in HEAD}
    width = shapes["weight"]
    if shapes != {"weight": width, "bias": (1,), "mean": width, "scale": width} or len(width or ()) != 1:
        raise WeightsError(f"{path}: the head's shapes {shapes} do not fit together. Train it again with notebook 04.")
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"{path}: {name} holds values that are no numbers. Train it again with notebook 04.")
    if not bool((tensors["scale"] > 0).all()):
        raise WeightsError(f"{path}: `scale` holds zero or less. Train it again with notebook 04.")


def _in_order(data: bytes) -> bytes:
    """A safetensors file with its header in the order of names, so that equal models are equal files."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    packed = header.encode()
    packed += b" " * (-len(packed) % 8)  # the tensors behind it are aligned
    return len(packed).to_bytes(8, "little") + packed + data[8 + size :]


def training_programs(
    problems: Mapping[str, Problem], solutions: Sequence[Program], labels: Sequence[StepLabel]
) -> tuple[list[Program], list[Program]]:
    """The programs that reward models learn from, in the order of a step table's rows: those that have labels, and
    those of the meta problems, whose outcomes are clean."""
    known = {(x.problem, x.sample) for x in labels}
    train = [p for p in solutions if (p.problem, p.sample) in known]
    meta = [p for p in solutions if problems[p.problem].split == "meta" and p.steps]
    return in_order(train), in_order(meta)


def training_tables(
    problems: Mapping[str, Problem], solutions: Sequence[Program], labels: Sequence[StepLabel], method: str
) -> tuple[StepTable, StepTable]:
    """What a method is fine-tuned on, and the clean outcomes that teach its labels.

    `orm` learns from whole programs alone, `prm_cof` from every labelled step, `dreamprm_code` from the same steps and
    the outcomes of the meta problems' programs.  Raises `InputError` for another method.
    """
    if method not in FINE_TUNED:
        raise InputError(f"{method!r} is not fine-tuned: choose one of {', '.join(FINE_TUNED)}.")
    train, meta = training_programs(problems, solutions, labels)
    table = StepTable.join(problems, train, labels)
    return table.with_outcomes() if method == "orm" else table, StepTable.join(problems, meta).with_outcomes()


def aggregate(steps: Sequence[float], how: str = "mean") -> float:
    """One score for a program from its step scores in [0, 1]; an empty program gets minus infinity.

    `log_odds` is the mean of log(p / (1 - p)), with p kept 1e-6 away from 0 and 1.  Raises `InputError` for NaN.
    """
    if how not in AGGREGATIONS:
        raise InputError(f"There is no aggregation {how!r}: choose one of {', '.join(AGGREGATIONS)}.")
    if not len(steps):
        return float("-inf")
    return float(AGGREGATIONS[how](numbers("step scores", steps)))


# ------------------------------------------------------------------------------------------------- evidence


def within_problem_ranking(scores: np.ndarray, truth: np.ndarray, problems: Sequence[str]) -> dict[str, float]:
    """For each mixed problem, the chance that the better of two candidates scores higher; ties of scores count half.

    Best-of-N uses nothing else of a score: a problem where all candidates pass or all fail says nothing and is left
    out.  `scores` [m]; `truth` [m], which says what is better: whether a candidate passes, or the value of a prefix;
    `problems` [m].  Chance level is 0.5.
    """
    scores, truth = numbers("scores", scores), numbers("truth", truth)
    owners = np.asarray(problems)
    ranking = {}
    for problem in dict.fromkeys(problems):
        z, y = scores[owners == problem], truth[owners == problem]
        better, worse = np.nonzero(y[:, None] > y)
        if len(better):
            ranking[problem] = float((z[better] > z[worse]).mean() + 0.5 * (z[better] == z[worse]).mean())
    return ranking


def folds_by_problem(problems: Sequence[str] | np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """A fold number for each row, so that all rows of a problem share it."""
    names = list(dict.fromkeys(problems))
    fold_of = dict(zip(rng.permutation(names), np.arange(len(names)) % folds, strict=True))
    return np.array([fold_of[p] for p in problems])


def cross_validated_logits(
    rows: StepTable, ridge: float, folds: np.ndarray, train_on: np.ndarray, loss: str = "cross_entropy"
) -> np.ndarray:
    """Out-of-fold logits [m]: each problem's rows are judged by a head that never saw that problem.

    `train_on` [m] selects the rows that heads learn from (the ORM learns from last steps alone); all are judged.
    """
    logits = np.empty(len(rows))
    for fold in np.unique(folds):
        held_out = folds == fold
        head = fit_rows(rows.take(train_on & ~held_out), ridge, loss)
        logits[held_out] = head.logits(rows.states[held_out])
    return logits


def fit_rows(rows: StepTable, ridge: float, loss: str = "cross_entropy") -> Head:
    """`fit_head` on the rows of a step table."""
    return fit_head(rows.states, rows.label, ridge, loss=loss, problems=list(rows.problem))


# ------------------------------------------------------------------------------------------------- calibration


def reliability(scores: np.ndarray, outcomes: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """What scores promise and what comes of them, in `bins` bins of equal width; empty bins are left out.

    `scores` [m] and `outcomes` [m] in [0, 1].  Columns: score (mean), outcome (mean), rows.  A program is its policy's
    own continuation of each of its prefixes, so its verdict is an outcome for every one of its steps.
    """
    scores, outcomes = np.asarray(scores, float), np.asarray(outcomes, float)
    where = np.minimum((scores * bins).astype(int), bins - 1)
    table = pd.DataFrame({"score": scores, "outcome": outcomes, "rows": 1})
    return table.groupby(where).agg({"score": "mean", "outcome": "mean", "rows": "sum"}).reset_index(drop=True)


def calibration_error(scores: np.ndarray, outcomes: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: the mean distance of score and outcome over the rows of `reliability`.

    Chance alone makes it positive, and the more so the fewer rows there are.
    """
    table = reliability(scores, outcomes, bins)
    return float(np.average((table.score - table.outcome).abs(), weights=table.rows))
