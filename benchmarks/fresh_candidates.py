"""Is a gain more than the luck of the programs that were drawn?  A study's selectors choose among fresh candidates.

    python benchmarks/fresh_candidates.py [--study reference] [--samples 32] [--n 16] [--record]

The starter's test problems of kinds that training has get so many `--samples` each.  The first ones are the study's own
candidates; all others are fresh: no number of the study depends on them.  Prints what each selector gains for best of N
without a public sample, exactly over all choices of N programs, and how it ranks by the score of the last step, on the
fresh candidates alone and on all of them; 95 % intervals over problems.  Checkpoints and the weights of the stack are
the study's.  Completions come from the shipped recording, which `--record` extends by asking the embedded model for
what it lacks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dreamprm_lib import candidate_solutions as cs
from dreamprm_lib import test_time_scaling as tts
from dreamprm_lib.chain_of_functions import sample_well_specified
from dreamprm_lib.commands import run as runner
from dreamprm_lib.commands.record import record
from dreamprm_lib.engine.policy.policy import open_policy
from dreamprm_lib.engine.problems import Problem, load_problems
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.evidence.statistics import mean_with_interval
from dreamprm_lib.reward_model import RewardModel, within_problem_ranking
from dreamprm_lib.steps import of_mixed_problems
from dreamprm_lib.study.folder import Study
from dreamprm_lib.study.rows import CandidateScores, Program

LEARNED, STACK = ("orm", "prm_cof", "dreamprm_code"), "prm_cof + mean_logprob"
CHECKPOINTS = {"dreamprm_code": "dreamprm.safetensors"}
PAIRS = [
    *((method, base) for method in (STACK, "prm_cof") for base in ("random", "mean_logprob")),
    *(("mean_logprob", "random"), ("prm_cof", "orm"), ("dreamprm_code", "prm_cof")),
]


def known_kinds() -> str:
    """The source of starter problems without the test problems of kinds that training lacks."""
    problems = load_problems("starter")
    taught = {p.kind for p in problems if p.split == "train"}
    return "starter?drop=" + ",".join(p.id for p in problems if p.split == "test" and p.kind not in taught)


def gains(pool: tts.Pool, n: int, problems: int) -> pd.DataFrame:
    """What the first of each pair gains on the second, in points; where no candidate or each passes, that is 0."""
    rows = [
        (a, b, 0, np.pad(pool.best_of(a, n) - pool.best_of(b, n), (0, problems - len(pool.problems)))) for a, b in PAIRS
    ]
    table = tts.compared(rows, draws=10_000, seed=0).set_index(["method", "baseline"])
    points = 100 * table[["difference", "ci_low", "ci_high"]]
    return points.round(1).assign(p=table.p_value.round(4), p_holm=table.p_holm.round(4))


def rankings(pool: tts.Pool) -> pd.DataFrame:
    """The within-problem ranking of each selector, and its gain on the mean log-probability."""
    owners = [p.id for p, passed in zip(pool.problems, pool.passed, strict=True) for _ in passed]
    passed = np.concatenate(pool.passed)
    by_problem = pd.DataFrame(
        {m: within_problem_ranking(np.concatenate(z), passed, owners) for m, z in pool.scores.items() if m != "oracle"}
    )
    rows = {
        m: [*mean_with_interval(own, draws=10_000), *mean_with_interval(own - by_problem["mean_logprob"], draws=10_000)]
        for m, own in by_problem.items()
    }
    columns = ["ranking", "low", "high", "on mean_logprob", "gain_low", "gain_high"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).round(3)


def compare(
    what: str, problems: Sequence[Problem], candidates: Sequence[Program], scores: Sequence[CandidateScores], n: int
) -> None:
    mixed = of_mixed_problems(candidates)
    pool = tts.make_pool(problems, mixed, scores, tts.aggregation_rules(scores, "mean"))
    print(f"\n{what}: {len(candidates)} candidates, {len(pool.problems)} of {len(problems)} problems are mixed")
    by_last_step = tts.make_pool(problems, mixed, scores, "last")
    print(gains(pool, n, len(problems)).to_string(), rankings(by_last_step).to_string(), sep="\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="reference")
    parser.add_argument("--samples", type=int, default=32, help="for each problem, with those of the study")
    parser.add_argument("--n", type=int, default=16, help="of best of N (default: 16)")
    parser.add_argument("--record", action="store_true", help="ask for what is not recorded yet")
    options = parser.parse_args()
    source = known_kinds()
    if options.record:
        chapter = {"problems": source, "samples": options.samples}
        record(runner.load_profile("full"), "candidates", overrides={"03_candidate_solutions": chapter})
    study = Study(Path(__file__).parent.parent / "outputs", options.study)
    problems = load_problems(source, "test")
    (asked,) = cs.requests(problems, options.samples, temperature=0.8)
    with Sandbox() as sandbox:
        candidates = sample_well_specified(open_policy(), sandbox, asked)
    of_study = {(c.problem, c.sample): c.code for c in study.read("candidates.jsonl", Program)}
    fresh = [c for c in candidates if (c.problem, c.sample) not in of_study]
    assert all(of_study.get((c.problem, c.sample), c.code) == c.code for c in candidates)

    read = of_mixed_problems(candidates)
    mixed = [p for p in problems if p.id in {c.problem for c in read}]
    scores = [row for row in cs.free_scores(mixed, read) if row.method == "mean_logprob"]
    for method in LEARNED:
        model = RewardModel.load(study.existing(CHECKPOINTS.get(method, f"{method}.safetensors")))
        scores += tts.score_candidates(model, method, mixed, read)
    scores += tts.stacked(scores, study.read_table("stack.csv").set_index("score").weight.to_dict())
    compare("fresh candidates", problems, fresh, scores, options.n)
    compare("all candidates", problems, candidates, scores, options.n)


if __name__ == "__main__":
    main()
