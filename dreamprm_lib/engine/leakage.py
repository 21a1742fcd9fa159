"""Leakage between splits: a problem that is in both training and test makes every score too good.

Two statements are near-identical if most of their runs of three words or marks are the same ones.

Not covered: the same task told in other words.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from dreamprm_lib.engine.problem import Problem
from dreamprm_lib.errors import InputError

NEAR_IDENTICAL = 0.8  # similarity of statements


def statement_similarity(statements: Sequence[str]) -> np.ndarray:
    """Jaccard similarity of the sets of word triples, in [0, 1]: an array [statements, statements]."""
    triples: dict[tuple[str, ...], int] = {}
    rows: list[int] = []
    columns: list[int] = []
    for row, statement in enumerate(statements):
        words = ["", "", *re.findall(r"\w+|[^\w\s]", statement.lower())]
        found = {triples.setdefault(triple, len(triples)) for triple in zip(words, words[1:], words[2:], strict=False)}
        rows += [row] * len(found)
        columns += found
    present = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(statements), max(len(triples), 1)))
    shared = (present @ present.T).toarray()
    sizes = shared.diagonal()
    return shared / np.maximum(sizes[:, None] + sizes[None, :] - shared, 1)


def refuse_leaks(problems: Sequence[Problem], source: object) -> None:
    """Raise `InputError` if an id appears twice or near-identical statements are in different splits."""
    if double := [name for name, count in Counter(p.id for p in problems).items() if count > 1]:
        raise InputError(f"{source}: the problem id {double[0]!r} appears twice.")
    similarity = statement_similarity([f"{p.statement}\n{p.starter_code}" for p in problems])
    near = np.argwhere(np.triu(similarity, k=1) >= NEAR_IDENTICAL)
    pairs = [(problems[i], problems[k], similarity[i, k]) for i, k in near]
    if leaks := [(a, b, alike) for a, b, alike in pairs if a.split != b.split]:
        told = "; ".join(f"{a.id} ({a.split}) and {b.id} ({b.split}), {alike:.0%} similar" for a, b, alike in leaks[:5])
        raise InputError(
            f"{source}: {len(leaks)} pairs of near-identical statements are in different splits: {told}. Put each "
            "pair into one split, or leave problems out by `?drop=ID,ID` behind the source."
        )
