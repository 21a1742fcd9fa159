"""`codeio`: Python function tasks that nobody here wrote, from the PyPI package `reasoning-gym` (Apache-2.0).

The package's wheel is read as an archive (`weights.fetch("codeio")`); it is never installed or imported, and nothing of
its text is part of this project.  A task becomes a functional problem: its description is the statement, its own
generator makes the inputs from fixed seeds, and its own reference gives the expected outputs.  Nobody has read either,
so both run in the sandbox.

`data/codeio.csv` lists the tasks that are kept, each with the digest of its text and its split.  It is rebuilt by

    python -c "from dreamprm_lib.engine import codeio; codeio.write_list()"

A task is kept if its code imports the standard library alone and asks neither for chance nor for the time, if its texts
and values are short, if there are at least 8 distinct inputs and 4 distinct outputs, and if the reference passes these
tests: it gives the same outputs again, each in a process of its own.  Near-duplicates are all in one split.

Not covered: tasks that say too little about what is wanted.  There are many, and only programs of a policy tell which.
"""

from __future__ import annotations

import ast
import csv
import gzip
import hashlib
import io
import json
import logging
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from filelock import FileLock
from scipy.sparse.csgraph import connected_components

from dreamprm_lib.engine.files import cache_dir, write_atomically
from dreamprm_lib.engine.leakage import statement_similarity
from dreamprm_lib.engine.problem import Problem, Test, split_by_text
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.engine.weights import fetch
from dreamprm_lib.errors import InputError

log = logging.getLogger(__name__)

ENTRY_POINT = "main_solution"
SEEDS = range(32)  # of the generated inputs
SAMPLES, TESTS = 2, 10  # how many of them are shown, and how many grade at most
MIN_INPUTS, MIN_OUTPUTS = 8, 4  # distinct ones
MAX_STATEMENT = 2500  # characters
MAX_VALUE = 600  # characters of an input, and of an output
TOLERANCE = 1e-6  # relative and absolute, where an expected output holds a number with a fraction
DIGITS = 12  # significant ones of an expected number: the last ones differ between machines
ALIKE = 0.3  # similarity of statements from which on two tasks stay in one split

SEEDED, UNSEEDED = {"random", "Random"}, {"secrets", "uuid"}  # modules of chance; a generator may use those with seeds
FLEETING = {"now", "today", "utcnow", "time", "time_ns", "monotonic", "perf_counter", "localtime", "ctime"}
FLEETING |= {"urandom", "SystemRandom"}

LIST = resources.files("dreamprm_lib") / "data" / "codeio.csv"

# The program that makes a task's inputs and outputs.  It reads {code, names, seeds} and prints pairs of texts.
MAKER = f"""\
import io, json, random, sys, types

asked = json.load(sys.stdin)
task = sys.modules["task"] = types.ModuleType("task")
task.Random = random.Random
out, sys.stdout = sys.stdout, io.StringIO()
sys.setrecursionlimit(50_000)
exec(asked["code"], vars(task))
pairs = []
for seed in asked["seeds"]:
    try:
        random.seed(seed)
        made = task.generate_inputs(random.Random(seed))
        if set(made) == set(asked["names"]):
            given = [json.dumps(made[name], allow_nan=False) for name in asked["names"]]
            result = task.{ENTRY_POINT}(*map(json.loads, given))
            pairs.append(["\\n".join(given), json.dumps(result, allow_nan=False)])
    except Exception:
        pass
json.dump(pairs, out)
"""


def read() -> list[Problem]:
    """The problems of the list, in its order.

    The wheel is fetched if it is not in the cache.  The first call computes inputs and expected outputs (about a
    minute); later ones read them from the cache.  A task whose code fails on this Python is left out with a warning.
    Raises `WeightsError` if the wheel can't be had or is another one, and `InputError` if a listed task is not the one
    in the wheel.
    """
    tasks = _tasks()
    splits = _listed(tasks)
    made = _cached({index: tasks[index] for index in splits})
    if lacking := [index for index in splits if not _is_varied(made[index][1])]:
        log.warning("codeio: tasks %s give too few outputs on this Python, and are left out.", lacking)
    return [
        _problem(index, tasks[index], *made[index], split) for index, split in splits.items() if index not in lacking
    ]


def write_list(path: Path | None = None) -> None:
    """Work out which tasks are kept and their splits, and write the list (some minutes).

    The same wheel gives the same bytes, but for tasks that take about as long as the limit of time allows.
    """
    tasks = _tasks()
    made = _made({index: task for index, task in enumerate(tasks) if _is_plain(task)})
    varied = {index: _problem(index, tasks[index], *call, "") for index, call in made.items() if _is_varied(call[1])}
    with Sandbox() as sandbox:
        verdicts = sandbox.grade([(problem, problem.reference) for problem in varied.values()], progress=True)
    kept = [index for index, verdict in zip(varied, verdicts, strict=True) if verdict.passed]
    lines = ["index,sha256,split\n"]
    for index, split in zip(kept, _splits([varied[index].statement for index in kept]), strict=True):
        lines.append(f"{index},{digest(tasks[index])},{split}\n")
    write_atomically(path or Path(str(LIST)), "".join(lines).encode())


# --- The tasks of the wheel -------------------------------------------------------------------------------------------


def _tasks() -> list[dict]:
    lines = gzip.decompress(fetch("codeio").read_bytes()).decode().split("\n")
    return [json.loads(line) for line in lines if line]


def _listed(tasks: Sequence[dict]) -> dict[int, str]:
    """The split of each kept task by its index; raises `InputError` if a task is not the one that was listed."""
    splits = {}
    for row in csv.DictReader(io.StringIO(LIST.read_text())):
        index = int(row["index"])
        if index >= len(tasks) or digest(tasks[index]) != row["sha256"]:
            raise InputError(f"{LIST}: task {index} is not the one in the wheel. Rebuild the list, see {__name__}.")
        splits[index] = row["split"]
    return splits


def _statement(task: dict) -> str:
    return f"{task['task_description'].strip()}\n\n{task['input_output_spec'].strip()}"


def _code(task: dict) -> str:
    return f"{task['code_sample']}\n\n\n{task['input_generator']}\n"


def digest(task: dict) -> str:
    """A digest of all that makes the problem."""
    return hashlib.sha256(f"{_statement(task)}\n\n{_code(task)}".encode()).hexdigest()[:16]


def _parameters(task: dict) -> list[str] | None:
    """The names of `main_solution`'s parameters; None if there is no such function, or it takes others."""
    for node in ast.parse(task["code_sample"]).body:
        if isinstance(node, ast.FunctionDef) and node.name == ENTRY_POINT:
            given = node.args
            if given.vararg or given.kwarg or given.kwonlyargs:
                return None
            return [argument.arg for argument in given.posonlyargs + given.args]
    return None


def _is_plain(task: dict) -> bool:
    """Whether a task looks usable before anything of it runs."""
    try:
        tree = ast.parse(_code(task))
    except (SyntaxError, ValueError):
        return False
    return (
        len(_statement(task)) <= MAX_STATEMENT
        and bool(_parameters(task))
        and _imported(tree) <= sys.stdlib_module_names
        and _is_repeatable(task["code_sample"], SEEDED | UNSEEDED)
        and _is_repeatable(task["input_generator"], UNSEEDED)
    )


def _imported(tree: ast.Module) -> set[str]:
    """The packages that a program imports."""
    plain = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    named = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in plain + named}


def _is_repeatable(code: str, chance: set[str]) -> bool:
    """Whether code uses no module of `chance` (to import one is no use), and calls nothing that differs each time."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Name(id=name) | ast.ImportFrom(module=name) if name in chance:
                return False
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)) if name in FLEETING:
                return False
    return True


# --- Inputs and expected outputs --------------------------------------------------------------------------------------

Pairs = list[tuple[str, str]]  # texts of an input and its output
Call = tuple[list[str], Pairs]  # the parameters of a function, and what it is given and returns


def _made(tasks: dict[int, dict], time_limit: float = 1.0) -> dict[int, Call]:
    """The parameters of each task's function, and the chosen inputs and outputs; none where the maker doesn't end well.

    `time_limit` holds for all inputs of a task together.
    """
    parameters = {index: _parameters(task) or [] for index, task in tasks.items()}
    requests = [
        (MAKER, json.dumps({"code": _code(task), "names": parameters[index], "seeds": list(SEEDS)}))
        for index, task in tasks.items()
    ]
    with Sandbox(time_limit=time_limit) as sandbox:
        runs = sandbox.run(requests, progress=True)
    return {index: (parameters[index], _chosen(_pairs_in(run.stdout))) for index, run in zip(tasks, runs, strict=True)}


def _pairs_in(printed: str) -> Pairs:
    """What the maker printed; nothing if it did not come to its end."""
    try:
        return [(given, result) for given, result in json.loads(printed)]
    except (ValueError, TypeError):
        return []


def _chosen(pairs: Pairs) -> Pairs:
    """Up to 12 distinct short pairs in which outputs differ as much as they can: first those with a new output, then
    those whose output came once before, and so on."""
    came: dict[str, int] = {}
    ranked = []
    for given, result in dict(pairs).items():
        if len(given) <= MAX_VALUE and len(result) <= MAX_VALUE:
            came[result] = came.get(result, 0) + 1
            ranked.append((came[result], given, _rounded(result)))
    ranked.sort(key=lambda row: row[0])
    return [(given, result) for _, given, result in ranked[: SAMPLES + TESTS]]


def _is_varied(pairs: Pairs) -> bool:
    return len(pairs) >= MIN_INPUTS and len({result for _, result in pairs}) >= MIN_OUTPUTS


def _rounded(result: str) -> str:
    return json.dumps(json.loads(result, parse_float=lambda number: float(f"{float(number):.{DIGITS}g}")))


def _cached(tasks: dict[int, dict]) -> dict[int, Call]:
    """What `_made` gives for the listed tasks; computed once for each recipe and list."""
    recipe = [MAKER, len(SEEDS), SAMPLES + TESTS, MAX_VALUE, DIGITS, *map(digest, tasks.values())]
    path = cache_dir() / f"codeio-{hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]}.json"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            write_atomically(path, json.dumps(_made(tasks, time_limit=10.0)).encode())
        return {int(index): call for index, call in json.loads(path.read_text()).items()}


def _problem(index: int, task: dict, parameters: Sequence[str], pairs: Pairs, split: str) -> Problem:
    tests = tuple(Test(given, result, "functional") for given, result in pairs)
    return Problem(
        id=f"codeio/{index:04}",
        title=f"codeio {index:04}",
        statement=_statement(task),
        difficulty="medium",
        split=split,
        samples=tests[:SAMPLES],
        tests=tests[SAMPLES:],
        source="codeio",
        starter_code=f"def {ENTRY_POINT}({', '.join(parameters)}):",
        entry_point=ENTRY_POINT,
        tolerance=TOLERANCE if any(_has_fraction(result) for _, result in pairs) else 0.0,
        reference=task["code_sample"],
    )


def _has_fraction(result: str) -> bool:
    fractions: list[str] = []
    json.loads(result, parse_float=fractions.append)
    return bool(fractions)


# --- Splits -----------------------------------------------------------------------------------------------------------


def _splits(statements: Sequence[str]) -> list[str]:
    """The split of each statement's task, by a hash of the smallest statement among its near-duplicates."""
    _, groups = connected_components(statement_similarity(statements) >= ALIKE, directed=False)
    smallest: dict[int, str] = {}
    for group, statement in zip(groups, statements, strict=True):
        smallest[group] = min(statement, smallest.get(group, statement))
    return [split_by_text(smallest[group]) for group in groups]
