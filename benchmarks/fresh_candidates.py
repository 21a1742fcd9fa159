"""Is a gain more than the luck of the programs that were drawn?  The reference chooses among fresh candidates.

    python benchmarks/fresh_candidates.py [--samples 32] [--record]

The starter's test problems of kinds that training has get so many `--samples` each.  The first ones are candidates of
the study `reference`; all others are fresh: no number of the study depends on them.  Prints what each selector gains
for best of 16 without a public sample, exactly over all choices of 16 programs, and how it ranks by the score of the
last step, on the fresh candidates alone and on all of them; 95 % intervals over problems.  Checkpoints and the weights
of the stack are those of the study.  Completions come from the shipped recording, which `--record` extends by asking
the embedded model for what it lacks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from dreamprm_lib import candidate_solutions as cs
from dreamprm_lib import test_time_scaling as tts
from dreamprm_lib.chain_of_functions import sample_well_specified
from dreamprm_lib.commands import run as runner
from dreamprm_lib.commands.record import record
from dreamprm_lib.engine.policy.policy import open_policy
from dreamprm_lib.engine.problems import load_problems
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.reward_model import RewardModel
from dreamprm_lib.steps import of_mixed_problems
from dreamprm_lib.study.folder import Study
from dreamprm_lib.study.rows import Program
from dreamprm_lib.what_it_reads import by_set

N = 16
LEARNED = {"orm": "orm", "prm_cof": "prm_cof", "dreamprm_code": "dreamprm"}  # methods and their checkpoints
STACK = "prm_cof + mean_logprob"
PAIRS = [
    *((method, base) for method in (STACK, "prm_cof") for base in ("random", "mean_logprob")),
    *(("mean_logprob", "random"), ("prm_cof", "orm"), ("dreamprm_code", "prm_cof")),
]


def known_kinds() -> str:
    """The source of starter problems without the test problems of kinds that training lacks."""
    problems = load_problems("starter")
    taught = {p.kind for p in problems if p.split == "train"}
    return "starter?drop=" + ",".join(p.id for p in problems if p.split == "test" and p.kind not in taught)


def gains(pool: tts.Pool, problems: int) -> pd.DataFrame:
    """What the first of each pair gains on the second, in points; where no candidate or each passes, that is 0."""
    rows = [
        (a, b, 0, np.pad(pool.best_of(a, N) - pool.best_of(b, N), (0, problems - len(pool.problems)))) for a, b in PAIRS
    ]
    table = tts.compared(rows, draws=10_000, seed=0).set_index(["method", "baseline"])
    points = 100 * table[["difference", "ci_low", "ci_high"]]
    return points.round(1).assign(p=table.p_value.round(4), p_holm=table.p_holm.round(4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=32, help="for each problem, with those of the reference")
    parser.add_argument("--record", action="store_true", help="ask for what is not recorded yet")
    options = parser.parse_args()
    source = known_kinds()
    if options.record:
        chapter = {"problems": source, "samples": options.samples}
        record(runner.load_profile("full"), "candidates", overrides={"03_candidate_solutions": chapter})
    study = Study(Path(__file__).parent.parent / "outputs", "reference")
    by_id = {p.id: p for p in load_problems(source)}
    problems = [p for p in by_id.values() if p.split == "test"]
    (asked,) = cs.requests(problems, options.samples, temperature=0.8)
    with Sandbox() as sandbox:
        candidates = sample_well_specified(open_policy(), sandbox, asked)
    known = {(c.problem, c.sample) for c in study.read("candidates.jsonl", Program)}

    read = of_mixed_problems(candidates)
    scores = [row for row in cs.free_scores(problems, read) if row.method == "mean_logprob"]
    for method, checkpoint in LEARNED.items():
        model = RewardModel.load(study.existing(f"{checkpoint}.safetensors"))
        scores += tts.score_candidates(model, method, problems, read)
    scores += tts.stacked(scores, study.read_table("stack.csv").set_index("score").weight.to_dict())
    fresh = [c for c in candidates if (c.problem, c.sample) not in known]
    for what, programs in {"fresh candidates": fresh, "all candidates": candidates}.items():
        mixed = of_mixed_problems(programs)
        pool = tts.make_pool(problems, mixed, scores, tts.aggregation_rules(scores, "mean"))
        last = tts.make_pool(problems, mixed, scores, "last").scores
        ranked = by_set(
            by_id,
            study.read("solutions.jsonl", Program),
            mixed,
            {method: np.concatenate(last[method]) for method in (*LEARNED, "mean_logprob", STACK)},
        )
        print(f"\n{what}: {len(programs)} candidates, {len(pool.problems)} of {len(problems)} problems are mixed")
        print(gains(pool, len(problems)).to_string())
        print(ranked.query("measure == 'ranking' and set == 'all'").round(3).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
