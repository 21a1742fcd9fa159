"""Consensus on made-up inputs, and the other selectors that need no training."""

from dataclasses import replace

import pytest

from dreamprm_lib.candidate_solutions import free_scores
from dreamprm_lib.engine.problems import Problem, Test, load_problems
from dreamprm_lib.engine.sandbox.consensus import agreement, perturbed_inputs
from dreamprm_lib.engine.sandbox.judge import Execution, Sandbox
from dreamprm_lib.study.rows import Program

LARGEST = Problem(
    "largest", "Largest", "Print the largest.", "easy", "test",
    (Test("3\n10 7 22\n", "22\n"),), (Test("1\n5\n", "5\n"),),
)  # fmt: skip
RIGHT = "input()\nprint(max(map(int, input().split())))\n"
ALSO = "n = int(input())\nx = sorted(int(t) for t in input().split())\nprint(x[n - 1])\n"
WRONG = "input()\nprint(input().split()[-1])\n"
BROKEN = "print(1 / 0)\n"


@pytest.fixture(scope="module")
def box():
    with Sandbox(workers=2, time_limit=1.0) as opened:
        yield opened


def test_made_up_inputs_keep_the_form_of_the_samples():
    made = perturbed_inputs(LARGEST)
    assert made[0] == "3\n10 7 22\n" and len(made) == len(set(made)) == 8
    for text in made:
        size, numbers, _ = text.split("\n")
        assert size == "3" and [len(t) for t in numbers.split()] == [2, 1, 2]
    assert made == perturbed_inputs(LARGEST)


def test_of_real_problems_most_made_up_inputs_are_read_by_the_reference(box):
    problems = load_problems("starter", "meta")
    pairs = [(p.reference, text) for p in problems for text in perturbed_inputs(p)]
    read = [run.status == "ok" for run in box.run(pairs)]
    assert sum(read) > 0.8 * len(read)


def test_programs_that_print_the_same_agree_and_failures_agree_with_nobody(box):
    shares = agreement(LARGEST, [RIGHT, ALSO, WRONG, BROKEN, BROKEN], box)
    assert shares[0] == shares[1] and shares[0] >= 0.25 and shares[0] > shares[2]
    assert shares[3] == shares[4] == 0
    assert agreement(LARGEST, [RIGHT], box) == [0.0] and agreement(LARGEST, [], box) == []


class Scripted:
    """A sandbox in which programs are words: `right` prints, `broken` fails, `stuck` ends on the sample alone."""

    def __init__(self, sample):
        self.sample, self.ran = sample, []

    def run(self, items):
        self.ran += items
        return [Execution(self.status(*item), "22\n", "", 0.0, 0.0) for item in items]

    def status(self, code, text):
        return {"right": "ok", "broken": "runtime_error"}.get(code, "ok" if text == self.sample else "time_limit")


def test_a_program_that_ran_out_of_time_is_not_run_again_and_keeps_the_votes_that_it_had():
    first, *others = perturbed_inputs(LARGEST)
    scripted = Scripted(first)
    shares = agreement(LARGEST, ["right", "stuck", "broken"], scripted)
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
