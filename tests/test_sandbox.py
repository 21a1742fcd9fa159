"""The grading sandbox: verdicts as literals, and a hostile program for each promise.

The hostile programs rely on isolation, so they run only if the sandbox reports every layer that this needs.
"""

import ast
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from dreamprm_lib.engine import problems
from dreamprm_lib.engine.files import DATA, from_yaml
from dreamprm_lib.engine.problems import Problem, load_problems
from dreamprm_lib.engine.sandbox import judge, verdicts
from dreamprm_lib.engine.sandbox.judge import LAYERS, WORKER, Sandbox
from dreamprm_lib.engine.sandbox.verdicts import KINDS, Limits, Verdict, time_scale
from dreamprm_lib.errors import DreamPRMError, InputError, SandboxError


def problem(*tests, name="add", **fields):
    """A problem whose tests are (input, output) pairs, or (input, output, kind)."""
    made = tuple(problems.Test(*test) for test in tests)
    return Problem(name, name, "A statement.", "easy", "test", (), made, **fields)


NINES, ZEROS = "9" * 6000, "0" * 6000
CHECK = "def check(candidate):\n    assert candidate(2) == 4\n    assert abs(candidate(-3) - 9) < 1e-6\ncheck(square)\n"
CHECKER = "def check(input, output, expected):\n    a, b = map(int, output.split())\n    return a + b == int(input)\n"
PROBLEMS = {
    "add": problem(("1 2\n", "3\n"), ("2 2\n", "4\n")),
    "shift": problem(
        ("[1, 2]\n3", "[4, 5]", "functional"), ("[]\n1", "[]", "functional"), entry_point="shift"),
    "square": problem((CHECK, "", "check"), name="square", entry_point="square"),
    "big": problem(
        (f"{NINES}\n1", f"1{ZEROS}", "functional"), (f"[{NINES}]\n0", f"[{NINES}]", "functional"), entry_point="f"),
    "lone": problem(('"\ud800"', '"\\ud800"', "functional"), entry_point="f"),  # a lone surrogate
    "split": problem(("7\n", "3 4\n"), ("2\n", "1 1\n"), name="split", checker=CHECKER),
    "atcoder": problem(("5", "120"), source="atcoder"),  # whose programs find LiveCodeBench's imports
    "starter": problem(("5", "120"), source="starter"),
}  # fmt: skip
ADD, SQUARE = PROBLEMS["add"], PROBLEMS["square"]
PROGRAMS = from_yaml((Path(__file__).parent / "programs.yaml").read_text("utf-8"), "programs.yaml")
PROBES = PROGRAMS["probes"]
GOOD = "print(sum(map(int, input().split())))"
SQUARES = "def square(x): return x * x"
NAMESPACES = ("user namespace", "mount namespace", "pid namespace", "network namespace")


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
    (on, expected, code) for on, found in PROGRAMS["verdicts"].items() for expected in found for code in found[expected]
]


@pytest.mark.parametrize("on, expected, code", [*VERDICTS, ("add", "syntax_error", "x = '\ud800'")])
def test_every_program_gets_its_verdict(box, on, expected, code):
    (verdict,) = box.grade([(PROBLEMS[on], code)])
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
    look = PROBES["leaves marks in its process"]
    with Sandbox(workers=1, without=without) as box:
        seen = {run.stdout for run in box.run([(look, "")] * 6)}
    assert len(seen) == 1 and seen.pop().startswith("False False False 0.")


def test_equal_programs_are_graded_once_and_the_order_is_kept(box):
    verdicts = box.grade([(ADD, GOOD), (ADD, "print(3)"), (ADD, GOOD), (problem(("1 2", "3"), name="b"), "print(3)")])
    assert [v.kind for v in verdicts] == ["passed", "wrong_answer", "passed", "passed"] and verdicts[0] is verdicts[2]


@pytest.mark.parametrize(
    "items, message",
    [
        ([(ADD, GOOD), (ADD, None)], r"items\[1\] is \(Problem.*a pair of Problem and str"),
        ([(problem(), GOOD)], "has no tests"),
        ([(problem(("1", "1", "odd")), GOOD)], "of kind 'odd'"),
        ([(problem(("1", "1", "functional")), GOOD)], "no `entry_point`"),
        ([(problem(("1", "x", "functional"), entry_point="f"), GOOD)], "not JSON"),
        *[
            ([(problem(("1", "2"), tolerance=wrong), GOOD)], "'add' can't be graded: tolerance is")
            for wrong in (float("nan"), -1e-9, "0.1")
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


@pytest.fixture(scope="module")
def streams_run(box):
    codes = [(program["code"], "1 2\n3 4\n") for program in PROGRAMS["streams"].values()]
    return dict(zip(PROGRAMS["streams"], box.run(codes), strict=True))


@pytest.mark.parametrize("name, program", PROGRAMS["streams"].items())
def test_streams_are_those_of_an_interpreter(streams_run, name, program, tmp_path):
    run, path, given = streams_run[name], tmp_path / "program.py", tmp_path / "input"
    assert (run.status, run.stdout) == ("ok", program["prints"]), run.stderr
    path.write_text(program["code"], encoding="utf-8")
    given.write_text("1 2\n3 4\n")
    with given.open() as file:
        ran = subprocess.run([sys.executable, "-E", "-X", "utf8", path], stdin=file, capture_output=True)
    assert ran.stdout.decode() == program["prints"]


@pytest.mark.parametrize("program", PROGRAMS["stacks"].values(), ids=PROGRAMS["stacks"])
def test_a_program_may_raise_its_recursion_limit_and_its_stack(box, program):
    (run,) = box.run([(program["code"], "")])
    assert (run.status, run.stdout) == ("ok", program["prints"]), run.stderr


# --- Limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"seconds": 1}, "no limit `seconds`"),
        ({"time_limit": float("inf")}, "`time_limit` is inf"),
        ({"memory_mb": "512"}, "`memory_mb` is '512'"),
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


def test_the_expected_output_always_fits():
    """Also where it is longer than the limit, with blanks at the ends of its lines; for results of calls, too."""
    lines = 2800
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


# --- HumanEval --------------------------------------------------------------------------------------------------------


def test_the_check_is_not_in_the_process_while_the_program_is_read_in(box):
    assert kinds(box, [PROBES["looks for the check"] + "\n" + SQUARES], SQUARE) == ["passed"]


def function_alone(problem):
    """The reference's function without the imports and helpers that the prompt gives."""
    body = ast.parse(problem.reference).body
    return ast.unparse(next(n for n in body if getattr(n, "name", "") == problem.entry_point))


def test_a_program_need_not_write_what_humanevals_prompt_gives():
    every = load_problems("humaneval")
    leaning = [p for p in every if p.id.removeprefix("HumanEval/") in ("10", "32", "38", "50")]
    future = [(p, "from __future__ import annotations\n" + function_alone(p)) for p in leaning]
    own = [(p, "is_palindrome = poly = encode_cyclic = encode_shift = None\n") for p in leaning]
    right = [(p, function_alone(p)) for p in every] + [(p, p.reference) for p in every[:40]]
    with Sandbox() as box:
        assert {v.kind for v in box.grade(right)} == {"passed"}
        assert not any(v.passed for v in box.grade([(p, p.starter_code + "    pass\n") for p in every[:40]]))
        assert [v.kind for v in box.grade(future + own)] == ["passed"] * 4 + ["runtime_error"] * 4


# --- Hostile programs -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile_verdicts(box, tmp_path_factory):
    """Verdicts of all hostile programs, each between two good ones, in one call; and of those good ones."""
    missing = [name for name, on in box.report().items() if not on]
    if missing:
        pytest.skip(f"the hostile programs rely on isolation that is off here: {', '.join(missing)}")
    outside = tmp_path_factory.mktemp("outside")
    pairs = []
    for number, program in enumerate(PROGRAMS["hostile"].values()):
        code = program["code"].replace("{outside!r}", repr(str(outside / "x"))).replace("{data!r}", repr(str(DATA)))
        pairs += [(ADD, f"{GOOD}  # {number}"), (ADD, code)]
    before = Path("/proc/sys/kernel/pid_max").read_text(), sorted(os.listdir(outside))
    verdicts = box.grade(pairs)
    assert before == (Path("/proc/sys/kernel/pid_max").read_text(), sorted(os.listdir(outside)))
    return dict(zip(PROGRAMS["hostile"], verdicts[1::2], strict=True)), verdicts[::2]


@pytest.mark.parametrize("name, program", PROGRAMS["hostile"].items())
def test_a_hostile_program_gets_its_verdict(hostile_verdicts, name, program):
    verdict = hostile_verdicts[0][name]
    assert verdict.kind in program["verdict"].split("|"), verdict.detail


def test_good_programs_beside_hostile_ones_keep_their_verdict(hostile_verdicts):
    assert len(hostile_verdicts[1]) == len(PROGRAMS["hostile"]) >= 64
    assert {v.kind for v in hostile_verdicts[1]} == {"passed"}


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
    said = f"import sys\nprint({printed!r}, file=sys.stderr)\nprint({complaint!r})\ndef f(x): return {result!r}\n"
    program = f"# {source}\n{said}pass  # {source * 3000}"
    tests = {
        "stdin": problem((given * 2000, expected * 2000), name="s"),
        "functional": problem((f'"{given * 2000}"', f'"{expected}"', "functional"), name="f", entry_point="f"),
        "check": problem((f"# {given}\nassert f(1) == {result!r}, {expected!r}", "", "check"), entry_point="f"),
        "checker": problem(
            (given, expected), name="k", checker=f"# {checker}\ndef check(input, output, expected): return True"),
    }  # fmt: skip
    look = PROBES["looks for marks in its memory"]
    with Sandbox(workers=1) as box:
        if not box.report()["pid namespace"]:
            pytest.skip("no /proc in the sandbox here")
        for _ in range(3):
            box.grade([(tests[kind_of_test], program)])
        (run,) = box.run([(look, planted("own"))])
        again = box.grade([(problem((planted("own"), planted("expected")), name="last"), look)])[0]
    assert (run.status, run.stdout) == ("ok", "b'own'\n"), run.stderr
    assert "got \"b'own'\"" in again.detail


# --- The sandbox itself -----------------------------------------------------------------------------------------------


def test_too_much_output_is_too_much_however_fast_the_program_is(box):
    """It ends before the worker looks, and all of its output is still in the pipe."""
    codes = [f"print('x' * 5000)  # {number}" for number in range(5)]
    assert kinds(box, codes) == ["wrong_answer"] * 5
    with Sandbox(workers=1, output_kb=1) as strict:
        assert kinds(strict, codes) == ["output_limit"] * 5


@pytest.mark.parametrize("without", [NAMESPACES, ("landlock", "seccomp"), LAYERS])
def test_verdicts_are_the_same_with_fewer_layers(without):
    programs = [GOOD, "print(3)", "1 / 0", "(", "while True: pass", "while True: print(1)", "import os\nos.abort()"]
    with Sandbox(workers=1, time_limit=0.5, output_kb=64, without=without) as box:
        assert kinds(box, programs) == [
            "passed", "wrong_answer", "runtime_error", "syntax_error", "time_limit", "output_limit", "killed"
        ]  # fmt: skip


def test_what_is_missing_is_said_once():
    """On a machine that gives no further mount namespace."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "--user", "--map-root-user", "true"]).returncode:
        pytest.skip("no user namespace can be made here")
    code = (
        "from dreamprm_lib.engine.sandbox import Sandbox\nfor _ in range(2):\n    with Sandbox() as box: box.report()"
    )
    script = 'echo 0 > /proc/sys/user/max_mnt_namespaces && exec "$0" -c "$1"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", script, sys.executable, code]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert said.count("The sandbox runs without mount namespace") == said.count("runs without") == 1


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
    script = PROBES["grades until it is ended, and says in which processes"]
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


def test_sets_print_in_the_same_order_in_every_worker():
    shown = set()
    for _ in range(2):
        with Sandbox(workers=1) as box:
            shown.add(box.run([("print({'a', 'b', 'c', 'd', 'e', 'f', 'g'})", "")])[0].stdout)
    assert len(shown) == 1


@pytest.mark.parametrize("code, returned", [("def f(xs, n): return [x + n for x in xs]", "[3, 4]"), ("1", "")])
def test_a_run_for_a_problem_has_its_limits_and_calls_its_function(code, returned):
    sample = (problems.Test("[1]\n2", "[3]", "functional"),)
    there = Problem("f", "f", "A statement.", "easy", "test", sample, (), source="leetcode", entry_point="f")
    with Sandbox(workers=1) as box:
        (run,) = box.run([("import numpy\n" + code, "[1, 2]\n2")], there)
    assert (run.status, run.result) == ("ok" if returned else "runtime_error", returned)


def test_limits_are_those_of_the_problem_set_with_what_is_changed():
    starter, atcoder = problem(("1", "1")), problem(("1", "1"), source="atcoder")
    assert Limits.of(starter) == Limits.of(None) == Limits(2.0, 512, None, 1024, ())
    assert Limits.of(atcoder) == Limits(6.0, 1024, None, 1024, ("numpy",))
    assert Limits.of(atcoder, time_limit=1, modules=[]) == Limits(1, 1024, None, 1024, ())
    assert Limits(wall_limit=3).wall_seconds == 3 and Limits().wall_seconds == 5 * Limits().cpu_seconds + 2


@pytest.mark.parametrize("without", [("seccomp",), ("seccomp", *NAMESPACES)])
def test_nothing_that_a_program_starts_outlives_it(without):
    """With seccomp off, so that programs can fork; and with no PID namespace either."""
    with Sandbox(workers=1, time_limit=0.5, wall_limit=1.5, without=without) as box:
        box.run([("", "")])
        before = len(descendants(os.getpid()))
        assert {v.kind for v in box.grade([(ADD, PROBES["leaves a daemon behind"] + "\n" + GOOD), (ADD, GOOD)])} == {
            "passed"
        }
        assert len(descendants(os.getpid())) == before


def test_a_fork_bomb_is_stopped_by_the_limit_of_processes():
    with Sandbox(workers=2, time_limit=0.5, wall_limit=1.5, without=("seccomp",)) as box:
        box.run([("", "")] * 4)
        before = len(descendants(os.getpid()))
        if not box.report()["pid namespace"]:
            pytest.skip("processes can't be kept in a namespace here, so no fork bomb is run")
        forks = int(box.run([(PROBES["counts the forks that it may make"], "")])[0].stdout)
        assert forks <= 64, "a program could start more processes than the limit: no fork bomb is run"
        bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
        codes = [GOOD, bomb, "import os\nwhile True: os.fork()", GOOD + "\n"]
        assert kinds(box, codes) == ["passed", "time_limit", "runtime_error", "passed"]
        assert len(descendants(os.getpid())) == before


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


@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_can_be_done_without_alone(layer):
    with Sandbox(workers=1, without=(layer,)) as less:
        assert kinds(less, [GOOD, "print(3)"]) == ["passed", "wrong_answer"]
        assert tuple(less.report()) == LAYERS and not less.report()[layer]
