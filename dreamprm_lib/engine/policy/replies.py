"""What an OpenAI-compatible endpoint answers: its samples and its bill, checked before any of it is stored.

A choice of another form makes the whole answer one without samples.  A bill that cannot be is not believed, and counts
as if it were missing.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

from dreamprm_lib.engine.policy.completions import Completion
from dreamprm_lib.engine.schema import row_of
from dreamprm_lib.errors import InputError

FINISHES = {  # what providers call the ways in which a reply ends; every other way is a failure
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "model_length"), "length"),
    **dict.fromkeys(("tool_calls", "tool_use", "function_call"), "tool_calls"),
}
SAMPLES = {*FINISHES.values(), "refusal", "empty"}  # a completion that ended otherwise is no sample of the model


@dataclass(frozen=True)
class Reply:
    """The completions of an answer, failed ones too, and the tokens in and out that it was billed for: None where it
    does not say or cannot be believed.  Without completions the answer as a whole has failed."""

    completions: list[Completion]
    prompt_tokens: int | None
    tokens: int | None


def read_reply(body: str) -> Reply:
    """Read a reply's body.  What has neither choices nor a bill is no answer of a model, and costs nothing."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    answer = answer if isinstance(answer, dict) else {}
    read, written = (_count(answer.get("usage"), name) for name in ("prompt_tokens", "completion_tokens"))
    choices = answer.get("choices") or []
    if not choices and not read and not written:
        return Reply([], 0, 0)
    try:
        completions = [_completion(choice, (written or 0) // len(choices)) for choice in choices]
    except (InputError, AttributeError, LookupError, TypeError):  # a choice of another form
        completions = []
    # llama.cpp reports the tokens of one choice when several were asked for.
    return Reply(completions, read, written and max(written, sum(c.tokens for c in completions)))


def _count(usage: Any, name: str) -> int | None:
    """A number of tokens in a bill; None for one that is missing or cannot be."""
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if type(count) is int and 0 < count < 10**9 else None


def _completion(choice: dict[str, Any], billed: int) -> Completion:
    """One choice of a reply, raw or of a chat.  Its tokens are those of its log-probabilities, else its share of the
    `billed` ones, else about one for four bytes.  Raises `InputError` and others for a choice of another form."""
    reason = (choice.get("finish_reason") or "stop").lower()
    finish, message = FINISHES.get(reason, reason), choice.get("message")
    if message is None:
        text = choice["text"]
    else:
        text = message.get("content") or ""
        if isinstance(text, list):  # parts, of which thoughts are not the reply
            text = "".join(part["text"] for part in text if part["type"] in ("text", "output_text"))
        if message.get("refusal"):
            text, finish = message["refusal"], "refusal"
        elif message.get("tool_calls"):
            finish = "tool_calls"
        elif finish == "stop" and not text.strip():
            finish = "empty"
    logprobs = _logprobs(choice.get("logprobs") or {})
    tokens = len(logprobs) or billed or math.ceil(len(text.encode(errors="replace")) / 4)
    logprob = round(sum(logprobs), 4) if logprobs else None
    return row_of(Completion, {"text": text, "tokens": tokens, "finish": finish, "logprob": logprob}, "a reply")


def _logprobs(given: dict[str, Any]) -> list[float]:
    """Log-probabilities of the sampled tokens, in the Completions form or the Chat form (llama.cpp sends it); none if
    one of them is not finite."""
    values = given.get("token_logprobs") or [token["logprob"] for token in given.get("content") or []]
    known = [value for value in values if value is not None]
    return known if all(map(math.isfinite, known)) else []
