"""The values of a program's prefixes, from everything that is known of them: a martingale on a grid.

The value of a prefix is the chance that the policy finishes it to a right program.  It is the mean of the values one
step later, so the values along a program are a martingale, and both ends of it are known things: the value of the empty
prefix is the policy's pass rate on the problem, and the value of the whole program is its verdict, 0 or 1.  The model
says how far a value moves at a step, by one Beta distribution around the value before,

    pass rate of a problem      V₀          ~  Beta around the mean of the population
    value after the first step  V₁ given V₀ ~  Beta(first · V₀, first · (1 − V₀))
    value after a later step    V given V'  ~  Beta(later · V', later · (1 − V'))
    rollouts of a prefix        c of n      ~  Binomial(n, V)
    verdict of the program      1 or 0      ~  Bernoulli(value of its last prefix but one)

so the programs of a problem inform each other through V₀, the steps of a program through their neighbours, and the
program's own verdict is one more fair draw of each of its prefixes.  All sums run over a grid, where the martingale
property holds exactly: a step without rollouts changes nothing.  The four numbers (the mean and concentration of the
population, `first` and `later`) are averaged over, weighted by the marginal likelihood of the data.

Not covered: rollouts by another policy than the one whose values are asked for, and programs that were chosen by their
verdict (give NaN for it).
"""

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product

import numpy as np
from scipy import special, stats

VALUES = np.sin(np.linspace(0, np.pi / 2, 65)) ** 2  # the grid: both ends are on it, and it is finer near them
CONCENTRATIONS = tuple(2.0**k for k in range(8))  # of a step: how little it changes the value
POPULATIONS = tuple(product(special.expit(np.linspace(-4, 4, 17)), (2.0**k for k in range(-1, 7))))
_TINY = 1e-300


@dataclass(frozen=True)
class Chains:
    """What was seen of programs: `passes` of `rollouts` for each prefix [programs, steps], 0 of 0 where a program has
    no such prefix or nobody finished it; `verdicts` [programs], 1, 0, or NaN where it is not a fair draw; `problems`
    [programs], numbered from 0."""

    passes: np.ndarray
    rollouts: np.ndarray
    verdicts: np.ndarray
    problems: np.ndarray

    @cached_property
    def likelihood(self) -> np.ndarray:
        """The chance of each prefix's rollouts for each possible value, as a share of the greatest [programs, steps,
        grid]."""
        chance = stats.binom.logpmf(self.passes[..., None], self.rollouts[..., None], VALUES)
        return np.exp(chance - chance.max(axis=-1, keepdims=True))

    @cached_property
    def members(self) -> np.ndarray:
        """Which programs are a problem's [problems, programs], as 1 and 0."""
        return (np.arange(self.problems.max() + 1)[:, None] == self.problems).astype(float)


@dataclass(frozen=True)
class Posterior:
    """What is known of some values: for each, its distribution as `weights` of `VALUES` [values, grid]."""

    weights: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """The posterior means [values]: of all estimates those with the least expected squared error."""
        return self.weights @ VALUES

    @property
    def variance(self) -> np.ndarray:
        """The posterior variances [values]: the squared errors that the means are expected to have."""
        return self.weights @ VALUES**2 - self.mean**2

    def interval(self, confidence: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """The central intervals that hold the values with this probability: lower and upper bounds [values]."""
        below, above = self.weights.cumsum(axis=1), self.weights[:, ::-1].cumsum(axis=1)
        tail = (1 - confidence) / 2
        return VALUES[(below > tail).argmax(axis=1)], VALUES[::-1][(above > tail).argmax(axis=1)]

    def coverage(self, passes: np.ndarray, rollouts: int, confidence: float = 0.9) -> np.ndarray:
        """How much of each count of passes in further rollouts [values] lies in the central interval that is predicted
        for it, from 0 to 1; its mean is `confidence` if the posterior is calibrated.

        The interval is one of counts, so it has the noise of those rollouts in it.  A count that straddles a bound is
        inside with the share of its probability that is (a randomised interval, without the draw).
        """
        counts = np.arange(rollouts + 1)
        reached = (self.weights @ stats.binom.pmf(counts, rollouts, VALUES[:, None])).cumsum(axis=1)
        at = np.arange(len(passes))
        low, high = np.pad(reached, ((0, 0), (1, 0)))[at, passes], reached[at, passes]
        tail = (1 - confidence) / 2
        inside = np.minimum(high, 1 - tail) - np.maximum(low, tail)
        return np.clip(inside, 0, None) / np.maximum(high - low, _TINY)


def beta_on_grid(means: np.ndarray, concentration: float) -> np.ndarray:
    """Beta distributions with these means [m] and a + b = `concentration`, as weights of `VALUES` [m, grid].

    What lies between two points is shared between them so that its mean is kept; a mean of 0 or 1 stays where it is.
    """
    means = np.asarray(means, float)[:, None]
    a, b = concentration * np.clip(means, 1e-9, 1 - 1e-9), concentration * np.clip(1 - means, 1e-9, 1 - 1e-9)
    mass = np.diff(special.betainc(a, b, VALUES))
    moment = means * np.diff(special.betainc(a + 1, b, VALUES))
    upper = (moment - VALUES[:-1] * mass) / np.diff(VALUES)
    weights = np.pad(mass - upper, ((0, 0), (0, 1))) + np.pad(upper, ((0, 0), (1, 0)))
    return np.where((means <= 0) | (means >= 1), VALUES == means, np.maximum(weights, 0))


@cache
def moves(concentration: float) -> np.ndarray:
    """The chance of each value after a step, given the value before [grid before, grid after]."""
    return beta_on_grid(VALUES, concentration)


@cache
def populations() -> np.ndarray:
    """The distributions of pass rates over problems that are considered [populations, grid]."""
    return np.concatenate([beta_on_grid(np.array([mean]), concentration) for mean, concentration in POPULATIONS])


def _from_the_end(chains: Chains, first: float, later: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """The chance of all that was seen of a program, given its problem's pass rate [programs, grid]; and for each step
    the chance of what was seen from it on, given its value [programs, grid].  Both are up to a factor."""
    after: list[np.ndarray] = []
    verdict = chains.verdicts[:, None]
    chance = np.where(np.isnan(verdict), 1.0, np.where(verdict == 1, VALUES, 1 - VALUES))
    for k in reversed(range(chains.passes.shape[1])):
        after.insert(0, chains.likelihood[:, k] * chance)
        chance = after[0] @ moves(later if k else first).T
    return np.maximum(chance, _TINY), after


def log_evidence(chains: Chains, first: float, later: float) -> np.ndarray:
    """The log marginal likelihood of each problem under each population [problems, populations], up to what is the same
    for all settings."""
    total = chains.members @ np.log(_from_the_end(chains, first, later)[0])
    top = total.max(axis=1, keepdims=True)
    return top + np.log(np.exp(total - top) @ populations().T)


def smoothed(chains: Chains, first: float, later: float, prior: np.ndarray) -> np.ndarray:
    """The posterior of each prefix's value [programs, steps, grid], given the distribution of the problem's pass rate
    before anything was seen of it: [grid] or [problems, grid], up to a factor."""
    chance, after = _from_the_end(chains, first, later)
    total = chains.members @ np.log(chance)
    others = np.exp(total - total.max(axis=1, keepdims=True))[chains.problems] / chance
    belief = np.broadcast_to(prior, total.shape)[chains.problems] * others
    found = []
    for k in range(chains.passes.shape[1]):
        belief = belief @ moves(later if k else first)
        found.append(belief * after[k] / (belief * after[k]).sum(axis=1, keepdims=True))
        belief = belief * chains.likelihood[:, k]
    return np.stack(found, axis=1)


def value_posterior(chains: Chains) -> np.ndarray:
    """The posterior of each prefix's value [programs, steps, grid], averaged over the model's four numbers."""
    settings = list(product(CONCENTRATIONS, CONCENTRATIONS))
    evidence = [log_evidence(chains, *setting) for setting in settings]
    weights = special.softmax(np.array([found.sum(axis=0) for found in evidence]))  # [settings, populations]
    posterior = np.zeros((*chains.passes.shape, len(VALUES)))
    for setting, weight, found in zip(settings, weights, evidence, strict=True):
        if weight.sum() > 1e-3:
            prior = (weight * np.exp(found.max(axis=1, keepdims=True) - found)) @ populations()
            posterior += weight.sum() * smoothed(chains, *setting, prior)
    return posterior / posterior.sum(axis=-1, keepdims=True)
