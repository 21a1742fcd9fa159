"""A study's data in other projects' forms is read back, and agrees with the study's own tables."""

import json
import re
import shlex
from itertools import product
from pathlib import Path

import pytest

from dreamprm_lib.__main__ import main
from dreamprm_lib.engine.files import file_digest, json_lines
from dreamprm_lib.study.folder import Study
from dreamprm_lib.study.rows import Program, StepLabel

ROOT = Path(__file__).resolve().parent.parent
STUDY = Study(ROOT / "outputs", "reference")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The folder in which the commands of the page were run, but for the one that needs a model of the hub."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "outputs").symlink_to(ROOT / "outputs")
    page = (ROOT / "docs" / "use.md").read_text(encoding="utf-8").partition("## See why")[2]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in re.findall(r"^python -m dreamprm_lib (?!evaluate)(.*)$", page, re.MULTILINE):
            assert main(shlex.split(line)) == 0
        exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], {})
    return folder


def rows_of(path):
    return [row for _, row in json_lines(path)]


def test_stepwise_supervision_has_a_label_for_each_step(recipe):
    steps = rows_of(recipe / "for-trl" / "steps.jsonl")
    labels = {(x.problem, x.sample, x.step): x for x in STUDY.read("labels.jsonl", StepLabel)}
    programs = {(p.problem, p.sample): p for p in STUDY.read("solutions.jsonl", Program)}
    whole = [key for key, p in programs.items() if p.steps and all((*key, k) in labels for k in range(len(p.steps)))]
    assert [(row["problem"], row["sample"]) for row in steps] == whole and len(whole) > 50
    for row, key in zip(steps, whole, strict=True):
        mine = [labels[(*key, k)] for k in range(len(programs[key].steps))]
        assert row["completions"] == programs[key].steps and row["prompt"].startswith("Problem:\n")
        assert row["labels"] == [x.label >= 0.5 for x in mine] and row["posterior"] == [x.posterior for x in mine]
        assert row["labels"][-1] is programs[key].passed
    assert any(value is not None for row in steps for value in row["corrected"])


def test_pairs_prefer_a_passing_to_a_failing_program_of_the_problem(recipe):
    solutions = STUDY.read("solutions.jsonl", Program)
    expected = {
        (a.problem, a.code, b.code)
        for a, b in product(solutions, solutions)
        if a.problem == b.problem and a.passed and not b.passed
    }
    found = [(r["problem"], r["chosen"], r["rejected"]) for r in rows_of(recipe / "for-trl" / "pairs.jsonl")]
    assert set(found) == expected and len(found) == len(expected) > 50


def test_openrlhf_has_a_placeholder_behind_each_step(recipe):
    steps, own = (rows_of(recipe / folder / "steps.jsonl") for folder in ("for-openrlhf", "for-trl"))
    for row, trl in zip(steps, own, strict=True):
        prompt, *rest = row["input"].split("ки")
        assert prompt == trl["prompt"] + trl["completions"][0] and rest == [*trl["completions"][1:], ""]
        assert row["label"] == ["+" if right else "-" for right in trl["labels"]]


def test_the_manifest_holds_the_digests_of_tables_and_sources(recipe):
    manifest = json.loads((recipe / "for-trl" / "manifest.json").read_text())
    for file, entry in manifest["files"].items():
        assert entry["sha256"] == file_digest(recipe / "for-trl" / file)
    assert manifest["sources"]["labels.jsonl"] == file_digest(STUDY.existing("labels.jsonl"))


def test_a_study_that_is_not_there_is_named(tmp_path, capsys):
    assert main(["export", "gone", "--out", str(tmp_path)]) == 2
    assert "There is no study gone" in capsys.readouterr().err
