"""Stores of several machines become one, without conflicts: completions by digest and sample, costs by their id.

A merge is a union, so that the order of the sources does not matter and a second merge changes nothing.  Where two
machines asked for the same sample, both answers are honest draws; the one that is first in the order of texts is kept.

Not covered: a store that is in use, or whose process was killed, has its newest rows in `FILE-wal` beside it.  Copy
both files to another machine, or merge the store into a new one first.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path

from dreamprm_lib.engine.files import from_json
from dreamprm_lib.engine.policy.completions import (
    LEDGER,
    CompletionStore,
    Cost,
    as_body,
    as_completion,
    faults_named,
    load_recording,
)


def merge(sources: Sequence[Path | str], into: Path | str) -> str:
    """Bring the completions of stores and exported recordings, and the costs of stores, into a store, new or not; says
    what it did.

    All or nothing: every source is read whole before the store is touched.  Raises `InputError` for one that is
    missing, damaged or something else.
    """
    completions, ledgers = zip(*(_content(Path(source)) for source in sources), strict=True)
    with CompletionStore(into) as store:
        before = len(store)
        changed = store.absorb(chain(*completions), chain(*ledgers))
        new = len(store) - before
        return f"{len(store)} completions: {new} are new, {changed - new} took the place of another draw."


def info(path: Path | str) -> str:
    """What a store or a recording holds, in lines: completions and requests, and the cost of each model."""
    completions, ledger = _content(Path(path))
    requests = {digest for digest, _, _ in completions}
    costs: dict[str, Cost] = defaultdict(Cost)
    for _id, _time, _account, model, _digest, *paid in ledger:
        costs[model] += Cost(*paid)
    lines = [f"{path}: {len(completions)} completions of {len(requests)} requests"]
    for model, cost in sorted(costs.items()):
        money = "no price known" if cost.dollars is None else f"${cost.dollars:.4f}"
        lines.append(
            f"{model}: asked for {cost.completions} completions in {cost.answers} requests; "
            f"{cost.prompt_tokens:,} tokens in, {cost.tokens:,} out; {money}"
        )
    return "\n".join(lines)


def _content(path: Path) -> tuple[list[tuple[str, int, str]], list[tuple]]:
    """The completions and the ledger of a store, or the completions of an exported recording."""
    if path.name.endswith(".jsonl.gz"):
        rows = load_recording(path).rows
        return [(digest, i, as_body(c)) for digest, (_, known) in rows.items() for i, c in known.items()], []
    with faults_named(path), closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
        (state,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise sqlite3.DatabaseError(state)
        completions = db.execute("SELECT digest, sample, body FROM completions").fetchall()
        ledger = db.execute(f"SELECT {LEDGER} FROM ledger").fetchall()
    for digest, sample, body in completions:
        where = f"{path}, sample {sample} of {digest}"
        as_completion(from_json(body, where), where)
    return completions, ledger
