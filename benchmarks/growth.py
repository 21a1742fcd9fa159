"""What one unit of each kind of work costs, in core seconds: the measurements behind `evidence.costs.CORE`.

    python benchmarks/growth.py [--programs 60] [--rollouts 0] [--threads 1]

CPU time is counted, not wall time, so that other work on the machine matters little.  A program is graded on ten tests.
Tokens are read by the first six layers of the 0.5B backbone and trained through LoRA there, in float32.  `--rollouts N`
has the embedded model write as many; it needs its weights, and the machine for itself.
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dreamprm_lib.chain_of_functions import cof_prompt
from dreamprm_lib.engine.backbone import Backbone, Template, Tree, open_tokenizer
from dreamprm_lib.engine.fine_tuning import LoraScorer, Recipe
from dreamprm_lib.engine.policy.completions import CompletionStore
from dreamprm_lib.engine.policy.endpoint import Endpoint
from dreamprm_lib.engine.policy.policy import Policy
from dreamprm_lib.engine.problems import load_problems
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.steps import StepTable
from dreamprm_lib.study.folder import Study
from dreamprm_lib.study.rows import Program

TESTS, LAYERS = 10, 6
BACKBONE = "qwen2.5-coder-0.5b-instruct-q4_k_m"


def cpu_seconds(action) -> float:
    """CPU time of this process, and of children that ended in it."""

    def so_far() -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + ended.ru_utime + ended.ru_stime

    started = so_far()
    action()
    return so_far() - started


def a_program(count: int) -> float:
    """Core seconds to grade one right program on `TESTS` tests, the sandbox's start shared out."""
    problems = [p for p in load_problems("starter") if len(p.tests) >= TESTS][:count]
    pairs = [(replace(p, tests=p.tests[:TESTS]), p.reference) for p in problems]

    def grade() -> None:
        with Sandbox() as sandbox:
            sandbox.grade(pairs)

    return cpu_seconds(grade) / len(pairs)


def tokens_of_a_judge() -> dict[str, float]:
    """Core seconds for a token that is read, trained on, and trained on with its labels learned, by one backbone."""
    rows = Study(Path(__file__).parent.parent / "outputs", "reference").read("candidates.jsonl", Program)
    problems = {p.id: p for p in load_problems("starter")}
    names = list(dict.fromkeys(row.problem for row in rows))[:4]
    programs = {name: [row for row in rows if row.problem == name and row.steps][:4] for name in names}
    table = StepTable.join(problems, [row for mine in programs.values() for row in mine])
    table = replace(table, label=np.full(len(table), 0.5))
    train, meta = (table.take(np.isin(table.problem, part)) for part in (names[:2], names[2:]))
    tokenizer, backbone = open_tokenizer(BACKBONE), Backbone(BACKBONE, (LAYERS,), dtype="float32")
    roots = [Template().root(problems[n]) for n in names[:2]]
    trees = [Tree.of(tokenizer, r, "", [p.steps for p in programs[n]]) for r, n in zip(roots, names[:2], strict=True)]
    tokens = sum(tree.tokens for tree in trees)
    labels = torch.tensor(train.label)
    costs, recipe = {}, Recipe(epochs=0, accumulation=64, iteration_accumulation=64)
    once, twice = (LoraScorer(backbone, problems, replace(recipe, epochs=n)) for n in (1, 2))
    scorer = LoraScorer(backbone, problems, recipe)
    scorer.begin(train, meta, None, None, labels)
    with torch.no_grad():
        costs["scored"] = cpu_seconds(lambda: [scorer.logits(pack) for pack in scorer.packs]) / tokens
    one, two = (cpu_seconds(lambda s=s: s.begin(train, None, None, None, labels)) for s in (once, twice))
    costs["trained"] = (two - one) / tokens
    scorer.differentiated(0, labels, labels)  # warm
    costs["corrected"] = cpu_seconds(lambda: scorer.differentiated(1, labels, labels)) / tokens
    return costs


def a_token_written(rollouts: int) -> float:
    """Core seconds for a token that the embedded model writes, its prompts read."""
    prompts = [cof_prompt(p) for p in load_problems("starter")[: -(-rollouts // 4)]]
    written = []

    def write() -> None:
        with Policy(Endpoint(), CompletionStore(":memory:")) as policy:
            written.extend(reply.tokens for row in policy.sample(prompts, 4) for reply in row)

    return cpu_seconds(write) / sum(written)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=60)
    parser.add_argument("--rollouts", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    costs = {"program": a_program(options.programs)} | tokens_of_a_judge()
    if options.rollouts:
        costs["written"] = a_token_written(options.rollouts)
    print("core seconds:", ", ".join(f"{name} {cost:.3g}" for name, cost in costs.items()))
    print(
        f"a program is worth {costs['program'] / costs['scored']:.0f} tokens scored; a token trained "
        f"{costs['trained'] / costs['scored']:.1f} of them, one with its label learned "
        f"{costs['corrected'] / costs['scored']:.1f}"
    )


if __name__ == "__main__":
    main()
