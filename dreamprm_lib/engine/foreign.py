"""Reward models of other projects: each gives a logit to every step, which a head with weight 1 makes a score.

`transformers` opens a folder or a model of the hub, and its architecture says how it is read (`KINDS`).  No code that
comes with a model is run.  Options follow its name as in a web address: `org/model?after=%0A%0A&yes=+&no=-`.  Each
prefix costs a pass, except for models that label tokens; a language model does not read again what a text has in common
with the text before it.  A text that is longer than the model reads loses its middle.

With `?backwards=1` a language model becomes a reviewer: it reads the program first, and its score says how likely it
finds the problem behind it (Coder-Reviewer, arXiv 2211.16490).  With `?docstrings=0` a model is shown programs without
their docstrings and comments, which can repeat the statement whatever the code does.
"""

import ast
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import accumulate, takewhile
from typing import Annotated, Any, NamedTuple
from urllib.parse import parse_qsl

import numpy as np
import torch
import transformers
from pydantic import Field

from dreamprm_lib.engine.backbone import MAX_TOKENS, Backbone, Template, cut_middle, model_source, open_tokenizer
from dreamprm_lib.engine.schema import Form, checked
from dreamprm_lib.errors import InputError, WeightsError


@dataclass(frozen=True)
class ForeignModel(Backbone):
    """A reward model of one of `KINDS`; what it holds of a step is one number, a logit.

    `template` says what stands before a program and after each prefix or, for a model that labels tokens, after each
    step; a reviewer reads what stands before a program behind all else.  `yes` and `no` are the answers of a model that
    is asked.  Without `docstrings`, docstrings and comments are taken out of the steps before they are read.  Computed
    in float32, so that logits are the same on every processor; in bfloat16 on GPUs.
    """

    dtype: str = field(default_factory=lambda: "bfloat16" if torch.cuda.is_available() else "float32")
    kind: str = ""
    yes: str = "Yes"
    no: str = "No"
    docstrings: bool = True

    @property
    def digest(self) -> str:
        return f"{super().digest} {self.kind} {self.yes} {self.no}" + ("" if self.docstrings else " bare")

    def _read(self, before: str, programs: list[list[str]]) -> list[np.ndarray]:
        read = KINDS[self.kind].read
        if not self.docstrings:
            programs = [[without_docstrings(step) for step in steps] for steps in programs]
        with torch.inference_mode():
            logits = [read(self, before, steps) if steps else [] for steps in programs]
        return [np.array(of_program, np.float32).reshape(-1, 1, 1, 1) for of_program in logits]

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text alone."""
        return open_tokenizer(self.name)(text, add_special_tokens=False).input_ids

    def conversation(self, *turns: str) -> list[int]:
        """The tokens of what user and assistant say in turn, in the model's chat template if it has one."""
        tokenizer = open_tokenizer(self.name)
        if not tokenizer.chat_template:
            return tokenizer("".join(turns)).input_ids
        chat = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), turns, strict=False)]
        asks = len(chat) == 1
        return self.tokens(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=asks))

    def output(self, tokens: list[int], end: Sequence[int] = ()) -> torch.Tensor:
        """The logits that the model gives to a text, float32; the text without its `end` is cut if it is too long."""
        architecture = KINDS[self.kind].architecture
        model = _opened(self.name, architecture, self.dtype)
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", MAX_TOKENS)
        limit = min(positions, open_tokenizer(self.name).model_max_length)
        tokens = [*cut_middle(tokens, limit - len(end)), *end]
        if architecture != "CausalLM":
            return model(input_ids=torch.tensor([tokens], device=model.device)).logits[0].float()
        before = _READ.tokens if _READ.model is model else ()
        _READ.model = None  # until all is read
        pairs = zip(before, tokens[: -len(end) - 1], strict=False)  # the rest says what comes next
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        past = _READ.past if shared else transformers.DynamicCache()
        if shared and shared < len(before):
            past.crop(shared - len(before))
        new = torch.tensor([tokens[shared:]], device=model.device)
        found = model(input_ids=new, past_key_values=past, logits_to_keep=len(end) + 1)  # of what comes next
        _READ.model, _READ.tokens, _READ.past = model, tokens, past
        return found.logits[0].float()


class _Read(threading.local):
    """The text that a language model read last in this thread, and what it remembers of it."""

    model: Any = None
    tokens: Sequence[int] = ()
    past: Any = None


_READ = _Read()


def without_docstrings(code: str) -> str:
    """The program as `ast` writes it, without docstrings and comments; a text that is no Python stays as it is."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return code
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree) + "\n"


def _whole_texts(model: ForeignModel, before: str, steps: Sequence[str]) -> list[float]:
    """The one logit of each prefix, read as an answer to the problem."""
    answers = [prefix + model.template.after for prefix in accumulate(steps)]
    return [float(model.output(model.conversation(before, answer))[0]) for answer in answers]


def _labelled_steps(model: ForeignModel, before: str, steps: Sequence[str]) -> list[float]:
    """The log-odds of label 1 at the last token behind each step, in the form of TRL's `PRMTrainer`."""
    parts = [model.tokens(step) + model.tokens(model.template.after) for step in steps]
    first = open_tokenizer(model.name).bos_token_id
    root = ([] if first is None else [first]) + model.tokens(before)
    output = model.output(root, [token for part in parts for token in part])
    from_the_end = np.cumsum([len(part) for part in parts]) - sum(map(len, parts)) - 1
    wrong, right = output[from_the_end].T
    return (right - wrong).tolist()


def _asked_prefixes(model: ForeignModel, before: str, steps: Sequence[str]) -> list[float]:
    """The log-odds of yes against no as the next token behind each prefix and what is asked about it."""
    yes, no = (model.tokens(word) for word in (model.yes, model.no))
    if not len(yes) == len(no) == 1:
        raise InputError(
            f"{model.yes!r} and {model.no!r} are {len(yes)} and {len(no)} tokens of {model.name}, and an answer must "
            "be one. Name other answers behind the model's name, as in `NAME?yes=+&no=-`."
        )
    texts = [model.conversation(before + prefix + model.template.after) for prefix in accumulate(steps)]
    outputs = [model.output(text)[-1] for text in texts]
    return [float(output[yes[0]] - output[no[0]]) for output in outputs]


def _reviewed_prefixes(model: ForeignModel, before: str, steps: Sequence[str]) -> list[float]:
    """The mean log-probability of the problem's tokens behind each prefix, in nats."""
    problem = model.tokens(before)
    means = []
    for prefix in accumulate(steps):
        logits = model.output(model.tokens(prefix + model.template.after), problem)[:-1]
        means.append(-float(torch.nn.functional.cross_entropy(logits, torch.tensor(problem, device=logits.device))))
    return means


QUESTION = (
    "\n\nIs this beginning of a program right, so that it can be completed to a program that solves the problem?\n"
    "Answer Yes or No: "
)


class Kind(NamedTuple):
    """How the logits of a program's steps are read, by models of which architecture, with how many labels (None: any),
    and what stands around a program unless the user says otherwise."""

    architecture: str
    read: Callable[[ForeignModel, str, Sequence[str]], list[float]]
    template: Template
    labels: int | None = None


KINDS = {
    "SequenceClassification": Kind("SequenceClassification", _whole_texts, Template(), 1),
    "TokenClassification": Kind("TokenClassification", _labelled_steps, Template(after="\n"), 2),
    "CausalLM": Kind("CausalLM", _asked_prefixes, Template(after=QUESTION)),
    "Reviewer": Kind("CausalLM", _reviewed_prefixes, Template("{statement}", "\n\nProblem:\n")),
}


class _Options(Form):
    after: str | None = None
    yes: str = "Yes"
    no: str = "No"
    backwards: Annotated[bool, Field(strict=False)] = False
    docstrings: Annotated[bool, Field(strict=False)] = True


def foreign_model(source: str) -> ForeignModel:
    """The reward model that `NAME?option=value` names; its weights are opened when they are needed.

    Raises `InputError` for an unknown option, `WeightsError` for a model that is not there or is of no known kind.
    """
    name, _, query = source.partition("?")
    options = checked(_Options, dict(parse_qsl(query.replace("+", "%2B"))), source, noun="option")
    try:
        config = transformers.AutoConfig.from_pretrained(model_source(name))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{name} is no checkpoint of this suite, and no model that `transformers` opens "
            f"({str(error).strip().splitlines()[0]}). Notebook 04 makes the checkpoints of a study."
        ) from error
    architecture = (config.architectures or ["a model without an architecture"])[0]
    fits = [
        name for name, kind in KINDS.items()
        if architecture.endswith(f"For{kind.architecture}") and (name == "Reviewer") == options.backwards
    ]  # fmt: skip
    if not fits or KINDS[fits[0]].labels not in (None, config.num_labels):
        raise WeightsError(
            f"{name} is {architecture} with {config.num_labels} labels, which can't be read as a reward model. Those "
            "that can are …ForSequenceClassification with 1 label, …ForTokenClassification with 2, and …ForCausalLM, "
            "which alone can read backwards."
        )
    template = KINDS[fits[0]].template
    if options.after is not None:
        template = replace(template, after=options.after)
    model = ForeignModel(name, (0,), template, kind=fits[0], docstrings=options.docstrings)
    return replace(model, yes=options.yes, no=options.no)


@cache
def _opened(name: str, architecture: str, dtype: str) -> Any:
    opener = getattr(transformers, f"AutoModelFor{architecture}")
    model = opener.from_pretrained(model_source(name), dtype=getattr(torch, dtype)).eval()
    return model.cuda() if torch.cuda.is_available() else model
