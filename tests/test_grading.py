"""Grading through joblib gives the verdicts of the sandbox itself; `test_clusters.py` has the clusters."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from dreamprm_lib.commands.run import load_profile, parse_overrides, stage_parameters
from dreamprm_lib.engine import problems
from dreamprm_lib.engine.problems import Problem, load_problems
from dreamprm_lib.engine.sandbox.grading import BATCH, Grader, open_grader
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.errors import InputError
from dreamprm_lib.study.folder import STAGES


@pytest.fixture(scope="module")
def graded():
    """Programs of several kinds, more than two batches of them, and their verdicts."""
    starter = load_problems("starter")[:12]
    pairs = [(p, code) for p in starter for code in (p.reference, "print(0)", "1 / 0", p.reference)]
    with Sandbox() as sandbox:
        return pairs, [(v.kind, v.test) for v in sandbox.grade(pairs)]


def test_a_grader_stands_in_for_a_sandbox(graded):
    pairs, expected = graded
    assert len({code for _, code in pairs}) > 2 and len(pairs) > 2 * BATCH
    assert isinstance(open_grader(), Sandbox)
    with open_grader("loky") as grader:
        assert [(v.kind, v.test) for v in grader.grade(pairs, progress=True)] == expected
        assert grader.grade([]) == []
    with open_grader("loky", output_kb=1) as grader:  # limits reach the workers
        assert grader.grade([(pairs[0][0], "print('x' * 5000)")])[0].kind == "output_limit"


@pytest.mark.parametrize("wrong", [{"seconds": 1}, {"time_limit": -1}, {"modules": "numpy"}])
def test_limits_are_checked_before_anything_starts(wrong):
    with pytest.raises(InputError):
        Grader("loky", **wrong)


@pytest.mark.parametrize("how", ["local", "loky"])
def test_problems_that_share_an_id_are_graded_each_by_its_own_tests(how):
    doubling, squaring, none = (
        Problem("p", "p", "A statement.", "easy", "test", (), tuple(problems.Test("3", output) for output in outputs))
        for outputs in (("6",), ("9",), ("6", "7"))
    )
    double, square = "print(2 * int(input()))", "print(int(input()) ** 2)"
    pairs = [(p, code) for p in (doubling, squaring, none) for code in (double, square)]
    with open_grader(how) as grader:
        assert [v.passed for v in grader.grade(pairs)] == [True, False, False, True, False, False]


LOADED = """
import threading
from dreamprm_lib.engine import problems
from dreamprm_lib.engine.sandbox import Sandbox, grading
pairs = [(p, p.reference) for p in problems.load_problems("starter")[:4]]
"""
HELPED = {
    "two": "a, b = Sandbox(workers=1), Sandbox(workers=1)\nwhile True: a.grade(pairs), b.grade(pairs)",
    "loky": "while True: grading.Grader('loky', 2).grade(pairs * 8)",
}


@pytest.mark.parametrize("name", HELPED)
def test_no_helper_lives_on_when_the_process_is_killed(name):
    work = subprocess.Popen([sys.executable, "-c", LOADED + HELPED[name]], start_new_session=True)
    helpers, deadline = [], time.monotonic() + 60
    while len(helpers) < 4 and time.monotonic() < deadline:
        time.sleep(0.1)
        helpers = psutil.Process(work.pid).children(recursive=True)
    assert len(helpers) >= 4
    os.kill(work.pid, signal.SIGKILL)
    work.wait()
    _, alive = psutil.wait_procs(helpers, timeout=15)
    assert not [process.cmdline() for process in alive]


def test_limits_are_a_setting_of_every_notebook_that_grades():
    """By a profile and on the command line; the manifest records what a stage was given."""
    profile = replace(load_profile("smoke"), common={"limits": {"time_limit": 4}})
    overrides = parse_overrides(["02.limits={memory_mb: 64, modules: [numpy]}"])
    found = {s.notebook[:2]: stage_parameters(s, profile, overrides, {}).get("limits") for s in STAGES}
    assert {chapter for chapter, limits in found.items() if limits} == {"01", "02", "03", "07", "08", "12"}
    assert found["01"] == {"time_limit": 4} and found["02"] == {"memory_mb": 64, "modules": ["numpy"]}
    problem = Problem("p", "p", "A statement.", "easy", "test", (), (problems.Test("", "3"),))
    with open_grader(**found["02"]) as grader:
        codes = ["import numpy\nprint(numpy.ones(3, int).sum())", "x = bytearray(10**8)\nprint(3)"]
        assert [v.kind for v in grader.grade([(problem, code) for code in codes])] == ["passed", "memory_limit"]
