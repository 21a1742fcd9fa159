"""A class's answers as a table: a row a student's notebook, a column an exercise.

Only the cells of exercises are executed, each notebook in a process of its own with a time limit.  That keeps a class
moving past an endless loop; it is no sandbox: what students wrote runs with the rights of whoever grades.
"""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import nbformat
import pandas as pd

from dreamprm_lib.engine.files import write_atomically
from dreamprm_lib.errors import InputError

PASSED, WAITING = "passed", "not attempted"
START_SECONDS = 120  # until a process has imported what the checks need
_KEPT = ("PATH", "HOME", "PYTHONPATH", "VIRTUAL_ENV", "SYSTEMROOT")  # of the environment: no keys


def write_grades(folder: Path, seconds: float = 10) -> str:
    """Grade a folder into `grades.csv` in it; the same as text, with ✔, ✘ and – for the messages."""
    table = grades(folder, seconds)
    write_atomically(Path(folder) / "grades.csv", table.to_csv().encode())
    return table.map(lambda said: {PASSED: "✔", WAITING: "–", "": ""}.get(said, "✘")).to_string()


def grades(folder: Path, seconds: float = 10) -> pd.DataFrame:
    """What the checks say of each notebook below `folder`: `passed`, `not attempted`, or what is wrong, and nothing
    where a notebook has no such exercise.  An exercise may take so many seconds.

    Raises `InputError` if no notebook there has exercises.
    """
    rows = {}
    for path in sorted(Path(folder).rglob("*.ipynb")):
        cells = [] if ".ipynb_checkpoints" in path.parts else _exercises(path)
        if cells:
            rows[str(path.relative_to(folder))] = _run(cells, seconds)
    if not rows:
        raise InputError(f"{folder} has no notebook with exercises: give the folder of a class's notebooks.")
    return pd.DataFrame.from_dict(rows, orient="index").fillna("").rename_axis("notebook")


def _exercises(path: Path) -> list[tuple[str, str]]:
    """Name and source of the cells that check an answer; none if the file is no notebook."""
    try:
        cells = nbformat.read(path, 4).cells
    except (ValueError, nbformat.reader.NotJSONError):
        return []
    sources = [cell.source for cell in cells if "exercise" in cell.metadata.get("tags", [])]
    return [(source.rpartition("check(")[2].partition(",")[0].strip("\"' "), source) for source in sources]


def _run(cells: list[tuple[str, str]], seconds: float) -> dict[str, str]:
    """What the checks say, from a process; those that it had not come to when its time was up have no answer."""
    said = dict.fromkeys((name for name, _ in cells), f"no answer within {seconds:g} seconds")
    command = [sys.executable, "-m", "dreamprm_lib.course.grading"]
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    try:
        done = subprocess.run(
            command, input=json.dumps([seconds, cells]), capture_output=True, text=True, env=environment,
            timeout=START_SECONDS + (seconds + 1) * len(cells),
        ).stdout  # fmt: skip
    except subprocess.TimeoutExpired as error:
        done = (error.stdout or b"").decode()
    return said | dict(json.loads(line) for line in done.splitlines())


class TimeUp(BaseException):
    """The time of a cell is up; no `Exception`, so that neither a check nor a student's `except` takes it for one."""


def _stop(*_: object) -> None:
    raise TimeUp


def _answer(source: str, scope: dict[str, object], seconds: float) -> str:
    """What the check at the end of a cell says; the cell has so many seconds."""
    signal.signal(signal.SIGALRM, _stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        *first, last = ast.parse(source).body
        exec(compile(ast.Module(first, []), "exercise", "exec"), scope)
        answer = eval(compile(ast.Expression(last.value), "exercise", "eval"), scope)  # type: ignore[attr-defined]
        return {True: PASSED, None: WAITING}.get(answer.right, answer.message)
    except TimeUp:
        return f"no answer within {seconds:g} seconds"
    except BaseException as error:  # a student's cell may raise anything, `SystemExit` too
        return f"raised {type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> None:
    """Answer the cells that standard input holds, a line of JSON each, as soon as it is known."""
    import numpy as np

    from dreamprm_lib.course.exercises import check, hint

    seconds, cells = json.load(sys.stdin)
    out = sys.stdout
    for name, source in cells:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            said = _answer(source, {"np": np, "pd": pd, "check": check, "hint": hint}, seconds)
        print(json.dumps([name, said]), file=out, flush=True)


if __name__ == "__main__":
    main()
