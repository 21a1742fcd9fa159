"""Every exercise refuses the wrong answers that are planted beside it, each with the message that helps.

That the solutions in the notebooks are right is seen in `test_course.py`, where they are graded.
"""

import ast
import itertools
import math
import re

import numpy as np
import pytest

from dreamprm_lib.course.exercises import check, exercises, hint

SCOPE = {"ast": ast, "itertools": itertools, "math": math, "np": np, "re": re}


def function(name, source):
    """The function of a planted answer: a lambda, or a definition by the exercise's name."""
    scope = dict(SCOPE)
    exec(f"{name} = {source}" if source.startswith("lambda") else source, scope)
    return scope[name]


@pytest.mark.parametrize("name", exercises())
def test_wrong_answers_get_the_messages_that_help_three_different_ones_at_least(name):
    found = exercises()[name]
    kinds = set()
    for wrong in found.wrong:
        answer = check(name, function(name, wrong["answer"]))
        assert answer.right is False and wrong["said"] in answer.message, wrong
        kinds |= {case["mistake"] for case in found.cases if answer.message.endswith(case.get("mistake", "-"))}
    assert len(found.wrong) >= 4 and len(kinds) >= 3


@pytest.mark.parametrize("name", exercises())
def test_hints_are_opened_one_by_one_and_the_last_one_stays(name):
    ladder = exercises()[name].hints
    assert len(ladder) in (2, 3) and len(set(ladder)) == len(ladder)
    said = [hint(name).message for _ in range(len(ladder) + 1)]
    steps = [*range(1, len(ladder) + 1), len(ladder)]
    assert said == [f"Hint {k} of {len(ladder)}: {ladder[k - 1]}" for k in steps]
    assert hint(name).right is None


class Strange:
    """A value that cannot be made an array, as a tensor with a gradient."""

    def __array__(self, *_):
        raise RuntimeError


@pytest.mark.parametrize("name", exercises())
@pytest.mark.parametrize(
    "value, said",
    [
        (None, "gave None: is a `return` missing?"),
        (["a", "b"], "gave ['a', 'b']"),
        (np.zeros((2, 2)), "gave array("),
        (float("nan"), "gave nan"),
        ([0.5, [1]], "gave [0.5, [1]]"),
        (Strange(), "gave <"),
    ],
)
def test_a_value_of_any_type_is_judged(name, value, said):
    found = check(name, lambda *_: value)
    assert found.right is False and said in found.message


@pytest.mark.parametrize("name", exercises())
@pytest.mark.parametrize("form", [lambda x: x, lambda x: x if x is None else np.asarray(x)])
def test_a_right_answer_may_be_an_array(name, form):
    values = {repr(tuple(case["arguments"])): case["gives"] for case in exercises()[name].cases}
    assert check(name, lambda *arguments: form(values[repr(arguments)])).right


@pytest.mark.parametrize(
    "answer, said",
    [
        (np.ones(3), "function itself"),
        (lambda verdicts: 1 / 0, "raised ZeroDivisionError: division by zero. Count the verdicts"),
    ],
)
def test_what_is_no_answer_is_told_so(answer, said):
    found = check("share_passed", answer)
    assert said in found.message and found.right is False


@pytest.mark.parametrize(
    "name, said",
    [
        ("mc_nemar", "did you mean `mcnemar`"),
        (3, ": known are best_candidate"),
        (np.zeros(2), ": known are"),
    ],
)
def test_an_unknown_exercise_is_named(name, said):
    for answer in (check(name, lambda: 1), hint(name)):
        assert answer.right is False and f"no exercise {name!r}" in answer.message and said in answer.message


@pytest.mark.parametrize("gap", [..., lambda *_: ...])
def test_a_gap_is_no_wrong_answer(gap):
    answer = check("share_passed", gap)
    assert answer.right is None and repr(answer).startswith("– share_passed waits")


def test_an_answer_that_changes_its_arguments_does_no_harm():
    def careless(verdicts):
        share = verdicts.count("passed") / len(verdicts)
        verdicts.clear()
        return share

    assert check("share_passed", careless).right and check("share_passed", careless).right
