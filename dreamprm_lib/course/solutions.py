"""Reference solutions of those exercises that take more than a line; the notebooks' solutions are checked by them."""

from __future__ import annotations

import ast
import itertools
import math

import numpy as np


def _top_level(code: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [n for n in ast.parse(code).body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def count_steps(code: str) -> int:
    return len(_top_level(code))


def share_documented(code: str) -> float:
    found = [ast.get_docstring(f) is not None for f in _top_level(code)]
    return sum(found) / len(found) if found else 0.0


def is_chain(code: str) -> bool:
    functions = _top_level(code)
    later = {f.name for f in functions[1:]}
    nodes = ast.walk(functions[0]) if functions else ()
    return any(isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in later for n in nodes)


def running_prefixes(texts: list[str]) -> list[str]:
    return list(itertools.accumulate(texts))


def wrong_side(value: float, rollouts: int) -> float:
    """The chance that the label of a state lies on the other side of 1/2 than its value."""
    failing = 1 - value if value > 0.5 else value
    chances = [math.comb(rollouts, k) * failing**k * (1 - failing) ** (rollouts - k) for k in range(rollouts + 1)]
    return sum(chance * ((2 * k > rollouts) + 0.5 * (2 * k == rollouts)) for k, chance in enumerate(chances))


def pass_at_k(n: int, c: int, k: int) -> float:
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def candidates_needed(n: int, c: int, goal: float) -> int | None:
    return next((k for k in range(1, n + 1) if pass_at_k(n, c, k) >= goal), None)


def consensus_pick(outputs: list[list[str | None]]) -> int:
    return int(np.argmax([sum(_agrees(a, b) for a, b in _pairs(k, outputs)) for k in range(len(outputs))]))


def _pairs(k: int, outputs: list[list[str | None]]):
    """Input by input, what program `k` printed and what each other one did."""
    return ((a, b) for j, other in enumerate(outputs) if j != k for a, b in zip(outputs[k], other, strict=True))


def _agrees(a: str | None, b: str | None) -> bool:
    return a is not None and a == b


def ranking(good: list[float], bad: list[float]) -> float:
    return float(np.mean([(g > b) + 0.5 * (g == b) for g in good for b in bad]))


def weight_slope(lr, features, scores, labels, meta_gradient) -> np.ndarray:
    pull = np.asarray(scores) - np.asarray(labels)
    return -lr / len(features) * pull * (np.asarray(features) @ np.asarray(meta_gradient))


def best_of_n(scores: list[float], passed: list[bool], n: int) -> float:
    outcomes = []
    for subset in itertools.combinations(range(len(scores)), n):
        top = max(scores[i] for i in subset)
        outcomes.append(np.mean([passed[i] for i in subset if scores[i] == top]))
    return float(np.mean(outcomes))


def mcnemar(wins: int, losses: int) -> float:
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n
    return min(1.0, 2 * tail)


def losses_allowed(lead: int, level: float) -> int | None:
    """The most problems that the better of two methods, `lead` problems ahead, may lose at this level."""
    if mcnemar(lead, 0) > level:
        return None
    return next(lost for lost in itertools.count() if mcnemar(lead + lost + 1, lost + 1) > level)
