"""Both editions are made from the solved notebooks; docs and notebooks say the same."""

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
from dreamprm_lib.course.grading import write_grades
from dreamprm_lib.course.quiz import questions_of
from dreamprm_lib.errors import InputError, StudyError
from dreamprm_lib.study.folder import STAGES

ROOT = Path(__file__).resolve().parent.parent
NAMES = [stage.notebook for stage in STAGES]


def read(path):
    return nbformat.read(path, 4)


def sources(notebook, tag):
    return [c.source for c in notebook.cells if tag in c.metadata.get("tags", [])]


@pytest.fixture(scope="module")
def editions(tmp_path_factory):
    return course.build(tmp_path_factory.mktemp("course"))


class TestGap:
    SOLUTION = (
        "from math import (comb,\n    log)\n\n\ndef help_me(x):\n    return x\n\n\n"
        "def answer(a,\n           b=1):\n    # how\n    return help_me(a) + b\n\n\ncheck(\"it\", answer)"
    )  # fmt: skip

    def test_it_keeps_imports_head_and_check_and_no_answer(self):
        assert course.gap(self.SOLUTION) == (
            "from math import comb, log\n\n\ndef answer(a,\n           b=1):\n"
            "    return ...  # your answer goes here\n\n\ncheck(\"it\", answer)"
        )  # fmt: skip

    @pytest.mark.parametrize(
        "cell, said",
        [
            ("def f():\n    return 1", "must end with"),
            ("", "must end with"),
            ("check('f', lambda: 1)", "must end with"),
            ("check('f', f)", "must define f"),
            ("def f(): return 1\ncheck('f', f)", "lines of its own"),
        ],
    )
    def test_a_cell_that_cannot_be_emptied_is_refused(self, cell, said):
        with pytest.raises(InputError, match=f"05_x: .*{said}"):
            course.gap(cell, "05_x")


@pytest.mark.parametrize("name", NAMES)
class TestEditions:
    def test_the_student_edition_has_gaps_that_wait(self, editions, name):
        made, source = read(editions["student"] / f"{name}.ipynb"), read(ROOT / "notebooks" / f"{name}.ipynb")
        nbformat.validate(made)
        solved, gaps = sources(source, "solution"), sources(made, "exercise")
        assert len(solved) == len(gaps) >= 2 and not sources(made, "solution")
        for cell in gaps:
            scope = {}
            exec("from dreamprm_lib.course.exercises import check", scope)
            *first, last = ast.parse(cell).body
            exec(compile(ast.Module(first, []), name, "exec"), scope)
            answer = eval(compile(ast.Expression(last.value), name, "eval"), scope)
            assert answer.right is None, cell

    def test_all_else_is_the_source(self, editions, name):
        made, source = (
            [c.source for c in read(folder / f"{name}.ipynb").cells if not set(c.metadata.get("tags", [])) & changed]
            for folder, changed in (
                (editions["student"], {"exercise", "parameters"}),
                (ROOT / "notebooks", {"exercise", "parameters"}),
            )
        )
        assert made == source

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


def executed(*said):
    """A notebook with one exercise, and what its check said."""
    output = [nbformat.v4.new_output("execute_result", {"text/plain": text}) for text in said]
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("x", metadata={"tags": ["exercise"]}, outputs=output)]
    )


class TestCheck:
    """`check` with a runner that only lays down what a run would have left."""

    @pytest.fixture
    def ran(self, monkeypatch):
        def run(student, instructor):
            def fake(profile, edition, outputs, notebooks):
                study = runner.Study(outputs, edition)
                for name in NAMES:
                    path = study.path(f"notebooks/{name}.ipynb")
                    nbformat.write(executed(student if edition == "student" else instructor), path)
                return study

            monkeypatch.setattr(runner, "run", fake)

        return run

    def test_waiting_students_and_right_instructors_pass(self, editions, ran):
        ran("– f waits", "✔ f is right")
        assert course.check(editions) == [
            f"The student edition runs; its {len(NAMES)} checked exercises wait for an answer.",
            f"The instructor edition runs; its {len(NAMES)} checked exercises are right.",
        ]

    @pytest.mark.parametrize(
        "student, instructor, said",
        [
            ("✔ f is right", "✔ f is right", "student edition, 00_start_here: expected –"),
            ("– f waits", "✘ f is wrong", "instructor edition, 00_start_here: expected ✔ .*✘ f is wrong"),
        ],
    )
    def test_any_other_answer_is_named(self, editions, ran, student, instructor, said):
        ran(student, instructor)
        with pytest.raises(StudyError, match=said):
            course.check(editions)

    def test_an_exercise_without_an_answer_is_named(self):
        with pytest.raises(StudyError, match="must end with"):
            course.answers(executed())


def test_the_command_line_builds_and_a_missing_section_is_named(tmp_path, monkeypatch, capsys):
    assert main(["course", "build", "--out", str(tmp_path / "c")]) == 0
    assert sorted(p.stem for p in (tmp_path / "c" / "student").iterdir()) == NAMES
    monkeypatch.setattr(course, "teaching_notes", lambda _: {})
    assert main(["course", "build", "--out", str(tmp_path / "d")]) == 2
    assert "no section `### 00_start_here`" in capsys.readouterr().err


def test_a_class_is_graded_a_row_a_notebook_and_a_column_an_exercise(tmp_path, monkeypatch):
    """An endless loop, an exception and an exit spoil one answer each, and no key reaches what students wrote."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    head = "def move_label(label, slope, rate):\n    "
    bodies = {
        "ada": "return min(1.0, max(0.0, label - rate * slope))",
        "bob": "return label + rate * slope",
        "cy": "return ...",
        "dot": "while True:\n        pass",
        "eve": "import os\n    return 1 / len(os.environ.get('OPENAI_API_KEY', ''))",
        "fay": "raise SystemExit(0)",
    }
    for name, body in bodies.items():
        cells = [f'{head}{body}\n\n\ncheck("move_label", move_label)', "print('[1]')\ncheck('holm', lambda p: ...)"]
        made = [nbformat.v4.new_code_cell(c, metadata={"tags": ["exercise"]}) for c in cells]
        never = nbformat.v4.new_code_cell("open('ran', 'w')")
        nbformat.write(nbformat.v4.new_notebook(cells=[never, *made]), tmp_path / f"{name}.ipynb")
    (tmp_path / "notes.ipynb").write_text("no notebook")
    text = write_grades(tmp_path, seconds=2)
    table = pd.read_csv(tmp_path / "grades.csv", index_col="notebook")
    assert list(table.columns) == ["move_label", "holm"] and len(table) == len(text.splitlines()) - 2 == len(bodies)
    assert set(table.holm) == {"not attempted"}
    said = [table.move_label[f"{name}.ipynb"] for name in bodies]
    parts = ["passed", "Downhill", "not attempted", "no answer within 2", "Zero", "Exit"]
    assert [part for part, message in zip(parts, said, strict=True) if part not in message] == []
    with pytest.raises(InputError, match="no notebook with exercises"):
        write_grades(tmp_path / "nowhere")


def answered(source):
    return source.replace(course.GAP, "return 42")


CHANGES = {
    "an answer": lambda cells: cells[[course.GAP in c.source for c in cells].index(True)],
    "a note": lambda cells: cells[0],
    "a setting": lambda cells: next(c for c in cells if "parameters" in c.metadata.get("tags", [])),
}


@pytest.mark.parametrize("cell", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("name", [NAMES[0], NAMES[3], NAMES[-1]])
def test_what_people_wrote_into_an_edition_is_not_built_over(tmp_path, cell, name):
    """A change of one cell in one notebook keeps both editions as they are."""
    path = course.build(tmp_path)["student"] / f"{name}.ipynb"
    notebook = read(path)
    changed = cell(notebook.cells)
    changed.source = answered(changed.source) + "\n# mine"
    nbformat.write(notebook, path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.ipynb")}
    with pytest.raises(InputError, match=rf"{name}\.ipynb was changed since it was built .*1 notebook in all.*--out"):
        course.build(tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.ipynb")} == before
    course.build(tmp_path / "elsewhere")


def test_a_notebook_that_is_no_edition_is_not_built_over(tmp_path):
    (tmp_path / "student").mkdir()
    for text in ("not a notebook", "", nbformat.writes(nbformat.v4.new_notebook())):
        (tmp_path / "student" / f"{NAMES[1]}.ipynb").write_text(text)
        with pytest.raises(InputError, match="was changed since it was built"):
            course.build(tmp_path)


def test_an_edition_that_was_only_run_is_built_again(tmp_path):
    """Outputs and counts are no work that is lost."""
    path = course.build(tmp_path)["student"] / f"{NAMES[2]}.ipynb"
    notebook = read(path)
    cell = next(c for c in notebook.cells if c.cell_type == "code")
    cell.execution_count, cell.outputs = 3, [nbformat.v4.new_output("stream", text="ran")]
    nbformat.write(notebook, path)
    course.build(tmp_path)
    assert not any(c.get("outputs") for c in read(path).cells)


@pytest.mark.parametrize("kept", ["course/student/02.ipynb", "course/notes.txt", "outputs/reference/table.csv"])
@pytest.mark.parametrize("gone", ["outputs/quick/table.csv", "tests/artifacts/a.png", ".venv/bin/python"])
def test_make_clean_leaves_what_people_made(tmp_path, kept, gone):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for file in (kept, gone, "outputs/reference/manifest.json"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("x")
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / kept).exists() and not (tmp_path / gone).exists()


SYLLABUS = (ROOT / "docs" / "syllabus.md").read_text()
PROSE = {
    name: "\n".join(c.source for c in read(ROOT / "notebooks" / f"{name}.ipynb").cells if c.cell_type == "markdown")
    for name in NAMES
}
GRADED = re.compile(r"^\*\*(\d)\.(\d)\*\* \((\w+), (\d+) minutes\)", re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
class TestDocs:
    def test_exercises_are_numbered_graded_and_timed(self, name):
        found = GRADED.findall(PROSE[name])
        assert len(found) == len(re.findall(r"^\*\*\d\.\d\*\* \(", PROSE[name], re.MULTILINE))
        assert [(int(c), int(k)) for c, k, *_ in found] == [(int(name[:2]), k + 1) for k in range(len(found))]
        grades = [grade for *_, grade, _ in found]
        assert set(grades) <= {"easy", "medium", "hard", "open", "project"}
        if name != "00_start_here":
            assert 3 <= len(found) <= 5 and grades.count("project") == 1
            assert "hard" in grades and {"easy", "medium"} & set(grades)

    def test_the_syllabus_has_every_part_and_adds_up(self, name):
        notes = course.teaching_notes(SYLLABUS)[name]
        assert all(f"**{part}**" in notes for part in ("Objectives", "Before", "Minutes", "Talking points"))
        minutes = {grade: 0 for grade in ("exercises", "project")}
        for *_, grade, m in GRADED.findall(PROSE[name]):
            minutes["project" if grade == "project" else "exercises"] += int(m)
        said = {what: int(m) for m, what in re.findall(r"(\d+) (exercises|project)", notes)}
        assert said == {what: m for what, m in minutes.items() if m}

    def test_the_papers_it_names_are_in_the_references(self, name):
        known = set(re.findall(r"\(https://arxiv\.org/abs/(\d{4}\.\d{5})\)", (ROOT / "docs/references.md").read_text()))
        assert set(re.findall(r"\b\d{4}\.\d{5}\b", PROSE[name])) <= known


def test_the_syllabus_names_sections_and_exercises_that_are_there():
    there = re.findall(r"^(?:## |\*\*)(\d\.\d+)\b", "\n".join(PROSE.values()), re.MULTILINE)
    assert set(re.findall(r"\b\d\.\d+\b", SYLLABUS)) <= set(there)


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


CODE = "\n".join(path.read_text() for path in sorted((ROOT / "dreamprm_lib").rglob("*.py")))


def test_every_symbol_is_used_where_it_says():
    for symbol, _meaning, code, chapters in rows("notation.md")[1:]:
        for chapter in chapters.split(", "):
            (text,) = (prose for name, prose in PROSE.items() if name.startswith(chapter))
            assert symbol.strip("$") in " ".join(re.findall(r"\$+([^$]+)\$+", text)), (symbol, chapter)
        name = code.split("`")[1]
        assert re.search(rf"\b{name}\b", CODE), name
