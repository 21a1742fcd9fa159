"""Training through the backbone against a head on frozen states: how each ranks programs, and what the training takes.

    python benchmarks/fine_tuning.py [--study reference] [--layer 24] [--epochs 3] [--losses pairwise mse]

LoRA matrices and a head learn from the labelled steps that the study's `prm_cof` learned from, once under each loss;
`mse` is the original's.  All models then score whole programs that none of them has seen: those of the meta problems
and those of the test problems.  The gain is on `prm_cof`, with 95 % intervals over problems.  Training is saved in the
cache, and goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from dreamprm_lib import reward_model as rm
from dreamprm_lib.engine.backbone import DTYPES
from dreamprm_lib.engine.files import cache_dir
from dreamprm_lib.engine.fine_tuning import Recipe, fine_tune
from dreamprm_lib.engine.problems import Problem, load_problems
from dreamprm_lib.steps import of_mixed_problems, viewed
from dreamprm_lib.study.folder import Study
from dreamprm_lib.study.rows import Program, StepLabel
from dreamprm_lib.what_it_reads import by_set


def last_scores(model: rm.RewardModel, problems: dict[str, Problem], programs: list[Program]) -> np.ndarray:
    """The logit of each program's last step [programs]; the programs of a problem stand together."""
    scores = []
    for name in dict.fromkeys(p.problem for p in programs):
        texts = [p.steps for p in programs if p.problem == name]
        states = model.backbone.features(problems[name], texts)
        scores += [model.head.logits(viewed(s, [0], model.views))[-1] for s in states]
    return np.array(scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="reference")
    parser.add_argument("--layer", type=int, default=24, help="of the backbone, up to which is trained (default: 24)")
    parser.add_argument("--dtype", default="bfloat16", help=f"one of {', '.join(DTYPES)} (default: bfloat16)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--losses", nargs="+", default=["pairwise", "mse"])
    options = parser.parse_args()
    study = Study(Path(__file__).parent.parent / "outputs", options.study)
    candidates = study.read("candidates.jsonl", Program)
    solutions, labels = study.read("solutions.jsonl", Program), study.read("labels.jsonl", StepLabel)
    problems = {p.id: p for name in ("starter", "humaneval") for p in load_problems(name)}
    frozen = rm.RewardModel.load(study.existing("prm_cof.safetensors"))
    train, meta = rm.training_programs(problems, solutions, labels)
    judged = {"meta problems": of_mixed_problems(meta), "test problems": of_mixed_problems(rm.in_order(candidates))}
    scores = {name: {"prm_cof": last_scores(frozen, problems, programs)} for name, programs in judged.items()}
    table, _ = rm.training_tables(problems, solutions, labels, "prm_cof")
    backbone = replace(frozen.backbone, layers=(options.layer,), dtype=options.dtype)
    for loss in options.losses:
        recipe = Recipe(loss=loss, epochs=options.epochs, learning_rate=options.learning_rate, save_every=5)
        started = time.perf_counter()
        tuned = fine_tune(backbone, problems, table, recipe, cache_dir() / "training")
        print(f"lora, {loss}: {time.perf_counter() - started:.0f} s, losses {np.round(tuned.losses, 4)}", flush=True)
        model = rm.RewardModel.of_tuned(backbone, tuned, {})
        for name, programs in judged.items():
            scores[name][f"lora, {loss}"] = last_scores(model, problems, programs)
    for name, programs in judged.items():
        ranked = by_set(problems, train, programs, scores[name]).query("measure == 'ranking'")
        print(f"\n{name}\n{ranked.round(3).to_string(index=False)}")


if __name__ == "__main__":
    main()
