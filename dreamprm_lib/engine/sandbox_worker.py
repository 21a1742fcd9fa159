"""The process that runs programs for `sandbox.py`: it forks one fresh child a test and tells how the child ended.

`Sandbox` starts this module in an interpreter of its own that holds nothing of the grader.  The worker imports common
modules, closes itself in (`sandbox_layers.py`), then answers requests from the socket on its standard input until that
closes.  A child shuts itself in further and becomes the program.

Not covered: secrets of a `check` test, whose text has to enter the program's process (it comes only after the program's
own top level ran, but a program written to beat its check can read it then).
"""

from __future__ import annotations

import _io
import _signal
import atexit
import builtins
import contextlib
import fcntl
import gc
import importlib
import json
import linecache
import math
import os
import select
import signal
import site
import socket
import sys
import time
import traceback
import types

from dreamprm_lib.engine.sandbox_layers import Cell, is_first_in_namespace, remove_tree

COMMON_MODULES = (
    "array bisect calendar cmath collections copy dataclasses datetime decimal enum fractions functools hashlib heapq "
    "io itertools json math operator os queue random re statistics string sys textwrap threading time typing"
).split()

# What LiveCodeBench's own runner imports before a program, in its order: a later star import hides an earlier one.
GIVEN_MODULES = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json"
).split()
GIVEN_IMPORTS = "".join(
    [f"from {name} import *\n" for name in [*GIVEN_MODULES, "builtins", "typing"]]
    + [f"import {name}\n" for name in GIVEN_MODULES]
)
GIVEN_RECURSION_LIMIT = 50_000

# How a child tells what became of the program, by its exit status.
OK, RUNTIME_ERROR, SYNTAX_ERROR, MEMORY_LIMIT, WRONG_ANSWER = 0, 1, 101, 102, 103
KINDS = {
    OK: "ok",
    SYNTAX_ERROR: "syntax_error",
    MEMORY_LIMIT: "memory_limit",
    WRONG_ANSWER: "wrong_answer",
}

CONFINED = b"\1"  # what a child says once it is shut in, and before the program starts

NONCE_BYTES = 32
UNDISTURBED = 0.02  # seconds that a program runs before what it writes is taken
STDERR_TAIL = 4000


# --- Talking: a frame is four bytes of length and that many bytes -----------------------------------------------------

# A child pays for every page that it writes to.  So the worker loads neither `random` nor `threading`, which act in
# each fork, unless a program names them; and `io.IOBase` and `signal.signal`, which ask abstract classes and
# enumerations, are replaced by their parts in C.
_IOBase, _set_handler = _io._IOBase, _signal.signal

# Bound here, because a program may put its own functions in their place.
_read, _write, _exit, _settrace, _setprofile = os.read, os.write, os._exit, sys.settrace, sys.setprofile


def write_frame(file: int, body: bytes) -> None:
    body = len(body).to_bytes(4, "big") + body
    while body:
        body = body[_write(file, body) :]


def read_frame(file: int) -> bytes | None:
    """The next frame; None once the other side has closed."""
    head = read_exactly(file, 4)
    return None if head is None else read_exactly(file, int.from_bytes(head, "big"))


def read_exactly(file: int, size: int) -> bytes | None:
    parts = []
    while size:
        part = _read(file, min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


# --- The child: the program -------------------------------------------------------------------------------------------


class Program:
    """A program that runs in this very process, the child.  Its own files are `program.py` in name only."""

    def __init__(self, code: str, given: dict | None):
        self.code = code
        self.given = given

    def run(self, link: int | None, entry: dict | None) -> int:
        """Run the program, then the call that comes over `link` if there is one; returns the exit status."""
        try:
            compiled = compile(self.code, "program.py", "exec", dont_inherit=True)
        except MemoryError:
            return MEMORY_LIMIT
        except Exception as error:
            self._tell(error, whole=False)
            return SYNTAX_ERROR
        main = types.ModuleType("__main__" if entry is None else "program")
        main.__file__ = "program.py"
        if self.given is not None:
            vars(main).update({k: v for k, v in self.given.items() if k not in vars(main)})
            sys.setrecursionlimit(GIVEN_RECURSION_LIMIT)
        sys.modules.pop("__main__", None)
        sys.modules[main.__name__] = main
        sys.argv[:] = ["program.py"]
        status = self._guarded(lambda: exec(compiled, vars(main)))
        if entry is None:
            ended = self._guarded(lambda: self._end(vars(main)))
            return status or ended
        return status or self._guarded(lambda: answer(link, entry, vars(main)))

    def _guarded(self, action) -> int:
        """Do `action` as Python does a script: an exception is printed, `sys.exit(0)` is a good end."""
        try:
            action()
            return OK
        except MemoryError:
            _exit(MEMORY_LIMIT)
        except SystemExit as end:
            if end.code is None or (isinstance(end.code, int) and end.code & 0xFF == 0):
                return OK
            self._tell(end, whole=False)
            return RUNTIME_ERROR
        except CheckFailed as failure:
            self._tell(failure.__cause__)
            return WRONG_ANSWER
        except BaseException as error:
            self._tell(error)
            return RUNTIME_ERROR

    def _tell(self, error: BaseException, whole: bool = True) -> None:
        """Print an error to standard error with its last frames, without this module's own."""
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        lines = self.code.splitlines(keepends=True)
        linecache.cache["program.py"] = (len(self.code), None, lines, "program.py")
        frames = error.__traceback__ if whole else None
        while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
            frames = frames.tb_next
        text = "".join(traceback.format_exception(type(error), error, frames, limit=-8, chain=False))
        os.write(2, text.encode("utf-8", "replace"))

    def _end(self, names: dict) -> None:
        """What the interpreter does at the end of a script: wait for threads, run exit handlers, write out files."""
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        atexit._run_exitfuncs()
        for file in [sys.stdout, sys.stderr, sys.__stdout__, *names.values()]:
            if isinstance(file, _IOBase) and not file.closed:
                file.flush()


class CheckFailed(Exception):
    """The result is not the expected one for sure: the error that shows it is the cause of this."""


def answer(link: int, entry: dict, names: dict) -> None:
    """Ask for the call now that the program stands, make it, and send back the nonce and the result as JSON.

    The nonce is read only after the call, so that no end of the process before this one can be taken for success.
    """
    _write(link, b"?")
    asked = read_frame(link).decode()
    if entry["kind"] == "functional":
        value = call_function(asked, entry["name"], names)
        try:
            result = json.dumps(value, default=lambda number: number.item())  # numpy's numbers know their value
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            raise CheckFailed from TypeError(f"the function returned a {type(value).__name__}, not JSON: {error}")
    else:
        check(asked, entry["name"], names)
        result = "null"
    write_frame(link, read_exactly(link, NONCE_BYTES) + result.encode())


def call_function(text: str, name: str, names: dict):
    """Call the method of `Solution` if it has it, or else the function, with one JSON argument a line."""
    solution = names.get("Solution")
    function = getattr(solution(), name) if hasattr(solution, name) else names[name]
    return function(*[json.loads(line) for line in text.split("\n") if line.strip()])


def check(text: str, name: str, names: dict) -> None:
    """Run the code of a `check` test, with Python's own builtins again and with results turned to plain data."""
    _settrace(None)
    _setprofile(None)
    inside = builtins.__dict__
    inside.clear()
    inside.update(BUILTINS)
    program = names.get(name)
    scope = {key: value for key, value in names.items() if key not in BUILTINS}
    scope.update(__name__="check", __builtins__=builtins)
    if callable(program):
        scope[name] = lambda *arguments, **named: plain(program(*arguments, **named))
    compiled = compile(text, "check.py", "exec", dont_inherit=True)
    try:
        exec(compiled, scope)
    except AssertionError as error:
        raise CheckFailed from error


def plain(value):
    """The same data in Python's own types, whose comparisons the program can't have written.

    Raises TypeError for a value that is no such data.
    """
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return value
    for kind in (int, float, complex, str, bytes):
        if isinstance(value, kind):
            return kind.__getnewargs__(value)[0] if kind is not complex else complex(*kind.__getnewargs__(value))
    if isinstance(value, (list, tuple, set, frozenset)):
        kind = next(k for k in (list, tuple, set, frozenset) if isinstance(value, k))
        return kind([plain(item) for item in kind.__iter__(value)])
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in dict.items(value)}
    raise TypeError(f"the function returned a {type(value).__name__}, which the check can't compare")


BUILTINS = dict(vars(builtins))


def become_program(cell: Cell, request: dict, given: dict, files: tuple[int, int, int], link: int | None) -> None:
    """Turn this fresh child into the program.  Never returns.

    The first byte on standard error is `CONFINED`, and comes from here: no program can take it back.
    """
    status = RUNTIME_ERROR
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
        cell.confine(keep=link)
        os.write(2, CONFINED)
        _set_handler(signal.SIGINT, signal.default_int_handler)
        if "random" in sys.modules:
            sys.modules["random"].seed(0)
        status = Program(request["code"], given if request["given"] else None).run(link, request["entry"])
    except MemoryError:
        status = MEMORY_LIMIT
    except BaseException as error:
        os.write(2, repr(error).encode("utf-8", "replace"))
    finally:
        _exit(status)


# --- The worker: watching a child -------------------------------------------------------------------------------------


def run_request(cell: Cell, channel: int, request: dict, given: dict) -> dict:
    """Run one program once, in a fresh child, and tell how it went.  Nothing of it is left when this returns."""
    stdin = input_file(request["stdin"])
    out, program_out = os.pipe()
    err, program_err = os.pipe()
    for file in (program_out, program_err):
        os.fchmod(file, 0o666)  # so that another user can open /dev/stdout
    link, program_link = (end.detach() for end in socket.socketpair()) if request["entry"] else (None, None)
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        become_program(cell, request, given, (stdin, program_out, program_err), program_link)
    for file in (stdin, program_out, program_err, program_link):
        if file is not None:
            os.close(file)
    # The call is read only now: a child forked before can't have it in its memory.
    message = b"" if link is None else read_frame(channel)
    watch = Watch(cell, pid, started, out, err, link, message)
    reason = watch.until_end(channel)
    seconds, state = bury(pid, watch.ended)
    watch.drain_and_close()
    return {
        "status": reason or watch.too_much() or kind_of_end(state, seconds > cell.time_limit),
        "confined": watch.confined or os.WIFSIGNALED(state),
        "stdout": watch.text(out),
        "stderr": watch.text(err),
        "result": watch.result.decode("utf-8", "replace"),
        "cpu": round(seconds, 4),
        "wall": round(time.monotonic() - started, 4),
        "signal": signal_name(os.WTERMSIG(state)) if os.WIFSIGNALED(state) else "",
    }


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def kind_of_end(state: int, too_long: bool) -> str:
    """The kind of a child's end by its wait status."""
    if too_long or (os.WIFSIGNALED(state) and os.WTERMSIG(state) == signal.SIGXCPU):
        return "time_limit"
    if os.WIFSIGNALED(state):
        return "killed"
    return KINDS.get(os.WEXITSTATUS(state), "runtime_error")


def input_file(text: str) -> int:
    """An open file that holds `text`, at its start; it has no name."""
    data = text.encode("utf-8", "replace")
    if not hasattr(os, "memfd_create"):
        import tempfile  # which loads `random`

        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            return os.dup(file.fileno())
    file = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    written = 0
    while written < len(data):
        written += os.write(file, data[written:])
    os.lseek(file, 0, os.SEEK_SET)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return file


class Watch:
    """Looks after a running child: reads what it writes, and finds the limit that it breaks.

    `message` goes over `link` once the child asks for it; what comes back is the result.
    """

    def __init__(self, cell: Cell, pid: int, started: float, out: int, err: int, link: int | None, message: bytes):
        self.cell, self.pid, self.started = cell, pid, started
        self.out, self.err, self.link = out, err, link
        self.message, self.to_send = message, b""
        self.confined = False
        self.ended: tuple | None = None  # what wait4 told, where no handle of the process can
        self.written = {file: bytearray() for file in (out, err, link) if file is not None}
        self.poll = select.poll()
        for file in self.written:
            os.set_blocking(file, False)
        if link is not None:
            self.poll.register(link, select.POLLIN)
        self.handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
        if self.handle is not None:
            self.poll.register(self.handle, select.POLLIN)

    @property
    def result(self) -> bytes:
        """What came over the link, without the asking mark and the frame's length."""
        return bytes(self.written[self.link][5:]) if self.link is not None else b""

    def until_end(self, channel: int) -> str | None:
        """Wait for the child's end; returns the limit that it broke first, or None."""
        self.poll.register(channel, 0)  # only a hang-up is told: then nobody is left to answer
        limit, deadline = self.cell.time_limit, self.started + self.cell.wall_limit
        # Most programs end at once, and their output waits in the pipes: to be woken for each part of it costs more.
        pause, listening = min(limit / self.cell.cores, self.cell.wall_limit, UNDISTURBED), False
        while True:
            if self.handle is None:
                pause = min(pause, 0.005)
            for file, event in self.poll.poll(pause * 1000):
                if file == channel:
                    bury(self.pid)
                    raise BrokenPipeError("nobody is left to answer")
                if file == self.handle:
                    return None
                self._serve(file, event)
            if self.handle is None and (ended := os.wait4(self.pid, os.WNOHANG))[0]:
                self.ended = ended
                return None
            if not listening and time.monotonic() >= self.started + UNDISTURBED:
                listening = True
                self.poll.register(self.out, select.POLLIN)
                self.poll.register(self.err, select.POLLIN)
            left, time_left = limit - cpu_seconds(self.pid), deadline - time.monotonic()
            if broken := self.too_much():
                return broken
            if left < 0:
                return "time_limit"
            if time_left < 0:
                return "wall_limit"
            pause = min(time_left, max(left / self.cell.cores, 0.002), math.inf if listening else UNDISTURBED)

    def too_much(self) -> str | None:
        """`output_limit` if more was written than may be; also to be asked once the rest is drained."""
        written = (self.written[file] for file in (self.out, self.link) if file is not None)
        return "output_limit" if any(len(data) > self.cell.output_bytes for data in written) else None

    def _serve(self, file: int, event: int) -> None:
        """Read or write what a file is ready for."""
        if event & select.POLLOUT:
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                self.to_send = self.to_send[os.write(file, self.to_send) :]
        if event & ~select.POLLOUT and not self._take(file):
            self.poll.unregister(file)
        elif file == self.link:
            if self.message:
                self.to_send, self.message = self.message, b""
            self.poll.modify(file, select.POLLIN | (select.POLLOUT if self.to_send else 0))

    def _take(self, file: int) -> bool:
        """Take up to 64 KB that the child wrote; False if there is nothing."""
        try:
            data = os.read(file, 1 << 16)
        except (BlockingIOError, ConnectionResetError):
            return False
        written = self.written[file]
        written += data
        if file == self.err:
            if not self.confined and written.startswith(CONFINED):
                self.confined = True
                del written[: len(CONFINED)]
            del written[:-STDERR_TAIL]
        return bool(data)

    def drain_and_close(self) -> None:
        """Read what is left in the pipes of a child that has ended, up to the limit."""
        for file, written in self.written.items():
            while len(written) <= self.cell.output_bytes and self._take(file):
                pass
            os.close(file)
        if self.handle is not None:
            os.close(self.handle)

    def text(self, file: int) -> str:
        data = self.written[file][-STDERR_TAIL:] if file == self.err else self.written[file]
        return data[: self.cell.output_bytes].decode("utf-8", "replace")


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a running child, all its threads; 0 where only the kernel's own limit can tell (not Linux)."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # the clock that clock_getcpuclockid(3) names
    except (OSError, OverflowError, AttributeError):
        return 0.0


def bury(pid: int, ended: tuple | None = None) -> tuple[float, int]:
    """Kill a child and all that came from it, and wait for them; returns (CPU seconds of all, its wait status).

    `ended` is what wait4 told of the child, if it was waited for already.
    """
    if ended is None:
        os.kill(pid, signal.SIGKILL)  # nothing happens to one that has ended, and its number is still taken
        ended = os.wait4(pid, 0)
    _, state, usage = ended
    seconds = usage.ru_utime + usage.ru_stime
    with contextlib.suppress(ChildProcessError):
        while True:  # what it left is now ours, or will be when its own parent is killed
            found, _, usage = os.wait4(-1, os.WNOHANG)
            if not found:
                kill_descendants(pid)
                _, _, usage = os.wait4(-1, 0)
            seconds += usage.ru_utime + usage.ru_stime
    return seconds, state


def kill_descendants(session: int) -> None:
    """Kill what a program left: everything else in our namespace, or else its session and all our children."""
    with contextlib.suppress(OSError):
        if is_first_in_namespace():
            os.kill(-1, signal.SIGKILL)
            return
        os.killpg(session, signal.SIGKILL)
    with contextlib.suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children") as file:
        for child in file.read().split():
            os.kill(int(child), signal.SIGKILL)


def prepare(request: dict, given: dict) -> None:
    """Load what a program may import, once for all that come after it; the less is loaded, the cheaper is a fork."""
    if request["given"] and not given:
        exec(GIVEN_IMPORTS, given)
    for name in COMMON_MODULES:
        if name in request["code"] and name not in sys.modules:
            importlib.import_module(name)


def serve(channel: int) -> None:
    """Answer requests until the channel closes."""
    settings = json.loads(read_frame(channel))
    sys.path += settings["module_folders"]
    for name in settings["modules"]:
        importlib.import_module(name)
    sys.path[:] = [p for p in sys.path if p not in settings["module_folders"]]
    given: dict = {}
    site.setquit()
    os.environ.clear()
    cell = Cell(settings)
    if not cell.close_in():
        return
    gc.collect()
    gc.freeze()
    write_frame(channel, json.dumps({"layers": cell.layers, "folder": cell.folder}).encode())
    try:
        while (request := read_frame(channel)) is not None:
            request = json.loads(request)
            prepare(request, given)
            reply = run_request(cell, channel, request, given)
            write_frame(channel, json.dumps(reply).encode())
            cell.clear_scratch()
    finally:
        if cell.folder:
            remove_tree(cell.folder)


def main() -> None:
    """Take the channel from standard input, and leave nothing there that a program could inherit."""
    sys.path.remove(os.environ["PYTHONPATH"])  # where this module came from
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    channel = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(nothing, number)
    os.close(nothing)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        serve(channel)


if __name__ == "__main__":
    main()
