"""A study's data in other projects' forms is read back, and agrees with the study's own tables."""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from dreamprm_lib.__main__ import main
from dreamprm_lib.engine.files import file_digest, json_lines
from dreamprm_lib.study.folder import Study
from dreamprm_lib.study.rows import Program, StepLabel

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The reference study in each form: a function from form to tables and manifest."""
    folder = tmp_path_factory.mktemp("exported")

    def read(form):
        out = folder / form
        if not out.exists():
            assert main(["export", "reference", "--format", form, "--out", str(out)]) == 0
        manifest = json.loads((out / "manifest.json").read_text())
        assert {file: file_digest(out / file) for file in manifest["files"]} == {
            file: entry["sha256"] for file, entry in manifest["files"].items()
        }
        if form == "parquet":
            parquet = pytest.importorskip("pyarrow.parquet")
            return [parquet.read_table(out / f"{n}.parquet").to_pylist() for n in ("steps", "pairs", "pools")], manifest
        return [[row for _, row in json_lines(out / f"{n}.jsonl")] for n in ("steps", "pairs", "pools")], manifest

    return read


@pytest.fixture(scope="module")
def study():
    return Study(ROOT / "outputs", "reference")


def test_stepwise_supervision_has_a_label_for_each_step(exported, study):
    (steps, _, _), manifest = exported("trl")
    labels = {(x.problem, x.sample, x.step): x for x in study.read("labels.jsonl", StepLabel)}
    programs = {(p.problem, p.sample): p for p in study.read("solutions.jsonl", Program)}
    whole = [p for p in programs.values() if p.steps and all((*key(p), k) in labels for k in range(len(p.steps)))]
    assert len(steps) == len(whole) == manifest["files"]["steps.jsonl"]["rows"] > 50
    for row in steps:
        program = programs[row["problem"], row["sample"]]
        mine = [labels[(*key(program), k)] for k in range(len(program.steps))]
        assert row["completions"] == program.steps and row["prompt"].startswith("Problem:\n")
        assert row["labels"] == [x.label >= 0.5 for x in mine] and row["posterior"] == [x.posterior for x in mine]
        assert row["labels"][-1] is program.passed
    assert any(value is not None for row in steps for value in row["corrected"])


def key(program):
    return program.problem, program.sample


def test_pairs_prefer_a_passing_to_a_failing_program_of_the_problem(exported, study):
    (_, pairs, _), _ = exported("trl")
    solutions = study.read("solutions.jsonl", Program)
    expected = {
        (a.problem, a.code, b.code)
        for a, b in product(solutions, solutions)
        if a.problem == b.problem and a.passed and not b.passed
    }
    found = [(row["problem"], row["chosen"], row["rejected"]) for row in pairs]
    assert set(found) == expected and len(found) == len(expected) > 50


def test_pools_hold_every_candidate_with_its_scores(exported, study):
    (_, _, pools), _ = exported("trl")
    assert [(r["problem"], r["sample"], r["code"], r["passed"]) for r in pools] == [
        (c.problem, c.sample, c.code, c.passed) for c in study.read("candidates.jsonl", Program)
    ]
    assert all(len(row["scores"]["prm_cof"]) == len(row["steps"]) for row in pools)


def test_openrlhf_has_a_placeholder_behind_each_step(exported):
    (steps, pairs, _), _ = exported("openrlhf")
    (own, same, _), _ = exported("trl")
    assert pairs == same
    for row, trl in zip(steps, own, strict=True):
        prompt, *rest = row["input"].split("ки")
        assert prompt == trl["prompt"] + trl["completions"][0] and rest == [*trl["completions"][1:], ""]
        assert row["label"] == ["+" if right else "-" for right in trl["labels"]]


def test_parquet_holds_the_same_tables(exported):
    pytest.importorskip("pyarrow")
    tables, manifest = exported("parquet")
    assert tables == exported("trl")[0]
    assert manifest["sources"]["labels.jsonl"] == file_digest(ROOT / "outputs" / "reference" / "labels.jsonl")


def test_a_study_that_is_not_there_is_named(tmp_path, capsys):
    assert main(["export", "gone", "--out", str(tmp_path / "x")]) == 2
    assert "There is no study gone" in capsys.readouterr().err


def test_without_pyarrow_the_package_is_named(tmp_path):
    code = "import sys; sys.modules['pyarrow'] = None; sys.modules['fastparquet'] = None\n"
    code += "from dreamprm_lib.__main__ import main\n"
    code += f"sys.exit(main(['export', 'reference', '--format', 'parquet', '--out', {str(tmp_path)!r}]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and 'pip install -e ".[parquet]"' in done.stderr
