"""What a reward model reads: how well each score ranks on problems of known kinds, of other kinds, of other authors.

A ranking says how good a score is, and nothing of where it comes from.  Chapter 11 builds the baselines that tell.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.evidence.statistics import mean_with_interval
from dreamprm_lib.reward_model import within_problem_ranking
from dreamprm_lib.study.rows import Program


def by_set(
    problems: Mapping[str, Problem],
    taught: Sequence[Program],
    candidates: Sequence[Program],
    scores: Mapping[str, np.ndarray],
    seed: int = 0,
) -> pd.DataFrame:
    """How well each of `scores` [candidates] ranks the candidates of each set of problems, and what it gains on
    `blind`, or on the first one if that is not there; a variant (`A, …`) is compared with `A`.

    Our own problems are two sets: those of kinds that the programs in `taught` have, and those of other kinds; `all`
    has all sets.  Columns: set, problems (mixed ones), method, on (what the gain is on), ranking, gain, and for both
    low and high (95 %, bootstrap over problems)."""
    known = {problems[p.problem].kind for p in taught}
    names, passed = [c.problem for c in candidates], np.array([c.passed for c in candidates])
    ranks = pd.DataFrame({method: within_problem_ranking(own, passed, names) for method, own in scores.items()})

    def set_of(problem: Problem) -> str:
        if problem.source != "starter":
            return problem.source
        return "kinds of training" if problem.kind in known else "other kinds"

    sets = np.array([set_of(problems[name]) for name in ranks.index])
    usual = "blind" if "blind" in ranks else str(ranks.columns[0])
    rows = []
    for name in [*dict.fromkeys(sets), "all"]:
        part = ranks[(sets == name) | (name == "all")]
        for method, ranking in part.items():
            whole, comma, _ = str(method).partition(", ")
            on = whole if comma and whole in part else usual
            gain = mean_with_interval(ranking - part[on], seed=seed)
            rows.append((name, len(part), method, on, *mean_with_interval(ranking, seed=seed), *gain))
    columns = ["ranking", "low", "high", "gain", "gain_low", "gain_high"]
    return pd.DataFrame(rows, columns=["set", "problems", "method", "on", *columns])
