"""The layers of isolation that a kernel may give, for the sandbox's worker and its children.

A `Cell` closes the worker in (namespaces, a root of its own) and, in each child, adds what binds that child alone
(another user, resource limits, Landlock, seccomp).  Every layer is tried before it is relied on, and a layer that this
kernel or this user does not have is reported as off.  Only the standard library is used, for the worker has no other.

Not covered: a hole in the kernel, and, where the layer named `seccomp` is missing, programs that start others.  No
program has a folder to write to.
"""

import contextlib
import ctypes
import errno
import glob
import json
import math
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

NOBODY = 65534
STACK_BYTES = 120 << 20  # the kernel keeps at least 128 MB below the main thread's stack free of other mappings
OPEN_FILES = 64
THREADS = 64  # of all programs that one user runs
MOUNT_POINT = "/sys"  # where the private root is built: any folder would do, since the mount is seen here only
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")

libc = ctypes.CDLL(None, use_errno=True)

# --- System calls that Python 3.11 has no function for ----------------------------------------------------------------

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 2, -100, 0x8000, 1
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
CLONE_NEWUSER, CAPABILITY_VERSION = 0x10000000, 0x20080522
NAMESPACES = {"mount namespace": 0x00020000, "pid namespace": 0x20000000, "network namespace": 0x40000000}
MACHINES = {"x86_64": (0xC000003E, 56, 126), "aarch64": (0xC00000B7, 220, 91)}
AUDIT_ARCH, SYS_CLONE, SYS_CAPSET = MACHINES[platform.machine()]
SYS_PIDFD_OPEN = 434
SYS_MOUNT_SETATTR, SYS_LANDLOCK_CREATE, SYS_LANDLOCK_ADD, SYS_LANDLOCK_RESTRICT = 442, 444, 445, 446


def call(function: str, *arguments: Any) -> int:
    """Call a function of the C library; raises OSError where it answers -1."""
    answer = getattr(libc, function)(*arguments)
    if answer == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")
    return answer


def syscall(number: int, *arguments: Any) -> int:
    return call("syscall", ctypes.c_long(number), *arguments)


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    names = [None if name is None else os.fsencode(name) for name in (source, target, kind)]
    call("mount", *names, ctypes.c_ulong(flags), os.fsencode(options))


def prctl(option: int, value: int, pointer: bytes | None = None) -> None:
    call("prctl", option, ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0))


# --- Layers that close the worker -------------------------------------------------------------------------------------


def enter_user_namespace() -> str:
    """Who owns the other namespaces: an ordinary user needs one of its own for that, root does not."""
    uid, gid = os.geteuid(), os.getegid()
    if uid:
        call("unshare", CLONE_NEWUSER)
        for name, text in {"setgroups": "deny", "gid_map": f"{gid} {gid} 1", "uid_map": f"{uid} {uid} 1"}.items():
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    return f"uid {uid}"


def readable_places() -> list[str]:
    """What a program may read: the standard library, the shared libraries, time zones."""
    places = [p for p in sys.path if p] + ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo"]
    return [p for p in dict.fromkeys(places) if os.path.exists(p)]


def hidden_places(places: list[str]) -> list[str]:
    """Folders of installed packages inside `places`: they may hold a benchmark's answers."""
    names = [f"{between}{kind}-packages" for between in ("", "python3*/") for kind in ("site", "dist")]
    return [folder for p in places for name in names for folder in glob.glob(f"{glob.escape(p)}/{name}")]


def enter_private_root(places: list[str], packages: list[str]) -> None:
    """Change to a root that holds nothing but `places` and `packages`, read-only, a few devices and, if it may be
    mounted, a /proc that shows the processes of this namespace."""
    root = MOUNT_POINT
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for place in [*places, *DEVICES]:
        bind(place, root + place)
    for place in hidden_places(places):
        mount("tmpfs", root + place, "tmpfs", MS_NOSUID | MS_NODEV, "size=64k,mode=755")
    for place in packages:
        bind(place, root + place)
    os.mkdir(f"{root}/proc")
    with contextlib.suppress(OSError):
        mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "subset=pid,hidepid=2")
        for name, target in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")]:
            os.symlink(f"/proc/self/fd{target}", f"{root}/dev/{name}")
    read_only = struct.pack("=QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
    syscall(SYS_MOUNT_SETATTR, AT_FDCWD, os.fsencode(root), AT_RECURSIVE, read_only, ctypes.c_size_t(len(read_only)))
    os.chdir(root)
    call("pivot_root", b".", b".")
    call("umount2", b".", MNT_DETACH)
    os.chdir("/")


def bind(place: str, target: str) -> None:
    """Show `place` at `target` too."""
    if not os.path.exists(target):
        if os.path.isdir(place):
            os.makedirs(target)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            open(target, "x").close()
    mount(place, target, None, MS_BIND | MS_REC)


# --- Layers that close a child: Landlock and seccomp ------------------------------------------------------------------

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
LANDLOCK_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
NO_TCP, NO_OUTSIDE = 0b11, 0b11  # bind and connect; abstract sockets and signals


def landlock_version() -> int:
    return syscall(SYS_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))


def landlock_rules(read: list[str], list_only: list[str]) -> int:
    """A ruleset (a file descriptor): below `read` files may be read, and below `list_only` folders be listed; from
    version 4 on no TCP, from version 6 on no signal to a process outside."""
    version = landlock_version()
    rights = LANDLOCK_FILE_RIGHTS[max(v for v in LANDLOCK_FILE_RIGHTS if v <= version)]
    attributes = struct.pack("=QQQ", rights, NO_TCP, NO_OUTSIDE)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    rules = syscall(SYS_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    allowed = dict.fromkeys(list_only, READ_DIR) | dict.fromkeys(read, READ_FILE | READ_DIR | EXECUTE)
    allowed |= dict.fromkeys(DEVICES, READ_FILE | WRITE_FILE)
    for path, wanted in allowed.items():
        here = wanted if os.path.isdir(path) else wanted & ~READ_DIR
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        syscall(SYS_LANDLOCK_ADD, rules, 1, struct.pack("=Qi", here, place), 0)
        os.close(place)
    return rules


SYS_CLONE3, CLONE_THREAD = 435, 0x10000
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, REFUSE, PRETEND_MISSING = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS


def seccomp_filter(refused_calls: list[int]) -> bytes:
    """BPF that refuses these system calls and new processes: (code, steps if true, steps if false, operand) each."""
    program = [
        (LOAD, 0, 0, 4), (JUMP_EQUAL, 1, 0, AUDIT_ARCH), (RETURN, 0, 0, REFUSE),  # another architecture's call
        (LOAD, 0, 0, 0), (JUMP_AT_LEAST, 0, 1, 0x40000000), (RETURN, 0, 0, REFUSE),  # x32 calls
        (JUMP_EQUAL, 0, 1, SYS_CLONE3), (RETURN, 0, 0, PRETEND_MISSING),  # its flags can't be read here: glibc clones
        (JUMP_EQUAL, 0, 4, SYS_CLONE), (LOAD, 0, 0, 16), (JUMP_ANY_BIT, 1, 0, CLONE_THREAD),
        (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW),
    ]  # fmt: skip
    for number in refused_calls:
        program += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE)]
    program.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def install_filter(instructions: bytes) -> None:
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    kernels_program = struct.pack("HP", len(instructions) // 8, ctypes.addressof(buffer))  # `struct sock_fprog`
    prctl(PR_SET_SECCOMP, 2, kernels_program)


# --- The worker and its children --------------------------------------------------------------------------------------

Action = Callable[[], int | str | None]  # puts a layer on; a text says to which degree


@dataclass
class Cell:
    """The closed worker: what every child inherits, and the layers that a child puts on itself.

    `layers` says for each layer whether it is on (or, as text, to which degree); the fields before it are settings.
    """

    time_limit: float
    wall_limit: float
    memory_bytes: int
    packages: list[str]
    refused_calls: list[int]
    without: list[str]
    layers: dict[str, bool | str] = field(default_factory=dict)
    rules: int = -1  # of Landlock, an open file
    filter: bytes = b""  # of seccomp
    limits: dict[int, tuple[int, int]] = field(default_factory=dict)  # of a child

    def close_in(self) -> bool:
        """Put on every layer that the kernel gives.  False in the process that only waits outside."""
        self._rehearse({"user namespace": enter_user_namespace})
        if self.layers["user namespace"]:
            enter_user_namespace()
        self._put_on({name: partial(call, "unshare", flag) for name, flag in NAMESPACES.items()})
        if self.layers["pid namespace"]:
            if inside := os.fork():
                os.waitpid(inside, 0)
                return False
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        else:
            prctl(PR_SET_CHILD_SUBREAPER, 1)
        self._find_limits()
        self._put_on({"private root": self._enter_private_root})
        self._write_rules()
        prctl(PR_SET_DUMPABLE, 0)  # no program may look into this process
        self.filter = seccomp_filter(self.refused_calls)
        self._rehearse(self._layers_of_a_child())
        return True

    def _put_on(self, layers: dict[str, Action]) -> None:
        """Put on each layer that is not switched off, and keep in mind which of them the kernel gave."""
        for name, action in layers.items():
            self.layers[name] = False
            if name not in self.without:
                with contextlib.suppress(OSError):
                    degree = action()
                    self.layers[name] = degree if isinstance(degree, str) else True

    def _rehearse(self, layers: dict[str, Action]) -> None:
        """Find out in a child which layers the kernel gives, so that this process stays as it is."""
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                self._put_on(layers)
                os.write(theirs, json.dumps(self.layers).encode())
            finally:
                os._exit(0)
        os.close(theirs)
        with open(ours) as pipe:
            self.layers |= dict.fromkeys(layers, False) | json.loads(pipe.read() or "{}")
        os.waitpid(pid, 0)

    def _layers_of_a_child(self) -> dict[str, Action]:
        return {
            "unprivileged user": give_up_root,
            "resource limits": lambda: set_limits(self.limits),
            "no capabilities": lambda: syscall(SYS_CAPSET, struct.pack("=Ii", CAPABILITY_VERSION, 0), bytes(24)),
            "no new privileges": lambda: prctl(PR_SET_NO_NEW_PRIVS, 1),
            "landlock": self._keep_to_the_rules,
            "seccomp": lambda: install_filter(self.filter),
        }

    def confine(self, keep: Iterable[int]) -> None:
        """In the child: limits and the layers of its own.  Leaves 0, 1, 2 and `keep` open, nothing else."""
        os.setsid()
        os.chdir("/")
        os.umask(0o077)
        for name, action in self._layers_of_a_child().items():
            if self.layers[name]:
                action()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # no worker, no program
        for before, after in pairwise([2, *sorted(keep), 256]):
            os.closerange(before + 1, after)

    def _enter_private_root(self) -> None:
        if not (self.layers["mount namespace"] and self.layers["pid namespace"]):
            raise OSError(errno.EPERM, "needs namespaces of its own for mounts and processes")
        enter_private_root(readable_places(), self.packages)

    def _keep_to_the_rules(self) -> str:
        syscall(SYS_LANDLOCK_RESTRICT, self.rules, 0)
        return f"version {landlock_version()}"

    def _write_rules(self) -> None:
        """Rules for Landlock: which files may be read, where no private root decides that, and nothing written."""
        read, list_only = ["/"], []
        if not self.layers["private root"]:
            read, list_only = list(self.packages), readable_places()
            hidden = set(hidden_places(list_only))
            for place in list_only:
                inside = [os.path.join(place, n) for n in os.listdir(place)] if os.path.isdir(place) else [place]
                read += [path for path in inside if path not in hidden and os.path.exists(path)]
        with contextlib.suppress(OSError):
            self.rules = landlock_rules(read, list_only)

    def _find_limits(self) -> None:
        """Find a program's limits, those of memory above what this process has, which is what a child starts with.  A
        limit that is lower already stays.

        The kernel counts CPU seconds by ticks of its clock, which on a busy core can be nearly twice the time that was
        used.  The worker reads the exact clock, so the kernel's limit is the wide net behind it.  A program may ask
        for a larger stack, as many do, and gets it within the limit of its memory.
        """
        wanted = {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_MEMLOCK: 0,
            resource.RLIMIT_NOFILE: OPEN_FILES,
            resource.RLIMIT_CPU: math.ceil(self.time_limit * 4) + 1,
            resource.RLIMIT_FSIZE: 0,
            resource.RLIMIT_NPROC: THREADS,
        }
        self.limits = {which: (at_most(which, limit),) * 2 for which, limit in wanted.items()}
        stack = resource.RLIMIT_STACK
        self.limits[stack] = at_most(stack, STACK_BYTES), resource.getrlimit(stack)[1]
        with open("/proc/self/statm") as file:
            mapped = int(file.read().split()[0]) * resource.getpagesize()
        self.limits[resource.RLIMIT_AS] = (at_most(resource.RLIMIT_AS, mapped + self.memory_bytes),) * 2


def at_most(which: int, limit: int) -> int:
    """The limit, or the hard one of this process if that is lower."""
    hard = resource.getrlimit(which)[1]
    return limit if hard == resource.RLIM_INFINITY else min(limit, hard)


def set_limits(limits: dict[int, tuple[int, int]]) -> None:
    """Set limits of this process, each a soft and a hard one."""
    for which, pair in limits.items():
        resource.setrlimit(which, pair)


def give_up_root() -> str:
    """Who the program is from here on: root becomes nobody, for good.  Raises if nobody can read the library."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        os.stat(os.__file__)
    return f"uid {os.geteuid()}"
