"""What a reward model reads: what its scores rest on, and what reading the other way round says.

A ranking says how good a score is, and nothing of where it comes from.  Chapter 11 builds the baselines; here is the
reverse, a model that reads the program and says how well it explains the problem (Coder-Reviewer, arXiv 2211.16490).
"""

import ast
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dreamprm_lib.engine.foreign import foreign_model
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.evidence.statistics import mean_with_interval
from dreamprm_lib.reward_model import within_problem_ranking
from dreamprm_lib.study.rows import Program


def read_backwards(reader: str, problems: Mapping[str, Problem], programs: Sequence[Program]) -> np.ndarray:
    """The mean log-probability of a token of its problem's statement, in nats, behind each program [programs].

    `reader` names a causal LM as `transformers` or `engine.weights` know it.  Each program takes a pass of its
    own.  Only programs of mixed problems are read; all others get 0, because where all programs pass or all fail, their
    order decides nothing.  What was read is kept on disk.
    """
    eye = foreign_model(f"{reader}?backwards=1")
    verdicts = pd.Series([p.passed for p in programs]).groupby([p.problem for p in programs]).nunique()
    found = np.zeros(len(programs))
    for name in tqdm(verdicts.index[verdicts > 1], desc=f"reading backwards with {reader}", unit="problem"):
        mine = [k for k, program in enumerate(programs) if program.problem == name]
        read = eye.features(problems[name], [[programs[k].code] for k in mine])
        found[mine] = np.concatenate(read).ravel()
    return found


def without_docstrings(code: str) -> str:
    """The program as `ast` writes it, without docstrings and comments; a text that is no Python stays as it is."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return code
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree) + "\n"


def by_set(
    problems: Mapping[str, Problem],
    taught: Sequence[Program],
    candidates: Sequence[Program],
    scores: Mapping[str, np.ndarray],
    seed: int = 0,
) -> pd.DataFrame:
    """How well each of `scores` [candidates] ranks the candidates of each set of problems, and what it gains on
    `blind`, or on the first one if that is not there.

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
    on = "blind" if "blind" in ranks else str(ranks.columns[0])
    rows = []
    for name in [*dict.fromkeys(sets), "all"]:
        part = ranks[(sets == name) | (name == "all")]
        for method, ranking in part.items():
            gain = mean_with_interval(ranking - part[on], seed=seed)
            rows.append((name, len(part), method, on, *mean_with_interval(ranking, seed=seed), *gain))
    columns = ["ranking", "low", "high", "gain", "gain_low", "gain_high"]
    return pd.DataFrame(rows, columns=["set", "problems", "method", "on", *columns])
