"""The reward model's backbone with real weights: one pass equals one pass a prefix, and LoRA trains."""

import math
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from test_backbone import one_pass_a_prefix

from dreamprm_lib.commands.run import PROJECT
from dreamprm_lib.engine.backbone import Backbone, Template
from dreamprm_lib.engine.files import cache_dir
from dreamprm_lib.engine.fine_tuning import Recipe, fine_tune
from dreamprm_lib.engine.problems import load_problems
from dreamprm_lib.engine.weights import WEIGHTS, fetch
from dreamprm_lib.steps import StepTable
from dreamprm_lib.study.folder import Study
from dreamprm_lib.study.rows import Program

pytestmark = pytest.mark.weights
NAME = "smollm2-135m-instruct-q4_1"


@pytest.fixture(scope="module")
def candidates():
    """A problem and some of its recorded candidates."""
    fetch(NAME)
    rows = Study(PROJECT / "outputs", "reference").read("candidates.jsonl", Program)
    (problem,) = (p for p in load_problems("starter") if p.id == rows[0].problem)
    return problem, [row for row in rows if row.problem == problem.id][:6]


@pytest.mark.parametrize("template", [Template(), Template(after="</code>")], ids=["open", "closed"])
def test_one_pass_equals_one_pass_a_prefix(candidates, template):
    problem, rows = candidates
    programs, eye = [row.steps for row in rows], Backbone(NAME, (2, 4), template, dtype="float32")
    for steps, states in zip(programs, eye.features(problem, programs), strict=True):
        alone = one_pass_a_prefix(eye, problem, steps)
        assert np.abs(states - alone).max() < 1e-4 * np.abs(alone).max()


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_lora_trains(candidates, loss):
    problem, (first, *others) = candidates
    first = replace(first, passed=not others[-1].passed)  # so that there is something to tell apart
    table = StepTable.join({problem.id: problem}, [first, *others]).with_outcomes()
    recipe = Recipe(epochs=6, learning_rate=1e-3, loss=loss, accumulation=1)
    tuned = fine_tune(Backbone(NAME, (2,), dtype="float32"), {problem.id: problem}, table, recipe)
    assert tuned.losses[-1] < 0.8 * tuned.losses[0]
    changed = [float((b @ a).norm()) for a, b in tuned.tuning.lora.values()]
    assert len(changed) == 8 and min(changed) > 0  # four projections in each of two layers, each with a gradient


@pytest.mark.parametrize("name", [name for name, entry in WEIGHTS.items() if entry.parameters])
def test_the_pinned_numbers_of_parameters_are_those_of_the_converted_files(name):
    if not (folder := cache_dir() / "safetensors" / name).exists():
        pytest.skip(f"{name} is not here")
    with safe_open(folder / "model.safetensors", "pt") as file:
        sizes = {key: math.prod(file.get_slice(key).get_shape()) for key in file.keys()}
    twice = sizes["model.embed_tokens.weight"] if "lm_head.weight" in sizes else 0
    assert WEIGHTS[name].parameters == sum(sizes.values()) - twice
