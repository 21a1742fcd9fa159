"""Test-time scaling: what a selector gains from N candidates, exactly and with intervals.

A selector scores every candidate of a problem and picks the best; best-of-N is the chance that its pick among N random
candidates passes.  From the n recorded candidates that is computed in closed form over all N-subsets, not by drawing.
Problems are the sample: intervals come from a bootstrap over problems, with the same resamples for all methods.

What a selector is worth depends on what is known before it chooses.  Every result is therefore
given for a selector that may first run 0, 1 or 2 of the statement's public samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, product
from math import comb
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from dreamprm_lib.engine.clusters import spread
from dreamprm_lib.engine.foreign import foreign_model
from dreamprm_lib.engine.problems import Problem, by_difficulty
from dreamprm_lib.errors import InputError
from dreamprm_lib.evidence.statistics import (
    counted,
    holm,
    mean_with_interval,
    numbers,
    problems_to_settle,
    sign_flip_test,
)
from dreamprm_lib.reward_model import AGGREGATIONS, RewardModel, aggregate
from dreamprm_lib.steps import of_mixed_problems
from dreamprm_lib.study.rows import CandidateScores, Program


def best_of_n(scores: ArrayLike, passed: ArrayLike, n: int) -> float:
    """The chance that the highest-scored of `n` candidates passes: the exact mean over all n-subsets, ties averaged.

    The best of a subset lies in a group of equal scores with probability [C(upto, n) - C(below, n)] / C(total, n),
    where `below` and `upto` count the candidates with a lower score, and a lower or equal one; within the group each
    candidate is as likely.  Raises `InputError` unless 1 <= n <= len(scores), and for NaN.
    """
    ranked, right = numbers("scores", scores), numbers("passed", passed)
    total = len(ranked)
    if not 1 <= n <= total or len(right) != total:
        raise InputError(f"best-of-{n} needs at least {max(n, 1)} scored candidates, and has {total}.")
    value = 0.0
    for score in np.unique(ranked):
        below, tied = int((ranked < score).sum()), ranked == score
        reached = comb(below + int(tied.sum()), n) - comb(below, n)
        value += reached / comb(total, n) * right[tied].mean()
    return float(value)


# ------------------------------------------------------------------------------------------------- all methods at once


SAMPLES = "public_samples"  # of `free_scores`: which of them each candidate passes
MOST_SAMPLES = 2


def after_samples(scores: np.ndarray, passes: np.ndarray) -> np.ndarray:
    """Scores [n] of a selector that first runs public samples: a candidate that fails any of them, by `passes`
    [n, samples] bool, ranks below all that pass; among themselves both keep the order of `scores`."""
    rank = np.unique(scores, return_inverse=True)[1]
    return (rank + len(rank) * passes.all(axis=1)).astype(float)


@dataclass(frozen=True)
class Pool:
    """Candidates of one study with every method's scores: for each problem, passed [n], scores[method] [n], and which
    of its public samples each candidate passes, samples [n, their number] bool (none where that is not known).

    Raises `InputError` for a score that is NaN: nothing could be picked by it.
    """

    problems: list[Problem]
    passed: list[np.ndarray]
    scores: dict[str, list[np.ndarray]]
    samples: list[np.ndarray] | None = None

    @property
    def regimes(self) -> range:
        """How many public samples a selector may run first: 0, and so many more as are known, up to 2."""
        return range(min(max((s.shape[1] for s in self.samples or []), default=0), MOST_SAMPLES) + 1)

    def __post_init__(self) -> None:
        for method, rows in self.scores.items():
            for problem, row in zip(self.problems, rows, strict=True):
                numbers(f"The scores of `{method}` for {problem.id}", row)

    @property
    def size(self) -> int:
        """The number of candidates that every problem has at least."""
        return min(len(p) for p in self.passed)

    def part(self, wanted: ArrayLike) -> Self:
        """The pool of those problems that are wanted [problems]."""
        keep = np.flatnonzero(wanted)

        def of(column: list) -> list:
            return [column[k] for k in keep]

        return replace(
            self,
            problems=of(self.problems),
            passed=of(self.passed),
            scores={method: of(rows) for method, rows in self.scores.items()},
            samples=of(self.samples) if self.samples else None,
        )

    def best_of(self, method: str, n: int, samples: int = 0) -> np.ndarray:
        """Best-of-n of a method, after so many public samples, for each problem [problems]."""
        scores = self.scores[method]
        if samples and self.samples:
            scores = [after_samples(s, ok[:, :samples]) for s, ok in zip(scores, self.samples, strict=True)]
        return np.array([best_of_n(s, p, n) for s, p in zip(scores, self.passed, strict=True)])


def make_pool(
    problems: Sequence[Problem],
    candidates: Sequence[Program],
    scores: Sequence[CandidateScores],
    aggregation: Mapping[str, str] | str = "mean",
) -> Pool:
    """Bring candidates and step scores together, with `random` (all scores equal) and `oracle` (the verdict itself).

    The rows of `public_samples` are no method: they say which samples a candidate passes.  `aggregation` names one
    rule for all methods, or one for each.
    """
    by_problem = {p.id: sorted((c for c in candidates if c.problem == p.id), key=lambda c: c.sample) for p in problems}
    kept = [p for p in problems if by_problem[p.id]]
    if not kept:
        raise InputError("There is no candidate for any of these problems.")
    passed = [np.array([c.passed for c in by_problem[p.id]]) for p in kept]
    found = {(s.method, s.problem, s.sample): s.scores for s in scores}
    table = {"random": [np.zeros(len(ok)) for ok in passed]}
    for method in dict.fromkeys(s.method for s in scores if s.method != SAMPLES):
        how = aggregation if isinstance(aggregation, str) else aggregation[method]
        table[method] = [
            np.array([aggregate(found[method, p.id, c.sample], how) for c in by_problem[p.id]]) for p in kept
        ]
    table["oracle"] = [ok.astype(float) for ok in passed]
    samples = None
    if any(s.method == SAMPLES for s in scores):
        samples = [np.array([found[SAMPLES, p.id, c.sample] for c in by_problem[p.id]], bool) for p in kept]
    return Pool(kept, passed, table, samples)


def aggregation_rules(scores: Sequence[CandidateScores], aggregation: str) -> dict[str, str]:
    """How `make_pool` makes one score of a program: by `aggregation` for a process reward model, and by the last score
    for `orm`, which learned from whole programs alone, and for methods that give a program only one."""
    stepwise = {s.method for s in scores if len(s.scores) > 1} - {"orm", SAMPLES}
    return {s.method: aggregation if s.method in stepwise else "last" for s in scores}


def stacked(scores: Sequence[CandidateScores], weights: Mapping[str, float]) -> list[CandidateScores]:
    """A weighted sum of several selectors' scores (a program's mean step score each), as a selector of its own.

    `weights` by method; the row of a program that lacks one of them is left out.  The method is named `A + B`.
    """
    known = {(s.method, s.problem, s.sample): float(np.mean(s.scores)) for s in scores if s.scores}
    rows = []
    for method, problem, sample in known:
        if method == next(iter(weights)) and all((name, problem, sample) in known for name in weights):
            total = sum(weight * known[name, problem, sample] for name, weight in weights.items())
            rows.append(CandidateScores(" + ".join(weights), problem, sample, [total]))
    return rows


def powers_of_two(n: int) -> list[int]:
    """1, 2, 4, … up to n, and n itself."""
    return sorted({1 << k for k in range(n.bit_length()) if 1 << k <= n} | {n})


def scaling_curve(pool: Pool, draws: int = 4000, seed: int = 0) -> pd.DataFrame:
    """Best-of-N of every method at N = 1, 2, 4, …: columns method, samples (that are run first), n, pass_rate, ci_low,
    ci_high (95 %)."""
    rows = []
    for samples, method, n in product(pool.regimes, pool.scores, powers_of_two(pool.size)):
        rows.append((method, samples, n, *mean_with_interval(pool.best_of(method, n, samples), draws, seed)))
    return pd.DataFrame(rows, columns=["method", "samples", "n", "pass_rate", "ci_low", "ci_high"])


def difficulty_table(pool: Pool, draws: int = 4000, seed: int = 0) -> pd.DataFrame:
    """Best-of-N at the pool's size by difficulty: columns method, samples (that are run first), difficulty (… overall),
    n, pass_rate, ci_low, ci_high (95 %), problems."""
    level = np.array([p.difficulty for p in pool.problems])
    rows = []
    for samples, method in product(pool.regimes, pool.scores):
        values = pool.best_of(method, pool.size, samples)
        for name in (*by_difficulty(level), "overall"):
            mine = values if name == "overall" else values[level == name]
            rates = mean_with_interval(mine, draws, seed)
            rows.append((method, samples, name, pool.size, *rates, len(mine)))
    columns = ["method", "samples", "difficulty", "n", "pass_rate", "ci_low", "ci_high", "problems"]
    return pd.DataFrame(rows, columns=columns)


def differences(pool: Pool, pairs: Sequence[tuple[str, str]], draws: int = 4000, seed: int = 0) -> pd.DataFrame:
    """Paired differences in best-of-N at the pool's size, ties averaged, both after the same number of samples; and
    what the samples alone give, `random` after them against `random` without.

    Columns: method, baseline, samples (that are run first), difference, ci_low, ci_high (95 %, paired bootstrap), wins
    and losses (problems on which the method's chance is the higher and the lower), p_value (exact sign-flip test),
    p_holm (adjusted for the number of rows), spread (standard deviation over problems), problems_needed to settle the
    difference with a power of 0.8 (empty: over 20,000), and verdict, the sentence that all this allows.  All of them
    are of the same gains, one a problem."""
    gains = []
    for samples in pool.regimes:
        if samples:
            gain = pool.best_of("random", pool.size, samples) - pool.best_of("random", pool.size)
            gains.append(("random", "random without samples", samples, gain))
        for method, baseline in pairs:
            gain = pool.best_of(method, pool.size, samples) - pool.best_of(baseline, pool.size, samples)
            gains.append((method, baseline, samples, gain))
    return compared(gains, draws, seed)


def by_set(
    pool: Pool, pairs: Sequence[tuple[str, str]], new_since: str, draws: int = 4000, seed: int = 0
) -> pd.DataFrame:
    """`differences` without samples on each set of problems alone: of our own, `seen` ones, with which methods were
    compared while they were made, and `new` ones, dated `new_since` (YYYY-MM-DD) or later; and then the sets of other
    authors, by their names.

    The columns of `differences`, and before them set and problems (their number); p-values are adjusted within a set.
    A set without problems has no rows."""
    tables = []
    own = {True: "new", False: "seen"}
    sets = np.array([own[p.date >= new_since] if p.source == "starter" else p.source for p in pool.problems])
    for name in sorted(set(sets), key=lambda name: (name != "seen", name != "new", name)):
        part = replace(pool.part(sets == name), samples=None)
        table = differences(part, pairs, draws, seed)
        table.insert(0, "set", name)
        table.insert(1, "problems", len(part.problems))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def compared(gains: Sequence[tuple[str, str, int, np.ndarray]], draws: int, seed: int) -> pd.DataFrame:
    """The table of `differences` for given gains [problems]: rows of method, baseline, samples and gain."""
    rows = [_difference(*row, draws=draws, seed=seed) for row in tqdm(gains, desc="comparing", unit="pair")]
    table = pd.DataFrame(rows)
    table.insert(table.columns.get_loc("p_value") + 1, "p_holm", holm(table.p_value))
    return table.assign(verdict=verdict(table))


def _difference(method: str, baseline: str, samples: int, gain: np.ndarray, *, draws: int, seed: int) -> dict:
    gain = np.where(np.abs(gain) < 1e-9, 0.0, gain)
    mean, low, high = mean_with_interval(gain, draws, seed)
    return {
        "method": method,
        "baseline": baseline,
        "samples": samples,
        "difference": mean,
        "ci_low": low,
        "ci_high": high,
        "wins": int((gain > 0).sum()),
        "losses": int((gain < 0).sum()),
        "p_value": sign_flip_test(gain),
        "spread": gain.std(),
        "problems_needed": problems_to_settle(mean, gain.std()),
    }


def aggregation_table(
    problems: Sequence[Problem],
    candidates: Sequence[Program],
    scores: Sequence[CandidateScores],
    chosen: str,
    draws: int = 4000,
    seed: int = 0,
) -> pd.DataFrame:
    """Every aggregation of every method's step scores: columns method, aggregation, n, pass_rate, ci_low, ci_high, and
    the paired difference to the `chosen` one, difference, diff_low, diff_high (95 %)."""
    pools = {how: make_pool(problems, candidates, scores, how) for how in AGGREGATIONS}
    n = pools[chosen].size
    rows = []
    for method, (how, pool) in product(dict.fromkeys(s.method for s in scores), pools.items()):
        values, base = pool.best_of(method, n), pools[chosen].best_of(method, n)
        both = (mean_with_interval(x, draws, seed) for x in (values, values - base))
        rows.append((method, how, n, *chain(*both)))
    columns = ["method", "aggregation", "n", "pass_rate", "ci_low", "ci_high", "difference", "diff_low", "diff_high"]
    return pd.DataFrame(rows, columns=columns)


def missed_picks(pool: Pool, method: str) -> list[tuple[Problem, int, int]]:
    """Where a method lost to an available candidate: the problem, the failing one that it picked, and the passing one
    that it scored highest, as indices in the pool's order of candidates."""
    found = []
    for problem, scores, ok in zip(pool.problems, pool.scores[method], pool.passed, strict=True):
        picked = int(np.argmax(scores))
        if ok.any() and not ok[picked]:
            found.append((problem, picked, int(np.argmax(np.where(ok, scores, -np.inf)))))
    return found


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
        verb = "is" if row.p_holm <= 0.05 else "may be"
        if row.ci_low > 0:
            said = f"{verb} better than"
        elif row.ci_high < 0:
            said = f"{verb} worse than"
        else:
            said = "cannot be told apart from"
        after = f"After {counted(row.samples, 'sample')} " if row.samples else ""
        sentences.append(
            f"{after}`{row.method}` {said} `{row.baseline}` on these problems: {points}; "
            f"ahead on {counted(row.wins, 'problem')}, behind on {row.losses}, exact sign-flip p = {row.p_value:.3g} "
            f"({row.p_holm:.3g} by Holm for {counted(len(table), 'comparison')})."
        )
    return sentences


def settled_by(table: pd.DataFrame, problems: int, method: str, baseline: str) -> list[str]:
    """What `problems_needed` of `differences` comes to: over all comparisons, and for one of them, without samples."""
    needed = table.problems_needed.dropna()
    said = f"{len(needed)} of {len(table)} differences could be settled, if they are as large as seen here"
    if len(needed):
        now = int((needed <= problems).sum())
        said += f", half of them by {needed.median():,.0f} problems or fewer; {now} by the {problems} of this study"
    (row,) = table[(table.method == method) & (table.baseline == baseline) & (table.samples == 0)].itertuples()
    pair = f"`{method}` against `{baseline}` ({100 * row.difference:+.1f} points)"
    if not round(row.difference, 9):
        return [f"{said}.", f"{pair}: no difference, so that more problems like these would settle nothing."]
    count = "over 20,000" if pd.isna(row.problems_needed) else f"{row.problems_needed:,.0f}"
    return [f"{said}.", f"{pair} would take {count} problems."]


# ------------------------------------------------------------------------------------------------- scoring


def score_candidates(
    model: RewardModel, method: str, problems: Sequence[Problem], candidates: Sequence[Program], backend: str = "local"
) -> list[CandidateScores]:
    """Step scores of every candidate by one reward model, to six digits; progress is shown.

    `backend` is `local`, this process, or one of `engine.clusters`, whose workers take a problem each.
    """
    mine = [[c for c in candidates if c.problem == p.id] for p in problems]
    tasks = [(p, [c.code for c in of_problem]) for p, of_problem in zip(problems, mine, strict=True)]
    work = partial(_scores_of_problem, model)
    scored = map(work, tasks) if backend == "local" else spread(work, tasks, backend)
    rows = []
    for of_problem in tqdm(mine, desc=f"scoring with {method}", unit="problem"):
        for c, scores in zip(of_problem, next(scored), strict=True):
            rows.append(CandidateScores(method, c.problem, c.sample, [float(f"{s:.6g}") for s in scores]))
    return rows


def read_whole(source: str, problems: Mapping[str, Problem], programs: Sequence[Program]) -> np.ndarray:
    """The logit that a model of another project gives each whole program [programs], as in `engine.foreign`.

    A `source` such as `NAME?backwards=1&docstrings=0` is a reviewer, and a language model's bare name a judge that says
    yes or no.  Each program takes a pass of its own.  Only programs of mixed problems are read; all others get 0,
    because where all programs pass or all fail, their order decides nothing.  What was read is kept on disk.
    """
    reader = foreign_model(source)
    mixed = list(dict.fromkeys(p.problem for p in of_mixed_problems(programs)))
    found = np.zeros(len(programs))
    for name in tqdm(mixed, desc=f"reading with {source}", unit="problem"):
        mine = [k for k, program in enumerate(programs) if program.problem == name]
        read = reader.features(problems[name], [[programs[k].code] for k in mine])
        found[mine] = np.concatenate(read).ravel()
    return found


def _scores_of_problem(model: RewardModel, task: tuple[Problem, list[str]]) -> list[list[float]]:
    return model.score(*task)
