"""A gateway: an OpenAI-compatible server whose answer is the best of N programs, chosen by a reward model.

The messages of a chat request are the statement of a problem.  The policy writes N programs for it, those that fail the
statement's public samples are out, and the reward model picks among the rest.  The field `dreamprm` of the answer has
scores, cost and the other programs; `docs/use.md` describes it.  Equal requests get the same answer, from the store of
completions; another `seed` draws other programs.

Not covered: one request at a time is scored, has its samples run, and is written for by the embedded policy.  Of two
equal requests at the same time both pay.  TLS is a proxy's task.
"""

import asyncio
import contextlib
import hmac
import json
import logging
import os
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import prometheus_client as prometheus
import uvicorn
from pydantic import AliasChoices, Field, PositiveFloat, PositiveInt
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from dreamprm_lib.chain_of_functions import cof_prompt, extract_code
from dreamprm_lib.engine.files import from_json, from_yaml
from dreamprm_lib.engine.policy.completions import Completion, CompletionStore, Cost
from dreamprm_lib.engine.policy.endpoint import Endpoint, endpoint_from, settings_from_environment
from dreamprm_lib.engine.policy.hosted import api_key
from dreamprm_lib.engine.policy.policy import ACCOUNT, Policy, store_path
from dreamprm_lib.engine.problem import Problem, Test
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.engine.sandbox.verdicts import check_problem
from dreamprm_lib.engine.schema import Form, checked
from dreamprm_lib.errors import BudgetSpent, DreamPRMError, InputError, PolicyError
from dreamprm_lib.reward_model import RewardModel, aggregate

log = logging.getLogger(__name__)

MODEL = "dreamprm"  # the one that clients may ask
THIS_MACHINE = ("127.0.0.1", "localhost")
ANSWERS = prometheus.Counter("dreamprm_requests", "Answers, errors too.", ["status"])
TOKENS = prometheus.Counter("dreamprm_tokens", "Tokens that were paid.", ["kind"])
SECONDS = prometheus.Histogram(
    "dreamprm_answer_seconds", "Time to a whole answer.", buckets=(1, 2, 5, 10, 20, 50, 100, 200)
)
STATUS: dict[type, int] = {BudgetSpent: 429, PolicyError: 502}  # other errors are the gateway's own: 500
LIMITS = AliasChoices("max_completion_tokens", "max_tokens")  # the new name of the field, and the old one
SAMPLE = re.compile(
    r"""^[#*\ ]* (?:sample|example)\ input\b [^\n]*\n (?:[\ \t]*\n)* (```\w*\n)? (?P<input>.{1,4000}?) (?(1)\n```) \s*
        ^[#*\ ]* (?:sample|example)\ output\b [^\n]*\n (?:[\ \t]*\n)* (```\w*\n)? (?P<output>.{1,4000}?)
        (?(3)\n```|(?:\n[\ \t]*\n|\Z))""",
    re.IGNORECASE | re.MULTILINE | re.DOTALL | re.VERBOSE,
)


@dataclass(frozen=True)
class ServeSettings:
    """How many programs are written for an answer, of how many tokens at most, and what the gateway takes on: requests
    at once, seconds for each, and the bytes of its body.  With a `key` every request but `/healthz` must bring it."""

    n: PositiveInt = 8
    max_tokens: Annotated[int, Field(ge=1, le=1024)] = 400  # as in the study; the reward model reads 2,048
    samples_in_prompt: bool = False
    in_flight: PositiveInt = 16
    timeout: PositiveFloat = 300
    most_bytes: PositiveInt = 256 * 1024
    key: str = ""


class _Sample(Form):
    input: str
    output: str


class _Extra(Form):
    samples: list[_Sample] = Field(default_factory=list)
    entry_point: str = ""
    starter_code: str = ""


class _TextPart(Form, extra="ignore"):
    type: Literal["text"]
    text: str


class _ChatMessage(Form, extra="ignore"):
    content: str | list[_TextPart]


class _Chat(Form, extra="ignore"):
    """What a request may say; other fields are passed over."""

    model: Literal["dreamprm"]
    messages: Annotated[list[_ChatMessage], Field(min_length=1)]
    dreamprm: _Extra = _Extra()
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: PositiveInt | None = Field(None, validation_alias=LIMITS)
    seed: Annotated[int, Field(ge=0, le=10**6)] | None = None
    n: Literal[1] | None = None
    tools: None = None

    def problem(self, samples_in_prompt: bool) -> Problem:
        """The messages as a statement, with the samples of the field `dreamprm`, or else those that its text holds."""
        parts = [[m.content] if isinstance(m.content, str) else [p.text for p in m.content] for m in self.messages]
        statement, extra = "\n\n".join("".join(texts) for texts in parts), self.dreamprm
        pairs = [(sample.input, sample.output) for sample in extra.samples]
        if samples_in_prompt and not pairs:
            pairs = [(found["input"], found["output"]) for found in SAMPLE.finditer(statement)]
            statement = SAMPLE.sub("\n\n", statement)
        tests = tuple(Test(*pair, "functional" if extra.entry_point else "stdin") for pair in pairs)
        name, code = extra.entry_point, extra.starter_code
        problem = Problem("request", "", statement, "", "", tests, tests, entry_point=name, starter_code=code)
        if tests:
            check_problem(problem)
        return problem


class _Purse(CompletionStore):
    """A store for several threads that remembers what was paid for each request, by its digest."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.paid: dict[str, Cost] = {}
        self._writing = threading.Lock()

    def pay(self, request: Any, completions: Any, cost: Cost, account: str) -> None:
        with self._writing:
            super().pay(request, completions, cost, account)
            self.paid[request.digest] = self.paid.get(request.digest, Cost()) + cost


class Gateway:
    """Answers chat requests by the best of `settings.n` programs; `app` is the server, still without a port."""

    def __init__(self, endpoint: Endpoint, prm: RewardModel, settings: ServeSettings):
        self._prm, self._settings, self._sandbox = prm, settings, Sandbox()
        self._purse = _Purse(store_path())
        self._policy = Policy(endpoint, self._purse)
        self._writing = contextlib.nullcontext() if endpoint.base_url else threading.Lock()
        self._scoring = threading.Lock()
        self._free = threading.BoundedSemaphore(settings.in_flight)
        self._threads = ThreadPoolExecutor(settings.in_flight)
        self.app = Starlette(exception_handlers={HTTPException: _refusal, DreamPRMError: _refusal})
        self.app.router.routes += [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/metrics", self._metrics),
            Route("/healthz", lambda _request: JSONResponse({"status": "ok"})),
        ]
        self.app.add_middleware(BaseHTTPMiddleware, dispatch=self._guard)
        if not settings.key:  # then no web page may ask by a name of its own for this machine
            self.app.add_middleware(TrustedHostMiddleware, allowed_hosts=THIS_MACHINE)

    def load(self) -> None:
        """Load what the first request would wait for: the reward model, and the embedded engine if it is the policy.
        Raises what they do."""
        # A new statement each time: the states of a known one are read from the disk, without the backbone.
        problem = Problem("first", "", f"Print {time.time_ns()}.", "", "", (), ())
        log.info("loading the reward model")
        self._prm.score(problem, ["print(1)\n"])
        self._policy.load(cof_prompt(problem))

    def close(self) -> None:
        """Wait for what is under way, then close store and sandbox."""
        self._threads.shutdown()
        self._sandbox.close()
        self._purse.close()

    def answer(self, chat: _Chat, problem: Problem) -> dict[str, Any]:
        """The whole chat completion.  Raises what policy, sandbox and reward model do."""
        started, policy = time.monotonic(), self._policy.endpoint.model
        replies, paid = self._written(chat, problem)
        codes = [extract_code(reply.text) for reply in replies]
        written = [i for i, code in enumerate(codes) if code.strip() and replies[i].finish in ("stop", "length")]
        if not written:
            raise PolicyError(f"No reply of {policy} holds a program. Ask with another `seed`.")
        verdicts = self._sandbox.grade([(problem, codes[i]) for i in written]) if problem.tests else []
        passed = {i: verdict.passed for i, verdict in zip(written, verdicts, strict=False)}
        rest = [i for i in written if passed.get(i, True)] or written
        with self._scoring:
            steps = dict(zip(rest, self._prm.score(problem, [codes[i] for i in rest]), strict=True))
        score = {i: aggregate(scores) for i, scores in steps.items()}
        ranked = sorted(written, key=lambda i: score.get(i, -1.0), reverse=True)
        best, *others = [
            {
                "score": score.get(i),
                "step_scores": steps.get(i),
                "passes_samples": passed.get(i),
                "finish": replies[i].finish,
                "program": codes[i],
            }
            for i in ranked
        ]
        seconds = round(time.monotonic() - started, 3)
        SECONDS.observe(seconds)
        usage = {"prompt_tokens": paid.prompt_tokens, "completion_tokens": paid.tokens}
        log.info("best of %d in %.1f s, for %d tokens", len(codes), seconds, sum(usage.values()))
        cost = {"completions": paid.completions, **usage, "dollars": paid.dollars, "seconds": seconds}
        message = {"role": "assistant", "content": f"```python\n{codes[ranked[0]].rstrip()}\n```"}
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": MODEL,
            "choices": [{"index": 0, "message": message, "finish_reason": best["finish"]}],
            "usage": usage | {"total_tokens": sum(usage.values())},
            "dreamprm": {"policy": policy, **best, "cost": cost, "runners_up": others},
        }

    def _written(self, chat: _Chat, problem: Problem) -> tuple[list[Completion], Cost]:
        """The replies of the policy, and what those cost that were not in the store."""
        settings: dict[str, Any] = {
            "temperature": 0.8 if chat.temperature is None else chat.temperature,
            "top_p": chat.top_p or 0.95,
            "max_tokens": min(chat.max_tokens or self._settings.max_tokens, self._settings.max_tokens),
        }
        prompt, n = cof_prompt(problem), self._settings.n
        try:
            with self._writing:
                (replies,) = self._policy.sample([prompt], n, first=(chat.seed or 0) * n, **settings)
        finally:
            self._policy.served.clear()
            paid = self._purse.paid.pop(self._policy.request(prompt, **settings).digest, Cost())
            TOKENS.labels("prompt").inc(paid.prompt_tokens)
            TOKENS.labels("completion").inc(paid.tokens)
        return replies, paid

    async def _guard(self, request: Request, handle: Callable[[Request], Awaitable[Response]]) -> Response:
        """Ask for the key, and count the answers."""
        given, key = request.headers.get("authorization", "").removeprefix("Bearer "), self._settings.key
        known = hmac.compare_digest(given.encode(), key.encode()) or not key or request.url.path == "/healthz"
        wrong = HTTPException(401, "The gateway's key is missing or wrong: send it as a bearer token.")
        response = await handle(request) if known else _refusal(request, wrong)
        ANSWERS.labels(response.status_code).inc()
        return response

    async def _chat(self, request: Request) -> Response:
        if not self._free.acquire(blocking=False):
            full = f"The gateway has {self._settings.in_flight} requests under way and takes no more: ask again soon."
            raise HTTPException(503, full, {"Retry-After": "1"})
        work: Future[dict[str, Any]] = Future()
        try:
            async with asyncio.timeout(self._settings.timeout):
                chat, problem = await self._read(request)
                work = self._threads.submit(self.answer, chat, problem)
                answer = await asyncio.wrap_future(work)
        except TimeoutError:
            late = f"There was no answer within {self._settings.timeout:g} seconds. What the policy writes is kept."
            raise HTTPException(504, late) from None
        finally:  # a thread that goes on when its client was sent away still takes a place
            work.cancel()
            work.add_done_callback(lambda _: self._free.release())
        if chat.stream:
            return StreamingResponse(_events(answer), media_type="text/event-stream")
        return JSONResponse(answer)

    async def _read(self, request: Request) -> tuple[_Chat, Problem]:
        if not request.headers.get("content-type", "").startswith("application/json"):
            raise HTTPException(415, "The body must be application/json.")  # which no foreign web page may send
        body, most = b"", self._settings.most_bytes
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise HTTPException(413, f"The request has more than {most:,} bytes.")
        try:
            chat = checked(_Chat, from_json(body.decode(errors="replace"), "The request"), "The request")
            return chat, chat.problem(self._settings.samples_in_prompt)
        except InputError as error:
            raise HTTPException(400, str(error)) from error

    async def _models(self, _request: Request) -> Response:
        model = {"id": MODEL, "object": "model", "created": 0, "owned_by": self._policy.endpoint.model}
        return JSONResponse({"object": "list", "data": [model]})

    async def _metrics(self, _request: Request) -> Response:
        return Response(prometheus.generate_latest(), media_type=prometheus.CONTENT_TYPE_LATEST)


def _refusal(_request: Request, error: Exception) -> Response:
    """An error in OpenAI's form."""
    if not isinstance(error, HTTPException):
        error = HTTPException(STATUS.get(type(error), 500), str(error))
    body = {"error": {"message": error.detail, "type": "dreamprm_error", "code": error.status_code}}
    return JSONResponse(body, error.status_code, error.headers)


def _events(answer: dict[str, Any]) -> Iterator[str]:
    """A chat completion as server-sent events: line by line, and at the end scores and cost."""
    (choice,) = answer["choices"]
    head = {name: answer[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    lines = choice["message"]["content"].splitlines(keepends=True)
    deltas = [{"role": "assistant", "content": ""}, *({"content": line} for line in lines), {}]
    for delta in deltas:
        chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": None if delta else choice["finish_reason"]}]}
        end = {} if delta else {"usage": answer["usage"], "dreamprm": answer["dreamprm"]}
        yield f"data: {json.dumps(head | chunk | end)}\n\n"
    yield "data: [DONE]\n\n"


def serve(policy: str, prm: Path, host: str, port: int, key_variable: str, settings: ServeSettings) -> None:
    """Serve until SIGTERM or Ctrl-C; what is under way then is still answered.

    `policy` holds fields of `Endpoint` as YAML (empty: the model of the environment, or the embedded one).
    """
    key = os.environ.get(key_variable, "")
    if not key and (key_variable or host not in THIS_MACHINE):
        raise InputError(f"--host {host} needs a key: put one into a variable, and name that by --key-variable.")
    endpoint = endpoint_from(from_yaml(policy, "--policy") or settings_from_environment())
    if endpoint.base_url:
        api_key(endpoint)  # it is missing now, or never
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: {error.strerror}. Choose others.") from error
    model = RewardModel.load(prm)
    os.environ.setdefault(ACCOUNT, "serve")
    gateway = Gateway(endpoint, model, replace(settings, key=key))
    gateway.load()
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn takes them over, and raises them again at its end
        signal.signal(number, lambda *_: None)
    print(f"The best of {settings.n} by {endpoint.model}: http://{host}:{listening.getsockname()[1]}/v1", flush=True)
    uvicorn.Server(uvicorn.Config(gateway.app, log_config=None, access_log=False, lifespan="off")).run([listening])
    gateway.close()
