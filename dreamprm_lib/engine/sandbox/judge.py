"""Grade programs by their outputs, without trusting them: a program meets its tests only here, in the parent.

A `Sandbox` keeps a few worker processes (`worker.py`), each a Python of its own that forks one fresh child a
test.  The parent hands a program and an input to the child as open files, reads what the program writes, and compares:
expected outputs never enter a process that runs a program, and nothing of a request enters the process that forks the
next one.  `Sandbox.report` lists the layers of isolation that this kernel gave.

**What a program finds** is what a script finds that is started as `python program.py < input | judge`: standard input
is a file (it can be read again after `sys.stdin.seek(0)`), standard output and error are pipes, and the streams of
`sys` are made from them as the interpreter makes them.  They may be wrapped, replaced, reconfigured or detached.  At
the end, threads are waited for, exit handlers run, and what is left in buffers, `__del__` methods and open generators
comes out.  A byte order mark before the program is skipped.  A program may raise its recursion limit, its stack
(`RLIMIT_STACK`) and the stacks of its threads; what it uses of them counts as memory.

A slow machine is not a wrong program: CPU seconds decide, the limit is longer where plain Python runs slower, and a
program that ran out of time is run once more, alone, before that counts.

Not covered.  A `check` test (HumanEval) is code that runs in the program's process: the program can't leave before it,
fake its result by printing, or pass by objects that equal everything, but code written to attack it could.  CPU
seconds themselves grow by some ten percent on a loaded machine, so a program within that of its limit may flip.
Programs share the kernel with the grader.  Only Linux (5.3 or newer) can run the sandbox: elsewhere use WSL or a
container.
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
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from functools import cache, lru_cache
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
# Problems of these platforms come from LiveCodeBench, whose runner imports common modules before a program.
LIVECODEBENCH_PLATFORMS = ("leetcode", "atcoder", "codeforces", "livecodebench")
COMMON_MODULES = (
    "array bisect calendar cmath collections copy dataclasses datetime decimal enum fractions functools hashlib heapq "
    "io itertools json math operator os queue random re statistics string sys textwrap threading time typing"
).split()
# What a run has to do twice, the second time alone, before it counts; and as what it counts then.
_COUNTS_TWICE = {"time_limit": "time_limit", "wall_limit": "time_limit", "worker_died": "killed"}
_REFERENCE_SECONDS = 0.004  # what `time_scale` measures on the machine that the limits were chosen on
AT_ONCE = (os.cpu_count() or 1) + 1
PACKAGE = Path(__file__).resolve().parents[3]  # the folder that holds dreamprm_lib
WORKER = "dreamprm_lib.engine.sandbox.worker"
MESSAGE_BYTES, STDERR_TAIL = 1 << 16, 4000
UNDISTURBED = 0.02  # seconds that a program runs before what it writes is taken

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
    4000 bytes; `cpu` and `wall` are in seconds; `signal` names the signal that ended it ("" if none did); `result` is
    for the sandbox itself: what a called function gave.
    """

    status: str
    stdout: str
    stderr: str
    cpu: float
    wall: float
    signal: str = ""
    result: str = field(default="", repr=False)


def _check_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise InputError(f"{name}={value!r}: a sandbox needs a positive number.")


@dataclass(frozen=True)
class Limits:
    """What one test of a program may take.

    `time_limit` CPU seconds, times `time_scale()`; `wall_limit` seconds (None: 5 times the CPU seconds and 2);
    `memory_mb` above what an idle interpreter takes; `output_kb` of standard output, or four times what the expected
    output has if that is more; `processes` with threads; `modules` are installed packages that a program may import
    beside the standard library, such as ("numpy",).

    Raises `InputError` for limits that can't be.
    """

    time_limit: float = 2.0
    memory_mb: float = 512
    wall_limit: float | None = None
    output_kb: float = 1024
    processes: int = 16
    modules: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("time_limit", "memory_mb", "output_kb", "processes", "wall_limit"):
            value = getattr(self, name)
            _check_positive(name, 1 if name == "wall_limit" and value is None else value)
        if isinstance(self.modules, str) or not all(isinstance(name, str) for name in self.modules):
            raise InputError(f"modules={self.modules!r}: give a list of names of packages, such as ['numpy'].")
        object.__setattr__(self, "modules", tuple(self.modules))

    @classmethod
    def of(cls, problem: Problem | None, **changes) -> Limits:
        """The limits of the set that a problem comes from, with `changes`; those of no problem are the default ones.

        Raises `InputError` for a change that is no limit.
        """
        limits = LIVECODEBENCH if problem and problem.source in LIVECODEBENCH_PLATFORMS else cls()
        if unknown := sorted(set(changes) - set(cls.__dataclass_fields__)):
            raise InputError(f"There is no limit {unknown[0]!r}: known are {', '.join(cls.__dataclass_fields__)}.")
        return replace(limits, **changes)

    @property
    def cpu_seconds(self) -> float:
        return self.time_limit * time_scale()

    @property
    def wall_seconds(self) -> float:
        return 5 * self.cpu_seconds + 2 if self.wall_limit is None else self.wall_limit

    def output_bytes(self, expected: str) -> int:
        return max(int(self.output_kb * 1024), 4 * len(expected.encode("utf-8", "replace")))


# LiveCodeBench's own runner gives a test six seconds and has numpy; AtCoder's problems allow a gigabyte.
LIVECODEBENCH = Limits(time_limit=6.0, memory_mb=1024, modules=("numpy",))


@dataclass(frozen=True)
class _Request:
    """One run that is asked of a worker: a program, its input, and, apart from both, the call that follows it.

    `kind` is that of the test and `entry` the function to be called; `call` is a nonce and the arguments;
    `output_bytes` is the most that the program may write; `limits` are those that its worker has to have.
    """

    limits: Limits
    output_bytes: int
    code: str
    stdin: str = ""
    given: bool = False
    kind: str = "stdin"
    entry: str = ""
    call: bytes = b""

    def text(self) -> bytes:
        return f"{'given' if self.given else ''} {self.kind} {self.entry}\n{self.code}".encode("utf-8", "surrogatepass")

    def modules(self) -> tuple[str, ...]:
        """What the worker loads before it forks: of a program it learns no more than this."""
        known = (*COMMON_MODULES, *self.limits.modules)
        return known if self.given else _named(self.code, known)


@lru_cache
def _named(code: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name in code)


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

    `workers` programs run at once (by default one more than cores, so that none waits for this process).  Each test has
    the `Limits` of the problem set that its problem comes from; `changes` are limits for all of them, by name, such as
    `time_limit=4.0`.  `without` switches layers of isolation off, by the names in `LAYERS`.

    Nothing is started before the first program.  Raises `InputError` for settings that can't be.
    """

    def __init__(self, workers: int = AT_ONCE, *, without: Sequence[str] = (), **changes):
        _check_positive("workers", workers)
        if unknown := sorted(set(without) - set(LAYERS)):
            raise InputError(f"There is no layer {unknown[0]!r} to do without: known are {', '.join(LAYERS)}.")
        if not sys.platform.startswith("linux"):
            raise SandboxError(f"The sandbox needs Linux, not {sys.platform}: use WSL, or run this in a container.")
        self._changes = changes
        _find_modules(Limits.of(None, **changes).modules)
        self._workers = [_Worker(without) for _ in range(int(workers))]
        self._lock = threading.RLock()

    def grade(self, items: Sequence[tuple[Problem, str]], progress: bool = False) -> list[Verdict]:
        """The verdicts of (problem, program) pairs, in their order; a program stops at its first failing test.

        A pair that appears twice is graded once.  `progress` shows a bar.
        Raises `InputError` for a pair that is none, or a problem that can't be graded.
        """
        unique = dict.fromkeys(_checked_pair(item, number) for number, item in enumerate(items))
        for problem in dict.fromkeys(problem for problem, _ in unique):
            _check_problem(problem)
        jobs = [_grading(problem, code, Limits.of(problem, **self._changes)) for problem, code in unique]
        verdicts = dict(zip(unique, self._drive(jobs, progress), strict=True))
        return [verdicts[problem, code] for problem, code in items]

    def run(self, items: Sequence[tuple[str, str]], progress: bool = False) -> list[Execution]:
        """Run (program, standard input) pairs, in their order, without grading.

        Raises `InputError` for a pair that is none.
        """
        jobs, limits = [], Limits.of(None, **self._changes)
        for number, item in enumerate(items):
            if not (isinstance(item, (tuple, list)) and len(item) == 2 and all(isinstance(t, str) for t in item)):
                raise InputError(f"items[{number}] is {_short(item)}: `run` takes pairs (program text, input text).")
            jobs.append(_running(_Request(limits, limits.output_bytes(""), *item)))
        return self._drive(jobs, progress)

    def report(self) -> dict[str, str | bool]:
        """The layers of isolation that are on: True, False, or their degree as text.  Starts a worker if none is."""
        with self._lock:
            self._workers[0].start(self._workers[0].limits or Limits.of(None, **self._changes))
            return dict(self._workers[0].layers)

    def close(self) -> None:
        """End the workers and all that runs in them.  A closed sandbox starts again when it is used."""
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

        def ask(index: int, job: _Job, request: _Request) -> None:
            worker = next((w for w in idle if w.limits == request.limits), idle[-1])
            idle.remove(worker)
            worker.ask(request)
            busy[worker] = (index, job, request)

        def proceed(index: int, job: _Job, execution: Execution | None) -> None:
            try:
                ask(index, job, job.send(execution))
            except StopIteration as end:
                results[index] = end.value
                bar.update()

        while waiting or busy:
            while waiting and idle:
                index, job, request = waiting.popleft()
                if request is None:
                    proceed(index, job, None)
                else:
                    ask(index, job, request)
            for worker in _calling(busy):
                if (execution := worker.look()) is None:
                    continue
                index, job, request = busy.pop(worker)
                idle.append(worker)
                if execution.status in _COUNTS_TWICE and again is not None:
                    again.append((index, job, request))
                else:
                    status = _COUNTS_TWICE.get(execution.status, execution.status)
                    proceed(index, job, replace(execution, status=status))


def _calling(busy: Iterable[_Worker]) -> set[_Worker]:
    """Wait; returns the workers from which or from whose programs something came, or that are long overdue."""
    if not busy:
        return set()
    poll, whose, now = select.poll(), {}, time.monotonic()
    for worker in busy:
        for file in worker.files(now):
            poll.register(file, select.POLLIN)
            whose[file] = worker
    first = min(worker.overdue if worker.disturbed <= now else worker.disturbed for worker in busy)
    told = poll.poll(max(math.ceil(1000 * (first - now)), 0))
    return {whose[file] for file, _ in told} or {w for w in busy if w.overdue <= time.monotonic()}


class _Worker:
    """The parent's end of a worker process, and of the program that runs there.

    The process is started when it is needed, and again after a death or for other limits.
    """

    def __init__(self, without: Sequence[str]):
        self.without = list(without)
        self.limits: Limits | None = None
        self.layers: dict[str, str | bool] = {}
        self.disturbed = self.overdue = math.inf
        self._channel: socket.socket | None = None
        self._errors: IO[bytes] | None = None
        self._end: weakref.finalize | None = None
        self._program: _Program | None = None

    def start(self, limits: Limits) -> None:
        """Start the process unless it runs with these limits; raises `SandboxError` if it can't be had."""
        if self._channel is not None and self.limits == limits:
            return
        self.stop()
        self.limits = limits
        # With a fixed seed, sets are printed in the same order every time.  No fork takes numpy's threads along.
        environment = {"PYTHONHASHSEED": "0", "PYTHONPATH": os.fspath(PACKAGE), "OPENBLAS_NUM_THREADS": "1"}
        environment |= {k: v for k, v in os.environ.items() if k == "LD_LIBRARY_PATH"}
        self._errors = tempfile.TemporaryFile()
        self._channel, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        process = subprocess.Popen(
            [sys.executable, "-B", "-P", "-s", "-S", "-X", "utf8", "-m", WORKER],
            stdin=theirs, stdout=subprocess.DEVNULL, stderr=self._errors, cwd="/", env=environment,
            start_new_session=True,
        )  # fmt: skip
        theirs.close()
        folder: list[str] = []
        self._end = weakref.finalize(self, _end_worker, self._channel, process, folder, os.getpid())
        self._channel.settimeout(60)
        try:
            self._channel.send(json.dumps(self._settings()).encode())
            hello = json.loads(self._channel.recv(MESSAGE_BYTES))
        except (OSError, ValueError) as error:
            said = self._last_words()
            self.stop()
            raise SandboxError(f"A worker of the sandbox did not start ({error!r}). It said: {said}") from error
        self._channel.setblocking(False)
        self.layers = hello["layers"]
        folder.append(hello["folder"])
        _warn_of_missing(self.layers, self.without)

    def _settings(self) -> dict:
        return {
            "time_limit": self.limits.cpu_seconds,
            "wall_limit": self.limits.wall_seconds,
            "memory_bytes": int(self.limits.memory_mb * 2**20),
            "processes": int(self.limits.processes),
            "without": self.without,
            **_find_modules(self.limits.modules),
        }

    def ask(self, request: _Request) -> None:
        """Have a program run.  A worker that died meanwhile is started again."""
        self.start(request.limits)
        self._program = _Program(request)
        try:
            self._program.send(self._channel)
        except OSError:
            self.stop()
            self.start(request.limits)
            self._program = _Program(request)
            self._program.send(self._channel)
        self.disturbed = time.monotonic() + UNDISTURBED
        self.overdue = self.disturbed + request.limits.wall_seconds + 30

    def files(self, now: float) -> list[int]:
        """Where something comes when it is time to `look`.

        Most programs end at once, and their output waits in the pipes: to be woken for each part of it costs more.
        """
        program = self._program.files
        awaited = program if now >= self.disturbed else program.keys() & {"link"}
        return [self._channel.fileno(), *(program[name] for name in awaited)]

    def look(self) -> Execution | None:
        """Take what came from the program, and how it went once the worker reports its end.

        The status is `worker_died` if there is no worker to tell.
        """
        self._program.look()
        overdue = time.monotonic() >= self.overdue
        try:
            reply = self._channel.recv(MESSAGE_BYTES)
        except BlockingIOError:
            if not overdue:
                return None
            reply = b""
        except OSError:
            reply = b""
        if not reply:
            what = "did not answer" if overdue else "ended in the middle of a program"
            log.warning("A worker of the sandbox %s. %s", what, self._last_words())
            self.stop()
            return Execution("worker_died", "", f"the worker that ran it {what}", 0.0, 0.0)
        program, self._program = self._program, None
        return program.end(json.loads(reply))

    def stop(self) -> None:
        """End the process, and with it all that runs in it."""
        if self._end is not None:
            self._end()
            self._errors.close()
        if self._program is not None:
            self._program.close()
        self._channel, self._end, self._program = None, None, None

    def _last_words(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-2000:].decode("utf-8", "replace").strip()


class _Program:
    """A program while it runs: the files that it is given, what it writes, and the call that it asks for."""

    def __init__(self, request: _Request):
        self.request = request
        self.file = _file_in_memory(request.text())
        self.called = False
        self.files: dict[str, int] = {}  # where it writes to, seen from here
        self.written = {"out": bytearray(), "err": bytearray(), "link": bytearray()}
        self.theirs = [_file_in_memory(request.stdin.encode("utf-8", "replace"))]
        for name in ("out", "err"):
            self.files[name], theirs = os.pipe()
            os.fchmod(theirs, 0o666)  # so that another user can open /dev/stdout
            self.theirs.append(theirs)
        if request.call:
            self.files["link"], theirs = (end.detach() for end in socket.socketpair())
            self.theirs.append(theirs)
        for file in self.files.values():
            os.set_blocking(file, False)

    def send(self, channel: socket.socket) -> None:
        """Hand the program over to a worker."""
        names = json.dumps(self.request.modules()).encode()
        socket.send_fds(channel, [names], [self.file, *self.theirs])
        while self.theirs:
            os.close(self.theirs.pop())

    def look(self) -> None:
        """Take what is there, a part of each: a program that writes without end must not keep this process busy."""
        for name in list(self.files):
            self._take(name)
        if self.written["link"] and not self.called and "link" in self.files:
            self.called = True
            _fill(self.file, self.request.call)
            with contextlib.suppress(OSError):
                os.write(self.files["link"], b"!")

    def _take(self, name: str) -> bool:
        """Take up to 64 KB that the program wrote; False if there is nothing more."""
        try:
            data = os.read(self.files[name], 1 << 16)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        self.written[name] += data
        if name == "err":
            del self.written[name][:-STDERR_TAIL]
        if data and not self._too_much(name):
            return True
        os.close(self.files.pop(name))
        return False

    def _too_much(self, name: str) -> bool:
        return len(self.written[name]) > self.request.output_bytes

    def end(self, told: dict) -> Execution:
        """The whole execution, from what the worker told."""
        for name in list(self.files):
            while self._take(name):
                pass
        confined = os.lseek(self.file, 0, os.SEEK_CUR) > 0  # what a child does once it is shut in is to read this file
        self.close()
        most = self.request.output_bytes
        out, err, link = (self.written[name][:most].decode("utf-8", "replace") for name in ("out", "err", "link"))
        if told["status"] == "runtime_error" and not confined:
            raise SandboxError(f"A program could not be shut in, and was not run: {err.strip()}")
        if self._too_much("out") or self._too_much("link"):
            told["status"] = "output_limit"
        return Execution(**told, stdout=out, stderr=err, result=link[1:])

    def close(self) -> None:
        for file in (self.file, *self.files.values(), *self.theirs):
            os.close(file)


def _file_in_memory(data: bytes) -> int:
    """An open file without a name that holds `data`, at its start."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("file")
    else:  # a Python that was built for an old C library
        with tempfile.TemporaryFile() as opened:
            file = os.dup(opened.fileno())
    _fill(file, data)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _fill(file: int, data: bytes) -> None:
    os.lseek(file, 0, os.SEEK_SET)
    os.ftruncate(file, 0)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


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


def _grading(problem: Problem, code: str, limits: Limits) -> _Job:
    """Run a program on the tests of its problem up to the first that fails; returns the verdict."""
    slowest = 0.0
    for index, test in enumerate(problem.tests):
        nonce = secrets.token_hex(16)
        execution = yield _request_for(problem, test, code, nonce, limits)
        slowest = max(slowest, execution.cpu)
        if problem.checker and test.kind == "stdin" and execution.status == "ok":
            kind, detail = yield from _asking_the_checker(problem, test, execution.stdout, limits)
        else:
            kind, detail = _judge(problem, test, execution, nonce, limits)
        if kind != "passed":
            return Verdict(kind, slowest, index, detail)
    return Verdict("passed", slowest)


def _asking_the_checker(
    problem: Problem, test: Test, output: str, limits: Limits
) -> Generator[_Request, Execution, tuple[str, str]]:
    """Let the problem's checker look at an output, in a process of its own; a checker that raises refuses it."""
    nonce = secrets.token_hex(16)
    arguments = "\n".join(json.dumps(text) for text in (test.input, output, test.output))
    call = (nonce + arguments).encode()
    execution = yield _Request(limits, limits.output_bytes(""), problem.checker, "", False, "functional", "check", call)
    if execution.result == nonce + "true":
        return "passed", ""
    return "wrong_answer", f"the checker refuses {_short(output.strip())} {_last_lines(execution.stderr, 1)}".strip()


def _request_for(problem: Problem, test: Test, code: str, nonce: str, limits: Limits) -> _Request:
    given = problem.source in LIVECODEBENCH_PLATFORMS
    output_bytes = limits.output_bytes(test.output)
    if test.kind == "stdin":
        return _Request(limits, output_bytes, code, test.input, given)
    if test.kind == "check":
        code = _behind_the_prompt(problem, code)
    call = (nonce + test.input).encode("utf-8", "surrogatepass")
    given = given or test.kind == "functional"
    return _Request(limits, output_bytes, code, "", given, test.kind, problem.entry_point, call)


def _behind_the_prompt(problem: Problem, code: str) -> str:
    """A program with the imports and helpers of its problem's prompt in front: it may use them without writing them
    again.  Imports from `__future__`, which Python wants first, lead the whole."""
    given = re.split(rf"^(?=def {problem.entry_point}\b)", problem.starter_code, maxsplit=1, flags=re.MULTILINE)[0]
    if not given.strip():
        return code
    future = re.compile(r"^from __future__ import .*$", re.MULTILINE)
    return "\n".join([*future.findall(code), given, future.sub("", code)])


def _judge(problem: Problem, test: Test, execution: Execution, nonce: str, limits: Limits) -> tuple[str, str]:
    """The kind of verdict on one test, and its detail."""
    if execution.status != "ok":
        return execution.status, _reason(execution, limits, limits.output_bytes(test.output))
    if test.kind == "stdin":
        if outputs_match(execution.stdout, test.output, problem.tolerance):
            return "passed", ""
        return "wrong_answer", _first_difference(execution.stdout, test.output, problem.tolerance)
    if not execution.result.startswith(nonce):
        return "runtime_error", "the program ended before its function was called and had returned"
    if test.kind == "check":
        return "passed", ""
    result = execution.result[len(nonce) :]
    try:
        if values_match(_read_json(result), _read_json(test.output), problem.tolerance):
            return "passed", ""
    except (ValueError, RecursionError) as error:
        return "wrong_answer", f"the result can't be read: {error}"
    return "wrong_answer", f"expected {_cut(test.output)}, got {_cut(result)}"


def _read_json(text: str) -> object:
    """JSON, with integers of any length: the interpreter's limit to their digits is not that of an answer."""
    return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 4300 else int(Decimal(digits)))


def _last_lines(stderr: str, lines: int = 4) -> str:
    return "\n".join(stderr.strip().splitlines()[-lines:])[-400:]


def _reason(execution: Execution, limits: Limits, output_bytes: int) -> str:
    """Why a run failed, for a verdict's detail."""
    reasons = {
        "time_limit": f"{execution.cpu:.2f} CPU seconds of {limits.cpu_seconds} in {execution.wall:.2f} seconds of "
        f"{limits.wall_seconds}",
        "memory_limit": f"more than {limits.memory_mb} MB",
        "output_limit": f"more than {output_bytes >> 10} KB of output",
        "killed": f"killed by {execution.signal}" if execution.signal else _last_lines(execution.stderr),
    }
    return reasons.get(execution.status) or _last_lines(execution.stderr)


def _short(value: object) -> str:
    return _cut(repr(value))


def _cut(text: str, width: int = 80) -> str:
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
    try:
        _checked_tolerance(problem.tolerance)
    except InputError as error:
        raise InputError(f"The problem {problem.id!r} can't be graded: {error}") from error
    for index, test in enumerate(problem.tests):
        where = f"The problem {problem.id!r}, test {index},"
        if test.kind not in ("stdin", "functional", "check"):
            raise InputError(f"{where} is of kind {test.kind!r}: known are stdin, functional and check.")
        if test.kind != "stdin" and not problem.entry_point:
            raise InputError(f"{where} calls a function, but the problem has no `entry_point`.")
        if test.kind == "functional":
            try:
                _read_json(test.output)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where} expects {_short(test.output)}, which is not JSON ({error}).") from error


# --- Comparison -------------------------------------------------------------------------------------------------------


def outputs_match(actual: str, expected: str, tolerance: float = 0.0) -> bool:
    """Whether two outputs are the same answer, as LiveCodeBench compares them.

    Blanks around the output and around each line don't matter; there must be as many lines; a line is right if it is
    the same text, or if both are numbers throughout and equal as decimals (1.0 is 1).  With a `tolerance` t, a line
    is also right if each pair of its words is the same text or two numbers with `|a - e| <= t * max(1, |e|)`; infinity
    is then near itself alone, and so is NaN.  Raises `InputError` for a tolerance that is no finite number from 0 on.
    """
    return _differing_line(actual, expected, _checked_tolerance(tolerance)) is None


def _checked_tolerance(tolerance: float) -> float:
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 <= tolerance < math.inf:
        raise InputError(f"tolerance is {tolerance!r}: it has to be a finite number, 0 (exact) or greater.")
    return tolerance


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
        if x is None or y is None or not (x == y or (tolerance and _near(x, y, tolerance))):
            return False
    return True


def _near(actual: Decimal, expected: Decimal, tolerance: float) -> bool:
    if not (actual.is_finite() and expected.is_finite()):
        return actual == expected or (actual.is_nan() and expected.is_nan())
    try:
        return abs(actual - expected) <= Decimal(str(tolerance)) * max(Decimal(1), abs(expected))
    except ArithmeticError:
        return False


def _decimal(word: str) -> Decimal | None:
    try:
        number = Decimal(word)
    except (InvalidOperation, ValueError):
        return None
    return None if number.is_snan() else number


def values_match(actual: object, expected: object, tolerance: float = 0.0) -> bool:
    """Whether two JSON values are equal; numbers inside them within `tolerance`, as `outputs_match` has it.

    NaN, which JSON does not have and Python's reader takes, is equal to itself.
    """
    _checked_tolerance(tolerance)
    if isinstance(actual, list) and isinstance(expected, list):
        return len(actual) == len(expected) and all(
            values_match(a, e, tolerance) for a, e in zip(actual, expected, strict=True)
        )
    if isinstance(actual, dict) and isinstance(expected, dict):
        return actual.keys() == expected.keys() and all(
            values_match(actual[key], expected[key], tolerance) for key in expected
        )
    if actual == expected:
        return True
    if not (isinstance(actual, (int, float)) and isinstance(expected, (int, float))):
        return False
    both_nan = actual != actual and expected != expected
    return both_nan or (tolerance > 0 and _near(Decimal(actual), Decimal(expected), tolerance))


def _first_difference(actual: str, expected: str, tolerance: float) -> str:
    index = _differing_line(actual, expected, tolerance)
    got, wanted = _lines(actual), _lines(expected)
    texts = [_short(lines[index]) if index < len(lines) else "no line" for lines in (wanted, got)]
    return f"line {index + 1}: expected {texts[0]}, got {texts[1]}"
