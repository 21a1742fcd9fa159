"""Stores of several machines become one, without conflicts: completions by digest and sample, costs by their id.

A merge is a union, so that the order of the sources does not matter and a second merge changes nothing.  Where two
machines asked for the same sample, both answers are honest draws; the one that is first in the order of texts is kept.

Not covered: a store that is in use, or whose process was killed, has its newest rows in `FILE-wal` beside it.  Copy
both files to another machine, or merge the store into a new one first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from dreamprm_lib.engine.policy.completions import CompletionStore, Cost, as_body, load_recording
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
    contents = [_content(Path(source)) for source in sources]
    if Path(into).exists():
        _content(Path(into))
    with CompletionStore(into) as store:
        before = len(store)
        completions, ledgers = ([content[part] for content in contents] for part in (0, 1))
        changed = store.absorb(chain(*completions), chain(*ledgers))
        new = len(store) - before
        return Merged(len(store), new, changed - new)


def info(path: Path | str) -> str:
    """What a store or a recording holds, in lines: completions and requests, and the cost of each model."""
    completions, ledger = _content(Path(path))
    requests = {digest for digest, _, _ in completions}
    costs: dict[str, Cost] = defaultdict(Cost)
    for _id, _time, _account, model, _digest, _finishes, *paid in ledger:
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
    if not path.name.endswith(".jsonl.gz"):
        with CompletionStore(path, read_only=True) as store:
            return store.completions(), store.ledger()
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    rows = load_recording(path).rows
    return [(digest, i, as_body(c)) for digest, (_, known) in rows.items() for i, c in known.items()], []
