"""Exercises: a learner's function is tried on cases, and the first one that fails says what is wrong with it.

An exercise is data, in its chapter's file in `data/course/`, under the name that its check uses:

- `hints` lead from the idea to the formula, and are opened one by one;
- `cases` go from the plain one to the traps: arguments, what they should give, and the mistake of whoever gets it wrong
  (a case without one names the right value);
- `wrong` answers are such as learners write, with words of the message that each must get; the tests try them.

Solutions stand in the notebooks alone.
"""

from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from dreamprm_lib.engine.files import DATA, from_yaml, read_text
from dreamprm_lib.engine.sandbox.comparison import short
from dreamprm_lib.engine.schema import nearest


@dataclass(frozen=True)
class Answer:
    """What a check says: whether the function is right (None: there is no answer yet), and a message."""

    right: bool | None
    message: str

    def __repr__(self) -> str:
        return {True: "✔ ", False: "✘ ", None: "– "}[self.right] + self.message


@dataclass
class Exercise:
    """The hints of an exercise, of which `opened` have been shown, its cases, and wrong answers to it."""

    hints: list[str]
    cases: list[dict[str, Any]]
    wrong: list[dict[str, str]]
    opened: int = 0


@cache
def chapters() -> dict[str, dict[str, Any]]:
    """What `data/course/` holds, by notebook: its `exercises` and its `quiz`."""
    return {path.stem: from_yaml(read_text(path), path) for path in sorted((DATA / "course").glob("*.yaml"))}


@cache
def exercises() -> dict[str, Exercise]:
    """All exercises by name, in the order of the chapters."""
    return {name: Exercise(**data) for chapter in chapters().values() for name, data in chapter["exercises"].items()}


def check(name: str, answer: Any) -> Answer:
    """Try the learner's function on every case, in order.  `...` as the answer, or from it, is a gap, and no fault."""
    if (found := exercises().get(str(name))) is None:
        return _unknown(name)
    gap = Answer(None, f"{name} waits for your answer: put it in the place of `...`, then run the cell again.")
    if answer is ...:
        return gap
    if not callable(answer):
        return Answer(False, f"Give the function itself, check({name}), not what it returns.")
    for case in found.cases:
        expected = case["gives"]
        mistake = case.get("mistake", f"It should give {_short(expected)} there.")
        call = f"{name}({', '.join(map(_short, case['arguments']))})"
        try:
            got = answer(*deepcopy(case["arguments"]))  # a learner's function may change its arguments
        except Exception as error:  # the learner's code may raise anything, and that is the answer
            return Answer(False, f"{call} raised {type(error).__name__}: {error}. {mistake}")
        if got is ...:
            return gap
        if got is None and expected is not None:
            return Answer(False, f"{call} gave None: is a `return` missing? {mistake}")
        if not _same(got, expected):
            return Answer(False, f"{call} gave {_short(got)}. {mistake}")
    return Answer(True, f"{name} is right on all {len(found.cases)} cases.")


def hint(name: str) -> Answer:
    """The next hint for an exercise; call it again for a further one.  After the last one it stays."""
    if (found := exercises().get(str(name))) is None:
        return _unknown(name)
    found.opened = min(found.opened + 1, len(found.hints))
    return Answer(None, f"Hint {found.opened} of {len(found.hints)}: {found.hints[found.opened - 1]}")


def _unknown(name: object) -> Answer:
    return Answer(False, f"There is no exercise {name!r}{nearest(name, exercises())}")


def _same(got: Any, expected: Any) -> bool:
    if got is None or expected is None:
        return got is expected
    try:
        got, expected = np.asarray(got), np.asarray(expected)
        if expected.dtype.kind == "U":
            return got.dtype.kind == "U" and np.array_equal(got, expected)
        return got.shape == expected.shape and np.allclose(got, expected, rtol=1e-6, atol=1e-9)
    except Exception:  # ragged, or no numbers at all: whatever a learner's value raises, it is not the right one
        return False


def _short(value: object) -> str:
    return short(str(value) if isinstance(value, np.generic) else repr(value), 70)
