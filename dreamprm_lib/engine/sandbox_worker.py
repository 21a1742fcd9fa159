"""The process that runs programs: it forks one fresh child for each, and sends back what the child printed.

Started as `python -I sandbox_worker.py`, it knows no expected output and shares no memory with the grader.  It needs
the standard library alone.  Requests and replies are JSON behind a length of four bytes, on descriptors that the
children never see.
"""

import ctypes
import gc
import importlib
import json
import os
import resource
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback

# What programs often import is loaded once, so that a fork is all that a test costs.
for _name in (
    "bisect collections copy datetime decimal fractions functools heapq itertools math operator random re string typing"
).split():
    importlib.import_module(_name)

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x08000000, 0x20000000, 0x40000000
CLONE_NEWUSER = 0x10000000
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 2, 4, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
SYS_MOUNT_SETATTR = 442  # the same number on every architecture
AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = -100, 0x8000, 1

SYNTAX_ERROR, RUNTIME_ERROR, MEMORY_ERROR = 101, 102, 103  # exit codes of a child; no verdict rests on 0 alone

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    """A libc function that returns a negative number on failure; raises OSError then."""
    if getattr(libc, name)(*arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def mount(source, target, kind, flags, data=None):
    call("mount", source.encode(), target.encode(), kind and kind.encode(), flags, data and data.encode())


# ------------------------------------------------------------------------------------------------- isolation


def isolate(hidden):
    """Put each layer on that the kernel gives; returns {layer: True, or why not}."""
    report = {}

    def layer(name, action):
        try:
            action()
            report[name] = True
        except OSError as error:
            report[name] = str(error)

    if os.geteuid() != 0:
        layer("user namespace", _own_user_namespace)
    layer("mount namespace", lambda: (call("unshare", CLONE_NEWNS), mount("none", "/", None, MS_REC | MS_PRIVATE)))
    layer("network namespace", lambda: call("unshare", CLONE_NEWNET))
    layer("ipc namespace", lambda: call("unshare", CLONE_NEWIPC))
    if report["mount namespace"] is True:
        layer("read-only files", _read_only_root)
        layer("private temporary directory", lambda: mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=64m"))
        layer("hidden answers", lambda: [_hide(path) for path in hidden if os.path.isdir(path)])
    layer("process namespace", _try_process_namespace)
    layer("no new privileges", lambda: call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    return report


def _own_user_namespace():
    uid, gid = os.getuid(), os.getgid()
    call("unshare", CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    # A process namespace that this user namespace owns, to come back to between programs.
    call("unshare", CLONE_NEWPID)
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        os._exit(0)
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _read_only_root():
    attributes = struct.pack("QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
    call("syscall", SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, len(attributes))


def _hide(path):
    mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV | 1, "size=4k")


def _try_process_namespace():
    pid = os.fork()
    if pid == 0:
        try:
            call("unshare", CLONE_NEWPID)
            os._exit(0)
        except OSError as error:
            os._exit(error.errno)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, f"unshare: {os.strerror(code)}")


# ------------------------------------------------------------------------------------------------- one program


def execute(request, own_pids):
    """Run one program in a fresh child; a dictionary of status, stdout, stderr, cpu and wall seconds."""
    folder = tempfile.mkdtemp(prefix="program-")
    stdin = os.memfd_create("stdin")
    os.write(stdin, request["stdin"].encode("utf-8", "surrogatepass"))
    os.lseek(stdin, 0, os.SEEK_SET)
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    started = time.monotonic()
    if own_pids is not None:
        call("setns", own_pids, CLONE_NEWPID)  # so that the next unshare starts from this process's own namespace
        call("unshare", CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        _child(request, folder, stdin, out_write, err_write)
    for descriptor in (stdin, out_write, err_write):
        os.close(descriptor)
    reason, stdout, stderr = _watch(pid, out_read, err_read, started + request["wall"], request["output"])
    _, status, usage = os.wait4(pid, 0)
    try:
        os.killpg(pid, signal.SIGKILL)  # what outlives its parent where there is no process namespace
    except (ProcessLookupError, PermissionError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    seconds = usage.ru_utime + usage.ru_stime
    return {
        "status": reason or _status_of(os.waitstatus_to_exitcode(status), seconds, request["cpu"]),
        "stdout": stdout.decode("utf-8", "replace"),
        "stderr": stderr[-2000:].decode("utf-8", "replace"),
        "cpu": seconds,
        "wall": time.monotonic() - started,
    }


def _watch(pid, out_read, err_read, deadline, limit):
    """Read both pipes until the child has ended; kill it at the deadline or over the output limit."""
    reason, chunks = None, {out_read: b"", err_read: b""}
    ended = os.pidfd_open(pid)
    waiting = {out_read, err_read, ended}
    while ended in waiting:
        ready, _, _ = select.select(waiting, [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            reason = "wall_limit"
            break
        for descriptor in ready:
            if descriptor == ended:
                waiting.discard(ended)
                continue
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                waiting.discard(descriptor)
            elif descriptor == err_read:
                chunks[descriptor] = (chunks[descriptor] + chunk)[-4000:]
            elif len(chunks[descriptor]) + len(chunk) > limit:
                reason = "output_limit"
            else:
                chunks[descriptor] += chunk
        if reason:
            break
    if reason:
        os.kill(pid, signal.SIGKILL)
    for descriptor in (out_read, err_read):
        os.set_blocking(descriptor, False)
        while not reason:
            try:
                chunk = os.read(descriptor, 1 << 16)
            except BlockingIOError:
                break
            if not chunk:
                break
            chunks[descriptor] += chunk
            if len(chunks[descriptor]) > limit:
                reason = "output_limit"
    for descriptor in (out_read, err_read, ended):
        os.close(descriptor)
    return reason, chunks[out_read], chunks[err_read]


def _status_of(code, seconds, limit):
    if code < 0:  # the kernel kills at the CPU limit; the first process of a namespace cannot kill itself
        return "time_limit" if seconds >= 0.95 * limit else "killed"
    return {0: "ok", SYNTAX_ERROR: "syntax_error", MEMORY_ERROR: "memory_limit"}.get(code, "runtime_error")


def _child(request, folder, stdin, out_write, err_write):
    """The program's own process; never returns."""
    code = RUNTIME_ERROR
    try:
        os.setsid()
        os.chdir(folder)
        for descriptor, number in ((stdin, 0), (out_write, 1), (err_write, 2)):
            os.dup2(descriptor, number)
        os.closerange(3, 256)
        os.environ.clear()
        for limit, value in (
            (resource.RLIMIT_CPU, request["cpu"]),
            (resource.RLIMIT_AS, request["memory"]),
            (resource.RLIMIT_FSIZE, 16 << 20),
            (resource.RLIMIT_NOFILE, 64),
            (resource.RLIMIT_NPROC, 64),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(limit, (value, value))
        code = _run(request["code"])
    except BaseException:
        pass
    finally:
        os._exit(code)


def _run(text):
    """Run the program as `__main__`; its exit code."""
    sys.argv = ["program.py"]
    sys.stdin, sys.stdout = open(0, encoding="utf-8", closefd=False), open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    main = type(sys)("__main__")
    main.__builtins__ = __builtins__
    sys.modules["__main__"] = main
    code = 0
    try:
        try:
            program = compile(text, "program.py", "exec")
        except (SyntaxError, ValueError) as error:
            sys.stderr.write(f"{type(error).__name__}: {error}")
            return SYNTAX_ERROR
        exec(program, main.__dict__)
    except SystemExit as stop:
        code = 0 if stop.code in (None, 0) else RUNTIME_ERROR
    except MemoryError:
        return MEMORY_ERROR
    except BaseException:
        sys.stderr.write(traceback.format_exc(limit=-4))
        code = RUNTIME_ERROR
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        code = code or RUNTIME_ERROR
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        pass
    return code


# ------------------------------------------------------------------------------------------------- the loop


def main():
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(null, number)

    def send(reply):
        data = json.dumps(reply).encode()
        replies.write(struct.pack("!I", len(data)) + data)
        replies.flush()

    report = isolate(json.loads(sys.argv[1]))
    tempfile.tempdir = "/tmp" if report.get("private temporary directory") is True else None
    own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY) if report["process namespace"] is True else None
    send(report)
    gc.freeze()
    while True:
        head = requests.read(4)
        if len(head) < 4:
            return
        send(execute(json.loads(requests.read(*struct.unpack("!I", head))), own_pids))


if __name__ == "__main__":
    main()
