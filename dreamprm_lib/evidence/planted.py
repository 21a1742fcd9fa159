"""Worlds of known truth: real features, a planted value for every state, and a completer whose bias can be set.

What a method does to labels can only be judged where the truth is known.  Here it is, and everything but the values is
real: the features are those of recorded prefixes.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from dreamprm_lib.errors import InputError

BIASES = ("none", "constant", "flips", "by state")


@dataclass(frozen=True)
class PlantedWorld:
    """Features [m, width], the value of each state [m] in [0, 1], its MC label [m], and how many rollouts gave it."""

    features: np.ndarray
    values: np.ndarray
    labels: np.ndarray
    rollouts: int


def planted_world(features: np.ndarray, rollouts: int, bias: str, rng: np.random.Generator) -> PlantedWorld:
    """Plant a value function on features [m, width] and draw labels.

    Value: a sigmoid of a random linear function.  Completer: the values themselves (`none`); half of them (`constant`:
    a weak model); three in ten passes lost and one in twenty failures passed (`flips`: a bad grader); or a share
    between 0.15 and 1 of them that depends on another random direction (`by state`).
    """
    if bias not in BIASES:
        raise InputError(f"There is no bias {bias!r}: choose one of {', '.join(BIASES)}.")
    x = _standardised(features)
    direction, other = rng.standard_normal((2, x.shape[1]))
    values = expit(2.0 * _standardised(x @ direction))
    share = 0.15 + 0.85 * expit(3.0 * _standardised(x @ other))
    completed = {
        "none": values,
        "constant": 0.5 * values,
        "flips": 0.7 * values + 0.05 * (1 - values),
        "by state": share * values,
    }[bias]
    return PlantedWorld(features, values, rng.binomial(rollouts, completed) / rollouts, rollouts)


def principal_components(features: np.ndarray, count: int) -> np.ndarray:
    """Features [m, width] projected on their first principal components [m, count], each with unit variance."""
    left, _, _ = np.linalg.svd(_standardised(features), full_matrices=False)
    return left[:, :count] * np.sqrt(len(features))


def _standardised(x: np.ndarray) -> np.ndarray:
    scale = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(scale > 1e-8, scale, 1.0)
