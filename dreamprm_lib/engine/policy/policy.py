"""The policy: a language model that writes programs, behind any OpenAI-compatible endpoint.

`Policy.sample` looks for each completion in the recordings, then in the store, and asks the endpoint only for what is
missing.  The embedded default writes them in this process (`engine.policy.embedded`), from a pinned GGUF file.

A `Prompt` may *prefill* the reply: its first words are given and the model continues them.  Where raw completions can
be had, prompt and prefill are rendered by the ChatML template (Qwen's); a chat endpoint cannot be prefilled and gets
the same demand as an instruction.

What a model writes cannot be repeated elsewhere, so completions are recorded.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from dreamprm_lib.engine.files import DATA, cache_dir
from dreamprm_lib.engine.policy.completions import (
    Completion,
    CompletionStore,
    Cost,
    Recording,
    Request,
    Rows,
    WithheldRequest,
    load_recording,
)
from dreamprm_lib.engine.policy.embedded import Engine
from dreamprm_lib.engine.policy.endpoint import PER_REQUEST, WEAKER, Endpoint, endpoint_from, settings_from_environment
from dreamprm_lib.errors import MissingCompletion

if TYPE_CHECKING:
    from dreamprm_lib.engine.policy.hosted import Answer

RECORDINGS = DATA / "recordings"  # the shipped ones
ACCOUNT = "DREAMPRM_ACCOUNT"  # the environment variable that says who pays: STUDY/STAGE, set by the runner

Missing = tuple[Request, list[int]]  # a request, and the samples of it to ask for


@dataclass(frozen=True)
class Prompt:
    """Chat messages as (role, content) pairs, and the opening of the reply (may be empty).

    `withheld` is the id of a problem whose text is not ours to pass on: recordings then hold the prompt's digest alone.
    """

    messages: tuple[tuple[str, str], ...]
    prefill: str = ""
    withheld: str = ""


class Policy(contextlib.AbstractContextManager["Policy"]):
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
        self._engine: Engine | None = None

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
        it is not known.  Completions are stored as they arrive: after an interruption the same call asks for the rest
        alone.
        """
        requests = [self.request(p, temperature, top_p, max_tokens, stop) for p in prompts]
        wanted = range(first, first + n)
        have = {r.digest: self._known(r) for r in requests}
        missing = {r.digest: (r, [i for i in wanted if i not in have[r.digest]]) for r in requests}
        try:
            for digest, arrived in self._ask([row for row in missing.values() if row[1]]):
                have[digest] |= arrived
        finally:
            for r, prompt in zip(requests, prompts, strict=True):
                shown = WithheldRequest(r.digest, prompt.withheld) if prompt.withheld else r
                known = {i: have[r.digest][i] for i in wanted if i in have[r.digest]}
                self.served.setdefault(r.digest, (shown, {}))[1].update(known)
        openings = [p.prefill if self.endpoint.api.prefill else "" for p in prompts]
        return [
            [replace(have[r.digest][i], text=opening + have[r.digest][i].text) for i in wanted]
            for r, opening in zip(requests, openings, strict=True)
        ]

    def sample_known(self, prompts: Sequence[Prompt], n: int, **settings: Any) -> list[list[Completion] | None]:
        """As `sample`; but offline, a prompt whose completions are not all recorded gives None instead of an error.

        For what is asked as a result of earlier replies: another machine may come to ask for something else.
        """
        if not self.offline:
            return list(self.sample(prompts, n, **settings))
        found: list[list[Completion] | None] = []
        for prompt in prompts:
            try:
                found += self.sample([prompt], n, **settings)
            except MissingCompletion:
                found.append(None)
        return found

    def request(
        self, prompt: Prompt, temperature: float, top_p: float, max_tokens: int, stop: Sequence[str] = ()
    ) -> Request:
        """The request that this endpoint is sent for a prompt: raw text where it can prefill, else chat messages."""
        api, extra = self.endpoint.api, self.endpoint.extra
        return Request(
            model=self.endpoint.model,
            kind="completion" if api.prefill else "chat",
            prompt=render_chatml(prompt) if api.prefill else _as_instruction(prompt),
            temperature=temperature if api.sampling else None,
            top_p=top_p if api.sampling else None,
            max_tokens=max_tokens + api.reasoning,
            extra=json.dumps(extra, sort_keys=True) if extra else "",
            stop=(*(("\n```",) if api.prefill else ()), *stop),
        )

    def load(self, prompt: Prompt) -> None:
        """Load the embedded engine now, and have it read a prompt whose beginning others share.  A model elsewhere is
        not asked, and nothing is stored."""
        if self.endpoint.base_url is None:
            list(self._loaded().ask([(self.request(prompt, 0.8, 0.95, 1), [0])]))

    def close(self) -> None:
        """Let go of the embedded engine's memory, if it was loaded."""
        self._engine = None

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _known(self, request: Request) -> dict[int, Completion]:
        known = self._store.get(request)
        for recording in reversed(self._recordings):
            known.update(recording.get(request))
        return known

    def _ask(self, missing: list[Missing]) -> Iterator[Answer]:
        """Ask for what is missing; store and yield each answer as it arrives."""
        if not missing:
            return
        if self.offline:
            request, absent = missing[0]
            raise MissingCompletion(
                f"{sum(len(a) for _, a in missing)} completions of {len(missing)} requests are not recorded, and this "
                f"run only replays. The first: sample {absent[0]} of request {request.digest[:12]} to {request.model} "
                f"(T = {request.temperature}), whose prompt ends with {request.prompt[-120:]!r}. Record them with "
                "`python -m dreamprm_lib record --profile PROFILE`, or set `replay` to false to ask the model now."
            )
        account, size = os.environ.get(ACCOUNT, ""), PER_REQUEST if self.endpoint.api.n else 1
        chunks = [(r, absent[k : k + size]) for r, absent in missing for k in range(0, len(absent), size)]
        most = sum((self.endpoint.most(r, len(samples)) for r, samples in chunks), Cost())
        if self.endpoint.base_url is None:
            answers = self._write_here(missing, account)
        else:
            from dreamprm_lib.engine.policy.hosted import Asker  # takes half a second to load: a replay asks nobody

            answers = Asker(self.endpoint, self._store, account).ask((*chunk, 0) for chunk in chunks)
        doing = f"asking {self.endpoint.model}" + (f" (at most ${most.dollars:.2f})" if most.dollars else "")
        with contextlib.closing(answers), tqdm(total=most.completions, desc=doing, unit="completion") as bar:
            for digest, completions in answers:
                self.asked += len(completions)
                bar.update(len(completions))
                yield digest, completions

    def _write_here(self, missing: list[Missing], account: str) -> Generator[Answer]:
        """What the embedded engine writes, stored sample by sample."""
        engine = self._loaded()
        with contextlib.closing(engine.ask(missing)) as written:
            for request, sample, completion in written:
                cost = self.endpoint.cost(engine.prompt_tokens(request), completion.tokens, 1)
                self._store.pay(request, {sample: completion}, cost, account)
                yield request.digest, {sample: completion}

    def _loaded(self) -> Engine:
        if self._engine is None:
            self._engine = Engine(self.endpoint.model, self.endpoint.slots or 64, self.endpoint.unpacked)
        return self._engine


def recording_path(model: str, folder: Path = RECORDINGS) -> Path:
    """Where a model's recording lies: among the shipped ones, or in another folder."""
    return folder / f"{model}.jsonl.gz"


def open_policy(settings: dict | None = None, replay: bool = True, weaker: bool = False) -> Policy:
    """The policy of a notebook: `settings` are fields of `Endpoint`.  If there are none, it is the model of the
    environment (`settings_from_environment`), which is asked and never replayed, else the embedded one; or the `weaker`
    model of either.

    With `replay` the shipped recording of that model answers, and what it lacks is an error; without it the recording
    is left aside and the model is asked, once for each completion.
    """
    if not settings and (elsewhere := settings_from_environment(weaker)):
        settings, replay = elsewhere, False
    settings = settings or (WEAKER if weaker else {})
    endpoint = endpoint_from(settings)
    path = recording_path(endpoint.model)
    recordings = [load_recording(path)] if replay and path.exists() else []
    return Policy(endpoint, CompletionStore(store_path()), recordings, offline=replay)


def store_path() -> Path:
    """Where this machine's store of completions lies."""
    return cache_dir() / "completions.sqlite"


def render_chatml(prompt: Prompt) -> str:
    """The prompt as raw ChatML text that ends inside the assistant's turn, after the prefill."""
    turns = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in prompt.messages)
    return f"{turns}<|im_start|>assistant\n{prompt.prefill}"


def _as_instruction(prompt: Prompt) -> str:
    """Chat messages as JSON; the last one asks the model to begin its reply as the prefill does."""
    messages = [{"role": role, "content": content} for role, content in prompt.messages]
    if prompt.prefill:
        messages[-1]["content"] += (
            f"\n\nYour reply must be whole, and it must begin with exactly these lines, unchanged:\n{prompt.prefill}"
        )
    return json.dumps(messages, ensure_ascii=False)
