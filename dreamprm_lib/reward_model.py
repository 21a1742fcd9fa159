"""The reward model: a causal LM reads the problem and the program, and gives each step a score in [0, 1].

A backbone with frozen weights turns each step into one feature vector (the hidden state of the step's last token), and
a linear head with a sigmoid turns that into a score.  A causal model has computed every prefix when it has read the
whole program, so one pass scores all steps.  Trained on Monte-Carlo labels of all steps the model is PRM-CoF; trained
on whole programs alone it is the ORM (DreamPRM-Code, section 3.2).

Not covered here: fine-tuning of the backbone's own weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from joblib import Memory
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from scipy.optimize import minimize
from scipy.special import expit

from dreamprm_lib.artifacts import file_digest
from dreamprm_lib.chain_of_functions import split_steps
from dreamprm_lib.engine.completions import write_atomically
from dreamprm_lib.engine.problems import Problem, describe
from dreamprm_lib.engine.weights import WEIGHTS, cache_dir, safetensors_folder
from dreamprm_lib.errors import InputError, WeightsError

log = logging.getLogger(__name__)

TEMPLATE = "Problem:\n{statement}\n\nProgram:\n"  # the steps follow, each tokenised apart
MAX_TOKENS = 2048
FEATURE_CACHE_BYTES = 2 * 1024**3


# ------------------------------------------------------------------------------------------------- the backbone


@dataclass(frozen=True)
class Backbone:
    """A frozen causal LM, read after the layers in `layers` (0 is the embedding; layers count from 1).

    `name` is a pinned model of `engine.weights`, or a folder or hub name that `transformers` can open.  Layers above
    the highest one that is asked for are never computed.
    """

    name: str
    layers: tuple[int, ...]

    @property
    def digest(self) -> str:
        """Names the weights: SHA-256 of a pinned model or of a folder's weight files, commit of a model on the hub."""
        return WEIGHTS[self.name].sha256 if self.name in WEIGHTS else _digest(self.name)

    def features(self, problem: Problem, programs: Sequence[str]) -> list[np.ndarray]:
        """Hidden states at the end of each step: an array [steps, layers, width], float32, for each program.

        The statement is computed once for all programs of a problem, and each program once for all its steps.
        Results are kept on disk by content; `FEATURE_CACHE_BYTES` bounds the folder.
        """
        steps = [[step.text for step in split_steps(code)] for code in programs]
        return _cached_features()(self.digest, TEMPLATE, self.name, self.layers, describe(problem), steps)


@cache
def _digest(name: str) -> str:
    from transformers import AutoConfig

    files = sorted(Path(name).glob("*.safetensors"))
    if files:
        return hashlib.sha256("".join(file_digest(f) for f in files).encode()).hexdigest()
    return AutoConfig.from_pretrained(name)._commit_hash or hashlib.sha256(name.encode()).hexdigest()


@cache
def _cached_features():
    memory = Memory(cache_dir() / "features", verbose=0)
    memory.reduce_size(bytes_limit=FEATURE_CACHE_BYTES)
    return memory.cache(_features, ignore=["name"])


def _features(
    digest: str, template: str, name: str, layers: tuple[int, ...], statement: str, programs: list[list[str]]
) -> list[np.ndarray]:
    tokenizer, model = _open_model(name, max(layers))
    head = tokenizer(template.format(statement=statement), add_special_tokens=False).input_ids
    bodies = [
        [tokenizer(text, add_special_tokens=False).input_ids or [tokenizer.eos_token_id] for text in steps]
        for steps in programs
    ]
    longest = max((sum(map(len, body)) for body in bodies), default=0)
    head = _cut_middle(head, MAX_TOKENS - longest)
    ends = [np.cumsum([len(ids) for ids in body]) - 1 for body in bodies]

    filled = [i for i, body in enumerate(bodies) if body]
    states: list[np.ndarray] = [np.zeros((0, len(layers), model.config.hidden_size), np.float32)] * len(bodies)
    if not filled:
        return states
    flat = [torch.tensor([token for ids in bodies[i] for token in ids]) for i in filled]
    # What pads a row stands after all that it reads, so a causal model needs no mask for it.
    body = torch.nn.utils.rnn.pad_sequence(flat, batch_first=True).to(model.device)
    with torch.inference_mode():
        cached = model(input_ids=torch.tensor([head], device=model.device), use_cache=True).past_key_values
        cached.batch_repeat_interleave(len(filled))
        hidden = model(input_ids=body, past_key_values=cached, use_cache=True, output_hidden_states=True).hidden_states
    for row, i in enumerate(filled):
        picked = [hidden[layer][row, ends[i]].float().cpu().numpy() for layer in layers]
        states[i] = np.stack(picked, axis=1)
    return states


def _cut_middle(tokens: list[int], room: int) -> list[int]:
    """The first and last tokens that fit into `room`; a statement loses its middle, and the loss is logged."""
    if len(tokens) <= room:
        return tokens
    if room < 64:
        raise InputError(f"A program leaves {room} of {MAX_TOKENS} tokens for its statement; at least 64 are needed.")
    log.warning("a statement of %d tokens was cut in its middle to %d", len(tokens), room)
    return tokens[: room // 2] + tokens[len(tokens) - (room - room // 2) :]


@cache
def _open_model(name: str, layers: int | None = None):
    """Tokenizer and decoder, cut after `layers` layers and without the final norm; bf16 where it is fast."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging as reports

    reports.set_verbosity_error()  # it would report the language-model head, which a reward model does not need
    reports.disable_progress_bar()
    source = str(safetensors_folder(name)) if name in WEIGHTS else name
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModel.from_pretrained(source, dtype=fast_dtype()).eval().requires_grad_(False)
    if layers is not None:
        if layers > len(model.layers):
            raise InputError(f"{name} has {len(model.layers)} layers; layer {layers} was asked for.")
        model.layers = model.layers[:layers]
        model.norm = torch.nn.Identity()
    if torch.cuda.is_available():
        model = model.cuda()
    return tokenizer, model


def fast_dtype() -> torch.dtype:
    """bfloat16 where the device computes it natively (GPUs; CPUs with AVX512-BF16 or AMX), else float32."""
    if torch.cuda.is_available():
        return torch.bfloat16
    native = getattr(torch.backends.cpu, "get_cpu_capability", lambda: "")()
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return torch.bfloat16 if "AVX512" in native and "avx512_bf16" in flags else torch.float32


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


def standardiser(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale [width] of features [m, width]; a constant feature has scale 1."""
    scale = features.std(axis=0)
    return features.mean(axis=0), np.where(scale > 1e-8, scale, 1.0)


def fit_head(
    features: np.ndarray,
    labels: np.ndarray,
    ridge: float,
    weights: np.ndarray | None = None,
    offset: np.ndarray | None = None,
    like: Head | None = None,
) -> Head:
    """The head that minimises mean weighted cross-entropy to soft labels plus ridge/2 · |weight|².

    `features` [m, width]; `labels` [m] in [0, 1]; `weights` [m] >= 0 (default 1); `offset` [m] is added to the logits
    and not trained; `like` gives mean and scale instead of these features' own.  The problem is convex, and
    is solved by Newton's method with conjugate gradients.
    """
    if len(features) != len(labels) or len(labels) == 0:
        raise InputError(f"A head needs one label for each feature row, not {len(labels)} for {len(features)}.")
    mean, scale = (like.mean, like.scale) if like else standardiser(features)
    x = np.column_stack([(features - mean) / scale, np.ones(len(features))])
    w = np.ones(len(x)) if weights is None else np.asarray(weights, float)
    shift = np.zeros(len(x)) if offset is None else np.asarray(offset, float)
    penalty = np.append(np.full(x.shape[1] - 1, ridge), 0.0)  # the bias is free

    def loss(beta: np.ndarray) -> float:
        z = x @ beta + shift
        return float(w @ (np.logaddexp(0, z) - labels * z) / len(x) + penalty @ beta**2 / 2)

    def slope(beta: np.ndarray) -> np.ndarray:
        return x.T @ (w * (expit(x @ beta + shift) - labels)) / len(x) + penalty * beta

    def curvature(beta: np.ndarray, direction: np.ndarray) -> np.ndarray:
        p = expit(x @ beta + shift)
        return x.T @ (w * p * (1 - p) * (x @ direction)) / len(x) + penalty * direction

    start = np.zeros(x.shape[1])
    beta = minimize(loss, start, jac=slope, hessp=curvature, method="Newton-CG", options={"xtol": 1e-9}).x
    return Head(beta[:-1], float(beta[-1]), mean, scale)


@dataclass(frozen=True)
class RewardModel:
    """A backbone, one of its layers, and a head.  `about` tells how it was trained and is kept in the checkpoint."""

    backbone: Backbone
    head: Head
    about: dict = field(default_factory=dict)

    def score(self, problem: Problem, programs: Sequence[str]) -> list[list[float]]:
        """The score of every step of every program, in [0, 1].  An empty program has no steps and no scores."""
        states = self.backbone.features(problem, programs)
        return [self.head.scores(s[:, 0]).tolist() if len(s) else [] for s in states]

    def save(self, path: Path | str) -> None:
        """Write the checkpoint: head as safetensors, and in its metadata the backbone with its digest, the layer, the
        template and `about`."""
        metadata = {
            "format": "dreamprm-head-1",
            "backbone": self.backbone.name,
            "backbone_digest": self.backbone.digest,
            "layer": str(self.backbone.layers[0]),
            "template": TEMPLATE,
            "about": json.dumps(self.about, sort_keys=True),
        }
        tensors = {
            "weight": self.head.weight,
            "bias": np.array([self.head.bias]),
            "mean": self.head.mean,
            "scale": self.head.scale,
        }
        tensors = {name: np.ascontiguousarray(value, dtype=np.float64) for name, value in tensors.items()}
        write_atomically(Path(path), save(tensors, metadata))

    @classmethod
    def load(cls, path: Path | str) -> RewardModel:
        """Read a checkpoint.  Raises `WeightsError` if it is no such file, was made with another template, or with
        other weights under the backbone's name."""
        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except FileNotFoundError as error:
            raise WeightsError(f"There is no checkpoint {path}. Notebook 04 makes those of a study.") from error
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path} is not a whole safetensors file ({error}). Run notebook 04 again.") from error
        if metadata.get("format") != "dreamprm-head-1":
            raise WeightsError(f"{path} is not a checkpoint of this suite: its format is {metadata.get('format')!r}.")
        if metadata["template"] != TEMPLATE:
            raise WeightsError(f"{path} was trained with another template. Train it again with notebook 04.")
        backbone = Backbone(metadata["backbone"], (int(metadata["layer"]),))
        if backbone.digest != metadata["backbone_digest"]:
            raise WeightsError(
                f"{path} was trained on other weights of {backbone.name} (digest {metadata['backbone_digest'][:12]}…, "
                f"here {backbone.digest[:12]}…). Fetch those, or train it again."
            )
        head = Head(tensors["weight"], float(tensors["bias"][0]), tensors["mean"], tensors["scale"])
        return cls(backbone, head, json.loads(metadata["about"]))


# ------------------------------------------------------------------------------------------------- evidence


def within_problem_ranking(scores: np.ndarray, passed: np.ndarray, problems: Sequence[str]) -> dict[str, float]:
    """For each mixed problem, the chance that a passing candidate outranks a failing one; ties count half.

    Best-of-N uses nothing else of a score: a problem where all candidates pass or all fail says nothing and is left
    out.  `scores` [m], `passed` [m] bool, `problems` [m].  Chance level is 0.5.
    """
    scores, passed = np.asarray(scores, float), np.asarray(passed, bool)
    owners = np.asarray(problems)
    ranking = {}
    for problem in dict.fromkeys(problems):
        mine = owners == problem
        good, bad = scores[mine & passed], scores[mine & ~passed]
        if len(good) and len(bad):
            wins = (good[:, None] > bad).mean() + 0.5 * (good[:, None] == bad).mean()
            ranking[problem] = float(wins)
    return ranking


def folds_by_problem(problems: Sequence[str], folds: int, rng: np.random.Generator) -> np.ndarray:
    """A fold number for each row, so that all rows of a problem share it."""
    names = list(dict.fromkeys(problems))
    fold_of = dict(zip(rng.permutation(names), np.arange(len(names)) % folds, strict=True))
    return np.array([fold_of[p] for p in problems])


def cross_validated_scores(
    features: np.ndarray,
    labels: np.ndarray,
    problems: Sequence[str],
    ridge: float,
    folds: np.ndarray,
    train_on: np.ndarray | slice = slice(None),
) -> np.ndarray:
    """Out-of-fold scores [m]: each problem's rows are scored by a head that never saw that problem.

    `train_on` selects the rows that heads learn from (the ORM learns from last steps alone); all are scored.
    """
    keep = np.zeros(len(labels), bool)
    keep[train_on] = True
    scores = np.empty(len(labels))
    for fold in np.unique(folds):
        held_out = folds == fold
        head = fit_head(features[keep & ~held_out], labels[keep & ~held_out], ridge)
        scores[held_out] = head.scores(features[held_out])
    return scores
