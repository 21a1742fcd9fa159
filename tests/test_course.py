"""Both editions are made from the solved notebooks; a class is graded; docs and notebooks say the same."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from dreamprm_lib.__main__ import main
from dreamprm_lib.commands import run as runner
from dreamprm_lib.course import editions as course
from dreamprm_lib.course.exercises import exercises
from dreamprm_lib.course.grading import grades, write_grades
from dreamprm_lib.course.quiz import questions_of
from dreamprm_lib.errors import InputError, StudyError
from dreamprm_lib.study.folder import STAGES

ROOT = Path(__file__).resolve().parent.parent
NAMES = [stage.notebook for stage in STAGES]


def read(path):
    return nbformat.read(path, 4)


def sources(notebook, tag):
    return [c.source for c in notebook.cells if tag in c.metadata.get("tags", [])]


def code(source, *tags, **more):
    return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)}, **more)


@pytest.fixture(scope="module")
def editions(tmp_path_factory):
    return course.build(tmp_path_factory.mktemp("course"))


class TestGap:
    def test_it_keeps_imports_head_and_check_and_no_answer(self):
        solution = (
            "from math import (comb,\n    log)\n\n\ndef help_me(x):\n    return x\n\n\nSIZE = 3\n\n\n"
            'def answer(a,  # help_me\n           b=1):\n    """SIZE"""\n    return help_me(a) + b\n\n\n'
            "check('it', answer)  # help_me"
        )
        assert course.gap(solution) == (
            "from math import comb, log\n\n\ndef answer(a, b=1):\n"
            '    return ...  # your answer goes here\n\n\ncheck("it", answer)'
        )

    @pytest.mark.parametrize("cell", ["def f():\n    return 1", "", "check('f', lambda: 1)", "check('f', f)"])
    def test_a_cell_that_cannot_be_emptied_is_refused(self, cell):
        with pytest.raises(InputError, match=r"05_x: .*must (end with `check|define the function that it checks, f)"):
            course.gap(cell, "05_x")


def test_no_trace_of_a_solution_is_left_for_students():
    """Neither in a source nor in an output, an attachment of metadata, a tag or a cell of another kind."""
    secret = "sorted(values)[-1]"
    solved = code(
        f"def top(values):\n    return {secret}\n\n\ncheck('top', top)", "exercise", "solution", execution_count=7
    )
    solved.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": secret})]
    solved.metadata |= {"answer": secret, "nbgrader": {"solution": secret}}
    told = nbformat.v4.new_markdown_cell(secret, metadata={"tags": ["solution"]})
    noted = nbformat.v4.new_markdown_cell("A note.", metadata={"hidden": secret, "tags": ["hide-input"]})
    shown = code("top", outputs=[nbformat.v4.new_output("stream", text=secret)])
    notebook = nbformat.v4.new_notebook(cells=[solved, told, noted, shown], metadata={"answers": [secret]})
    course.student(notebook, "x")
    nbformat.validate(notebook)
    assert secret not in nbformat.writes(notebook) and "solution" not in nbformat.writes(notebook)
    assert [c.source for c in notebook.cells[1:]] == ["A note.", "top"]
    assert sources(notebook, "hide-input") == ["A note."]


@pytest.mark.parametrize("name", NAMES)
class TestEditions:
    def test_the_student_edition_has_a_gap_for_each_solution_and_else_the_source(self, editions, name):
        made, source = read(editions["student"] / f"{name}.ipynb"), read(ROOT / "notebooks" / f"{name}.ipynb")
        nbformat.validate(made)
        solved, gaps = sources(source, "solution"), sources(made, "exercise")
        assert len(solved) == len(gaps) >= 2 and not sources(made, "solution")
        whole = "\n".join(c.source for c in made.cells)
        for before, after in zip(solved, gaps, strict=True):
            assert course.GAP in after and max(map(len, after.splitlines())) <= 79
            function = next(n for n in ast.parse(before).body if isinstance(n, ast.FunctionDef))
            assert ast.get_source_segment(before, function).partition(":\n")[2] not in whole
        for before, after in zip(source.cells, made.cells, strict=True):
            here = re.sub(r"\]\([^)\s]*/docs/", "](../docs/", after.source)
            assert before.source == here or {"solution", "parameters"} & set(before.metadata.tags)

    def test_the_instructor_edition_adds_notes_and_quiz_answers(self, editions, name):
        made, source = read(editions["instructor"] / f"{name}.ipynb"), read(ROOT / "notebooks" / f"{name}.ipynb")
        nbformat.validate(made)
        assert sources(made, "solution") == sources(source, "solution")
        assert len(made.cells) == len(source.cells) + 2
        assert "Talking points" in made.cells[1].source
        (at,) = (k for k, c in enumerate(made.cells) if c.cell_type == "code" and f'quiz("{name}")' in c.source)
        assert all(q.answer.why in made.cells[at + 1].source for q in questions_of(name))

    def test_its_paths_lead_to_the_project_s_outputs(self, editions, name):
        for folder in editions.values():
            (cell,) = sources(read(folder / f"{name}.ipynb"), "parameters")
            outputs = re.search(r'^outputs = "([^"]+)"', cell, re.MULTILINE)[1]
            assert (folder / outputs).resolve() == ROOT / "outputs"
            links = re.findall(r"\]\(([^)\s]+/docs/[^)\s]+)\)", (folder / f"{name}.ipynb").read_text())
            assert all((folder / link).resolve().exists() for link in links)


def test_every_exercise_waits_in_one_edition_and_is_solved_in_the_other(editions):
    for edition, expected in {"student": "not attempted", "instructor": "passed"}.items():
        table = grades(editions[edition])
        assert list(table.columns) == list(exercises()) and list(table.index) == [f"{name}.ipynb" for name in NAMES]
        assert set(table.to_numpy().ravel()) == {expected, ""}


def test_both_editions_are_run_and_another_answer_than_expected_is_named(editions, tmp_path, monkeypatch):
    def copied(profile, edition, outputs, notebooks):
        """What a run of the first notebook leaves."""
        study = runner.Study(outputs, edition)
        shutil.copy(notebooks / f"{NAMES[0]}.ipynb", study.path(f"notebooks/{NAMES[0]}.ipynb"))
        return study

    monkeypatch.setattr(runner, "run", copied)
    here = {edition: shutil.copytree(folder, tmp_path / edition) for edition, folder in editions.items()}
    assert course.check(here) == [
        "The student edition runs, and each of its 2 exercises is graded `not attempted`.",
        "The instructor edition runs, and each of its 2 exercises is graded `passed`.",
    ]
    with pytest.raises(
        StudyError, match=r"student edition, 00_start_here.ipynb, \w+: expected `not attempted`, got: p"
    ):
        course.check(here | {"student": here["instructor"]})


def test_the_command_line_builds_over_nothing_and_a_missing_section_is_named(tmp_path, monkeypatch, capsys):
    command = ["course", "build", "--out", str(tmp_path / "c")]
    assert main(command) == 0
    built = sorted((tmp_path / "c" / "student").iterdir())
    assert [path.stem for path in built] == NAMES
    built[0].write_text("the work of a class")
    assert main(command) == 2 and built[0].read_text() == "the work of a class"
    assert re.search(r"00_start_here\.ipynb is there already.*--out", capsys.readouterr().err)
    monkeypatch.setattr(course, "teaching_notes", lambda _: {})
    assert main(["course", "build", "--out", str(tmp_path / "d")]) == 2
    assert "no section `### 00_start_here`" in capsys.readouterr().err


def test_a_class_is_graded_a_row_a_notebook_and_a_column_an_exercise(tmp_path, monkeypatch, capsys):
    """A loop without an end, an exception and an exit spoil one answer each, and no key reaches what students wrote."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    head = "def move_label(label, slope, rate):"
    answers = {  # of a student: the body of an answer, and what the table says of it
        "ada": ("return np.clip(label - rate * slope, 0, 1)", "passed"),
        "bob": ("return label + rate * slope", "Downhill"),
        "cy": ("return ...", "not attempted"),
        "dot": ("while True:\n        pass", "no answer within 2"),
        "eve": ("return 1 / len(os.environ.get('OPENAI_API_KEY', ''))", "Zero"),
        "fay": ("raise SystemExit(0)", "SystemExit"),
        "gus": ("return label\n\n\ncheck = print", "asks no check"),
        "hal": ("return ~", "SyntaxError"),
    }
    for name, (body, _) in answers.items():
        cells = [
            *(code(source) for source in ("import os\nimport numpy as np\nopen('ran', 'w')", "%magic")),
            code(f'{head}\n    {body}\n\n\ncheck("move_label", move_label)\nprint(1)', "exercise"),
            code("print('[1]')\ncheck('holm', lambda p: ...)", "exercise"),
        ]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    (tmp_path / "notes.ipynb").write_text("no notebook")
    assert main(["course", "grade", str(tmp_path), "--seconds", "2"]) == 0
    table = pd.read_csv(tmp_path / "grades.csv", index_col="notebook")
    assert list(table.columns) == ["move_label", "holm"] and len(table) == len(answers)
    marks = [line.split()[1:] for line in capsys.readouterr().out.splitlines()[2:]]
    assert marks == [[{"ada": "✔", "cy": "–"}.get(name, "✘"), "–"] for name in answers]
    assert set(table.holm) == {"not attempted"} and not (tmp_path / "ran").exists()
    said = {name: table.move_label[f"{name}.ipynb"] for name in answers}
    assert {name: said[name] for name, (_, part) in answers.items() if part not in said[name]} == {}
    with pytest.raises(InputError, match="no notebook with exercises"):
        write_grades(tmp_path / "nowhere")


def test_make_clean_leaves_what_people_made(tmp_path):
    kept = ["course/student/02.ipynb", "outputs/reference/table.csv"]
    gone = ["outputs/quick/table.csv", "tests/artifacts/a.png", ".venv/bin/python"]
    shutil.copy(ROOT / "Makefile", tmp_path)
    for file in kept + gone:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("x")
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert [(tmp_path / file).exists() for file in kept + gone] == [True] * 2 + [False] * 3


PARTS = ("Objectives", "Before", "Minutes", "Talking points", "What students get wrong", "Board plan")
SYLLABUS = (ROOT / "docs" / "syllabus.md").read_text()
PROSE = {
    name: "\n".join(c.source for c in read(ROOT / "notebooks" / f"{name}.ipynb").cells if c.cell_type == "markdown")
    for name in NAMES
}
GRADED = re.compile(r"^\*\*(\d+)\.(\d)\*\* \((\w+), (\d+) minutes\)", re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
class TestDocs:
    def test_exercises_are_numbered_graded_and_timed(self, name):
        found = GRADED.findall(PROSE[name])
        assert len(found) == len(re.findall(r"^\*\*\d+\.\d\*\* \(", PROSE[name], re.MULTILINE))
        assert [(int(c), int(k)) for c, k, *_ in found] == [(int(name[:2]), k + 1) for k in range(len(found))]
        grades = [grade for *_, grade, _ in found]
        assert set(grades) <= {"easy", "medium", "hard", "open", "project"}
        if name != "00_start_here":
            assert 3 <= len(found) <= 5 and grades.count("project") == 1
            assert "hard" in grades and {"easy", "medium"} & set(grades)

    def test_the_syllabus_has_every_part_and_adds_up(self, name):
        notes = course.teaching_notes(SYLLABUS)[name]
        assert all(f"**{part}**" in notes for part in PARTS)
        minutes = {grade: 0 for grade in ("exercises", "project")}
        for *_, grade, m in GRADED.findall(PROSE[name]):
            minutes["project" if grade == "project" else "exercises"] += int(m)
        said = {what: int(m) for m, what in re.findall(r"(\d+) (exercises|project)", notes)}
        assert said == {what: m for what, m in minutes.items() if m}

    def test_the_papers_it_names_are_in_the_references(self, name):
        known = set(re.findall(r"\(https://arxiv\.org/abs/(\d{4}\.\d{5})\)", (ROOT / "docs/references.md").read_text()))
        assert set(re.findall(r"\b\d{4}\.\d{5}\b", PROSE[name])) <= known


def test_the_syllabus_names_sections_and_exercises_that_are_there():
    there = re.findall(r"^(?:## |\*\*)(\d+\.\d+)\b", "\n".join(PROSE.values()), re.MULTILINE)
    assert set(re.findall(r"\b\d+\.\d+\b", SYLLABUS)) <= set(there)


def rows(file):
    """The rows of the tables of a page in `docs/`, without heads, as lists of cells."""
    lines = (ROOT / "docs" / file).read_text().splitlines()
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if re.match(r"\| (?!---)", line)]


def test_every_entry_of_the_glossary_is_used_where_it_says():
    entries = rows("glossary.md")[1:]
    terms = [term.lower() for term, *_ in entries]
    assert terms == sorted(terms) and len(set(terms)) == len(terms) >= 40
    for term, meaning, chapters in entries:
        assert meaning
        for chapter in chapters.split(", "):
            (text,) = (prose for name, prose in PROSE.items() if name.startswith(chapter))
            forms = [re.sub(r"\W+", " ", form).strip().lower() for form in re.split(r" \(|\)", term) if form]
            assert any(form in re.sub(r"\W+", " ", text).lower() for form in forms), (term, chapter)


CELLS = [c.source for n in NAMES for c in read(ROOT / "notebooks" / f"{n}.ipynb").cells if c.cell_type == "code"]
CODE = "\n".join([*(path.read_text() for path in sorted((ROOT / "dreamprm_lib").rglob("*.py"))), *CELLS])


def test_every_symbol_is_used_where_it_says():
    for symbol, _meaning, code, chapters in rows("notation.md")[1:]:
        for chapter in chapters.split(", "):
            (text,) = (prose for name, prose in PROSE.items() if name.startswith(chapter))
            assert symbol.strip("$") in " ".join(re.findall(r"\$+([^$]+)\$+", text)), (symbol, chapter)
        name = code.split("`")[1]
        assert re.search(rf"\b{name}\b", CODE), name
