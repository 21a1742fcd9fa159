"""What an OpenAI-compatible endpoint answers: its samples and its bill, checked before any of it is stored.

What is wrong in the samples is an error; what is wrong in the bill is not believed, and counts as if it were missing.
"""

from __future__ import annotations

import html
import json
import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import Field, FiniteFloat, ValidationError, WrapValidator

from dreamprm_lib.engine.policy.completions import Completion
from dreamprm_lib.engine.schema import Form, checked
from dreamprm_lib.errors import InputError

T = TypeVar("T")
FINISHES = {  # what providers call the ways in which a reply ends; every other way is a failure
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "model_length"), "length"),
    **dict.fromkeys(("tool_calls", "tool_use", "function_call"), "tool_calls"),
}
SAMPLES = {*FINISHES.values(), "refusal", "empty"}  # a completion that ended otherwise is no sample of the model


@dataclass(frozen=True)
class Reply:
    """The completions of an answer, failed ones too; the tokens that it was billed for, None where it does not tell or
    cannot be believed; and what is wrong with it, in the server's words if there are any.  Without completions the
    answer as a whole has failed."""

    completions: list[Completion]
    prompt_tokens: int | None
    tokens: int | None
    fault: str = ""


def read_reply(body: str) -> Reply:
    """Read a reply's body.  Raises `ValueError`, with the server's words, for one that is no answer of a model."""
    try:
        envelope = _Envelope.model_validate_json(body)
    except ValidationError:
        raise ValueError(f"no JSON object: {words(body)}") from None
    usage, choices = envelope.usage or _Usage(), envelope.choices or []
    try:
        if not choices:
            raise InputError(f"a reply without choices: {words(body)}")
        choices = checked(_Choices, {"choices": choices}, "a reply of another form").choices
        completions = [_completion(choice, usage.completion_tokens, len(choices)) for choice in choices]
    except InputError as error:
        fault = str(error).rstrip(".")
        if envelope.usage is None and not any({"text", "message"} & set(c) for c in choices if isinstance(c, dict)):
            raise ValueError(fault) from None
        return Reply([], usage.prompt_tokens or None, usage.completion_tokens or None, fault)
    counted = sum(c.tokens for c in completions)
    tokens = usage.completion_tokens or (None if any(c.text for c in completions) else 0)
    if tokens is None and all(choice.logprobs and choice.logprobs.values for choice in choices):
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


def _or_none(value: Any, validate) -> Any:
    try:
        return validate(value)
    except ValidationError:
        return None


Believed = Annotated[T | None, WrapValidator(_or_none)]
Count = Annotated[int, Field(ge=0, le=10**9)]


class _Usage(Form, extra="ignore"):
    prompt_tokens: Believed[Count] = None
    completion_tokens: Believed[Count] = None


class _Envelope(Form, extra="ignore"):
    choices: Believed[list[Any]] = None
    usage: Believed[_Usage] = None


class _Token(Form, extra="ignore"):
    logprob: FiniteFloat


class _Logprobs(Form, extra="ignore"):
    """Log-probabilities of the sampled tokens, in the Completions form or the Chat form (llama.cpp sends it)."""

    content: list[_Token] | None = None
    token_logprobs: list[FiniteFloat | None] | None = None

    @property
    def values(self) -> list[float]:
        if self.content:
            return [token.logprob for token in self.content]
        return [value for value in self.token_logprobs or [] if value is not None]


class _Part(Form, extra="ignore"):
    type: str
    text: str | None = None
    refusal: str | None = None


class _Message(Form, extra="ignore"):
    content: str | list[str | _Part] | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None


class _Choice(Form, extra="ignore"):
    text: str | None = None
    message: _Message | None = None
    finish_reason: str | None = None
    error: Any = None
    logprobs: Believed[_Logprobs] = None


class _Choices(Form):
    choices: Annotated[list[_Choice], Field(min_length=1)]


def _completion(choice: _Choice, used: int | None, choices: int) -> Completion:
    """One choice of a reply.  Its tokens are those of its log-probabilities, else its part of the `used` ones, else an
    estimate."""
    finish = (choice.finish_reason or "stop").lower()
    finish = FINISHES.get(finish, finish)
    if choice.message is None:
        text = choice.text
    else:
        text, refusal = _joined(choice.message)
        if refusal:
            text, finish = refusal, "refusal"
        elif choice.message.tool_calls:
            finish = "tool_calls"
        elif finish == "stop" and not text.strip():
            finish = "empty"
    if text is None:
        raise InputError("a reply of another form: a choice without text")
    logprobs = choice.logprobs.values if choice.logprobs else []
    tokens = len(logprobs) or (used // choices if used else about_tokens(text))
    return Completion(text, tokens, finish, round(sum(logprobs), 4) if logprobs else None)


def _joined(message: _Message) -> tuple[str, str]:
    """The text of a message and its refusal; thoughts among the parts of its content are left out."""
    content = message.content or ""
    if isinstance(content, str):
        return content, message.refusal or ""
    parts = [_Part(type="text", text=part) if isinstance(part, str) else part for part in content]
    if unknown := {p.type for p in parts} - {"text", "output_text", "refusal", "thinking", "reasoning"}:
        raise InputError(f"a reply of another form: its content has a part of type {min(unknown)!r}, which is no text")
    text = "".join(p.text or "" for p in parts if p.type in ("text", "output_text"))
    return text, message.refusal or "".join(p.refusal or "" for p in parts)
