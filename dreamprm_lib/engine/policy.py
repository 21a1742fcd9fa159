"""The policy: a language model that writes programs, behind any OpenAI-compatible endpoint.

`Policy.sample` looks for each completion in the recordings, then in the store, and asks the endpoint only for what is
missing.  The embedded default serves a pinned GGUF file by llama.cpp in a child process on loopback.

A `Prompt` may *prefill* the reply: its first words are given and the model continues them.  Where raw completions can
be had, prompt and prefill are rendered by the ChatML template (Qwen's); a chat endpoint cannot be prefilled and gets
the same demand as an instruction.

Concurrent sampling is not reproducible by seed (batching changes the sums), so completions are recorded, never assumed
repeatable.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import openai
from tqdm.auto import tqdm

from dreamprm_lib.engine.completions import Completion, CompletionStore, Recording, Request, Rows, load_recording
from dreamprm_lib.engine.weights import cache_dir, weights_path
from dreamprm_lib.errors import InputError, MissingCompletion, PolicyError

log = logging.getLogger(__name__)

EMBEDDED = "qwen2.5-coder-1.5b-instruct-q4_k_m"


@dataclass(frozen=True)
class Prompt:
    """Chat messages as (role, content) pairs, and the opening of the reply (may be empty)."""

    messages: tuple[tuple[str, str], ...]
    prefill: str = ""


@dataclass(frozen=True)
class Endpoint:
    """Where and how a model is asked.

    - `base_url`: an OpenAI-compatible API; None starts the embedded server; "openai" is the client's own default.
    - `prefill`: raw completions in ChatML are available, so a reply can be opened for the model.
    - `takes_n`: several samples of one prompt in one request, so that the prompt is evaluated once.
    - `takes_sampling`: temperature and top-p are accepted (o-series models refuse them).
    - `slots`: samples under way at once.
    - `extra`: further fields of the request's body, for servers that know them.

    The API key is read from the environment variable `OPENAI_API_KEY`, and nowhere else.
    """

    model: str = EMBEDDED
    base_url: str | None = None
    prefill: bool = True
    takes_n: bool = True
    takes_sampling: bool = True
    slots: int = 32
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    extra: dict = field(default_factory=dict)


class Policy:
    """Samples completions, each from the first source that has it: recordings, store, endpoint.

    `offline=True` never asks the endpoint: a completion that is missing raises `MissingCompletion`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        store: CompletionStore,
        recordings: Sequence[Recording] = (),
        offline: bool = False,
    ):
        self.endpoint = endpoint
        self.offline = offline
        self.asked = 0  # completions that the endpoint was asked for, by this object
        self.served: Rows = {}  # all that this object has handed out, for a recording
        self._store = store
        self._recordings = tuple(recordings)
        self._server: EmbeddedServer | None = None

    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        temperature: float = 0.8,
        top_p: float = 0.95,
        max_tokens: int = 400,
        first: int = 0,
        stop: Sequence[str] = (),
    ) -> list[list[Completion]]:
        """Samples `first` … `first + n - 1` of each prompt; each text is the whole reply, prefill included.

        `stop` are further texts that end a reply, beside the closing fence; no reply contains them, and which one ended
        it is not told.  Completions are stored as they arrive: after an interruption the same call asks for the rest
        alone.
        """
        requests = [self.request(p, temperature, top_p, max_tokens, stop) for p in prompts]
        wanted = range(first, first + n)
        have = {r.digest: self._known(r) for r in requests}
        for r in requests:
            self.served.setdefault(r.digest, (r, {}))
        missing: dict[str, tuple[Request, list[int]]] = {}
        for request in requests:
            absent = [i for i in wanted if i not in have[request.digest]]
            if absent:
                missing[request.digest] = (request, absent)
        if missing:
            self._refuse_if_offline(missing)
            for digest, answers in self._ask_all(missing):
                have[digest].update(answers)
        for request in requests:
            self.served[request.digest][1].update({i: have[request.digest][i] for i in wanted})
        opening = [p.prefill if self.endpoint.prefill else "" for p in prompts]
        return [
            [_with_prefill(have[r.digest][i], text) for i in wanted] for r, text in zip(requests, opening, strict=True)
        ]

    def request(
        self, prompt: Prompt, temperature: float, top_p: float, max_tokens: int, stop: Sequence[str] = ()
    ) -> Request:
        """The request that this endpoint is sent for a prompt: raw text where it can prefill, else chat messages."""
        sampling = self.endpoint.takes_sampling
        return Request(
            model=self.endpoint.model,
            kind="completion" if self.endpoint.prefill else "chat",
            prompt=render_chatml(prompt) if self.endpoint.prefill else _as_instruction(prompt),
            temperature=temperature if sampling else None,
            top_p=top_p if sampling else None,
            max_tokens=max_tokens,
            stop=(*(("\n```",) if self.endpoint.prefill else ()), *stop),
        )

    def close(self) -> None:
        """Stop the embedded server, if it was started."""
        if self._server:
            self._server.stop()
            self._server = None

    def __enter__(self) -> Policy:
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    def _known(self, request: Request) -> dict[int, Completion]:
        known = self._store.get(request)
        for recording in reversed(self._recordings):
            known.update(recording.get(request))
        return known

    def _refuse_if_offline(self, missing: dict[str, tuple[Request, list[int]]]) -> None:
        if self.offline:
            request, absent = next(iter(missing.values()))
            raise MissingCompletion(
                f"{sum(len(a) for _, a in missing.values())} completions of {len(missing)} requests are not recorded, "
                f"and this run is offline. The first: sample {absent[0]} of request {request.digest[:12]} to "
                f"{request.model} (T = {request.temperature}), whose prompt ends with {request.prompt[-120:]!r}. "
                "Record them with `python -m dreamprm_lib record --profile PROFILE`, or set `offline` to false to "
                "ask the model now."
            )

    def _ask_all(self, missing: dict[str, tuple[Request, list[int]]]):
        """Ask for what is missing, `slots` samples at once; store and yield each answer as it arrives."""
        client = self._client()
        per_request = 8 if self.endpoint.takes_n else 1
        chunks = [
            (request, absent[k : k + per_request])
            for request, absent in missing.values()
            for k in range(0, len(absent), per_request)
        ]
        at_once = max(1, self.endpoint.slots // max(len(indices) for _, indices in chunks))
        with (
            tqdm(total=sum(len(i) for _, i in chunks), desc=f"asking {self.endpoint.model}", unit="completion") as bar,
            ThreadPoolExecutor(at_once) as pool,
        ):
            futures = {pool.submit(self._ask, client, request, len(i)): (request, i) for request, i in chunks}
            try:
                for future in as_completed(futures):
                    request, indices = futures[future]
                    answers = dict(zip(indices, future.result(), strict=True))
                    self._store.put(request, answers)
                    self.asked += len(answers)
                    bar.update(len(answers))
                    yield request.digest, answers
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.close()  # what is under way at the embedded server ends with it
                raise

    def _ask(self, client: openai.OpenAI, request: Request, n: int) -> list[Completion]:
        body = {"model": request.model, "n": n}
        if request.temperature is not None:
            body |= {"temperature": request.temperature, "top_p": request.top_p}
        if request.stop:
            body["stop"] = list(request.stop)
        try:
            if request.kind == "completion":
                reply = client.completions.create(
                    **body, prompt=request.prompt, max_tokens=request.max_tokens, logprobs=1, extra_body=self._extra()
                )
            else:
                reply = client.chat.completions.create(
                    **body,
                    messages=json.loads(request.prompt),
                    max_completion_tokens=request.max_tokens,
                    extra_body=self._extra(),
                )
        except openai.APIConnectionError as error:
            raise PolicyError(f"No answer from {client.base_url}: is the server up? ({error})") from error
        except openai.APIStatusError as error:
            raise PolicyError(f"{client.base_url} refused the request for {request.model}: {error.message}") from error
        if len(reply.choices) != n:
            raise PolicyError(
                f"{client.base_url} returned {len(reply.choices)} samples instead of {n}: set `takes_n` to false."
            )
        return [_completion(choice, reply) for choice in reply.choices]

    def _extra(self) -> dict:
        embedded = {"top_k": 0, "min_p": 0.0, "cache_prompt": True} if self.endpoint.base_url is None else {}
        return embedded | self.endpoint.extra

    def _client(self) -> openai.OpenAI:
        if self.endpoint.base_url is None:
            if self._server is None:
                self._server = EmbeddedServer(self.endpoint.model, self.endpoint.slots, self.endpoint.threads)
            return openai.OpenAI(base_url=self._server.base_url, api_key="none", timeout=1800, max_retries=0)
        base_url = None if self.endpoint.base_url == "openai" else self.endpoint.base_url
        key = os.environ.get("OPENAI_API_KEY")
        if base_url is None and not key:
            raise InputError("Set the environment variable OPENAI_API_KEY to ask OpenAI's API.")
        return openai.OpenAI(base_url=base_url, api_key=key or "none", timeout=1800, max_retries=5)


def recording_path(model: str) -> Path:
    """Where the shipped recording of a model lies."""
    return Path(str(resources.files("dreamprm_lib"))) / "data" / "recordings" / f"{model}.jsonl.gz"


def open_policy(settings: dict | None = None, replay: bool = True) -> Policy:
    """The policy of a notebook: `settings` are fields of `Endpoint` (empty: the embedded model).

    With `replay` the shipped recording of that model answers, and what it lacks is an error; without it the recording
    is left aside and the model is asked, once for each completion.
    """
    try:
        endpoint = Endpoint(**(settings or {}))
    except TypeError as error:
        known = ", ".join(Endpoint.__dataclass_fields__)
        raise InputError(f"The policy settings {settings} do not fit ({error}): known are {known}.") from error
    path = recording_path(endpoint.model)
    recordings = [load_recording(path)] if replay and path.exists() else []
    return Policy(endpoint, CompletionStore(cache_dir() / "completions.sqlite"), recordings, offline=replay)


def render_chatml(prompt: Prompt) -> str:
    """The prompt as raw ChatML text that ends inside the assistant's turn, after the prefill."""
    turns = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in prompt.messages)
    return f"{turns}<|im_start|>assistant\n{prompt.prefill}"


def _as_instruction(prompt: Prompt) -> str:
    """Chat messages as JSON; the last one asks the model to begin its reply as the prefill does."""
    messages = [{"role": role, "content": content} for role, content in prompt.messages]
    if prompt.prefill:
        messages[-1]["content"] += (
            "\n\nYour reply must be the whole program, and it must begin with exactly these lines, unchanged:\n"
            f"{prompt.prefill}"
        )
    return json.dumps(messages, ensure_ascii=False)


def _with_prefill(completion: Completion, prefill: str) -> Completion:
    return Completion(prefill + completion.text, completion.tokens, completion.finish, completion.logprob)


def _completion(choice, reply) -> Completion:
    """One choice of a reply.  Tokens are counted from the log-probabilities where they are given: llama.cpp's
    `usage` tells those of one choice when several were asked for."""
    text = choice.text if hasattr(choice, "text") else choice.message.content or ""
    logprobs = _token_logprobs(getattr(choice, "logprobs", None))
    if logprobs:
        tokens, logprob = len(logprobs), round(sum(logprobs), 4)
    else:
        tokens, logprob = reply.usage.completion_tokens // len(reply.choices), None
    return Completion(text, tokens, choice.finish_reason or "stop", logprob)


def _token_logprobs(logprobs) -> list[float]:
    """Log-probabilities of the sampled tokens, from the Completions form or the Chat form (llama.cpp sends it)."""
    if logprobs is None:
        return []
    if content := getattr(logprobs, "content", None):
        return [t["logprob"] if isinstance(t, dict) else t.logprob for t in content]
    return [p for p in getattr(logprobs, "token_logprobs", None) or [] if p is not None]


class EmbeddedServer:
    """llama.cpp's server for a pinned GGUF, in a child process on loopback that ends with this one."""

    def __init__(self, model: str, slots: int, threads: int, context: int = 2048):
        command = [sys.executable, "-m", "dreamprm_lib.engine.llama_server", str(weights_path(model))]
        command += [f"--slots={slots}", f"--threads={threads}", f"--context={context}"]
        log.info("starting the embedded server: %s", " ".join(command))
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        watchdog = threading.Timer(180, self._process.kill)
        watchdog.start()
        self.base_url = self._process.stdout.readline().strip()
        watchdog.cancel()
        if not self.base_url:
            raise PolicyError(
                f"The embedded server did not start ({model}). Check the file with `python -m dreamprm_lib weights "
                "verify`, and that about 3 GB of memory are free."
            )

    def stop(self) -> None:
        """End the server; what is under way there is lost."""
        self._process.kill()
        self._process.wait()
