"""Grade programs by their outputs, without trusting them: a program meets its tests only here, in the parent.

A `Sandbox` keeps a few worker processes (`sandbox_worker.py`), each a Python of its own that forks one fresh child a
test.  The parent sends a program and an input, gets back what the program wrote, and compares: expected outputs never
enter a process that runs a program.  `Sandbox.report` tells which layers of isolation this kernel gave.

A slow machine is not a wrong program: CPU seconds decide, the limit is longer where plain Python runs slower, and a
program that ran out of time is run once more, alone, before that counts.

Not covered.  A `check` test (HumanEval) is code that runs in the program's process: the program can't leave before it,
fake its result by printing, or pass by objects that equal everything, but code written to attack it could.  CPU
seconds themselves grow by some ten percent on a loaded machine, so a program within that of its limit may flip.
Programs share the kernel with the grader.  Only Linux has the layers; Windows has not even fork.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import math
import os
import re
import secrets
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import IO

from tqdm.auto import tqdm

from dreamprm_lib.engine.problems import Problem, Test
from dreamprm_lib.errors import InputError, SandboxError

KINDS = (
    "passed", "wrong_answer", "runtime_error", "syntax_error", "time_limit", "memory_limit", "output_limit", "killed",
)  # fmt: skip
LAYERS = (
    "user namespace", "mount namespace", "pid namespace", "network namespace", "ipc namespace", "host name namespace",
    "process limit", "private root", "unprivileged user", "resource limits", "no capabilities", "no new privileges",
    "landlock", "seccomp",
)  # fmt: skip
# LiveCodeBench's runner imports common modules before a program of these platforms; so does this one.
PLATFORMS_WITH_IMPORTS = ("leetcode", "atcoder", "codeforces", "livecodebench")
# What a run has to do twice, the second time alone, before it counts; and as what it counts then.
_COUNTS_TWICE = {"time_limit": "time_limit", "wall_limit": "time_limit", "worker_died": "killed"}
_REFERENCE_SECONDS = 0.004  # what `time_scale` measures on the machine that the limits were chosen on
AT_ONCE = (os.cpu_count() or 1) + 1
PACKAGE = Path(__file__).resolve().parents[2]  # the folder that holds dreamprm_lib
WORKER = "dreamprm_lib.engine.sandbox_worker"

log = logging.getLogger(__name__)
_warned: set[str] = set()


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
    4000 bytes; `cpu` and `wall` are in seconds; `signal` names the signal that ended it ("" if none did).  `result`
    and `confined` are for the sandbox itself: what a called function gave, and that the program was shut in.
    """

    status: str
    stdout: str
    stderr: str
    cpu: float
    wall: float
    signal: str = ""
    result: str = field(default="", repr=False)
    confined: bool = field(default=True, repr=False)


@dataclass(frozen=True)
class _Request:
    """What a worker is sent: a program, its input, and, apart from both, the call that follows the program."""

    code: str
    stdin: str = ""
    given: bool = False
    entry: dict | None = None
    call: bytes = b""

    def frames(self) -> bytes:
        body = {"code": self.code, "stdin": self.stdin, "given": self.given, "entry": self.entry}
        return _frame(json.dumps(body).encode()) + (_frame(self.call) if self.entry else b"")


_Job = Generator[_Request, Execution, object]


@cache
def time_scale() -> float:
    """How much longer than on the reference machine plain Python takes here, by CPU time; at least 1."""

    def seconds() -> float:
        started, total = time.process_time(), 0
        for number in range(100_000):
            total += number
        return time.process_time() - started

    return max(1.0, min(seconds() for _ in range(5)) / _REFERENCE_SECONDS)


class Sandbox:
    """Runs and grades programs.  Use as a context manager, or call `close`.

    `workers` programs run at once (by default one more than cores, so that none waits for this process).  Limits hold
    for one test: `time_limit` CPU seconds, times `time_scale()`; `wall_limit` seconds (None: 5 times the CPU seconds
    and 2); `memory_mb` above what an idle interpreter takes; `output_kb` of standard output; `processes` with threads.
    `modules` are installed packages that programs may import beside the standard library, such as ("numpy",).
    `without` switches layers of isolation off, by the names in `LAYERS`.

    Nothing is started before the first program.  Raises `InputError` for settings that can't be.
    """

    def __init__(
        self,
        workers: int = AT_ONCE,
        time_limit: float = 2.0,
        memory_mb: int = 512,
        *,
        wall_limit: float | None = None,
        output_kb: int = 1024,
        processes: int = 16,
        modules: Sequence[str] = (),
        without: Sequence[str] = (),
    ):
        for name, value in [
            ("workers", workers), ("time_limit", time_limit), ("memory_mb", memory_mb), ("output_kb", output_kb),
            ("processes", processes), ("wall_limit", 1 if wall_limit is None else wall_limit),
        ]:  # fmt: skip
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise InputError(f"{name}={value!r}: a sandbox needs a positive number.")
        if unknown := sorted(set(without) - set(LAYERS)):
            raise InputError(f"There is no layer {unknown[0]!r} to do without: known are {', '.join(LAYERS)}.")
        if not hasattr(os, "fork"):
            raise SandboxError("The sandbox forks processes, which this platform can't: use Linux, macOS or WSL.")
        time_limit *= time_scale()
        self._settings = {
            "time_limit": time_limit,
            "wall_limit": 5 * time_limit + 2 if wall_limit is None else wall_limit,
            "memory_bytes": int(memory_mb * 2**20),
            "output_bytes": int(output_kb * 1024),
            "processes": int(processes),
            "without": list(without),
            **_find_modules(modules),
        }
        self._workers = [_Worker(self._settings) for _ in range(int(workers))]
        self._lock = threading.RLock()

    def grade(self, items: Sequence[tuple[Problem, str]], progress: bool = False) -> list[Verdict]:
        """The verdicts of (problem, program) pairs, in their order; a program stops at its first failing test.

        A pair of problem id and program that stands there twice is graded once.  `progress` shows a bar.
        Raises `InputError` for a pair that is none, or a problem that can't be graded.
        """
        keys, unique, checked = [], {}, set()
        for number, item in enumerate(items):
            problem, code = _checked_pair(item, number)
            if id(problem) not in checked:
                _check_problem(problem)
                checked.add(id(problem))
            keys.append((problem.id, code))
            unique.setdefault(keys[-1], _grading(problem, code, self._settings))
        verdicts = dict(zip(unique, self._drive(list(unique.values()), progress), strict=True))
        return [verdicts[key] for key in keys]

    def run(self, items: Sequence[tuple[str, str]], progress: bool = False) -> list[Execution]:
        """Run (program, standard input) pairs, in their order, without grading.

        Raises `InputError` for a pair that is none.
        """
        jobs = []
        for number, item in enumerate(items):
            if not (isinstance(item, (tuple, list)) and len(item) == 2 and all(isinstance(t, str) for t in item)):
                raise InputError(f"items[{number}] is {_short(item)}: `run` takes pairs (program text, input text).")
            jobs.append(_running(_Request(*item)))
        return self._drive(jobs, progress)

    def report(self) -> dict[str, str | bool]:
        """The layers of isolation that are on: True, False, or their degree as text.  Starts a worker if none is."""
        with self._lock:
            self._workers[0].start()
            return dict(self._workers[0].layers)

    def close(self) -> None:
        """End the workers and all that runs in them.  A closed sandbox starts anew when it is used again."""
        with self._lock:
            for worker in self._workers:
                worker.stop()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    def _drive(self, jobs: list[_Job], progress: bool) -> list:
        """Carry every job to its end on the workers; returns what the jobs return, in order.

        A run that broke a time limit, or in which the worker died, is set aside, and done again by itself when all
        others are done.
        """
        results: list = [None] * len(jobs)
        with self._lock, tqdm(total=len(jobs), desc="running", unit="program", disable=not progress) as bar:
            try:
                waiting = deque((index, job, None) for index, job in enumerate(jobs))
                again: deque = deque()
                self._drive_on(self._workers, waiting, results, bar, again)
                self._drive_on(self._workers[:1], again, results, bar, None)
            except BaseException:
                self.close()  # a worker may be in the middle of an answer
                raise
        return results

    def _drive_on(self, workers: list[_Worker], waiting: deque, results: list, bar: tqdm, again: deque | None) -> None:
        """Work `waiting` off.  Its entries are (index, job, request); request None is for a job that has to start."""
        idle, busy = list(workers), {}
        with selectors.DefaultSelector() as selector:

            def ask(worker: _Worker, index: int, job: _Job, request: _Request) -> None:
                worker.ask(request)
                busy[worker] = (index, job, request)
                selector.register(worker.channel, selectors.EVENT_READ, worker)

            def proceed(worker: _Worker, index: int, job: _Job, execution: Execution | None) -> None:
                try:
                    ask(worker, index, job, job.send(execution))
                except StopIteration as end:
                    results[index] = end.value
                    bar.update()
                    idle.append(worker)

            while waiting or busy:
                while waiting and idle:
                    index, job, request = waiting.popleft()
                    if request is None:
                        proceed(idle.pop(), index, job, None)
                    else:
                        ask(idle.pop(), index, job, request)
                for worker in self._ready(selector, busy):
                    index, job, request = busy.pop(worker)
                    selector.unregister(worker.channel)
                    execution = worker.answer()
                    if execution.status in _COUNTS_TWICE and again is not None:
                        again.append((index, job, request))
                        idle.append(worker)
                    else:
                        status = _COUNTS_TWICE.get(execution.status, execution.status)
                        proceed(worker, index, job, replace(execution, status=status))

    @staticmethod
    def _ready(selector: selectors.BaseSelector, busy: dict) -> list[_Worker]:
        """The workers that have answered, or are long overdue."""
        if not busy:
            return []
        first = min(worker.overdue for worker in busy)
        ready = [key.data for key, _ in selector.select(max(first - time.monotonic(), 0))]
        return ready or [worker for worker in busy if worker.overdue <= time.monotonic()]


class _Worker:
    """The parent's end of a worker process, which it starts when it is needed and again after a death."""

    def __init__(self, settings: dict):
        self.settings = settings
        self.channel: socket.socket | None = None
        self.layers: dict[str, str | bool] = {}
        self.overdue = math.inf
        self._errors: IO[bytes] | None = None
        self._end: weakref.finalize | None = None

    def start(self) -> None:
        """Start the process unless it runs; raises `SandboxError` if it can't be had."""
        if self.channel is not None:
            return
        # A fixed seed: programs that print sets print them alike every time.
        environment = {"PYTHONHASHSEED": "0", "PYTHONPATH": os.fspath(PACKAGE)}
        environment |= {k: v for k, v in os.environ.items() if k == "LD_LIBRARY_PATH"}
        self._errors = tempfile.TemporaryFile()
        self.channel, theirs = socket.socketpair()
        process = subprocess.Popen(
            [sys.executable, "-B", "-P", "-s", "-S", "-X", "utf8", "-m", WORKER],
            stdin=theirs, stdout=subprocess.DEVNULL, stderr=self._errors, cwd="/", env=environment,
            start_new_session=True,
        )  # fmt: skip
        theirs.close()
        folder: list[str] = []
        self._end = weakref.finalize(self, _end_worker, self.channel, process, folder, os.getpid())
        self.channel.settimeout(60)
        try:
            self.channel.sendall(_frame(json.dumps(self.settings).encode()))
            hello = json.loads(_receive_frame(self.channel))
        except (OSError, ValueError, EOFError) as error:
            said = self._last_words()
            self.stop()
            raise SandboxError(f"A worker of the sandbox did not start ({error!r}). It said: {said}") from error
        self.layers = hello["layers"]
        folder.append(hello["folder"])
        _warn_of_missing(self.layers, self.settings["without"])

    def ask(self, request: _Request) -> None:
        """Send a request; its answer comes over `channel`.  A worker that died meanwhile is started again."""
        self.start()
        try:
            self.channel.sendall(request.frames())
        except OSError:
            self.stop()
            self.start()
            self.channel.sendall(request.frames())
        self.overdue = time.monotonic() + self.settings["wall_limit"] + 30

    def answer(self) -> Execution:
        """The answer to the request; its status is `worker_died` if there is none."""
        try:
            if time.monotonic() >= self.overdue:
                raise TimeoutError("the worker is overdue")
            execution = Execution(**json.loads(_receive_frame(self.channel)))
        except (OSError, ValueError, EOFError, TypeError) as error:
            said = self._last_words()
            log.warning("A worker of the sandbox ended in the middle of a program: %r. %s", error, said)
            self.stop()
            return Execution("worker_died", "", f"the worker that ran it ended: {error!r}", 0.0, 0.0)
        if not execution.confined:
            raise SandboxError(f"A program could not be shut in, and was not run: {execution.stderr.strip()}")
        return execution

    def stop(self) -> None:
        """End the process, and with it all that runs in it."""
        if self._end is not None:
            self._end()
            self._errors.close()
        self.channel, self._end = None, None

    def _last_words(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-2000:].decode("utf-8", "replace").strip()


def _end_worker(channel: socket.socket, process: subprocess.Popen, folder: list[str], owner: int) -> None:
    """Close the channel, on which a worker ends by itself; kill one that does not, and remove its folder."""
    channel.close()
    if os.getpid() != owner:  # a fork of the process that started the worker
        return
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for path in filter(None, folder):  # left behind by a worker that was killed
        with contextlib.suppress(RecursionError):
            shutil.rmtree(path, ignore_errors=True)


def _frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def _receive_frame(channel: socket.socket) -> bytes:
    """The next frame of a worker; raises EOFError if the worker is gone."""
    body, size = bytearray(), 4
    while len(body) < size:
        part = channel.recv(1 << 20)
        if not part:
            raise EOFError("the worker has closed its channel")
        body += part
        if len(body) >= 4:
            size = 4 + int.from_bytes(body[:4], "big")
    return bytes(body[4:])


def _warn_of_missing(layers: dict[str, str | bool], without: Sequence[str]) -> None:
    """Say once what this machine lacks."""
    missing = [name for name, on in layers.items() if not on and name not in without and name not in _warned]
    if missing:
        _warned.update(missing)
        log.warning(
            "The sandbox runs without %s: this kernel or this user does not have it. Grade only programs that you "
            "would run yourself, or use Linux with user namespaces, Landlock and seccomp.", ", ".join(missing),
        )  # fmt: skip


def _find_modules(modules: Sequence[str]) -> dict[str, list[str]]:
    """Where installed packages are: the folders to import them from, and the folders that programs may read."""
    folders, packages = [], []
    for name in modules:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None or spec.origin is None:
            raise InputError(f"modules: there is no installed package {name!r} to give to programs.")
        place = Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
        folders.append(os.fspath(place.parent))
        packages += [os.fspath(p) for p in (place, place.parent / f"{name}.libs") if p.exists()]
    return {"modules": list(modules), "module_folders": list(dict.fromkeys(folders)), "packages": packages}


# --- Jobs: what is asked of a worker, one request after the other -----------------------------------------------------


def _running(request: _Request) -> _Job:
    return (yield request)


def _grading(problem: Problem, code: str, limits: dict) -> _Job:
    """Run a program on the tests of its problem up to the first that fails; returns the verdict."""
    slowest = 0.0
    for index, test in enumerate(problem.tests):
        nonce = secrets.token_hex(16)
        execution = yield _request_for(problem, test, code, nonce)
        slowest = max(slowest, execution.cpu)
        if problem.checker and test.kind == "stdin" and execution.status == "ok":
            kind, detail = yield from _asking_the_checker(problem, test, execution.stdout)
        else:
            kind, detail = _judge(problem, test, execution, nonce, limits)
        if kind != "passed":
            return Verdict(kind, slowest, index, detail)
    return Verdict("passed", slowest)


def _asking_the_checker(problem: Problem, test: Test, output: str) -> Generator[_Request, Execution, tuple[str, str]]:
    """Let the problem's checker look at an output, in a process of its own; a checker that raises refuses it."""
    nonce = secrets.token_hex(16)
    arguments = "\n".join(json.dumps(text) for text in (test.input, output, test.output))
    entry = {"kind": "functional", "name": "check"}
    execution = yield _Request(problem.checker, entry=entry, call=_frame(arguments.encode()) + nonce.encode())
    if execution.result == nonce + "true":
        return "passed", ""
    return "wrong_answer", f"the checker refuses {_short(output.strip())} {_last_lines(execution.stderr, 1)}".strip()


def _request_for(problem: Problem, test: Test, code: str, nonce: str) -> _Request:
    given = problem.source in PLATFORMS_WITH_IMPORTS
    if test.kind == "stdin":
        return _Request(code, test.input, given)
    if test.kind == "check":
        code = _behind_the_prompt(problem, code)
    entry = {"kind": test.kind, "name": problem.entry_point}
    return _Request(code, "", given or test.kind == "functional", entry, _frame(test.input.encode()) + nonce.encode())


def _behind_the_prompt(problem: Problem, code: str) -> str:
    """A program with the imports and helpers of its problem's prompt in front: it may use them without writing them
    again.  Imports from `__future__`, which Python wants first, lead the whole."""
    given = re.split(rf"^(?=def {problem.entry_point}\b)", problem.starter_code, maxsplit=1, flags=re.MULTILINE)[0]
    if not given.strip():
        return code
    future = re.compile(r"^from __future__ import .*$", re.MULTILINE)
    return "\n".join([*future.findall(code), given, future.sub("", code)])


def _judge(problem: Problem, test: Test, execution: Execution, nonce: str, limits: dict) -> tuple[str, str]:
    """The kind of verdict on one test, and its detail."""
    if execution.status != "ok":
        return execution.status, _reason(execution, limits)
    if test.kind == "stdin":
        if outputs_match(execution.stdout, test.output, problem.tolerance):
            return "passed", ""
        return "wrong_answer", _first_difference(execution.stdout, test.output, problem.tolerance)
    if not execution.result.startswith(nonce):
        return "runtime_error", "the program ended before its function was called and had returned"
    if test.kind == "check":
        return "passed", ""
    try:
        actual = json.loads(execution.result[len(nonce) :])
    except (ValueError, RecursionError) as error:
        return "wrong_answer", f"the result can't be read: {error}"
    expected = json.loads(test.output)
    if values_match(actual, expected, problem.tolerance):
        return "passed", ""
    return "wrong_answer", f"expected {_short(expected)}, got {_short(actual)}"


def _last_lines(stderr: str, lines: int = 4) -> str:
    return "\n".join(stderr.strip().splitlines()[-lines:])[-400:]


def _reason(execution: Execution, limits: dict) -> str:
    """Why a run failed, for a verdict's detail."""
    reasons = {
        "time_limit": f"{execution.cpu:.2f} CPU seconds of {limits['time_limit']} in {execution.wall:.2f} seconds of "
        f"{limits['wall_limit']}",
        "memory_limit": f"more than {limits['memory_bytes'] >> 20} MB",
        "output_limit": f"more than {limits['output_bytes'] >> 10} KB of output",
        "killed": f"killed by {execution.signal}" if execution.signal else _last_lines(execution.stderr),
    }
    return reasons.get(execution.status) or _last_lines(execution.stderr)


def _short(value: object, width: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= width else text[: width - 1] + "…"


def _checked_pair(item: object, number: int) -> tuple[Problem, str]:
    """The pair itself; raises `InputError` unless it is one."""
    if not (isinstance(item, (tuple, list)) and len(item) == 2):
        raise InputError(f"items[{number}] is {_short(item)}: `grade` takes pairs (Problem, program text).")
    problem, code = item
    if not isinstance(problem, Problem) or not isinstance(code, str):
        raise InputError(
            f"items[{number}] is a pair of {type(problem).__name__} and {type(code).__name__}: `grade` takes pairs "
            "(Problem, program text)."
        )
    return problem, code


def _check_problem(problem: Problem) -> None:
    """Raises `InputError` unless the problem can be graded."""
    if not problem.tests:
        raise InputError(f"The problem {problem.id!r} has no tests, so nothing can be graded on it.")
    for index, test in enumerate(problem.tests):
        where = f"The problem {problem.id!r}, test {index},"
        if test.kind not in ("stdin", "functional", "check"):
            raise InputError(f"{where} is of kind {test.kind!r}: known are stdin, functional and check.")
        if test.kind != "stdin" and not problem.entry_point:
            raise InputError(f"{where} calls a function, but the problem has no `entry_point`.")
        if test.kind == "functional":
            try:
                json.loads(test.output)
            except ValueError as error:
                raise InputError(f"{where} expects {_short(test.output)}, which is not JSON ({error}).") from error


# --- Comparison -------------------------------------------------------------------------------------------------------


def outputs_match(actual: str, expected: str, tolerance: float = 0.0) -> bool:
    """Whether two outputs are the same answer, as LiveCodeBench compares them.

    Blanks around the output and around each line don't matter; there must be as many lines; a line is right if it is
    the same text, or if both are numbers throughout and equal as decimals (1.0 is 1).  With a `tolerance` t, a line
    is also right if each pair of its words is the same text or two numbers with `|a - e| <= t * max(1, |e|)`.
    """
    return _differing_line(actual, expected, tolerance) is None


def _differing_line(actual: str, expected: str, tolerance: float) -> int | None:
    """The index of the first line that differs (a missing line differs); None if none does."""
    got, wanted = _lines(actual), _lines(expected)
    for index, (a, e) in enumerate(zip(got, wanted, strict=False)):
        if a != e and not _same_words(a.split(), e.split(), tolerance):
            return index
    return None if len(got) == len(wanted) else min(len(got), len(wanted))


def _lines(output: str) -> list[str]:
    return [line.strip() for line in output.strip().split("\n")]


def _same_words(got: list[str], wanted: list[str], tolerance: float) -> bool:
    if len(got) != len(wanted):
        return False
    for a, e in zip(got, wanted, strict=True):
        if tolerance and a == e:
            continue
        x, y = _decimal(a), _decimal(e)
        if x is None or y is None:
            return False
        if x != y and not (tolerance and x.is_finite() and y.is_finite() and _near(x, y, Decimal(str(tolerance)))):
            return False
    return True


def _near(actual: Decimal, expected: Decimal, tolerance: Decimal) -> bool:
    try:
        return abs(actual - expected) <= tolerance * max(Decimal(1), abs(expected))
    except ArithmeticError:
        return False


def _decimal(word: str) -> Decimal | None:
    try:
        number = Decimal(word)
    except (InvalidOperation, ValueError):
        return None
    return None if number.is_snan() else number


def values_match(actual: object, expected: object, tolerance: float = 0.0) -> bool:
    """Whether two JSON values are equal; numbers inside them within `tolerance`, as `outputs_match` has it."""
    if isinstance(actual, list) and isinstance(expected, list):
        return len(actual) == len(expected) and all(
            values_match(a, e, tolerance) for a, e in zip(actual, expected, strict=True)
        )
    if isinstance(actual, dict) and isinstance(expected, dict):
        return actual.keys() == expected.keys() and all(
            values_match(actual[key], expected[key], tolerance) for key in expected
        )
    if tolerance and isinstance(actual, (int, float)) and isinstance(expected, (int, float)):
        with contextlib.suppress(OverflowError):
            return abs(actual - expected) <= tolerance * max(1.0, abs(expected))
    return actual == expected


def _first_difference(actual: str, expected: str, tolerance: float) -> str:
    index = _differing_line(actual, expected, tolerance)
    got, wanted = _lines(actual), _lines(expected)
    texts = [_short(lines[index]) if index < len(lines) else "no line" for lines in (wanted, got)]
    return f"line {index + 1}: expected {texts[0]}, got {texts[1]}"
