"""What a selector costs, and step-level beam search, in which the reward model steers while a program is written.

`study_bill` counts what each part of a study takes; `evidence.costs` prices it.

Best-of-N pays for N whole programs and judges them at the end.  A beam search judges after each function: it keeps
the `width` best prefixes and has the policy continue each in `branches` ways, so that tokens go to what looks good
(Snell et al., arXiv 2408.03314, section 5).  One more stop sequence makes the policy write one function at a time, and
sample numbers are fixed, so that recorded completions give the same search again.

Not covered: endpoints that cannot be prefilled, and methods of a class `Solution`, which are written in one go (there
the search is a best-of-N).
"""

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import floor

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from dreamprm_lib.chain_of_functions import cof_prompt, extract_code, parsed, split_steps
from dreamprm_lib.engine.backbone import Tree, open_tokenizer, parameters_read
from dreamprm_lib.engine.policy.completions import Completion
from dreamprm_lib.engine.policy.policy import Policy, Prompt, render_chatml
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.engine.sandbox.consensus import INPUTS
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.errors import InputError
from dreamprm_lib.evidence.costs import TRAINING, Machine, bill
from dreamprm_lib.evidence.statistics import mean_with_interval
from dreamprm_lib.monte_carlo_labels import rollout_prompt
from dreamprm_lib.reward_model import RewardModel, aggregate
from dreamprm_lib.study.rows import Program, SearchedProgram, StepLabel
from dreamprm_lib.test_time_scaling import Pool, best_of_n, compared, scaling_curve

NEXT_FUNCTION = "\ndef "  # where it begins, the function before it is whole
_GOES_ON_AFTER = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign,
)  # fmt: skip


@dataclass(frozen=True)
class State:
    """A program as far as it is written: the text after whole functions, or a `finished` program.

    `scores` of its steps in [0, 1], and `score`, their aggregate.
    """

    text: str
    finished: bool
    scores: list[float]
    score: float


@dataclass
class Search:
    """The search for one problem.

    A level holds the states that compete at it, best first, of which the first `width` are kept: continuations of the
    level before, and the finished programs that were kept there.  `tokens` are those of all completions that were
    asked for, the dropped ones too; as everywhere, the tokens of a stop sequence are not counted.
    """

    problem: str
    width: int
    levels: list[list[State]] = field(default_factory=list)
    tokens: int = 0

    @property
    def kept(self) -> list[State]:
        """The beam: the best states of the last level."""
        return self.levels[-1][: self.width] if self.levels else []

    @property
    def programs(self) -> list[State]:
        """Every finished program, dropped ones too (they are paid for), best first; among equals the earlier one."""
        finished = {state.text: state for level in self.levels for state in level if state.finished}
        return sorted(finished.values(), key=lambda state: -state.score)


def search(
    policy: Policy,
    model: RewardModel,
    problems: Sequence[Problem],
    width: int = 2,
    branches: int = 4,
    temperature: float = 0.8,
    aggregation: str = "mean",
    depth: int = 8,
) -> tuple[list[Search], list[str]]:
    """A beam search for each problem, and the ids of the problems that were left out.

    Level 1 asks for samples 0 … `width` · `branches` - 1 of the first function, each later one for samples 0 …
    `branches` - 1 of every unfinished prefix that was kept.  States of equal text are one; among equal scores the
    earlier state is better.  What is unfinished after `depth` functions counts as finished.  Offline, a problem whose
    completions are not all recorded is left out: scores differ in the last digits between machines, and another beam
    asks for other completions.  Levels of all problems run together.
    """
    if min(width, branches, depth) < 1:
        raise InputError(f"A search needs a width, branches and a depth of 1 or more: {width}, {branches}, {depth}.")
    if not policy.endpoint.api.prefill:
        raise InputError("A search continues programs: it needs an endpoint that can be prefilled (`prefill`).")
    found = {p.id: Search(p.id, width) for p in problems}
    going = list(problems)
    for level in range(depth):
        prompts = {p.id: [rollout_prompt(p, s.text) for s in found[p.id].kept if not s.finished] for p in going}
        prompts = prompts if level else {p.id: [cof_prompt(p)] for p in going}
        replies = _replies(policy, prompts, branches if level else width * branches, temperature)
        for problem in tqdm(going, desc=f"scoring function {level + 1}", unit="problem"):
            if problem.id in replies:
                _extend(found[problem.id], model, problem, replies[problem.id], aggregation, level == depth - 1)
            else:
                del found[problem.id]
        going = [p for p in going if p.id in found and not all(state.finished for state in found[p.id].kept)]
        if not going:
            break
    return list(found.values()), [p.id for p in problems if p.id not in found]


def after(reply: Completion) -> tuple[str, bool]:
    """The program text after a reply, and whether the program is finished.

    The endpoint does not say what ended a reply, but its text shows it.  There is an empty line before the next
    function, and none before the closing fence or the end of the text: a program goes on if its reply ends with a line
    end that follows a definition, an import or an assignment.  It is finished if it ends with its call, holds the
    fence, was cut for its length, or does not parse.
    """
    text = reply.text.removeprefix("```python\n")
    module = parsed(text) if reply.finish != "length" and "```" not in text and text.endswith("\n") else None
    if module and module.body and isinstance(module.body[-1], _GOES_ON_AFTER):
        return text + NEXT_FUNCTION[0], False
    return extract_code(reply.text), True


def grade(sandbox: Sandbox, problems: Sequence[Problem], searches: Sequence[Search]) -> list[SearchedProgram]:
    """The finished programs of each search with their verdicts on all tests, best first; rank 0 is the pick."""
    by_id = {p.id: p for p in problems}
    ranked = [(s, rank, state) for s in searches for rank, state in enumerate(s.programs)]
    verdicts = sandbox.grade([(by_id[s.problem], state.text) for s, _, state in ranked], progress=True)
    return [
        SearchedProgram(
            problem=s.problem,
            rank=rank,
            code=state.text,
            steps=[step.text for step in split_steps(state.text)],
            scores=state.scores,
            score=state.score,
            passed=verdict.passed,
            verdict=verdict.kind,
            search_tokens=s.tokens,
            levels=len(s.levels),
        )
        for (s, rank, state), verdict in zip(ranked, verdicts, strict=True)
    ]


def _replies(
    policy: Policy, prompts: Mapping[str, list[Prompt]], n: int, temperature: float
) -> dict[str, list[Completion]]:
    """`n` replies to each prompt of each problem; offline, a problem that lacks any of them is missing."""
    every = [prompt for some in prompts.values() for prompt in some]
    rows = iter(policy.sample_known(every, n, temperature=temperature, stop=(NEXT_FUNCTION,)))
    found = {name: [next(rows) for _ in some] for name, some in prompts.items()}
    return {name: [reply for row in own if row for reply in row] for name, own in found.items() if None not in own}


def _extend(
    found: Search, model: RewardModel, problem: Problem, replies: Sequence[Completion], aggregation: str, last: bool
) -> None:
    """One more level: score what the replies made of the beam, and rank it with the finished programs in it."""
    texts = dict(after(reply) for reply in replies)
    scores = model.score(problem, list(texts))
    states = [
        State(text, whole or last, steps, aggregate(steps, aggregation))
        for (text, whole), steps in zip(texts.items(), scores, strict=True)
    ]
    finished = [state for state in found.kept if state.finished]
    found.levels.append(sorted(finished + states, key=lambda state: -state.score))
    found.tokens += sum(reply.tokens for reply in replies)


# ------------------------------------------------------------------------------------------------- against best-of-N


def best_of_mean(scores: ArrayLike, passed: ArrayLike, n: float) -> float:
    """Best-of-N where N is `n` in the mean: the mixture of the two whole N beside it (n = 2.25: N = 3 in a quarter of
    the cases, else N = 2), so that any budget of tokens can be met.  1 <= n <= len(scores)."""
    low = floor(n)
    rest = n - low
    value = best_of_n(scores, passed, low)
    return value if rest == 0 else (1 - rest) * value + rest * best_of_n(scores, passed, low + 1)


SEARCH, SEARCH_ANY = "beam search", "beam search, any program"


def equal_tokens(pool: Pool, candidates: Sequence[Program], found: Sequence[SearchedProgram]) -> np.ndarray:
    """For each problem [problems] the N at which N candidates cost, in the mean, as many tokens as its search did.

    At most the pool's size, where the recorded candidates end.  `found` has each problem of the pool.
    """
    paid = {row.problem: row.search_tokens for row in found}
    return np.clip([paid[p.id] for p in pool.problems] / _tokens_each(pool, candidates), 1, pool.size)


def search_differences(
    pool: Pool,
    candidates: Sequence[Program],
    found: Sequence[SearchedProgram],
    method: str = "prm_cof",
    draws: int = 4000,
    seed: int = 0,
) -> pd.DataFrame:
    """A beam search against best-of-N at equal tokens, problem by problem: the columns of `differences`.

    Its pick is compared with `method`, by which it was steered, and with `random`; whether any of its finished programs
    passes is compared with `oracle`.  All is measured against `best_of_mean` at the N of `equal_tokens`.
    """
    n = equal_tokens(pool, candidates, found)
    pick, any_passes = _search_outcomes(pool, found)
    gains = []
    for name, solved, baseline in (
        (SEARCH, pick, method),
        (SEARCH, pick, "random"),
        (SEARCH_ANY, any_passes, "oracle"),
    ):
        rates = [best_of_mean(*case) for case in zip(pool.scores[baseline], pool.passed, n, strict=True)]
        gains.append((name, baseline, 0, solved - np.array(rates)))
    return compared(gains, draws, seed)


def search_curve(
    pool: Pool, candidates: Sequence[Program], found: Sequence[SearchedProgram], draws: int = 4000, seed: int = 0
) -> pd.DataFrame:
    """`scaling_curve` without samples, with the mean `tokens` a problem, and the search as two more methods (with n
    missing): its pick, and whether any of its finished programs passes."""
    curve = scaling_curve(replace(pool, samples=None), draws, seed).drop(columns="samples")
    cost = _tokens_each(pool, candidates).mean()
    paid = np.mean([row.search_tokens for row in found if row.rank == 0])
    rows = []
    for name, solved in zip((SEARCH, SEARCH_ANY), _search_outcomes(pool, found), strict=True):
        mean, low, high = mean_with_interval(solved, draws, seed)
        rows.append({"method": name, "pass_rate": mean, "ci_low": low, "ci_high": high, "tokens": paid})
    return pd.concat([curve.assign(tokens=curve.n * cost), pd.DataFrame(rows)], ignore_index=True)


def _tokens_each(pool: Pool, candidates: Sequence[Program]) -> np.ndarray:
    """Mean tokens of a candidate [problems]."""
    return np.array([np.mean([c.tokens for c in candidates if c.problem == p.id]) for p in pool.problems])


def _search_outcomes(pool: Pool, found: Sequence[SearchedProgram]) -> tuple[np.ndarray, np.ndarray]:
    """Whether the pick passes, and whether any finished program does [problems] bool."""
    passed = {p.id: [row.passed for row in found if row.problem == p.id] for p in pool.problems}
    return np.array([ok[0] for ok in passed.values()]), np.array([any(ok) for ok in passed.values()])


# ------------------------------------------------------------------------------------------------- what it costs


def study_bill(
    model: RewardModel,
    policy_parameters: int,
    machine: Machine,
    problems: Sequence[Problem],
    solutions: Sequence[Program],
    labels: Sequence[StepLabel],
    candidates: Sequence[Program],
    judges: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """What each part of a study costs, as `costs.bill` counts it; `each` is `study`, `problem` or `candidate`.

    `programs` and `rollouts` are written by the policy and graded (a run for each test, at most), the latter after it
    has read their `prefixes`; `training` reads the programs with the backbone of `model`, whose tokenizer measures all
    prompts; `candidates`, `scoring`, `samples` (one of them) and `consensus` are means over the test problems.  Each of
    the `judges`, models by the names of their methods, reads the problem and one whole program in a pass; that is the
    most that it costs, for the beginnings that texts share are read once.
    """
    tokenizer, template = open_tokenizer(model.backbone.name), model.backbone.template

    def asked(prompts: Iterable[Prompt]) -> int:
        return sum(len(tokenizer(render_chatml(p), add_special_tokens=False).input_ids) for p in prompts)

    def trees(programs: Sequence[Program]) -> list[Tree]:
        steps = {name: [c.steps for c in programs if c.problem == name] for name in {c.problem for c in programs}}
        return [Tree.of(tokenizer, template.root(by_id[name]), template.after, each) for name, each in steps.items()]

    by_id = {p.id: p for p in problems}
    learned, test = ([by_id[name] for name in dict.fromkeys(c.problem for c in cs)] for cs in (solutions, candidates))
    prefixes = {(x.problem, x.prefix): x for x in labels if not x.clean}.values()  # equal prefixes are asked for once
    if any(x.tokens is None for x in prefixes):
        raise InputError("labels.jsonl does not say how many tokens its rollouts wrote: run chapter 2 again.")
    epochs = len(model.about.get("losses", []))  # 0: the backbone was frozen, and read once
    writing, reading = 2 * policy_parameters, 2 * parameters_read(model.backbone.name, max(model.backbone.layers))
    read = sum(tree.tokens for tree in trees(solutions)) * max(epochs, 1)
    graded = sum(len(by_id[p.problem].tests) for p in solutions)
    regraded = sum(x.rollouts * len(by_id[x.problem].tests) for x in prefixes)
    scored = trees(candidates)
    root = sum(len(tree.root) for tree in scored)
    branch = sum(tree.tokens for tree in scored) - root
    here, many = len(test), len(candidates)
    rows = [
        ("programs", "study", asked(map(cof_prompt, learned)), sum(p.tokens for p in solutions), writing, graded),
        ("prefixes", "study", asked(rollout_prompt(by_id[x.problem], x.prefix) for x in prefixes), 0, writing, 0),
        ("rollouts", "study", 0, sum(x.tokens or 0 for x in prefixes), writing, regraded),
        ("training", "study", read, 0, reading * (TRAINING if epochs else 1), 0),
        ("candidates", "problem", asked(map(cof_prompt, test)) / here, 0, writing, 0),
        ("candidates", "candidate", 0, sum(c.tokens for c in candidates) / many, writing, 0),
        ("scoring", "problem", root / here, 0, reading, 0),
        ("scoring", "candidate", branch / many, 0, reading, 0),
        ("samples", "candidate", 0, 0, 0, 1),
        ("consensus", "candidate", 0, 0, 0, INPUTS),
    ]
    for method, source in (judges or {}).items():
        whole = 2 * parameters_read(source.partition("?")[0])
        rows.append((method, "candidate", root / here + branch / many, 0, whole, 0))
    return bill(rows, machine)
