"""Where the truth is known: what each method does to labels, values and rankings, measured.

Two places.  *Planted worlds* (`evidence.planted`) have a value for every state by construction, and a completer whose
bias can be set.  The *oracle* is real: many rollouts of the same prefixes estimate the value under the policy that
wrote them, and rollouts of a weaker policy show a real bias.  No such value is ever used in training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from dreamprm_lib.evidence.oracle import label_table
from dreamprm_lib.evidence.planted import BIASES, PlantedWorld, planted_world
from dreamprm_lib.evidence.statistics import mean_with_interval, pair_ranking, problem_weights, with_interval
from dreamprm_lib.label_correction import METHODS, Correction, Method, by_held_out_loss, correction_method
from dreamprm_lib.reward_model import fit_rows, folds_by_problem, within_problem_ranking
from dreamprm_lib.steps import StepTable

RAW_RIDGES = (0.001, 0.01, 0.1)  # candidates of the raw labels' head, chosen on those labels


# ------------------------------------------------------------------------------------------------- planted worlds


@dataclass(frozen=True)
class Trial:
    """A planted world, split: training rows, their true values [m], clean outcomes, and states that are held out, whose
    labels are their true values."""

    train: StepTable
    values: np.ndarray
    meta: StepTable
    held_out: StepTable


def split_world(
    world: PlantedWorld, rng: np.random.Generator, meta_size: int, train_size: int | None = None, leaky: bool = False
) -> Trial:
    """Of the states a quarter is held out, `meta_size` give one clean outcome each (at most two thirds of the others),
    and `train_size` of the rest (None: all) train on MC labels.

    `leaky` takes the clean outcomes from the states that are held out: the gain that one could fake.
    """
    order = rng.permutation(len(world.values))
    held_out, others = np.split(order, [len(order) // 4])
    meta_rows, train_rows = np.split(others, [min(meta_size, 2 * len(others) // 3)])
    train_rows = train_rows[:train_size]
    if leaky:
        meta_rows = held_out[: len(meta_rows)]

    def rows(chosen: np.ndarray, labels: np.ndarray, n: int, movable: bool) -> StepTable:
        size = len(chosen)
        return StepTable(world.features[chosen], labels, chosen.astype(str), np.full(size, movable), np.full(size, n))

    return Trial(
        rows(train_rows, world.labels[train_rows], world.rollouts, True),
        world.values[train_rows],
        rows(meta_rows, rng.binomial(1, world.values[meta_rows]).astype(float), 1, False),
        rows(held_out, world.values[held_out], 0, False),
    )


def compare(
    trial: Trial, rng: np.random.Generator, settings: Correction, methods: Mapping[str, Method] = METHODS
) -> list[dict]:
    """Every method on one world of known truth: rows with method, ranking (of held-out states, 0 to 1), label_mse (of
    the labels that the method ends with, or of its scores of the training states), value_mse (of its scores on held-out
    states).  The head's ridge is chosen on the raw labels.
    """
    _, ridge = by_held_out_loss(partial(fit_rows, loss=settings.loss), trial.train, RAW_RIDGES, 3, rng)
    settings, seed = replace(settings, ridge=ridge), int(rng.integers(2**32))
    found = []
    for name, method in methods.items():
        outcome = method(trial.train, trial.meta, settings, np.random.default_rng(seed))
        scores, values = outcome.head.scores(trial.held_out.states), trial.held_out.label
        errors = {"label_mse": outcome.labels_of(trial.train) - trial.values, "value_mse": scores - values}
        squares = {measure: float(np.mean(error**2)) for measure, error in errors.items()}
        found.append({"method": name, "ranking": pair_ranking(scores, values)[0]} | squares)
    return found


def planted_table(
    features: np.ndarray,
    rollouts: Sequence[int],
    meta_sizes: Sequence[int],
    seeds: int,
    settings: Correction,
    methods: Sequence[str] = tuple(METHODS),
    seed: int = 0,
) -> pd.DataFrame:
    """`compare` on `seeds` worlds for every bias, number of rollouts and size of the meta set.

    Columns: bias, rollouts, meta, seed, and those of the comparison.  Worlds are shared out among the processors.
    """
    chosen = {name: METHODS[name] for name in methods}

    def one(bias: str, n: int, size: int, number: int) -> list[dict]:
        world = planted_world(features, n, bias, np.random.default_rng([seed, number]))
        rng = np.random.default_rng([seed, number, 1])
        here = {"bias": bias, "rollouts": n, "meta": size, "seed": number}
        return [here | row for row in compare(split_world(world, rng, size), rng, settings, chosen)]

    return _in_parallel(one, list(product(BIASES, rollouts, meta_sizes, range(seeds))), "planted worlds")


# What an ablation changes: fields of `Correction`, or of the world (rollouts, meta_size, train_size, leaky).
ABLATIONS: dict[str, list[dict]] = {
    "clean outcomes": [{"meta_size": size} for size in (80, 320, 1280)],
    "prior λ": [{"prior": prior} for prior in (0.0, 0.003, 0.03, 0.3)],
    "upper learning rate": [{"meta_lr": rate} for rate in (0.01, 0.03, 0.06, 0.2)],
    "unrolled steps": [{"unroll": steps} for steps in (1, 2, 4)],
    "warm start": [{"warm_start": warm} for warm in (True, False)],
    "rollouts a label, 1,500 in all": [{"rollouts": n, "train_size": 1500 // n} for n in (1, 2, 4, 16)],
    "stopped early": [{"stopped": stopped} for stopped in (True, False)],
    "leaky outcomes": [{"leaky": leaky} for leaky in (False, True)],
}


def ablation_table(
    features: np.ndarray,
    seeds: int,
    settings: Correction,
    names: Sequence[str] = tuple(ABLATIONS),
    bias: str = "by state",
    seed: int = 0,
) -> pd.DataFrame:
    """Correction of labels with one thing changed at a time (`ABLATIONS`), on `seeds` worlds: columns ablation, value,
    seed, and those of `compare` for the methods `raw labels` and `corrected`.

    Where nothing else is said a label has 4 rollouts, 320 outcomes are clean, and `settings` hold.
    """

    def one(name: str, change: dict, number: int) -> list[dict]:
        size: dict[str, Any] = {"meta_size": 320, "train_size": None, "leaky": False}
        size |= {key: change[key] for key in size.keys() & change.keys()}
        here = replace(settings, **{key: change[key] for key in vars(settings).keys() & change.keys()})
        world = planted_world(features, change.get("rollouts", 4), bias, np.random.default_rng([seed, number]))
        rng = np.random.default_rng([seed, number, 1])
        corrected = correction_method("labels", (here.prior,), change.get("stopped", True))
        methods = {"raw labels": METHODS["raw labels"], "corrected": corrected}
        rows = compare(split_world(world, rng, **size), rng, here, methods)
        return [
            {"ablation": name, "value": _in_words(next(iter(change.values()))), "seed": number} | row for row in rows
        ]

    jobs = [(name, change, number) for name in names for change in ABLATIONS[name] for number in range(seeds)]
    return _in_parallel(one, jobs, "ablations")


def _in_words(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _in_parallel(work, jobs: Sequence[tuple], what: str) -> pd.DataFrame:
    """The rows of `work(*job)` for all jobs, in their order, by all processors."""
    found = Parallel(n_jobs=-1, return_as="generator")(delayed(work)(*job) for job in jobs)
    tables = map(pd.DataFrame, tqdm(found, total=len(jobs), desc=what, unit="world"))
    return pd.concat(tables, ignore_index=True)


# ------------------------------------------------------------------------------------------------- the oracle


def label_worth(
    ways: Mapping[str, tuple[StepTable, Method, Correction]],
    rows: np.ndarray,
    outcomes: np.ndarray,
    meta: StepTable,
    folds: int,
    seed: int = 0,
) -> pd.DataFrame:
    """What each kind of label is worth: beside the oracle, and to the reward model that learns from it.

    `ways` name a training table, a method and its settings; the others are compared with the first.  `outcomes` [rows,
    n] of rollouts that no label has seen tell the values of `rows` of the tables.  The held-out ranking is that of meta
    problems' programs (`within_problem_ranking`) by heads to which these problems taught nothing, fold by fold.
    Columns: method, and with `_low` and `_high` (95 % over problems) mse, gain, held_out and held_out_gain.
    """
    fold = folds_by_problem(meta.problem, folds, np.random.default_rng(seed))

    def one(table: StepTable, method: Method, settings: Correction) -> tuple[np.ndarray, np.ndarray]:
        logits = np.empty(len(meta))
        for k in np.unique(fold):
            head = method(table, meta.take(fold != k), settings, np.random.default_rng(seed)).head
            logits[fold == k] = head.logits(meta.states[fold == k])
        label = method(table, meta, settings, np.random.default_rng(seed)).labels_of(table)[rows]
        return label, np.array([*within_problem_ranking(logits, meta.label > 0.5, list(meta.problem)).values()])

    found = Parallel(n_jobs=-1)(delayed(one)(*way) for way in ways.values())
    owners = next(iter(ways.values()))[0].problem[rows]
    table = label_table({name: label for name, (label, _) in zip(ways, found, strict=True)}, owners, outcomes)
    for what, base in (("held_out", 0.0), ("held_out_gain", found[0][1])):
        table[[what, f"{what}_low", f"{what}_high"]] = [mean_with_interval(ranking - base) for _, ranking in found]
    measures = [
        f"{what}{end}" for what in ("mse", "gain", "held_out", "held_out_gain") for end in ("", "_low", "_high")
    ]
    return table[["method", *measures]]


# ------------------------------------------------------------------------------------------------- a real bias


def bias_table(
    problems: Sequence[str],
    outcomes: np.ndarray,
    by_weak: np.ndarray,
    traits: Mapping[str, Sequence],
    draws: int = 4000,
    seed: int = 0,
) -> pd.DataFrame:
    """How far the weaker policy passes less often than the one that wrote the prefixes, by kinds of prefix.

    `outcomes` say whether each rollout of the policy that wrote the prefixes passed [m, n] bool, and `by_weak` the same
    of the weaker policy [m, w]; `traits` name a group for each state.  Columns: trait, group, states, problems, value
    and weak (mean shares of passes), bias (weak - value), bias_low, bias_high (95 %, bootstrap over problems).
    """
    value, weak = outcomes.mean(axis=1), by_weak.mean(axis=1)
    rows = []
    for trait, groups in traits.items():
        for group in dict.fromkeys(sorted(groups)):
            mine = np.array([g == group for g in groups])
            names = [p for p, m in zip(problems, mine, strict=True) if m]
            drawn = problem_weights(names, draws, seed) @ (weak - value)[mine]
            bias, low, high = with_interval(drawn)
            rows.append(
                {"trait": trait, "group": str(group), "states": int(mine.sum()), "problems": len(set(names))}
                | {"value": value[mine].mean(), "weak": weak[mine].mean()}
                | {"bias": bias, "bias_low": low, "bias_high": high}
            )
    return pd.DataFrame(rows)


def bias_spread(
    problems: Sequence[str], outcomes: np.ndarray, by_weak: np.ndarray, draws: int = 4000, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """Is the weaker policy's bias a constant share of the value, or does it vary with the state?

    `share`: its passes to those of the policy itself.  `spread`: the standard deviation, between states, of what the
    share does not explain, without what binomial noise explains (0 if that is all).  Each with its 95 % bootstrap
    interval over problems.
    """
    value, weak = outcomes.mean(axis=1), by_weak.mean(axis=1)
    noise_of_value, noise_of_weak = (
        rate * (1 - rate) / (n - 1) for rate, n in ((value, outcomes.shape[1]), (weak, by_weak.shape[1]))
    )
    weights = problem_weights(list(problems), draws, seed)
    share = (weights @ weak) / (weights @ value)
    rest = weak - share[:, None] * value
    variance = (weights * (rest**2 - noise_of_weak - share[:, None] ** 2 * noise_of_value)).sum(axis=1)
    return {"share": with_interval(share), "spread": with_interval(np.sqrt(np.maximum(variance, 0)))}
