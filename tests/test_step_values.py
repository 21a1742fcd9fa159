"""Values on a grid beside closed forms, numerical integration, and worlds whose values are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from dreamprm_lib.evidence.step_values import (
    VALUES,
    Chains,
    Posterior,
    beta_on_grid,
    log_evidence,
    moves,
    populations,
    smoothed,
    value_posterior,
)

HALF = (VALUES == VALUES[32]).astype(float)  # a pass rate of exactly 1/2
UNIFORM = beta_on_grid([0.5], 2)[0]
UNKNOWN = np.nan


def chains(*programs, problems=None):
    """Programs as (passes, rollouts, verdict), all of one problem unless `problems` says otherwise."""
    width = max(len(passes) for passes, _, _ in programs)

    def padded(counts):
        return [*counts, *[0] * (width - len(counts))]

    passes, rollouts = (np.array([padded(p[i]) for p in programs]) for i in (0, 1))
    verdicts = np.array([p[2] for p in programs], float)
    return Chains(passes, rollouts, verdicts, np.array(problems or [0] * len(programs)))


@pytest.mark.parametrize("mean", [0, 1e-3, 0.2, 0.5, 0.97, 1])
@pytest.mark.parametrize("concentration", [0.5, 3, 128])
def test_a_distribution_on_the_grid_keeps_mass_and_mean_and_nearly_its_variance(mean, concentration):
    (weights,) = beta_on_grid([mean], concentration)
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1) and weights @ VALUES == pytest.approx(mean)
    assert weights @ VALUES**2 - mean**2 == pytest.approx(mean * (1 - mean) / (concentration + 1), abs=2e-4)
    assert moves(concentration) @ VALUES == pytest.approx(VALUES)  # a step keeps the expected value


@pytest.mark.parametrize(
    "passes, rollouts, verdict, mean",
    [(0, 0, UNKNOWN, 1 / 2), (0, 0, 1, 2 / 3), (0, 4, 0, 1 / 7), (2, 4, UNKNOWN, 1 / 2), (3, 4, 1, 5 / 7)],
)
def test_the_verdict_counts_as_one_more_rollout(passes, rollouts, verdict, mean):
    """A value that may be anything, uniformly, has the posterior Beta(1 + passes, 1 + fails)."""
    found = Posterior(smoothed(chains(([passes], [rollouts], verdict)), 2, 8, HALF)[:, 0])
    assert found.mean == pytest.approx(mean, abs=1e-3)
    right, wrong = passes + (verdict == 1), rollouts - passes + (verdict == 0)
    bounds = stats.beta(1 + right, 1 + wrong).ppf([0.05, 0.95])
    assert np.concatenate(found.interval()) == pytest.approx(bounds, abs=0.025)


@pytest.mark.parametrize("concentration", [1, 64])
def test_the_other_programs_of_a_problem_are_a_prior_and_other_problems_tell_nothing(concentration):
    """Two passed and one failed: what nobody finished has the problem's posterior mean, (1 + 2) / (2 + 3)."""
    programs = [([0], [0], UNKNOWN), ([0], [0], 1), ([0], [0], 0), ([0], [0], 1)]
    for problems, mean in (([0, 0, 0, 0], 3 / 5), ([0, 1, 1, 1], 1 / 2)):
        seen = chains(*programs, problems=problems)
        assert Posterior(smoothed(seen, concentration, 4, UNIFORM)[:, 0]).mean[0] == pytest.approx(mean, abs=1e-3)


@pytest.mark.parametrize("passes, fails", [(0, 3), (2, 1), (5, 0)])
def test_the_evidence_of_verdicts_is_that_of_a_beta_binomial(passes, fails):
    seen = chains(*[([0], [0], 1)] * passes, *[([0], [0], 0)] * fails)
    a = b = 0.5 * 4  # one of the populations: mean 1/2, a + b = 4
    place = np.abs(populations() - beta_on_grid([0.5], 4)).sum(axis=1).argmin()
    exact = special.betaln(a + passes, b + fails) - special.betaln(a, b)
    assert log_evidence(seen, 2, 2)[0, place] == pytest.approx(exact, abs=2e-3)


@pytest.mark.parametrize(
    "counts, verdict, sibling",
    [(((1, 4), (3, 4)), 1, 0), (((0, 2), (0, 1)), 0, 1), (((4, 4), (1, 8)), 0, 1), (((2, 8), (0, 0)), 1, 1)],
)
def test_smoothing_is_numerical_integration(counts, verdict, sibling):
    """The exact twin: a Gauss rule over the pass rate and the first value; the second one's integral is known."""
    (c1, n1), (c2, n2) = counts
    first, later = 5.0, 9.0
    nodes, weights = special.roots_legendre(200)
    angle = np.pi / 4 * (nodes + 1)  # the densities may be infinite at 0 and 1: v = sin² takes that away
    v, dv = np.sin(angle) ** 2, weights * np.sin(2 * angle)
    v0, v1 = v[:, None], v[None, :]
    right, wrong = c2 + verdict, n2 - c2 + 1 - verdict
    a, b = later * v1, later * (1 - v1)
    rest = np.exp(special.betaln(a + right, b + wrong) - special.betaln(a, b))
    prior = stats.beta(1.2, 2.8).pdf(v0) * (v0 if sibling else 1 - v0)
    moved = stats.beta(first * v0, first * (1 - v0)).pdf(v1)
    mass = prior * moved * v1**c1 * (1 - v1) ** (n1 - c1) * rest * dv[:, None] * dv
    of_first = mass.sum(axis=0) / mass.sum()
    exact = of_first @ v, of_first @ ((later * v + right) / (later + right + wrong))

    seen = chains(([c1, c2], [n1, n2], verdict), ([0, 0], [0, 0], sibling))
    found = smoothed(seen, first, later, beta_on_grid([0.3], 4)[0])[0]
    assert Posterior(found).mean == pytest.approx(exact, abs=2e-3)


PROGRAM = st.integers(1, 3).flatmap(
    lambda steps: st.tuples(
        st.lists(st.integers(0, 4), min_size=steps, max_size=steps).map(lambda p: (p, [4] * len(p))),
        st.sampled_from([0.0, 1.0, UNKNOWN]),
    )
)


@settings(max_examples=6, deadline=None)
@given(st.lists(PROGRAM, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_programs_and_numbers_of_problems_do_not_matter(programs, random):
    rows = [(*counts, verdict) for counts, verdict in programs]
    problems = [i % 2 for i in range(len(rows))]
    order = random.sample(range(len(rows)), len(rows))
    found = value_posterior(chains(*rows, problems=problems))
    other = value_posterior(chains(*[rows[i] for i in order], problems=[1 - problems[i] for i in order]))
    assert other == pytest.approx(found[order], abs=1e-9)
    assert found.sum(axis=-1) == pytest.approx(1)


def test_steps_that_nobody_finished_say_nothing_and_a_thousand_rollouts_are_their_share():
    seen = [([1, 3], [4, 4], 1), ([0], [2], 0), ([2], [2], 1)]
    longer = [([*passes, 0, 0], [*rollouts, 0, 0], verdict) for passes, rollouts, verdict in seen]
    assert value_posterior(chains(*longer))[:, :2] == pytest.approx(value_posterior(chains(*seen)), abs=1e-9)
    found = Posterior(value_posterior(chains(([300, 700], [1000, 1000], 1)))[0])
    assert found.mean == pytest.approx([0.3, 0.7], abs=0.01)
    sure = Posterior(np.stack([VALUES == 0, VALUES == 1]).astype(float))
    assert sure.mean.tolist() == [0, 1] and [bound.tolist() for bound in sure.interval()] == [[0, 1], [0, 1]]


@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_a_calibrated_posterior_covers_as_much_as_it_says(confidence):
    """Under a uniform posterior all counts are equally likely; a wrong one does not cover them."""
    counts = np.arange(11)
    uniform = Posterior(np.tile(UNIFORM, (11, 1)))
    assert uniform.coverage(counts, 10, confidence).mean() == pytest.approx(confidence, abs=1e-3)
    assert Posterior(np.tile(HALF, (11, 1))).coverage(counts, 10, confidence).mean() < confidence / 2 + 0.2


def world(rng, step, problems=150, programs=4, steps=3, rollouts=4):
    """The values of a world and what is seen of them; `step` draws the next value given the one before."""
    rate = np.repeat(rng.beta(0.6, 1.8, problems), programs)
    values = [step(rate)]
    while len(values) < steps:
        values.append(step(values[-1]))
    values = np.stack(values, axis=1)
    length = rng.integers(1, steps + 1, len(rate))  # how many open steps a program has
    counts = np.where(np.arange(steps) < length[:, None], rollouts, 0)
    verdicts = rng.random(len(rate)) < values[np.arange(len(rate)), length - 1]
    seen = Chains(rng.binomial(counts, values), counts, verdicts.astype(float), np.arange(len(rate)) // programs)
    return values[counts > 0], seen, counts > 0


def judged(values, seen, here):
    """The squared errors of the posterior and of raw labels, the one that the posterior expects, and the share of
    values in its intervals."""
    found = Posterior(value_posterior(seen)[here])
    low, high = found.interval()
    raw = seen.passes[here] / seen.rollouts[here]
    inside = (low <= values) & (values <= high)
    return np.mean((found.mean - values) ** 2), np.mean((raw - values) ** 2), found.variance.mean(), inside.mean()


def beta_step(concentration):
    def step(rng, value):
        a, b = (np.maximum(concentration * share, 1e-9) for share in (value, 1 - value))
        return rng.beta(a, b)

    return step


def jump(rng, value):
    """To 0, or up so that the mean is kept, instead of a little."""
    chance = np.minimum(0.3, 1 - value)
    return np.where(rng.random(value.shape) < chance, 0, np.minimum(value / np.maximum(1 - chance, 1e-9), 1))


@pytest.mark.parametrize("step, own", [(beta_step(2), True), (beta_step(20), True), (jump, False)])
def test_the_posterior_is_calibrated_in_its_own_world_and_honest_in_another(step, own):
    rng = np.random.default_rng(2)
    error, raw, expected, covered = judged(*world(rng, lambda value: step(rng, value)))
    assert error < 0.7 * raw and 0.85 <= covered <= 0.98
    assert not own or error == pytest.approx(expected, rel=0.15)
