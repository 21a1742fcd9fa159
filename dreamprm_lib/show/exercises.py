"""Exercises: each check takes the learner's function, tries it on cases that people get wrong, and answers with a hint.

A case that fails is reported with its own hint, so the cases go from the plain one to the traps.
"""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Answer:
    """What a check says: whether the function is right, and a message."""

    right: bool
    message: str

    def __repr__(self) -> str:
        return ("✔ " if self.right else "✘ ") + self.message


@dataclass(frozen=True)
class Exercise:
    """A task: what is asked, a reference solution, and cases as (arguments, hint)."""

    name: str
    reference: Callable
    cases: tuple[tuple[tuple, str], ...]

    def check(self, answer: Callable) -> Answer:
        """Try the learner's function on every case, in order; the first that fails gives the hint."""
        if not callable(answer):
            return Answer(False, f"Give the function itself, check({self.name}), not what it returns.")
        for arguments, hint in self.cases:
            expected = self.reference(*arguments)
            shown = ", ".join(_short(a) for a in arguments)
            try:
                got = answer(*arguments)
            except Exception as error:  # the learner's code may raise anything, and that is the answer
                return Answer(False, f"{self.name}({shown}) raised {type(error).__name__}: {error}. {hint}")
            if not _same(got, expected):
                return Answer(False, f"{self.name}({shown}) gave {_short(got)}. {hint}")
        return Answer(True, f"{self.name} is right on all {len(self.cases)} cases.")


def _same(got, expected) -> bool:
    try:
        if isinstance(expected, str | bool) or expected is None:
            return got == expected
        return np.shape(got) == np.shape(expected) and np.allclose(got, expected, rtol=1e-6, atol=1e-9)
    except (TypeError, ValueError):
        return got == expected


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 70 else text[:67] + "…"


def _count_steps(code: str) -> int:
    return sum(isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.parse(code).body)


def _running_prefixes(texts: list[str]) -> list[str]:
    return list(itertools.accumulate(texts))


def _pass_at_k(n: int, c: int, k: int) -> float:
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def _ranking(good: list[float], bad: list[float]) -> float:
    return float(np.mean([(g > b) + 0.5 * (g == b) for g in good for b in bad]))


def _best_of_n(scores: list[float], passed: list[bool], n: int) -> float:
    outcomes = []
    for subset in itertools.combinations(range(len(scores)), n):
        top = max(scores[i] for i in subset)
        outcomes.append(np.mean([passed[i] for i in subset if scores[i] == top]))
    return float(np.mean(outcomes))


def _mcnemar(wins: int, losses: int) -> float:
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n
    return min(1.0, 2 * tail)


EXERCISES = {
    exercise.name: exercise
    for exercise in (
        Exercise(
            "share_passed",
            lambda verdicts: sum(v == "passed" for v in verdicts) / len(verdicts),
            (
                ((["passed", "wrong_answer"],), "Count the verdicts that are 'passed', and divide by their number."),
                ((["time_limit", "killed"],), "Only 'passed' counts; every other kind is a failure."),
            ),
        ),
        Exercise(
            "best_candidate",
            lambda scores: int(np.argmax([np.mean(s) for s in scores])),
            (
                (([[0.2, 0.4], [0.9, 0.7]],), "Return the index of the candidate with the highest mean step score."),
                (([[0.9], [0.5, 0.5, 0.5]],), "A mean, not a sum: a longer chain must not win by its length."),
                (([[0.5], [0.5]],), "On a tie the first candidate wins."),
            ),
        ),
        Exercise(
            "count_steps",
            _count_steps,
            (
                (("def main():\n    pass\n\ndef helper():\n    pass\n",), "Each top-level function is a step."),
                (("def main():\n    def inner():\n        pass\n    inner()\n",), "A nested function is not a step."),
                (('TEXT = "def fake(): pass"\ndef main():\n    pass\n',), "Words in a string are not code: parse it."),
                (("async def main():\n    pass\n",), "`async def` defines a function too."),
            ),
        ),
        Exercise(
            "running_prefixes",
            _running_prefixes,
            (
                ((["a", "b", "c"],), "Prefix k is the text of steps 1 to k, joined."),
                ((["def f(): pass\n", "f()\n"],), "Join with nothing between: the texts carry their own line ends."),
                (([],), "An empty program has no prefixes."),
            ),
        ),
        Exercise(
            "label_error",
            lambda value, rollouts: math.sqrt(value * (1 - value) / rollouts),
            (
                ((0.5, 4), "The standard deviation of a share is sqrt(p (1 - p) / n)."),
                ((0.9, 16), "The value is p itself, and n is the number of rollouts, not its square."),
                ((0.0, 4), "Where nothing ever passes there is no noise."),
            ),
        ),
        Exercise(
            "rollouts_needed",
            lambda value, error: math.ceil(round(value * (1 - value) / error**2, 9)),
            (
                ((0.5, 0.25), "Solve sqrt(p (1 - p) / n) <= error for the smallest whole n."),
                ((0.3, 0.11), "A share of a rollout cannot be bought: round up."),
                ((0.5, 0.05), "Half the error costs four times the rollouts."),
            ),
        ),
        Exercise(
            "pass_at_k",
            _pass_at_k,
            (
                ((8, 2, 1), "pass@1 is the share that passes."),
                ((8, 2, 4), "1 - C(n - c, k) / C(n, k): one minus the chance to draw only failures."),
                ((8, 6, 4), "With fewer than k failures a draw of k must hit: C(2, 4) is 0, so pass@k is 1."),
            ),
        ),
        Exercise(
            "mixed_share",
            lambda problems: float(np.mean([0 < sum(p) < len(p) for p in problems])),
            (
                (([[True, False], [True, True]],), "A problem is mixed if some, but not all, candidates pass."),
                (([[False, False], [False, False]],), "Where every candidate fails there is nothing to select."),
                (([[True], [False]],), "One candidate alone is never mixed."),
            ),
        ),
        Exercise(
            "ranking",
            _ranking,
            (
                (([0.9, 0.6], [0.7]), "Compare every passing candidate with every failing one."),
                (([0.5], [0.5]), "A tie counts half."),
                (([0.1], [0.2, 0.3]), "If all failing ones score higher, the ranking is 0."),
            ),
        ),
        Exercise(
            "soft_cross_entropy",
            lambda score, label: -(label * math.log(score) + (1 - label) * math.log(1 - score)),
            (
                ((0.8, 1.0), "For label 1 it is -log(score)."),
                ((0.8, 0.0), "For label 0 it is -log(1 - score)."),
                ((0.6, 0.25), "A soft label mixes both: -(y log p + (1 - y) log(1 - p))."),
            ),
        ),
        Exercise(
            "label_slope",
            lambda lr, features, meta_gradient: (lr / len(features)) * np.asarray(features) @ np.asarray(meta_gradient),
            (
                ((1.0, [[1.0, 0.0]], [0.5, 2.0]), "For z = φ·x the derivative of z along v is x·v."),
                ((0.5, [[1.0, 2.0], [3.0, -1.0]], [1.0, 1.0]), "Do not forget η / n, n the number of rows."),
            ),
        ),
        Exercise(
            "move_label",
            lambda label, slope, rate: min(1.0, max(0.0, label - rate * slope)),
            (
                ((0.5, 2.0, 0.1), "Downhill: subtract rate · slope."),
                ((0.1, 3.0, 0.1), "A label is a probability: keep it at 0 or above."),
                ((0.95, -3.0, 0.1), "A label is a probability: keep it at 1 or below."),
            ),
        ),
        Exercise(
            "best_of_n",
            _best_of_n,
            (
                (
                    ([0.9, 0.1, 0.5], [True, False, False], 3),
                    "With all candidates in hand the highest score is picked.",
                ),
                (([0.9, 0.1, 0.5], [True, False, False], 2), "Average over all pairs; the top one is not in each."),
                (([0.5, 0.5], [True, False], 2), "On a tie each of the best is picked as often."),
            ),
        ),
        Exercise(
            "mcnemar",
            _mcnemar,
            (
                ((1, 0), "One discordant problem proves nothing: p = 1."),
                ((6, 1), "Two-sided: twice the chance of so few losses among n fair coin throws."),
                ((3, 3), "A p-value is at most 1."),
            ),
        ),
        Exercise(
            "problems_solved",
            lambda percent, problems: round(percent / 100 * problems),
            (
                ((80.2, 131), "A published percentage is a count divided by the number of problems: undo it."),
                ((80.9, 131), "Round to the nearest whole problem."),
            ),
        ),
        Exercise(
            "rollout_tokens",
            lambda problems, programs, steps, rollouts, tokens: problems * programs * (steps - 1) * rollouts * tokens,
            (
                ((10, 1, 3, 4, 100), "The last step needs no rollouts: its label is the verdict."),
                ((10, 4, 2, 16, 100), "Every program of every problem is rolled out from each open step."),
            ),
        ),
    )
}


def check(name: str, answer: Callable) -> Answer:
    """Check the learner's function for the exercise of that name."""
    return EXERCISES[name].check(answer)
