"""Exercises of the notebooks, in the order of the chapters: each function is the reference solution of its name."""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Callable

import numpy as np

from dreamprm_lib.course.checks import Answer, exercise, of_name
from dreamprm_lib.evidence import statistics


def check(name: str, answer: Callable) -> Answer:
    """Check the learner's function for the exercise of that name."""
    return of_name(name, lambda found: found.check(answer))


def hint(name: str) -> Answer:
    """The next hint for the exercise of that name; call it again for a further one."""
    return of_name(name, lambda found: found.hint())


@exercise(
    hints=("How many of all verdicts are good?", "A share is a count divided by the number of all.", "k / n"),
    cases=(
        ((["passed", "wrong_answer"],), "Count the verdicts that are 'passed', and divide by their number."),
        ((["time_limit", "killed"],), "Only 'passed' counts; every other kind is a failure."),
        ((["not passed", "passed", "killed", "killed"],), "Compare whole words: 'not passed' is not 'passed'."),
    ),
    more=((["passed"] * 3,), (["runtime_error", "passed", "passed"],)),
)
def share_passed(verdicts: list[str]) -> float:
    return sum(v == "passed" for v in verdicts) / len(verdicts)


@exercise(
    hints=(
        "Make one number of the step scores of each candidate.",
        "Take the mean, so that the number of steps does not matter.",
        "Return the index of the first largest mean, as `np.argmax` does.",
    ),
    cases=(
        (([[0.2, 0.4], [0.9, 0.7]],), "Return the index of the candidate with the highest mean step score."),
        (([[0.9], [0.5, 0.5, 0.5]],), "A mean, not a sum: a longer chain must not win by its length."),
        (([[0.0, 1.0], [0.6, 0.6], [0.1]],), "A mean, not a maximum: one high step does not make up for a low one."),
        (([[0.5], [0.5]],), "On a tie the first candidate wins."),
    ),
    more=(([[0.1], [0.3, 0.3], [0.3]],), ([[0.9, 0.1, 0.2], [0.2, 0.5]],)),
)
def best_candidate(scores: list[list[float]]) -> int:
    return int(np.argmax([np.mean(s) for s in scores]))


def _top_level(code: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [n for n in ast.parse(code).body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


@exercise(
    hints=(
        "Text alone cannot tell a function from a word in a string: let Python parse it.",
        "`ast.parse(code).body` holds what stands at the top level.",
        "Count the nodes that are `ast.FunctionDef` or `ast.AsyncFunctionDef`.",
    ),
    cases=(
        (("def main():\n    pass\n\ndef helper():\n    pass\n",), "Each top-level function is a step."),
        (("def main():\n    def inner():\n        pass\n    inner()\n",), "A nested function is not a step."),
        (('TEXT = "def fake(): pass"\ndef main():\n    pass\n',), "Words in a string are not code: parse it."),
        (("async def main():\n    pass\n",), "`async def` defines a function too."),
    ),
    more=(
        ('def main():\n    pass\n\nTEXT = """\ndef fake():\n    pass\n"""\n',),
        ("class Box:\n    def add(self):\n        pass\n\ndef  main():\n    pass\n",),
        ("if True:\n    def main():\n        pass\nasync  def run(): pass\ndef\tdone(): pass\n",),
        ("@cached\ndef main(): pass\n# def old(): pass\nadd = lambda: 1\n",),
        ("",),
    ),
)
def count_steps(code: str) -> int:
    return len(_top_level(code))


@exercise(
    hints=("Each prefix is the one before and one more step.", 'Prefix k is `"".join(texts[:k])`, for k from 1.'),
    cases=(
        ((["a", "b", "c"],), "Prefix k is the text of steps 1 to k, joined."),
        ((["def f(): pass\n", "f()\n"],), "Join with nothing between: the texts carry their own line ends."),
        (([],), "An empty program has no prefixes."),
    ),
    more=((["x"],), (["", "a", ""],), (["a\n", "\n", " b"],)),
)
def running_prefixes(texts: list[str]) -> list[str]:
    return list(itertools.accumulate(texts))


@exercise(
    hints=(
        "A docstring is the string that opens the body of a function.",
        "`ast.get_docstring(node)` gives it, or None.",
        "Divide by the number of top-level functions, and answer 0 where there is none.",
    ),
    cases=(
        (
            ('def main():\n    """Read, then add."""\n    add()\n\ndef add():\n    pass\n',),
            "Count the functions whose body opens with a string, and divide by the number of functions.",
        ),
        (("def main():\n    # read, then add\n    pass\n",), "A comment is no docstring: it is not in the tree."),
        (('def main():\n    x = """no plan"""\n    return x\n',), "Only a string that *opens* the body counts."),
        (('"""About."""\nprint(1)\n',), "Without a function there is no share to take: answer 0."),
    ),
    more=(
        ("def main():\n    'One line.'\ndef add():\n    r'''Raw.'''\nasync def run():\n    pass\n",),
        ("def main():\n    b'''Bytes.'''\ndef add():\n    f'''Made.'''\n",),
        ("def main():\n    def inner():\n        '''Plan.'''\n",),
        ("class Box:\n    '''A box.'''\n    def add(self):\n        '''Adds.'''\n",),
    ),
)
def share_documented(code: str) -> float:
    found = [ast.get_docstring(f) is not None for f in _top_level(code)]
    return sum(found) / len(found) if found else 0.0


@exercise(
    hints=(
        "Look at the first function alone: does it use one that comes later?",
        "`ast.walk(first)` visits every node; a call by name is an `ast.Call` whose `func` is an `ast.Name`.",
        "The name must be that of a top-level function behind the first.",
    ),
    cases=(
        (("def main():\n    add()\n\ndef add():\n    pass\n",), "The first function calls a later one by its name."),
        (("def add():\n    pass\n\ndef main():\n    add()\n",), "High-level first: here the helper comes first."),
        (('def main():\n    print("add()")\n\ndef add():\n    pass\n',), "A name in a string is no call."),
        (
            ("def main():\n    return [2 * add(x) for x in range(3)]\n\ndef add(x):\n    return x\n",),
            "A call may stand deep in an expression: walk the whole tree of the function.",
        ),
        (("def main(n):\n    return main(n - 1)\n",), "A function that calls itself is not a chain."),
        (("print(1)\n",), "A program without functions is not a chain."),
    ),
    more=(
        ("def main():\n    rule = add\n    return rule\n\ndef add():\n    pass\n",),
        ("def main(xs):\n    return map(add, xs)\n\ndef add(x):\n    return x\n",),
        ("def main():\n    pass\n\ndef add():\n    pass\n\nadd()\n",),
        ("def main(box):\n    box.add()\n\ndef add():\n    pass\n",),
        ("def main():\n    # add()\n    addition()\n\ndef add():\n    pass\n",),
        ("def main():\n    print(1)\n\ndef add():\n    show()\n\ndef show():\n    pass\n",),
        ("def main():\n    if on:\n        show ()\n\ndef add():\n    pass\n\ndef show():\n    pass\n",),
        ("",),
    ),
)
def is_chain(code: str) -> bool:
    functions = _top_level(code)
    later = {f.name for f in functions[1:]}
    nodes = ast.walk(functions[0]) if functions else ()
    return any(isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in later for n in nodes)


@exercise(
    hints=(
        "A label is a share of n throws of a coin.",
        "One throw has the variance p (1 - p), and a mean of n throws one n-th of it.",
        "The standard deviation is the square root of the variance.",
    ),
    cases=(
        ((0.5, 1), "A standard deviation is a square root: of one throw at p = 1/2 it is 1/2."),
        ((0.5, 4), "The standard deviation of a share is sqrt(p (1 - p) / n)."),
        ((0.9, 16), "The value is p itself, and n is the number of rollouts, not its square."),
        ((0.0, 4), "Where nothing ever passes there is no noise."),
    ),
    more=((0.25, 1), (1.0, 8), (0.3, 10)),
)
def label_error(value: float, rollouts: int) -> float:
    return math.sqrt(value * (1 - value) / rollouts)


@exercise(
    hints=("Turn the formula of the last exercise round.", "n is at least p (1 - p) / error², and a whole number."),
    cases=(
        ((0.5, 0.25), "Solve sqrt(p (1 - p) / n) <= error for the smallest whole n."),
        ((0.1, 0.05), "The value is p itself: one near 0 or 1 needs fewer rollouts than 1/2."),
        ((0.3, 0.11), "A share of a rollout cannot be bought: round up."),
        ((0.5, 0.05), "Half the error costs four times the rollouts."),
    ),
    more=((0.5, 0.5), (0.9, 0.031), (0.0, 0.1)),
)
def rollouts_needed(value: float, error: float) -> int:
    return math.ceil(round(value * (1 - value) / error**2, 9))


@exercise(
    hints=(
        "Which numbers k of passing rollouts give a label on the wrong side of 1/2?",
        "k of n pass with the chance C(n, k) p^k (1 - p)^(n - k).",
        "Add the chances of the wrong k, and half of that of k = n / 2.",
    ),
    cases=(
        ((0.8, 1), "One rollout gives the label 0 or 1: it is wrong as often as the rollout is."),
        ((0.8, 3), "Add the binomial chances C(n, k) p^k (1 - p)^(n - k) of every label below 1/2."),
        ((0.8, 4), "A label of exactly 1/2 is on no side: it counts half."),
        ((0.3, 5), "For a value below 1/2 the wrong side is above it."),
    ),
    more=((0.9, 2), (0.1, 4), (0.6, 7), (1.0, 3), (0.0, 2)),
)
def wrong_side(value: float, rollouts: int) -> float:
    failing = 1 - value if value > 0.5 else value
    chances = [math.comb(rollouts, k) * failing**k * (1 - failing) ** (rollouts - k) for k in range(rollouts + 1)]
    return sum(chance * ((2 * k > rollouts) + 0.5 * (2 * k == rollouts)) for k, chance in enumerate(chances))


@exercise(
    hints=(
        "It is easier to count the draws in which nothing passes.",
        "Of C(n, k) draws C(n - c, k) hold failures only; `math.comb` is 0 where there are too few.",
    ),
    cases=(
        ((8, 2, 1), "pass@1 is the share that passes."),
        ((8, 8, 3), "Where all pass, every draw hits."),
        ((8, 2, 4), "1 - C(n - c, k) / C(n, k): one minus the chance to draw only failures."),
        ((8, 6, 4), "With fewer than k failures a draw of k must hit: C(2, 4) is 0, so pass@k is 1."),
    ),
    more=((16, 4, 8), (5, 0, 3), (5, 5, 1), (10, 3, 10), (10, 3, 2)),
)
def pass_at_k(n: int, c: int, k: int) -> float:
    return 1 - math.comb(n - c, k) / math.comb(n, k)


@exercise(
    hints=(
        "For which problems does it matter which candidate is picked?",
        "For those with more than 0 and fewer than n passing candidates.",
    ),
    cases=(
        (([[True, False], [True, True]],), "A problem is mixed if some, but not all, candidates pass."),
        (([[False, False], [False, False]],), "Where every candidate fails there is nothing to select."),
        (([[True], [False]],), "One candidate alone is never mixed."),
        (([[True, True, False]],), "More than one candidate of a mixed problem may pass."),
    ),
    more=(([[True, False, False], [False] * 3, [True] * 3, [False, True, True]],), ([[False, True]] * 2,)),
)
def mixed_share(problems: list[list[bool]]) -> float:
    return float(np.mean([0 < sum(p) < len(p) for p in problems]))


@exercise(
    hints=(
        "Count, for each program, how often another one prints the same.",
        "Compare input by input, and let None agree with nothing.",
        "Return the first program with the most votes.",
    ),
    cases=(
        (
            ([["1"], ["2"], ["2"]],),
            "A vote comes from every *other* program that prints the same; of equals the first is picked.",
        ),
        (
            ([["1", "9"], ["1", "2"], ["3", "2"]],),
            "Vote input by input: two programs may agree on one input and differ on the next.",
        ),
        (([[None], [None], ["4"], ["4"]],), "None is a crash, and two crashes agree on nothing."),
        (([["7"], ["8"]],), "Of equals the first is picked."),
    ),
    more=(([["1"], ["2"], ["3"], ["3"], ["3"]],), ([["1", None], ["1", "2"], ["4", "2"], ["4", None]],), ([["5"]],)),
)
def consensus_pick(outputs: list[list[str | None]]) -> int:
    def votes(mine: list[str | None], other: list[str | None]) -> int:
        return sum(a is not None and a == b for a, b in zip(mine, other, strict=True))

    return int(np.argmax([sum(votes(mine, o) for o in outputs if o is not mine) for mine in outputs]))


@exercise(
    hints=(
        "Use pass@k of the exercise before.",
        "Try k = 1, 2, … up to n: the first that reaches the goal is the answer.",
    ),
    cases=(
        ((16, 4, 0.9), "Draw without replacement: use the exact pass@k, not 1 - (1 - c/n)^k."),
        ((16, 4, 1.0), "With n - c + 1 candidates one must pass."),
        ((16, 16, 0.5), "At least one candidate has to be drawn."),
        ((16, 0, 0.5), "Where nothing passes no number is enough: answer None."),
    ),
    more=((8, 8, 0.99), (8, 0, 0.1), (8, 1, 1.0), (16, 2, 0.5)),
)
def candidates_needed(n: int, c: int, goal: float) -> int | None:
    return next((k for k in range(1, n + 1) if pass_at_k(n, c, k) >= goal), None)


@exercise(
    hints=(
        "Look at all pairs of a passing and a failing candidate.",
        "A pair counts 1 if the passing one scores higher, 1/2 on a tie, else 0; take the mean.",
    ),
    cases=(
        (([0.9, 0.6], [0.7]), "Compare every passing candidate with every failing one."),
        (([0.5], [0.5]), "A tie counts half."),
        (([0.1], [0.2, 0.3]), "If all failing ones score higher, the ranking is 0."),
    ),
    more=(([1.0, 1.0], [1.0]), ([0.9, 0.1], [0.5]), ([0.2], [0.1, 0.3, 0.2]), ([-1.0, -2.0], [-3.0])),
)
def ranking(good: list[float], bad: list[float]) -> float:
    return float(np.mean([(g > b) + 0.5 * (g == b) for g in good for b in bad]))


@exercise(
    hints=(
        "For the labels 1 and 0 you know it: -log(p) and -log(1 - p).",
        "A label y between them weighs the first with y and the second with 1 - y.",
    ),
    cases=(
        ((0.8, 1.0), "For label 1 it is -log(score)."),
        ((0.8, 0.0), "For label 0 it is -log(1 - score)."),
        ((0.6, 0.25), "A soft label mixes both: -(y log p + (1 - y) log(1 - p))."),
    ),
    more=((0.3, 0.7), (0.5, 0.5), (0.99, 1.0), (0.2, 0.5)),
)
def soft_cross_entropy(score: float, label: float) -> float:
    return -(label * math.log(score) + (1 - label) * math.log(1 - score))


@exercise(
    hints=(
        "Sort the scores into bins of equal width; in each, compare promise and outcome.",
        "The bin of a score s is `min(int(s * bins), bins - 1)`.",
        "Add |mean score - share of passes| over the bins, each times its share of the rows.",
    ),
    cases=(
        (([0.9, 0.9], [True, False], 10), "In a bin: the distance of its mean score from its share of passes."),
        (
            ([0.9, 0.9, 0.1, 0.1], [True, False, True, False], 2),
            "Take the distance in each bin first: a bin that is too high must not make up for one too low.",
        ),
        (([0.1, 0.1, 0.1, 0.9], [False] * 4, 2), "A bin counts by the number of its rows."),
        (([1.0], [True], 5), "A score of 1 belongs to the last bin."),
    ),
    more=(([0.02, 0.05, 0.15, 0.95], [False, True, False, True], 10), ([0.3, 0.4], [True, False], 1)),
)
def calibration_error(scores: list[float], outcomes: list[bool], bins: int) -> float:
    from dreamprm_lib import reward_model  # with torch, which no other exercise needs

    return reward_model.calibration_error(np.asarray(scores), np.asarray(outcomes), bins)


@exercise(
    hints=(
        "One step moves the parameters by η / n (y - p) x for each row; the label enters once.",
        "The derivative by y_i is η / n x_i; along the meta gradient v it is the product with v.",
    ),
    cases=(
        ((1.0, [[1.0, 0.0]], [0.5, 2.0]), "For z = φ·x the derivative of z along v is x·v."),
        (
            (1.0, [[1.0, 0.0], [0.0, 1.0]], [2.0, 4.0]),
            "One number for each row, divided by the number of rows.",
        ),
        ((0.5, [[1.0, 2.0], [3.0, -1.0]], [1.0, 1.0]), "Do not forget η / n, n the number of rows."),
    ),
    more=((2.0, [[0.0, 0.0], [1.0, 1.0], [2.0, -1.0]], [3.0, 0.5]), (0.0, [[1.0]], [1.0])),
)
def label_slope(lr: float, features: list[list[float]], meta_gradient: list[float]) -> np.ndarray:
    return (lr / len(features)) * np.asarray(features) @ np.asarray(meta_gradient)


@exercise(
    hints=("Go against the slope, by `rate` of it.", "Then cut what is below 0 or above 1: `min(1, max(0, …))`."),
    cases=(
        ((0.5, 2.0, 0.1), "Downhill: subtract rate · slope."),
        ((0.1, 3.0, 0.1), "A label is a probability: keep it at 0 or above."),
        ((0.95, -3.0, 0.1), "A label is a probability: keep it at 1 or below."),
    ),
    more=((0.3, 0.0, 0.5), (0.5, -1.0, 0.2), (0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (0.5, 0.5, 0.4)),
)
def move_label(label: float, slope: float, rate: float) -> float:
    return min(1.0, max(0.0, label - rate * slope))


@exercise(
    hints=(
        "The chance of k passes is C(n, k) y^k (1 - y)^(n - k); take -λ times its logarithm.",
        "The derivative of log y is 1 / y, that of log(1 - y) is -1 / (1 - y).",
    ),
    cases=(
        (
            (0.5, 3, 4, 1.0),
            "Differentiate -λ (k log y + (n - k) log(1 - y)) by y; the binomial factor is constant.",
        ),
        ((0.75, 3, 4, 1.0), "At the label k / n the likelihood is at its peak: the slope is 0."),
        ((0.5, 12, 16, 1.0), "Counts, not shares: sixteen rollouts hold a label four times as hard as four."),
        ((0.5, 3, 4, 0.1), "λ scales the whole of it."),
    ),
    more=((0.25, 0, 4, 1.0), (0.9, 4, 4, 2.0), (0.3, 2, 10, 0.5)),
)
def likelihood_slope(label: float, passes: int, rollouts: int, strength: float) -> float:
    return -strength * (passes / label - (rollouts - passes) / (1 - label))


@exercise(
    hints=(
        "One step moves the parameters by -η / n w (p - y) x for each row; the weight enters once.",
        "The derivative by w_i is -η / n (p_i - y_i) x_i; along the meta gradient v it is the product with v.",
    ),
    cases=(
        ((1.0, [[1.0, 0.0]], [0.8], [0.0], [0.5, 2.0]), "A step goes *against* (p - y) x, so there is a minus."),
        ((1.0, [[1.0, 1.0]], [0.3], [0.3], [1.0, 1.0]), "A row whose score is its label has no pull to be weighted."),
        (
            (0.5, [[1.0, 2.0], [3.0, -1.0]], [0.5, 0.9], [1.0, 0.0], [1.0, 1.0]),
            "One number for each row: -η/n (p - y) (x·v), n the number of rows.",
        ),
    ),
    more=((2.0, [[1.0], [2.0], [3.0]], [0.1, 0.5, 0.7], [0.0, 1.0, 0.5], [-1.0]),),
)
def weight_slope(
    lr: float, features: list[list[float]], scores: list[float], labels: list[float], meta_gradient: list[float]
) -> np.ndarray:
    pull = np.asarray(scores) - np.asarray(labels)
    return -lr / len(features) * pull * (np.asarray(features) @ np.asarray(meta_gradient))


@exercise(
    hints=(
        "Every subset of n candidates is drawn as often: average over all of them.",
        "`itertools.combinations` lists them; in each the highest score is picked.",
        "Of candidates with equal scores each is picked as often: take the mean of their outcomes.",
    ),
    cases=(
        (([0.9, 0.1, 0.5], [True, False, False], 3), "With all candidates in hand the highest score is picked."),
        (([0.9, 0.1, 0.5], [True, False, False], 2), "Average over all pairs; the top one is not in each."),
        (([0.5, 0.5], [True, False], 2), "On a tie each of the best is picked as often."),
    ),
    more=(
        ([0.1, 0.2, 0.3, 0.4], [True, False, False, True], 2),
        ([0.9, 0.9, 0.1], [True, False, True], 2),
        ([0.9, 0.9, 0.1], [False, True, True], 1),
        ([-1.0, -2.0, -1.0], [True, True, False], 3),
        ([0.5] * 4, [True, False, False, False], 2),
    ),
)
def best_of_n(scores: list[float], passed: list[bool], n: int) -> float:
    outcomes = []
    for subset in itertools.combinations(range(len(scores)), n):
        top = max(scores[i] for i in subset)
        outcomes.append(np.mean([passed[i] for i in subset if scores[i] == top]))
    return float(np.mean(outcomes))


@exercise(
    hints=(
        "If neither method is better, each discordant problem is a fair coin.",
        "Add C(n, k) / 2^n for k up to the smaller of wins and losses.",
        "Twice that, for both sides, and at most 1.",
    ),
    cases=(
        ((1, 0), "One discordant problem proves nothing: p = 1."),
        ((6, 1), "Two-sided: twice the chance of so few losses among n fair coin throws."),
        ((3, 3), "A p-value is at most 1."),
        ((1, 6), "It does not matter which method is named first: the smaller of wins and losses counts."),
    ),
    more=((0, 5), (2, 9), (9, 2), (0, 0), (4, 5)),
)
def mcnemar(wins: int, losses: int) -> float:
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n
    return min(1.0, 2 * tail)


@exercise(
    hints=(
        "The smallest of m p-values is multiplied by m, the next by m - 1, and so on.",
        "Walk through them in rising order, keep the largest product so far, and cut it at 1.",
        "`np.argsort` gives the order; write each result where its p-value came from.",
    ),
    cases=(
        (([0.01, 0.04],), "The smallest p-value times their number m, the next times m - 1, and so on."),
        (([0.04, 0.01],), "Answer in the order of the question, not in sorted order."),
        (([0.01, 0.02, 0.021],), "None may fall below an adjusted p-value before it: take the running maximum."),
        (([0.6, 0.7],), "A p-value is at most 1."),
    ),
    more=(([0.03, 0.01, 0.02],), ([0.05],), ([0.01, 0.01, 0.9, 0.5],), ([0.2, 0.001, 0.04, 0.04, 0.03],)),
)
def holm(p_values: list[float]) -> np.ndarray:
    return statistics.holm(p_values)


@exercise(
    hints=("A percentage is 100 times a count, divided by the problems.", "`round(percent / 100 * problems)`"),
    cases=(
        ((100.0, 31), "A published percentage is a count divided by the number of problems: undo it."),
        ((80.9, 131), "A count is whole: round to the nearest one, do not cut off."),
        ((80.2, 131), "Round to the nearest count: always going up gives some method a problem too many."),
    ),
    more=((0.0, 10), (57.4, 61), (77.1, 131), (62.3, 61)),
)
def problems_solved(percent: float, problems: int) -> int:
    return round(percent / 100 * problems)


@exercise(
    hints=(
        "Which steps of a program are rolled out? Not the last one.",
        "problems · programs · (steps - 1) · rollouts · tokens",
    ),
    cases=(
        ((10, 1, 3, 4, 100), "The last step needs no rollouts: its label is the verdict."),
        ((10, 4, 2, 16, 100), "Every program of every problem is rolled out from each step but the last."),
        ((1, 1, 1, 4, 100), "A program of one step has none to roll out: it costs 0."),
    ),
    more=((62, 1, 3, 4, 150), (3, 2, 5, 1, 10)),
)
def rollout_tokens(problems: int, programs: int, steps: int, rollouts: int, tokens: int) -> int:
    return problems * programs * (steps - 1) * rollouts * tokens


@exercise(
    hints=(
        "With k losses the better method has lead + k wins.",
        "Try k = 0, 1, 2, …, as long as the exact test stays at or below `level`.",
    ),
    cases=(
        ((8, 0.05), "The more the better method loses, the more it wins: test lead + losses against losses."),
        ((6, 0.05), "Try 0 losses, then 1, …: the answer is the last number that is still significant."),
        ((5, 0.05), "Five to nothing is p = 0.0625: no number of losses will do, so answer None."),
        ((8, 0.2), "Compare with `level`, whatever it is."),
    ),
    more=((10, 0.05), (20, 0.01), (6, 0.01), (7, 0.1)),
)
def losses_allowed(lead: int, level: float) -> int | None:
    if mcnemar(lead, 0) > level:
        return None
    return next(lost for lost in itertools.count() if mcnemar(lead + lost + 1, lost + 1) > level)
