"""The step debugger's page says what the study knows, and is built so that everyone can read it."""

import itertools
import re
import shutil
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from dreamprm_lib.__main__ import main
from dreamprm_lib.reward_model import RewardModel
from dreamprm_lib.study.folder import Study
from dreamprm_lib.study.rows import CandidateScores, CorrectedLabel, Program, StepLabel

STUDY = Path(__file__).resolve().parent.parent / "outputs" / "reference"


@pytest.fixture(scope="module")
def study():
    return Study(STUDY.parent, STUDY.name)


@pytest.fixture(scope="module")
def page_of(tmp_path_factory):
    """The page of a problem of the reference study, or of a file, with further options."""
    made = {}

    def inspect(*arguments):
        if arguments not in made:
            out = tmp_path_factory.mktemp("page") / "page.html"
            assert main(["inspect", *map(str, arguments), "--out", str(out)]) == 0
            made[arguments] = BeautifulSoup(out.read_text(encoding="utf-8"), "html.parser")
        return made[arguments]

    return inspect


def test_labels_and_posteriors_stand_beside_the_steps(page_of, study):
    page = page_of("above-first")
    programs = [p for p in study.read("solutions.jsonl", Program) if p.problem == "above-first"]
    steps = page.select("article .step")
    assert [step.select_one("pre code").text for step in steps] == [text for p in programs for text in p.steps]
    labels = [x for x in study.read("labels.jsonl", StepLabel) if x.problem == "above-first" and x.sample == 0]
    corrected = [x for x in study.read("corrected_labels.jsonl", CorrectedLabel) if x.problem == "above-first"]
    said = [" ".join(step.select_one(".numbers").text.split()) for step in steps[: len(labels)]]
    for text, label in zip(said, labels, strict=True):
        assert f"label {label.label:.2f}" in text and f"posterior {label.posterior:.2f}" in text
    assert f"{labels[0].passes} of {labels[0].rollouts} rollouts passed" in said[0]
    assert f"corrected {corrected[0].after:.2f}" in said[0] and "the program's verdict" in said[-1]
    assert "Name a reward model with --prm" in page.select_one("main").text


def test_rollouts_lie_behind_a_click_and_their_outcomes_are_those_of_the_label(page_of, study):
    label = next(x for x in study.read("labels.jsonl", StepLabel) if x.problem == "above-first")
    box = page_of("above-first").select_one("article .step details")
    assert box.select_one("summary").text == "4 rollouts from here" and not box.has_attr("open")
    outcomes = [line.text.split(": ")[1] for line in box.select("p")]
    assert outcomes.count("passed") == label.passes and len(outcomes) == 4
    assert all("def " in code.text for code in box.select("pre code"))


def test_functions_are_coloured_by_the_study_s_scores_and_the_best_program_comes_first(page_of, study):
    page = page_of("above-mean")
    rows = study.read("scores.jsonl", CandidateScores)
    scores = {r.sample: r.scores for r in rows if r.method == "dreamprm_code" and r.problem == "above-mean"}
    order = [int(re.search(r"Sample (\d+)", h.text)[1]) for h in page.select("h3")]
    assert order == sorted(scores, key=lambda k: (-sum(scores[k]) / len(scores[k]), k))
    shown = [step["style"] for step in page.select("article .step")]
    assert shown == [f"--score: {100 * x:.1f}%" for sample in order for x in scores[sample]]
    chips = [chip.text for chip in page.select("tbody tr")[0].select(".chips span")]
    assert chips == [f"{x:.2f}" for x in scores[order[0]]]


@pytest.mark.parametrize("arguments", [("above-first",), (STUDY / "candidates.jsonl",)], ids=["problem", "file"])
def test_everyone_can_read_the_page(page_of, arguments):
    page = page_of(*arguments)
    assert page.html["lang"] == "en" and page.title.text and page.select_one("meta[name=viewport]")
    levels = [int(tag.name[1]) for tag in page.select("h1, h2, h3, h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [tag["id"] for tag in page.select("[id]")]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.select("a")} <= set(ids)
    assert {name for tag in page.select("[aria-labelledby]") for name in tag["aria-labelledby"].split()} <= set(ids)
    assert all(box["aria-label"] for box in page.select("input"))
    assert not page.select("script, img, [src], link:not([href^='data:'])")  # nothing is fetched, nothing runs
    assert len(page.select("nav a")) == (len(page.select("section")) if len(page.select("section")) > 1 else 0)


def test_another_reward_model_judges_programs_outside_a_study(page_of, tmp_path, monkeypatch):
    class Half:
        def score(self, problem, programs):
            return [[0.5] * code.count("def ") for code in programs]

    monkeypatch.setattr(RewardModel, "load", lambda path: Half())
    rows = (STUDY / "candidates.jsonl").read_text().splitlines()
    file = tmp_path / "my <b>.jsonl"
    file.write_text(next(row for row in rows if '"sample": 3' in row) + "\n")
    page = page_of(file, "--prm", "org/model")
    assert page.select_one("main strong").text == "org/model" and "<b>" in page.h1.text
    assert {step["style"] for step in page.select("article .step")} == {"--score: 50.0%"}
    assert not page.select("article details") and "label" not in page.select_one("article").text


def test_without_the_recorded_texts_the_page_has_labels_alone(page_of, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    folder.mkdir()
    for file in ("solutions.jsonl", "labels.jsonl"):
        shutil.copy(STUDY / file, folder)
    text = (STUDY / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"temperature": 0.8', '"temperature": 0.7'))
    page = page_of("above-first", "--study", folder)
    assert "label 0.50" in page.select_one("article").text and not page.select("article details")


def test_what_is_neither_a_file_nor_a_problem_is_named(tmp_path, capsys):
    assert main(["inspect", "above-frist", "--out", str(tmp_path / "x.html")]) == 2
    assert "no problem of that name in the study reference (did you mean `above-first`?)" in capsys.readouterr().err
