"""From a problem's test to a verdict: what a program is asked, within which limits, and what its answer counts as.

Nothing runs here.  A `RunRequest` is what a program gets to see; the expected output of a test is only read afterwards.
"""

import json
import re
import time
import timeit
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Annotated, Any

import pydantic

from dreamprm_lib.engine.problem import TEST_KINDS, Problem, Test
from dreamprm_lib.engine.sandbox.comparison import (
    checked_tolerance,
    first_difference,
    read_json,
    short,
    values_match,
)
from dreamprm_lib.engine.schema import checked, form_of
from dreamprm_lib.errors import InputError

KINDS = (
    "passed", "wrong_answer", "runtime_error", "syntax_error", "time_limit", "memory_limit", "output_limit", "killed",
)  # fmt: skip
# Problems of these platforms come from LiveCodeBench, whose runner imports common modules before a program.
LIVECODEBENCH_PLATFORMS = ("leetcode", "atcoder", "codeforces", "livecodebench")
REFERENCE_SECONDS = 0.004  # what `time_scale` measures on the machine that the limits were chosen on
Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Verdict:
    """What became of a program on its problem.

    `kind` is one of `KINDS`; `seconds` are the CPU seconds of its slowest test; `test` is the index of the failing
    test (None if it passed); `detail` is short: the last lines of the traceback, or the first line that differs.
    """

    kind: str
    seconds: float = 0.0
    test: int | None = None
    detail: str = ""

    @property
    def passed(self) -> bool:
        return self.kind == "passed"


@dataclass(frozen=True)
class Execution:
    """One run of a program.

    `status` is `ok`, or a kind of verdict other than passed; `stdout` holds up to the output limit, `stderr` the last
    4000 bytes; `cpu` and `wall` are in seconds; `signal` names the signal that ended it ("" if none did); `result` is
    what a called function returned, as JSON ("" if none was called).
    """

    status: str
    stdout: str
    stderr: str
    cpu: float
    wall: float
    signal: str = ""
    result: str = field(default="", repr=False)


# --- Limits -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """What one test of a program may take.

    `time_limit` CPU seconds, times `time_scale()`; `wall_limit` seconds (None: 5 times the CPU seconds and 2);
    `memory_mb` above what an idle interpreter takes; `output_kb` of standard output, or four times what the expected
    output has if that is more; `modules` are installed packages that a program may import beside the standard library,
    such as ("numpy",).
    """

    time_limit: Positive = 2.0
    memory_mb: Positive = 512
    wall_limit: Positive | None = None
    output_kb: Positive = 1024
    modules: tuple[str, ...] = ()

    @classmethod
    def of(cls, problem: Problem | None, **changes: Any) -> "Limits":
        """The limits of the set that a problem comes from, with `changes`; those of no problem are the default ones.

        Raises `InputError` for a change that is no limit, or can't be one.
        """
        limits = LIVECODEBENCH if problem and problem.source in LIVECODEBENCH_PLATFORMS else cls()
        checked(LIMITS_FORM, changes, "The limits of the sandbox", noun="limit")
        return replace(limits, **{**changes, "modules": tuple(changes.get("modules", limits.modules))})

    @property
    def cpu_seconds(self) -> float:
        return self.time_limit * time_scale()

    @property
    def wall_seconds(self) -> float:
        return 5 * self.cpu_seconds + 2 if self.wall_limit is None else self.wall_limit

    def output_bytes(self, expected: str = "") -> int:
        return max(int(self.output_kb * 1024), 4 * len(expected.encode("utf-8", "replace")))


LIMITS_FORM = form_of(Limits)
# LiveCodeBench's own runner gives a test six seconds and has numpy; AtCoder's problems allow a gigabyte.
LIVECODEBENCH = Limits(time_limit=6.0, memory_mb=1024, modules=("numpy",))


@cache
def time_scale() -> float:
    """How much longer than on the reference machine plain Python takes here, by CPU time; at least 1."""
    loop = "for number in range(100_000): total += number"
    seconds = timeit.repeat(loop, "total = 0", time.process_time, repeat=5, number=1)
    return max(1.0, min(seconds) / REFERENCE_SECONDS)


# --- What a program is asked ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunRequest:
    """One run that is asked of a worker: a program, its input, and, apart from both, the call that follows it.

    `given` says whether LiveCodeBench's imports come before the program; `kind` is that of the test and `entry` the
    function to be called ("" for none) with `arguments`; `output_bytes` is the most that the program may write.
    """

    limits: Limits
    output_bytes: int
    code: str
    stdin: str = ""
    given: bool = False
    kind: str = "stdin"
    entry: str = ""
    arguments: str = ""

    def text(self) -> bytes:
        """What the program's process reads, a line about the program before it."""
        return f"{'given' if self.given else ''} {self.kind} {self.entry}\n{self.code}".encode("utf-8", "surrogatepass")


def request_for(problem: Problem, test: Test, code: str, limits: Limits) -> RunRequest:
    """The program's run on a test."""
    given = problem.source in LIVECODEBENCH_PLATFORMS or test.kind == "functional"
    output_bytes = limits.output_bytes(test.output)
    if test.kind == "stdin":
        return RunRequest(limits, output_bytes, code, test.input, given)
    if test.kind == "check" or problem.is_stub:
        code = _behind_the_prompt(problem, code)
    return RunRequest(limits, output_bytes, code, "", given, test.kind, problem.entry_point, test.input)


def request_to_checker(problem: Problem, test: Test, output: str, limits: Limits) -> RunRequest:
    """The run of the problem's checker, in a process of its own, on an output."""
    arguments = "\n".join(json.dumps(text) for text in (test.input, output, test.output))
    return RunRequest(limits, limits.output_bytes(), problem.checker, "", False, "functional", "check", arguments)


def _behind_the_prompt(problem: Problem, code: str) -> str:
    """A program with the imports and helpers of its problem's prompt in front: it may use them without writing them
    again.  Imports from `__future__`, which Python wants first, lead the whole."""
    given = re.split(rf"^(?=def {problem.entry_point}\b)", problem.starter_code, maxsplit=1, flags=re.MULTILINE)[0]
    if not given.strip():
        return code
    future = re.compile(r"^from __future__ import .*$", re.MULTILINE)
    return "\n".join([*future.findall(code), given, future.sub("", code)])


# --- What its answer counts as ----------------------------------------------------------------------------------------


def judged(problem: Problem, test: Test, execution: Execution, limits: Limits) -> tuple[str, str]:
    """The kind of verdict on one test, and its detail."""
    if execution.status != "ok":
        return execution.status, _reason(execution, limits, limits.output_bytes(test.output))
    wrong = ""
    if test.kind == "stdin":
        wrong = first_difference(execution.stdout, test.output, problem.tolerance)
    elif test.kind == "functional":
        try:
            if not values_match(read_json(execution.result), read_json(test.output), problem.tolerance):
                wrong = f"expected {short(test.output)}, got {short(execution.result)}"
        except (ValueError, RecursionError) as error:
            wrong = f"the result can't be read: {error}"
    return "wrong_answer" if wrong else "passed", wrong


def judged_by_checker(output: str, execution: Execution) -> tuple[str, str]:
    """The kind of verdict on an output, and its detail; a checker that raises refuses the output."""
    if execution.status == "ok" and execution.result == "true":
        return "passed", ""
    said = f"the checker refuses {short(repr(output.strip()))} {_last_lines(execution.stderr, 1)}"
    return "wrong_answer", said.strip()


def _reason(execution: Execution, limits: Limits, output_bytes: int) -> str:
    """Why a run failed, for a verdict's detail."""
    reasons = {
        "time_limit": f"{execution.cpu:.2f} CPU seconds of {limits.cpu_seconds} in {execution.wall:.2f} seconds of "
        f"{limits.wall_seconds}",
        "memory_limit": f"more than {limits.memory_mb} MB",
        "output_limit": f"more than {output_bytes >> 10} KB of output",
        "killed": f"killed by {execution.signal}" if execution.signal else "",
    }
    return reasons.get(execution.status) or _last_lines(execution.stderr)


def _last_lines(stderr: str, lines: int = 4) -> str:
    return "\n".join(stderr.strip().splitlines()[-lines:])[-400:]


# --- What can be graded -----------------------------------------------------------------------------------------------


def check_pair(item: object, kinds: tuple[type, type], where: str) -> None:
    """Raises `InputError` unless `item` is a pair of these types."""
    if not (isinstance(item, (tuple, list)) and len(item) == 2 and all(map(isinstance, item, kinds))):
        wanted = " and ".join(kind.__name__ for kind in kinds)
        raise InputError(f"{where} is {short(repr(item))}: expected is a pair of {wanted}.")


def check_problem(problem: Problem) -> None:
    """Raises `InputError` unless the problem can be graded."""
    if not problem.tests:
        raise InputError(f"The problem {problem.id!r} has no tests, so nothing can be graded on it.")
    checked_tolerance(problem.tolerance, f"The problem {problem.id!r} can't be graded: ")
    for index, test in enumerate(problem.tests):
        where = f"The problem {problem.id!r}, test {index},"
        if test.kind not in TEST_KINDS:
            raise InputError(f"{where} is of kind {test.kind!r}: known are {', '.join(TEST_KINDS)}.")
        if test.kind != "stdin" and not problem.entry_point:
            raise InputError(f"{where} calls a function, but the problem has no `entry_point`.")
        if test.kind == "functional":
            try:
                read_json(test.output)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where} expects {short(repr(test.output))}, which is not JSON ({error}).") from error
