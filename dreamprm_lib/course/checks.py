"""Checks: the learner's function is tried on cases that people get wrong, and answered with a hint.

A case that fails is reported with its own hint, so the cases go from the plain one to the traps.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Answer:
    """What a check says: whether the function is right (None: there is no answer yet), and a message."""

    right: bool | None
    message: str

    def __repr__(self) -> str:
        return {True: "✔ ", False: "✘ ", None: "– "}[self.right] + self.message


@dataclass(frozen=True)
class Exercise:
    """A task: what is asked, a reference solution, cases as (arguments, hint), and arguments of `more` cases, whose
    hint is the right answer."""

    name: str
    reference: Callable
    cases: tuple[tuple[tuple, str], ...]
    more: tuple[tuple, ...] = ()

    def check(self, answer: Callable) -> Answer:
        """Try the learner's function on every case, in order; the first that fails gives the hint.

        A function that returns `...` is a gap to be filled, and no fault.
        """
        gap = Answer(None, f"{self.name} waits for your answer: put it in the place of `...`, then run the cell again.")
        if answer is ...:
            return gap
        if not callable(answer):
            return Answer(False, f"Give the function itself, check({self.name}), not what it returns.")
        cases = [(arguments, hint, self.reference(*arguments)) for arguments, hint in self.cases]
        for arguments in self.more:
            expected = self.reference(*arguments)
            cases.append((arguments, f"It should give {_short(expected)} there.", expected))
        for arguments, hint, expected in cases:
            shown = ", ".join(_short(a) for a in arguments)
            try:
                got = answer(*deepcopy(arguments))  # a learner's function may change its arguments
            except Exception as error:  # the learner's code may raise anything, and that is the answer
                return Answer(False, f"{self.name}({shown}) raised {type(error).__name__}: {error}. {hint}")
            if got is ...:
                return gap
            if got is None and expected is not None:
                return Answer(False, f"{self.name}({shown}) gave None: end the function with `return`. {hint}")
            if not _same(got, expected):
                return Answer(False, f"{self.name}({shown}) gave {_short(got)}. {hint}")
        return Answer(True, f"{self.name} is right on all {len(cases)} cases.")


def _same(got, expected) -> bool:
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


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 70 else text[:67] + "…"
