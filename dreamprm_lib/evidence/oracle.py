"""Labels beside the oracle: how far they are from the values that many further rollouts tell, and how well they rank.

The oracle's values are shares of passes and have noise of their own, which is taken off where squares are meant.  Rows
are those of `monte_carlo_labels.beside_oracle` and `monte_carlo_labels.allocations`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from dreamprm_lib.evidence.statistics import pair_ranking, problem_weights, unbiased_squares, with_interval

MEANS = ("coverage", "spent", "tokens")  # columns of which the mean is told, where they are there


def oracle_table(found: pd.DataFrame, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Labels in numbers, with 95 % bootstrap intervals over problems (means over seeds within each draw).

    `found` has the columns rollouts, seed, method, problem, label, passes and trials (of the oracle), and the same
    states in the same order for every method and seed; the first method is the one that the others are compared with.
    One row for each number of rollouts and method; each measure comes with `_low` and `_high`: `mse` (of the labels
    to the true values, unbiased), `gain` (the share of the first method's mse that is gone), `bias` (mean label minus
    mean value), `ranking` (how often the better of two states, by their oracle shares, has the higher label) and
    `ranking_gain` (its change against the first method); and the means of the columns in `MEANS`.  Gains are paired:
    the same resamples for both.
    """
    rows = []
    for n, part in found.groupby("rollouts", sort=False):
        measured = {
            method: _draws(rows, draws, seed) | {"ranking": _rankings(rows, draws, seed)}
            for method, rows in part.groupby("method", sort=False)
        }
        raw = measured[part.method.iloc[0]]
        for method, values in measured.items():
            gains = {"gain": 1 - values["mse"] / raw["mse"], "ranking_gain": values["ranking"] - raw["ranking"]}
            row = {"rollouts": n, "method": method}
            for name, drawn in (values | gains).items():
                row |= dict(zip((name, f"{name}_low", f"{name}_high"), with_interval(drawn), strict=True))
            rows.append(row)
    return pd.DataFrame(rows)


def label_table(labels: Mapping[str, np.ndarray], problems: Sequence[str], outcomes: np.ndarray) -> pd.DataFrame:
    """`oracle_table` of labels [states] by name, which are compared with the first of them.

    `problems` own the states; `outcomes` [states, n] are the oracle's rollouts, which no label has seen.
    """
    told = {"problem": problems, "passes": outcomes.sum(axis=1), "trials": outcomes.shape[1]}
    found = [
        pd.DataFrame({"rollouts": 0, "seed": 0, "method": name, "label": label} | told)
        for name, label in labels.items()
    ]
    return oracle_table(pd.concat(found, ignore_index=True)).drop(columns="rollouts")


def share_for_the_same_error(
    found: pd.DataFrame, ours: str, theirs: str, at: float, cost: str = "spent", draws: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """What `ours` costs to err as little as `theirs` does with `at` rollouts a state, as a share of what that costs,
    and its 95 % bootstrap interval over problems.

    `found` as in `oracle_table`, at several numbers of rollouts, with the column `cost` of each state.  Between those
    numbers the error is thought to fall in straight lines; beyond the largest, its cost is told.
    """
    curves = {
        method: [(_draws(part, draws, seed), n) for n, part in found[found.method == method].groupby("rollouts")]
        for method in (ours, theirs)
    }
    errors, costs = (np.array([values[what] for values, _ in curves[ours]]).T for what in ("mse", cost))
    (goal,) = (values for values, n in curves[theirs] if n == at)
    falling = np.minimum.accumulate(errors, axis=1)
    needed = [np.interp(-y, -curve, spent) for y, curve, spent in zip(goal["mse"], falling, costs, strict=True)]
    return with_interval(np.array(needed) / goal[cost])


def _columns(found: pd.DataFrame, draws: int, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Weights of the states, first equal ones and then those of each resample of problems [1 + draws, states]; and the
    columns that are numbers [seeds, states]."""
    seeds = found.seed.nunique()
    columns = {name: found[name].to_numpy().reshape(seeds, -1) for name in found.select_dtypes("number")}
    return problem_weights(found.problem[: len(found) // seeds], draws, seed), columns


def _draws(found: pd.DataFrame, draws: int, seed: int) -> dict[str, np.ndarray]:
    """Measures of one method on all problems, and then on each resample of them [1 + draws]."""
    weights, columns = _columns(found, draws, seed)
    label, passes, trials = (columns[name] for name in ("label", "passes", "trials"))
    of_states = {"mse": unbiased_squares(label, passes, trials), "bias": label - passes / trials}
    of_states |= {name: columns[name] for name in MEANS if name in columns}
    return {name: weights @ values.mean(axis=0) for name, values in of_states.items()}


def _rankings(found: pd.DataFrame, draws: int, seed: int) -> np.ndarray:
    """How often the better of two states has the higher label: a mean over seeds, on all problems and on each resample
    of them [1 + draws]."""
    weights, columns = _columns(found, draws, seed)
    shares = columns["passes"] / columns["trials"]
    return np.mean([pair_ranking(*pair, weights) for pair in zip(columns["label"], shares, strict=True)], axis=0)
