"""Intervals and tests.  Problems are the sample: what is resampled is always the problem, never the program."""

import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from dreamprm_lib.errors import InputError


def numbers(what: str, values: ArrayLike, finite: bool = False) -> np.ndarray:
    """The values as an array of floats.  Raises `InputError` for NaN (with `finite` also for infinity), by its row."""
    array = np.asarray(values, float)
    wrong = np.argwhere(~np.isfinite(array) if finite else np.isnan(array))
    if len(wrong):
        raise InputError(f"{what}: row {wrong[0][0]} holds {array[tuple(wrong[0])]} where a number was expected.")
    return array


def resamples(problems: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap resamples of problems as counts [draws, problems]; use the same ones for all that is compared."""
    return rng.multinomial(problems, np.full(problems, 1 / problems), size=draws)


def mean_with_interval(values: ArrayLike, draws: int = 4000, seed: int = 0) -> tuple[float, float, float]:
    """Mean of one value a problem, and its 95 % percentile bootstrap interval; three NaN if there is no problem."""
    values = np.asarray(values, float)
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    counts = resamples(len(values), draws, np.random.default_rng(seed))
    return with_interval(np.append(values.mean(), counts @ values / len(values)))


def problem_weights(problems: Sequence[str], draws: int, seed: int) -> np.ndarray:
    """Weights of rows that belong to `problems` [1 + draws, rows], each line of sum 1: first equal weights, then those
    of bootstrap resamples of the problems.  Use the same weights for everything that is compared."""
    problem, names = pd.factorize(np.asarray(problems))
    counts = resamples(len(names), draws, np.random.default_rng(seed))
    weights = np.vstack([np.ones(len(names)), counts])[:, problem].astype(float)
    return weights / weights.sum(axis=1, keepdims=True)


def with_interval(values: np.ndarray) -> tuple[float, float, float]:
    """The first of the values, and the 95 % interval of the others, which are draws of it."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return float(values[0]), float(low), float(high)


def pair_ranking(scores: np.ndarray, values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """How often the better of two rows has the higher score, equal scores counting half [draws].

    `scores` and `values` [rows], of which the values say what is better; rows of equal value say nothing, and where all
    are equal the result is 0.5.  A row counts by its weight in each line of `weights` [draws, rows]; without them there
    is one draw, in which all count the same.
    """
    better = values[:, None] > values
    right = better * ((scores[:, None] > scores) + 0.5 * (scores[:, None] == scores))
    weights = np.ones((1, len(scores))) if weights is None else weights
    pairs, won = (np.einsum("dr,dr->d", weights @ matrix, weights) for matrix in (better, right))
    return np.divide(won, pairs, out=np.full(len(pairs), 0.5), where=pairs > 0)


def unbiased_squares(estimates: np.ndarray, passes: np.ndarray, rollouts: np.ndarray | int) -> np.ndarray:
    """Estimates [m] minus true values, squared, without bias: the values are known by `passes` of `rollouts` alone.

    (y - v̂)² exceeds (y - v)² by the variance of v̂, which v̂ (1 - v̂) / (n - 1) estimates without bias, if y does not
    come from the same rollouts.  Single values may be negative; means are right.
    """
    share = passes / rollouts
    return (estimates - share) ** 2 - share * (1 - share) / (rollouts - 1)


def wilson_interval(passes: ArrayLike, rollouts: ArrayLike, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval for a pass rate (arrays broadcast): lower and upper bound in [0, 1].

    Unlike the normal interval it stays sensible at 0 and *n* passes, where most labels from few rollouts lie.
    """
    passes, rollouts = np.asarray(passes, float), np.asarray(rollouts, float)
    z = stats.norm.ppf(0.5 + confidence / 2)
    center = (passes + z**2 / 2) / (rollouts + z**2)
    half = z * np.sqrt(passes * (rollouts - passes) / rollouts + z**2 / 4) / (rollouts + z**2)
    return np.clip(center - half, 0, 1), np.clip(center + half, 0, 1)


def beta_binomial_prior(passes: np.ndarray, rollouts: np.ndarray) -> tuple[float, float]:
    """The Beta distribution (a, b) that pass rates are drawn from, by the moments of passes [m] in rollouts [m].

    Where the rates spread no more than binomial noise does, it is narrow (a + b = 1000).
    """
    rate = float(np.clip(passes.sum() / rollouts.sum(), 1e-3, 1 - 1e-3))
    spread = np.average((passes / rollouts - rate) ** 2, weights=rollouts)
    noise = rate * (1 - rate) * np.average(1 / rollouts, weights=rollouts)
    share = (spread - noise) / max(rate * (1 - rate) - noise, 1e-12)  # the intra-class correlation, 1 / (a + b + 1)
    total = 1 / float(np.clip(share, 1 / 1001, 1 - 1e-3)) - 1
    return rate * total, (1 - rate) * total


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided McNemar test: the p-value of `wins` against `losses` discordant problems under a fair coin."""
    return 1.0 if wins + losses == 0 else float(stats.binomtest(wins, wins + losses).pvalue)


def sign_flip_test(gains: np.ndarray, distinct: int = 5000) -> float:
    """Exact two-sided test of paired gains [problems]: the chance of a sum at least as far from 0, if the sign of every
    gain were a fair coin's.

    A gain may be a fraction, as it is where ties are averaged; a gain of 0 does not count.  For gains of 1 and -1 this
    is McNemar's exact test.  All sums are followed; only where more than `distinct` of them differ are they rounded, to
    a grid of so many.
    """
    sums: np.ndarray = np.zeros(1)
    chances: np.ndarray = np.ones(1)
    grid = 1e-9
    for size in np.abs(gains[gains != 0]):
        places, where = np.unique(np.round(np.concatenate([sums - size, sums + size]) / grid), return_inverse=True)
        sums, chances = places * grid, np.bincount(where, np.tile(chances, 2) / 2)
        if len(sums) > distinct:
            grid = 2 * sums.max() / distinct
    return float(min(1.0, chances[np.abs(sums) >= abs(gains.sum()) - max(1e-6, grid / 2)].sum()))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's adjustment of p-values for so many comparisons: reject where the result is at most the level."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(stepped, 1.0)[np.argsort(order)]


def mcnemar_power(problems: int, win: float, loss: float, level: float = 0.05) -> float:
    """The chance that the exact McNemar test rejects at `level`, if a problem is won or lost with these chances."""
    if win + loss == 0:
        return 0.0
    number = np.arange(1, problems + 1)  # of discordant problems
    weights = stats.binom.pmf(number, problems, win + loss)
    number, weights = number[weights > 1e-12], weights[weights > 1e-12]
    most = stats.binom.ppf(level / 2, number, 0.5)  # of the rarer outcome, where the test still rejects; -1: nowhere
    most -= 2 * stats.binom.cdf(most, number, 0.5) > level
    share = win / (win + loss)
    rejected = stats.binom.cdf(most, number, share) + stats.binom.sf(number - most - 1, number, share)
    return float(weights @ rejected)


def problems_to_settle(
    mean: float, spread: float, power: float = 0.8, level: float = 0.05, most: int = 20_000
) -> int | None:
    """How many problems settle a mean gain, if its standard deviation over problems is `spread`; None if more than
    `most` are needed.  By the normal approximation, ((z of the level + z of the power) · spread / mean)², and never
    fewer than with which an exact test can reject."""
    z = stats.norm.ppf(1 - level / 2) + stats.norm.ppf(power)
    if abs(mean) * math.sqrt(most) < z * spread or not mean:
        return None
    return max(math.ceil((z * spread / mean) ** 2), math.ceil(math.log2(2 / level)))


def problems_needed(win: float, loss: float, power: float = 0.8, level: float = 0.05, most: int = 20_000) -> int | None:
    """How many problems settle a difference of win - loss with this power, which rises with the problems but for small
    teeth; None if more than `most` are needed."""
    if win == loss:
        return None
    needed = 1 + bisect_left(range(1, most + 1), power, key=lambda n: mcnemar_power(n, win, loss, level))
    return needed if needed <= most else None


def counted(number: int, noun: str, plural: str = "") -> str:
    """A count in words: `1 problem`, `2 problems`; the plural where it is more than an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
