"""Backbones on equal terms: how well a linear head on the frozen states of each ranks programs, and what reading takes.

    python benchmarks/backbones.py [--study reference] [--layers 4 8 12 16 20 24] [--backbones …] [--sets starter …]

For each backbone, a pairwise head learns from the labelled steps that the study's `prm_cof` learned from, except those
of problems whose labels are all equal: they hold no pair, so that the models need not read them.
Its layer and its penalty are those that rank best in cross-validation on training and meta problems; only this head
then meets the test problems, alone and in a stack with the policy's mean log-probability, weighted in cross-validation.
Intervals are 95 % over problems.  Only mixed problems are read, and what was read is kept.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from dreamprm_lib import reward_model as rm
from dreamprm_lib.engine.backbone import DTYPES, Backbone, fast_dtype
from dreamprm_lib.engine.problems import load_problems
from dreamprm_lib.steps import StepTable, in_order, of_mixed_problems, read_states, viewed
from dreamprm_lib.study.folder import Study
from dreamprm_lib.study.rows import Program, StepLabel
from dreamprm_lib.what_it_reads import by_set

BACKBONES = (
    "smollm2-135m-instruct-q4_1",
    "qwen2.5-coder-0.5b-instruct-q4_k_m",
    "qwen2.5-coder-1.5b-instruct-q4_k_m",  # the policy itself
)
VIEWS, RIDGES, FOLDS = ("last", "prefix"), (0.1, 0.3, 1.0, 3.0, 10.0), 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="reference")
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--layers", nargs="+", type=int, default=[4, 8, 12, 16, 20, 24])
    parser.add_argument("--sets", nargs="+", default=["starter", "humaneval"])
    parser.add_argument("--dtype", default=fast_dtype(), help=f"one of {', '.join(DTYPES)} (here: {fast_dtype()})")
    options = parser.parse_args()
    study = Study(Path(__file__).parent.parent / "outputs", options.study)
    written, labels = study.read("solutions.jsonl", Program), study.read("labels.jsonl", StepLabel)
    problems = {p.id: p for name in options.sets for p in load_problems(name)}
    worth = pd.DataFrame(
        [(x.problem, x.label) for x in labels] + [(p.problem, p.passed) for p in written],
        columns=["problem", "label"],
    )
    told = worth.groupby("problem").label.nunique() > 1
    of_training, _ = rm.training_programs(problems, written, labels)  # of all problems, for their kinds
    train, meta = rm.training_programs(problems, [p for p in written if told[p.problem]], labels)
    table = StepTable.join(problems, train + meta, labels)
    of_meta = table.split == "meta"
    taught = ~np.isnan(table.label) & ~of_meta
    folds = rm.folds_by_problem(table.problem, FOLDS, np.random.default_rng(0))
    folds = np.where(of_meta, FOLDS, folds)

    pool = [p for p in in_order(study.read("candidates.jsonl", Program)) if p.problem in problems]
    candidates = of_mixed_problems(pool)
    mixed = np.isin([p.problem for p in pool], [p.problem for p in candidates])
    ends = np.cumsum([len(p.steps) for p in candidates]) - 1
    owners, passed = list(table.problem[table.is_last]), table.outcome[table.is_last]
    of_policy = np.array([p.mean_logprob for p in train + meta])
    scores = {"mean_logprob": np.array([p.mean_logprob for p in pool])}

    for name in options.backbones:
        backbone = Backbone(name, tuple(options.layers), dtype=options.dtype)
        started = time.perf_counter()
        states = read_states(backbone, problems, train + meta)
        seconds, tried = time.perf_counter() - started, []
        for place, layer in enumerate(options.layers):
            rows = replace(table, states=viewed(states, [place], VIEWS))
            for ridge in RIDGES:
                logits = rm.cross_validated_logits(rows, ridge, folds, taught, "pairwise")[table.is_last]
                ranking = np.mean(list(rm.within_problem_ranking(logits, passed, owners).values()))
                tried.append((ranking, layer, ridge, logits))
        found = pd.DataFrame(tried, columns=["ranking", "layer", "ridge", "logits"])
        best = found.loc[found.ranking.idxmax()]
        by_layer = found.groupby("layer").ranking.max().round(3).to_dict()
        print(f"\n{name}: read in {seconds:.0f} s; held-out ranking by layer {by_layer}", flush=True)
        print(f"chosen: layer {best.layer}, penalty {best.ridge}", flush=True)

        rows = replace(table, states=viewed(states, [options.layers.index(best.layer)], VIEWS)).take(taught)
        read = read_states(replace(backbone, layers=(int(best.layer),)), problems, candidates)
        scores[name] = np.zeros(len(pool))
        scores[name][mixed] = rm.fit_rows(rows, best.ridge, "pairwise").logits(viewed(read, [0], VIEWS)[ends])
        evidence = np.column_stack([best.logits, of_policy])
        stack = rm.fit_head(evidence, passed.astype(float), 1e-3, loss="pairwise", problems=owners)
        scores[f"{name} + mean_logprob"] = stack.logits(np.column_stack([scores[name], scores["mean_logprob"]]))
        print(by_set(problems, of_training, pool, scores).round(3).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
