"""Every completion is asked for once: a store on disk, and recordings that replay a real model.

The key of a completion is the digest of its `Request` (model, prompt, sampling settings) and its sample index, so a
run can stop at any moment and goes on where it was, and *n* = 16 extends a run of *n* = 8.  A `Recording` is a store
exported to compressed JSON Lines with a manifest beside it; a study replays it without a model.

Not covered: two processes that ask for the same missing sample at the same time both pay for it, and the first answer
is kept.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from dreamprm_lib.errors import InputError


@dataclass(frozen=True)
class Request:
    """What a policy is asked, whole.  Equal requests draw from the same distribution over completions.

    `prompt` is raw text for `kind="completion"`, and a JSON list of chat messages for `kind="chat"`.
    `temperature` and `top_p` are None for models that take no sampling settings; `max_tokens` counts new tokens.
    """

    model: str
    kind: str
    prompt: str
    temperature: float | None
    top_p: float | None
    max_tokens: int
    stop: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the request's canonical JSON."""
        canonical = json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @classmethod
    def from_dict(cls, fields: dict) -> Request:
        return cls(**{**fields, "stop": tuple(fields["stop"])})


@dataclass(frozen=True)
class Completion:
    """One sampled continuation: its text, the number of new tokens, why it ended (`stop` or `length`), and the sum of
    its tokens' log-probabilities in nats (None where the endpoint does not tell)."""

    text: str
    tokens: int
    finish: str
    logprob: float | None = None


Rows = dict[str, tuple[Request, dict[int, Completion]]]  # requests and their completions by sample index, by digest


class CompletionStore:
    """An SQLite file of completions; several processes may share it.

    Use as a context manager, or call `close`.
    """

    def __init__(self, path: Path | str):
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=60, check_same_thread=False)
        with FileLock(f"{path}.lock"):  # the change to a write-ahead log does not wait for another process: it fails
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS completions (digest TEXT, sample INTEGER, body TEXT NOT NULL,"
                " PRIMARY KEY (digest, sample))"
            )
            self._db.commit()

    def get(self, request: Request) -> dict[int, Completion]:
        """The stored completions of a request, by sample index."""
        rows = self._db.execute(
            "SELECT sample, body FROM completions WHERE digest = ? ORDER BY sample", (request.digest,)
        )
        return {sample: Completion(**json.loads(body)) for sample, body in rows}

    def put(self, request: Request, completions: dict[int, Completion]) -> None:
        """Store completions by sample index, all or none; a sample that is already there stays as it is."""
        digest = request.digest
        with self._db:
            self._db.executemany(
                "INSERT OR IGNORE INTO completions VALUES (?, ?, ?)",
                [(digest, i, json.dumps(dataclasses.asdict(c))) for i, c in completions.items()],
            )

    def __len__(self) -> int:
        return self._db.execute("SELECT COUNT(*) FROM completions").fetchone()[0]

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> CompletionStore:
        return self

    def __exit__(self, *_exc) -> None:
        self.close()


@dataclass(frozen=True)
class Recording:
    """Completions of a real model, read-only, with the manifest that tells where they come from."""

    rows: Rows = field(repr=False)
    manifest: dict

    def get(self, request: Request) -> dict[int, Completion]:
        """The recorded completions of a request, by sample index."""
        return dict(self.rows[request.digest][1]) if request.digest in self.rows else {}

    def __len__(self) -> int:
        return sum(len(completions) for _, completions in self.rows.values())


def load_recording(path: Path | str) -> Recording:
    """Read `NAME.jsonl.gz` and the manifest `NAME.manifest.json` beside it.

    Raises `InputError` if the file is not the one that its manifest describes (SHA-256), or a row is malformed.
    """
    path = Path(path)
    manifest = json.loads(_manifest_path(path).read_text())
    packed = path.read_bytes()
    digest = hashlib.sha256(packed).hexdigest()
    if digest != manifest["sha256"]:
        raise InputError(
            f"{path} has SHA-256 {digest}, its manifest says {manifest['sha256']}: the recording was changed or cut "
            "short. Restore both files from version control, or export them again with `record`."
        )
    rows: Rows = {}
    for number, line in enumerate(gzip.decompress(packed).decode().splitlines(), 1):
        try:
            row = json.loads(line)
            request = Request.from_dict(row["request"])
            rows[request.digest] = (request, {int(i): Completion(**c) for i, c in row["completions"].items()})
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}, line {number}: not a recorded request ({error!r}).") from error
    return Recording(rows, manifest)


def export_recording(rows: Rows, path: Path | str, manifest: dict) -> Recording:
    """Write requests with their completions as a recording; the same rows give the same bytes."""
    path = Path(path)
    lines = [
        json.dumps(
            {
                "request": dataclasses.asdict(request),
                "completions": {str(i): dataclasses.asdict(c) for i, c in sorted(completions.items())},
            },
            ensure_ascii=False,
        )
        for _, (request, completions) in sorted(rows.items())
    ]
    packed = gzip.compress(("\n".join(lines) + "\n").encode(), compresslevel=9, mtime=0)
    manifest = {
        **manifest,
        "requests": len(rows),
        "completions": sum(len(completions) for _, completions in rows.values()),
        "tokens": sum(c.tokens for _, completions in rows.values() for c in completions.values()),
        "sha256": hashlib.sha256(packed).hexdigest(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, packed)
    write_atomically(_manifest_path(path), (json.dumps(manifest, indent=2) + "\n").encode())
    return load_recording(path)


def write_atomically(path: Path, data: bytes) -> None:
    """Write to a temporary file beside `path`, then rename: a reader sees the old file or the new one, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _manifest_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".jsonl.gz") + ".manifest.json")
