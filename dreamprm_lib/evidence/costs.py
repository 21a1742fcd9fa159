"""What work costs, in tokens, floating-point operations (FLOPs), runs of programs, seconds and dollars.

A model of P parameters spends 2 P FLOPs on a token that it reads or writes (Kaplan et al. 2020, arXiv 2001.08361,
section 2.1; so do Snell et al. 2024, arXiv 2408.03314, section 7), and `TRAINING` or `CORRECTION` times that where it
learns.  A prompt is read once for all samples of it.  What was spent once, on labels and training, is shared out over
`uses`: the problems on which the reward model will ever be used.

Each constant is defined here and nowhere else, with its source; every bill, plan and projection multiplies these.
Not counted: attention, whose share grows with the length; the search for backbone, layer and penalty; the fit of a
linear head, which is small beside one pass of its backbone.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dreamprm_lib.engine.policy.endpoint import EMBEDDED
from dreamprm_lib.engine.schema import nearest, row_of
from dreamprm_lib.engine.weights import WEIGHTS
from dreamprm_lib.errors import InputError
from dreamprm_lib.evidence.statistics import mean_with_interval

# ------------------------------------------------------------------------------------------------- the constants

POLICY = WEIGHTS[EMBEDDED].parameters
JUDGE = 89_474_304
"""The parameters that read a token in the reward model of the measurements: six layers of Qwen2.5-Coder-0.5B."""

TRAINING, CORRECTION = 2.25, 7.5
"""Passes that a token costs where LoRA trains on it, and where its label is learned too: 0.0045 and 0.015 core seconds
against 0.0020 for reading it (`benchmarks/growth.py`).  Training all weights would cost 3: LoRA spares the gradients of
the frozen ones."""

ROLLOUT_SHARE = 0.5
"""The part of a program that a rollout writes, assumed: a step is as likely to come early as late."""

PROMPT_TOKENS, REASONING_TOKENS = 900, 10_000
"""Assumed: what a policy reads (the statement, instructions and an example), and what a reasoning model thinks before
it answers."""


@dataclass(frozen=True)
class Machine:
    """What turns work into seconds and dollars.

    - `run`: seconds of one run of a program on one test.
    - `written`: tokens a second that its policy writes, many requests at once; memory bounds it more than arithmetic.
    - `reads`: FLOPs a second where a model reads texts, to score them or to learn from them.
    - `price`: dollars an hour.
    """

    run: float
    written: float
    reads: float
    price: float

    def __post_init__(self) -> None:
        if not all(value > 0 for value in vars(self).values()):
            raise InputError(f"{self}: every number of a machine must be above 0.")


CORE = Machine(run=0.0049, written=1 / 0.083, reads=2 * JUDGE / 0.0020, price=0.04)
"""One core of two, x86, November 2026.  `run` and `reads` are CPU time by `benchmarks/growth.py`: ten tests take 0.049
seconds, and `JUDGE` in float32 takes 0.0020 seconds a token.  `written` is older: the embedded policy by llama.cpp,
eight requests at once, two cores for 24 tokens a second.  `price` is assumed."""

GPU = Machine(run=CORE.run, written=2500, reads=3e14, price=2.5)
"""One GPU, assumed: no such machine was at hand.  It serves a policy whose tokens take about 3 billion parameters."""

MACHINES = {"core": CORE, "gpu": GPU}


def machine_of(name: str, **own: float) -> Machine:
    """One of `MACHINES`, with your own numbers for some of its fields."""
    if name not in MACHINES:
        raise InputError(f"There is no machine {name!r}{nearest(name, MACHINES)}.")
    return row_of(Machine, vars(MACHINES[name]) | own, f"machine {name}")


# ------------------------------------------------------------------------------------------------- bills

QUANTITIES = ("tokens", "flops", "runs", "seconds")


def bill(rows: Iterable[tuple], machine: Machine, names: Sequence[str] = ("part", "each")) -> pd.DataFrame:
    """Rows of (`names`, tokens read, tokens written, FLOPs a token, runs) as a table: the names and `QUANTITIES`."""
    table = pd.DataFrame(rows, columns=[*names, "read", "written", "flops", "runs"])
    seconds = table.read * table.flops / machine.reads + table.written / machine.written + table.runs * machine.run
    tokens = table.read + table.written
    return table.assign(tokens=tokens, flops=tokens * table.flops, seconds=seconds)[[*names, *QUANTITIES]]


REWARD_MODEL = ("programs", "prefixes", "rollouts", "training", "scoring")
PARTS: dict[str, tuple[str, ...]] = {  # what a method needs beside its candidates
    **dict.fromkeys(("random", "first", "shortest", "longest", "mean_logprob", "oracle"), ()),
    **dict.fromkeys(("consensus", "majority", "b4", "cluster sum of policy"), ("consensus",)),
    **dict.fromkeys(("cluster sum of prm_cof", "all three"), (*REWARD_MODEL, "consensus")),
    "orm": ("programs", "training", "scoring"),
    **dict.fromkeys(("tests_passed", "codet", "b4_tests", "consensus_written"), ("tests",)),
    **dict.fromkeys(("repaired", "oracle of repaired"), ("repairs",)),
}
ONE_IS_ENOUGH = ("random", "first")  # they pick without looking at a second candidate


def cost_of(costs: pd.DataFrame, method: str, n: int, uses: float, samples: int = 0) -> pd.Series:
    """`QUANTITIES` a problem, if a method picks among `n` candidates that ran so many samples first.

    In the bill `costs`, `each` says what a row is spent on: a `candidate`, a `problem`, or the `study`, whose rows are
    divided by `uses`.  A combination (`A + B`) needs the parts of both.  A method that neither `PARTS` nor the bill
    names is a reward model.
    """
    if uses <= 0:
        raise InputError(f"uses = {uses}: labels and training are shared out over at least one problem.")
    n = 1 if method in ONE_IS_ENOUGH and not samples else n
    own = {name: (name,) for name in costs.part} | PARTS
    parts = {"candidates", "samples"}.union(*(own.get(name, REWARD_MODEL) for name in method.split(" + ")))
    mine = costs[costs.part.isin(parts)]
    times = mine.each.map({"study": 1 / uses, "problem": 1, "candidate": n})
    times = times.where(mine.part != "samples", n * samples)
    return mine[list(QUANTITIES)].mul(times, axis=0).sum()


def with_replies(
    costs: pd.DataFrame, part: str, each: str, replies: float, tokens: float, runs: float = 0
) -> pd.DataFrame:
    """The bill with one more part: for each `problem` or `candidate`, so many `replies` of so many `tokens`, and runs.

    A token costs what one of a candidate does, and the prompt of a reply is as long as a candidate's."""
    prompt, candidate, run = (
        costs[(costs.part == name) & (costs.each == of)][list(QUANTITIES)].sum()
        for name, of in (("candidates", "problem"), ("candidates", "candidate"), ("samples", "candidate"))
    )
    added = replies * (prompt + tokens / candidate.tokens * candidate) + runs * run
    return pd.concat([costs, pd.DataFrame([{"part": part, "each": each} | added.to_dict()])], ignore_index=True)


def with_rollouts(costs: pd.DataFrame, share: float) -> pd.DataFrame:
    """The bill for a share of the rollouts: they write and run in proportion; their prefixes are read all the same."""
    mine = costs.part == "rollouts"
    return costs.assign(**{q: costs[q].where(~mine, costs[q] * share) for q in QUANTITIES})


# ------------------------------------------------------------------------------------------------- what it buys

BestOf = Callable[[str, int], np.ndarray]  # of a method with so many candidates: best-of-N [problems]
CostOf = Callable[..., pd.Series]  # of the same: `cost_of` a problem
Outcome = tuple[np.ndarray, pd.Series]  # both


def cost_curve(curve: pd.DataFrame, cost: CostOf) -> pd.DataFrame:
    """A table with columns method, samples and n, and beside each row the `QUANTITIES` that it costs a problem; a
    method of `ONE_IS_ENOUGH` that runs no sample keeps its first row alone."""
    more = (curve.samples > 0) | ~curve.method.isin(ONE_IS_ENOUGH)
    curve = curve[more | (curve.n == 1)].reset_index(drop=True)
    return curve.join(curve.apply(lambda row: cost(row.method, row.n, samples=row.samples), axis=1))


def at_equal_cost(
    best_of: BestOf, cost: CostOf, methods: Sequence[str], reference: str, most: int, draws: int = 4000, seed: int = 0
) -> pd.DataFrame:
    """Every method with as many candidates, up to `most`, as the FLOPs of `reference` with `most` pay for: columns
    method, n, pass_rate, difference (to the reference, paired), ci_low, ci_high (95 %).  A method that can't pay for
    one candidate has n = 0 and no rates."""
    budget, base = cost(reference, most).flops * (1 + 1e-9), best_of(reference, most)
    rows = []
    for method in methods:
        n = max((n for n in range(1, most + 1) if cost(method, n).flops <= budget), default=0)
        values = best_of(method, n) if n else np.full(len(base), np.nan)
        rows.append((method, n, values.mean(), *mean_with_interval(values - base, draws, seed)))
    return pd.DataFrame(rows, columns=["method", "n", "pass_rate", "difference", "ci_low", "ci_high"])


def purchase(bought: str, change: str, before: Outcome, after: Outcome, draws: int = 4000, seed: int = 0) -> dict:
    """What a change gains and costs: a row with bought, change, gain, ci_low, ci_high (95 %, paired bootstrap) and the
    added `QUANTITIES` a problem."""
    gain, low, high = mean_with_interval(after[0] - before[0], draws, seed)
    row = {"bought": bought, "change": change, "gain": gain, "ci_low": low, "ci_high": high}
    return row | (after[1] - before[1]).to_dict()


def answers(purchases: pd.DataFrame) -> list[str]:
    """One sentence for each row of `purchase`, and one that names what may be bought."""
    said = []
    for row in purchases.itertuples():
        points = f"{100 * row.gain:+.1f} points ({100 * row.ci_low:+.1f} to {100 * row.ci_high:+.1f})"
        sure = "a gain" if row.ci_low > 0 else "a loss" if row.ci_high < 0 else "cannot be told apart from no gain"
        cost = f"{row.tokens:+,.0f} tokens, {row.flops / 1e12:+.2f} TFLOPs, {row.seconds:+.1f} s a problem"
        said.append(f"{row.bought}, {row.change}: {sure}, {points}, for {cost}.")
    gains = purchases[purchases.ci_low > 0].assign(rate=lambda t: t.gain / t.seconds.clip(lower=1e-9))
    if gains.empty:
        return [*said, "No interval lies above no gain on these problems."]
    named = "; ".join(f"{r.bought}, {r.change}" for r in gains.sort_values("rate", ascending=False).itertuples())
    ranked = f"Of {len(purchases)} offers the intervals of {len(gains)} lie above no gain (unadjusted)"
    return [*said, f"{ranked}, in order of what a second buys: {named}."]


# ------------------------------------------------------------------------------------------------- growth


@dataclass(frozen=True)
class Scale:
    """How much there is to do.

    To learn, `programs` of each of `problems` are written and labelled by `rollouts` of each step but the last, and a
    reward model trains on them for `epochs`; to select, `candidates` of each of `test_problems` are written, graded
    and scored.  The sizes of texts are assumptions for problems like LiveCodeBench's; a program has `tests`.
    """

    problems: int = 0
    programs: float = 0
    rollouts: float = 16
    test_problems: int = 0
    candidates: float = 0
    epochs: int = 5
    steps: float = 3.0
    program_tokens: int = 300
    statement_tokens: int = 500
    tests: int = 10


def growth(scale: Scale, machine: Machine = CORE) -> pd.DataFrame:
    """What a scale takes of each kind of work with `POLICY` and `JUDGE`: columns work, `QUANTITIES`, hours.

    Statements are read once for all programs of a problem; correction is one more training, whose labels are learned.
    """
    learn, select = scale.problems * scale.programs, scale.test_problems * scale.candidates
    rollouts = learn * (scale.steps - 1) * scale.rollouts
    length, statement, policy, judge = scale.program_tokens, scale.statement_tokens, 2 * POLICY, 2 * JUDGE
    lessons = (scale.problems * statement + learn * length) * scale.epochs
    rows = [
        ("write programs", 0, learn * length, policy, 0),
        ("write rollouts", 0, rollouts * length * ROLLOUT_SHARE, policy, 0),
        ("write candidates", 0, select * length, policy, 0),
        ("grade programs", 0, 0, 0, learn * scale.tests),
        ("grade rollouts", 0, 0, 0, rollouts * scale.tests),
        ("grade candidates", 0, 0, 0, select * scale.tests),
        ("score candidates", scale.test_problems * statement + select * length, 0, judge, 0),
        ("train", lessons, 0, judge * TRAINING, 0),
        ("correct labels", lessons, 0, judge * CORRECTION, 0),
    ]
    table = bill(rows, machine, ["work"]).query("seconds > 0").reset_index(drop=True)
    return table.assign(hours=table.seconds / 3600)
