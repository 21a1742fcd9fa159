"""When two answers are the same: outputs by line, results of functions value by value."""

import json

import pytest

from dreamprm_lib.engine.sandbox.comparison import first_difference, values_match
from dreamprm_lib.errors import InputError


@pytest.mark.parametrize(
    "actual, expected, tolerance, same",
    [
        ("1 2 \n", "1 2\n", 0, True),
        ("1\r\n2\r\n", "1\n2", 0, True),
        ("1 2", "1\n2", 0, False),
        ("1.0", "1", 0, True),
        ("1e3 -0", "1000 0.00", 0, True),
        ("1  2", "1 2", 0, True),
        ("YES 1.0", "YES 1", 0, False),
        ("YES 1.0", "YES 1", 1e-9, True),
        ("0.30000000000000004", "0.3", 0, False),
        ("0.30000000000000004", "0.3", 1e-9, True),
        ("1000001", "1000000", 1e-5, True),
        ("Yes", "yes", 0, False),
        ("nan", "nan", 0, True),
        ("nan 1", "nan 1.0", 0, False),
        ("sNaN 1", "sNaN 1.0", 0, False),
        ("inf", "1", 1e-6, False),
        ("0", "Infinity", 1e-6, False),
        ("inf", "Infinity", 1e-6, True),
        ("-inf", "inf", 1e-6, False),
        ("1e999999999", "1", 1e-6, False),
        ("", "", 0, True),
        ("", "0", 0, False),
    ],
)
def test_outputs_are_compared_by_line_and_numbers_as_decimals(actual, expected, tolerance, same):
    assert (first_difference(actual, expected, tolerance) == "") is same


@pytest.mark.parametrize(
    "actual, expected, tolerance, same",
    [
        ([1, [2.0]], [1.0, [2]], 0, True),
        ({"a": 1}, {"a": 1.0}, 0, True),
        ({"a": 1}, {"b": 1}, 1, False),
        ([0.1 + 0.2], [0.3], 0, False),
        ([0.1 + 0.2], [0.3], 1e-9, True),
        ("1", 1, 1e-9, False),
        (10**400, 0.5, 1e-9, False),
        (10**400, 10**400 + 1, 1e-9, True),
        (0, float("inf"), 1e-6, False),
        (float("inf"), float("inf"), 1e-6, True),
        (float("nan"), float("nan"), 0, True),
        ({"a": [float("nan")]}, {"a": [float("nan")]}, 1e-6, True),
    ],
)
def test_results_of_calls_are_compared_value_by_value(actual, expected, tolerance, same):
    assert values_match(actual, expected, tolerance) is same
    assert values_match(json.loads(json.dumps(actual)), expected, tolerance) is same


@pytest.mark.parametrize("compare, answers", [(first_difference, ("1", "2")), (values_match, (1, 2))])
def test_a_tolerance_is_a_finite_number(compare, answers):
    """An infinite one would accept every number."""
    with pytest.raises(InputError, match="tolerance is"):
        compare(*answers, float("inf"))
