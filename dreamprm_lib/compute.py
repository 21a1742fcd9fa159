"""What a study costs, in tokens, floating-point operations (FLOPs), program runs and seconds; best-of-N at equal cost.

Conventions.  A token costs 2 FLOPs a parameter that multiplies it, and 3 times that where the model trains (forward and
backward; Kaplan et al. 2020, arXiv 2001.08361, section 2.1; so do Snell et al. 2024, arXiv 2408.03314, section 7).  A
prompt is read once for all samples of it.  What was spent once, on labels and training, is shared out over `uses`: the
problems on which the reward model will ever be used.

Not counted: attention, whose share grows with the length; the search for backbone, layer and penalty; the fit of a
linear head, which is small beside one pass of its backbone.  Prompts are measured by the reward model's tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dreamprm_lib.artifacts import Program, StepLabel
from dreamprm_lib.chain_of_functions import cof_prompt
from dreamprm_lib.engine.backbone import Tree, open_tokenizer, parameters_read
from dreamprm_lib.engine.consensus import INPUTS
from dreamprm_lib.engine.policy import Prompt, render_chatml
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.engine.statistics import interval, resamples
from dreamprm_lib.errors import InputError
from dreamprm_lib.monte_carlo_labels import rollout_prompt
from dreamprm_lib.reward_model import RewardModel
from dreamprm_lib.test_time_scaling import Pool, powers_of_two

QUANTITIES = ("tokens", "flops", "runs", "seconds")
REWARD_MODEL = ("programs", "prefixes", "rollouts", "training", "scoring")
PARTS: dict[str, tuple[str, ...]] = {  # of a method beside its candidates; any other one is a reward model
    "random": (),
    "first": (),
    "shortest": (),
    "longest": (),
    "self_certainty": (),
    "oracle": (),
    "samples": ("samples",),
    "public_samples": ("samples",),
    "consensus": ("consensus",),
    "orm": ("programs", "training", "scoring"),
}
ONE_IS_ENOUGH = ("random", "first")  # they pick without looking at a second candidate


@dataclass(frozen=True)
class Speed:
    """What turns work into seconds: FLOPs a second of the machine, and seconds of one run of a program.

    Writing is bound by memory rather than arithmetic, so that a single stream is slower than this says.
    """

    flops_per_second: float
    run_seconds: float

    def __post_init__(self) -> None:
        if not (self.flops_per_second > 0 and self.run_seconds >= 0):
            raise InputError(f"{self}: FLOPs a second must be above 0, and the seconds of a run at least 0.")


# ------------------------------------------------------------------------------------------------- the bill


def cost_table(
    model: RewardModel,
    policy_parameters: int,
    speed: Speed,
    problems: Sequence[Problem],
    solutions: Sequence[Program],
    labels: Sequence[StepLabel],
    candidates: Sequence[Program],
) -> pd.DataFrame:
    """What each part of a study costs: columns part, each (`study`, `problem` or `candidate`), tokens, flops, runs,
    seconds, estimated.

    `programs` and `rollouts` are written by the policy and graded (a run for each test, at most), the latter after it
    has read their `prefixes`; `training` reads the programs with the backbone of `model`; `candidates`, `scoring`,
    `samples` and `consensus` are means over the test problems.  `estimated` marks rollouts whose tokens were not kept.
    """
    by_id = {p.id: p for p in problems}
    test = [by_id[name] for name in dict.fromkeys(c.problem for c in candidates)]
    learned = [by_id[name] for name in dict.fromkeys(p.problem for p in solutions)]
    rolled = list({(x.problem, x.prefix): x for x in labels if not x.clean}.values())  # equal prefixes are asked once
    epochs = len(model.about.get("losses", []))  # 0: the backbone was frozen, and read once
    reading = 2 * parameters_read(model.backbone.name, max(model.backbone.layers))
    writing = 2 * policy_parameters

    programs = _prompt_tokens(model, map(cof_prompt, learned)) + sum(p.tokens for p in solutions)
    graded = sum(len(by_id[p.problem].tests) for p in solutions)
    prefixes = _prompt_tokens(model, (rollout_prompt(by_id[x.problem], x.prefix) for x in rolled))
    rollouts, estimated = rollout_tokens(rolled, solutions)
    regraded = sum(x.rollouts * len(by_id[x.problem].tests) for x in rolled)
    read = sum(tree.tokens for tree in _trees(model, learned, solutions)) * max(epochs, 1)
    asked = _prompt_tokens(model, map(cof_prompt, test)) / len(test)
    written = sum(c.tokens for c in candidates) / len(candidates)
    scored = _trees(model, test, candidates)
    root = sum(len(tree.root) for tree in scored)
    branch = sum(tree.tokens for tree in scored) - root
    shown = sum(len(p.samples) for p in test) / len(test)
    rows = [
        ("programs", "study", programs, writing, graded),
        ("prefixes", "study", prefixes, writing, 0),
        ("rollouts", "study", rollouts, writing, regraded),
        ("training", "study", read, 3 * reading if epochs else reading, 0),
        ("candidates", "problem", asked, writing, 0),
        ("candidates", "candidate", written, writing, 0),
        ("scoring", "problem", root / len(test), reading, 0),
        ("scoring", "candidate", branch / len(candidates), reading, 0),
        ("samples", "candidate", 0, 0, shown),
        ("consensus", "candidate", 0, 0, INPUTS),
    ]
    table = pd.DataFrame(rows, columns=["part", "each", "tokens", "flops", "runs"])
    table["flops"] *= table.tokens
    table["seconds"] = table.flops / speed.flops_per_second + table.runs * speed.run_seconds
    return table.assign(estimated=(table.part == "rollouts") & estimated)


def _prompt_tokens(model: RewardModel, prompts: Iterable[Prompt]) -> int:
    tokenizer = open_tokenizer(model.backbone.name)
    return sum(len(tokenizer(render_chatml(p), add_special_tokens=False).input_ids) for p in prompts)


def _trees(model: RewardModel, problems: Sequence[Problem], programs: Sequence[Program]) -> list[Tree]:
    tokenizer, template = open_tokenizer(model.backbone.name), model.backbone.template
    steps = {p.id: [c.steps for c in programs if c.problem == p.id] for p in problems}
    return [Tree.of(tokenizer, template.root(p), template.after, steps[p.id]) for p in problems]


def rollout_tokens(labels: Sequence[StepLabel], solutions: Sequence[Program]) -> tuple[float, bool]:
    """How many tokens the rollouts of these labels wrote, and whether that is an estimate.

    Where a label does not tell, a rollout is taken to be as long as what its own program wrote behind the prefix.
    """
    programs = {(p.problem, p.sample): p for p in solutions}
    total, estimated = 0.0, False
    for x in labels:
        if x.tokens is None:
            own = programs[x.problem, x.sample]
            total += x.rollouts * own.tokens * (1 - len(x.prefix) / len(own.code))
            estimated = True
        else:
            total += x.tokens
    return total, estimated


def with_rollouts(costs: pd.DataFrame, share: float) -> pd.DataFrame:
    """The bill for a share of the rollouts: they write and run in proportion; their prefixes are read all the same."""
    mine = costs.part == "rollouts"
    return costs.assign(**{q: costs[q].where(~mine, costs[q] * share) for q in QUANTITIES})


def parts_of(method: str) -> list[str]:
    """The parts of `cost_table` that a method needs; `samples, prm_cof` and `prm_cof x consensus` need both's."""
    found = ["candidates"]
    for name in re.split(", | x ", method):
        found += PARTS.get(name, REWARD_MODEL)
    return list(dict.fromkeys(found))


def cost_of(costs: pd.DataFrame, method: str, n: int, uses: float) -> pd.Series:
    """`QUANTITIES` a problem, if a method picks among `n` candidates; what was spent once is divided by `uses`."""
    if uses <= 0:
        raise InputError(f"uses = {uses}: labels and training are shared out over at least one problem.")
    n = 1 if method in ONE_IS_ENOUGH else n
    mine = costs[costs.part.isin(parts_of(method))]
    times = mine.each.map({"study": 1 / uses, "problem": 1, "candidate": n})
    return mine[list(QUANTITIES)].mul(times, axis=0).sum()


# ------------------------------------------------------------------------------------------------- what it buys


def cost_curve(
    pool: Pool, costs: pd.DataFrame, methods: Sequence[str], uses: float, draws: int = 4000, seed: int = 0
) -> pd.DataFrame:
    """Best-of-N at N = 1, 2, 4, … against what a problem costs: columns method, n, pass_rate, ci_low, ci_high (95 %),
    and `QUANTITIES` a problem."""
    counts = resamples(len(pool.problems), draws, np.random.default_rng(seed))
    rows = []
    for method in methods:
        for n in [1] if method in ONE_IS_ENOUGH else powers_of_two(pool.size):
            values = pool.best_of(method, n)
            low, high = interval(values, counts)
            rates = {"method": method, "n": n, "pass_rate": values.mean(), "ci_low": low, "ci_high": high}
            rows.append(rates | cost_of(costs, method, n, uses).to_dict())
    return pd.DataFrame(rows)


def affordable(costs: pd.DataFrame, method: str, budget: float, uses: float, most: int, quantity: str = "flops") -> int:
    """The most candidates, up to `most`, for which a method stays within a budget a problem; 0: not even one."""
    paid = (n for n in range(1, most + 1) if cost_of(costs, method, n, uses)[quantity] <= budget * (1 + 1e-9))
    return max(paid, default=0)


def at_equal_cost(
    pool: Pool,
    costs: pd.DataFrame,
    methods: Sequence[str],
    reference: str,
    uses: float,
    quantity: str = "flops",
    draws: int = 4000,
    seed: int = 0,
) -> pd.DataFrame:
    """Every method with as many candidates as the budget of `reference` at the pool's size pays for: columns method, n,
    pass_rate, difference (to the reference, paired), ci_low, ci_high (95 %).  A method that can't pay for one candidate
    has n = 0 and no rates."""
    counts = resamples(len(pool.problems), draws, np.random.default_rng(seed))
    budget = cost_of(costs, reference, pool.size, uses)[quantity]
    base = pool.best_of(reference, pool.size)
    rows = []
    for method in methods:
        n = affordable(costs, method, budget, uses, pool.size, quantity)
        values = pool.best_of(method, n) if n else np.full(len(base), np.nan)
        low, high = interval(values - base, counts)
        rates = {"pass_rate": values.mean(), "difference": (values - base).mean(), "ci_low": low, "ci_high": high}
        rows.append({"method": method, "n": n} | rates)
    return pd.DataFrame(rows)


def purchase(
    bought: str,
    change: str,
    before: tuple[np.ndarray, pd.Series],
    after: tuple[np.ndarray, pd.Series],
    draws: int = 4000,
    seed: int = 0,
) -> dict:
    """What a change gains and costs: a row with bought, change, gain, ci_low, ci_high (95 %, paired bootstrap) and the
    added `QUANTITIES` a problem.  `before` and `after` are best-of-N [problems] and the cost of a problem."""
    gain = after[0] - before[0]
    low, high = interval(gain, resamples(len(gain), draws, np.random.default_rng(seed)))
    row = {"bought": bought, "change": change, "gain": gain.mean(), "ci_low": low, "ci_high": high}
    return row | (after[1] - before[1]).to_dict()


def answers(purchases: pd.DataFrame) -> list[str]:
    """One sentence for each row of `purchase`, and one that names what may be bought."""
    said = []
    for row in purchases.itertuples():
        points = f"{100 * row.gain:+.1f} points ({100 * row.ci_low:+.1f} to {100 * row.ci_high:+.1f})"
        sure = "a gain" if row.ci_low > 0 else "a loss" if row.ci_high < 0 else "cannot be told apart from no gain"
        cost = f"{row.tokens:+,.0f} tokens, {row.flops / 1e12:+.2f} TFLOPs, {row.seconds:+.1f} s a problem"
        said.append(f"{row.bought}, {row.change}: {sure}, {points}, for {cost}.")
    surely = purchases[purchases.ci_low > 0].assign(rate=lambda t: t.gain / t.seconds.clip(lower=1e-9))
    if surely.empty:
        return [*said, "No interval lies above no gain on these problems."]
    named = [
        f"{r.bought}, {r.change} ({100 * r.gain:+.1f} points for {r.seconds:+.1f} s a problem)"
        for r in surely.sort_values("rate", ascending=False).itertuples()
    ]
    ranked = f"Of {len(purchases)} offers the intervals of {len(surely)} lie above no gain (unadjusted), "
    return [*said, f"{ranked}in order of what a second buys: {'; '.join(named)}."]
