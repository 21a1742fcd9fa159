"""A class's answers as a table: a row a student's notebook, a column an exercise.

Only the cells of exercises and the imports that they use are executed, each notebook in a process of its own that runs
`course.answers`.
"""

import ast
import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import nbformat
import pandas as pd

from dreamprm_lib.course.answers import PASSED, WAITING
from dreamprm_lib.engine.files import write_atomically
from dreamprm_lib.errors import InputError

START_SECONDS = 120  # until a process has imported what the answers use
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
        imports, answers = _written(path)
        if answers and ".ipynb_checkpoints" not in path.parts:
            rows[str(path.relative_to(folder))] = _run(imports, answers, seconds)
    if not rows:
        raise InputError(f"{folder} has no notebook with exercises: give the folder of a class's notebooks.")
    return pd.DataFrame.from_dict(rows, orient="index").fillna("").rename_axis("notebook")


def _written(path: Path) -> tuple[list[str], dict[str, str]]:
    """A notebook's answers by exercise, and its imports of what they name; none if the file is no notebook."""
    try:
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    except (ValueError, nbformat.reader.NotJSONError):
        return [], {}
    sources = [cell.source for cell in cells if "exercise" in cell.metadata.get("tags", [])]
    answers = {found[1]: source for source in sources if (found := re.search(r"check\([\"'](\w+)", source))}
    words = set(re.findall(r"\w+", " ".join(sources)))
    imports = []
    for cell in cells:
        with suppress(SyntaxError, ValueError):  # a magic, or a cell that its student left unfinished
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.Import | ast.ImportFrom):
                    node.names = [a for a in node.names if (a.asname or a.name.partition(".")[0]) in words]
                    imports += [ast.unparse(node)] if node.names else []
    return imports, answers


def _run(imports: list[str], answers: dict[str, str], seconds: float) -> dict[str, str]:
    """What the checks say, from a process; those that it had not come to when its time was up have no answer."""
    said = dict.fromkeys(answers, f"no answer within {seconds:g} seconds")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dreamprm_lib.course.answers"],
            input=json.dumps([imports, answers, seconds]),
            capture_output=True,
            text=True,
            env={name: os.environ[name] for name in _KEPT if name in os.environ},
            timeout=START_SECONDS + (seconds + 1) * len(answers),
        ).stdout
    except subprocess.TimeoutExpired as error:
        done = (error.stdout or b"").decode()
    return said | dict(json.loads(line) for line in done.splitlines())
