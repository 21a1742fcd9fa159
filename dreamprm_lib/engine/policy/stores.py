"""Stores of several machines become one, without conflicts: completions by digest and sample, costs by their id.

A merge is a union, so that the order of the sources does not matter and a second merge changes nothing.  Where two
machines asked for the same sample, both answers are honest draws; the one that is first in the order of texts is kept.

Not covered: a store that is in use, or whose process was killed, has its newest rows in `FILE-wal` beside it.  Copy
both files to another machine, or merge the store into a new one first.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from dreamprm_lib.engine.policy.completions import LEDGER, CompletionStore, as_body, from_body, load_recording
from dreamprm_lib.errors import InputError


@dataclass(frozen=True)
class Merged:
    """What a merge did: completions in the store now, how many are new, how many took the place of another draw."""

    completions: int
    new: int
    replaced: int

    def __str__(self) -> str:
        return f"{self.completions} completions: {self.new} are new, {self.replaced} took the place of another draw."


def merge(sources: Sequence[Path | str], into: Path | str) -> Merged:
    """Bring the completions of stores and exported recordings, and the costs of stores, into a store, new or not.

    All or nothing: every file is read whole before the store is touched.  Raises `InputError` for one that is missing,
    damaged or something else.
    """
    files, into = [Path(source) for source in sources], Path(into)
    for path in [*files, *([into] if into.exists() else [])]:
        for _ in chain(_completions(path), _ledger(path)):
            pass
    try:
        with CompletionStore(into) as store:
            before = len(store)
            rows, costs = (chain.from_iterable(map(read, files)) for read in (_completions, _ledger))
            changed = store.absorb(rows, costs)
            new = len(store) - before
            return Merged(len(store), new, changed - new)
    except sqlite3.Error as error:
        raise InputError(f"{into} cannot be written ({error}); what it held is there as it was.") from error


def info(path: Path | str) -> str:
    """What a store or a recording holds, in lines: completions and requests, and the cost of each model."""
    path = Path(path)
    digests = [digest for digest, _, _ in _completions(path)]
    lines = [f"{path}: {len(digests)} completions of {len(set(digests))} requests"]
    if not _is_recording(path):
        with _opened(path) as db:
            rows = (
                db.execute(
                    "SELECT model, SUM(answers), SUM(completions), SUM(prompt_tokens), SUM(tokens), SUM(dollars)"
                    " FROM ledger GROUP BY model ORDER BY model"
                ).fetchall()
                if _has_ledger(db)
                else []
            )
        for model, answers, completions, read, written, dollars in rows:
            money = "no price known" if dollars is None else f"${dollars:.4f}"
            lines.append(
                f"{model}: asked for {completions} completions in {answers} requests; "
                f"{read:,} tokens in, {written:,} out; {money}"
            )
    return "\n".join(lines)


def _is_recording(path: Path) -> bool:
    return path.name.endswith(".jsonl.gz")


def _completions(path: Path) -> Iterator[tuple[str, int, str]]:
    """(digest, sample, body) of every completion in a file, each read as a completion before it is believed."""
    if _is_recording(path):
        if not path.is_file():
            raise InputError(f"There is no file {path}.")
        for digest, (_, known) in load_recording(path).rows.items():
            yield from ((digest, sample, as_body(completion)) for sample, completion in known.items())
        return
    with _opened(path) as db:
        for digest, sample, text in db.execute("SELECT digest, sample, body FROM completions"):
            yield digest, sample, as_body(from_body(text, f"{path}, sample {sample} of {digest}"))


def _ledger(path: Path) -> Iterator[tuple]:
    if _is_recording(path):
        return
    with _opened(path) as db:
        if _has_ledger(db):
            yield from db.execute(f"SELECT {LEDGER} FROM ledger")


def _has_ledger(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'ledger'").fetchone())


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A store's database, to read."""
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=60)) as db:
            (state,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if state != "ok":
                raise sqlite3.DatabaseError(state)
            yield db
    except sqlite3.Error as error:
        raise InputError(
            f"{path} is no store of completions, or is damaged ({error}). No file was changed. Restore a copy of it; "
            "`sqlite3 FILE .recover` saves what can still be read."
        ) from error
