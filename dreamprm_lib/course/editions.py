"""The course in two editions, made from the notebooks, which hold the solutions.

The student edition has a gap where a cell tagged `solution` answers an exercise; its check says that it waits.  The
instructor edition keeps the solutions and adds what `docs/syllabus.md` says about teaching the chapter, and the answers
of its quiz.  Notebooks that were built are never sources: change the ones in `notebooks/` and build again, into another
folder, for nothing is built over.
"""

import ast
import os
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from dreamprm_lib.commands import run as runner
from dreamprm_lib.course.answers import PASSED, WAITING
from dreamprm_lib.course.grading import grades
from dreamprm_lib.course.quiz import answers_markdown
from dreamprm_lib.engine.files import write_atomically
from dreamprm_lib.errors import InputError, StudyError
from dreamprm_lib.study.folder import STAGES

GAP = "return ...  # your answer goes here"


def build(out: Path) -> dict[str, Path]:
    """Write both editions of every notebook; their folders, by edition.

    Raises `InputError`, before anything is written, for an exercise that cannot be turned into a gap, a chapter that
    the syllabus does not know, or a notebook that is there already.
    """
    notes = teaching_notes((runner.PROJECT / "docs" / "syllabus.md").read_text(encoding="utf-8"))
    folders = {edition: Path(out).resolve() / edition for edition in ("student", "instructor")}
    built = {}
    for stage in STAGES:
        name = stage.notebook
        if name not in notes:
            raise InputError(f"docs/syllabus.md has no section `### {name}`, which the instructor edition needs.")
        for edition, folder in folders.items():
            notebook = nbformat.read(runner.notebook_path(stage), 4)
            if edition == "student":
                student(notebook, name)
            else:
                instructor(notebook, name, notes[name])
            _move(notebook, folder)
            built[folder / f"{name}.ipynb"] = notebook
    if there := [path for path in built if path.exists()]:
        raise InputError(
            f"{there[0]} is there already, and building again would lose what was written into it. Build into another "
            "folder with --out, or move this one away."
        )
    for path, notebook in built.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (nbformat.writes(notebook) + "\n").encode())
    return folders


def check(folders: dict[str, Path]) -> list[str]:
    """Run both editions with the smoke profile, into `check/` beside them, and grade them; a sentence about each.

    Raises `StudyError` unless every exercise of the student edition waits and every one of the instructor edition is
    right.
    """
    said = []
    for edition, expected in (("student", WAITING), ("instructor", PASSED)):
        folder, outputs = folders[edition], folders[edition].parent / "check"
        study = runner.run(runner.load_profile("smoke"), edition, outputs=outputs, notebooks=folder)
        answers = grades(study.folder / "notebooks").stack()
        answers = answers[answers != ""]
        for (notebook, name), answer in answers[answers != expected].items():
            raise StudyError(f"{edition} edition, {notebook}, {name}: expected `{expected}`, got: {answer}")
        said.append(f"The {edition} edition runs, and each of its {len(answers)} exercises is graded `{expected}`.")
    return said


def student(notebook: NotebookNode, name: str) -> None:
    """Turn the solutions of a notebook into gaps, in place; of each cell only its text and its other tags stay."""
    cells, notebook.cells = notebook.cells, []
    for cell in cells:
        tags = cell.metadata.get("tags", [])
        if "solution" in tags:
            if cell.cell_type != "code":
                continue
            cell.source = gap(cell.source, name)
        cell.metadata = NotebookNode(tags=[tag for tag in tags if tag != "solution"]) if tags else NotebookNode()
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        notebook.cells.append(cell)
    kept = {key: value for key, value in notebook.metadata.items() if key in ("kernelspec", "language_info")}
    notebook.metadata = NotebookNode(kept)


def gap(solution: str, name: str = "a notebook") -> str:
    """A solution's cell with a gap for its answer: imports, the head of the function that is checked, and the check."""
    body = ast.parse(solution).body
    match body[-1:]:
        case [ast.Expr(ast.Call(func=ast.Name("check"), args=[ast.Constant(str(task)), ast.Name(wanted)]))]:
            pass
        case _:
            raise InputError(f"{name}: a solution's cell must end with `check(name, function)`:\n{solution}")
    function = next((n for n in body if isinstance(n, ast.FunctionDef) and n.name == wanted), None)
    if function is None:
        raise InputError(f"{name}: a solution's cell must define the function that it checks, {wanted}:\n{solution}")
    function.body = ast.parse("...").body
    head = ast.unparse(function).removesuffix("...") + GAP
    imports = "\n".join(ast.unparse(n) for n in body if isinstance(n, ast.Import | ast.ImportFrom))
    return "\n\n\n".join(part for part in (imports, head, f'check("{task}", {wanted})') if part)


def instructor(notebook: NotebookNode, name: str, notes: str) -> None:
    """Add the teaching notes behind the title of a notebook, and the answers behind its quiz, in place."""
    asked = f'quiz("{name}")'
    cells = notebook.cells
    quizzes = [k for k, cell in enumerate(cells) if cell.cell_type == "code" and asked in cell.source]
    if len(quizzes) != 1:
        raise InputError(f"{name} must have one cell with `{asked}`, and has {len(quizzes)}.")
    solved = f"**For the instructor: the answers**\n\n{answers_markdown(name)}"
    cells.insert(quizzes[0] + 1, nbformat.v4.new_markdown_cell(solved, id="quiz-answers"))
    cells.insert(1, nbformat.v4.new_markdown_cell(f"**For the instructor**\n\n{notes}", id="teaching-notes"))


def teaching_notes(syllabus: str) -> dict[str, str]:
    """The sections `### NN_name` of the syllabus, by notebook."""
    sections = re.findall(r"^### (\d\d_\w+)\n(.*?)(?=^#|\Z)", syllabus, re.MULTILINE | re.DOTALL)
    return {name: text.strip() for name, text in sections}


def _move(notebook: NotebookNode, folder: Path) -> None:
    """Let the paths of the parameters cell and the links to the docs, relative to `notebooks/`, start from another
    folder."""
    project = Path(os.path.relpath(runner.PROJECT, folder)).as_posix()
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []) or cell.cell_type == "markdown":
            cell.source = re.sub(r'(?<=["(])\.\.(?=/(docs|outputs)\b)', project, cell.source)


def build_command(out: Path, check_too: bool) -> str:
    """`build` for the command line, and `check` after it if that is wanted; a line each."""
    folders = build(out)
    said = [f"The {edition} edition: {folder}" for edition, folder in folders.items()]
    return "\n".join(said + (check(folders) if check_too else []))
