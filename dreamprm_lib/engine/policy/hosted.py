"""Asking an OpenAI-compatible endpoint for many completions: bounded concurrency, retries, budget.

Every answer is stored, with what it cost, before the next request takes its place.  After a failure, or where the
budget ends, nothing new is sent, what is under way is waited for and stored, and then the error is raised.  What an
answer cost is booked before its samples are judged: if it does not say so, the most that it can have cost.

The client's own retries are switched off: they would ask again after a quota is used up or another request has failed,
they ignore a `Retry-After` of more than a minute, and they take a page of HTML for an answer.

Not covered: what the provider charges for an answer that was cut off on its way is not known here, and two processes
that spend from one budget at the same time see each other's spending only when they start.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from email.utils import parsedate_to_datetime
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import anyio
import openai
from anyio.from_thread import start_blocking_portal
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from dreamprm_lib.engine.policy.completions import Completion, CompletionStore, Cost, Request
from dreamprm_lib.engine.policy.endpoint import Endpoint, refuse_secrets
from dreamprm_lib.engine.policy.replies import SAMPLES, Reply, read_reply, words
from dreamprm_lib.errors import BudgetSpent, InputError, PolicyError

Chunk = tuple[Request, list[int], int]  # a request, its samples to ask for, how often they were asked for before
Answer = tuple[str, dict[int, Completion]]  # a request's digest, and samples of it

ASKED_AGAIN = ("refusal", "tool_calls", "empty", "length")  # of chat replies
PASSING = (openai.APIConnectionError, TimeoutError, ValueError)  # the last: a reply that cannot be read
OPENAI = "https://api.openai.com/v1"
NETWORK = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


class Asker:
    """Asks one endpoint for samples and stores them; `account` pays (see `CompletionStore.pay`)."""

    _client: openai.AsyncOpenAI
    _stopping: anyio.Event

    def __init__(self, endpoint: Endpoint, store: CompletionStore, account: str = ""):
        self._endpoint, self._store, self._account = endpoint, store, account
        self._key = api_key(endpoint)
        default = os.environ.get("OPENAI_BASE_URL") or OPENAI
        self._url = default if endpoint.base_url in (None, "openai") else endpoint.base_url
        refuse_secrets(self._url)
        self._spent = store.spent(account.partition("/")[0], endpoint.model)  # of the budget
        self._reserved: list[Cost] = []
        self._failure: Exception | None = None

    def ask(self, chunks: Iterable[Chunk]) -> Generator[Answer]:
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
        at_once = max(1, (self._endpoint.slots or 32) // max(len(samples) for _, samples, _ in chunks))
        async with self._opened() as self._client, anyio.create_task_group() as workers:
            for _ in range(min(at_once, len(chunks))):
                workers.start_soon(self._work, chunks, arrived)
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
                kept = await self._answer(request, samples, before >= self._endpoint.patience.reasks)
            except Exception as error:
                self._failure = self._failure or error
                self._stopping.set()
                return
            finally:
                self._reserved.remove(most)
            if again := [i for i in samples if i not in kept]:
                chunks.appendleft((request, again, before + 1))
            arrived((request.digest, kept))

    async def _answer(self, request: Request, samples: list[int], last: bool) -> dict[int, Completion]:
        """Those of the samples that one answer gives, stored and booked; after the `last` one, failures are errors."""
        reply, cost = await self._send(request, len(samples))
        known = dict(zip(samples, reply.completions, strict=False))
        sampled = {i: c for i, c in known.items() if c.finish in SAMPLES}
        poor = request.kind == "chat" and not last
        kept = {i: c for i, c in sampled.items() if not (poor and c.finish in ASKED_AGAIN)}
        self._store.pay(request, kept, [c.finish for c in reply.completions], cost, self._account)
        self._spent += cost
        if last and (not known or len(sampled) < len(known)):
            ends = sorted({f"the reply ended by {c.finish}" for c in known.values() if c.finish not in SAMPLES})
            fault = "; ".join([*ends, *filter(None, [reply.fault])])
            raise PolicyError(
                f"{self._url} gave no sample of {request.model} in {1 + self._endpoint.patience.reasks} tries: {fault}."
                " What was paid for is booked. Ask another model, or leave the problem out."
            )
        if known and len(reply.completions) != len(samples):
            raise PolicyError(
                f"{self._url} returned {len(reply.completions)} samples instead of {len(samples)}: set `takes_n` to "
                "false. What it returned is stored."
            )
        return kept

    def _opened(self) -> openai.AsyncOpenAI:
        """The client.  A server on this machine is asked past the environment's proxy.

        Raises `InputError` for network settings that cannot be used; they are not repeated, since a proxy's address may
        hold a password.
        """
        try:
            return openai.AsyncOpenAI(
                base_url=self._url,
                api_key=self._key or "none",
                timeout=self._endpoint.patience.timeout,
                max_retries=0,
                http_client=openai.DefaultAsyncHttpxClient(trust_env=not is_loopback(self._url)),
            )
        except Exception as error:
            names = [name for name in NETWORK if os.environ.get(name) or os.environ.get(name.lower())]
            advice = "Install `socksio` for a SOCKS proxy" if isinstance(error, ImportError) else "Correct them"
            raise InputError(
                f"The network settings of the environment ({', '.join(names)}) cannot be used: "
                f"{type(error).__name__}. {advice}, or unset them."
            ) from None

    async def _send(self, request: Request, n: int) -> tuple[Reply, Cost]:
        """One answer, tried again after failures that may pass."""
        retries = self._endpoint.patience.retries
        retrying = AsyncRetrying(
            retry=retry_if_exception(self._may_pass),
            stop=lambda state: state.attempt_number > retries or self._stopping.is_set(),
            wait=self._wait,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return await retrying(self._try, request, n)
        except (openai.OpenAIError, *PASSING) as error:
            # Not chained: the original may hold the key, and a traceback would show it.
            raise PolicyError(self._described(error, request)) from None

    async def _try(self, request: Request, n: int) -> tuple[Reply, Cost]:
        body: dict[str, Any] = {"model": request.model, "n": n, "extra_body": json.loads(request.extra or "{}")}
        if request.temperature is not None:
            body |= {"temperature": request.temperature, "top_p": request.top_p}
        if request.stop:
            body["stop"] = list(request.stop)
        api: Any = self._client.completions
        if request.kind == "completion":
            body |= {"prompt": request.prompt, "max_tokens": request.max_tokens, "logprobs": 1}
        else:  # Ollama ignores the new name of the limit, OpenAI's reasoning models refuse the old one
            new = self._endpoint.base_url == "openai" or self._endpoint.api.reasoning
            body["max_completion_tokens" if new else "max_tokens"] = request.max_tokens
            body["messages"] = json.loads(request.prompt)
            api = self._client.chat.completions
        with anyio.fail_after(self._endpoint.patience.timeout):
            answer = await api.with_raw_response.create(**body)
        reply, most = read_reply(self._without_key(answer.text)), self._endpoint.most(request, n)
        read = most.prompt_tokens if reply.prompt_tokens is None else reply.prompt_tokens
        written = most.tokens if reply.tokens is None else reply.tokens
        return reply, self._endpoint.cost(read, written, len(reply.completions))

    def _may_pass(self, error: BaseException) -> bool:
        if isinstance(error, openai.APIStatusError):
            lasting = error.code == "insufficient_quota" or retry_after(error) > self._endpoint.patience.longest
            return not lasting and (error.status_code in (408, 409, 429) or error.status_code >= 500)
        return isinstance(error, PASSING)

    def _wait(self, state: RetryCallState) -> float:
        patience = self._endpoint.patience
        demanded = retry_after(state.outcome.exception() if state.outcome else None)
        return max(0.0, demanded) + wait_random_exponential(patience.backoff, patience.longest)(state)

    async def _sleep(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._stopping.wait()

    def _described(self, error: Exception, request: Request) -> str:
        """What went wrong, without the key."""
        patience = self._endpoint.patience
        tries = f" It was asked {1 + patience.retries} times." if patience.retries else ""
        if isinstance(error, openai.APITimeoutError | TimeoutError):
            text = f"{self._url} did not answer within {patience.timeout:g} seconds.{tries}"
        elif isinstance(error, openai.APIConnectionError):
            text = f"No answer from {self._url}: is the server up? ({error}){tries}"
        elif isinstance(error, openai.APIStatusError):
            said = words(self._without_key(error.response.text))
            text = f"{self._url} refused the request for {request.model} with status {error.status_code}: {said}."
            if retry_after(error) > patience.longest:
                text += f" It wants to be asked again in {retry_after(error):.0f} seconds; the run goes on from here."
            elif self._may_pass(error):
                text += tries
        else:
            text = f"{self._url} answered with nonsense ({error}).{tries}"
        return self._without_key(text)

    def _without_key(self, text: str) -> str:
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


def is_loopback(url: str) -> bool:
    """Whether an address is one of this machine."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def retry_after(error: BaseException | None) -> float:
    """Seconds that a `Retry-After` demands (it has seconds, or a date); 0 without one that can be read."""
    value = error.response.headers.get("retry-after", "") if isinstance(error, openai.APIStatusError) else ""
    for read in (float, lambda date: parsedate_to_datetime(date).timestamp() - time.time()):
        try:
            seconds = read(value)
            return 0.0 if math.isnan(seconds) else seconds
        except (ValueError, TypeError, OverflowError):
            continue
    return 0.0
