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

import torch

from dreamprm_lib.chain_of_functions import cof_prompt
from dreamprm_lib.engine.backbone import Backbone, Template, Tree, open_tokenizer
from dreamprm_lib.engine.fine_tuning import Example, Lora, Recipe, _prepared, _Training
from dreamprm_lib.engine.policy.completions import CompletionStore
from dreamprm_lib.engine.policy.endpoint import Endpoint
from dreamprm_lib.engine.policy.policy import Policy
from dreamprm_lib.engine.problems import load_problems
from dreamprm_lib.engine.sandbox.judge import Sandbox
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
    programs = {name: [row.steps for row in rows if row.problem == name and row.steps][:4] for name in names}
    examples = [Example(problems[n], p, [[0.5] * len(steps) for steps in p]) for n, p in programs.items()]
    tokenizer, backbone = open_tokenizer(BACKBONE), Backbone(BACKBONE, (LAYERS,), dtype="float32")
    tokens = sum(Tree.of(tokenizer, Template().root(e.problem), "", e.programs).tokens for e in examples[:2])
    recipe = Recipe(Lora(), epochs=0, iterations=4, iteration_accumulation=64)
    scorer, batches, _ = _prepared(backbone, examples, recipe)
    train, meta = ([b for b in batches if (b["example"] < 2) == own] for own in (True, False))
    costs = {}
    with torch.no_grad():
        costs["scored"] = cpu_seconds(lambda: [scorer(b["ends"], b["inputs"]) for b in train]) / tokens
    for name, outcomes in (("trained", []), ("corrected", meta)):
        training = _Training(scorer, train, outcomes, recipe)
        training.step()  # warm
        costs[name] = cpu_seconds(training.step) / tokens
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
