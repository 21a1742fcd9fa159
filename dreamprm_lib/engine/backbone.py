"""The backbone: a causal LM that reads a problem and its candidate programs as one tree, each token once.

A process reward model needs the hidden states of every prefix of every candidate.  A causal model that reads
prefix by prefix pays for the same tokens again and again.  Here the statement is the root of a tree and is read once;
each candidate is a branch, read once for all its steps; and where the template puts text behind the code, each prefix
gets that text as a leaf of its own.  A token sees its ancestors and nothing else (a tree-attention mask), and its
position is its depth, so every state equals that of a pass over the prefix alone, up to the rounding of the arithmetic.

Segments (statement, steps, closing text) are tokenised apart, so a prefix means the same tokens everywhere.  A step has
three views (`VIEWS`): the state of its last token, the mean over its own tokens, and the mean over its prefix.
"""

import hashlib
import io
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save

from dreamprm_lib.engine.files import cache_dir, file_digest, write_atomically
from dreamprm_lib.engine.problems import Problem, describe
from dreamprm_lib.engine.weights import WEIGHTS, safetensors_folder
from dreamprm_lib.errors import InputError, WeightsError

log = logging.getLogger(__name__)

MAX_TOKENS = 2048  # a statement with one program
PACK_TOKENS = 640  # of candidates read in one pass: more would keep attention busy with what the mask then hides
DTYPES = ("bfloat16", "float32")
VIEWS = ("last", "step", "prefix")  # of a step: its last token, the mean of its tokens, the mean of its prefix
FEATURE_CACHE_BYTES = 2 * 1024**3
GROUP = 8  # programs that share a file of the cache


@dataclass(frozen=True)
class Template:
    """What stands around a program: `before` it, and `after` each prefix.

    `before` may name {statement} (statement, samples and starter code), {content} (the bare statement), {title}, {id}
    and {platform}.  The state of a prefix is that of the last token of `after`, or of the step itself where `after` is
    empty.
    """

    before: str = "Problem:\n{statement}\n\nProgram:\n"
    after: str = ""

    def root(self, problem: Problem) -> str:
        """The text before the programs of a problem."""
        said = {"content": problem.statement, "platform": problem.source}
        return self.before.format(statement=describe(problem), title=problem.title, id=problem.id, **said)


@dataclass(frozen=True, eq=False)
class Tuning:
    """What training changed in a backbone.

    `lora`: for the name of a module, matrices A [rank, in] and B [out, rank]; its weight grows by alpha / rank · B A.
    """

    alpha: float = 0.0
    lora: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of names and values."""
        return hashlib.sha256(save({name: t.contiguous() for name, t in sorted(self.tensors().items())})).hexdigest()

    def tensors(self) -> dict[str, torch.Tensor]:
        """All matrices by names that tell what they are; `of_tensors` is the way back."""
        pairs = self.lora.items()
        return {f"lora.{name}.{side}": t for name, pair in pairs for side, t in zip("AB", pair, strict=True)}

    @classmethod
    def of_tensors(cls, tensors: dict[str, torch.Tensor], alpha: float, where: object) -> "Tuning | None":
        """The tuning in `tensors`, None if there is none.

        Raises `WeightsError`, which begins with `where`, for a LoRA pair that is not whole or does not fit together.
        """
        names = {n[5:-2] for n in tensors if n.startswith("lora.")}
        try:
            lora = {name: (tensors[f"lora.{name}.A"], tensors[f"lora.{name}.B"]) for name in sorted(names)}
        except KeyError as error:
            raise WeightsError(f"{where} lacks {error.args[0]}: a LoRA pair is not whole.") from error
        for name, (a, b) in lora.items():
            if not (a.ndim == b.ndim == 2 and len(a) == b.shape[1]):
                shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
                raise WeightsError(f"{where}: the LoRA matrices of {name} do not fit together ({shapes}).")
        return cls(alpha, lora) if lora else None

    def apply(self, model) -> None:
        """Write the changes into the model's own weights.  Raises `WeightsError` where they don't fit."""
        parameters = dict(model.named_parameters())
        for module, (a, b) in self.lora.items():
            name = f"{module}.weight"
            above = range(len(model.layers), model.config.num_hidden_layers)  # what was cut off
            if name not in parameters and any(name.startswith(f"layers.{layer}.") for layer in above):
                continue
            change, weight = self.alpha / len(a) * (b.float() @ a.float()), parameters.get(name)
            if weight is None or change.shape != weight.shape:
                own = "has no such parameter" if weight is None else f"has shape {tuple(weight.shape)} there"
                raise WeightsError(
                    f"The checkpoint changes {name}, of shape {tuple(change.shape)}; the backbone {own}. Give the "
                    "backbone that it was trained on."
                )
            weight.data.copy_(weight.float() + change)


@dataclass(frozen=True)
class Backbone:
    """A causal LM, read after the layers in `layers` (0 is the embedding; layers count from 1).

    `name` is a pinned model of `engine.weights`, or a folder or hub name that `transformers` can open; `tuning` is what
    training changed in it; `dtype` is one of `DTYPES`, by default `fast_dtype`.  Layers above the
    highest one that is asked for are never computed; the final norm belongs to the last layer.
    """

    name: str
    layers: tuple[int, ...]
    template: Template = Template()
    tuning: Tuning | None = None
    dtype: str = field(default_factory=lambda: fast_dtype())  # type: ignore[has-type]  # looked up when it is called

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"There is no precision {self.dtype!r}: choose one of {', '.join(DTYPES)}.")

    @property
    def digest(self) -> str:
        """Names the weights: SHA-256 of a pinned model or of a folder's weight files, commit of a model on the hub."""
        return WEIGHTS[self.name].sha256 if self.name in WEIGHTS else _digest(self.name)

    def features(self, problem: Problem, programs: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Hidden states of each step: an array [steps, layers, views, width], float32, for each program.

        A program is the texts of its steps; the views are those of `VIEWS`.  States are kept on disk, a file for each
        `GROUP` of programs and layer, named by all that they depend on, so that a pool that has grown is read as far as
        it is new; `FEATURE_CACHE_BYTES` bounds the folder.
        Raises `InputError` for a layer that is not there, or a program that leaves no room for its statement.
        """
        texts = [list(steps) for steps in programs]
        if not texts:
            return []
        before, after = self.template.root(problem), self.template.after
        tuned = self.tuning.digest if self.tuning else ""
        groups = [texts[first : first + GROUP] for first in range(0, len(texts), GROUP)]
        files = []
        for group in groups:
            said = repr((self.digest, tuned, self.dtype, before, after, group)).encode()
            names = [hashlib.sha256(said + b" %d" % layer).hexdigest() for layer in self.layers]
            files.append([cache_dir() / "features" / f"{name}.npy" for name in names])
        unread = [k for k, of_group in enumerate(files) if not all(file.exists() for file in of_group)]
        if unread:
            read = iter(self._read(before, [steps for k in unread for steps in groups[k]]))
            for k in unread:
                states = np.concatenate([next(read) for _ in groups[k]])
                for place, file in enumerate(files[k]):
                    _keep(file, states[:, place])
        states = np.concatenate([np.stack([np.load(file) for file in of_group], axis=1) for of_group in files])
        return np.split(states, np.cumsum([len(steps) for steps in texts])[:-1])

    def _read(self, before: str, programs: list[list[str]]) -> list[np.ndarray]:
        tokenizer, model = open_model(self.name, self.dtype, max(self.layers), self.tuning)
        tree = Tree.of(tokenizer, before, self.template.after, programs)
        shape = (len(self.layers), len(VIEWS), model.config.hidden_size)
        states = [np.zeros((len(steps), *shape), np.float32) for steps in programs]
        with torch.inference_mode():
            for pack, hidden in tree.passes(model, self.layers):
                for owner, ends, start in zip(pack.owners, pack.ends, pack.starts, strict=True):
                    sizes = [len(step) for step in tree.branches[owner]]
                    own = hidden[start : start + sum(sizes)].float().split(sizes)
                    sums = torch.stack([tokens.sum(dim=0) for tokens in own])
                    length = torch.tensor(sizes, device=sums.device)[:, None, None]
                    means = sums / length, sums.cumsum(dim=0) / length.cumsum(dim=0)
                    states[owner] = torch.stack([hidden[ends].float(), *means], dim=2).cpu().numpy()
        return states


def _keep(path: Path, states: np.ndarray) -> None:
    """Write states into the cache, and delete the oldest files above its bound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, states)
    write_atomically(path, buffer.getvalue())
    oldest_last = sorted(path.parent.glob("*.npy"), key=lambda file: file.stat().st_mtime, reverse=True)
    total = np.cumsum([file.stat().st_size for file in oldest_last])
    for file in itertools.compress(oldest_last, total > FEATURE_CACHE_BYTES):
        file.unlink(missing_ok=True)


@cache
def _digest(name: str) -> str:
    files = sorted(Path(name).glob("*.safetensors"))
    if files:
        return hashlib.sha256("".join(file_digest(f) for f in files).encode()).hexdigest()
    commit = transformers.AutoConfig.from_pretrained(name)._commit_hash
    return commit or hashlib.sha256(name.encode()).hexdigest()


# ------------------------------------------------------------------------------------------------- the tree


@dataclass(frozen=True)
class Tree:
    """A statement and its candidates as tokens: `root`; the steps of each candidate; what closes each prefix."""

    root: list[int]
    branches: list[list[list[int]]]
    leaf: list[int]

    @classmethod
    def of(cls, tokenizer, before: str, after: str, programs: Sequence[Sequence[str]]) -> "Tree":
        """Tokenise the segments apart; where `before` leaves no room for the longest program, it loses its middle."""

        def tokens(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False).input_ids

        leaf = tokens(after)
        branches = [[tokens(text) or [tokenizer.eos_token_id] for text in steps] for steps in programs]
        longest = max((sum(map(len, steps)) for steps in branches), default=0) + len(leaf)
        root = cut_middle(tokens(before), MAX_TOKENS - longest)
        return cls(root, branches, leaf)

    @property
    def tokens(self) -> int:
        """How many tokens one pass reads: each once."""
        return len(self.root) + sum(len(step) + len(self.leaf) for steps in self.branches for step in steps)

    @property
    def tokens_by_prefix(self) -> int:
        """How many tokens a pass for each prefix reads."""
        ends = [end for steps in self.branches for end in itertools.accumulate(map(len, steps))]
        return sum(len(self.root) + end + len(self.leaf) for end in ends)

    def passes(self, model, layers: Sequence[int]) -> Iterator[tuple["Pack", torch.Tensor]]:
        """Read the tree: the root once, then pack by pack; yields packs and hidden states [tokens, layers, width]."""
        root = torch.tensor([self.root], device=model.device)
        known = [(k.keys, k.values) for k in model(input_ids=root, use_cache=True).past_key_values.layers]
        for pack in self.packs(PACK_TOKENS):
            past = transformers.DynamicCache(known)
            hidden = model(
                **pack.inputs(model.device), past_key_values=past, use_cache=True, output_hidden_states=True
            ).hidden_states
            yield pack, torch.stack([hidden[layer][0] for layer in layers], dim=1)

    def packs(self, most: int, carry_root: bool = False) -> Iterator["Pack"]:
        """The branches in packs of at most `most` tokens (a longer branch alone), those without a step left out.

        With `carry_root` each pack begins with the root, and can be read by itself.
        """
        owners: list[int] = []
        size = 0
        for owner, steps in enumerate(self.branches):
            length = sum(map(len, steps)) + len(steps) * len(self.leaf)
            if owners and size + length > most:
                yield self._pack(owners, carry_root)
                owners, size = [], 0
            if steps:
                owners.append(owner)
                size += length
        if owners:
            yield self._pack(owners, carry_root)

    def _pack(self, owners: list[int], carry_root: bool) -> "Pack":
        """Lay branches out one behind the other, each before its leaves: all that a token sees stands before it."""
        ids: list[int] = []
        depth: list[int] = []
        starts: list[int] = []
        ends: list[np.ndarray] = []
        sees: list[tuple[int, int, int]] = []  # the part of the branch that is seen, and where the own segment begins
        for owner in owners:
            steps = self.branches[owner]
            start, last = len(ids), np.cumsum([len(step) for step in steps])
            starts.append(start)
            ids += [token for step in steps for token in step]
            depth += range(last[-1])
            sees += [(start, start, start)] * last[-1]
            for end in last if self.leaf else ():
                sees += [(start, start + end, len(ids))] * len(self.leaf)
                ids += self.leaf
                depth += range(end, end + len(self.leaf))
            ends.append(start + (last[-1] + np.arange(1, len(steps) + 1) * len(self.leaf) if self.leaf else last) - 1)
        begin, stop, own = torch.tensor(sees).T[:, :, None]
        column, row = torch.arange(len(ids))[None, :], torch.arange(len(ids))[:, None]
        seen = ((column >= begin) & (column < stop)) | ((column >= own) & (column <= row))
        height = len(self.root)
        mask = torch.cat([torch.ones(len(ids), height, dtype=torch.bool), seen], dim=1)
        depth = [height + d for d in depth]
        if carry_root:
            above = torch.cat([torch.ones(height, height).tril(), torch.zeros(height, len(ids))], dim=1).bool()
            ids, depth, mask = self.root + ids, [*range(height), *depth], torch.cat([above, mask])
            starts, ends = [row + height for row in starts], [rows + height for rows in ends]
        return Pack(owners, starts, ends, torch.tensor([ids]), torch.tensor([depth]), mask[None, None])


@dataclass(frozen=True)
class Pack:
    """Branches that are read in one pass.

    `owners` are indices of candidates, `starts` the rows of their first tokens and `ends` those of their steps' ends;
    `ids` and `depth` [1, tokens]; `mask` [1, 1, tokens, root + tokens] says who sees whom.
    """

    owners: list[int]
    starts: list[int]
    ends: list[np.ndarray]
    ids: torch.Tensor
    depth: torch.Tensor
    mask: torch.Tensor

    def inputs(self, device) -> dict[str, torch.Tensor]:
        """The arguments of a pass, without what is known of the root."""
        return {
            "input_ids": self.ids.to(device),
            "position_ids": self.depth.to(device),
            "attention_mask": self.mask.to(device),
        }


def cut_middle(tokens: list[int], room: int) -> list[int]:
    """The first and last tokens that fit into `room`; a statement loses its middle, and the loss is logged."""
    if len(tokens) <= room:
        return tokens
    if room < 64:
        raise InputError(f"A program leaves {room} of {MAX_TOKENS} tokens for its statement; at least 64 are needed.")
    log.warning("a statement of %d tokens was cut in its middle to %d", len(tokens), room)
    return tokens[: room // 2] + tokens[len(tokens) - (room - room // 2) :]


# ------------------------------------------------------------------------------------------------- the model


def model_source(name: str) -> str:
    """Where `transformers` opens a model: the folder of a pinned one, or what its name says."""
    return str(safetensors_folder(name)) if name in WEIGHTS else name


@cache
def open_tokenizer(name: str):
    """The tokenizer of a model."""
    return transformers.AutoTokenizer.from_pretrained(model_source(name))


@cache
def open_model(name: str, dtype: str, layers: int | None = None, tuning: Tuning | None = None):
    """Tokenizer and decoder in a precision, cut after `layers` layers, with a tuning written in."""
    # It would report the language-model head, which a reward model does not need.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tokenizer = open_tokenizer(name)
    model = transformers.AutoModel.from_pretrained(model_source(name), dtype=getattr(torch, dtype))
    model.eval().requires_grad_(False)
    if layers is not None and layers > len(model.layers):
        raise InputError(f"{name} has {len(model.layers)} layers; layer {layers} was asked for.")
    if layers is not None and layers < len(model.layers):
        model.layers = model.layers[:layers]
        model.norm = torch.nn.Identity()
    if tuning:
        tuning.apply(model)
    if torch.cuda.is_available():
        model = model.cuda()
    return tokenizer, model


def layer_count(name: str) -> int:
    """The number of layers of a model, by its configuration."""
    return transformers.AutoConfig.from_pretrained(model_source(name)).num_hidden_layers


def parameters_read(name: str, layers: int | None = None) -> int:
    """How many numbers multiply a token on its way through the first `layers` layers, or through all: their parameters,
    by the model's configuration alone.  The embedding, which is looked up, and the output layer are not among them."""
    config = transformers.AutoConfig.from_pretrained(model_source(name))
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    return sum(p.numel() for layer in model.layers[:layers] for p in layer.parameters())


def fast_dtype() -> str:
    """The precision that this machine does well: `bfloat16` on GPUs and on processors that multiply its matrices (AMX),
    else `float32`."""
    return "bfloat16" if torch.cuda.is_available() or torch.cpu.get_capabilities().get("amx_bf16") else "float32"
