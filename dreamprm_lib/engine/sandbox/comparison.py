"""When are two answers the same?  Outputs are compared by line, results of functions value by value."""

import json
import math
from decimal import Decimal
from itertools import zip_longest

from dreamprm_lib.errors import InputError


def first_difference(actual: str, expected: str, tolerance: float = 0.0) -> str:
    """In words, the first line in which two outputs differ; "" if they are the same answer, as LiveCodeBench compares.

    Blanks around the output and around each line don't matter; there must be as many lines; a line is right if it is
    the same text, or if both are numbers throughout and equal as decimals (1.0 is 1).  With a `tolerance` t, a line
    is also right if each pair of its words is the same text or two numbers with `|a - e| <= t * max(1, |e|)`; infinity
    is then near itself alone, and so is NaN.  Raises `InputError` for a tolerance that is no finite number from 0 on.
    """
    lines = ([line.strip() for line in output.strip().split("\n")] for output in (actual, expected))
    for number, (got, wanted) in enumerate(zip_longest(*lines), start=1):
        if got is None or wanted is None or not (got == wanted or _same_words(got.split(), wanted.split(), tolerance)):
            expected, got = ("no line" if line is None else short(repr(line)) for line in (wanted, got))
            return f"line {number}: expected {expected}, got {got}"
    return ""


def values_match(actual: object, expected: object, tolerance: float = 0.0) -> bool:
    """Whether two JSON values are equal; numbers inside them within `tolerance`, as `first_difference` has it.

    NaN, which JSON does not have and Python's reader takes, is equal to itself.
    """
    if actual == expected:
        return True
    if isinstance(actual, list) and isinstance(expected, list):
        return len(actual) == len(expected) and all(map(values_match, actual, expected, [tolerance] * len(expected)))
    if isinstance(actual, dict) and isinstance(expected, dict):
        return actual.keys() == expected.keys() and all(
            values_match(actual[key], expected[key], tolerance) for key in expected
        )
    if isinstance(actual, (int, float)) and isinstance(expected, (int, float)):
        both_nan = actual != actual and expected != expected
        return both_nan or _same_number(actual, expected, tolerance)
    return False


def checked_tolerance(tolerance: float, where: str = "") -> None:
    """Raises `InputError`, which begins with `where`, unless the tolerance is a finite number from 0 on."""
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 <= tolerance < math.inf:
        raise InputError(f"{where}tolerance is {tolerance!r}: it has to be a finite number, 0 (exact) or greater.")


def read_json(text: str) -> object:
    """JSON, with integers of any length: the interpreter's limit to their digits is not that of an answer."""
    return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 4300 else int(Decimal(digits)))


def short(text: str, width: int = 80) -> str:
    """A text for a message, cut to `width` characters."""
    return text if len(text) <= width else text[: width - 1] + "…"


def _same_words(actual: list[str], expected: list[str], tolerance: float) -> bool:
    return len(actual) == len(expected) and all(
        _same_number(got, wanted, tolerance) or (tolerance > 0 and got == wanted)
        for got, wanted in zip(actual, expected, strict=True)
    )


def _same_number(actual: str | float, expected: str | float, tolerance: float) -> bool:
    """Whether both are numbers, and equal as decimals or, with a tolerance, near each other."""
    checked_tolerance(tolerance)
    try:
        got, wanted = Decimal(actual), Decimal(expected)
        if got == wanted or tolerance == 0:
            return got == wanted
        if got.is_finite() and wanted.is_finite():
            return abs(got - wanted) <= Decimal(str(tolerance)) * max(Decimal(1), abs(wanted))
        return got.is_nan() and wanted.is_nan()
    except (ArithmeticError, ValueError):  # a word, a signalling NaN, a number too large to compute with
        return False
