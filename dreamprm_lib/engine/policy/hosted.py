"""Asking an OpenAI-compatible endpoint for many completions: bounded concurrency, retries, budget.

Every answer is stored, with what it cost, before the next request takes its place.  After a failure, or where the
budget ends, nothing new is sent, what is under way is waited for and stored, and then the error is raised.  What an
answer cost is booked before its samples are judged: if it does not say so, the most that it can have cost.

The `openai` client itself tries again after a cut connection, a time-out, a server error and a rate limit, and waits
as long as `Retry-After` demands, up to two minutes.

Not covered: what the provider charges for an answer that was cut off on its way is not known here, and two processes
that spend from one budget at the same time see each other's spending only when they start.
"""

import json
import os
import textwrap
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any
from urllib.parse import urlsplit

import openai
from anyio.from_thread import start_blocking_portal

from dreamprm_lib.engine.policy.completions import Completion, CompletionStore, Request
from dreamprm_lib.engine.policy.endpoint import Endpoint, refuse_secrets
from dreamprm_lib.engine.policy.replies import SAMPLES, read_reply
from dreamprm_lib.errors import BudgetSpent, InputError, PolicyError

Chunk = tuple[Request, list[int], int]  # a request, its samples to ask for, how often it brought none
Answer = tuple[str, dict[int, Completion]]  # a request's digest, and samples of it

REASKS = 2  # further tries after an answer without a sample
OPENAI = "https://api.openai.com/v1"
THIS_MACHINE = ("127.0.0.1", "localhost", "::1", "0.0.0.0")


class Asker:
    """Asks one endpoint for samples and stores them; `account` pays (see `CompletionStore.pay`)."""

    def __init__(self, endpoint: Endpoint, store: CompletionStore, account: str):
        self._endpoint, self._store, self._account = endpoint, store, account
        self._key = api_key(endpoint)
        default = os.environ.get("OPENAI_BASE_URL") or OPENAI
        self._url = default if endpoint.base_url in (None, "openai") else endpoint.base_url
        refuse_secrets(self._url)
        self._spent = store.spent(account.partition("/")[0], endpoint.model)  # of the budget

    def ask(self, chunks: Iterable[Chunk]) -> Generator[Answer]:
        """Samples as they arrive; at the end `PolicyError` if a request failed, `BudgetSpent` if the budget did.

        The event loop runs in a thread of its own, since a notebook's is taken.  To stop early ends what is under way.
        """
        waiting = deque(chunks)
        at_once = max(1, (self._endpoint.slots or 32) // max(len(samples) for _, samples, _ in waiting))
        running: dict[Future[str], Chunk] = {}
        failure: Exception | None = None
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(self._opened()) as client:
            try:
                while True:
                    while waiting and not failure and len(running) < at_once:
                        if not self._covers([*running.values(), waiting[0]]):
                            break
                        request, samples, _ = waiting[0]
                        running[portal.start_task_soon(self._send, client, request, len(samples))] = waiting.popleft()
                    if not running:
                        break
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        request, samples, tries = running.pop(future)
                        try:
                            kept = self._kept(request, samples, tries >= REASKS, future.result())
                        except Exception as error:  # raised when all that is under way is stored
                            failure = failure or error
                            continue
                        if again := [i for i in samples if i not in kept]:
                            waiting.appendleft((request, again, tries + (not kept)))
                        yield request.digest, kept
            finally:
                for future in running:
                    future.cancel()
        if failure:
            raise failure
        if waiting:
            missing = sum(len(samples) for _, samples, _ in waiting)
            raise BudgetSpent(
                f"The budget of ${self._endpoint.budget:g} for {self._endpoint.model} does not cover the next request: "
                f"${self._spent.dollars or 0:.4f} is spent, and {missing} completions are missing. What was paid for "
                "is stored. Raise `budget` in the policy's settings and run again: it goes on from here."
            )

    def _covers(self, chunks: Iterable[Chunk]) -> bool:
        """Whether the budget covers the most that these can cost together."""
        most = (self._endpoint.most(request, len(samples)) for request, samples, _ in chunks)
        budget = self._endpoint.budget
        return budget is None or (sum(most, self._spent).dollars or 0) <= budget

    def _opened(self) -> openai.AsyncOpenAI:
        """The client.  A server on this machine is asked past the environment's proxy."""
        elsewhere = urlsplit(self._url).hostname not in THIS_MACHINE
        try:
            http_client = openai.DefaultAsyncHttpxClient(trust_env=elsewhere)
        except Exception as error:  # not chained and not repeated: a proxy's address may hold a password
            raise InputError(
                f"The network settings of the environment cannot be used ({type(error).__name__}). Correct or unset "
                "ALL_PROXY, HTTPS_PROXY, HTTP_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR; a SOCKS proxy needs the "
                "package `socksio`."
            ) from None
        return openai.AsyncOpenAI(
            base_url=self._url,
            api_key=self._key or "none",
            timeout=self._endpoint.timeout,
            max_retries=self._endpoint.retries,
            http_client=http_client,
        )

    async def _send(self, client: openai.AsyncOpenAI, request: Request, n: int) -> str:
        """The body of one answer, without the key."""
        body: dict[str, Any] = {"model": request.model, "n": n, "extra_body": json.loads(request.extra or "{}")}
        if request.temperature is not None:
            body |= {"temperature": request.temperature, "top_p": request.top_p}
        if request.stop:
            body["stop"] = list(request.stop)
        api: Any = client.completions
        if request.kind == "completion":
            body |= {"prompt": request.prompt, "max_tokens": request.max_tokens, "logprobs": 1}
        else:  # Ollama ignores the new name of the limit, OpenAI's reasoning models refuse the old one
            new = self._endpoint.base_url == "openai" or self._endpoint.api.reasoning
            body["max_completion_tokens" if new else "max_tokens"] = request.max_tokens
            body["messages"] = json.loads(request.prompt)
            api = client.chat.completions
        try:
            answer = await api.with_raw_response.create(**body)
        except openai.APIStatusError as error:
            said = shown(self._without_key(error.response.text))
            fault = f"{self._url} refused the request for {request.model} with status {error.status_code}: {said}."
        except openai.OpenAIError as error:
            fault = f"No answer from {self._url}, asked {1 + self._endpoint.retries} times: is the server up? ({error})"
        else:
            return self._without_key(answer.text)
        raise PolicyError(self._without_key(fault))  # not chained: a traceback of the original may show the key

    def _kept(self, request: Request, samples: list[int], last: bool, body: str) -> dict[int, Completion]:
        """Those of the samples that an answer gives, stored and booked; after the `last` one, failures are errors."""
        reply, most = read_reply(body), self._endpoint.most(request, len(samples))
        read = most.prompt_tokens if reply.prompt_tokens is None else reply.prompt_tokens
        written = most.tokens if reply.tokens is None else reply.tokens
        cost = self._endpoint.cost(read, written, len(reply.completions))
        kept = {i: c for i, c in zip(samples, reply.completions, strict=False) if c.finish in SAMPLES}
        self._store.pay(request, kept, cost, self._account)
        self._spent += cost
        failed = sorted({c.finish for c in reply.completions} - SAMPLES)
        if last and (failed or not reply.completions):
            how = f"the reply ended by {', '.join(failed)}" if failed else "a reply of another form"
            raise PolicyError(
                f"{self._url} gave no sample of {request.model} in {1 + REASKS} tries: {how}: {shown(body)}. "
                "What was paid for is booked. Ask another model, or leave the problem out."
            )
        return kept

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def shown(body: str) -> str:
    """The beginning of what a server says, in one line."""
    return repr(textwrap.shorten(body, 300)) if body.strip() else "nothing"


def api_key(endpoint: Endpoint) -> str | None:
    """The key from the environment.  Raises `InputError` if OpenAI's API, or a variable of the user's, lacks it."""
    key = os.environ.get(endpoint.key_variable, "").strip()
    needed = endpoint.base_url == "openai" or endpoint.key_variable != Endpoint.key_variable
    if needed and not key:
        raise InputError(f"Set the environment variable {endpoint.key_variable} to the key of the API to ask.")
    return key or None
