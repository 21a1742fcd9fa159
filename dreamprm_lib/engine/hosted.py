"""Asking an OpenAI-compatible endpoint for many completions: bounded concurrency, retries, budget.

Every answer is stored, with what it cost, before the next request takes its place.  After a failure, or where the
budget ends, nothing new is sent, what is under way is waited for and stored, and then the error is raised.

Not covered: what the provider charges for an answer that was cut off on its way is not known here, and two processes
that spend from one budget at the same time see each other's spending only when they start.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from email.utils import parsedate_to_datetime
from queue import SimpleQueue

import anyio
import openai
from anyio.from_thread import start_blocking_portal
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_when_event_set,
    wait_random_exponential,
)

from dreamprm_lib.engine.completions import Completion, CompletionStore, Cost, Request
from dreamprm_lib.engine.endpoint import Endpoint
from dreamprm_lib.errors import BudgetSpent, InputError, PolicyError

log = logging.getLogger(__name__)

Chunk = tuple[Request, list[int], int]  # a request, its samples to ask for, how often they were asked for before
Answer = tuple[str, dict[int, Completion]]  # a request's digest, and samples of it

ASKED_ANEW = ("refusal", "content_filter", "empty", "length")  # of chat replies
PASSING = (openai.APIConnectionError, openai.APIResponseValidationError, TimeoutError, ValueError)  # the last: no JSON


class Asker:
    """Asks one endpoint, at the address `base_url`, for samples and stores them; `account` pays (see `store.pay`)."""

    def __init__(self, endpoint: Endpoint, base_url: str | None, store: CompletionStore, account: str = ""):
        self._endpoint, self._store, self._account = endpoint, store, account
        self._key = api_key(endpoint)
        self._url = base_url
        study = account.partition("/")[0]
        self._spent, self._reserved = store.spent(study, endpoint.model), []  # of the budget
        self._failure: Exception | None = None
        self.retried = 0  # tries after a failure that might pass
        if endpoint.budget.dollars is not None and endpoint.known.price is None:
            raise InputError(
                f"No price of {endpoint.model} is known, so that a budget in dollars cannot be kept: give it in the "
                f"policy's settings, `models: {{{endpoint.model}: {{price: [IN, OUT]}}}}` in dollars for a million "
                "tokens, or a budget in `tokens`."
            )

    def ask(self, chunks: Iterable[Chunk]) -> Iterator[Answer]:
        """Samples as they arrive; at the end `PolicyError` if a request failed, `BudgetSpent` if the budget did.

        The event loop runs in a thread of its own, since a notebook's is taken.  To stop early ends what is under way.
        """
        arrived: SimpleQueue[Answer | None] = SimpleQueue()
        with start_blocking_portal() as portal:
            done = portal.start_task_soon(self._ask_all, deque(chunks), arrived.put)
            done.add_done_callback(lambda _: arrived.put(None))
            try:
                yield from iter(arrived.get, None)
                done.result()
            finally:
                done.cancel()

    async def _ask_all(self, chunks: deque[Chunk], arrived: Callable[[Answer], None]) -> None:
        self._stopping = anyio.Event()
        at_once = max(1, self._endpoint.slots // max(len(samples) for _, samples, _ in chunks))
        timeout = self._endpoint.patience.timeout
        client = openai.AsyncOpenAI(base_url=self._url, api_key=self._key or "none", timeout=timeout, max_retries=0)
        async with client, anyio.create_task_group() as workers:
            self._client, self._url = client, str(client.base_url)
            for _ in range(min(at_once, len(chunks))):
                workers.start_soon(self._work, chunks, arrived)
        if self.retried:
            log.info("%s: %d requests were tried again", self._endpoint.model, self.retried)
        if self._failure:
            raise self._failure
        if chunks:
            raise BudgetSpent(self._what_is_spent(sum(len(samples) for _, samples, _ in chunks)))

    async def _work(self, chunks: deque[Chunk], arrived: Callable[[Answer], None]) -> None:
        """Take chunk after chunk while the budget covers the most that the next one can cost."""
        while chunks and not self._stopping.is_set():
            request, samples, before = chunks[0]
            most = self._endpoint.most(request, len(samples))
            if not self._endpoint.budget.covers(sum(self._reserved, self._spent + most)):
                return
            chunks.popleft()
            self._reserved.append(most)
            try:
                completions, cost = await self._send(request, len(samples))
                known = dict(zip(samples, completions, strict=True))
                anew = []
                if request.kind == "chat" and before < self._endpoint.patience.reasks:
                    anew = [i for i, c in known.items() if c.finish in ASKED_ANEW]
                kept = {i: c for i, c in known.items() if i not in anew}
                self._store.pay(request, kept, [c.finish for c in completions], cost, self._account)
                self._spent += cost
            except Exception as error:
                self._failure = self._failure or error
                self._stopping.set()
                return
            finally:
                self._reserved.remove(most)
            if anew:
                chunks.appendleft((request, anew, before + 1))
            arrived((request.digest, kept))

    async def _send(self, request: Request, n: int) -> tuple[list[Completion], Cost]:
        """One answer, tried again after failures that may pass."""
        patience = self._endpoint.patience
        retrying = AsyncRetrying(
            retry=retry_if_exception(self._may_pass),
            stop=stop_after_attempt(1 + patience.retries) | stop_when_event_set(self._stopping),
            wait=self._wait,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return await retrying(self._try, request, n)
        except (openai.OpenAIError, *PASSING) as error:
            # Not chained: the original may hold the key, and a traceback would show it.
            raise PolicyError(self._told(error, request)) from None

    async def _try(self, request: Request, n: int) -> tuple[list[Completion], Cost]:
        body = {"model": request.model, "n": n, "extra_body": json.loads(request.extra or "{}")}
        if request.temperature is not None:
            body |= {"temperature": request.temperature, "top_p": request.top_p}
        if request.stop:
            body["stop"] = list(request.stop)
        with anyio.fail_after(self._endpoint.patience.timeout):
            if request.kind == "completion":
                reply = await self._client.completions.create(
                    **body, prompt=request.prompt, max_tokens=request.max_tokens, logprobs=1
                )
            else:  # Ollama ignores the new name of the limit, OpenAI's reasoning models refuse the old one
                new = self._endpoint.base_url == "openai" or self._endpoint.known.reasoning
                body["max_completion_tokens" if new else "max_tokens"] = request.max_tokens
                reply = await self._client.chat.completions.create(**body, messages=json.loads(request.prompt))
        choices = getattr(reply, "choices", None)
        if not choices:
            raise ValueError("a reply without choices")
        if len(choices) != n:
            raise PolicyError(f"{self._url} returned {len(choices)} samples instead of {n}: set `takes_n` to false.")
        try:
            completions = [_completion(choice, reply) for choice in choices]
            written = max(getattr(reply.usage, "completion_tokens", None) or 0, sum(c.tokens for c in completions))
            read = getattr(reply.usage, "prompt_tokens", None) or len(request.prompt) // 4
            return completions, self._endpoint.cost(read, written, n)
        except (AttributeError, TypeError) as error:
            raise ValueError(f"a reply of another form: {error}") from None

    def _may_pass(self, error: BaseException) -> bool:
        if isinstance(error, openai.APIStatusError):
            lasting = error.code == "insufficient_quota" or retry_after(error) > self._endpoint.patience.longest
            return not lasting and (error.status_code in (408, 409, 429) or error.status_code >= 500)
        return isinstance(error, PASSING)

    def _wait(self, state: RetryCallState) -> float:
        self.retried += 1
        patience = self._endpoint.patience
        jitter = wait_random_exponential(multiplier=patience.backoff, max=patience.longest)(state)
        return max(0.0, retry_after(state.outcome.exception())) + jitter

    async def _sleep(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._stopping.wait()

    def _told(self, error: Exception, request: Request) -> str:
        """What went wrong, without the key."""
        tries = f" It was asked {1 + self._endpoint.patience.retries} times." if self._endpoint.patience.retries else ""
        if isinstance(error, openai.APITimeoutError | TimeoutError):
            text = f"{self._url} did not answer within {self._endpoint.patience.timeout:g} seconds.{tries}"
        elif isinstance(error, openai.APIConnectionError):
            text = f"No answer from {self._url}: is the server up? ({error}){tries}"
        elif isinstance(error, openai.APIStatusError):
            text = f"{self._url} refused the request for {request.model}: {error.message}"
            if retry_after(error) > self._endpoint.patience.longest:
                text += f" It wants to be asked again in {retry_after(error):.0f} seconds; the run goes on from here."
            elif self._may_pass(error):
                text += tries
        else:
            text = f"{self._url} answered with nonsense ({error}).{tries}"
        return text.replace(self._key, "[key]") if self._key else text

    def _what_is_spent(self, missing: int) -> str:
        budget, spent = self._endpoint.budget, self._spent
        limits = [f"${budget.dollars:g}"] if budget.dollars is not None else []
        limits += [f"{budget.tokens:,} tokens"] if budget.tokens is not None else []
        money = "" if spent.dollars is None else f"${spent.dollars:.4f} and "
        return (
            f"The budget of {' and '.join(limits)} for {self._endpoint.model} does not cover the next request: "
            f"{money}{spent.prompt_tokens + spent.tokens:,} tokens are spent, and {missing} completions are missing. "
            "What was paid for is stored. Raise `budget` in the policy's settings and run again: it goes on from here."
        )


def api_key(endpoint: Endpoint) -> str | None:
    """The key from the environment.  Raises `InputError` if OpenAI's API, or a variable of the user's, lacks it."""
    key = os.environ.get(endpoint.key_variable, "").strip()
    needed = endpoint.base_url == "openai" or endpoint.key_variable != Endpoint.key_variable
    if needed and not key:
        raise InputError(f"Set the environment variable {endpoint.key_variable} to the key of the API to ask.")
    return key or None


def retry_after(error: BaseException) -> float:
    """Seconds that a `Retry-After` demands (it has seconds, or a date); 0 without one that can be read."""
    headers = error.response.headers if isinstance(error, openai.APIStatusError) else {}
    value = headers.get("retry-after", "0")
    try:
        seconds = float(value)
        return 0.0 if math.isnan(seconds) else seconds
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _completion(choice, reply) -> Completion:
    """One choice of a reply.  Tokens are counted from the log-probabilities where they are given: llama.cpp's
    `usage` tells those of one choice when several were asked for."""
    message = getattr(choice, "message", None)
    text = choice.text if message is None else message.content or ""
    finish = choice.finish_reason or "stop"
    if text is None:
        raise TypeError("a choice without text")
    if refusal := getattr(message, "refusal", None):
        text, finish = refusal, "refusal"
    elif message is not None and finish == "stop" and not text.strip():
        finish = "empty"
    logprobs = _token_logprobs(getattr(choice, "logprobs", None))
    if logprobs:
        tokens, logprob = len(logprobs), round(sum(logprobs), 4)
    else:
        used = getattr(reply.usage, "completion_tokens", None)
        tokens, logprob = (len(text) // 4 if used is None else used // len(reply.choices)), None
    return Completion(text, tokens, finish, logprob)


def _token_logprobs(logprobs) -> list[float]:
    """Log-probabilities of the sampled tokens, from the Completions form or the Chat form (llama.cpp sends it)."""
    if logprobs is None:
        return []
    if content := getattr(logprobs, "content", None):
        return [t["logprob"] if isinstance(t, dict) else t.logprob for t in content]
    return [p for p in getattr(logprobs, "token_logprobs", None) or [] if p is not None]
