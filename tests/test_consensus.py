"""Consensus on made-up inputs, and the other selectors that need no training."""

import json
from dataclasses import replace

import numpy as np
import pytest

from dreamprm_lib.candidate_solutions import free_scores
from dreamprm_lib.engine import problems
from dreamprm_lib.engine.problems import Problem, load_problems
from dreamprm_lib.engine.sandbox.consensus import FAILED, agreement, answers, perturbed_inputs
from dreamprm_lib.engine.sandbox.judge import Execution, Sandbox
from dreamprm_lib.study.rows import Program

LARGEST = Problem(
    "largest", "Largest", "Print the largest.", "easy", "test",
    (problems.Test("3\n10 7 22\n", "22\n"),), (problems.Test("1\n5\n", "5\n"),),
)  # fmt: skip
CALLED = '[10, -17, 22]\n3\n{"name": "abc", "deep": [true, null, 4.5]}'
FUNCTION = replace(LARGEST, entry_point="f", samples=(problems.Test(CALLED, "22", "functional"),))
RIGHT = "input()\nprint(max(map(int, input().split())))\n"
ALSO = "n = int(input())\nx = sorted(int(t) for t in input().split())\nprint(x[n - 1])\n"
WRONG = "input()\nprint(input().split()[-1])\n"
BROKEN = "print(1 / 0)\n"


@pytest.fixture(scope="module")
def box():
    with Sandbox(workers=2, time_limit=1.0) as opened:
        yield opened


def shares_of(problem, codes, sandbox):
    return agreement(answers(problem, codes, sandbox, perturbed_inputs(problem))).tolist()


def test_agreement_is_counted_by_input_and_a_failure_agrees_with_nobody():
    table = np.array([[0, 0], [0, 1], [1, FAILED], [FAILED, FAILED]])
    assert agreement(table).tolist() == [1 / 6, 1 / 6, 0, 0]


def test_made_up_inputs_keep_the_form_of_the_samples():
    made = perturbed_inputs(LARGEST)
    assert made[0] == "3\n10 7 22\n" and len(made) == len(set(made)) == 8
    for text in made:
        size, numbers, _ = text.split("\n")
        assert size == "3" and [len(t) for t in numbers.split()] == [2, 1, 2]
    assert made == perturbed_inputs(LARGEST)


def test_made_up_arguments_keep_their_types_lengths_and_names():
    made = perturbed_inputs(FUNCTION)
    assert made[0] == CALLED and len(made) == len(set(made)) == 8
    for numbers, size, record in (map(json.loads, text.split("\n")) for text in made):
        assert [len(str(n)) for n in numbers] == [2, 3, 2] and numbers[1] < 0 and size == 3
        assert list(record) == ["name", "deep"] and sorted(record["name"]) == ["a", "b", "c"]
        assert record["deep"][:2] == [True, None] and record["deep"][2] % 1 == 0.5


def test_functions_that_return_the_same_agree(box):
    right, also = (
        "def f(xs, n, r): return max(xs)",
        "class Solution:\n    def f(self, xs, n, r): return sorted(xs)[n - 1]",
    )
    broken, leaves = "def f(xs, n, r): return {1}", "import os\nos._exit(0)"
    shares = shares_of(FUNCTION, [right, also, "def f(xs, n, r): return xs[0]", broken, leaves, leaves], box)
    assert shares[0] == shares[1] >= 1 / 5 and shares[0] > shares[2] and shares[3:] == [0, 0, 0]


def test_of_real_problems_most_made_up_inputs_are_read_by_the_reference(box):
    pairs = [(p.reference, text) for p in load_problems("starter", "meta") for text in perturbed_inputs(p)]
    read = [run.status == "ok" for run in box.run(pairs)]
    assert sum(read) > 0.8 * len(read)


def test_programs_that_print_the_same_agree_and_failures_agree_with_nobody(box):
    shares = shares_of(LARGEST, [RIGHT, ALSO, WRONG, BROKEN, BROKEN], box)
    assert shares[0] == shares[1] and shares[0] >= 0.25 and shares[0] > shares[2]
    assert shares[3] == shares[4] == 0
    assert shares_of(LARGEST, [RIGHT], box) == [0.0] and shares_of(LARGEST, [], box) == []


class Scripted:
    """A sandbox in which programs are words: `right` prints, `broken` fails, `stuck` ends on the sample alone."""

    def __init__(self, sample):
        self.sample, self.ran = sample, []

    def run(self, items, problem):
        assert problem is LARGEST
        self.ran += items
        return [Execution(self.status(*item), "22\n", "", 0.0, 0.0) for item in items]

    def status(self, code, text):
        return {"right": "ok", "broken": "runtime_error"}.get(code, "ok" if text == self.sample else "time_limit")


def test_a_program_that_ran_out_of_time_is_not_run_again_and_keeps_the_votes_that_it_had():
    first, *others = perturbed_inputs(LARGEST)
    scripted = Scripted(first)
    shares = shares_of(LARGEST, ["right", "stuck", "broken"], scripted)
    assert shares == [1 / 16, 1 / 16, 0]  # one of two others, on one of eight inputs
    assert [text for code, text in scripted.ran if code == "stuck"] == [first, others[0]]
    assert [text for code, text in scripted.ran if code == "broken"] == [first, *others]  # an error costs no time


def test_free_scores_touch_no_hidden_test(box):
    trap = "input()\nx = input()\nprint(22 if x == '10 7 22' else 0)\n"  # right on the sample, wrong on the test
    programs = [
        Program("largest", k, code, [code], False, "", 10, -2.0 * (k + 1))
        for k, code in enumerate([RIGHT, trap, WRONG, BROKEN])
    ]
    rows = free_scores([LARGEST], programs, box)
    assert [r.scores for r in rows if r.method == "public_samples"] == [[1], [1], [1], [0]]  # LARGEST shows one
    found = {m: [r.scores[0] for r in rows if r.method == m] for m in dict.fromkeys(r.method for r in rows)}
    assert found["public_samples"] == [1, 1, 1, 0] and found["first"] == [0, -1, -2, -3]
    assert found["mean_logprob"] == pytest.approx([-0.2, -0.4, -0.6, -0.8])
    assert found["shortest"] == [-len(p.code) for p in programs] == [-x for x in found["longest"]]


@pytest.mark.parametrize("shown", [0, 1, 2, 3])
def test_each_sample_has_its_own_verdict(box, shown):
    """A program that knows the first answer alone passes the first sample and no other."""
    samples = [replace(LARGEST.samples[0], input=f"2\n{k} {k + 1}\n", output=f"{k + 1}\n") for k in range(shown)]
    problem = replace(LARGEST, samples=tuple(samples))
    first = "input()\ninput()\nprint(1)\n"
    programs = [Program("largest", k, code, [code], False, "", 10) for k, code in enumerate([RIGHT, first, BROKEN])]
    rows = [r.scores for r in free_scores([problem], programs, box) if r.method == "public_samples"]
    assert rows == [[1.0] * shown, ([1.0] + [0.0] * shown)[:shown], [0.0] * shown]


def test_a_score_that_one_candidate_lacks_is_left_out_for_all(box):
    other = replace(LARGEST, id="other")
    told = Program("largest", 0, RIGHT, [RIGHT], True, "passed", 10, -1.0)
    silent = Program("other", 0, RIGHT, [RIGHT], True, "passed", 10)
    rows = free_scores([LARGEST, other], [told, silent], box)
    assert "mean_logprob" not in {r.method for r in rows} and len(rows) == 2 * 5
