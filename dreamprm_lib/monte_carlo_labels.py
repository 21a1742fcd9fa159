"""Monte-Carlo (MC) labels: how often the policy finishes a prefix to a right program.

The label of step *k* is the share of *n* completions of prefix *k* that pass all tests: an estimate of the prefix's
value under the policy, with binomial noise.  The last prefix is the whole program; its label is the program's own
verdict and is *clean* (DreamPRM-Code, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from dreamprm_lib.artifacts import Program, StepLabel
from dreamprm_lib.chain_of_functions import cof_prompt, extract_code
from dreamprm_lib.engine.policy import Policy, Prompt
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.engine.sandbox import Sandbox


def rollout_prompt(problem: Problem, prefix: str) -> Prompt:
    """The prompt that the program was written from, its reply opened with the prefix."""
    return Prompt(cof_prompt(problem).messages, prefill=f"```python\n{prefix}")


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

    Of a program whose sample number is `rolled` or higher, the last step alone is labelled, which costs nothing.
    """
    by_id = {p.id: p for p in problems}
    open_prefixes = [
        (program, k, prefix)
        for program in programs
        if rolled is None or program.sample < rolled
        for k, prefix in enumerate(program.prefixes[:-1])
    ]
    prompts = [rollout_prompt(by_id[program.problem], prefix) for program, _, prefix in open_prefixes]
    replies = policy.sample(prompts, n, temperature=temperature)
    # A rollout is the prefix and its continuation, also where the endpoint could not be prefilled.
    rollouts = [extract_code(reply.text) for row in replies for reply in row]
    owners = [by_id[program.problem] for program, _, _ in open_prefixes for _ in range(n)]
    verdicts = sandbox.grade(list(zip(owners, rollouts, strict=True)), progress=True)
    passes = np.array([v.passed for v in verdicts], dtype=int).reshape(len(open_prefixes), n).sum(axis=1)

    found = {
        (program.problem, program.sample, k): int(count)
        for (program, k, _), count in zip(open_prefixes, passes, strict=True)
    }
    labels = []
    for program in programs:
        for k, prefix in enumerate(program.prefixes):
            clean = k == len(program.steps) - 1
            count = int(program.passed) if clean else found.get((program.problem, program.sample, k))
            if count is not None:
                trials = 1 if clean else n
                row = StepLabel(program.problem, program.sample, k, prefix, trials, count, count / trials, clean)
                labels.append(row)
    return labels


def subsampled_labels(passes: int, rollouts: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The labels that `n` of the recorded rollouts could have given, and their probabilities (hypergeometric, exact).

    Shows what fewer rollouts would have said without asking the policy again.
    """
    counts = np.arange(n + 1)
    return counts / n, stats.hypergeom(rollouts, passes, n).pmf(counts)
