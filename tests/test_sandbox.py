"""The grading sandbox: verdicts as literals, and a hostile program for each promise.

The hostile programs rely on isolation, so they run only if the sandbox reports every layer that this needs; the fork
bomb runs only after a counted number of forks has shown that the limit of processes holds.  What is not promised is
tested too: that a program written to attack a `check` test is *not* kept from it is said in the module, not here.
"""

import ast
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from dreamprm_lib.engine import problems
from dreamprm_lib.engine.problems import Problem, load_problems
from dreamprm_lib.engine.sandbox import judge, verdicts
from dreamprm_lib.engine.sandbox.judge import LAYERS, WORKER, Sandbox
from dreamprm_lib.engine.sandbox.verdicts import KINDS, Limits, Verdict, time_scale
from dreamprm_lib.errors import DreamPRMError, InputError, SandboxError


def problem(*tests, name="add", **fields):
    """A problem whose tests are (input, output) pairs, or (input, output, kind)."""
    made = tuple(problems.Test(*test) for test in tests)
    return Problem(name, name, "A statement.", "easy", "test", (), made, **fields)


NINES = "9" * 6000
CHECK = "def check(candidate):\n    assert candidate(2) == 4\n    assert abs(candidate(-3) - 9) < 1e-6\ncheck(square)\n"
CHECKER = "def check(input, output, expected):\n    a, b = map(int, output.split())\n    return a + b == int(input)\n"
ADD = problem(("1 2\n", "3\n"), ("2 2\n", "4\n"))
SHIFT = problem(("[1, 2]\n3", "[4, 5]", "functional"), ("[]\n1", "[]", "functional"), entry_point="shift")
SQUARE = problem((CHECK, "", "check"), name="square", entry_point="square")
BIG = problem(
    (f"{NINES}\n1", f"1{'0' * 6000}", "functional"), (f"[{NINES}]\n0", f"[{NINES}]", "functional"), entry_point="f"
)
LONE = problem(('"\ud800"', '"\\ud800"', "functional"), name="same", entry_point="f")  # a lone surrogate
SPLIT = problem(("7\n", "3 4\n"), ("2\n", "1 1\n"), name="split", checker=CHECKER)
ATCODER = problem(("5", "120"), name="factorial", source="atcoder")  # whose programs find LiveCodeBench's imports
STARTER = problem(("5", "120"), name="factorial", source="starter")
GOOD = "print(sum(map(int, input().split())))"
SQUARES = "def square(x): return x * x"
NAMESPACES = ("user namespace", "mount namespace", "pid namespace", "network namespace", "ipc namespace")


@pytest.fixture(scope="module")
def box():
    with Sandbox(workers=2, time_limit=0.5, memory_mb=128, wall_limit=1.5, output_kb=256) as opened:
        yield opened


def kinds(box, codes, on=ADD):
    return [verdict.kind for verdict in box.grade([(on, code) for code in codes])]


def descendants(pid):
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


# --- Verdicts ---------------------------------------------------------------------------------------------------------

VERDICTS = [
    (ADD, GOOD, "passed"),
    (ADD, "import sys\nprint(sum(map(int, sys.stdin.buffer.readline().split())))", "passed"),
    (ADD, "print(sum(map(int, open(0).read().split())))", "passed"),
    (ADD, "if __name__ == '__main__':\n    print(sum(map(int, input().split())))", "passed"),
    (ADD, "import sys\nassert sys.argv == ['program.py']\n" + GOOD, "passed"),
    (ADD, GOOD + "\nexit()", "passed"),
    (ADD, GOOD + "\nimport sys\nsys.exit(0)", "passed"),
    (ADD, GOOD + "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)", "passed"),
    (ADD, "import sys\nprint('noise', file=sys.stderr)\n" + GOOD, "passed"),
    (ADD, "import asyncio, zoneinfo, sqlite3, decimal\nasyncio.run(asyncio.sleep(0))\n" + GOOD, "passed"),
    (ADD, "print(3)", "wrong_answer"),
    (ADD, "", "wrong_answer"),
    (ADD, "print(1 / 0)", "runtime_error"),
    (ADD, GOOD + "\nraise SystemExit(1)", "runtime_error"),
    (ADD, GOOD + "\nexit('no')", "runtime_error"),
    (ADD, "input(); input()", "runtime_error"),
    (ADD, "def f(): f()\nf()", "runtime_error"),
    (ADD, "eval('1 +')", "runtime_error"),
    (ADD, "raise KeyboardInterrupt", "runtime_error"),
    (ADD, "import numpy", "runtime_error"),
    (ADD, "def (", "syntax_error"),
    (ADD, "return 1", "syntax_error"),
    (ADD, "x = '\0'", "syntax_error"),
    (ADD, "x = '\ud800'", "syntax_error"),
    (ADD, "while True: pass", "time_limit"),
    (ADD, "sum(range(10**12))", "time_limit"),
    (ADD, "x = [0] * 10**9", "memory_limit"),
    (ADD, "print('x' * 10**6)", "output_limit"),
    (ADD, "import ctypes\nctypes.string_at(0)", "killed"),
    (SHIFT, "class Solution:\n    def shift(self, xs: List[int], n: int): return [x + n for x in xs]", "passed"),
    (SHIFT, "def shift(xs, n):\n    print('[0]')\n    return [x + n for x in xs]", "passed"),
    (SHIFT, "def shift(xs, n):\n    return tuple(float(x + n) for x in xs)", "passed"),
    (SHIFT, "def shift(xs, n):\n    return [x + n for x in xs]\nif __name__ == '__main__':\n    input()", "passed"),
    (SHIFT, "def shift(xs, n):\n    return xs", "wrong_answer"),
    (SHIFT, "def shift(xs, n):\n    return {x + n for x in xs}", "wrong_answer"),
    (SHIFT, "def shift(xs, n):\n    return 10**5000", "wrong_answer"),
    (SHIFT, "x = []\nfor _ in range(10**5): x = [x]\ndef shift(xs, n):\n    return x", "wrong_answer"),
    (SHIFT, "def shift(xs, n):\n    return 'x' * 10**6", "output_limit"),
    (SHIFT, "def shift(xs):\n    return xs", "runtime_error"),
    (SHIFT, "def other(xs, n):\n    return xs", "runtime_error"),
    (SHIFT, "def shift(xs, n):\n    exit()", "runtime_error"),
    (SHIFT, "def shift(xs, n):\n    import os\n    print('[4, 5]', flush=True)\n    os._exit(0)", "runtime_error"),
    (SHIFT, "def shift(xs, n):\n    while True: pass", "time_limit"),
    (SHIFT, "def shift(", "syntax_error"),
    (BIG, "def f(x, n): return x + n if n else x", "passed"),
    (BIG, "class Solution:\n    def f(self, x, n): return [*x] if isinstance(x, list) else x + 1", "passed"),
    (BIG, "def f(x, n): return x", "wrong_answer"),
    (BIG, "def f(x, n): return 10**9000", "wrong_answer"),
    (BIG, "def f(x, n): return 0", "wrong_answer"),
    (BIG, "def f(x, n): return int('9' * 6000)", "wrong_answer"),
    (BIG, "def f(x, n): return [str(x)]", "wrong_answer"),
    (SQUARE, SQUARES, "passed"),
    (SQUARE, "class N(int): pass\ndef square(x): return N(x * x)", "passed"),
    (SQUARE, "def square(x): return 4", "wrong_answer"),
    (SQUARE, "def square(x): return y", "runtime_error"),
    (SQUARE, "def circle(x): return 4", "runtime_error"),
    (SQUARE, "import os\nos._exit(0)", "runtime_error"),
    (SQUARE, "def square(x):\n    import os\n    os._exit(0)", "runtime_error"),
    (SQUARE, "def square(x): raise SystemExit(0)", "runtime_error"),
    (SQUARE, "import sys\nsys.exit()", "runtime_error"),
    (SQUARE, "class A:\n    def __eq__(self, o): return True\ndef square(x): return A()", "runtime_error"),
    (SQUARE, "class A(int):\n    def __eq__(self, o): return True\ndef square(x): return A(5)", "wrong_answer"),
    (SQUARE, "import builtins\nbuiltins.abs = lambda x: 0\ndef square(x): return 4", "wrong_answer"),
    (SQUARE, "def abs(x): return 0\ndef square(x): return 4", "wrong_answer"),
    (SQUARE, "AssertionError = Warning\ndef square(x): return 4", "wrong_answer"),
    (SQUARE, "import json, os\njson.loads = os.read = lambda *a: b''\ndef square(x): return 4", "wrong_answer"),
    (SQUARE, "import sys\nsys.settrace(lambda *a: sys.exit(0))\ndef square(x): return 4", "runtime_error"),
    (SQUARE, "import sys\nsys.settrace(lambda *a: None)\ndef square(x): return 4", "wrong_answer"),
    (SQUARE, "def square(x): return 4\ndef check(f): pass", "wrong_answer"),
    (SQUARE, "def square(x):\n    for f in range(3, 60):\n        try: __import__('os').write(f, b'null' * 20)\n"
     "        except OSError: pass\n    __import__('os')._exit(0)", "runtime_error"),
    (SPLIT, "print(0, input())", "passed"),
    (SPLIT, "n = int(input())\nprint(n - 1)\nprint(1)", "passed"),
    (SPLIT, "print(3, 4)", "wrong_answer"),
    (SPLIT, "print('no numbers')", "wrong_answer"),
    (SPLIT, "print('True')\nimport os\nos._exit(0)", "wrong_answer"),
    (SPLIT, "1 / 0", "runtime_error"),
    (SPLIT, "while True: pass", "time_limit"),
    (LONE, "def f(x): return x", "passed"),
    (ATCODER, "print(factorial(int(input())))", "passed"),
    (STARTER, "print(factorial(int(input())))", "runtime_error"),
]  # fmt: skip


@pytest.mark.parametrize("on, code, expected", VERDICTS)
def test_every_program_gets_its_verdict(box, on, code, expected):
    (verdict,) = box.grade([(on, code)])
    assert verdict.kind == expected and expected in KINDS and len(verdict.detail) <= 400


def test_a_verdict_tells_the_test_the_time_and_the_reason():
    programs = [GOOD, "print(3)", "x = 1\nprint(undefined)", "while 1: pass", "("]
    with Sandbox(time_limit=0.5, wall_limit=60) as box:
        passed, wrong, broken, slow, bad = box.grade([(ADD, code) for code in programs])
    assert passed == Verdict("passed", passed.seconds) and passed.passed and 0 < passed.seconds < 0.5
    assert (wrong.passed, wrong.test, wrong.detail) == (False, 1, "line 1: expected '4', got '3'")
    assert broken.test == 0 and broken.detail.splitlines()[-1] == "NameError: name 'undefined' is not defined"
    assert "line 2" in broken.detail
    assert 0.5 <= slow.seconds < 1.5 * time_scale()
    assert slow.detail.startswith(f"{slow.seconds:.2f} CPU seconds of {0.5 * time_scale()}")
    assert "SyntaxError" in bad.detail


def test_running_gives_the_output_and_what_it_cost(box):
    good, bad = box.run([("import sys\nprint(input())\nprint('e', file=sys.stderr)", "hällo"), ("1 / 0", "")])
    assert (good.status, good.stdout, good.stderr, good.signal) == ("ok", "hällo\n", "e\n", "")
    assert 0 < good.cpu < 0.5 and 0 < good.wall
    assert bad.status == "runtime_error" and bad.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert box.run([]) == [] and box.grade([]) == []


def test_a_large_input_arrives_whole_and_a_large_output_returns_whole(box):
    text = "7" * 3_000_000
    counted, returned = box.run([("print(len(input()))", text), ("print('y' * 250_000, end='')", "")])
    assert counted.stdout == "3000000\n" and returned.stdout == "y" * 250_000


@pytest.mark.parametrize("without", [(), ("mount namespace", "user namespace")])
def test_no_state_passes_from_one_test_to_the_next(without):
    look = textwrap.dedent(
        """
        import builtins, contextlib, math, os, random, sys
        print(hasattr(math, 'mark'), hasattr(builtins, 'mark'), 'mark' in sys.modules, random.random())
        math.mark = builtins.mark = sys.modules['mark'] = math
        """
    )
    if not without:  # there is a folder to write to
        look += "print(os.listdir('.'))\nopen('mark', 'w').write('x')\nos.mkdir('d')\nos.chmod('d', 0)\n"
        look += "with contextlib.suppress(OSError): os.chmod('.', 0)\n"
    with Sandbox(workers=1, without=without) as box:
        seen = {run.stdout for run in box.run([(look, "")] * 6)}
    assert len(seen) == 1 and seen.pop().startswith("False False False 0.")


def test_sets_print_in_the_same_order_in_every_worker():
    shown = set()
    for _ in range(2):
        with Sandbox(workers=1) as box:
            shown.add(box.run([("print({'a', 'b', 'c', 'd', 'e', 'f', 'g'})", "")])[0].stdout)
    assert len(shown) == 1


def test_equal_programs_are_graded_once_and_the_order_is_kept(box):
    verdicts = box.grade([(ADD, GOOD), (ADD, "print(3)"), (ADD, GOOD), (problem(("1 2", "3"), name="b"), "print(3)")])
    assert [v.kind for v in verdicts] == ["passed", "wrong_answer", "passed", "passed"] and verdicts[0] is verdicts[2]


@pytest.mark.parametrize(
    "items, message",
    [
        ([("add", GOOD)], r"items\[0\] is \('add'"),
        ([(ADD, GOOD), (ADD, None)], r"items\[1\] is \(Problem.*a pair of Problem and str"),
        ([ADD], r"items\[0\] is Problem"),
        ([(problem(), GOOD)], "has no tests"),
        ([(problem(("1", "1", "odd")), GOOD)], "of kind 'odd'"),
        ([(problem(("1", "1", "functional")), GOOD)], "no `entry_point`"),
        ([(problem(("1", "x", "functional"), entry_point="f"), GOOD)], "not JSON"),
        *[
            ([(problem(("1", "2"), tolerance=wrong), GOOD)], "'add' can't be graded: tolerance is")
            for wrong in (float("inf"), float("nan"), -1e-9, True, "0.1", None)
        ],
    ],
)
def test_what_cannot_be_graded_is_refused(box, items, message):
    with pytest.raises(InputError, match=message):
        box.grade(items)


def test_what_cannot_be_run_is_refused(box, monkeypatch):
    with pytest.raises(InputError, match="pair of str and str"):
        box.run(["print(1)"])
    with pytest.raises(InputError, match="no_such_module"):
        Sandbox(modules=("no_such_module",))
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxError, match=r"needs Linux .*, not darwin .*docker run"):
        Sandbox()


def test_given_modules_can_be_imported_and_nothing_beside_them():
    with Sandbox(workers=1, modules=("tqdm",)) as box:
        runs = box.run([("import tqdm.utils\nprint(tqdm.utils.__name__)", ""), ("import numpy", "")])
    assert runs[0].stdout == "tqdm.utils\n" and runs[1].status == "runtime_error"


# --- What a program finds, and what comes out at its end --------------------------------------------------------------

STREAMS = {
    # name: (program, what it prints for the input "1 2\n3 4\n")
    "reads its input twice": ("import sys\na = sys.stdin.read()\nsys.stdin.seek(0)\nprint(a == input() + '\\n3 4\\n')",
                              "True\n"),
    "seeks in its input's bytes": ("import sys\nb = sys.stdin.buffer\nb.seek(4)\nprint(b.read(), b.tell())",
                                   "b'3 4\\n' 8\n"),
    "opens its input again": (
        "a = open(0, closefd=False).read()\nprint(len(a), len(open('/dev/stdin').read()))", "8 8\n"),
    "cannot seek in its output": ("import sys\nprint(sys.stdin.seekable(), sys.stdout.seekable())", "True False\n"),
    "finds the interpreter's streams": (
        "import sys\nfor s in (sys.stdin, sys.stdout, sys.stderr):\n"
        "    print(s.name, s.mode, s.fileno(), s.isatty(), end=' ')\n"
        "print(sys.stdin is sys.__stdin__, sys.stdout is sys.__stdout__, sys.stderr.line_buffering)",
        "<stdin> r 0 False <stdout> w 1 False <stderr> w 2 False True True True\n"),
    "wraps the buffers": (
        "import io, sys\nsys.stdin = io.TextIOWrapper(sys.stdin.buffer, encoding='ascii')\n"
        "sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-16-le')\nprint(input())",
        "1\0 \0" "2\0\n\0"),
    "reconfigures its output": (
        "import sys\nsys.stdout.reconfigure(encoding='latin-1', newline='\\r\\n', write_through=True)\nprint('a')",
        "a\r\n"),
    "detaches its output": ("import sys\nout = sys.stdout.detach()\nout.write(b'a')", "a"),
    "detaches its input": ("import io, sys\nsys.stdin = io.TextIOWrapper(sys.stdin.detach())\nprint(input())", "1 2\n"),
    "has a stream that is no IOBase": (
        "import sys\nclass Out:\n    def __init__(self): self.parts = []\n"
        "    def write(self, text): self.parts.append(text)\n"
        "    def flush(self):\n        sys.__stdout__.write(''.join(self.parts))\n        self.parts.clear()\n"
        "sys.stdout = Out()\nprint('a')", "a\n"),
    "has a stream of its own over the file": (
        "import io, os, sys\nclass Out(io.IOBase):\n    def __init__(self): self.buffer = io.BytesIO()\n"
        "    def write(self, text): self.buffer.write(text.encode())\n"
        "    def flush(self):\n        os.write(1, self.buffer.getvalue())\n        self.buffer = io.BytesIO()\n"
        "sys.stdout = Out()\nprint('a')", "a\n"),
    "holds a file in a list": ("files = [open(1, 'w', closefd=False)]\nfiles[0].write('a')", "a"),
    "holds a file in a dictionary of an object": (
        "class A: pass\na = A()\na.out = {'file': open(1, 'wb', closefd=False)}\na.out['file'].write(b'a')", "a"),
    "holds a file in a closure": (
        "def opened():\n    out = open(1, 'w', closefd=False)\n    return lambda text: out.write(text)\n"
        "say = opened()\nsay('a')", "a"),
    "leaves a file with a module": ("import math\nmath.out = open(1, 'w', closefd=False)\nmath.out.write('a')", "a"),
    "leaves a file with the builtins": (
        "import builtins\nbuiltins.out = open('/dev/stdout', 'w')\nbuiltins.out.write('a')", "a"),
    "speaks in a global's __del__": (
        "class A:\n    def __del__(self): print('a', len(LEFT))\nLEFT = [1, 2]\na = A()", "a 2\n"),
    "speaks in the __del__ of a class's attribute": (
        "class A:\n    def __del__(self): print('a')\nclass B:\n    a = A()", "a\n"),
    "speaks in a generator's finally": (
        "def f():\n    try:\n        yield 1\n    finally:\n        print('a')\ng = f()\nprint(next(g))", "1\na\n"),
    "speaks in a context that it never leaves": (
        "import contextlib\n@contextlib.contextmanager\ndef f():\n    try:\n        yield\n"
        "    finally:\n        print('a')\nc = f()\nc.__enter__()", "a\n"),
    "registers an end, and writes in a thread": (
        "import atexit, sys, threading, time\natexit.register(print, 'c')\nclass A:\n"
        "    def __del__(self): print('d')\n"
        "a = A()\nthreading.Thread(target=lambda: (time.sleep(0.05), print('b'))).start()\nprint('a')",
        "a\nb\nc\nd\n"),
    "leaves by an exit in a function": (
        "import sys\nclass A:\n    def __del__(self): print('b')\ndef f():\n    a = A()\n    print('a')\n"
        "    sys.exit()\nf()",
        "a\nb\n"),
    "has a byte order mark": ("\ufeffprint('a')", "a\n"),
    "has a byte order mark and a declared encoding": ("\ufeff# -*- coding: utf-8 -*-\nprint('\u00e4')", "\u00e4\n"),
    "has a byte order mark and a future": (
        "\ufeff'A.'\nfrom __future__ import annotations\nprint(__doc__)", "A.\n"),
}  # fmt: skip


@pytest.fixture(scope="module")
def streams_run(box):
    return dict(zip(STREAMS, box.run([(code, "1 2\n3 4\n") for code, _ in STREAMS.values()]), strict=True))


@pytest.mark.parametrize("name", STREAMS)
def test_streams_are_those_of_an_interpreter(streams_run, name, tmp_path):
    """What is expected above is what `python program.py < input | cat` prints."""
    code, printed = STREAMS[name]
    assert (streams_run[name].status, streams_run[name].stdout) == ("ok", printed), streams_run[name].stderr
    program, given = tmp_path / "program.py", tmp_path / "input"
    program.write_text(code, encoding="utf-8")
    given.write_text("1 2\n3 4\n")
    with given.open() as file:
        ran = subprocess.run([sys.executable, "-E", "-X", "utf8", program], stdin=file, capture_output=True)
    assert ran.stdout.decode() == printed


DEEP = "import sys, threading\nsys.setrecursionlimit(10**6)\ndef f(n): return n and 1 + f(n - 1)\n"
THREAD = "t = threading.Thread(target=lambda: print(f(2 * 10**4)))\nt.start()\nt.join()"


@pytest.mark.parametrize(
    "code, printed",
    [
        (DEEP + "print(f(10**5))", "100000\n"),
        (DEEP.replace("def f", "import functools\n@functools.cache\ndef f") + "print(f(3 * 10**4))", "30000\n"),
        ("import threading\nthreading.stack_size(512 * 1024 * 1024)\n" + DEEP + THREAD, "20000\n"),
        ("from threading import stack_size\nstack_size(10**9 // 4096 * 4096)\n" + DEEP + THREAD, "20000\n"),
        ("import resource as r\nr.setrlimit(r.RLIMIT_STACK, (-1, -1))\n" + DEEP + THREAD, "20000\n"),
        ("import resource as r\nr.setrlimit(r.RLIMIT_STACK, (r.RLIM_INFINITY, r.getrlimit(r.RLIMIT_STACK)[1]))\n"
         + DEEP + THREAD, "20000\n"),
    ],
)  # fmt: skip
def test_a_program_may_raise_its_recursion_limit_and_its_stack(box, code, printed):
    (run,) = box.run([(code, "")])
    assert (run.status, run.stdout) == ("ok", printed), run.stderr


@pytest.mark.parametrize("megabytes, expected", [(50, "ok"), (300, "memory_limit"), (5000, "memory_limit")])
def test_what_a_program_uses_of_the_room_for_stacks_is_memory(megabytes, expected):
    """The address space is there once a program names `stack_size`, but not the memory."""
    with Sandbox(workers=1, memory_mb=128) as box:
        (run,) = box.run([(f"import threading\nthreading.stack_size(2**29)\nx = b'x' * ({megabytes} << 20)", "")])
    assert run.status == expected


# --- Limits -----------------------------------------------------------------------------------------------------------


def test_limits_are_those_of_the_problem_set_with_what_is_changed():
    starter, atcoder = problem(("1", "1")), problem(("1", "1"), source="atcoder")
    assert Limits.of(starter) == Limits.of(None) == Limits(2.0, 512, None, 1024, 16, ())
    assert Limits.of(atcoder) == Limits(6.0, 1024, None, 1024, 16, ("numpy",))
    assert Limits.of(atcoder, time_limit=1, modules=[]) == Limits(1, 1024, None, 1024, 16, ())
    assert Limits(wall_limit=3).wall_seconds == 3 and Limits().wall_seconds == 5 * Limits().cpu_seconds + 2


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"seconds": 1}, "no limit `seconds`"),
        ({"time_limit": 0}, "`time_limit` is 0"),
        ({"time_limit": float("inf")}, "`time_limit` is inf"),
        ({"memory_mb": "512"}, "`memory_mb` is '512'"),
        ({"memory_mb": True}, "`memory_mb` is True"),
        ({"modules": "numpy"}, "`modules` is 'numpy'"),
        ({"workers": 0}, "workers=0"),
        ({"without": ["walls"]}, "no layer 'walls'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, said):
    with pytest.raises(InputError, match=said):
        Sandbox(**settings)


def test_one_sandbox_has_the_limits_of_each_problem_set():
    """A worker with other limits takes over where the problem set changes."""
    code = "import numpy as np\nprint(int(np.arange(4).sum()))"
    here, there = problem(("", "6\n"), name="here"), problem(("", "6\n"), name="there", source="codeforces")
    with Sandbox(workers=1) as box:
        verdicts = box.grade([(there, code), (here, code), (there, f"{code}  # again"), (here, "print(6)")])
    assert [v.kind for v in verdicts] == ["passed", "runtime_error", "passed", "passed"]


@pytest.mark.parametrize("kilobytes", [3, 40, 700])
def test_the_expected_output_always_fits(kilobytes):
    """Also where it is longer than the limit, with blanks at the ends of its lines; for results of calls, too."""
    lines = 4 * kilobytes
    long = problem(("", f"{'7' * 255}\n" * lines), name="long")
    call = problem(
        ("", json.dumps(["\u00e4" * 255] * lines, ensure_ascii=False), "functional"), name="f", entry_point="f"
    )
    with Sandbox(workers=1, output_kb=1) as box:
        verdicts = box.grade([
            (long, f"for _ in range({lines}): print('7' * 255, end='   \\n')"),
            (call, f"def f(): return ['\u00e4' * 255] * {lines}"),
            (long, "while True: print('7' * 255)"),
        ])  # fmt: skip
    assert [v.kind for v in verdicts] == ["passed", "passed", "output_limit"]


@pytest.mark.parametrize("code, returned", [("def f(xs, n): return [x + n for x in xs]", "[3, 4]"), ("1", "")])
def test_a_run_for_a_problem_has_its_limits_and_calls_its_function(code, returned):
    sample = (problems.Test("[1]\n2", "[3]", "functional"),)
    there = Problem("f", "f", "A statement.", "easy", "test", sample, (), source="leetcode", entry_point="f")
    with Sandbox(workers=1) as box:
        (run,) = box.run([("import numpy\n" + code, "[1, 2]\n2")], there)
    assert (run.status, run.result) == ("ok" if returned else "runtime_error", returned)


# --- HumanEval --------------------------------------------------------------------------------------------------------


def test_the_check_is_not_in_the_process_while_the_program_is_read_in(box):
    look = textwrap.dedent(
        """
        import gc, sys
        frame, seen = sys._getframe(), []
        while frame:
            seen += [frame.f_locals, frame.f_globals]
            frame = frame.f_back
        seen += [o for o in gc.get_objects() if isinstance(o, (dict, list, tuple))]
        text = ' '.join(part for o in seen for part in (o.values() if isinstance(o, dict) else o) if type(part) is str)
        assert len(text) > 10_000 and ''.join(['candi', 'date(']) not in text
        """
    )
    assert kinds(box, [look + SQUARES], SQUARE) == ["passed"]


def test_humanevals_own_solutions_pass_and_its_stubs_fail(box):
    some = load_problems("humaneval")[:40]
    assert {v.kind for v in box.grade([(p, p.reference) for p in some])} == {"passed"}
    assert not any(v.passed for v in box.grade([(p, p.starter_code + "    pass\n") for p in some]))


def function_alone(problem):
    """The reference's function without the imports and helpers that the prompt gives."""
    body = ast.parse(problem.reference).body
    return ast.unparse(next(n for n in body if getattr(n, "name", "") == problem.entry_point))


def test_a_program_need_not_write_what_humanevals_prompt_gives():
    every = load_problems("humaneval")
    leaning = [p for p in every if p.id.removeprefix("HumanEval/") in ("10", "32", "38", "50")]
    future = [(p, "from __future__ import annotations\n" + function_alone(p)) for p in leaning]
    own = [(p, "is_palindrome = poly = encode_cyclic = encode_shift = None\n") for p in leaning]
    with Sandbox() as box:
        assert {v.kind for v in box.grade([(p, function_alone(p)) for p in every])} == {"passed"}
        assert [v.kind for v in box.grade(future + own)] == ["passed"] * 4 + ["runtime_error"] * 4


# --- Hostile programs -------------------------------------------------------------------------------------------------

LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
HOSTILE = {
    # name: (program, the verdicts that are right)
    "bombs the memory": ("x = [1]\nwhile True: x += x", "memory_limit"),
    "maps memory without end": ("import mmap\nx = [mmap.mmap(-1, 10**8) for _ in range(99)]", "runtime_error"),
    "keeps memory in files without a name": (
        "import os\nfor _ in range(99): os.write(os.memfd_create('x'), bytes(10**7))", "runtime_error"),
    "keeps memory in shared segments": (LIBC + "assert libc.shmget(0, 10**8, 0o1600) >= 0", "runtime_error"),
    "shares memory by name": (
        "from multiprocessing.shared_memory import SharedMemory\nSharedMemory(create=True, size=10**8)",
        "runtime_error"),
    "ignores every signal and loops": (
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass", "time_limit"),
    "loops in a regular expression": ("import re\nre.match('(a+)+b', 'a' * 40)", "time_limit"),
    "loops in many threads": (
        "import threading\ndef f():\n    while True: pass\nfor _ in range(8): threading.Thread(target=f).start()",
        "time_limit"),
    "loops in an exit handler": ("import atexit\ndef f():\n    while True: pass\natexit.register(f)", "time_limit"),
    "sleeps": ("import time\ntime.sleep(1000)", "time_limit"),
    "stops itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", "time_limit"),
    "prints without end": ("while True: print('x' * 1000)", "output_limit"),
    "writes without end": ("import os\nwhile True: os.write(1, bytes(65536))", "output_limit"),
    "complains without end": ("import os\nwhile True: os.write(2, bytes(65536))", "time_limit"),
    "prints what is no text": ("import os\nos.write(1, bytes(range(256)) * 100)", "wrong_answer"),
    "recurses without end": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f([x]) + 1\nf(0)",
        "memory_limit|time_limit|killed"),
    "recurses without end in C": (
        "import sys, functools\nsys.setrecursionlimit(10**9)\nf = functools.cache(lambda n: f(n + 1))\nf(0)",
        "killed|memory_limit|time_limit"),
    "nests brackets": ("exec('(' * 10**5 + ')' * 10**5)", "runtime_error|memory_limit"),
    "computes a huge power": ("print(9**9**9**9)", "time_limit|memory_limit"),
    "kills itself": ("import os\nos.kill(os.getpid(), 9)", "killed"),
    "kills itself by a signal without a name": ("import os\nos.kill(os.getpid(), 40)", "killed"),
    "sets an alarm": ("import signal\nsignal.alarm(1)\nsignal.pause()", "killed"),
    "leaves by the back door": ("import os\nos._exit(0)", "wrong_answer"),
    "leaves with an error": ("import os\nprint(3, flush=True)\nos._exit(7)", "runtime_error"),
    "closes all files": ("import os\nos.closerange(0, 256)\nprint(3)", "runtime_error"),
    "closes its output": ("import sys\nsys.stdout.close()", "wrong_answer"),
    "kills its parent": ("import os\nos.kill(os.getppid(), 9)\nprint(3)", "runtime_error"),
    "stops its parent": ("import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)\nprint(3)", "runtime_error"),
    "kills everybody": ("import os\nos.kill(-1, 9)\nprint(0)", "runtime_error|wrong_answer"),
    "traces its parent": (LIBC + "import os\nassert libc.ptrace(16, os.getppid(), 0, 0) == 0", "runtime_error"),
    "reads its parent's memory": ("import os\nopen(f'/proc/{os.getppid()}/mem', 'rb')", "runtime_error"),
    "reads its parent's environment": ("import os\nopen(f'/proc/{os.getppid()}/environ')", "runtime_error"),
    "reads the environment": ("import os\nprint(os.environ['PATH'])", "runtime_error"),
    "reads the grader's files": ("import os\nprint(os.listdir({data!r}))", "runtime_error"),
    "reads the users": ("print(open('/etc/passwd').read())", "runtime_error"),
    "looks into /proc for others": (
        "import os\nprint([p for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid()] and 3)",
        "wrong_answer"),
    "writes to the kernel": ("open('/proc/sys/kernel/hostname', 'w')", "runtime_error"),
    "writes outside": ("open({outside!r}, 'w')", "runtime_error"),
    "deletes the interpreter's files": ("import os\nos.remove(os.__file__)", "runtime_error"),
    "changes the interpreter's files": ("import os\nopen(os.__file__, 'a')", "runtime_error"),
    "links out of its folder": ("import os\nos.link(os.__file__, 'x')", "runtime_error"),
    "fills the disk": ("f = open('x', 'wb')\nwhile True: f.write(bytes(10**6))", "runtime_error"),
    "fills the disk by many files": (
        "for i in range(99):\n    with open(str(i), 'wb') as f: f.write(bytes(10**7))", "runtime_error"),
    "makes files without end": ("for i in range(10**6): open(str(i), 'w').close()", "runtime_error"),
    "makes folders in folders": ("import os\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')", "runtime_error"),
    "opens files without end": ("x = [open('/dev/null') for _ in range(10**5)]", "runtime_error"),
    "forks": ("import os\nos.fork()", "runtime_error"),
    "starts a program": ("import subprocess\nsubprocess.run(['/bin/sh', '-c', 'echo 3'])", "runtime_error"),
    "becomes a program": ("import os, sys\nos.execv('/bin/sh', ['sh'])", "runtime_error"),
    "starts threads without end": (
        "import threading, time\nfor _ in range(999): threading.Thread(target=time.sleep, args=(9,)).start()",
        "runtime_error|time_limit"),
    "connects": ("import socket\nsocket.create_connection(('127.0.0.1', 22), 1)", "runtime_error"),
    "listens": ("import socket\nsocket.socket().bind(('', 8765))", "runtime_error"),
    "mounts": (LIBC + "assert libc.mount(b'x', b'/tmp', b'tmpfs', 0, None) == 0", "runtime_error"),
    "unmounts": (LIBC + "assert libc.umount2(b'/tmp', 2) == 0", "runtime_error"),
    "makes a namespace": (LIBC + "assert libc.unshare(0x10000000) == 0", "runtime_error"),
    "changes its root": ("import os\nos.chroot('/tmp')", "runtime_error"),
    "becomes root": ("import os\nos.setuid(0)\nos.setgid(0)\nopen('/usr/x', 'w')", "runtime_error"),
    "raises its limits": ("import resource as r\nr.setrlimit(r.RLIMIT_AS, (2**40, 2**40))", "runtime_error"),
    "patches what the driver uses": (
        "import atexit, builtins, os, signal, sys, threading, traceback\n"
        "os._exit = sys.exit = os.write = threading._shutdown = atexit._run_exitfuncs = lambda *a: None\n"
        "traceback.format_exception = builtins.isinstance = builtins.open = lambda *a, **k: None\nraise ValueError",
        "runtime_error"),
    "patches print": ("import builtins\nbuiltins.print = lambda *a: None\nprint(3)", "wrong_answer"),
    "replaces its output": (
        "import sys\nclass Out:\n    def write(self, s): sys.__stdout__.write('7')\n"
        "    def flush(self): raise ValueError\nsys.stdout = Out()\nprint(3)", "wrong_answer"),
    "swallows every exception": (
        "while True:\n    try: raise SystemExit\n    except BaseException: pass", "time_limit"),
    "writes to every file it has": (
        "import os\nfor f in range(3, 256):\n    try: os.write(f, b'3' * 99)\n    except OSError: pass\nprint(0)",
        "wrong_answer"),
    "claims another failure": ("import os\nos._exit(101)", "syntax_error"),
}  # fmt: skip


@pytest.fixture(scope="module")
def hostile_verdicts(box, tmp_path_factory):
    """Verdicts of all hostile programs, each between two good ones, in one call; and of those good ones."""
    missing = [name for name, on in box.report().items() if not on]
    if missing:
        pytest.skip(f"the hostile programs rely on isolation that is off here: {', '.join(missing)}")
    outside = tmp_path_factory.mktemp("outside")
    places = {
        "{outside!r}": repr(str(outside / "x")),
        "{data!r}": repr(str(Path(judge.__file__).parents[2] / "data")),
    }
    pairs = []
    for number, (code, _) in enumerate(HOSTILE.values()):
        for mark, place in places.items():
            code = code.replace(mark, place)
        pairs += [(ADD, f"{GOOD}  # {number}"), (ADD, code)]
    before = Path("/proc/sys/kernel/pid_max").read_text(), sorted(os.listdir(outside))
    verdicts = box.grade(pairs)
    assert before == (Path("/proc/sys/kernel/pid_max").read_text(), sorted(os.listdir(outside)))
    return dict(zip(HOSTILE, verdicts[1::2], strict=True)), verdicts[::2]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_gets_its_verdict(hostile_verdicts, name):
    verdict = hostile_verdicts[0][name]
    assert verdict.kind in HOSTILE[name][1].split("|"), verdict.detail


def test_good_programs_beside_hostile_ones_keep_their_verdict(hostile_verdicts):
    assert len(hostile_verdicts[1]) >= 30 and {v.kind for v in hostile_verdicts[1]} == {"passed"}


def planted(word):
    """A mark that a program finds only where it was planted: the pattern that it looks for is no mark itself."""
    return f"planted-{word}-9876"


@pytest.mark.parametrize("kind_of_test", ["stdin", "functional", "check", "checker"])
def test_nothing_of_an_earlier_request_is_in_the_memory_of_a_program(kind_of_test):
    """Neither the expected output nor a checker, nor an earlier program with what it read, wrote and returned.

    All go through one worker, several times, with short and with long texts.
    """
    marks = [planted(word) for word in ("source", "input", "printed", "complaint", "expected", "checker", "result")]
    source, given, printed, complaint, expected, checker, result = marks
    program = (
        (
            f"# {source}\nimport sys\nprint({printed!r}, file=sys.stderr)\nprint({complaint!r})\n"
            f"def f(x): return {result!r}\n"
        )
        + "pass  # "
        + source * 3000
    )
    tests = {
        "stdin": problem((given * 2000, expected * 2000), name="s"),
        "functional": problem((f'"{given * 2000}"', f'"{expected}"', "functional"), name="f", entry_point="f"),
        "check": problem((f"# {given}\nassert f(1) == {result!r}, {expected!r}", "", "check"), entry_point="f"),
        "checker": problem(
            (given, expected), name="k", checker=f"# {checker}\ndef check(input, output, expected): return True"),
    }  # fmt: skip
    look = textwrap.dedent(
        """
        import ctypes, re
        question, found = input(), set()
        for line in open('/proc/self/maps').read().splitlines():
            place, rights = line.split()[:2]
            if rights.startswith('rw') and '[v' not in line:
                start, end = (int(x, 16) for x in place.split('-'))
                found.update(re.findall(b'planted-([a-z]+)-9876', ctypes.string_at(start, end - start)))
        print(*sorted(found))
        """
    )
    with Sandbox(workers=1) as box:
        if not box.report()["pid namespace"]:
            pytest.skip("no /proc in the sandbox here")
        for _ in range(3):
            box.grade([(tests[kind_of_test], program)])
        (run,) = box.run([(look, planted("own"))])
        again = box.grade([(problem((planted("own"), planted("expected")), name="last"), look)])[0]
    assert (run.status, run.stdout) == ("ok", "b'own'\n"), run.stderr
    assert "got \"b'own'\"" in again.detail


DAEMON = (
    "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(1000)\n"
    "    os._exit(0)\n"
)


@pytest.mark.parametrize("without", [("seccomp",), ("seccomp", *NAMESPACES)])
def test_nothing_that_a_program_starts_outlives_it(without):
    """With seccomp off, so that programs can fork; and with no PID namespace either."""
    with Sandbox(workers=1, time_limit=0.5, wall_limit=1.5, without=without) as box:
        box.run([("", "")])
        before = len(descendants(os.getpid()))
        assert {v.kind for v in box.grade([(ADD, DAEMON + GOOD), (ADD, GOOD)])} == {"passed"}
        assert len(descendants(os.getpid())) == before


def test_a_fork_bomb_is_stopped_by_the_limit_of_processes():
    with Sandbox(workers=2, time_limit=0.5, wall_limit=1.5, without=("seccomp",)) as box:
        box.run([("", "")] * 4)
        before = len(descendants(os.getpid()))
        if not box.report()["pid namespace"]:
            pytest.skip("processes can't be kept in a namespace here, so no fork bomb is run")
        count = (
            "import os, time\nn = 0\nfor _ in range(60):\n    try: pid = os.fork()\n    except OSError: break\n"
            "    if pid == 0:\n        time.sleep(9)\n        os._exit(0)\n    n += 1\nprint(n)"
        )
        forks = int(box.run([(count, "")])[0].stdout)
        assert forks <= 16, "a program could start more processes than the limit: no fork bomb is run"
        bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
        codes = [GOOD, bomb, "import os\nwhile True: os.fork()", GOOD + "\n"]
        assert kinds(box, codes) == ["passed", "time_limit", "runtime_error", "passed"]
        assert len(descendants(os.getpid())) == before


# --- The sandbox itself -----------------------------------------------------------------------------------------------


def test_the_sandbox_is_its_package_s_first_import():
    """It must not depend on what was imported before."""
    done = subprocess.run(
        [sys.executable, "-c", "from dreamprm_lib.engine.sandbox import Sandbox"], capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_the_kernel_s_coarse_clock_never_decides():
    """It counts ticks, which on a busy core are up to twice the time used: a program must not be killed by it early."""
    with Sandbox(workers=1, time_limit=3.0) as strict:
        (made,) = strict.run([("import resource\nprint(resource.getrlimit(resource.RLIMIT_CPU)[0])", "")])
    assert int(made.stdout) > 2 * 3.0


def test_too_much_output_is_too_much_however_fast_the_program_is(box):
    """It ends before the worker looks, and all of its output is still in the pipe."""
    codes = [f"print('x' * 5000)  # {number}" for number in range(5)]
    assert kinds(box, codes) == ["wrong_answer"] * 5
    with Sandbox(workers=1, output_kb=1) as strict:
        assert kinds(strict, codes) == ["output_limit"] * 5


@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_can_be_done_without_alone(layer):
    with Sandbox(workers=1, without=(layer,)) as less:
        assert kinds(less, [GOOD, "print(3)"]) == ["passed", "wrong_answer"]
        assert tuple(less.report()) == LAYERS and not less.report()[layer]


@pytest.mark.parametrize("without", [NAMESPACES, ("landlock", "seccomp"), LAYERS])
def test_verdicts_are_the_same_with_fewer_layers(without):
    programs = [GOOD, "print(3)", "1 / 0", "(", "while True: pass", "while True: print(1)", "import os\nos.abort()"]
    with Sandbox(workers=1, time_limit=0.5, output_kb=64, without=without) as box:
        assert kinds(box, programs) == [
            "passed", "wrong_answer", "runtime_error", "syntax_error", "time_limit", "output_limit", "killed"
        ]  # fmt: skip


def test_what_is_missing_is_said_once():
    """On a machine that gives no further user namespace."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "--user", "--map-root-user", "true"]).returncode:
        pytest.skip("no user namespace can be made here")
    code = (
        "from dreamprm_lib.engine.sandbox import Sandbox\nfor _ in range(2):\n    with Sandbox() as box: box.report()"
    )
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" -c "$1"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", script, sys.executable, code]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert said.count("The sandbox runs without user namespace") == said.count("runs without") == 1


def test_a_wall_time_out_counts_only_after_a_run_alone():
    """A program that is held up once, longer than it may take, is not wrong."""
    with Sandbox(workers=1, wall_limit=1.5) as box, ThreadPoolExecutor(1) as threads:
        box.report()
        before = descendants(os.getpid())
        graded = threads.submit(kinds, box, ["import time\ntime.sleep(0.5)\n" + GOOD])
        while not (started := [p for p in descendants(os.getpid()) if p not in before]):
            time.sleep(0.02)
        started[0].suspend()
        assert graded.result() == ["passed"]


def test_a_slower_machine_gives_more_time(monkeypatch):
    assert 1 <= time_scale() < 100
    monkeypatch.setattr(verdicts, "time_scale", lambda: 3.0)
    with Sandbox(workers=1, time_limit=0.2, wall_limit=60) as box:
        verdict = box.grade([(ADD, "import time\nwhile time.process_time() < 0.4: pass\n" + GOOD)])[0]
    assert verdict.passed and verdict.seconds >= 0.4


def test_threads_may_share_a_sandbox(box):
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda number: kinds(box, [GOOD, f"print({number})"]), range(8))
        assert list(found) == [["passed", "wrong_answer"]] * 8


def test_a_worker_that_dies_is_replaced(box):
    box.run([("", "")] * 4)
    for process in descendants(os.getpid()):
        with contextlib.suppress(psutil.Error):  # it may end while it is looked at
            if WORKER in process.cmdline():
                process.kill()
    assert set(kinds(box, [f"{GOOD}  # {n}" for n in range(6)])) == {"passed"}


def test_a_program_that_ends_its_worker_every_time_is_killed():
    """Which is possible only where nothing isolates it; another program is not harmed."""
    with Sandbox(workers=2, without=LAYERS) as box:
        killer, other = box.grade([(ADD, "import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(9)"), (ADD, GOOD)])
    assert (killer.kind, killer.test, other.kind) == ("killed", 0, "passed") and "ended in the middle" in killer.detail


def test_a_program_that_could_not_be_shut_in_is_not_run(monkeypatch):
    """A child that ends before it reads the program counts as one, and no file stays open here."""
    with Sandbox(workers=1) as box:
        box.run([("", "")])
        before = sorted(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(verdicts.RunRequest, "text", lambda request: b"")
        with pytest.raises(SandboxError, match="could not be shut in"):
            box.run([("print(1)", "")])
        monkeypatch.undo()
        assert box.run([("print(1)", "")])[0].stdout == "1\n"
        assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_worker_that_does_not_start_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "broken_worker.py").write_text("raise ValueError('no worker today')")
    monkeypatch.setattr(judge, "PACKAGE", tmp_path)
    monkeypatch.setattr(judge, "WORKER", "broken_worker")
    with Sandbox() as box, pytest.raises(DreamPRMError, match="no worker today"):
        box.run([("", "")])


@pytest.mark.parametrize("without", [(), LAYERS])
def test_closing_leaves_no_process(without):
    before = {p.pid for p in descendants(os.getpid())}
    with Sandbox(workers=2, without=without) as box:
        box.run([("", "")] * 4)
        assert len({p.pid for p in descendants(os.getpid())} - before) >= 2
    assert {p.pid for p in descendants(os.getpid())} <= before
    assert box.run([("print(1)", "")])[0].stdout == "1\n"  # it starts again
    box.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_runs_on_when_the_grader_is_ended_in_the_middle(how):
    script = textwrap.dedent(
        """
        import signal, threading, psutil
        from dreamprm_lib.engine.sandbox.judge import Sandbox
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
        def tell():
            pids = [p.pid for p in psutil.Process().children(recursive=True)]
            print(*pids, flush=True)
        with Sandbox(workers=2, time_limit=60) as box:
            box.run([('', '')] * 4)
            threading.Timer(0.5, tell).start()
            box.run([('while True: pass', ''), ('import time\\ntime.sleep(100)', '')])
        """
    )
    grader = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with grader:
        pids = [int(pid) for pid in grader.stdout.readline().split()]
        assert len(pids) >= 4
        grader.send_signal(how)
        grader.wait(timeout=10)
    deadline = time.monotonic() + 5
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
