"""The step debugger's page says what the study knows, and is built so that everyone can read it."""

import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from dreamprm_lib.__main__ import main
from dreamprm_lib.reward_model import RewardModel
from dreamprm_lib.study.folder import Study
from dreamprm_lib.study.rows import CandidateScores, Program, StepLabel

FOLDER = Path(__file__).resolve().parents[1] / "outputs" / "reference"
STUDY = Study(FOLDER.parent, FOLDER.name)


@pytest.fixture
def page_of(tmp_path):
    """The page of a problem of the reference study, or of a file, with further options."""

    def inspect(*arguments):
        assert main(["inspect", *map(str, arguments), "--out", str(tmp_path / "page.html")]) == 0
        return BeautifulSoup((tmp_path / "page.html").read_text(encoding="utf-8"), "html.parser")

    return inspect


def test_labels_posteriors_and_rollouts_stand_beside_the_steps(page_of):
    page = page_of("above-first")
    programs = [p for p in STUDY.read("solutions.jsonl", Program) if p.problem == "above-first"]
    steps = page.select("article .step")
    assert [step.select_one("pre").text for step in steps] == [text.strip("\n") for p in programs for text in p.steps]
    labels = [x for x in STUDY.read("labels.jsonl", StepLabel) if x.problem == "above-first" and x.sample == 0]
    for step, label in zip(steps, labels, strict=False):
        said = " ".join(step.select_one(".numbers").text.split())
        assert f"label {label.label:.2f}" in said and f"posterior {label.posterior:.2f}" in said and "corrected" in said
        assert f"{label.passes} of {label.rollouts} rollouts" in said or (label.clean and "program's verdict" in said)
        if not label.clean:
            box = step.select_one("details:not([open])")  # behind a click
            outcomes = [line.text.split(": ")[1] for line in box.select("p")]
            assert len(outcomes) == 4 and outcomes.count("passed") == label.passes
            assert all(code.text for code in box.select("pre"))
    assert "Name a reward model with --prm" in page.select_one("main").text


def test_functions_are_coloured_by_the_study_s_scores_and_the_best_program_comes_first(page_of):
    page = page_of("above-mean")
    rows = STUDY.read("scores.jsonl", CandidateScores)
    scores = {r.sample: r.scores for r in rows if r.method == "dreamprm_code" and r.problem == "above-mean"}
    order = [int(re.search(r"Sample (\d+)", heading.text)[1]) for heading in page.select("h3")]
    assert order == sorted(scores, key=lambda k: (-sum(scores[k]) / len(scores[k]), k))
    shown = [step["style"] for step in page.select("article .step")]
    assert shown == [f"--score: {100 * x:.1f}%" for sample in order for x in scores[sample]]
    assert [chip.text for chip in page.select(".chips span")] == [f"{x:.2f}" for k in order for x in scores[k]]


@pytest.mark.parametrize("arguments", [("above-first",), (FOLDER / "candidates.jsonl",)], ids=["problem", "file"])
def test_everyone_can_read_the_page(page_of, arguments):
    page = page_of(*arguments)
    assert page.html["lang"] == "en" and page.title.text and page.select_one("meta[name=viewport]")
    levels = [int(tag.name[1]) for tag in page.select("h1, h2, h3, h4")]
    assert levels[0] == 1 and levels.count(1) == 1 and all(after <= before + 1 for before, after in pairwise(levels))
    ids = [tag["id"] for tag in page.select("[id]")]
    assert len(ids) == len(set(ids)) and {a["href"][1:] for a in page.select("a")} <= set(ids)
    assert {tag["aria-labelledby"] for tag in page.select("[aria-labelledby]")} <= set(ids)
    assert all(box["aria-label"] for box in page.select("input"))
    assert not page.select("script, img, [src], link:not([href^='data:'])")  # nothing is fetched, nothing runs


def test_another_reward_model_judges_programs_outside_a_study(page_of, tmp_path, monkeypatch):
    class Half:
        def score(self, problem, programs):
            return [[0.5] * code.count("def ") for code in programs]

    monkeypatch.setattr(RewardModel, "load", lambda path: Half())
    file = tmp_path / "my <b>.jsonl"
    file.write_text((FOLDER / "candidates.jsonl").read_text().splitlines()[3] + "\n")
    page = page_of(file, "--prm", "org/model")
    assert page.select_one("main strong").text == "org/model" and "<b>" in page.h1.text
    assert {step["style"] for step in page.select("article .step")} == {"--score: 50.0%"}
    assert not page.select("article details") and "label" not in page.select_one("article").text


def test_without_the_recorded_texts_the_page_has_labels_alone(page_of, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path / "cache"))
    for file in ("solutions.jsonl", "labels.jsonl"):
        shutil.copy(FOLDER / file, tmp_path)
    manifest = (FOLDER / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(manifest.replace('"temperature": 0.8', '"temperature": 0.7'))
    page = page_of("above-first", "--study", tmp_path)
    assert "label 0.50" in page.select_one("article").text and not page.select("article details")


def test_what_is_neither_a_file_nor_a_problem_is_named(tmp_path, capsys):
    assert main(["inspect", "above-frist", "--out", str(tmp_path / "x.html")]) == 2
    assert "no problem of that name in the study reference (did you mean `above-first`?)" in capsys.readouterr().err
