"""Work out which tasks of `codeio` are kept, and their splits: `python problems/list_codeio.py` (some minutes).

It writes `dreamprm_lib/data/codeio.csv`, which `dreamprm_lib.engine.codeio` reads.  A task is kept if its code imports
the standard library alone and asks neither for chance nor for the time, if its texts and values are short, if there are
at least 8 distinct inputs and 4 distinct outputs, and if the reference passes these tests: it gives the same outputs
again, each in a process of its own.  Near-duplicates are all in one split.

Not covered: tasks that say too little about what is wanted.  There are many, and only programs of a policy tell which.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence

from scipy.sparse.csgraph import connected_components

from dreamprm_lib.engine import codeio
from dreamprm_lib.engine.files import write_atomically
from dreamprm_lib.engine.leakage import statement_similarity
from dreamprm_lib.engine.problem import split_of
from dreamprm_lib.engine.sandbox.judge import Sandbox

MAX_STATEMENT = 2500  # characters
ALIKE = 0.3  # similarity of statements from which on two tasks stay in one split
SEEDED, UNSEEDED = {"random", "Random"}, {"secrets", "uuid"}  # modules of chance; a generator may use those with seeds
FLEETING = {"now", "today", "utcnow", "time", "time_ns", "monotonic", "perf_counter", "localtime", "ctime"}
FLEETING |= {"urandom", "SystemRandom"}


def write_list() -> None:
    """Work out which tasks are kept and their splits, and write the list (some minutes).

    The same wheel gives the same bytes, but for tasks that take about as long as the limit of time allows.
    """
    tasks = codeio.read_tasks()
    made = codeio.pairs_of({index: task for index, task in tasks.items() if _is_plain(task)})
    varied = {
        index: codeio.problem_of(index, tasks[index], pairs, "")
        for index, pairs in made.items()
        if codeio.is_varied(pairs)
    }
    with Sandbox() as sandbox:
        verdicts = sandbox.grade([(problem, problem.reference) for problem in varied.values()], progress=True)
    kept = [index for index, verdict in zip(varied, verdicts, strict=True) if verdict.passed]
    splits = _splits([varied[index].statement for index in kept])
    rows = [f"{index},{codeio.digest(tasks[index])},{split}\n" for index, split in zip(kept, splits, strict=True)]
    write_atomically(codeio.LIST, "".join(["index,sha256,split\n", *rows]).encode())


def _is_plain(task: dict) -> bool:
    """Whether a task looks usable before anything of it runs."""
    try:
        code, generator = ast.parse(task["code_sample"]), ast.parse(task["input_generator"])
    except (SyntaxError, ValueError):
        return False
    is_repeatable = _is_repeatable(code, SEEDED | UNSEEDED) and _is_repeatable(generator, UNSEEDED)
    return is_repeatable and len(codeio.statement_of(task)) <= MAX_STATEMENT and bool(codeio.parameters_of(task))


def _is_repeatable(tree: ast.Module, chance: set[str]) -> bool:
    """Whether code imports the standard library alone, uses no module of `chance` (to import one is no use), and calls
    nothing that differs each time."""
    nodes = list(ast.walk(tree))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    sources = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    functions = [node.func for node in nodes if isinstance(node, ast.Call)]
    called = {getattr(function, "attr", getattr(function, "id", "")) for function in functions}
    packages = {name.partition(".")[0] for name in imported | sources}
    return packages <= sys.stdlib_module_names and not (used | sources) & chance and not called & FLEETING


def _splits(statements: Sequence[str]) -> list[str]:
    """The split of each statement's task, by a hash of the smallest statement among its near-duplicates."""
    _, groups = connected_components(statement_similarity(statements) >= ALIKE, directed=False)
    smallest: dict[int, str] = {}
    for group, statement in zip(groups, statements, strict=True):
        smallest[group] = min(statement, smallest.get(group, statement))
    return [split_of(smallest[group], train=0.40) for group in groups]


if __name__ == "__main__":
    write_list()
