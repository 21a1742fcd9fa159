"""Asking an OpenAI-compatible endpoint for many completions: bounded concurrency, retries, budget.

Every answer is stored, with what it cost, before the next request takes its place.  After a failure, or where the
budget ends, nothing new is sent, what is under way is waited for and stored, and then the error is raised.  What an
answer cost is booked before its samples are judged: if it does not tell, the most that it can have cost.

Not covered: what the provider charges for an answer that was cut off on its way is not known here, and two processes
that spend from one budget at the same time see each other's spending only when they start.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from email.utils import parsedate_to_datetime
from queue import SimpleQueue
from urllib.parse import urlsplit

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

from dreamprm_lib.engine.policy.completions import Completion, CompletionStore, Cost, Request
from dreamprm_lib.engine.policy.endpoint import Endpoint, refuse_secrets
from dreamprm_lib.engine.policy.replies import SAMPLES, Reply, read_reply, words
from dreamprm_lib.errors import BudgetSpent, InputError, PolicyError

log = logging.getLogger(__name__)

Chunk = tuple[Request, list[int], int]  # a request, its samples to ask for, how often they were asked for before
Answer = tuple[str, dict[int, Completion]]  # a request's digest, and samples of it

ASKED_ANEW = ("refusal", "tool_calls", "empty", "length")  # of chat replies
PASSING = (openai.APIConnectionError, TimeoutError, ValueError)  # the last: a reply that cannot be read
OPENAI = "https://api.openai.com/v1"
NETWORK = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


class Asker:
    """Asks one endpoint, at the address `base_url`, for samples and stores them; `account` pays (see `store.pay`)."""

    def __init__(self, endpoint: Endpoint, base_url: str | None, store: CompletionStore, account: str = ""):
        self._endpoint, self._store, self._account = endpoint, store, account
        self._key = api_key(endpoint)
        self._url = base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI
        refuse_secrets(self._url)
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
        async with self._opened() as self._client, anyio.create_task_group() as workers:
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
                reply, cost = await self._send(request, len(samples))
                known = dict(zip(samples, reply.completions, strict=False))
                last = before >= self._endpoint.patience.reasks
                failed = {i for i, c in known.items() if c.finish not in SAMPLES} if known else set(samples)
                poor = set() if last else {i for i, c in known.items() if _is_poor(c, request)}
                kept = {i: c for i, c in known.items() if i not in failed | poor}
                self._store.pay(request, kept, [c.finish for c in reply.completions], cost, self._account)
                self._spent += cost
                if failed and last:
                    raise PolicyError(self._failed(reply, request))
                if known and len(reply.completions) != len(samples):
                    raise PolicyError(
                        f"{self._url} returned {len(reply.completions)} samples instead of {len(samples)}: set "
                        "`takes_n` to false. What it returned is stored."
                    )
            except Exception as error:
                self._failure = self._failure or error
                self._stopping.set()
                return
            finally:
                self._reserved.remove(most)
            if again := sorted(failed | poor):
                chunks.appendleft((request, again, before + 1))
            arrived((request.digest, kept))

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

    async def _try(self, request: Request, n: int) -> tuple[Reply, Cost]:
        body = {"model": request.model, "n": n, "extra_body": json.loads(request.extra or "{}")}
        if request.temperature is not None:
            body |= {"temperature": request.temperature, "top_p": request.top_p}
        if request.stop:
            body["stop"] = list(request.stop)
        with anyio.fail_after(self._endpoint.patience.timeout):
            if request.kind == "completion":
                answer = await self._client.completions.with_raw_response.create(
                    **body, prompt=request.prompt, max_tokens=request.max_tokens, logprobs=1
                )
            else:  # Ollama ignores the new name of the limit, OpenAI's reasoning models refuse the old one
                new = self._endpoint.base_url == "openai" or self._endpoint.known.reasoning
                body["max_completion_tokens" if new else "max_tokens"] = request.max_tokens
                answer = await self._client.chat.completions.with_raw_response.create(
                    **body, messages=json.loads(request.prompt)
                )
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
            said = words(self._without_key(error.response.text))
            text = f"{self._url} refused the request for {request.model} with status {error.status_code}: {said}."
            if retry_after(error) > self._endpoint.patience.longest:
                text += f" It wants to be asked again in {retry_after(error):.0f} seconds; the run goes on from here."
            elif self._may_pass(error):
                text += tries
        else:
            text = f"{self._url} answered with nonsense ({error}).{tries}"
        return self._without_key(text)

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text

    def _failed(self, reply: Reply, request: Request) -> str:
        tries = 1 + self._endpoint.patience.reasks
        ends = [f"the reply ended by {finish}" for finish in sorted({c.finish for c in reply.completions} - SAMPLES)]
        fault = "; ".join([*ends, *filter(None, [reply.fault])])
        return self._without_key(
            f"{self._url} gave no sample of {request.model} in {tries} tries: {fault}. What was paid for is booked. "
            "Ask another model, or leave the problem out."
        )

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


def _is_poor(completion: Completion, request: Request) -> bool:
    """Whether a reply is worth another try, though it is a sample."""
    return request.kind == "chat" and completion.finish in ASKED_ANEW


def is_loopback(url: str) -> bool:
    """Whether an address is one of this machine."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


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
