"""Grading through joblib gives the verdicts of the sandbox itself; `test_clusters.py` has the clusters."""

import pytest

from dreamprm_lib.engine.grading import BATCH, grade, open_grader
from dreamprm_lib.engine.problems import load_problems
from dreamprm_lib.engine.sandbox import Sandbox


@pytest.fixture(scope="module")
def graded():
    """Programs of several kinds, more than two batches of them, and their verdicts."""
    problems = load_problems("starter")[:12]
    pairs = [(p, code) for p in problems for code in (p.reference, "print(0)", "1 / 0", p.reference)]
    with Sandbox() as sandbox:
        return pairs, [(v.kind, v.test) for v in sandbox.grade(pairs)]


def test_processes_of_this_machine(graded):
    pairs, expected = graded
    assert len({code for _, code in pairs}) > 2 and len(pairs) > 2 * BATCH
    assert [(v.kind, v.test) for v in grade(pairs, jobs=2)] == expected
    assert grade([]) == []


def test_limits_reach_the_workers():
    problem = load_problems("starter")[0]
    (verdict,) = grade([(problem, "print('x' * 5000)")], jobs=1, output_kb=1)
    assert verdict.kind == "output_limit"


def test_a_grader_stands_in_for_a_sandbox(graded):
    pairs, expected = graded
    assert isinstance(open_grader(), Sandbox)
    with open_grader("loky") as grader:
        assert [(v.kind, v.test) for v in grader.grade(pairs, progress=True)] == expected
    with open_grader("loky", output_kb=1) as grader:
        assert grader.grade([(pairs[0][0], "print('x' * 5000)")])[0].kind == "output_limit"
