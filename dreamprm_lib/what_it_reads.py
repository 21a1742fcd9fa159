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
from dreamprm_lib.test_time_scaling import best_of_n


def by_set(
    problems: Mapping[str, Problem],
    taught: Sequence[Program],
    candidates: Sequence[Program],
    scores: Mapping[str, np.ndarray],
    seed: int = 0,
) -> pd.DataFrame:
    """How well each of `scores` [candidates] ranks the candidates of each set of problems (the measure `ranking`), and
    how often the candidate that it scores highest passes (`best of N`).

    Our own problems are two sets: those of kinds that the programs in `taught` have, and those of other kinds; `all`
    has all sets.  Only mixed problems can be ranked, and what the candidates of others score decides nothing.  A
    choice at `random` is added.  Columns: set, measure, problems (their number), method, on, value, gain, and for both
    low and high (95 %, bootstrap over problems).  Each gain on another method (`on`) has a row: that of a variant
    (`A, …`) on `A` first, then those of a ranking on `blind`, `mean_logprob` and `random`, as far as they are there,
    and those of a choice on `random` and `mean_logprob`."""
    known = {problems[p.problem].kind for p in taught}
    names, passed = np.array([c.problem for c in candidates]), np.array([c.passed for c in candidates])
    scores = {**scores, "random": np.zeros(len(candidates))}
    places = {name: np.flatnonzero(names == name) for name in dict.fromkeys(names)}
    measures = {
        "ranking": {m: within_problem_ranking(own, passed, list(names)) for m, own in scores.items()},
        f"best of {max(map(len, places.values()))}": {
            m: {name: best_of_n(own[k], passed[k], len(k)) for name, k in places.items()} for m, own in scores.items()
        },
    }

    def set_of(problem: Problem) -> str:
        if problem.source != "starter":
            return problem.source
        return "kinds of training" if problem.kind in known else "other kinds"

    rows = []
    for measure, found in measures.items():
        values = pd.DataFrame(found)
        sets = np.array([set_of(problems[str(name)]) for name in values.index])
        usual = ["blind", "mean_logprob", "random"] if measure == "ranking" else ["random", "mean_logprob"]
        for name in [*dict.fromkeys(sets), "all"]:
            part = values[(sets == name) | (name == "all")]
            for method, own in part.items():
                level = mean_with_interval(own, seed=seed)
                for on in dict.fromkeys([str(method).partition(", ")[0], *usual]):
                    if on in part and on != method:
                        gain = mean_with_interval(own - part[on], seed=seed)
                        rows.append((name, measure, len(part), method, on, *level, *gain))
    columns = ["value", "low", "high", "gain", "gain_low", "gain_high"]
    return pd.DataFrame(rows, columns=["set", "measure", "problems", "method", "on", *columns])
