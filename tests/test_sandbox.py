"""Each promise of the sandbox against a program that tries to break it; verdicts and comparison as literals."""

import os
import subprocess
import time

import pytest

from dreamprm_lib.engine import problems
from dreamprm_lib.engine.problems import Problem, load_problems
from dreamprm_lib.engine.sandbox import KINDS, Sandbox, outputs_match
from dreamprm_lib.errors import InputError

ADD = Problem("add", "Add", "Add.", "easy", "test", (), (problems.Test("1 2\n", "3\n"), problems.Test("2 2\n", "4\n")))
GOOD = "print(sum(map(int, input().split())))"


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=2, time_limit=1, memory_mb=256, output_kb=64) as opened:
        yield opened


def kind(sandbox, code, problem=ADD):
    return sandbox.grade([(problem, code)])[0].kind


@pytest.mark.parametrize(
    "code, expected",
    [
        (GOOD, "passed"),
        ("import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))", "passed"),
        ("print(sum(map(int, open(0).read().split())))\nraise SystemExit(0)", "passed"),
        ("if __name__ == '__main__':\n    print(sum(map(int, input().split())))", "passed"),
        ("print(3)", "wrong_answer"),
        ("", "wrong_answer"),
        ("print(1 / 0)", "runtime_error"),
        ("import sys\nprint(3)\nsys.exit(1)", "runtime_error"),
        ("def f(): f()\nf()", "runtime_error"),
        ("input(); input()", "runtime_error"),
        ("def (", "syntax_error"),
        ("x = '\0'", "syntax_error"),
        ("while True: pass", "time_limit"),
        ("x = [0] * 10**9", "memory_limit"),
        ("x = []\nwhile True: x.append(bytearray(10**7))", "memory_limit"),
        ("while True: print('x' * 1000)", "output_limit"),
        ("import ctypes\nctypes.string_at(0)", "killed"),
    ],
)
def test_every_kind_of_end_gets_its_verdict(sandbox, code, expected):
    assert kind(sandbox, code) == expected and expected in KINDS


def test_a_verdict_says_which_test_failed_and_how(sandbox):
    wrong, broken = sandbox.grade([(ADD, "print(3)"), (ADD, "x = 1\nprint(undefined)")])
    assert (wrong.test, wrong.detail) == (1, "line 1: '3' instead of '4'")
    assert broken.test == 0 and "NameError: name 'undefined' is not defined" in broken.detail
    assert "line 2" in broken.detail


def test_a_sleeping_program_is_stopped_by_the_wall_clock(sandbox):
    started = time.monotonic()
    assert kind(sandbox, "import time\ntime.sleep(100)") == "time_limit"
    assert time.monotonic() - started < 20


HOSTILE = {  # each tries to print 3 and 4 without adding, or to do harm; none may pass
    "reads the worker's memory": "print(open('/proc/1/mem', 'rb').read(10))",
    "reads the grader's files": "import glob\nprint(open(glob.glob('{data}/starter/*.toml')[0]).read())",
    "reads the environment": "import os\nprint(os.environ['OPENAI_API_KEY'])",
    "leaves by the back door": "import os\nos._exit(0)",
    "closes its output": "import os\nos.close(1)",
    "patches builtins": "import builtins\nbuiltins.print = lambda *a: None\nprint(3)",
    "patches json": "import json\njson.dumps = lambda x: '3'\njson.loads = lambda x: 3",
    "kills its parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "kills everybody": "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "writes outside": "open('{outside}', 'w').write('x')",
    "deletes the interpreter's files": "import os, json\nos.remove(json.__file__)",
    "connects": "import socket\nsocket.create_connection(('127.0.0.1', 22), 1)",
    "listens": "import socket, sys\ns = socket.socket()\ns.connect(('10.0.0.1', 80))",
    "fills the disk": "f = open('big', 'wb')\nwhile True: f.write(bytes(10**7)); f.flush()",
    "fills the disk by many files": "for i in range(10**6): open(str(i), 'wb').write(bytes(10**6))",
    "opens files without end": "x = [open('/dev/null') for _ in range(10**5)]",
    "traces its parent": "import ctypes\nlibc = ctypes.CDLL(None)\nassert libc.ptrace(16, 1, 0, 0) == 0",
    "remounts": "import ctypes\nassert ctypes.CDLL(None).umount2(b'{data}', 2) == 0",
    "nests without end": "exec('(' * 10**5 + ')' * 10**5)",
    "raises its own limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))\nx = [0] * 10**9",
    "prints what is no text": "import os\nos.write(1, bytes(range(256)) * 100)",
}


@pytest.fixture(scope="module")
def isolated(sandbox):
    missing = [name for name, on in sandbox.report().items() if on is not True]
    if missing:
        pytest.skip(f"isolation that the hostile programs rely on is off: {', '.join(missing)}")
    return sandbox


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_wins_nothing_and_harms_nothing(isolated, tmp_path, name):
    outside = tmp_path / "planted"
    data = os.path.join(os.path.dirname(problems.__file__), "..", "data")
    code = HOSTILE[name].replace("{outside}", str(outside)).replace("{data}", os.path.realpath(data))
    verdicts = isolated.grade([(ADD, GOOD), (ADD, code), (ADD, GOOD + "\n")])
    assert [v.kind for v in verdicts[::2]] == ["passed", "passed"]
    assert not verdicts[1].passed
    assert not outside.exists()


def test_nothing_is_left_running(isolated):
    daemon = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    os.execvp('sleep', ['sleep', '7654'])\n"
    isolated.grade([(ADD, daemon + GOOD)])
    time.sleep(0.2)
    assert "sleep 7654" not in subprocess.run(["ps", "-ef"], capture_output=True, text=True).stdout


def test_no_state_leaks_from_one_test_to_the_next(sandbox):
    marker = "import os, math\nprint(os.path.exists('mark'), hasattr(math, 'mark'))\nopen('mark', 'w')\nmath.mark = 1"
    runs = sandbox.run([(marker, "")] * 4)
    assert {r.stdout for r in runs} == {"False False\n"}


def test_the_expected_output_never_enters_the_process(sandbox):
    """A program that dumps all that it can see of itself finds its input there, and not the answer."""
    secret = Problem("s", "S", "S", "easy", "test", (), (problems.Test("question-1234\n", "answer-9876\n"),))
    look = (
        "import gc, os, sys\n"
        "text = repr(sys.modules['__main__'].__dict__) + repr(sys.argv) + repr(dict(os.environ))\n"
        "for m in open('/proc/self/maps'):\n"
        "    pass\n"
        "seen = repr([o for o in gc.get_objects() if isinstance(o, (str, dict, list, tuple))])\n"
        "print('found' if ('answer-' + str(9876)) in text + seen else 'nothing')\n"
    )
    verdict = sandbox.grade([(secret, look)])[0]
    assert verdict.kind == "wrong_answer" and "'nothing'" in verdict.detail


def test_functional_tests_call_the_solution(sandbox):
    tests = (problems.Test("[1, 2]\n3", "[4, 5]", "functional"), problems.Test("[]\n1", "[]", "functional"))
    problem = Problem("f", "F", "F", "easy", "test", (), tests, entry_point="shift")
    method = "class Solution:\n    def shift(self, xs, n):\n        return [x + n for x in xs]"
    assert kind(sandbox, method, problem) == "passed"
    assert kind(sandbox, "def shift(xs, n):\n    print('noise')\n    return [x + n for x in xs]", problem) == "passed"
    assert kind(sandbox, "def shift(xs, n):\n    return xs", problem) == "wrong_answer"
    assert kind(
        sandbox, "def shift(xs, n):\n    import os\n    print('[4, 5]', flush=True)\n    os._exit(0)", problem
    ) == ("wrong_answer")


def test_humanevals_own_solutions_pass_and_stubs_fail(sandbox):
    some = load_problems("humaneval")[:12]
    assert {v.kind for v in sandbox.grade([(p, p.reference) for p in some])} == {"passed"}
    assert not any(v.passed for v in sandbox.grade([(p, p.starter_code + "    pass\n") for p in some]))
    assert not sandbox.grade([(some[0], "import os\nos._exit(0)")])[0].passed


def test_equal_programs_are_graded_once_and_order_is_kept(sandbox):
    pairs = [(ADD, GOOD), (ADD, "print(3)"), (ADD, GOOD)]
    assert [v.kind for v in sandbox.grade(pairs)] == ["passed", "wrong_answer", "passed"]


def test_a_worker_that_dies_is_replaced(sandbox):
    for worker in sandbox._workers:
        worker._process.kill()
        worker._process.wait()
    assert {v.kind for v in sandbox.grade([(ADD, GOOD), (ADD, GOOD + " ")])} <= {"killed", "passed"}
    assert {v.kind for v in sandbox.grade([(ADD, GOOD), (ADD, GOOD + "  ")])} == {"passed"}


def test_what_is_no_pair_is_refused(sandbox):
    with pytest.raises(InputError, match="pairs"):
        sandbox.grade([("add", GOOD)])


@pytest.mark.parametrize(
    "actual, expected, tolerance, same",
    [
        ("1 2 \n", "1 2\n", 0, True),
        ("1\n2\n\n", "1\n2", 0, True),
        ("1\n\n2", "1\n2", 0, False),
        ("1.0", "1", 0, True),
        ("1e3", "1000", 0, True),
        ("0.30000000000000004", "0.3", 0, False),
        ("0.30000000000000004", "0.3", 1e-9, True),
        ("1000001", "1000000", 1e-5, True),
        ("Yes", "yes", 0, False),
        ("a  b", "a b", 0, True),
        ("1 2", "12", 0, False),
        ("nan", "nan", 0, True),
        ("", "0", 0, False),
        ("007", "7", 0, True),
        ("-", "0", 0, False),
    ],
)
def test_outputs_are_compared_by_line_and_numbers_as_decimals(actual, expected, tolerance, same):
    assert outputs_match(actual, expected, tolerance) is same
