"""The sandbox: programs run where they can harm nothing, and meet their tests only in this process.

Each worker is a freshly started interpreter that forks one child a test; expected outputs never enter it.  A program
is judged by what it prints, and by nothing else that it does.  Isolation comes in layers (namespaces for processes,
network and mounts; a read-only view of files with a private temporary directory; the folders that hold answers hidden;
limits on CPU, memory, output, files and processes); `report` tells which are on, and what is missing is logged once.

Not covered: kernel bugs, side channels between programs that run at the same time, and tests of kind `check`, whose
assertions are code that must stand in the program's own process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import secrets
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from queue import SimpleQueue

from tqdm.auto import tqdm

from dreamprm_lib.engine.problems import Problem, Test
from dreamprm_lib.engine.weights import cache_dir
from dreamprm_lib.errors import DreamPRMError, InputError

log = logging.getLogger(__name__)

KINDS = (
    "passed",
    "wrong_answer",
    "runtime_error",
    "syntax_error",
    "time_limit",
    "memory_limit",
    "output_limit",
    "killed",
)
_WORKER = Path(__file__).with_name("sandbox_worker.py")
_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Verdict:
    """The judgement of a program: its kind, CPU seconds of the slowest test, the index of the failing test (None if
    all passed) and a line or two of detail."""

    kind: str
    seconds: float = 0.0
    test: int | None = None
    detail: str = ""

    @property
    def passed(self) -> bool:
        return self.kind == "passed"


@dataclass(frozen=True)
class Execution:
    """One run of a program: `status` is `ok` or the kind of failure, times are in seconds."""

    status: str
    stdout: str
    stderr: str
    cpu: float
    wall: float


class Sandbox:
    """A pool of isolated workers.  Use as a context manager, or call `close`.

    `time_limit` is whole CPU seconds a test; wall-clock time only counts when it is far above that, and then again
    alone, so a slow machine is not a wrong program.  `memory_mb` bounds the address space, `output_kb` what is printed.
    """

    def __init__(self, workers: int = 2, time_limit: int = 2, memory_mb: int = 512, output_kb: int = 1024):
        self._limits = {"cpu": time_limit, "memory": memory_mb << 20, "output": output_kb << 10}
        self._wall = 3 * time_limit + 2
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._alone = threading.Lock()
        self._workers = [_Worker() for _ in range(workers)]
        for worker in self._workers:
            self._idle.put(worker)
        self._pool = ThreadPoolExecutor(workers)
        _tell_once(self._workers[0].report)

    def report(self) -> dict[str, bool | str]:
        """Isolation layers: True where it is on, else why it is not."""
        return dict(self._workers[0].report)

    def grade(self, pairs: Sequence[tuple[Problem, str]], progress: bool = False) -> list[Verdict]:
        """The verdict of each (problem, program), in order; equal pairs are graded once.

        A program meets the problem's tests one after another, up to the first that fails.
        """
        for pair in pairs:
            if not (isinstance(pair, tuple) and isinstance(pair[0], Problem) and isinstance(pair[1], str)):
                raise InputError(f"grade takes (Problem, program text) pairs, not {type(pair).__name__} {pair!r:.80}.")
        unique = {(problem.id, code): (problem, code) for problem, code in pairs}
        verdicts = dict(zip(unique, self._map(self._grade, list(unique.values()), progress), strict=True))
        return [verdicts[problem.id, code] for problem, code in pairs]

    def run(self, jobs: Sequence[tuple[str, str]], progress: bool = False) -> list[Execution]:
        """Run each (program, standard input) once, without judging it."""
        return self._map(lambda code, stdin: self._execute(code, stdin), list(jobs), progress)

    def close(self) -> None:
        """End the workers and all that still runs in them."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.stop()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    def _map(self, function, jobs: list[tuple], progress: bool) -> list:
        futures = [self._pool.submit(function, *job) for job in jobs]
        with tqdm(total=len(jobs), desc="running programs", unit="program", disable=not progress) as bar:
            results = []
            for future in futures:
                results.append(future.result())
                bar.update()
        return results

    def _grade(self, problem: Problem, code: str) -> Verdict:
        slowest = 0.0
        for index, test in enumerate(problem.tests):
            program, stdin, mark = _program_for(problem, test, code)
            ran = self._execute(program, stdin)
            slowest = max(slowest, ran.cpu)
            if ran.status != "ok":
                return Verdict(ran.status, slowest, index, ran.stderr.strip()[-400:])
            answer = ran.stdout if mark is None else _marked(ran.stdout, mark)
            if answer is None or not _matches(answer, test, problem.tolerance):
                return Verdict("wrong_answer", slowest, index, _first_difference(answer or "", test.output))
        return Verdict("passed", slowest)

    def _execute(self, code: str, stdin: str) -> Execution:
        ran = self._once(code, stdin)
        if ran.status == "wall_limit":  # slow machine or sleeping program? Alone it shows.
            with self._alone:
                ran = self._once(code, stdin)
        return replace(ran, status="time_limit") if ran.status == "wall_limit" else ran

    def _once(self, code: str, stdin: str) -> Execution:
        request = {"code": code, "stdin": stdin, "wall": self._wall, **self._limits}
        worker = self._idle.get()
        try:
            return Execution(**worker.ask(request))
        finally:
            self._idle.put(worker)


class _Worker:
    """One worker process; it is started again if it dies."""

    def __init__(self):
        self._start()

    def _start(self) -> None:
        hidden = [str(_PACKAGE / "data"), str(_PACKAGE.parent / "outputs"), str(cache_dir())]
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_WORKER), json.dumps(hidden)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
        )
        self.report = self._receive()
        if self.report is None:
            raise DreamPRMError("The sandbox's worker did not start: is the interpreter whole, and /tmp writable?")

    def ask(self, request: dict) -> dict:
        """Send a request; a worker that died with it is replaced, and the program counts as killed."""
        data = json.dumps(request).encode()
        try:
            self._process.stdin.write(struct.pack("!I", len(data)) + data)
            self._process.stdin.flush()
            reply = self._receive()
        except BrokenPipeError:
            reply = None
        if reply is None:
            self.stop()
            self._start()
            return {"status": "killed", "stdout": "", "stderr": "the worker died", "cpu": 0.0, "wall": 0.0}
        return reply

    def _receive(self) -> dict | None:
        head = self._process.stdout.read(4)
        if len(head) < 4:
            return None
        data = self._process.stdout.read(*struct.unpack("!I", head))
        return json.loads(data)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()


_told: set[str] = set()


def _tell_once(report: dict[str, bool | str]) -> None:
    missing = {name: why for name, why in report.items() if why is not True}
    if missing and not _told.issuperset(missing):
        _told.update(missing)
        log.warning("the sandbox runs without: %s", "; ".join(f"{name} ({why})" for name, why in missing.items()))


# ------------------------------------------------------------------------------------------------- tests and answers


def _program_for(problem: Problem, test: Test, code: str) -> tuple[str, str, str | None]:
    """What is run for a test: the program, its standard input, and the mark behind which the answer stands.

    For `functional` and `check` tests a driver follows the program; it prints a random mark and the result.
    """
    if test.kind == "stdin":
        return code, test.input, None
    mark = secrets.token_hex(16)
    if test.kind == "functional":
        arguments = ", ".join(f"json.loads({line!r})" for line in test.input.strip().split("\n"))
        call = f"(Solution().{problem.entry_point} if 'Solution' in globals() else {problem.entry_point})({arguments})"
        return f"{code}\n\nimport json\nresult = json.dumps({call})\nprint('\\n{mark}')\nprint(result)\n", "", mark
    return f"{code}\n\n{test.input}\nprint('\\n{mark}')\n", "", mark


def _marked(stdout: str, mark: str) -> str | None:
    """What stands behind the mark; None if the driver never came so far."""
    _, found, answer = stdout.rpartition(f"\n{mark}\n")
    return answer if found else None


def _matches(answer: str, test: Test, tolerance: float) -> bool:
    if test.kind == "check":
        return True
    if test.kind == "functional":
        try:
            return json.loads(answer) == json.loads(test.output)
        except ValueError:
            return False
    return outputs_match(answer, test.output, tolerance)


def outputs_match(actual: str, expected: str, tolerance: float = 0.0) -> bool:
    """Whether two outputs are the same: line by line, blanks at the ends ignored, numbers compared as decimals.

    `tolerance` is the relative and absolute error that a number may have.
    """
    left, right = (text.strip().splitlines() for text in (actual, expected))
    return len(left) == len(right) and all(_same_line(a, b, tolerance) for a, b in zip(left, right, strict=True))


def _same_line(actual: str, expected: str, tolerance: float) -> bool:
    if actual.strip() == expected.strip():
        return True
    left, right = actual.split(), expected.split()
    return len(left) == len(right) and all(_same_word(a, b, tolerance) for a, b in zip(left, right, strict=True))


def _same_word(actual: str, expected: str, tolerance: float) -> bool:
    if actual == expected:
        return True
    if not (re.fullmatch(r"[-+.\deE]{1,60}", actual) and re.fullmatch(r"[-+.\deE]{1,60}", expected)):
        return False
    try:
        a, b = Decimal(actual), Decimal(expected)
    except InvalidOperation:
        return False
    return a == b or (tolerance > 0 and abs(a - b) <= Decimal(tolerance) * max(Decimal(1), abs(b)))


def _first_difference(actual: str, expected: str) -> str:
    left, right = actual.strip().splitlines(), expected.strip().splitlines()
    for number, (a, b) in enumerate(zip(left, right, strict=False), 1):
        if a.rstrip() != b.rstrip():
            return f"line {number}: {a[:80]!r} instead of {b[:80]!r}"
    return f"{len(left)} lines instead of {len(right)}"
