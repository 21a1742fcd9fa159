"""Training apart from the notebooks, for many devices or machines: what they need of it they then take up.

    torchrun --nnodes 2 --nproc-per-node 8 ... -m dreamprm_lib train --profile paper --method prm_cof

trains what chapter 4 (or 5, for `dreamprm_code`) would, with the profile's settings, on the tables of the study.  The
state of the training lies in the study's folder `training`; the notebook finds it complete and goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dreamprm_lib.commands.run import PROJECT, Profile, load_profile, parse_overrides, stage_parameters
from dreamprm_lib.engine import parallel
from dreamprm_lib.engine.backbone import Backbone
from dreamprm_lib.engine.fine_tuning import CORRECTING, LoraScorer, fine_tune, recipe_of
from dreamprm_lib.engine.problems import load_problems
from dreamprm_lib.errors import InputError
from dreamprm_lib.label_correction import Correction, choose, correct
from dreamprm_lib.reward_model import training_tables
from dreamprm_lib.study.folder import STAGES, Study
from dreamprm_lib.study.rows import Program, StepLabel


def train_command(profile: str, method: str, study: str | None, overrides: list[str]) -> Path:
    """`train` for the command line: a profile by its name."""
    return train(load_profile(profile), method, study, overrides)


def train(
    profile: Profile,
    method: str,
    study_name: str | None = None,
    options: Sequence[str] = (),
    outputs: Path | None = None,
) -> Path:
    """Train one of `reward_model.FINE_TUNED`, with all processes that a launcher started; where its state lies.

    Raises `InputError` for a profile that leaves backbone or layer to the evidence, or trains a head alone.
    """
    study = Study(outputs or PROJECT / "outputs", study_name or profile.name)
    overrides = parse_overrides(list(options))
    wanted, corrected = (stage_parameters(STAGES[k], profile, overrides, {}) for k in (4, 5))
    if len(wanted["backbones"]) != 1 or len(wanted["layers"]) != 1:
        raise InputError("Name one backbone and one layer in the profile (04_reward_model) to train them apart.")
    settings = corrected if method == "dreamprm_code" else wanted
    correcting = {name: settings[name] for name in CORRECTING if name in settings}
    recipe = recipe_of(settings["training"], settings["recipe"], settings["seed"], **correcting)
    by_id = {p.id: p for p in load_problems(wanted["problems"])}
    table, meta = training_tables(
        by_id, study.read("solutions.jsonl", Program), study.read("labels.jsonl", StepLabel), method
    )
    saved = study.folder / "training"
    with parallel.joined():
        backbone = Backbone(wanted["backbones"][0], (wanted["layers"][0],), dtype=wanted["dtype"])
        if method == "dreamprm_code":
            scorer, rng = LoraScorer(backbone, by_id, recipe, saved), np.random.default_rng(settings["seed"])
            chosen, _ = choose(scorer, table, meta, [Correction.of(recipe)], settings["folds"], rng)
            correct(scorer, table, meta, chosen)
        else:
            fine_tune(backbone, by_id, table, recipe, saved)
    return saved
