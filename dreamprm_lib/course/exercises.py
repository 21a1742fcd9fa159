"""Exercises of the notebooks: a reference solution each, and cases with their hints, in the order of the chapters."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable

import numpy as np

from dreamprm_lib.evidence.statistics import holm
from dreamprm_lib.reward_model import calibration_error
from dreamprm_lib.course import solutions
from dreamprm_lib.course.checks import Answer, Exercise

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
            (
                (["passed"] * 3,),
                (["runtime_error", "passed", "passed"],),
                (["not passed", "passed", "killed", "killed"],),
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
            (([[0.0, 1.0], [0.6, 0.6], [0.1]],), ([[0.1], [0.3, 0.3], [0.3]],), ([[0.9, 0.1, 0.2], [0.2, 0.5]],)),
        ),
        Exercise(
            "count_steps",
            solutions.count_steps,
            (
                (("def main():\n    pass\n\ndef helper():\n    pass\n",), "Each top-level function is a step."),
                (("def main():\n    def inner():\n        pass\n    inner()\n",), "A nested function is not a step."),
                (('TEXT = "def fake(): pass"\ndef main():\n    pass\n',), "Words in a string are not code: parse it."),
                (("async def main():\n    pass\n",), "`async def` defines a function too."),
            ),
            (
                ('def main():\n    pass\n\nTEXT = """\ndef fake():\n    pass\n"""\n',),
                ("class Box:\n    def add(self):\n        pass\n\ndef  main():\n    pass\n",),
                ("if True:\n    def main():\n        pass\nasync  def run(): pass\ndef\tdone(): pass\n",),
                ("@cached\ndef main(): pass\n# def old(): pass\nadd = lambda: 1\n",),
                ("",),
            ),
        ),
        Exercise(
            "running_prefixes",
            solutions.running_prefixes,
            (
                ((["a", "b", "c"],), "Prefix k is the text of steps 1 to k, joined."),
                ((["def f(): pass\n", "f()\n"],), "Join with nothing between: the texts carry their own line ends."),
                (([],), "An empty program has no prefixes."),
            ),
            ((["x"],), (["", "a", ""],), (["a\n", "\n", " b"],)),
        ),
        Exercise(
            "share_documented",
            solutions.share_documented,
            (
                (
                    ('def main():\n    """Read, then add."""\n    add()\n\ndef add():\n    pass\n',),
                    "Count the functions whose body opens with a string, and divide by the number of functions.",
                ),
                (
                    ("def main():\n    # read, then add\n    pass\n",),
                    "A comment is no docstring: it is not in the tree.",
                ),
                (
                    ('def main():\n    x = """no plan"""\n    return x\n',),
                    "Only a string that *opens* the body counts.",
                ),
                (('"""About."""\nprint(1)\n',), "Without a function there is no share to take: answer 0."),
            ),
            (
                ("def main():\n    'One line.'\ndef add():\n    r'''Raw.'''\nasync def run():\n    pass\n",),
                ("def main():\n    b'''Bytes.'''\ndef add():\n    f'''Made.'''\n",),
                ("def main():\n    def inner():\n        '''Plan.'''\n",),
                ("class Box:\n    '''A box.'''\n    def add(self):\n        '''Adds.'''\n",),
            ),
        ),
        Exercise(
            "is_chain",
            solutions.is_chain,
            (
                (
                    ("def main():\n    add()\n\ndef add():\n    pass\n",),
                    "The first function calls a later one by its name.",
                ),
                (
                    ("def add():\n    pass\n\ndef main():\n    add()\n",),
                    "High-level first: here the helper comes first.",
                ),
                (('def main():\n    print("add()")\n\ndef add():\n    pass\n',), "A name in a string is no call."),
                (
                    ("def main():\n    return [2 * add(x) for x in range(3)]\n\ndef add(x):\n    return x\n",),
                    "A call may stand deep in an expression: walk the whole tree of the function.",
                ),
                (("def main(n):\n    return main(n - 1)\n",), "A function that calls itself is not a chain."),
                (("print(1)\n",), "A program without functions is not a chain."),
            ),
            (
                ("def main():\n    rule = add\n    return rule\n\ndef add():\n    pass\n",),
                ("def main(xs):\n    return map(add, xs)\n\ndef add(x):\n    return x\n",),
                ("def main():\n    pass\n\ndef add():\n    pass\n\nadd()\n",),
                ("def main(box):\n    box.add()\n\ndef add():\n    pass\n",),
                ("def main():\n    # add()\n    addition()\n\ndef add():\n    pass\n",),
                ("def main():\n    print(1)\n\ndef add():\n    show()\n\ndef show():\n    pass\n",),
                ("def main():\n    if on:\n        show ()\n\ndef add():\n    pass\n\ndef show():\n    pass\n",),
                ("",),
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
            ((0.25, 1), (1.0, 8), (0.3, 10)),
        ),
        Exercise(
            "rollouts_needed",
            lambda value, error: math.ceil(round(value * (1 - value) / error**2, 9)),
            (
                ((0.5, 0.25), "Solve sqrt(p (1 - p) / n) <= error for the smallest whole n."),
                ((0.3, 0.11), "A share of a rollout cannot be bought: round up."),
                ((0.5, 0.05), "Half the error costs four times the rollouts."),
            ),
            ((0.1, 0.05), (0.5, 0.5), (0.9, 0.031), (0.0, 0.1)),
        ),
        Exercise(
            "wrong_side",
            solutions.wrong_side,
            (
                ((0.8, 1), "One rollout gives the label 0 or 1: it is wrong as often as the rollout is."),
                ((0.8, 3), "Add the binomial chances C(n, k) p^k (1 - p)^(n - k) of every label below 1/2."),
                ((0.8, 4), "A label of exactly 1/2 is on no side: it counts half."),
                ((0.3, 5), "For a value below 1/2 the wrong side is above it."),
            ),
            ((0.9, 2), (0.1, 4), (0.6, 7), (1.0, 3), (0.0, 2)),
        ),
        Exercise(
            "pass_at_k",
            solutions.pass_at_k,
            (
                ((8, 2, 1), "pass@1 is the share that passes."),
                ((8, 2, 4), "1 - C(n - c, k) / C(n, k): one minus the chance to draw only failures."),
                ((8, 6, 4), "With fewer than k failures a draw of k must hit: C(2, 4) is 0, so pass@k is 1."),
            ),
            ((16, 4, 8), (5, 0, 3), (5, 5, 1), (10, 3, 10), (10, 3, 2)),
        ),
        Exercise(
            "mixed_share",
            lambda problems: float(np.mean([0 < sum(p) < len(p) for p in problems])),
            (
                (([[True, False], [True, True]],), "A problem is mixed if some, but not all, candidates pass."),
                (([[False, False], [False, False]],), "Where every candidate fails there is nothing to select."),
                (([[True], [False]],), "One candidate alone is never mixed."),
            ),
            (([[True, False, False], [False] * 3, [True] * 3, [False, True, True]],), ([[False, True]] * 2,)),
        ),
        Exercise(
            "consensus_pick",
            solutions.consensus_pick,
            (
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
            (([["1"], ["2"], ["3"], ["3"], ["3"]],), ([["1", None], ["1", "2"], ["4", "2"], ["4", None]],), ([["5"]],)),
        ),
        Exercise(
            "candidates_needed",
            solutions.candidates_needed,
            (
                ((16, 4, 0.9), "Draw without replacement: use the exact pass@k, not 1 - (1 - c/n)^k."),
                ((16, 4, 1.0), "With n - c + 1 candidates one must pass."),
                ((16, 16, 0.5), "At least one candidate has to be drawn."),
                ((16, 0, 0.5), "Where nothing passes no number is enough: answer None."),
            ),
            ((16, 4, 0.9), (8, 8, 0.99), (8, 0, 0.1), (8, 1, 1.0), (16, 2, 0.5)),
        ),
        Exercise(
            "ranking",
            solutions.ranking,
            (
                (([0.9, 0.6], [0.7]), "Compare every passing candidate with every failing one."),
                (([0.5], [0.5]), "A tie counts half."),
                (([0.1], [0.2, 0.3]), "If all failing ones score higher, the ranking is 0."),
            ),
            (([1.0, 1.0], [1.0]), ([0.9, 0.1], [0.5]), ([0.2], [0.1, 0.3, 0.2]), ([-1.0, -2.0], [-3.0])),
        ),
        Exercise(
            "soft_cross_entropy",
            lambda score, label: -(label * math.log(score) + (1 - label) * math.log(1 - score)),
            (
                ((0.8, 1.0), "For label 1 it is -log(score)."),
                ((0.8, 0.0), "For label 0 it is -log(1 - score)."),
                ((0.6, 0.25), "A soft label mixes both: -(y log p + (1 - y) log(1 - p))."),
            ),
            ((0.3, 0.7), (0.5, 0.5), (0.99, 1.0), (0.2, 0.5)),
        ),
        Exercise(
            "calibration_error",
            calibration_error,
            (
                (([0.9, 0.9], [True, False], 10), "In a bin: the distance of its mean score from its share of passes."),
                (
                    ([0.9, 0.9, 0.1, 0.1], [True, False, True, False], 2),
                    "Take the distance in each bin first: a bin that is too high must not make up for one too low.",
                ),
                (([0.1, 0.1, 0.1, 0.9], [False] * 4, 2), "A bin counts by the number of its rows."),
                (([1.0], [True], 5), "A score of 1 belongs to the last bin."),
            ),
            (([0.02, 0.05, 0.15, 0.95], [False, True, False, True], 10), ([0.3, 0.4], [True, False], 1)),
        ),
        Exercise(
            "label_slope",
            lambda lr, features, meta_gradient: (lr / len(features)) * np.asarray(features) @ np.asarray(meta_gradient),
            (
                ((1.0, [[1.0, 0.0]], [0.5, 2.0]), "For z = φ·x the derivative of z along v is x·v."),
                ((0.5, [[1.0, 2.0], [3.0, -1.0]], [1.0, 1.0]), "Do not forget η / n, n the number of rows."),
            ),
            ((2.0, [[0.0, 0.0], [1.0, 1.0], [2.0, -1.0]], [3.0, 0.5]), (0.0, [[1.0]], [1.0])),
        ),
        Exercise(
            "move_label",
            lambda label, slope, rate: min(1.0, max(0.0, label - rate * slope)),
            (
                ((0.5, 2.0, 0.1), "Downhill: subtract rate · slope."),
                ((0.1, 3.0, 0.1), "A label is a probability: keep it at 0 or above."),
                ((0.95, -3.0, 0.1), "A label is a probability: keep it at 1 or below."),
            ),
            ((0.3, 0.0, 0.5), (0.5, -1.0, 0.2), (0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (0.5, 0.5, 0.4)),
        ),
        Exercise(
            "likelihood_slope",
            lambda label, passes, rollouts, strength: -strength * (passes / label - (rollouts - passes) / (1 - label)),
            (
                (
                    (0.5, 3, 4, 1.0),
                    "Differentiate -λ (k log y + (n - k) log(1 - y)) by y; the binomial factor is constant.",
                ),
                ((0.75, 3, 4, 1.0), "At the label k / n the likelihood is at its peak: the slope is 0."),
                ((0.5, 12, 16, 1.0), "Counts, not shares: sixteen rollouts hold a label four times as hard as four."),
                ((0.5, 3, 4, 0.1), "λ scales the whole of it."),
            ),
            ((0.25, 0, 4, 1.0), (0.9, 4, 4, 2.0), (0.3, 2, 10, 0.5)),
        ),
        Exercise(
            "weight_slope",
            solutions.weight_slope,
            (
                (
                    (1.0, [[1.0, 0.0]], [0.8], [0.0], [0.5, 2.0]),
                    "A step goes *against* (p - y) x, so there is a minus.",
                ),
                (
                    (0.5, [[1.0, 2.0], [3.0, -1.0]], [0.5, 0.9], [1.0, 0.0], [1.0, 1.0]),
                    "One number a row: -η/n (p - y) (x·v), n the number of rows.",
                ),
                (
                    (1.0, [[1.0, 1.0]], [0.3], [0.3], [1.0, 1.0]),
                    "A row whose score is its label has no pull to be weighted.",
                ),
            ),
            ((2.0, [[1.0], [2.0], [3.0]], [0.1, 0.5, 0.7], [0.0, 1.0, 0.5], [-1.0]),),
        ),
        Exercise(
            "best_of_n",
            solutions.best_of_n,
            (
                (
                    ([0.9, 0.1, 0.5], [True, False, False], 3),
                    "With all candidates in hand the highest score is picked.",
                ),
                (([0.9, 0.1, 0.5], [True, False, False], 2), "Average over all pairs; the top one is not in each."),
                (([0.5, 0.5], [True, False], 2), "On a tie each of the best is picked as often."),
            ),
            (
                ([0.1, 0.2, 0.3, 0.4], [True, False, False, True], 2),
                ([0.9, 0.9, 0.1], [True, False, True], 2),
                ([0.9, 0.9, 0.1], [False, True, True], 1),
                ([-1.0, -2.0, -1.0], [True, True, False], 3),
                ([0.5] * 4, [True, False, False, False], 2),
            ),
        ),
        Exercise(
            "mcnemar",
            solutions.mcnemar,
            (
                ((1, 0), "One discordant problem proves nothing: p = 1."),
                ((6, 1), "Two-sided: twice the chance of so few losses among n fair coin throws."),
                ((3, 3), "A p-value is at most 1."),
            ),
            ((1, 6), (0, 5), (2, 9), (9, 2), (0, 0), (4, 5)),
        ),
        Exercise(
            "holm",
            holm,
            (
                (([0.01, 0.04],), "The smallest p-value times their number m, the next times m - 1, and so on."),
                (([0.04, 0.01],), "Answer in the order of the question, not in sorted order."),
                (
                    ([0.01, 0.02, 0.021],),
                    "None may fall below an adjusted p-value before it: take the running maximum.",
                ),
                (([0.6, 0.7],), "A p-value is at most 1."),
            ),
            (([0.03, 0.01, 0.02],), ([0.05],), ([0.01, 0.01, 0.9, 0.5],), ([0.2, 0.001, 0.04, 0.04, 0.03],)),
        ),
        Exercise(
            "problems_solved",
            lambda percent, problems: round(percent / 100 * problems),
            (
                ((80.2, 131), "A published percentage is a count divided by the number of problems: undo it."),
                ((80.9, 131), "Round to the nearest whole problem."),
            ),
            ((100.0, 31), (57.4, 61), (0.0, 10), (77.1, 131), (62.3, 61)),
        ),
        Exercise(
            "rollout_tokens",
            lambda problems, programs, steps, rollouts, tokens: problems * programs * (steps - 1) * rollouts * tokens,
            (
                ((10, 1, 3, 4, 100), "The last step needs no rollouts: its label is the verdict."),
                ((10, 4, 2, 16, 100), "Every program of every problem is rolled out from each open step."),
            ),
            ((1, 1, 1, 4, 100), (62, 1, 3, 4, 150), (3, 2, 5, 1, 10)),
        ),
        Exercise(
            "losses_allowed",
            solutions.losses_allowed,
            (
                ((8, 0.05), "The more the better method loses, the more it wins: test lead + losses against losses."),
                ((6, 0.05), "Try 0 losses, then 1, …: the answer is the last number that is still significant."),
                ((5, 0.05), "Five to nothing is p = 0.0625: no number of losses will do, so answer None."),
                ((8, 0.2), "Compare with `level`, whatever it is."),
            ),
            ((10, 0.05), (20, 0.01), (6, 0.01), (7, 0.1)),
        ),
    )
}


def check(name: str, answer: Callable) -> Answer:
    """Check the learner's function for the exercise of that name."""
    if name not in EXERCISES:
        near = difflib.get_close_matches(str(name), EXERCISES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(EXERCISES)}."
        return Answer(False, f"There is no exercise {name!r}: {hint}")
    return EXERCISES[name].check(answer)
