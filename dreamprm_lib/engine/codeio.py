"""`codeio`: Python function tasks that nobody here wrote, from the PyPI package `reasoning-gym` (Apache-2.0).

The package's wheel is read as an archive (`weights.fetch("codeio")`); it is never installed or imported, and nothing of
its text is part of this project.  A task becomes a functional problem: its description is the statement, its own
generator makes the inputs from fixed seeds, and its own reference gives the expected outputs.  Nobody has read either,
so both run in the sandbox.

`data/codeio.csv` lists the tasks that are kept, each with the digest of its text and its split.  The rule for that, and
the program that writes the list, are in `problems/list_codeio.py`.
"""

import ast
import csv
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping

from filelock import FileLock

from dreamprm_lib.engine.files import DATA, cache_dir, json_lines, write_atomically
from dreamprm_lib.engine.problem import Problem, Test
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.engine.weights import fetch
from dreamprm_lib.errors import InputError

log = logging.getLogger(__name__)

ENTRY_POINT = "main_solution"
SEEDS = range(32)  # of the generated inputs
SAMPLES, TESTS = 2, 10  # how many of them are shown, and how many grade at most
MIN_INPUTS, MIN_OUTPUTS = 8, 4  # distinct ones
MAX_VALUE = 600  # characters of an input, and of an output
TOLERANCE = 1e-6  # relative and absolute, where an expected output holds a number with a fraction
DIGITS = 12  # significant ones of an expected number: the last ones differ between machines

LIST = DATA / "codeio.csv"
Pairs = list[tuple[str, str]]  # texts of an input and its output

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
    tasks = read_tasks()
    splits = {}
    for row in csv.DictReader(LIST.read_text().splitlines()):
        index = int(row["index"])
        if index not in tasks or digest(tasks[index]) != row["sha256"]:
            raise InputError(f"{LIST}: task {index} is not the one in the wheel. Rebuild the list, see {__name__}.")
        splits[index] = row["split"]
    made = _cached({index: tasks[index] for index in splits})
    if lacking := [index for index in splits if not is_varied(made[index])]:
        log.warning("codeio: tasks %s give too few outputs on this Python, and are left out.", lacking)
    return [problem_of(k, tasks[k], made[k], split) for k, split in splits.items() if k not in lacking]


# --- The tasks of the wheel -------------------------------------------------------------------------------------------


def read_tasks() -> dict[int, dict]:
    """The tasks of the wheel by their place in it."""
    return dict(enumerate(task for _, task in json_lines(fetch("codeio"))))


def statement_of(task: dict) -> str:
    """The statement of the task's problem."""
    return f"{task['task_description'].strip()}\n\n{task['input_output_spec'].strip()}"


def _code(task: dict) -> str:
    return f"{task['code_sample']}\n\n\n{task['input_generator']}\n"


def digest(task: dict) -> str:
    """A digest of all that makes the problem."""
    return hashlib.sha256(f"{statement_of(task)}\n\n{_code(task)}".encode()).hexdigest()[:16]


def parameters_of(task: dict) -> list[str]:
    """The names of `main_solution`'s parameters; none if there is no such function, or it takes others."""
    for node in ast.parse(task["code_sample"]).body:
        match node:
            case ast.FunctionDef(name=name, args=ast.arguments(vararg=None, kwarg=None, kwonlyargs=[]) as given):
                if name == ENTRY_POINT:
                    return [argument.arg for argument in given.posonlyargs + given.args]
    return []


# --- Inputs and expected outputs --------------------------------------------------------------------------------------


def pairs_of(tasks: Mapping[int, dict], time_limit: float = 1.0) -> dict[int, Pairs]:
    """The chosen inputs and outputs of each task; none where the maker doesn't end well.

    `time_limit` holds for all inputs of a task together.
    """
    asked = [{"code": _code(task), "names": parameters_of(task), "seeds": list(SEEDS)} for task in tasks.values()]
    with Sandbox(time_limit=time_limit) as sandbox:
        runs = sandbox.run([(MAKER, json.dumps(request)) for request in asked], progress=True)
    return {index: _chosen(run.stdout) for index, run in zip(tasks, runs, strict=True)}


def _chosen(printed: str) -> Pairs:
    """Of the pairs that the maker printed up to 12 distinct short ones in which outputs differ as much as they can:
    first those with a new output, then those whose output came once before, and so on."""
    try:
        pairs = dict(json.loads(printed))
    except (ValueError, TypeError):  # it did not come to its end
        return []
    came: Counter[str] = Counter()
    ranked = []
    for given, result in pairs.items():
        if len(given) <= MAX_VALUE and len(result) <= MAX_VALUE:
            came[result] += 1
            rounded = json.loads(result, parse_float=lambda number: float(f"{float(number):.{DIGITS}g}"))
            ranked.append((came[result], given, json.dumps(rounded)))
    ranked.sort(key=lambda row: row[0])
    return [(given, result) for _, given, result in ranked[: SAMPLES + TESTS]]


def is_varied(pairs: Pairs) -> bool:
    """Whether these inputs and outputs are enough to tell programs apart."""
    return len(pairs) >= MIN_INPUTS and len({result for _, result in pairs}) >= MIN_OUTPUTS


def _cached(tasks: Mapping[int, dict]) -> dict[int, Pairs]:
    """What `pairs_of` gives for the listed tasks; computed once for each recipe and list."""
    recipe = [MAKER, len(SEEDS), SAMPLES + TESTS, MAX_VALUE, DIGITS, "pairs", *map(digest, tasks.values())]
    path = cache_dir() / f"codeio-{hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]}.json"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            write_atomically(path, json.dumps(pairs_of(tasks, time_limit=10.0)).encode())
        return {int(index): pairs for index, pairs in json.loads(path.read_text()).items()}


def problem_of(index: int, task: dict, pairs: Pairs, split: str) -> Problem:
    """The problem of a task; the first pairs are its samples."""
    tests = tuple(Test(given, result, "functional") for given, result in pairs)
    fractions: list[str] = []
    json.loads(f"[{','.join(result for _, result in pairs)}]", parse_float=fractions.append)
    return Problem(
        id=f"codeio/{index:04}",
        title=f"codeio {index:04}",
        statement=statement_of(task),
        difficulty="codeio",
        split=split,
        samples=tests[:SAMPLES],
        tests=tests[SAMPLES:],
        source="codeio",
        starter_code=f"def {ENTRY_POINT}({', '.join(parameters_of(task))}):",
        entry_point=ENTRY_POINT,
        tolerance=TOLERANCE if fractions else 0.0,
        reference=task["code_sample"],
    )
