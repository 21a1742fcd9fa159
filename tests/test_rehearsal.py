"""The `paper` profile, rehearsed in small: all of it runs on replies that often fail, and says that it is no result."""

import json

import numpy as np
import pytest
from rehearsal import NOTE, ROOT, SIZES, rehearse

from dreamprm_lib.engine.policy.completions import CompletionStore
from dreamprm_lib.reward_model import RewardModel
from dreamprm_lib.study.folder import STAGES
from dreamprm_lib.study.rows import Program, StepLabel


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
    with CompletionStore(study.folder / "cache" / "completions.sqlite") as store:  # each was paid for once
        states = sum(not x.clean for x in labels)
        assert len(store) == len(server.delivered) >= len(candidates) + 16 * states
