"""Every completion is asked for once: a store on disk, and recordings that replay a real model.

The key of a completion is the digest of its `Request` (model, prompt, sampling settings) and its sample index, so a
run can stop at any moment and goes on where it was, and *n* = 16 extends a run of *n* = 8.  The store also holds a
ledger of what each answer cost.  A `Recording` is a store exported to compressed JSON Lines with a manifest beside it;
a study replays it without a model.

The text of a problem that is not ours is never part of a recording: a `WithheldRequest` takes the request's place.

Not covered: two processes that ask for the same missing sample at the same time both pay for it, and the first answer
is kept.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock
from pydantic import FiniteFloat, NonNegativeInt, Strict

from dreamprm_lib.engine import files
from dreamprm_lib.engine.schema import Form, checked, row_of
from dreamprm_lib.errors import InputError


@dataclass(frozen=True)
class Request:
    """What a policy is asked, whole.  Equal requests draw from the same distribution over completions.

    `prompt` is raw text for `kind="completion"`, and a JSON list of chat messages for `kind="chat"`.
    `temperature` and `top_p` are None for models that take no sampling settings; `max_tokens` counts new tokens,
    thoughts included.  `extra` are further fields of the request's body as JSON.
    """

    model: str
    kind: str
    prompt: str
    temperature: float | None
    top_p: float | None
    max_tokens: int
    stop: tuple[str, ...] = ()
    extra: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", tuple(self.stop))  # JSON has lists

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the request's canonical JSON."""
        canonical = json.dumps(self.as_dict(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """The fields; without `extra` where there is nothing in it."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "extra" or value}


@dataclass(frozen=True)
class WithheldRequest:
    """A request whose text is not ours to pass on: its digest, and the id of the problem that it asks about.

    Whoever has the problem makes the same prompt from it, and finds the completions by the digest.
    """

    digest: str
    problem: str


@dataclass(frozen=True)
class Completion:
    """One sampled continuation: its text, the number of new tokens, why it ended, and the sum of its tokens'
    log-probabilities in nats (None where the endpoint does not report it).

    `finish` is `stop` or `length`; of a chat reply also `refusal` (the text is what the model said instead),
    `tool_calls`, or `empty`.
    """

    text: str
    tokens: NonNegativeInt
    finish: str
    logprob: FiniteFloat | None = None


@dataclass(frozen=True)
class Cost:
    """What answers of an endpoint cost: their number and that of the completions in them, tokens in and out (thoughts
    included), and dollars (None where no price is known; in a sum: those that are known)."""

    answers: int = 0
    completions: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    dollars: float | None = None

    def __add__(self, other: Cost) -> Cost:
        prices = [cost.dollars for cost in (self, other) if cost.dollars is not None]
        return Cost(
            self.answers + other.answers,
            self.completions + other.completions,
            self.prompt_tokens + other.prompt_tokens,
            self.tokens + other.tokens,
            sum(prices) if prices else None,
        )


# Requests and their completions by sample index, by the request's digest.
Rows = dict[str, tuple[Request | WithheldRequest, dict[int, Completion]]]


SCHEMA = """
CREATE TABLE IF NOT EXISTS completions
    (digest TEXT, sample INTEGER, body TEXT NOT NULL, PRIMARY KEY (digest, sample));
CREATE TABLE IF NOT EXISTS ledger
    (id TEXT PRIMARY KEY, time REAL, account TEXT, model TEXT, digest TEXT,
     answers INTEGER, completions INTEGER, prompt_tokens INTEGER, tokens INTEGER, dollars REAL);
"""
BOOK = (
    "INSERT INTO ledger (id, time, account, model, digest, answers, completions, prompt_tokens, tokens, dollars)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class CompletionStore(AbstractContextManager["CompletionStore"]):
    """An SQLite file of completions and of what they cost; several processes may share it.

    What was put survives the death of the process; a power cut may cost the last answers, never the file.  Use as a
    context manager, or call `close`.  Raises `InputError` for a file that is no such store, is damaged, or
    cannot be written: opening it tries whether an answer can be booked, before one is paid for.
    """

    def __init__(self, path: Path | str):
        self._path = path = Path(path)
        with _faults_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60, check_same_thread=False)
            with FileLock(f"{path}.lock"):
                # Under the lock, since the change to a write-ahead log does not wait for another process: it fails.
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
                self._db.executescript(SCHEMA)
                self._db.execute(BOOK, [None] * 10)
                self._db.rollback()

    def get(self, request: Request) -> dict[int, Completion]:
        """The stored completions of a request, by sample index."""
        rows = self._read("SELECT sample, body FROM completions WHERE digest = ? ORDER BY sample", request.digest)
        where = f"{self._path}, request {request.digest}, sample"
        return {i: row_of(Completion, files.from_json(body, f"{where} {i}"), f"{where} {i}") for i, body in rows}

    def pay(self, request: Request, completions: dict[int, Completion], cost: Cost, account: str) -> None:
        """Store completions by sample index, and what their answer cost, both or none; a sample that is already there
        stays as it is.

        `account` says who pays: a study and its stage as `STUDY/STAGE`, or nobody.
        """
        rows = [(request.digest, i, json.dumps(dataclasses.asdict(c))) for i, c in completions.items()]
        entry = (uuid.uuid4().hex, time.time(), account, request.model, request.digest, *dataclasses.astuple(cost))
        with _faults_named(self._path), self._db:
            self._db.executemany("INSERT OR IGNORE INTO completions VALUES (?, ?, ?)", rows)
            self._db.execute(BOOK, entry)

    def spent(self, account: str | None = None, model: str | None = None) -> Cost:
        """What all answers so far cost, or those of an account (`STUDY` or `STUDY/STAGE`) and of a model."""
        (row,) = self._read(
            "SELECT COALESCE(SUM(answers), 0), COALESCE(SUM(completions), 0), COALESCE(SUM(prompt_tokens), 0),"
            " COALESCE(SUM(tokens), 0), SUM(dollars) FROM ledger"
            " WHERE (?1 IS NULL OR account = ?1 OR substr(account, 1, length(?1) + 1) = ?1 || '/')"
            " AND (?2 IS NULL OR model = ?2)",
            account,
            model,
        )
        return Cost(*row)

    def _read(self, query: str, *values: object) -> list[tuple]:
        with _faults_named(self._path):
            return self._db.execute(query, values).fetchall()

    def __len__(self) -> int:
        return self._read("SELECT COUNT(*) FROM completions")[0][0]

    def close(self) -> None:
        self._db.close()

    def __exit__(self, *_exc: object) -> None:
        self.close()


@contextmanager
def _faults_named(path: Path | str) -> Iterator[None]:
    """What SQLite and the disk say of a store that cannot be read or written, as `InputError`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise InputError(
            f"The store of completions {path} cannot be used ({error}). Make room, get permission to write there, or "
            "set DREAMPRM_CACHE to another folder; `sqlite3 FILE .recover` saves what can be read of a damaged one."
        ) from error


@dataclass(frozen=True)
class Recording:
    """Completions of a real model, read-only, with the manifest that says where they come from."""

    rows: Rows = field(repr=False)
    manifest: dict

    def get(self, request: Request) -> dict[int, Completion]:
        """The recorded completions of a request, by sample index."""
        return dict(self.rows[request.digest][1]) if request.digest in self.rows else {}

    def __len__(self) -> int:
        return sum(len(completions) for _, completions in self.rows.values())


def load_recording(path: Path | str, repair: bool = False) -> Recording:
    """Read `NAME.jsonl.gz` and the manifest `NAME.manifest.json` beside it.

    Raises `InputError` if the file is not the one that its manifest describes (SHA-256), or a row is malformed.  With
    `repair` complete rows are accepted without the manifest: an export that was killed between its two files
    leaves a new recording under an old manifest.
    """
    path = Path(path)
    manifest = files.read_json(_manifest_path(path))
    checked(_Manifest, manifest, _manifest_path(path))
    if not repair and (digest := files.file_digest(path)) != manifest["sha256"]:
        raise InputError(
            f"{path} has SHA-256 {digest}, its manifest says {manifest['sha256']}: the recording was changed or cut "
            "short. Restore both files from version control, or export them again with `record`."
        )
    rows: Rows = {}
    for where, line in files.json_lines(path):
        row = checked(_Row, line, where)
        request = WithheldRequest(row.digest, row.problem) if row.digest else row_of(Request, row.request, where)
        recorded = {i: row_of(Completion, c, f"{where}, sample {i}") for i, c in row.completions.items()}
        rows.setdefault(request.digest, (request, {}))[1].update(recorded)
    return Recording(rows, manifest)


class _Manifest(Form, extra="ignore"):
    sha256: str


class _Row(Form):
    completions: dict[Annotated[int, Strict(False)], dict]  # JSON's keys are texts
    request: dict | None = None
    digest: str = ""
    problem: str = ""


def export_recording(rows: Rows, path: Path | str, manifest: dict) -> Recording:
    """Write requests with their completions as a recording; the same rows give the same bytes."""
    path = Path(path)
    lines = (
        {
            **({"request": request.as_dict()} if isinstance(request, Request) else dataclasses.asdict(request)),
            "completions": {str(i): dataclasses.asdict(c) for i, c in sorted(completions.items())},
        }
        for _, (request, completions) in sorted(rows.items())
    )
    packed = gzip.compress(files.as_json_lines(lines), compresslevel=9, mtime=0)
    manifest = {
        **manifest,
        "requests": len(rows),
        "completions": sum(len(completions) for _, completions in rows.values()),
        "tokens": sum(c.tokens for _, completions in rows.values() for c in completions.values()),
        "sha256": hashlib.sha256(packed).hexdigest(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, packed)
    files.write_atomically(_manifest_path(path), files.to_json(manifest, indent=2) + b"\n")
    return load_recording(path)


def _manifest_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".jsonl.gz") + ".manifest.json")
