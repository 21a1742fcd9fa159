"""Written tests and repairs: what is read from a reply, what a policy is shown, and CodeT counted by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamprm_lib import asking_again as again
from dreamprm_lib import selection_by_execution as sx
from dreamprm_lib.chain_of_functions import cof_prompt
from dreamprm_lib.engine.policy.completions import CompletionStore
from dreamprm_lib.engine.policy.endpoint import Endpoint
from dreamprm_lib.engine.policy.policy import Policy
from dreamprm_lib.engine.problems import Problem, Test
from dreamprm_lib.engine.sandbox.consensus import runs
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.engine.sandbox.verdicts import Verdict
from dreamprm_lib.study.rows import Program, Repair, read_rows, write_rows

SAMPLES = (Test("1\n", "2\n"), Test("5\n", "10\n"))
PROBLEM = Problem("double", "Double", "Print twice the number.", "easy", "test", SAMPLES, (Test("7\n", "14\n"),))
CALLED = replace(
    PROBLEM,
    samples=(Test("1", "2", "functional"),),
    entry_point="double",
    starter_code="def double(n):",
)
RIGHT, WRONG, LUCKY = "print(2 * int(input()))\n", "print(3 * int(input()))\n", "print(2 * int(input()) % 13)\n"


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=2) as sandbox:
        yield sandbox


def said(*pairs):
    return "```\n" + "\n\n".join(
        f"Input of test {k}:\n{given}\nOutput of test {k}:\n{expected}" for k, (given, expected) in enumerate(pairs, 1)
    )


@pytest.mark.parametrize(
    "reply, tests",
    [
        (said(("0", "0"), ("-3", "-6")), [("0\n", "0\n"), ("-3\n", "-6\n")]),
        (said(("1", "2"), ("8", "16")), [("8\n", "16\n")]),  # the first one is a sample
        (said(("4", "8"), ("4", "9")), [("4\n", "8\n")]),  # an input counts once
        (said(("4\n5", "8\n10")) + "\n```", [("4\n5\n", "8\n10\n")]),
        (said(("4", "8")) + "\n\nInput of test 2:\n9", [("4\n", "8\n")]),  # cut off
        (said(("4", "8"), ("9", "")), [("4\n", "8\n")]),
        ("I cannot write tests.", []),
        ("", []),
    ],
)
def test_what_a_reply_says_becomes_tests(reply, tests):
    assert [(t.input, t.output) for t in again.written_tests(PROBLEM, reply)] == tests


def test_tests_of_a_function_are_json_and_nothing_else():
    reply = said(("[1, 2]\n3", "[4]"), ("[1, 2", "3"), ("4", "eight"), ("1", "2"))
    assert again.written_tests(CALLED, reply) == [Test("[1, 2]\n3\n", "[4]\n", "functional")]


@pytest.mark.parametrize("problem", [PROBLEM, CALLED])
def test_the_prompt_shows_tests_as_they_are_read(problem):
    prompt = again.tests_prompt(problem)
    (example,) = (text for role, text in prompt.messages if role == "assistant")
    assert len(again.written_tests(problem, example)) == again.TESTS and example.startswith(prompt.prefill)
    (batch,) = again.requests([problem], temperature=0.5, other=1)
    assert batch.prompts == [prompt] and (batch.samples, batch.temperature) == (1, 0.5)
    assert batch.stop == (f"Input of test {again.TESTS + 1}:",)


def test_programs_are_held_to_tests_right_or_wrong(sandbox):
    tests = [Test("3\n", "6\n"), Test("3\n", "9\n")]
    found = runs(PROBLEM, [RIGHT, WRONG, "broken("], sandbox, [test.input for test in tests])
    passed = again.tests_passed(PROBLEM, found, tests)
    assert passed.tolist() == [[True, False], [False, True], [False, False]]
    assert again.tests_passed(PROBLEM, [[]], []).shape == (1, 0)


def test_a_program_that_is_not_run_any_more_passes_nothing(sandbox):
    found = runs(PROBLEM, ["while True: pass", RIGHT], sandbox, ["3\n", "3\n"])
    assert found[0][0].status == "time_limit" and found[0][1] is None
    assert again.tests_passed(PROBLEM, found, [Test("3\n", "6\n")] * 2).tolist() == [[False] * 2, [True] * 2]


def test_what_no_statement_shows_plays_no_part(sandbox):
    """A checker that takes any answer: by the test alone the program is wrong."""
    lenient = replace(PROBLEM, checker="def check(input, output, expected):\n    return True\n")
    tests = [Test("3\n", "7\n")]
    assert not again.tests_passed(lenient, runs(lenient, [RIGHT], sandbox, ["3\n"]), tests).any()


def test_codet_multiplies_programs_and_tests():
    passed = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]], bool)
    assert again.codet(passed).tolist() == [4, 4, 1, 3, 0]
    assert again.codet(np.zeros((3, 0), bool)).tolist() == [0, 0, 0]


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=6))
def test_b4_on_tests_is_b4_on_answers_if_the_tests_are_the_answers(rows):
    passed = np.array(rows)
    table = np.where(passed, 0, -1)  # one answer an input, or none
    given_answers = passed[:, passed.any(axis=0)]
    np.testing.assert_allclose(sx.b4(table), sx.b4_of_tests(given_answers))


# ------------------------------------------------------------------------------------------------- repairs


@pytest.mark.parametrize(
    "verdict, words",
    [
        (Verdict("wrong_answer", 0.1, 1, "line 1: expected '10', got '15'"), "line 1: expected '10', got '15'"),
        (Verdict("runtime_error", 0.1, 1, "  File x\nZeroDivisionError: by zero"), "ZeroDivisionError: by zero"),
        (Verdict("runtime_error", 0.1, 1, ""), "it fails: runtime_error"),
        (Verdict("time_limit", 2.01, 1, "2.01 CPU seconds of 2.0"), "it was stopped: time limit"),
    ],
)
def test_a_repair_is_shown_the_program_and_the_sample_that_it_fails(verdict, words):
    prompt = again.repair_prompt(PROBLEM, WRONG, verdict)
    asked = cof_prompt(PROBLEM)
    assert prompt.messages[: len(asked.messages)] == asked.messages and prompt.prefill == asked.prefill
    (_, program), (role, shown) = prompt.messages[len(asked.messages) :]
    assert program == f"```python\n{WRONG}```" and role == "user"
    assert "input\n5\n" in shown and "print\n10\n" in shown and words in shown
    assert "2.01" not in shown  # what differs from run to run would never replay


@pytest.fixture
def mends():
    """What the scripted policy makes of a program; of all others it makes `RIGHT`."""
    return {WRONG: LUCKY}


@pytest.fixture
def policy(fake_server, tmp_path, mends, monkeypatch):
    monkeypatch.setattr(again, "cof_prompt", lambda problem: replace(cof_prompt(problem), prefill="```python\n"))

    def reply(body):
        shown = body["prompt"].rpartition("```<|im_end|>")[0].rpartition("```python\n")[2]
        return ["# mended\n" + mends.get(shown, RIGHT)]

    with CompletionStore(tmp_path / "s.sqlite") as store:
        yield Policy(Endpoint("m", fake_server(reply).base_url), store)


def programs(*codes):
    return [Program("double", k, code, [code], code == RIGHT, "", 9) for k, code in enumerate(codes)]


def test_only_what_fails_a_sample_is_repaired(policy, sandbox, tmp_path):
    start = programs(RIGHT, WRONG, "broken(\n", LUCKY)
    found, left_out = again.repair(policy, sandbox, [PROBLEM], start, rounds=3)
    # LUCKY passes both samples, so that nothing shows that it is wrong.
    assert [(r.sample, r.round, r.passed) for r in found] == [(1, 1, False), (2, 1, True)] and not left_out
    assert policy.asked == 2
    write_rows(tmp_path / "repairs.jsonl", found)
    assert read_rows(tmp_path / "repairs.jsonl", Repair) == found


def test_a_second_round_mends_what_the_first_one_left(policy, sandbox, mends):
    mends[WRONG] = "print(1)\n"
    found, _ = again.repair(policy, sandbox, [PROBLEM], programs(WRONG), rounds=2)
    assert [(r.sample, r.round, r.passed) for r in found] == [(0, 1, False), (0, 2, True)]


def test_offline_a_problem_whose_repair_is_not_recorded_is_left_out(policy, sandbox):
    found, _ = again.repair(policy, sandbox, [PROBLEM], programs(WRONG), rounds=1)
    policy.offline = True
    other = replace(PROBLEM, id="other", statement="Print the double.")
    both = [*programs(WRONG), replace(programs("broken(\n")[0], problem="other")]
    replayed, left_out = again.repair(policy, sandbox, [PROBLEM, other], both, rounds=1)
    assert replayed == found and left_out == ["other"]
