"""The process that runs programs for `judge.py`: it forks one fresh child a test and tells how the child ended.

`Sandbox` starts this module in an interpreter of its own that holds nothing of the grader.  The worker closes itself
in (`layers.py`), then answers requests from the socket on its standard input until that closes.  A child shuts
itself in further and becomes the program.

**What a child inherits.**  A request reaches the worker as open files: the program, its input, and the pipes for its
output.  Only the child reads them, and only the grader reads what the child writes.  So nothing of a request, of a
program, or of its output is ever in the memory of the process that forks the next child.

**What a program finds.**  Standard input is a file, standard output and error are pipes, and `sys.stdin`, `sys.stdout`
and `sys.stderr` are made from them as the interpreter makes them at its start.  At a program's end its threads are
waited for, its exit handlers run, and what it left in the buffers of files comes out.

Not covered: secrets of a `check` test, whose text has to enter the program's process (it comes only after the program's
own top level ran, but a program written to beat its check can read it then).
"""

import _signal
import _socket
import atexit
import builtins
import contextlib
import gc
import importlib
import io
import json
import linecache
import os
import random
import select
import signal
import site
import socket
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from dreamprm_lib.engine.sandbox.layers import SYS_PIDFD_OPEN, Cell, syscall

# What LiveCodeBench's own runner imports before a program, in its order: a later star import hides an earlier one.
GIVEN_MODULES = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json"
).split()
COMMON_MODULES = (  # what the worker loads, once for all programs
    "array bisect calendar cmath collections copy dataclasses datetime decimal enum fractions functools hashlib heapq "
    "io itertools json math operator os queue random re statistics string sys textwrap threading time typing"
).split()
GIVEN_IMPORTS = "".join(
    [f"from {name} import *\n" for name in [*GIVEN_MODULES, "builtins", "typing"]]
    + [f"import {name}\n" for name in GIVEN_MODULES]
)
GIVEN_RECURSION_LIMIT = GIVEN_DIGITS = 50_000  # what that runner sets, too

# How a child tells what became of the program, by its exit status.
OK, RUNTIME_ERROR, SYNTAX_ERROR, MEMORY_LIMIT, WRONG_ANSWER = 0, 1, 101, 102, 103
KINDS = {OK: "ok", SYNTAX_ERROR: "syntax_error", MEMORY_LIMIT: "memory_limit", WRONG_ANSWER: "wrong_answer"}

NONCE_BYTES = 32
CORES = os.cpu_count() or 1

# Bound here, because a program may put its own functions in their place.
_read, _pread, _write, _exit = os.read, os.pread, os.write, os._exit
_settrace, _setprofile, _set_digits = sys.settrace, sys.setprofile, sys.set_int_max_str_digits
_get_objects, _fstat = gc.get_objects, os.fstat
BUILTINS = dict(vars(builtins))


# --- The child: the program -------------------------------------------------------------------------------------------


def become_program(cell: Cell, files: list[int]) -> NoReturn:
    """Turn this fresh child into the program, and run it.

    `files` are the request, standard input, output and error, and for a call the link to the grader.
    """
    request, *standard = files[:4]
    link = files[4:]
    try:
        for number, file in enumerate(standard):
            os.dup2(file, number)
        gc.freeze()  # from here on the collector knows what is the program's
        make_standard_streams()
        cell.confine(keep=[request, *link])
        head, _, code = _read(request, os.fstat(request).st_size).decode("utf-8", "surrogatepass").partition("\n")
        _signal.signal(signal.SIGINT, signal.default_int_handler)
        random.seed(0)
        given, kind, name = head.split(" ", 2)
        status = run_program(code.removeprefix("\ufeff"), bool(given), kind, name, request, *link)
        if link:
            _exit(status)
        shut_down(status)
    except MemoryError:
        _exit(MEMORY_LIMIT)
    except BaseException as error:
        _write(2, repr(error).encode("utf-8", "replace"))
        _exit(RUNTIME_ERROR)


def make_standard_streams() -> None:
    """Make `sys.stdin`, `sys.stdout` and `sys.stderr` of the files 0, 1 and 2, as the interpreter does at its start."""
    for number, name, mode in [(0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")]:
        errors = getattr(sys, name).errors
        stream: Any = open(number, mode, encoding="utf-8", errors=errors, newline="\n", closefd=False)
        stream.reconfigure(line_buffering=name == "stderr")
        stream.buffer.raw.name = f"<{name}>"
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def run_program(code: str, given: bool, kind: str, name: str, request: int, link: int | None = None) -> int:
    """Run the program, then the call that is asked for over `link` if there is one; returns the exit status.

    The program's own files are `program.py` in name only.
    """
    if link is None:
        os.close(request)
    try:
        compiled = compile(code, "program.py", "exec", dont_inherit=True)
    except MemoryError:
        return MEMORY_LIMIT
    except Exception as error:
        tell(error, code, whole=False)
        return SYNTAX_ERROR
    main = types.ModuleType("__main__" if link is None else "program")
    vars(main).update(__file__="program.py", __builtins__=builtins)
    if given:
        exec(GIVEN_IMPORTS, vars(main))
        sys.setrecursionlimit(GIVEN_RECURSION_LIMIT)
        _set_digits(GIVEN_DIGITS)
    sys.modules.pop("__main__", None)
    sys.modules[main.__name__] = main
    sys.argv[:] = ["program.py"]
    call = None if link is None else partial(answer, _socket.socket(fileno=link), request, kind, name, vars(main))
    status = guarded(code, partial(exec, compiled, vars(main)))
    return status if call is None or status else guarded(code, call)


def guarded(code: str, action: Callable[[], object]) -> int:
    """Do `action` as Python does a script: an exception is printed, `sys.exit(0)` is a good end."""
    try:
        action()
        return OK
    except MemoryError:
        _exit(MEMORY_LIMIT)
    except SystemExit as end:
        if end.code is None or (isinstance(end.code, int) and end.code & 0xFF == 0):
            return OK
        tell(end, code, whole=False)
        return RUNTIME_ERROR
    except CheckFailed as failure:
        tell(failure.__cause__ or failure, code)
        return WRONG_ANSWER
    except BaseException as error:
        tell(error, code)
        return RUNTIME_ERROR


def tell(error: BaseException, code: str, whole: bool = True) -> None:
    """Print an error to standard error with its last frames, without this module's own."""
    with contextlib.suppress(Exception):
        sys.stderr.flush()
    linecache.cache["program.py"] = (len(code), None, code.splitlines(keepends=True), "program.py")
    frames = error.__traceback__ if whole else None
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames, limit=-8, chain=False))
    _write(2, text.encode("utf-8", "replace"))


def shut_down(status: int) -> NoReturn:
    """End the program nearly as the interpreter ends a script: threads, exit handlers, and what open files hold.

    `__del__` methods and open generators get no last word: to take all of an interpreter down costs more than most
    tests.
    """
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    own = [thing for thing in _get_objects() if isinstance(thing, io.IOBase)]
    written = [flushed(stream) for stream in (sys.stdout, sys.stderr, *own)]
    _exit(status if all(written) else status or RUNTIME_ERROR)


def flushed(stream: Any) -> bool:
    """Flush a stream, if it is open.  False if what it holds can't be written; its own mistakes don't count."""
    try:
        if not getattr(stream, "closed", False):
            stream.flush()
    except OSError:
        return False
    except BaseException:
        pass
    return True


class CheckFailed(Exception):
    """The result is not the expected one for sure: the error that shows it is the cause of this."""


def answer(link: _socket.socket, request: int, kind: str, name: str, names: dict) -> None:
    """Ask for the call now that the program stands, make it, and send back the nonce and the result as JSON.

    The grader puts nonce and call in the place of the program.  The nonce is read only after the call, so that no end
    of the process before this one can be taken for success.
    """
    link.sendall(b"?")
    link.recv(1)
    asked = _pread(request, _fstat(request).st_size, NONCE_BYTES).decode("utf-8", "surrogatepass")
    if kind == "functional":
        value = call_function(asked, name, names)
        _set_digits(0)
        try:
            result = json.dumps(value, default=lambda number: number.item())  # numpy's numbers know their value
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            raise CheckFailed from TypeError(f"the function returned a {type(value).__name__}, not JSON: {error}")
    else:
        check(asked, name, names)
        result = "null"
    link.sendall(_pread(request, NONCE_BYTES, 0) + result.encode())


def call_function(text: str, name: str, names: dict) -> object:
    """Call the method of `Solution` if it has it, or else the function, with one JSON argument a line.

    Arguments are read without the interpreter's limit to the digits of a number, and the call is made with it.
    """
    solution: Any = names.get("Solution")
    function = getattr(solution(), name) if hasattr(solution, name) else names[name]
    digits = sys.get_int_max_str_digits()
    _set_digits(0)
    arguments = [json.loads(line) for line in text.split("\n") if line.strip()]
    _set_digits(digits)
    return function(*arguments)


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


def plain(value: Any) -> Any:
    """The same data in Python's own types, whose comparisons the program can't have written.

    Raises TypeError for a value that is no such data.
    """
    if value is None or isinstance(value, bool):
        return value
    scalar: Any
    for scalar in (int, float, complex, str, bytes):
        if isinstance(value, scalar):
            return scalar(*scalar.__getnewargs__(value))
    many: Any
    for many in (list, tuple, set, frozenset):
        if isinstance(value, many):
            return many([plain(item) for item in many.__iter__(value)])
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in dict.items(value)}
    raise TypeError(f"the function returned a {type(value).__name__}, which the check can't compare")


# --- The worker: watching a child -------------------------------------------------------------------------------------


def run_request(cell: Cell, channel: socket.socket, files: list[int]) -> dict:
    """Run one program once, in a fresh child, and tell how it went; nothing of it is left when this returns."""
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        become_program(cell, files)
    for file in files:
        os.close(file)
    reason = watch(cell, channel, pid, started)
    seconds, state = bury(cell, pid)
    code = os.waitstatus_to_exitcode(state)
    if reason is None and (seconds > cell.time_limit or code == -signal.SIGXCPU):
        reason = "time_limit"
    return {
        "status": reason or ("killed" if code < 0 else KINDS.get(code, "runtime_error")),
        "cpu": round(seconds, 4),
        "wall": round(time.monotonic() - started, 4),
        "signal": next((s.name for s in signal.Signals if s == -code), f"signal {-code}") if code < 0 else "",
    }


def bury(cell: Cell, pid: int) -> tuple[float, int]:
    """Kill a child and all that came from it; the CPU seconds of all, and the child's wait status."""
    os.kill(pid, signal.SIGKILL)  # nothing happens to one that has ended, and its number is still taken
    _, state, usage = os.wait4(pid, 0)
    seconds = usage.ru_utime + usage.ru_stime
    with contextlib.suppress(ChildProcessError):
        while True:  # what it left is now ours, or will be when its own parent is killed
            found, _, usage = os.wait4(-1, os.WNOHANG)
            if not found:
                kill_descendants(cell)
                _, _, usage = os.wait4(-1, 0)
            seconds += usage.ru_utime + usage.ru_stime
    return seconds, state


def kill_descendants(cell: Cell) -> None:
    """Kill what a program left: everything else in our namespace, or else all our children."""
    with contextlib.suppress(OSError):
        if cell.layers["pid namespace"]:
            os.kill(-1, signal.SIGKILL)
            return
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            for child in file.read().split():
                os.kill(int(child), signal.SIGKILL)


def watch(cell: Cell, channel: socket.socket, pid: int, started: float) -> str | None:
    """Wait for the child's end, or the grader's; returns `time_limit` if its time was over before, or else None."""
    handle = syscall(SYS_PIDFD_OPEN, pid, 0)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.register(channel, 0)  # only a hang-up is reported
    try:
        while True:
            left = cell.time_limit - cpu_seconds(pid)
            time_left = started + cell.wall_limit - time.monotonic()
            if left < 0 or time_left < 0:
                return "time_limit"
            if poll.poll(1000 * min(time_left, max(left / CORES, 0.002))):
                return None
    finally:
        os.close(handle)


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a running child, all its threads."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # the clock that clock_getcpuclockid(3) names
    except OSError:  # it has ended
        return 0.0


def main() -> None:
    """Take the channel from standard input, and answer the requests that come over it until it closes."""
    sys.path.remove(os.environ["PYTHONPATH"])  # where this module came from
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    channel = socket.socket(fileno=os.dup(0))
    settings = json.loads(channel.recv(1 << 16))
    site.setquit()
    os.environ.clear()
    own = list(sys.path)
    sys.path += settings.pop("module_folders")
    for name in [*COMMON_MODULES, *settings.pop("modules")]:
        importlib.import_module(name)
    sys.path[:] = own
    cell = Cell(**settings)
    if not cell.close_in():
        return
    gc.collect()
    gc.freeze()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # nobody is left to answer
        channel.send(json.dumps(cell.layers).encode())
        while True:
            asked, files, *_ = socket.recv_fds(channel, 1, 5)
            if not asked:
                return
            channel.send(json.dumps(run_request(cell, channel, files)).encode())


if __name__ == "__main__":
    main()
