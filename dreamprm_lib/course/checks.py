"""What an exercise is: a reference solution, cases that people get wrong, and a ladder of hints.

A check tries the learner's function on the cases, from the plain one to the traps; the first one that fails says what
is wrong.  The hints lead from the idea to the formula, and are opened one by one.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

EXERCISES: dict[str, Exercise] = {}


@dataclass(frozen=True)
class Answer:
    """What a check says: whether the function is right (None: there is no answer yet), a message, and, of a wrong
    answer, the part of it that names the mistake."""

    right: bool | None
    message: str
    mistake: str = ""

    def __repr__(self) -> str:
        return {True: "✔ ", False: "✘ ", None: "– "}[self.right] + self.message


@dataclass
class Exercise:
    """A task: a reference solution, hints, cases as (arguments, what is wrong where they fail), and arguments of `more`
    cases, which are answered with the right value.  `opened` hints have been shown."""

    reference: Callable
    hints: Sequence[str]
    cases: Sequence[tuple[tuple, str]]
    more: Sequence[tuple] = ()
    opened: int = 0

    def check(self, answer: Any) -> Answer:
        """Try the learner's function on every case, in order.  One that returns `...` is a gap, and no fault."""
        name = self.reference.__name__
        gap = Answer(None, f"{name} waits for your answer: put it in the place of `...`, then run the cell again.")
        if answer is ...:
            return gap
        if not callable(answer):
            return Answer(False, f"Give the function itself, check({name}), not what it returns.")
        cases = [*self.cases, *((arguments, "") for arguments in self.more)]
        for arguments, mistake in cases:
            expected = self.reference(*arguments)
            mistake = mistake or f"It should give {_short(expected)} there."
            call = f"{name}({', '.join(map(_short, arguments))})"
            try:
                got = answer(*deepcopy(arguments))  # a learner's function may change its arguments
            except Exception as error:  # the learner's code may raise anything, and that is the answer
                return Answer(False, f"{call} raised {type(error).__name__}: {error}. {mistake}", mistake)
            if got is ...:
                return gap
            if got is None and expected is not None:
                return Answer(False, f"{call} gave None: end the function with `return`. {mistake}", mistake)
            if not _same(got, expected):
                return Answer(False, f"{call} gave {_short(got)}. {mistake}", mistake)
        return Answer(True, f"{name} is right on all {len(cases)} cases.")

    def hint(self) -> Answer:
        """The next hint, or the last one again."""
        self.opened = min(self.opened + 1, len(self.hints))
        return Answer(None, f"Hint {self.opened} of {len(self.hints)}: {self.hints[self.opened - 1]}")


def exercise(hints: Sequence[str], cases: Sequence[tuple[tuple, str]], more: Sequence[tuple] = ()) -> Callable:
    """Make a function the reference solution of the exercise of its name."""

    def registered(reference: Callable) -> Callable:
        EXERCISES[reference.__name__] = Exercise(reference, hints, cases, more)
        return reference

    return registered


def of_name(name: str, found: Callable[[Exercise], Answer]) -> Answer:
    """What `found` says of the exercise of that name, or that there is none."""
    if name in EXERCISES:
        return found(EXERCISES[name])
    near = difflib.get_close_matches(str(name), EXERCISES, 1)
    instead = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(EXERCISES)}."
    return Answer(False, f"There is no exercise {name!r}: {instead}")


def _same(got: Any, expected: Any) -> bool:
    if got is None or expected is None:
        return got is expected
    try:
        got, expected = np.asarray(got), np.asarray(expected)
        if got.shape != expected.shape:
            return False
        if expected.dtype.kind == "U":
            return got.dtype.kind == "U" and bool((got == expected).all())
        return bool(np.allclose(got, expected, rtol=1e-6, atol=1e-9))
    except (TypeError, ValueError):  # ragged, or no numbers at all
        return False


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 70 else text[:67] + "…"
