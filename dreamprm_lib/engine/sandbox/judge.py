"""Grade programs by their outputs, without trusting them: a program meets its tests only here, in the parent.

A `Sandbox` keeps a few worker processes (`worker.py`), each a Python of its own that forks one fresh child a test.
The parent hands a program and an input to the child as open files, reads what the program writes, and compares:
expected outputs never enter a process that runs a program, and nothing of a request enters the process that forks the
next one.  `Sandbox.report` lists the layers of isolation that this kernel gave.

A slow machine is not a wrong program: CPU seconds decide, the limit is longer where plain Python runs slower, and a
program that ran out of time is run once more, alone, before that counts.

Not covered.  A `check` test (HumanEval) is code that runs in the program's process: the program can't leave before it,
fake its result by printing, or pass by objects that equal everything, but code written to attack it could.  CPU
seconds themselves grow by some ten percent on a loaded machine, so a program within that of its limit may flip.
Programs share the kernel with the grader.

The sandbox needs Linux, 5.3 or newer, and no special rights; elsewhere `SandboxError` names a container to work in.
In a container that gives no namespaces (Docker's default, Kubernetes) the other layers hold, among them Landlock and
seccomp.
"""

import contextlib
import importlib.util
import json
import logging
import os
import platform
import queue
import secrets
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache, partial
from pathlib import Path
from typing import IO, Any, TypeVar

from tqdm.auto import tqdm

from dreamprm_lib.engine.files import DATA
from dreamprm_lib.engine.problem import Problem, Test
from dreamprm_lib.engine.sandbox.verdicts import (
    Execution,
    Limits,
    RunRequest,
    Verdict,
    check_pair,
    check_problem,
    judged,
    judged_by_checker,
    request_for,
    request_to_checker,
)
from dreamprm_lib.errors import InputError, SandboxError

LAYERS = (
    "user namespace", "mount namespace", "pid namespace", "network namespace", "private root", "unprivileged user",
    "resource limits", "no capabilities", "no new privileges", "landlock", "seccomp",
)  # fmt: skip
COUNTS_TWICE = ("time_limit", "killed")  # what a run has to do twice, the second time alone, before it counts
AT_ONCE = (os.cpu_count() or 1) + 1
PACKAGE = Path(__file__).resolve().parents[3]  # the folder that holds dreamprm_lib
WORKER = "dreamprm_lib.engine.sandbox.worker"
MESSAGE_BYTES, STDERR_TAIL = 1 << 16, 4000
MACHINES = ("x86_64", "aarch64")  # whose system calls are known, as in `data/refused_calls.toml`
CONTAINER = 'docker run --rm -it -v "$PWD":/dreamprm -w /dreamprm python:3.11 bash'

log = logging.getLogger(__name__)
Result = TypeVar("Result")
Run = Callable[[RunRequest], Execution]


class Sandbox(contextlib.AbstractContextManager["Sandbox"]):
    """Runs and grades programs.  Use as a context manager, or call `close`.

    `workers` programs run at once (by default one more than cores, so that none waits for this process).  Each test has
    the `Limits` of the problem set that its problem comes from; `changes` are limits for all of them, by name, such as
    `time_limit=4.0`.  `without` switches layers of isolation off, by the names in `LAYERS`.

    Nothing is started before the first program.  Raises `InputError` for settings that can't be, and `SandboxError`
    on another system than Linux.
    """

    def __init__(self, workers: int = AT_ONCE, *, without: Sequence[str] = (), **changes: Any):
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise InputError(f"workers={workers!r}: a sandbox needs a positive number of workers.")
        if unknown := sorted(set(without) - set(LAYERS)):
            raise InputError(f"There is no layer {unknown[0]!r} to do without: known are {', '.join(LAYERS)}.")
        if not sys.platform.startswith("linux") or platform.machine() not in MACHINES:
            raise SandboxError(
                f"The sandbox needs Linux on {' or '.join(MACHINES)}, not {sys.platform} on {platform.machine()}. Use "
                f"WSL 2 on Windows, or a container: {CONTAINER}"
            )
        self._changes = changes
        _find_modules(Limits.of(None, **changes).modules)
        self._workers = [_Worker(without) for _ in range(workers)]
        self._lock = threading.RLock()

    def grade(self, items: Sequence[tuple[Problem, str]], progress: bool = False) -> list[Verdict]:
        """The verdicts of (problem, program) pairs, in their order; a program stops at its first failing test.

        A pair that appears twice is graded once.  `progress` shows a bar.
        Raises `InputError` for a pair that is none, or a problem that can't be graded.
        """
        for number, item in enumerate(items):
            check_pair(item, (Problem, str), f"items[{number}]")
        limits = {problem: self._limits(problem) for problem in dict.fromkeys(problem for problem, _ in items)}
        for problem in limits:
            check_problem(problem)
        # A worker starts again for other limits, so programs with the same ones come one after the other.
        unique = dict.fromkeys((problem, code) for problem, code in items)
        pairs = sorted(unique, key=lambda pair: repr(limits[pair[0]]))
        jobs = [partial(_graded, problem, code, limits[problem]) for problem, code in pairs]
        verdicts = dict(zip(pairs, self._carry_out(jobs, progress), strict=True))
        return [verdicts[problem, code] for problem, code in items]

    def run(
        self, items: Sequence[tuple[str, str]], problem: Problem | None = None, progress: bool = False
    ) -> list[Execution]:
        """Run (program, input) pairs, in their order, without grading.

        With a `problem`, programs have its limits, and where it asks for a function the input is its arguments (one in
        JSON a line), and `Execution.result` what it returned; otherwise the input is standard input.
        Raises `InputError` for a pair that is none.
        """
        for number, item in enumerate(items):
            check_pair(item, (str, str), f"items[{number}]")
        limits = self._limits(problem)
        if problem is None:
            requests = [RunRequest(limits, limits.output_bytes(), code, text) for code, text in items]
        else:
            kind = "functional" if problem.entry_point else "stdin"
            requests = [request_for(problem, Test(text, "", kind), code, limits) for code, text in items]

        def job(request: RunRequest, run: Run) -> Execution:
            return run(request)

        return self._carry_out([partial(job, request) for request in requests], progress)

    def report(self) -> dict[str, str | bool]:
        """The layers of isolation that are on: True, False, or their degree as text.  Starts a worker if none is."""
        with self._lock:
            self._workers[0].start(self._workers[0].limits or self._limits(None))
            return dict(self._workers[0].layers)

    def close(self) -> None:
        """End the workers and all that runs in them.  A closed sandbox starts again when it is used."""
        with self._lock:
            for worker in self._workers:
                worker.stop()

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _limits(self, problem: Problem | None) -> Limits:
        return Limits.of(problem, **self._changes)

    def _carry_out(self, jobs: Sequence[Callable[[Run], Result]], progress: bool) -> list[Result]:
        """What the jobs return, in their order.  Each gets a function by which it runs programs on a worker.

        A job with a run `InDoubt` goes on by itself when all others are done.
        """
        results: dict[int, Result] = {}
        idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            idle.put(worker)

        def beside_others(job: Callable[[Run], Result]) -> Result:
            worker = idle.get()

            def run(request: RunRequest) -> Execution:
                execution = worker.run(request)
                if execution.status in COUNTS_TWICE:
                    raise InDoubt
                return execution

            try:
                return job(run)
            finally:
                idle.put(worker)

        with self._lock, tqdm(total=len(jobs), desc="running", unit="program", disable=not progress) as bar:
            threads = ThreadPoolExecutor(len(self._workers))
            try:
                futures = {threads.submit(beside_others, job): index for index, job in enumerate(jobs)}
                for future in as_completed(futures):
                    if not isinstance(future.exception(), InDoubt):
                        results[futures[future]] = future.result()
                        bar.update()
                for index in sorted(set(range(len(jobs))) - set(results)):
                    results[index] = jobs[index](self._workers[0].run)
                    bar.update()
            except BaseException:
                for worker in self._workers:
                    worker.give_up()
                threads.shutdown(cancel_futures=True)
                self.close()
                raise
            threads.shutdown()
        return [results[index] for index in range(len(jobs))]


class InDoubt(Exception):
    """A run took too long, or was killed: it counts only when it was done once more, alone."""


def _graded(problem: Problem, code: str, limits: Limits, run: Run) -> Verdict:
    """The verdict on a program."""
    seconds = 0.0
    for index, test in enumerate(problem.tests):
        execution = run(request_for(problem, test, code, limits))
        if problem.checker and test.kind == "stdin" and execution.status == "ok":
            said = run(request_to_checker(problem, test, execution.stdout, limits))
            kind, detail = judged_by_checker(execution.stdout, said)
        else:
            kind, detail = judged(problem, test, execution, limits)
        seconds = max(seconds, execution.cpu)
        if kind != "passed":
            return Verdict(kind, seconds, index, detail)
    return Verdict("passed", seconds)


class _Worker:
    """The parent's end of a worker process.

    The process is started when it is needed, and again after a death or for other limits.
    """

    def __init__(self, without: Sequence[str]):
        self.without = list(without)
        self.limits: Limits | None = None
        self.layers: dict[str, str | bool] = {}
        self._channel: socket.socket | None = None
        self._errors: IO[bytes] | None = None
        self._end: weakref.finalize | None = None

    def start(self, limits: Limits) -> socket.socket:
        """The channel to the process, which is started unless it runs with these limits.

        Raises `SandboxError` if it can't be had.
        """
        if self._channel is not None and self.limits == limits:
            return self._channel
        self.stop()
        # With a fixed seed, sets are printed in the same order every time.  No fork takes numpy's threads along.
        environment = {"PYTHONHASHSEED": "0", "PYTHONPATH": os.fspath(PACKAGE), "OPENBLAS_NUM_THREADS": "1"}
        environment |= {k: v for k, v in os.environ.items() if k == "LD_LIBRARY_PATH"}
        errors = tempfile.TemporaryFile()
        channel, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        process = subprocess.Popen(
            [sys.executable, "-B", "-P", "-s", "-S", "-X", "utf8", "-m", WORKER],
            stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=errors, cwd="/", env=environment,
            start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self.limits, self._channel, self._errors = limits, channel, errors
        self._end = weakref.finalize(self, _end_worker, channel, errors, process)
        settings = {
            "time_limit": limits.cpu_seconds,
            "wall_limit": limits.wall_seconds,
            "memory_bytes": int(limits.memory_mb * 2**20),
            "refused_calls": _refused_calls(),
            "without": self.without,
            "modules": limits.modules,
            **_find_modules(limits.modules),
        }
        channel.settimeout(60)
        try:
            channel.send(json.dumps(settings).encode())
            self.layers = json.loads(channel.recv(MESSAGE_BYTES))
        except (OSError, ValueError) as error:
            said = self._last_words()
            self.stop()
            raise SandboxError(f"A worker of the sandbox did not start ({error!r}). It said: {said}") from error
        channel.setblocking(False)
        _warn_of_missing(tuple(name for name, on in self.layers.items() if not on and name not in self.without))
        return channel

    def run(self, request: RunRequest) -> Execution:
        """A run by the process, which is started again if it has died; `killed` is what it can't tell of any more."""
        channel, program = self.start(request.limits), _Program(request)
        try:
            try:
                program.send(channel)
            except OSError:
                self.stop()
                channel = self.start(request.limits)
                program.send(channel)
            if reply := self._reply(channel, program):
                return program.end(json.loads(reply))
        finally:
            program.close()
        said = f"{self._last_words()}\nthe worker that ran it ended in the middle of a program, or did not answer"
        self.stop()
        return Execution("killed", "", said, 0.0, 0.0)

    @staticmethod
    def _reply(channel: socket.socket, program: "_Program") -> bytes:
        """What the worker says of the program's end; b"" if it has ended itself, or is long overdue."""
        overdue = time.monotonic() + program.request.limits.wall_seconds + 30
        while (left := overdue - time.monotonic()) > 0:
            poll = select.poll()
            for file in (channel.fileno(), *program.files.values()):
                poll.register(file, select.POLLIN)
            poll.poll(1000 * left)
            program.look()
            try:
                return channel.recv(MESSAGE_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                break
        return b""

    def give_up(self) -> None:
        """Have the process end, and with it what another thread waits for; `stop` comes after that."""
        if self._channel is not None:
            self._channel.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """End the process, and with it all that runs in it."""
        if self._end is not None:
            self._end()
        self._channel, self._end, self._errors = None, None, None

    def _last_words(self) -> str:
        if self._errors is None:
            return ""
        self._errors.seek(0)
        return self._errors.read()[-2000:].decode("utf-8", "replace").strip()


class _Program:
    """A program while it runs: the files that it is given, what it writes, and the call that it asks for."""

    def __init__(self, request: RunRequest):
        self.request = request
        self.file = _file_in_memory(request.text())
        self.nonce = secrets.token_hex(16) if request.entry else ""  # by which a result shows that the call was made
        self.called = False
        self.files: dict[str, int] = {}  # where it writes to, seen from here
        self.written = {"out": bytearray(), "err": bytearray(), "link": bytearray()}
        self.theirs = [_file_in_memory(request.stdin.encode("utf-8", "replace"))]
        for name in ("out", "err"):
            self.files[name], theirs = os.pipe()
            os.fchmod(theirs, 0o666)  # so that another user can open /dev/stdout
            self.theirs.append(theirs)
        if request.entry:
            self.files["link"], theirs = (end.detach() for end in socket.socketpair())
            self.theirs.append(theirs)
        for file in self.files.values():
            os.set_blocking(file, False)

    def send(self, channel: socket.socket) -> None:
        """Hand the program over to a worker."""
        socket.send_fds(channel, [b"!"], [self.file, *self.theirs])
        while self.theirs:
            os.close(self.theirs.pop())

    def look(self) -> None:
        """Take what is there, a part of each: a program that writes without end must not keep this process busy."""
        for name in list(self.files):
            self._take(name)
        if self.written["link"] and not self.called and "link" in self.files:
            self.called = True
            os.ftruncate(self.file, 0)
            os.pwrite(self.file, (self.nonce + self.request.arguments).encode("utf-8", "surrogatepass"), 0)
            with contextlib.suppress(OSError):  # the program may have closed its end
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
        most = self.request.output_bytes
        out, err, link = (self.written[name][:most].decode("utf-8", "replace") for name in ("out", "err", "link"))
        if told["status"] == "runtime_error" and not confined:
            raise SandboxError(f"A program could not be shut in, and was not run: {err.strip()}")
        if self._too_much("out") or self._too_much("link"):
            told["status"] = "output_limit"
        elif told["status"] == "ok" and not link[1:].startswith(self.nonce):
            told["status"], err = "runtime_error", "the program ended before its function was called and had returned"
        return Execution(**told, stdout=out, stderr=err, result=link[1:].removeprefix(self.nonce))

    def close(self) -> None:
        for file in (self.file, *self.files.values(), *self.theirs):
            os.close(file)


def _file_in_memory(data: bytes) -> int:
    """An open file without a name that holds `data`, at its start."""
    file = os.memfd_create("file", 0)
    os.pwrite(file, data, 0)
    return file


def _end_worker(channel: socket.socket, errors: IO[bytes], process: subprocess.Popen) -> None:
    """Close the channel, on which a worker ends by itself; kill one that does not."""
    channel.close()
    errors.close()
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@cache
def _refused_calls() -> list[int]:
    """The numbers that the system calls of `data/refused_calls.toml` have on this machine."""
    table = tomllib.loads((DATA / "refused_calls.toml").read_text("utf-8"))
    numbers = [call[MACHINES.index(platform.machine())] for call in table.values()]
    return [number for number in numbers if number >= 0]


@cache
def _warn_of_missing(layers: tuple[str, ...]) -> None:
    """Say once what this machine lacks."""
    if layers:
        log.warning(
            "The sandbox runs without %s: this kernel or this user does not have it. Grade only programs that you "
            "would run yourself, or use Linux with user namespaces, Landlock and seccomp.", ", ".join(layers),
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
    return {"module_folders": list(dict.fromkeys(folders)), "packages": packages}
