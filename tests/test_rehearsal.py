"""The `paper` profile, rehearsed in small: all of it runs on replies that often fail, and says that it is no result."""

import json
from dataclasses import replace

import numpy as np
import pytest
from rehearsal import NOTE, ROOT, SIZES, chosen_problems, rehearse, variants, write_livecodebench

from dreamprm_lib.engine.fine_tuning import LoraScorer, recipe_of
from dreamprm_lib.engine.policy.completions import CompletionStore
from dreamprm_lib.engine.problems import load_problems
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.label_correction import Correction, choose, correct
from dreamprm_lib.reward_model import RewardModel, training_tables
from dreamprm_lib.steps import StepTable
from dreamprm_lib.study.folder import STAGES
from dreamprm_lib.study.rows import CorrectedLabel, Program, StepLabel


@pytest.mark.rehearsal
def test_the_paper_profile_runs_through_and_gives_its_table(monkeypatch):
    for name in ("DREAMPRM_CACHE", "HF_HUB_OFFLINE"):  # so that they are as they were afterwards
        monkeypatch.setenv(name, "1")
    study, server = rehearse(ROOT / "outputs")
    table = study.read_table("table.csv").query("difficulty == 'overall' and samples == 0").set_index("method")
    assert {"random", "orm", "prm_cof", "dreamprm_code", "oracle"} <= set(table.index)
    assert table.problems.eq(SIZES["test"]).all() and table.pass_rate.between(0, 1).all()
    manifest = json.loads((study.folder / "manifest.json").read_text())
    assert list(manifest["stages"]) == [s.notebook for s in STAGES]
    assert manifest["note"] == NOTE and NOTE in (study.folder / "report.html").read_text()
    assert server.faults.total() > server.faults[None]
    candidates = study.read("candidates.jsonl", Program)
    assert len(candidates) == 8 * SIZES["test"] and 0 < np.mean([c.passed for c in candidates]) < 1
    labels = study.read("labels.jsonl", StepLabel)
    assert {x.rollouts for x in labels if not x.clean} == {16}
    prm, corrected = (RewardModel.load(study.folder / f"{name}.safetensors") for name in ("prm_cof", "dreamprm"))
    assert prm.backbone.tuning.lora and corrected.backbone.tuning.lora
    chapter = manifest["stages"]["05_label_correction"]["parameters"]
    of_id, solutions = {p.id: p for p in load_problems(chapter["problems"])}, study.read("solutions.jsonl", Program)
    recipe = recipe_of("lora", chapter["recipe"], 0, smoothing=chapter["smoothing"], meta_lr=chapter["meta_lr"])
    scorer = LoraScorer(replace(prm.backbone, tuning=None), of_id, recipe, study.folder / "training")
    tables = training_tables(of_id, solutions, labels, "dreamprm_code")  # all of it is saved, so that nothing trains
    chosen, _ = choose(scorer, *tables, [Correction.of(recipe)], chapter["folds"], np.random.default_rng(0))
    again = correct(scorer, *tables, chosen)
    rolled = [p for p in solutions if (p.problem, p.sample) in {(x.problem, x.sample) for x in labels}]
    written = {(x.problem, x.sample, x.step): x.after for x in study.read("corrected_labels.jsonl", CorrectedLabel)}
    table = StepTable.join(of_id, rolled)
    keys = zip(table.problem, table.sample, table.step, strict=True)
    assert written == dict(zip(keys, again.labels, strict=True))  # the labels are those of the model that is written
    np.testing.assert_array_equal(corrected.head.weight, again.head.weight)
    with CompletionStore(study.folder / "cache" / "completions.sqlite") as store:  # each was paid for once
        states = sum(not x.clean for x in labels)
        assert len(store) == len(server.delivered) >= len(candidates) + 16 * states


def test_the_rehearsed_problems_split_by_date_and_their_programs_are_graded_as_meant(tmp_path):
    chosen = chosen_problems()
    write_livecodebench(tmp_path / "problems.jsonl", chosen)
    read = load_problems(f"{tmp_path / 'problems.jsonl'}?train_before=2024-08-01&test_from=2025-02-01")
    assert {(p.id, p.split) for p in read} == {(p.id, s) for s in ("train", "meta", "test") for p in chosen[s]}
    of_id = {p.id: p for problems in chosen.values() for p in problems}
    with Sandbox() as sandbox:
        for p in read[:4]:
            right, *wrong = sandbox.grade([(p, code) for code in variants(of_id[p.id])])
            assert right.passed and not any(v.passed for v in wrong)
