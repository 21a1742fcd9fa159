"""When are two answers the same?  Outputs are compared by line, results of functions value by value."""

from __future__ import annotations

import json
import math
from decimal import Decimal, InvalidOperation

from dreamprm_lib.errors import InputError


def outputs_match(actual: str, expected: str, tolerance: float = 0.0) -> bool:
    """Whether two outputs are the same answer, as LiveCodeBench compares them.

    Blanks around the output and around each line don't matter; there must be as many lines; a line is right if it is
    the same text, or if both are numbers throughout and equal as decimals (1.0 is 1).  With a `tolerance` t, a line
    is also right if each pair of its words is the same text or two numbers with `|a - e| <= t * max(1, |e|)`; infinity
    is then near itself alone, and so is NaN.  Raises `InputError` for a tolerance that is no finite number from 0 on.
    """
    return _differing_line(_lines(actual), _lines(expected), checked_tolerance(tolerance)) is None


def first_difference(actual: str, expected: str, tolerance: float = 0.0) -> str:
    """In words, the first line in which two outputs that don't match differ."""
    lines = _lines(actual), _lines(expected)
    index = _differing_line(*lines, tolerance)
    if index is None:
        raise ValueError("the outputs match")
    got, wanted = (short(repr(found[index])) if index < len(found) else "no line" for found in lines)
    return f"line {index + 1}: expected {wanted}, got {got}"


def values_match(actual: object, expected: object, tolerance: float = 0.0) -> bool:
    """Whether two JSON values are equal; numbers inside them within `tolerance`, as `outputs_match` has it.

    NaN, which JSON does not have and Python's reader takes, is equal to itself.
    """
    checked_tolerance(tolerance)
    if isinstance(actual, list) and isinstance(expected, list):
        return len(actual) == len(expected) and all(map(values_match, actual, expected, [tolerance] * len(expected)))
    if isinstance(actual, dict) and isinstance(expected, dict):
        return actual.keys() == expected.keys() and all(
            values_match(actual[key], expected[key], tolerance) for key in expected
        )
    if actual == expected:
        return True
    if not (isinstance(actual, (int, float)) and isinstance(expected, (int, float))):
        return False
    both_nan = actual != actual and expected != expected
    return both_nan or (tolerance > 0 and _near(Decimal(actual), Decimal(expected), tolerance))


def checked_tolerance(tolerance: float) -> float:
    """The tolerance itself; raises `InputError` unless it is a finite number from 0 on."""
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 <= tolerance < math.inf:
        raise InputError(f"tolerance is {tolerance!r}: it has to be a finite number, 0 (exact) or greater.")
    return tolerance


def read_json(text: str) -> object:
    """JSON, with integers of any length: the interpreter's limit to their digits is not that of an answer."""
    return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 4300 else int(Decimal(digits)))


def short(text: str, width: int = 80) -> str:
    """A text for a message, cut to `width` characters."""
    return text if len(text) <= width else text[: width - 1] + "…"


def _lines(output: str) -> list[str]:
    return [line.strip() for line in output.strip().split("\n")]


def _differing_line(actual: list[str], expected: list[str], tolerance: float) -> int | None:
    """The index of the first line that differs (a missing line differs); None if none does."""
    for index, (got, wanted) in enumerate(zip(actual, expected, strict=False)):
        if got != wanted and not _same_words(got.split(), wanted.split(), tolerance):
            return index
    return None if len(actual) == len(expected) else min(len(actual), len(expected))


def _same_words(actual: list[str], expected: list[str], tolerance: float) -> bool:
    return len(actual) == len(expected) and all(
        (tolerance > 0 and got == wanted) or _same_number(_decimal(got), _decimal(wanted), tolerance)
        for got, wanted in zip(actual, expected, strict=True)
    )


def _same_number(actual: Decimal | None, expected: Decimal | None, tolerance: float) -> bool:
    if actual is None or expected is None:
        return False
    return actual == expected or (tolerance > 0 and _near(actual, expected, tolerance))


def _decimal(word: str) -> Decimal | None:
    """The number that a word is, if it is one."""
    try:
        number = Decimal(word)
    except (InvalidOperation, ValueError):
        return None
    return None if number.is_snan() else number


def _near(actual: Decimal, expected: Decimal, tolerance: float) -> bool:
    if not (actual.is_finite() and expected.is_finite()):
        return actual == expected or (actual.is_nan() and expected.is_nan())
    try:
        return abs(actual - expected) <= Decimal(str(tolerance)) * max(Decimal(1), abs(expected))
    except ArithmeticError:
        return False
