"""Monte-Carlo (MC) labels: how often the policy finishes a prefix to a right program.

The label of step *k* is the share of *n* completions of prefix *k* that pass all tests: an estimate of the prefix's
value under the policy, with binomial noise.  The last prefix is the whole program; its label is the program's own
verdict and is *clean* (DreamPRM-Code, section 3.2).

What else is known of a value makes a better estimate of it than c/n: the program's own verdict, the neighbouring steps,
and the problem's other programs.  `posterior_labels` puts them together (the model: `evidence.step_values`).

A chat model may answer a prefix with another program.  Such a reply says nothing about the prefix and is not counted.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd

from dreamprm_lib.chain_of_functions import Batch, code_blocks, cof_prompt
from dreamprm_lib.engine.policy.policy import Policy, Prompt
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.errors import InputError, PolicyError
from dreamprm_lib.evidence.step_values import VALUES, Chains, Posterior, value_posterior
from dreamprm_lib.study.rows import OracleState, Program, StepLabel

log = logging.getLogger(__name__)


def rollout_prompt(problem: Problem, prefix: str) -> Prompt:
    """The prompt that the program was written from, its reply opened with the prefix."""
    return replace(cof_prompt(problem), prefill=f"```python\n{prefix}")


def continued(prefix: str, reply: str) -> str | None:
    """The program that a reply makes of a prefix; None if the reply is another program.

    A block of the reply continues the prefix if it begins with all of it, or with its last lines: then the two are
    joined where they overlap.  Blank lines and trailing blanks do not matter.
    """
    written = [line.rstrip() for line in prefix.split("\n") if line.strip()]
    for code in code_blocks(reply):
        lines = code.split("\n")
        filled = [k for k, line in enumerate(lines) if line.strip()]
        for overlap in range(min(len(written), len(filled)), 0, -1):
            if [lines[k].rstrip() for k in filled[:overlap]] == written[-overlap:]:
                rest = "\n".join(lines[filled[overlap - 1] + 1 :])
                return code if overlap == len(written) else prefix + rest.lstrip("\n")
    return None


def requests(
    train: Sequence[Problem],
    programs: Sequence[Program],
    rollouts: int,
    rolled: int | None,
    oracle_states: int,
    oracle_rollouts: int,
    weak_rollouts: int,
    temperature: float,
    labels: Sequence[StepLabel] | None = None,
    **_others: object,
) -> list[Batch]:
    """All that chapter 2 asks of its policies, by the names of its parameters; others are passed over.

    Three batches: the rollouts of each intermediate step, and those that the oracle adds to its states, by the policy
    and by the weaker one.  The oracle takes the first of the steps `from_rollouts`: without `labels` all are thought to
    have a label.
    """
    by_id = {p.id: p for p in train}
    in_turn = sorted(programs, key=lambda p: p.sample)
    states = [(p.problem, prefix) for p in in_turn for prefix in unfinished(p, rolled) if p.problem in by_id]
    judged = states if labels is None else [(x.problem, x.prefix) for x in from_rollouts(labels)]
    judged = judged[:oracle_states]

    def batch(what: str, states: Sequence[tuple[str, str]], samples: int, policy: str, known: int = 0) -> Batch:
        prompts = [rollout_prompt(by_id[problem], prefix) for problem, prefix in states]
        return Batch(what, [by_id[problem] for problem, _ in states], prompts, samples, temperature, policy, known)

    return [
        batch("rollouts", states, rollouts, "policy"),
        batch("oracle", judged, oracle_rollouts, "policy", known=rollouts),
        batch("oracle, weaker", judged, weak_rollouts, "weak_policy"),
    ]


def unfinished(program: Program, rolled: int | None = None) -> list[str]:
    """The prefixes of a program that are rolled out: all but the last, or none if its sample number is not below
    `rolled`."""
    return program.prefixes[:-1] if rolled is None or program.sample < rolled else []


def from_rollouts(labels: Sequence[StepLabel]) -> list[StepLabel]:
    """The labels that rollouts gave: those of all first programs, then those of the second ones, and so on."""
    return sorted((x for x in labels if not x.clean), key=lambda x: x.sample)


def label_steps(
    policy: Policy,
    sandbox: Sandbox,
    problems: Sequence[Problem],
    programs: Sequence[Program],
    n: int,
    temperature: float = 0.8,
    rolled: int | None = None,
) -> list[StepLabel]:
    """A label for every step of every program, in their order: `n` graded rollouts for each step but the last.

    Of a program whose sample number is `rolled` or higher, the last step alone is labelled, which costs nothing.  A
    step has no label if none of its rollouts is counted.
    """
    states = [(program.problem, prefix) for program in programs for prefix in unfinished(program, rolled)]
    graded = zip(*graded_rollouts(policy, sandbox, problems, states, n, temperature), strict=True)
    labels = []
    for program in programs:
        own, restarted = (program.problem, program.sample), 0
        for step, (prefix, (row, tokens)) in enumerate(zip(unfinished(program, rolled), graded, strict=False)):
            passes, counted = int(np.nansum(row)), int(np.isfinite(row).sum())
            restarted += n - counted
            if counted:
                share = passes / counted
                labels.append(StepLabel(*own, step, prefix, counted, passes, share, False, int(tokens.sum())))
        if program.steps:
            last, passes = len(program.steps) - 1, int(program.passed)
            whole = program.prefixes[last]
            labels.append(StepLabel(*own, last, whole, 1, passes, float(passes), True, 0, restarted))
    return labels


def graded_rollouts(
    policy: Policy,
    sandbox: Sandbox,
    problems: Sequence[Problem],
    states: Sequence[tuple[str, str]],
    n: int,
    temperature: float = 0.8,
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each of `n` rollouts of each state (problem's id, prefix) passes all tests, as 1 or 0, and NaN for one
    that is another program: [states, n]; and the tokens that it wrote: int [states, n]."""
    by_id = {p.id: p for p in problems}
    replies = policy.sample([rollout_prompt(by_id[p], prefix) for p, prefix in states], n, temperature=temperature)
    rollouts = [
        (by_id[problem], continued(prefix, reply.text))
        for (problem, prefix), row in zip(states, replies, strict=True)
        for reply in row
    ]
    verdicts = iter(sandbox.grade([(problem, code) for problem, code in rollouts if code], progress=True))
    outcomes = np.array([float(next(verdicts).passed) if code else np.nan for _, code in rollouts])
    if restarted := int(np.isnan(outcomes).sum()):
        log.warning("%d of %d rollouts began another program and are not counted", restarted, len(rollouts))
    tokens = np.array([reply.tokens for row in replies for reply in row], int)
    return outcomes.reshape(len(states), n), tokens.reshape(len(states), n)


def oracle_states(
    policy: Policy,
    weaker: Policy,
    sandbox: Sandbox,
    problems: Sequence[Problem],
    labels: Sequence[StepLabel],
    rollouts: tuple[int, int],
    temperature: float = 0.8,
) -> list[OracleState]:
    """Each labelled prefix finished so many times, by the policy that wrote it and by a weaker one.

    `rollouts` are the numbers for the two; the first rollouts are those that gave the label.  A state is left out if
    less than half of its rollouts by either are counted; the others are cut to the same number of rollouts.  Raises
    `PolicyError` if no state remains.
    """
    states = [(x.problem, x.prefix) for x in labels]
    both = [
        graded_rollouts(model, sandbox, problems, states, n, temperature)[0]
        for model, n in zip((policy, weaker), rollouts, strict=True)
    ]
    enough = np.all([2 * np.isfinite(rows).sum(axis=1) >= rows.shape[1] for rows in both], axis=0)
    if states and not enough.any():
        raise PolicyError(
            "Most replies begin another program instead of continuing the one that was begun, so that no step can be "
            "judged by them. Ask a model whose replies can be opened with a prefix (`prefill: true`)."
        )
    own, other = ([row[np.isfinite(row)].astype(int).tolist() for row in rows[enough]] for rows in both)
    width, other_width = (min(map(len, rows), default=0) for rows in (own, other))
    kept = [x for x, is_kept in zip(labels, enough, strict=True) if is_kept]
    return [
        OracleState(x.problem, x.sample, x.step, x.prefix, outcomes[:width], weak[:other_width])
        for x, outcomes, weak in zip(kept, own, other, strict=True)
    ]


def thinned_labels(labels: Sequence[StepLabel], n: int, rng: np.random.Generator) -> list[StepLabel]:
    """The labels as `n` of the recorded rollouts would have given them, drawn at random; with 0 those of
    intermediate steps are dropped.

    A label from `n` rollouts or fewer, and a clean one, stays as it is; how many tokens fewer rollouts
    would have written is not known.
    """
    thinned = []
    for x in labels:
        if x.clean or x.rollouts <= n:
            thinned.append(x)
        elif n:
            passes = int(rng.hypergeometric(x.passes, x.rollouts - x.passes, n))
            thinned.append(replace(x, rollouts=n, passes=passes, label=passes / n, tokens=None))
    return thinned


def resampled_labels(labels: Sequence[StepLabel], rng: np.random.Generator) -> list[StepLabel]:
    """The labels of a bootstrap resample of their problems: all of a problem's labels, as often as it is drawn."""
    of_problem: dict[str, list[StepLabel]] = {}
    for x in labels:
        of_problem.setdefault(x.problem, []).append(x)
    return [x for name in rng.choice(list(of_problem), len(of_problem)) for x in of_problem[name]]


# ------------------------------------------------------------------------------------------------- posterior labels


def posterior_labels(labels: Sequence[StepLabel], verdicts: bool = True) -> Posterior:
    """What is known of each label's value, from the rollouts and verdicts of all programs of its problem.

    `labels` are those of the training problems, by one completer; the model's four numbers are fitted to them alone.  A
    program's own verdict is one more fair draw of each of its prefixes if the completer wrote it, with the same
    settings, and it was not chosen by its outcome: say `verdicts=False` where that does not hold.  A clean label is its
    verdict.  Raises `InputError` if a step is labelled twice.
    """
    table = pd.DataFrame([vars(x) for x in labels])
    if (double := table[table.duplicated(["problem", "sample", "step"])]).size:
        x = double.iloc[0]
        raise InputError(
            f"Step {x.step} of program {x['sample']} of {x.problem} has two labels, but each step must have one. "
            "Estimate first and resample afterwards, or give the programs different sample numbers."
        )
    programs = table.groupby(["problem", "sample"], sort=False)
    program, step, clean = programs.ngroup().to_numpy(), table.step.to_numpy(), table.clean.to_numpy()
    passes, rollouts = np.zeros((2, len(programs), step[~clean].max(initial=0) + 1), int)
    passes[program[~clean], step[~clean]] = table.passes[~clean]
    rollouts[program[~clean], step[~clean]] = table.rollouts[~clean]
    known = np.full(len(programs), np.nan)
    if verdicts:
        known[program[clean]] = table.passes[clean]
    found = value_posterior(Chains(passes, rollouts, known, pd.factorize(programs.problem.first())[0]))

    weights = np.empty((len(labels), len(VALUES)))
    weights[clean] = VALUES == table.passes[clean].to_numpy()[:, None]
    weights[~clean] = found[program[~clean], step[~clean]]
    return Posterior(weights)


def with_posterior(labels: Sequence[StepLabel], verdicts: bool = True) -> list[StepLabel]:
    """The labels, each with the mean of `posterior_labels`."""
    means = posterior_labels(labels, verdicts).mean
    return [replace(x, posterior=float(mean)) for x, mean in zip(labels, means, strict=True)]


def oracle_draw(
    labels: Sequence[StepLabel], oracle: Sequence[OracleState], n: int, rng: np.random.Generator
) -> tuple[list[StepLabel], np.ndarray, np.ndarray]:
    """Each oracle state's label from `n` of its rollouts, drawn at random, and the others kept apart to judge it by:
    all labels, the places of the oracle's states among them, and the outcomes of the others [states, others].

    The other labels from rollouts are thinned to as many.  With 0 an oracle state stays, without a rollout.  Raises
    `InputError` if less than two rollouts would be left to the oracle.
    """
    outcomes = rng.permuted(np.array([x.outcomes for x in oracle]), axis=1)
    if not 0 <= n <= outcomes.shape[1] - 2:
        raise InputError(
            f"{n} of the oracle's {outcomes.shape[1]} rollouts cannot give the labels: at least two must remain to "
            "judge them by. Ask for fewer."
        )
    drawn = {(x.problem, x.sample, x.step): row for x, row in zip(oracle, outcomes, strict=True)}
    rows: list[StepLabel] = []
    places = {}
    for x in labels:
        if (key := (x.problem, x.sample, x.step)) in drawn:
            places[key] = len(rows)
            passes = int(drawn[key][:n].sum())
            rows.append(replace(x, rollouts=n, passes=passes, label=passes / n if n else np.nan))
        else:
            rows += thinned_labels([x], n, rng)
    return rows, np.array([places[key] for key in drawn]), outcomes[:, n:]


def beside_oracle(
    methods: Mapping[str, Callable[[list[StepLabel]], np.ndarray | Posterior]],
    labels: Sequence[StepLabel],
    oracle: Sequence[OracleState],
    rollouts: Sequence[int] = (1, 2, 4, 8),
    draws: int = 8,
    seed: int = 0,
) -> pd.DataFrame:
    """What each method makes of few of the oracle's rollouts, beside what the others tell: rows of
    `evidence.oracle.oracle_table`.

    `methods` make an estimate for each label out of all labels; all methods get the same draws.  Columns: rollouts,
    seed, method, problem, label, passes and trials (of the oracle), and `coverage` of a method that gives a posterior
    (`Posterior.coverage` of 90 %; NaN of the others).
    """
    tables = []
    for n, k in product(rollouts, range(draws)):
        few, states, others = oracle_draw(labels, oracle, n, np.random.default_rng([seed, n, k]))
        told = {"passes": others.sum(axis=1), "trials": others.shape[1]}
        for name, method in methods.items():
            found, coverage = method(few), np.full(len(oracle), np.nan)
            if isinstance(found, Posterior):
                coverage = Posterior(found.weights[states]).coverage(told["passes"], others.shape[1])
                found = found.mean
            columns = {"problem": [x.problem for x in oracle], "label": found[states], "coverage": coverage}
            tables.append(pd.DataFrame({"rollouts": n, "seed": k, "method": name} | columns | told))
    return pd.concat(tables, ignore_index=True)


# ------------------------------------------------------------------------------------------------- allocation


def verdict_priors(labels: Sequence[StepLabel], oracle: Sequence[OracleState]) -> tuple[np.ndarray, np.ndarray]:
    """What the verdicts alone say of the oracle's states, before any rollout: a Beta distribution each, (a, b)
    [states], with the mean and the variance of the posterior."""
    none, states, _ = oracle_draw(labels, oracle, 0, np.random.default_rng(0))
    found = Posterior(posterior_labels(none).weights[states])
    draws = found.mean * (1 - found.mean) / found.variance - 1  # the variance of a Beta is m (1 - m) / (a + b + 1)
    return found.mean * draws, (1 - found.mean) * draws


def allocate(
    a: np.ndarray, b: np.ndarray, outcomes: np.ndarray, budgets: Sequence[int], even: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Passes and rollouts of each state [budgets, orders, states], when so many rollouts are spent in all.

    One rollout after the other goes to the state whose posterior variance falls most by one more: that of Beta(a, b)
    falls by m (1 - m) / (a + b + 1)², m being its mean, on average over what the rollout may show.  Or, with `even`, to
    the state that has had the fewest.  `a` and `b` [states] are the priors; `outcomes` [orders, states, most] the
    recorded rollouts, 1 or 0, in the order in which a state gets them.  Raises `InputError` if there are too few.
    """
    orders, states, most = outcomes.shape
    if max(budgets) > states * most:
        raise InputError(f"{max(budgets)} rollouts cannot be spent: of {states} states, {most} each are recorded.")
    passes, rollouts = np.zeros((2, orders, states), int)
    seen, every = {}, np.arange(orders)
    for spent in range(max(budgets) + 1):
        seen[spent] = passes.copy(), rollouts.copy()
        mean, size = (a + passes) / (a + b + rollouts), a + b + rollouts + 1
        worth = -rollouts if even else mean * (1 - mean) / size**2
        best = np.where(rollouts < most, worth, -np.inf).argmax(axis=1)
        passes[every, best] += outcomes[every, best, rollouts[every, best] % most]
        rollouts[every, best] += 1
    found = np.array([seen[budget] for budget in budgets])
    return found[:, 0], found[:, 1]


def allocations(
    labels: Sequence[StepLabel], oracle: Sequence[OracleState], means: Sequence[int], orders: int = 60, seed: int = 0
) -> pd.DataFrame:
    """Labels by rollouts that are spread evenly and by rollouts spent where they matter (`allocate`), when a state gets
    `means` of them on average: rows of `evidence.oracle.oracle_table`.

    The oracle's rollouts are put in a random order, `orders` times; labels come from the first half of them, and the
    other half judges them.  Labels are posterior means, and c/n beside them.  Columns: those of the table, and what a
    state cost: `spent` (rollouts) and `tokens`.
    """
    outcomes = np.random.default_rng(seed).permuted(np.array([[x.outcomes for x in oracle]] * orders), axis=2)
    draws, others = np.array_split(outcomes, 2, axis=2)
    known = {(x.problem, x.sample, x.step): (x.tokens or np.nan) / x.rollouts for x in labels}
    tokens = np.array([known[x.problem, x.sample, x.step] for x in oracle])
    a, b = verdict_priors(labels, oracle)
    tables = []
    for name, even in (("evenly", True), ("where it matters", False), ("evenly, c/n", True)):
        spent = allocate(a, b, draws, [n * len(oracle) for n in means], even)
        for n, passes, rollouts in zip(means, *spent, strict=True):
            label = passes / rollouts if name.endswith("c/n") else (a + passes) / (a + b + rollouts)
            columns = {"label": label, "spent": rollouts, "tokens": rollouts * tokens, "passes": others.sum(axis=2)}
            about = {"rollouts": n, "method": name, "trials": others.shape[2], "seed": np.repeat(range(orders), len(a))}
            owners = {"problem": [x.problem for x in oracle] * orders}
            tables.append(pd.DataFrame(about | owners | {key: x.ravel() for key, x in columns.items()}))
    return pd.concat(tables, ignore_index=True)
