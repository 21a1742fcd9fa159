"""The shipped reference run: its manifest fits its tables, and the README and the results page say what it found."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dreamprm_lib.engine.files import file_digest
from dreamprm_lib.engine.problems import load_problems
from dreamprm_lib.evidence.statistics import mean_with_interval
from dreamprm_lib.reward_model import RewardModel
from dreamprm_lib.study.folder import STAGES, Study
from dreamprm_lib.study.rows import CandidateScores, Program, Repair
from dreamprm_lib.test_time_scaling import aggregation_rules, make_pool

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = Study(ROOT / "outputs", "reference")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_manifest_describes_the_tables():
    stages = json.loads((REFERENCE.shipped / "manifest.json").read_text())["stages"]
    assert list(stages) == [s.notebook for s in STAGES]
    for stage in STAGES:
        recorded = stages[stage.notebook]["outputs"]
        assert set(recorded) == set(stage.writes)
        for file, digest in recorded.items():
            assert file_digest(REFERENCE.shipped / file) == digest, file


def test_a_program_that_passes_the_hidden_tests_passes_the_samples():
    """Else the hidden tests of a problem are too weak to say that a program is right; HumanEval's are not ours."""
    own = {problem.id for problem in load_problems("starter", "test")}
    rows = REFERENCE.read("free_scores.jsonl", CandidateScores)
    samples = {(row.problem, row.sample): row.scores for row in rows if row.method == "public_samples"}
    passed = [c for c in REFERENCE.read("candidates.jsonl", Program) if c.passed and c.problem in own]
    assert passed and not {c.problem for c in passed if min(samples[c.problem, c.sample]) < 1}


def test_what_the_docs_compute_is_what_the_reference_run_and_the_imports_give(docs_module):
    generate = docs_module("generate")
    for path, text in (generate.results(REFERENCE) | {generate.PICTURE: generate.house.svg()}).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `python docs/generate.py`"


def test_the_readme_is_short_leads_with_the_finding_and_describes_its_picture():
    assert 700 <= len(README.split()) <= 900
    title, mark, *_ = README.split("\n\n", 1)[1].partition("<!-- headline: computed -->")
    assert title == "" and mark and "| `prm_cof` |" not in README
    assert len(re.findall(r"^\d\. ", README.partition("<!-- findings: computed -->")[2], re.MULTILINE)) == 5
    pictures = re.findall(r"!\[([^]]*)\]\(([^)]+)\)", README)
    assert len(pictures) == 1 and all(len(text) > 100 and (ROOT / path).exists() for text, path in pictures)


def test_repairs_stand_in_the_place_of_the_programs_that_they_were_made_from():
    """With one program there is no choice, and with all the ceiling is whether any passes."""
    candidates = {(c.problem, c.sample): c.passed for c in REFERENCE.read("candidates.jsonl", Program)}
    repairs = REFERENCE.read("repairs.jsonl", Repair)
    mended = candidates | {(r.problem, r.sample): r.passed for r in sorted(repairs, key=lambda r: r.round)}
    curve = REFERENCE.read_table("asking_curve.csv").set_index(["method", "n"]).pass_rate

    def rates(passed):
        of_problem = pd.Series(passed).groupby(level=0)
        return of_problem.mean().mean(), of_problem.max().mean()

    alone, ceiling = rates(mended)
    assert curve["repaired", 1] == pytest.approx(alone, abs=1e-5)
    assert curve["oracle of repaired"].iloc[-1] == pytest.approx(ceiling, abs=1e-5)
    assert alone > rates(candidates)[0]  # before their price
    assert ceiling == rates(candidates)[1]  # no problem is solved by repairs alone


def became_of_it(opening):
    """The paragraph of the formats page that begins so, on one line."""
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    paragraph = page.partition(f"What became of it: {opening}")[2].partition("\n\n")[0]
    return " ".join(paragraph.split())


def test_the_later_candidates_pass_as_often_as_the_formats_page_says():
    candidates = REFERENCE.read("candidates.jsonl", Program)
    passed = pd.DataFrame([(c.problem, c.sample < 8, c.passed) for c in candidates], columns=["problem", "early", "ok"])
    halves = passed.pivot_table(index="problem", columns="early", values="ok")
    fewer = 100 * np.array(mean_with_interval((halves[True] - halves[False]).to_numpy()))
    assert "less often by {:.1f} points ({:+.1f} to {:+.1f})".format(*fewer) in became_of_it("all 2,536 came in")


def test_deeper_layers_gain_what_the_formats_page_says():
    said, candidates = became_of_it("chapter 4 chose layer 16"), REFERENCE.read("candidates.jsonl", Program)
    about = RewardModel.load(REFERENCE.shipped / "prm_cof.safetensors").about
    tried = REFERENCE.read_table("layers.csv")
    assert (about["layer"], about["ridge"]) == (16, 0.1) and tried.ridge.min() == 0.1
    assert tuple(tried.loc[tried.ranking.idxmax(), ["layer", "ridge"]]) == (16, 0.1)
    test = load_problems("starter,humaneval?split=test")
    taught = {p.kind for p in test if p.split == "train"}
    scores = REFERENCE.read("free_scores.jsonl", CandidateScores) + REFERENCE.read("scores.jsonl", CandidateScores)
    pool = make_pool([p for p in test if p.split == "test"], candidates, scores, aggregation_rules(scores, "mean"))
    known = np.array([p.source == "starter" and p.kind in taught for p in pool.problems])
    assert f"{known.sum()} starter problems of known kinds" in said and pool.size == 16
    everywhere = np.full(len(known), True)
    stack = "prm_cof + mean_logprob"
    compared = [(stack, base, part) for part in (known, everywhere) for base in ("random", "mean_logprob")]
    compared += [("prm_cof", "random", everywhere), ("dreamprm_code", "prm_cof", everywhere)]
    for method, base, part in compared:
        gain = 100 * np.array(mean_with_interval((pool.best_of(method, 16) - pool.best_of(base, 16))[part]))
        assert "{:+.1f} points ({:+.1f} to {:+.1f})".format(*gain) in said
    alone = REFERENCE.read_table("differences.csv").query(
        "method == 'prm_cof' and baseline == 'random' and samples == 0"
    )
    assert f"{alone.p_holm.item():.3f} after Holm's adjustment" in said
    read = REFERENCE.read_table("reading_test.csv").query("measure == 'ranking' and method == 'prm_cof'")
    for row in read[read.set != "all"].itertuples():
        if row.on == "blind" or (row.set, row.on) == ("humaneval", "mean_logprob"):
            assert f"{row.gain:+.3f} ({row.gain_low:+.3f} to {row.gain_high:+.3f})" in said
    foreign = read[read.set == "humaneval"].iloc[0]
    assert f"`prm_cof` ranks {foreign.value:.3f} ({foreign.low:.3f} to {foreign.high:.3f})" in said
