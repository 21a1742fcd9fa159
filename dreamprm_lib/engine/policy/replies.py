"""What an OpenAI-compatible endpoint answers: its samples and its bill, checked before any of it is stored.

What is wrong in the samples is an error; what is wrong in the bill is not believed, and counts as if it were missing.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, FiniteFloat, TypeAdapter, ValidationError, WrapValidator, model_validator

from dreamprm_lib.engine.policy.completions import Completion
from dreamprm_lib.engine.schema import Form

T = TypeVar("T")
FINISHES = {  # what providers call the ways in which a reply ends; every other way is a failure
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "model_length"), "length"),
    **dict.fromkeys(("tool_calls", "tool_use", "function_call"), "tool_calls"),
}
SAMPLES = {*FINISHES.values(), "refusal", "empty"}  # a completion that ended otherwise is no sample of the model


@dataclass(frozen=True)
class Reply:
    """The completions of an answer, failed ones too; the tokens that it was billed for, None where it does not say or
    cannot be believed; and what is wrong with it, in the server's words if there are any.  Without completions the
    answer as a whole has failed."""

    completions: list[Completion]
    prompt_tokens: int | None
    tokens: int | None
    fault: str = ""


def read_reply(body: str) -> Reply:
    """Read a reply's body.  Raises `ValueError`, with the server's words, for one that is no answer of a model."""
    try:
        answer = _Answer.model_validate_json(body)
    except ValidationError:
        raise ValueError(f"no JSON object: {words(body)}") from None
    usage, given = answer.usage or _Usage(), answer.choices or []
    try:
        choices = _CHOICES.validate_python(given)
    except ValidationError:
        fault = f"a reply of another form: {words(body)}"
        of_a_model = any({"text", "message"} & set(choice) for choice in given if isinstance(choice, dict))
        if answer.usage is None and not of_a_model:
            raise ValueError(fault) from None
        return Reply([], usage.prompt_tokens or None, usage.completion_tokens or None, fault)
    completions = [_completion(choice, usage.completion_tokens, len(choices)) for choice in choices]
    counted = sum(c.tokens for c in completions)
    tokens = usage.completion_tokens or (None if any(c.text for c in completions) else 0)
    if tokens is None and all(choice.token_logprobs for choice in choices):
        tokens = counted
    if tokens is not None:  # llama.cpp reports those of one choice when several were asked for
        tokens = max(tokens, counted)
    fault = "; ".join(words(json.dumps(choice.error)) for choice in choices if choice.error)
    return Reply(completions, usage.prompt_tokens or None, tokens, fault)


def words(body: str, most: int = 300) -> str:
    """What a server says, in one line: the message of an error, or the text of a page without its markup."""
    try:
        error = json.loads(body)
        error = (error.get("error") or error) if isinstance(error, dict) else error
        said = (error.get("message") or error.get("detail") or error) if isinstance(error, dict) else error
    except (ValueError, RecursionError):
        said = html.unescape(re.sub(r"(?is)<(script|style)\b.*?</\1>|<[^>]*>", " ", body))
    said = " ".join(str(said).split()) or "nothing"
    return repr(said if len(said) <= most else said[:most] + " …")


def about_tokens(text: str) -> int:
    """About how many tokens a text has: one for four ASCII characters, and one for every other character."""
    other = sum(not character.isascii() for character in text)
    return math.ceil((len(text) - other) / 4) + other


def _or_none(value: Any, validate: Callable[[Any], T]) -> T | None:
    try:
        return validate(value)
    except ValidationError:
        return None


def _as_parts(content: Any) -> Any:
    """The content of a message as a list of parts; it may be a text, nothing, or a list with texts in it."""
    if content is None or isinstance(content, str):
        content = [content or ""]
    if not isinstance(content, list):
        return content
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]


Believed = Annotated[T | None, WrapValidator(_or_none)]
Count = Annotated[int, Field(ge=0, le=10**9)]


class _Usage(Form, extra="ignore"):
    prompt_tokens: Believed[Count] = None
    completion_tokens: Believed[Count] = None


class _Answer(Form, extra="ignore"):
    """What is believed of a reply before its choices are looked at."""

    choices: Believed[list[Any]] = None
    usage: Believed[_Usage] = None


class _Token(Form, extra="ignore"):
    logprob: FiniteFloat


class _Logprobs(Form, extra="ignore"):
    """Log-probabilities of the sampled tokens, in the Completions form or the Chat form (llama.cpp sends it)."""

    content: list[_Token] | None = None
    token_logprobs: list[FiniteFloat | None] | None = None


class _Part(Form, extra="ignore"):
    """A part of a message; thoughts are no part of the reply."""

    type: Literal["text", "output_text", "refusal", "thinking", "reasoning"]
    text: str | None = None
    refusal: str | None = None


class _Message(Form, extra="ignore"):
    content: Annotated[list[_Part], BeforeValidator(_as_parts)] = Field(default_factory=list)
    refusal: str | None = None
    tool_calls: list[Any] | None = None


class _Choice(Form, extra="ignore"):
    text: str | None = None
    message: _Message | None = None
    finish_reason: str | None = None
    error: Any = None
    logprobs: Believed[_Logprobs] = None

    @model_validator(mode="after")
    def _has_text(self) -> Self:
        if self.text is None and self.message is None:
            raise ValueError("a choice without text")
        return self

    @property
    def token_logprobs(self) -> list[float]:
        if self.logprobs is None:
            return []
        if self.logprobs.content:
            return [token.logprob for token in self.logprobs.content]
        return [value for value in self.logprobs.token_logprobs or [] if value is not None]


_CHOICES = TypeAdapter(Annotated[list[_Choice], Field(min_length=1)])


def _completion(choice: _Choice, used: int | None, choices: int) -> Completion:
    """One choice of a reply.  Its tokens are those of its log-probabilities, else its part of the `used` ones, else an
    estimate."""
    reason, text, message = (choice.finish_reason or "stop").lower(), choice.text or "", choice.message
    finish = FINISHES.get(reason, reason)
    if message is not None:
        text = "".join(part.text or "" for part in message.content if part.type in ("text", "output_text"))
        refusal = message.refusal or "".join(part.refusal or "" for part in message.content)
        if refusal:
            text, finish = refusal, "refusal"
        elif message.tool_calls:
            finish = "tool_calls"
        elif finish == "stop" and not text.strip():
            finish = "empty"
    logprobs = choice.token_logprobs
    tokens = len(logprobs) or (used // choices if used else about_tokens(text))
    return Completion(text, tokens, finish, round(sum(logprobs), 4) if logprobs else None)
