"""Asking again: what a policy's further replies are worth, if it writes tests or repairs programs instead of new ones.

A *written test* is an input with the output that the policy expects (CodeT, arXiv 2207.10397).  A *repair* is the reply
of a policy that was shown a program, a public sample that it fails, and what it did there (self-debugging, arXiv
2304.05128).  No hidden test and no reference solution is touched by either.  All that a repair is shown can be computed
again, so that recorded repairs replay.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dreamprm_lib.chain_of_functions import PROMPTS, Batch, cof_prompt, graded, worked_example
from dreamprm_lib.engine.policy.policy import Policy, Prompt
from dreamprm_lib.engine.problems import Problem, Test, describe
from dreamprm_lib.engine.sandbox.comparison import read_json
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.engine.sandbox.verdicts import Execution, Limits, Verdict, judged
from dreamprm_lib.selection_by_execution import same_everywhere
from dreamprm_lib.study.rows import Program, Repair

TESTS = 5  # that a reply is asked for
INPUT, OUTPUT = "Input of test {}:\n", "Output of test {}:\n"
MOST = 250  # tokens of such a reply
END = INPUT.format(TESTS + 1).rstrip()  # what would follow the last one


def requests(test: Sequence[Problem], temperature: float, **_others: object) -> list[Batch]:
    """All of what chapter 12 asks its policy that is known beforehand, by the names of its parameters; others are
    passed over: one batch, a reply with tests for each problem.  What is repaired shows only when programs run."""
    return [Batch("tests", test, [tests_prompt(p) for p in test], 1, temperature, stop=(END,), most=MOST)]


# ------------------------------------------------------------------------------------------------- written tests


def tests_prompt(problem: Problem) -> Prompt:
    """The prompt that asks for tests: the instruction, a worked example with its tests, the problem."""
    example = worked_example(problem)
    written = "\n\n".join(
        f"{INPUT.format(number)}{test.input.rstrip()}\n{OUTPUT.format(number)}{test.output.rstrip()}"
        for number, test in enumerate(example.tests, 1)
    )
    return Prompt(
        messages=(
            ("system", PROMPTS["tests"]["function" if problem.entry_point else "program"]),
            ("user", describe(example)),
            ("assistant", f"```\n{written}\n```"),
            ("user", describe(problem)),
        ),
        prefill=f"```\n{INPUT.format(1)}",
        withheld="" if problem.source == "starter" else problem.id,
    )


def written_tests(problem: Problem, reply: str) -> list[Test]:
    """The tests in a reply: those with an input and an output, each input once, and not the samples again.  A test that
    calls a function must be JSON."""
    kind = "functional" if problem.entry_point else "stdin"
    known = {sample.input.strip() for sample in problem.samples}
    found: dict[str, Test] = {}
    for given, expected in _TEST.findall(reply.replace("```", "")):
        given, expected = given.strip(), expected.strip()
        if given and expected and given not in known and (kind == "stdin" or _is_json(given, expected)):
            found.setdefault(given, Test(f"{given}\n", f"{expected}\n", kind))
    return list(found.values())


_GIVEN, _EXPECTED = INPUT.format(r"\d+"), OUTPUT.format(r"\d+")
_TEST = re.compile(rf"^{_GIVEN}(.*?)^{_EXPECTED}(.*?)(?=^{_GIVEN}|\Z)", re.MULTILINE | re.DOTALL)


def _is_json(given: str, expected: str) -> bool:
    try:
        for line in [*given.split("\n"), expected]:
            read_json(line)
    except (ValueError, RecursionError):
        return False
    return True


def tests_passed(problem: Problem, found: Sequence[Sequence[Execution | None]], tests: Sequence[Test]) -> np.ndarray:
    """Which program passes which test [programs, tests], bool, by what became of it on the tests' inputs (`runs`).

    A checker of the problem is no part of its statement, and plays no part here.
    """
    limits = Limits.of(problem)

    def passes(run: Execution | None, test: Test) -> bool:
        return run is not None and judged(problem, test, run, limits)[0] == "passed"

    passed = [[passes(run, test) for run, test in zip(row, tests, strict=True)] for row in found]
    return np.array(passed, bool).reshape(len(found), len(tests))


def codet(passed: np.ndarray) -> np.ndarray:
    """CodeT's score of each program (arXiv 2207.10397, section 2.2), from the tests that it passes [programs, tests].

    Programs that pass the same tests form a consensus set; its score is its number of programs times the number of
    tests that they pass.
    """
    return same_everywhere(passed).sum(axis=0) * passed.sum(axis=1).astype(float)


# ------------------------------------------------------------------------------------------------- repairs


def repair_prompt(problem: Problem, code: str, failure: Verdict) -> Prompt:
    """The prompt that asks for a repair: the program's own prompt, the program as its answer, and the sample that it
    fails.  `failure` is its verdict on the problem with the samples as its tests."""
    asked = cof_prompt(problem)
    sample = problem.samples[failure.test or 0]
    shown = {"input": sample.input.strip(), "output": sample.output.strip(), "failure": _in_words(failure)}
    said = PROMPTS["repair"].format(**shown)
    return replace(asked, messages=(*asked.messages, ("assistant", f"```python\n{code.strip()}\n```"), ("user", said)))


def _in_words(failure: Verdict) -> str:
    """What a program did, without anything that differs from run to run."""
    match failure.kind:
        case "wrong_answer":
            return f"what it prints differs: {failure.detail}"
        case "runtime_error" | "syntax_error":
            return f"it fails: {(failure.detail.strip() or failure.kind).splitlines()[-1]}"
    return f"it was stopped: {failure.kind.replace('_', ' ')}"


def repair(
    policy: Policy,
    sandbox: Sandbox,
    problems: Sequence[Problem],
    programs: Sequence[Program],
    rounds: int = 1,
    temperature: float = 0.8,
) -> tuple[list[Repair], list[str]]:
    """The graded repairs of programs, and the ids of the problems that were left out.

    In each round, the policy is shown every program that fails a public sample, in the form of the round before, and
    writes it again.  A program that passes all samples is done, right or wrong, and so is one whose problem has none.
    Offline, a program whose repair is not recorded is given up, and its problem is left out.
    """
    by_id = {p.id: p for p in problems}
    found: list[Repair] = []
    left_out: list[str] = []
    going = [p for p in programs if by_id[p.problem].samples]
    for turn in range(1, rounds + 1):
        shown = sandbox.grade([(replace(by_id[p.problem], tests=by_id[p.problem].samples), p.code) for p in going])
        wrong = [(p, verdict) for p, verdict in zip(going, shown, strict=True) if not verdict.passed]
        prompts = [repair_prompt(by_id[p.problem], p.code, verdict) for p, verdict in wrong]
        replies = policy.sample_known(prompts, 1, temperature=temperature)
        left_out += [p.problem for (p, _), reply in zip(wrong, replies, strict=True) if reply is None]
        rewritten = [(by_id[p.problem], p.sample, row[0]) for (p, _), row in zip(wrong, replies, strict=True) if row]
        going = graded(sandbox, rewritten)
        found += [Repair(**vars(p), round=turn) for p in going]
    return found, left_out
