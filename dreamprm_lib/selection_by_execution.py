"""Selection by execution: programs are run on made-up inputs, and chosen by what they answer there.

Everything starts from a table of answers [programs, inputs] (`engine.sandbox.consensus.answers`): equal numbers in a
column are equal answers.  A selector is a function of this table that gives each program a score; the highest is
picked.  `SELECTORS` lists them, and a new one is a function and a line there.

Here inputs come from the statement's samples, and no expected output is known for them; tests that a policy writes are
in `asking_again`.  Not covered: inputs that are written to separate two given programs (S*, arXiv 2502.14382).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import betaln

from dreamprm_lib.engine.sandbox.consensus import FAILED, agreement
from dreamprm_lib.evidence.statistics import mean_with_interval
from dreamprm_lib.study.rows import CandidateScores
from dreamprm_lib.test_time_scaling import Pool


def same_everywhere(table: np.ndarray) -> np.ndarray:
    """Whether two programs give the same answers on all inputs [programs, programs]; programs that never answer are
    like no other.  Programs that are the same form a semantic cluster."""
    equal = (table[:, None] == table[None, :]).all(axis=2)
    return equal & (table != FAILED).any(axis=1)


def majority(table: np.ndarray) -> np.ndarray:
    """The share of all programs that answer as a program does, on all inputs: the size of its cluster, in [0, 1]."""
    return same_everywhere(table).mean(axis=0)


def summed(table: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The sum of the weights [programs] of a program's cluster.

    With a reward model's scores this is weighted self-consistency (arXiv 2206.02336), with the policy's probabilities
    the rule of LEVER (arXiv 2302.08468, section 3.3); with equal weights it is the majority.
    """
    return same_everywhere(table) @ weights


UNIFORM, RARELY = (1.0, 1.0), (1.0, 9.0)  # Beta priors: a chance of which nothing is known, and a mean of 0.1


def b4(table: np.ndarray) -> np.ndarray:
    """`b4_of_tests`, where every answer that was given on an input is a test: a program passes the tests that hold its
    own answers."""
    tests = [column == answer for column in table.T for answer in set(column.tolist()) - {FAILED}]
    return b4_of_tests(np.array(tests, bool).reshape(-1, len(table)).T)


def b4_of_tests(passed: np.ndarray) -> np.ndarray:
    """The log-posterior that exactly a program's cluster is right (B4, arXiv 2409.08692), up to a constant.

    `passed` [programs, tests] says which program passes which test, and equal programs form a cluster; one that passes
    nothing gets minus infinity.  Are the programs of one cluster right, so are the tests that they pass, and all others
    are wrong.  Four chances remain: that a program is right, that a test is right, that a wrong program passes a right
    test (`UNIFORM` is the Beta prior of these three), and that it passes a wrong one (`RARELY`).  Integrated over its
    prior, each gives the Beta function of its counts: four Beta functions.
    """
    scores = np.full(len(passed), -np.inf)
    for program in np.flatnonzero(passed.any(axis=1)):
        true = passed[program]
        good = (passed == true).all(axis=1)
        wrong = passed[~good]
        counts = [(good, UNIFORM), (true, UNIFORM), (wrong[:, true], UNIFORM), (wrong[:, ~true], RARELY)]
        scores[program] = sum(betaln(hits.sum() + a, (~hits).sum() + b) - betaln(a, b) for hits, (a, b) in counts)
    return scores


SELECTORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"consensus": agreement, "majority": majority, "b4": b4}


def execution_scores(tables: Mapping[str, np.ndarray], samples: Mapping[str, Sequence[int]]) -> list[CandidateScores]:
    """The scores of all programs by each of `SELECTORS`, from each problem's table of answers; the programs of a table
    are its problem's `samples`, in this order."""
    return [
        CandidateScores(name, problem, sample, [float(score)])
        for name, select in SELECTORS.items()
        for problem, table in tables.items()
        for sample, score in zip(samples[problem], select(table), strict=True)
    ]


def separating(table: np.ndarray, count: int) -> list[int]:
    """Which `count` inputs tell programs apart best: one after the other, the input that splits most pairs of programs
    which no input before it has split (the earlier one among equals)."""
    differ = table[:, None] != table[None, :]
    chosen: list[int] = []
    while len(chosen) < min(count, table.shape[1]):
        gains = differ.sum(axis=(0, 1)).astype(float)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        differ &= ~differ[:, :, chosen[-1:]]
    return chosen


# ------------------------------------------------------------------------------------------------- agreement


def rank_agreement(pool: Pool, methods: Sequence[str], draws: int = 4000, seed: int = 0) -> pd.DataFrame:
    """Kendall's tau-b of two methods' scores within a problem, mean over problems: columns method, other, tau, ci_low,
    ci_high (95 %), problems.

    1: the same order; 0: unrelated; -1: reversed.  Ties are accounted for.  A problem in which either method gives all
    candidates the same score has no tau and is left out.
    """
    rows = []
    for method, other in product(methods, repeat=2):
        pairs = zip(pool.scores[method], pool.scores[other], strict=True)
        taus = [tau for pair in pairs if np.isfinite(tau := stats.kendalltau(*pair).statistic)]
        rows.append((method, other, *mean_with_interval(taus, draws, seed), len(taus)))
    return pd.DataFrame(rows, columns=["method", "other", "tau", "ci_low", "ci_high", "problems"])


# ------------------------------------------------------------------------------------------------- abstention


def confidence(pool: Pool, method: str) -> tuple[np.ndarray, np.ndarray]:
    """For each problem [problems]: the highest score of a method, and the chance that the pick passes (ties
    averaged)."""
    return np.array([scores.max() for scores in pool.scores[method]]), pool.best_of(method, pool.size)


def risk_coverage(confident: np.ndarray, right: np.ndarray) -> pd.DataFrame:
    """What share of its answers is wrong, if a selector answers only where it is confident enough: columns coverage
    (share of problems answered) and risk (share of them that is wrong), a row for each threshold."""
    values, where = np.unique(-confident, return_inverse=True)
    answered = np.cumsum(np.bincount(where, minlength=len(values)))
    wrong = np.cumsum(np.bincount(where, 1 - right, minlength=len(values)))
    return pd.DataFrame({"coverage": answered / len(right), "risk": wrong / answered})


def safe_threshold(confident: np.ndarray, right: np.ndarray, risk: float = 0.2, level: float = 0.1) -> float | None:
    """The lowest confidence from which at most a share `risk` of the answers is wrong, with probability 1 - `level`
    over the calibration problems; None if these are too few to promise it.

    Thresholds are tested from the highest down, by the exact binomial test on the number of errors among the answers,
    and the first that fails ends the search, so that no adjustment for their number is needed (Learn then Test, arXiv
    2110.01052, with a fixed sequence).  The sequence begins where so many problems are answered that no error at all
    would pass the test.  `right` [problems] counts as an error unless it is 1.
    """
    fewest, safe = math.log(level) / math.log(1 - risk), None
    for threshold in np.unique(confident)[::-1]:
        answered = confident >= threshold
        if answered.sum() >= fewest:
            errors = int((right[answered] < 1).sum())
            if stats.binom.cdf(errors, int(answered.sum()), risk) > level:
                break
            safe = float(threshold)
    return safe
