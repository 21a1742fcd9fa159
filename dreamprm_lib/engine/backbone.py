"""The backbone: a causal LM that reads a problem and its candidate programs as one tree, each token once.

A process reward model needs a hidden state at the end of every prefix of every candidate.  A causal model that reads
prefix by prefix pays for the same tokens again and again.  Here the statement is the root of a tree and is read once;
each candidate is a branch, read once for all its steps; and where the template puts text behind the code, each prefix
gets that text as a leaf of its own.  A token sees its ancestors and nothing else (a tree-attention mask), and its
position is its depth, so every state equals that of a pass over the prefix alone, up to the rounding of the arithmetic.

Segments (statement, steps, closing text) are tokenised apart, so a prefix means the same tokens everywhere.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from joblib import Memory
from transformers.cache_utils import DynamicCache

from dreamprm_lib.engine.weights import WEIGHTS, cache_dir, file_digest, safetensors_folder
from dreamprm_lib.errors import InputError

log = logging.getLogger(__name__)

MAX_TOKENS = 2048  # a statement with one program
PACK_TOKENS = 1024  # tokens of candidates in one pass: many enough to keep the processor busy, few enough for the mask
FEATURE_CACHE_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Template:
    """What stands around a program: `before` (with `{statement}`), and `after` each prefix.

    The state of a prefix is that of the last token of `after`, or of the step itself where `after` is empty.
    """

    before: str = "Problem:\n{statement}\n\nProgram:\n"
    after: str = ""


@dataclass(frozen=True)
class Backbone:
    """A frozen causal LM, read after the layers in `layers` (0 is the embedding; layers count from 1).

    `name` is a pinned model of `engine.weights`, or a folder or hub name that `transformers` can open.  Layers above
    the highest one that is asked for are never computed.
    """

    name: str
    layers: tuple[int, ...]
    template: Template = Template()

    @property
    def digest(self) -> str:
        """Names the weights: SHA-256 of a pinned model or of a folder's weight files, commit of a model on the hub."""
        return WEIGHTS[self.name].sha256 if self.name in WEIGHTS else _digest(self.name)

    def features(self, statement: str, programs: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Hidden states at the end of each step: an array [steps, layers, width], float32, for each program.

        A program is the texts of its steps.  Results are kept on disk by content; `FEATURE_CACHE_BYTES` bounds the
        folder.  Raises `InputError` for a layer that is not there, or a program that leaves no room for its statement.
        """
        texts = [list(steps) for steps in programs]
        return _cached_features()(self.digest, self.template, self.name, self.layers, statement, texts)


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
    digest: str, template: Template, name: str, layers: tuple[int, ...], statement: str, programs: list[list[str]]
) -> list[np.ndarray]:
    tokenizer, model = open_model(name, max(layers))
    tree = Tree.of(tokenizer, template, statement, programs)
    states = [np.zeros((len(steps), len(layers), model.config.hidden_size), np.float32) for steps in programs]
    with torch.inference_mode():
        for pack, hidden in tree.passes(model, layers):
            for owner, ends in pack:
                states[owner] = hidden[ends].float().cpu().numpy()
    return states


# ------------------------------------------------------------------------------------------------- the tree


@dataclass(frozen=True)
class Tree:
    """A statement and its candidates as tokens: `root`; the steps of each candidate; what closes each prefix."""

    root: list[int]
    branches: list[list[list[int]]]
    leaf: list[int]

    @classmethod
    def of(cls, tokenizer, template: Template, statement: str, programs: Sequence[Sequence[str]]) -> Tree:
        """Tokenise the segments apart; a statement that leaves no room for the longest program loses its middle."""

        def tokens(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False).input_ids

        leaf = tokens(template.after)
        branches = [[tokens(text) or [tokenizer.eos_token_id] for text in steps] for steps in programs]
        longest = max((sum(map(len, steps)) for steps in branches), default=0) + len(leaf)
        root = cut_middle(tokens(template.before.format(statement=statement)), MAX_TOKENS - longest)
        return cls(root, branches, leaf)

    def passes(self, model, layers: Sequence[int]) -> Iterator[tuple[list[tuple[int, np.ndarray]], torch.Tensor]]:
        """Read the tree, a pack of branches at a time.

        Yields the pack, as (index of the candidate, rows of its steps' ends), and the hidden states
        [tokens, layers, width] of those rows.  Gradients flow unless they are switched off around this.
        """
        device = model.device
        root = model(input_ids=torch.tensor([self.root], device=device), use_cache=True).past_key_values
        known = [(layer.keys, layer.values) for layer in root.layers]
        for owners in self._packs():
            ids, depth, sees, ends = self._lay_out(owners)
            past = torch.ones(len(ids), len(self.root), dtype=torch.bool)
            out = model(
                input_ids=torch.tensor([ids], device=device),
                position_ids=torch.tensor([depth], device=device) + len(self.root),
                attention_mask=torch.cat([past, sees], dim=1)[None, None].to(device),
                past_key_values=DynamicCache(known),
                use_cache=True,
                output_hidden_states=True,
            )
            yield list(zip(owners, ends, strict=True)), torch.stack([out.hidden_states[k][0] for k in layers], dim=1)

    def _packs(self) -> Iterator[list[int]]:
        """Candidates with at least one step, in packs of about `PACK_TOKENS` tokens."""
        pack, size = [], 0
        for owner, steps in enumerate(self.branches):
            length = sum(map(len, steps)) + len(steps) * len(self.leaf)
            if pack and size + length > PACK_TOKENS:
                yield pack
                pack, size = [], 0
            if steps:
                pack.append(owner)
                size += length
        if pack:
            yield pack

    def _lay_out(self, owners: Sequence[int]) -> tuple[list[int], list[int], torch.Tensor, list[np.ndarray]]:
        """The branches one behind the other: tokens, depths below the root, who sees whom, and the rows to read.

        A branch comes before its leaves, so all that a token sees stands before it.
        """
        ids: list[int] = []
        depth: list[int] = []
        ends: list[np.ndarray] = []
        sees: list[tuple[int, int, int]] = []  # first row of what is seen, its end, first row of the segment
        for owner in owners:
            steps = self.branches[owner]
            start, last = len(ids), np.cumsum([len(step) for step in steps])
            ids += [token for step in steps for token in step]
            depth += range(last[-1])
            sees += [(start, start, start)] * last[-1]
            for end in last if self.leaf else ():
                first = len(ids)
                ids += self.leaf
                depth += range(end, end + len(self.leaf))
                sees += [(start, start + end, first)] * len(self.leaf)
            ends.append(start + (last[-1] + np.arange(1, len(steps) + 1) * len(self.leaf) if self.leaf else last) - 1)
        begin, stop, own = torch.tensor(sees).T[:, :, None]
        column, row = torch.arange(len(ids))[None, :], torch.arange(len(ids))[:, None]
        seen = ((column >= begin) & (column < stop)) | ((column >= own) & (column <= row))
        return ids, depth, seen, ends


def cut_middle(tokens: list[int], room: int) -> list[int]:
    """The first and last tokens that fit into `room`; a statement loses its middle, and the loss is logged."""
    if len(tokens) <= room:
        return tokens
    if room < 64:
        raise InputError(f"A program leaves {room} of {MAX_TOKENS} tokens for its statement; at least 64 are needed.")
    log.warning("a statement of %d tokens was cut in its middle to %d", len(tokens), room)
    return tokens[: room // 2] + tokens[len(tokens) - (room - room // 2) :]


# ------------------------------------------------------------------------------------------------- the model


@cache
def open_model(name: str, layers: int | None = None):
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
