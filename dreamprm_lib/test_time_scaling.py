"""Test-time scaling: what a selector gains from N candidates, exactly and with intervals.

A selector scores every candidate of a problem and picks the best; best-of-N is the chance that its pick among N random
candidates passes.  From the n recorded candidates that is computed in closed form over all N-subsets, not by drawing.
Problems are the sample: intervals come from a bootstrap over problems, with the same resamples for all methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dreamprm_lib.artifacts import CandidateScores, Program, read_rows
from dreamprm_lib.candidate_solutions import read_lcb
from dreamprm_lib.engine.completions import write_atomically
from dreamprm_lib.engine.problems import DIFFICULTIES, Problem, load_problems
from dreamprm_lib.engine.statistics import holm, interval, mcnemar, problems_needed, resamples
from dreamprm_lib.errors import InputError
from dreamprm_lib.reward_model import RewardModel

AGGREGATIONS = ("mean", "min", "product", "last", "log_odds")


def aggregate(steps: Sequence[float], how: str = "mean") -> float:
    """One score for a program from its step scores in [0, 1]; an empty program gets minus infinity.

    `log_odds` is the mean of log(p / (1 - p)), with p kept 1e-6 away from 0 and 1.
    """
    if how not in AGGREGATIONS:
        raise InputError(f"There is no aggregation {how!r}: choose one of {', '.join(AGGREGATIONS)}.")
    if not len(steps):
        return float("-inf")
    p = np.asarray(steps, float)
    if how == "last":
        return float(p[-1])
    if how == "log_odds":
        p = np.clip(p, 1e-6, 1 - 1e-6)
        return float(np.mean(np.log(p / (1 - p))))
    return float({"mean": np.mean, "min": np.min, "product": np.prod}[how](p))


def best_of_n(scores: Sequence[float], passed: Sequence[bool], n: int) -> float:
    """The chance that the highest-scored of `n` candidates passes: the exact mean over all n-subsets, ties averaged.

    The best of a subset lies in a group of equal scores with probability [C(upto, n) - C(below, n)] / C(total, n),
    where `below` and `upto` count the candidates with a lower score, and a lower or equal one; within the group each
    candidate is as likely.  Raises `InputError` unless 1 <= n <= len(scores).
    """
    scores, passed = np.asarray(scores, float), np.asarray(passed, float)
    total = len(scores)
    if not 1 <= n <= total or len(passed) != total:
        raise InputError(f"best-of-{n} needs at least {max(n, 1)} scored candidates, and has {total}.")
    value = 0.0
    for score in np.unique(scores):
        below, tied = int((scores < score).sum()), scores == score
        reached = comb(below + int(tied.sum()), n) - comb(below, n)
        value += reached / comb(total, n) * passed[tied].mean()
    return float(value)


# ------------------------------------------------------------------------------------------------- all methods at once


@dataclass(frozen=True)
class Pool:
    """Candidates of one study with every method's scores: for each problem, passed [n] and scores[method] [n]."""

    problems: list[Problem]
    passed: list[np.ndarray]
    scores: dict[str, list[np.ndarray]]

    @property
    def size(self) -> int:
        """The number of candidates that every problem has at least."""
        return min(len(p) for p in self.passed)

    def best_of(self, method: str, n: int) -> np.ndarray:
        """Best-of-n of a method for each problem [problems]."""
        return np.array([best_of_n(s, p, n) for s, p in zip(self.scores[method], self.passed, strict=True)])


def make_pool(
    problems: Sequence[Problem],
    candidates: Sequence[Program],
    scores: Sequence[CandidateScores],
    aggregation: Mapping[str, str] | str = "mean",
) -> Pool:
    """Bring candidates and step scores together, with `random` (all scores equal) and `oracle` (the verdict itself).

    `aggregation` names one rule for all methods, or one for each.
    """
    by_problem = {p.id: sorted((c for c in candidates if c.problem == p.id), key=lambda c: c.sample) for p in problems}
    kept = [p for p in problems if by_problem[p.id]]
    if not kept:
        raise InputError("There is no candidate for any of these problems.")
    passed = [np.array([c.passed for c in by_problem[p.id]]) for p in kept]
    found = {(s.method, s.problem, s.sample): s.scores for s in scores}
    table = {"random": [np.zeros(len(ok)) for ok in passed]}
    for method in dict.fromkeys(s.method for s in scores):
        how = aggregation if isinstance(aggregation, str) else aggregation[method]
        table[method] = [
            np.array([aggregate(found[method, p.id, c.sample], how) for c in by_problem[p.id]]) for p in kept
        ]
    table["oracle"] = [ok.astype(float) for ok in passed]
    return Pool(kept, passed, table)


def ordered_by(pool: Pool, *methods: str) -> list[np.ndarray]:
    """Scores that order the candidates of each problem by the first method, equals by the next, and so on."""
    found = []
    for columns in zip(*(pool.scores[method] for method in methods), strict=True):
        keys = list(zip(*columns, strict=True))
        rank = {key: place for place, key in enumerate(sorted(set(keys)))}
        found.append(np.array([float(rank[key]) for key in keys]))
    return found


def powers_of_two(n: int) -> list[int]:
    """1, 2, 4, … up to n, and n itself."""
    return sorted({1 << k for k in range(n.bit_length()) if 1 << k <= n} | {n})


def scaling_curve(pool: Pool, draws: int = 4000, seed: int = 0) -> pd.DataFrame:
    """Best-of-N of every method at N = 1, 2, 4, …: columns method, n, pass_rate, ci_low, ci_high (95 %)."""
    counts = resamples(len(pool.problems), draws, np.random.default_rng(seed))
    rows = []
    for method in pool.scores:
        for n in powers_of_two(pool.size):
            values = pool.best_of(method, n)
            low, high = interval(values, counts)
            rows.append({"method": method, "n": n, "pass_rate": values.mean(), "ci_low": low, "ci_high": high})
    return pd.DataFrame(rows)


def difficulty_table(pool: Pool, draws: int = 4000, seed: int = 0) -> pd.DataFrame:
    """Best-of-N at the pool's size by difficulty: columns method, difficulty (… overall), n, pass_rate, ci_low,
    ci_high (95 %), problems."""
    n = pool.size
    level = np.array([p.difficulty for p in pool.problems])
    rows = []
    for method in pool.scores:
        values = pool.best_of(method, n)
        for name in (*DIFFICULTIES, "overall"):
            mine = values if name == "overall" else values[level == name]
            if not len(mine):
                continue
            low, high = interval(mine, resamples(len(mine), draws, np.random.default_rng(seed)))
            rows.append(
                {
                    "method": method,
                    "difficulty": name,
                    "n": n,
                    "pass_rate": mine.mean(),
                    "ci_low": low,
                    "ci_high": high,
                    "problems": len(mine),
                }
            )
    return pd.DataFrame(rows)


def differences(pool: Pool, pairs: Sequence[tuple[str, str]], draws: int = 4000, seed: int = 0) -> pd.DataFrame:
    """Paired differences in best-of-N at the pool's size: columns method, baseline, difference, ci_low, ci_high (95 %,
    paired bootstrap), wins, losses, p_value (exact McNemar on the picks), p_holm (adjusted for the number of rows), and
    problems_needed to settle the difference with a power of 0.8 (empty: over 20,000)."""
    counts = resamples(len(pool.problems), draws, np.random.default_rng(seed))
    rows = []
    for method, baseline in pairs:
        gain = pool.best_of(method, pool.size) - pool.best_of(baseline, pool.size)
        low, high = interval(gain, counts)
        picked, other = picks(pool, method), picks(pool, baseline)
        wins, losses = int((picked & ~other).sum()), int((other & ~picked).sum())
        rows.append(
            {
                "method": method,
                "baseline": baseline,
                "difference": gain.mean(),
                "ci_low": low,
                "ci_high": high,
                "wins": wins,
                "losses": losses,
                "p_value": mcnemar(wins, losses),
                "problems_needed": problems_needed(wins / len(gain), losses / len(gain)),
            }
        )
    table = pd.DataFrame(rows)
    table.insert(table.columns.get_loc("p_value") + 1, "p_holm", holm(table.p_value))
    return table


def regrets(pool: Pool, method: str) -> list[tuple[Problem, int, int]]:
    """Where a method lost to an available candidate: the problem, the failing one that it picked, and the passing one
    that it scored highest, as indices in the pool's order of candidates."""
    found = []
    for problem, scores, ok in zip(pool.problems, pool.scores[method], pool.passed, strict=True):
        picked = int(np.argmax(scores))
        if ok.any() and not ok[picked]:
            found.append((problem, picked, int(np.argmax(np.where(ok, scores, -np.inf)))))
    return found


def picks(pool: Pool, method: str) -> np.ndarray:
    """Whether the method's pick among all candidates passes [problems]; among equals the first sample is picked."""
    return np.array([ok[np.argmax(s)] for s, ok in zip(pool.scores[method], pool.passed, strict=True)], bool)


def verdict(table: pd.DataFrame) -> list[str]:
    """What `differences` allow to be said, one sentence a row.

    A method *is* better where the interval lies above 0 and the test holds after adjustment; with the interval alone it
    *may be*.
    """
    sentences = []
    for row in table.itertuples():
        points = (
            f"{100 * row.difference:+.1f} points (95 % interval {100 * row.ci_low:+.1f} to {100 * row.ci_high:+.1f})"
        )
        surely = "is" if row.p_holm <= 0.05 else "may be"
        if row.ci_low > 0:
            said = f"{surely} better than"
        elif row.ci_high < 0:
            said = f"{surely} worse than"
        else:
            said = "cannot be told apart from"
        sentences.append(
            f"`{row.method}` {said} `{row.baseline}` on these problems: {points}; "
            f"{row.wins} problems won, {row.losses} lost, exact McNemar p = {row.p_value:.3g} "
            f"({row.p_holm:.3g} by Holm for {len(table)} comparisons)."
        )
    return sentences


# ------------------------------------------------------------------------------------------------- anyone's candidates


def evaluate_file(
    file: Path, checkpoint: Path | None = None, out: Path | None = None, problem_set: str = "starter"
) -> pd.DataFrame:
    """Table by difficulty for LiveCodeBench's `…_eval_all.json`, or for `candidates.jsonl` on a problem set.

    With a `checkpoint` its reward model scores the candidates (method `prm`).  `out` also gets table.csv and curve.csv.
    """
    if not Path(file).exists():
        raise InputError(f"There is no file {file}.")
    if Path(file).suffix == ".json":
        graded = read_lcb(file)
        problems = [g.problem for g in graded]
        candidates = [program for g in graded for program in g.programs()]
    else:
        candidates = read_rows(Path(file), Program)
        known = {p.id: p for p in load_problems(problem_set)}
        if strange := sorted({c.problem for c in candidates} - set(known)):
            raise InputError(f"{file} has candidates of {strange[0]!r}, which is no problem of the set {problem_set}.")
        problems = [known[i] for i in dict.fromkeys(c.problem for c in candidates)]
    scores = score_candidates(RewardModel.load(checkpoint), "prm", problems, candidates) if checkpoint else []
    pool = make_pool(problems, candidates, scores)
    table = difficulty_table(pool)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        for name, frame in (("table.csv", table), ("curve.csv", scaling_curve(pool))):
            write_atomically(out / name, frame.to_csv(index=False).encode())
    return table


def score_candidates(
    model: RewardModel, method: str, problems: Sequence[Problem], candidates: Sequence[Program]
) -> list[CandidateScores]:
    """Step scores of every candidate by one reward model; progress is shown."""
    rows = []
    for problem in tqdm(problems, desc=f"scoring with {method}", unit="problem"):
        mine = [c for c in candidates if c.problem == problem.id]
        for candidate, scores in zip(mine, model.score(problem, [c.code for c in mine]), strict=True):
            rows.append(CandidateScores(method, problem.id, candidate.sample, scores))
    return rows
