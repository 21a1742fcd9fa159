"""Reward models of other projects: each gives a logit to every step, which a head with weight 1 makes a score.

`transformers` opens a folder or a model of the hub, and its architecture says how it is read (`KINDS`).  No code that
comes with a model is run.  Options follow its name as in a web address: `org/model?after=%0A%0A&yes=+&no=-`.  Each
prefix costs a pass, except for models that label tokens; a text that is longer than the model reads loses its middle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import torch

from dreamprm_lib.engine.backbone import (
    MAX_TOKENS,
    Backbone,
    Template,
    cut_middle,
    fast_dtype,
    model_source,
    open_tokenizer,
)
from dreamprm_lib.engine.schema import Form, checked
from dreamprm_lib.errors import InputError, WeightsError


@dataclass(frozen=True)
class ForeignModel(Backbone):
    """A reward model of one of `KINDS`; what it holds of a step is one number, a logit.

    `template` says what stands before a program and after each prefix or, for a model that labels tokens, after each
    step.  `yes` and `no` are the answers of a model that is asked.
    """

    kind: str = ""
    yes: str = "Yes"
    no: str = "No"

    @property
    def digest(self) -> str:
        return f"{super().digest} {self.kind} {self.yes} {self.no}"

    def _read(self, before: str, programs: list[list[str]], layers: tuple[int, ...]) -> list[np.ndarray]:
        reader = Reader(*_opened(self.name, self.kind, self.dtype), self.template.after, (self.yes, self.no))
        with torch.inference_mode():
            logits = [KINDS[self.kind].logits(reader, before, steps) if steps else [] for steps in programs]
        return [np.array(of_program, np.float32).reshape(-1, 1, 1, 1) for of_program in logits]


@dataclass(frozen=True)
class Reader:
    """An open model, with what stands `after` a prefix or step, and the answers for and against it."""

    tokenizer: Any
    model: Any
    after: str
    answers: tuple[str, str]

    @property
    def limit(self) -> int:
        """How many tokens the model reads at once."""
        return getattr(self.model.config, "max_position_embeddings", MAX_TOKENS)

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text alone."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def whole(self, *turns: str) -> list[int]:
        """The tokens of a text by user and assistant in turn, in the model's chat template if it has one."""
        if not self.tokenizer.chat_template:
            return cut_middle(self.tokenizer("".join(turns)).input_ids, self.limit)
        chat = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), turns, strict=False)]
        asks = len(chat) == 1
        text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=asks)
        return cut_middle(self.tokens(text), self.limit)

    def output(self, tokens: list[int]) -> torch.Tensor:
        """The logits that the model gives to a text, float32."""
        return self.model(input_ids=torch.tensor([tokens], device=self.model.device)).logits[0].float()


def _whole_texts(reader: Reader, before: str, steps: Sequence[str]) -> list[float]:
    """The one logit of each prefix, read as an answer to the problem."""
    texts = [reader.whole(before, prefix + reader.after) for prefix in accumulate(steps)]
    return [float(reader.output(text)[0]) for text in texts]


def _labelled_steps(reader: Reader, before: str, steps: Sequence[str]) -> list[float]:
    """The log-odds of label 1 at the last token behind each step, in the form of TRL's `PRMTrainer`."""
    parts = [reader.tokens(step) + reader.tokens(reader.after) for step in steps]
    first = reader.tokenizer.bos_token_id
    root = ([] if first is None else [first]) + reader.tokens(before)
    root = cut_middle(root, reader.limit - sum(map(len, parts)))
    ends = len(root) - 1 + np.cumsum([len(part) for part in parts])
    wrong, right = reader.output(root + [token for part in parts for token in part])[ends].T
    return (right - wrong).tolist()


def _asked_prefixes(reader: Reader, before: str, steps: Sequence[str]) -> list[float]:
    """The log-odds of yes against no as the next token behind each prefix and what is asked about it."""
    answers = [reader.tokens(word) for word in reader.answers]
    if long := [word for word, tokens in zip(reader.answers, answers, strict=True) if len(tokens) != 1]:
        raise InputError(
            f"{long[0]!r} is {len(reader.tokens(long[0]))} tokens of this model, and an answer must be one. Name other "
            "answers behind the model's name, as in `NAME?yes=+&no=-`."
        )
    texts = [reader.whole(before + prefix + reader.after) for prefix in accumulate(steps)]
    outputs = [reader.output(text)[-1] for text in texts]
    return [float(output[answers[0][0]] - output[answers[1][0]]) for output in outputs]


@dataclass(frozen=True)
class Kind:
    """How models of an architecture are read: the logits of a program's steps, what stands after each prefix or step
    unless the user says otherwise, and how many labels the model must have (None: any)."""

    logits: Callable[[Reader, str, Sequence[str]], list[float]]
    after: str
    labels: int | None


QUESTION = (
    "\n\nIs this beginning of a program right, so that it can be completed to a program that solves the problem?\n"
)
KINDS = {
    "SequenceClassification": Kind(_whole_texts, "", 1),
    "TokenClassification": Kind(_labelled_steps, "\n", 2),
    "CausalLM": Kind(_asked_prefixes, QUESTION, None),
}


class _Options(Form):
    """What may follow the question mark of a name."""

    after: str | None = None
    yes: str = "Yes"
    no: str = "No"


def foreign_model(source: str) -> ForeignModel:
    """The reward model that `NAME?option=value` names; it is opened when it is asked for the first time.

    Raises `InputError` for an unknown option, `WeightsError` for a model that is not there or is of no known kind.
    """
    from transformers import AutoConfig

    name, _, query = source.partition("?")
    options = checked(_Options, dict(parse_qsl(query.replace("+", "%2B"))), source, noun="option")
    try:
        config = AutoConfig.from_pretrained(model_source(name))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{name} is no checkpoint of this suite, and no model that `transformers` opens "
            f"({str(error).strip().splitlines()[0]}). Notebook 04 makes the checkpoints of a study."
        ) from error
    architecture = (getattr(config, "architectures", None) or ["no architecture"])[0]
    kind = next((kind for kind in KINDS if architecture.endswith(f"For{kind}")), None)
    if kind is None or KINDS[kind].labels not in (None, config.num_labels):
        raise WeightsError(
            f"{name} is {architecture} with {config.num_labels} labels, which can't be read as a reward model. Those "
            "that can are …ForSequenceClassification with 1 label, …ForTokenClassification with 2, and …ForCausalLM."
        )
    template = Template(after=KINDS[kind].after if options.after is None else options.after)
    return ForeignModel(name, (0,), template, None, fast_dtype(), kind, options.yes, options.no)


@cache
def _opened(name: str, kind: str, dtype: str) -> tuple[Any, Any]:
    """Tokenizer and model, on the GPU if there is one."""
    import transformers

    opener = getattr(transformers, f"AutoModelFor{kind}")
    model = opener.from_pretrained(model_source(name), dtype=getattr(torch, dtype)).eval()
    return open_tokenizer(name), model.cuda() if torch.cuda.is_available() else model
