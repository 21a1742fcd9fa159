"""Every check passes its reference and fails planted wrong answers with the hint that helps."""

import math

import numpy as np
import pytest

from dreamprm_lib.show.exercises import EXERCISES, check

PLANTED = {  # exercise: [(wrong answer, a word of the hint it must get)]
    "share_passed": [
        (lambda v: v.count("passed"), "divide"),
        (lambda v: sum(x != "wrong_answer" for x in v) / len(v), "every other kind"),
    ],
    "best_candidate": [
        (lambda s: int(np.argmax([sum(x) for x in s])), "mean, not a sum"),
        (lambda s: len(s) - 1 - int(np.argmax([np.mean(x) for x in reversed(s)])), "tie"),
        (lambda s: max(np.mean(x) for x in s), "index"),
    ],
    "count_steps": [
        (lambda c: c.count("def "), "nested"),
        (lambda c: sum(line.startswith("def ") for line in c.splitlines()), "async"),
    ],
    "running_prefixes": [
        (lambda t: t, "joined"),
        (lambda t: ["\n".join(t[: k + 1]) for k in range(len(t))], "joined"),
        (lambda t: ["".join(t[: k + 1]) for k in range(len(t))] or [""], "empty program"),
    ],
    "label_error": [
        (lambda p, n: p * (1 - p) / n, "standard deviation"),
        (lambda p, n: math.sqrt(0.25 / n), "value is p"),
    ],
    "rollouts_needed": [
        (lambda p, e: p * (1 - p) / e**2, "smallest whole n|round up"),
        (lambda p, e: math.ceil(p * (1 - p) / e), "Solve"),
    ],
    "pass_at_k": [
        (lambda n, c, k: 1 - (1 - c / n) ** k, "draw only failures"),
        (lambda n, c, k: c / n, "draw only failures"),
    ],
    "mixed_share": [
        (lambda p: np.mean([any(x) for x in p]), "some, but not all"),
        (lambda p: np.mean([not all(x) for x in p]), "every candidate fails"),
    ],
    "ranking": [
        (lambda g, b: np.mean([x > y for x in g for y in b]), "tie"),
        (lambda g, b: float(max(g) > max(b)), "every passing"),
    ],
    "soft_cross_entropy": [
        (lambda p, y: -math.log(p), "label 0"),
        (lambda p, y: -math.log(p if y > 0.5 else 1 - p), "soft label"),
    ],
    "label_slope": [
        (lambda lr, x, v: lr * np.asarray(x) @ np.asarray(v), "η / n"),
        (lambda lr, x, v: -lr / len(x) * np.asarray(x) @ np.asarray(v), "x·v"),
    ],
    "move_label": [
        (lambda y, s, r: y + r * s, "Downhill"),
        (lambda y, s, r: max(0.0, y - r * s), "1 or below"),
        (lambda y, s, r: min(1.0, y - r * s), "0 or above"),
    ],
    "best_of_n": [
        (lambda s, p, n: float(p[int(np.argmax(s))]), "Average over all"),
        (lambda s, p, n: float(np.mean(p)), "highest score"),
    ],
    "mcnemar": [
        (lambda w, lo: 0.5 ** max(w + lo - 1, 0) if lo == 0 else 0.0, "Two-sided"),
        (lambda w, lo: 2 * sum(math.comb(w + lo, k) for k in range(min(w, lo) + 1)) / 2 ** (w + lo), "at most 1"),
    ],
    "problems_solved": [
        (lambda p, n: p / 100 * n, "count|nearest"),
        (lambda p, n: int(p / 100 * n), "undo it|nearest"),
    ],
    "rollout_tokens": [
        (lambda p, q, s, r, t: p * q * s * r * t, "last step"),
        (lambda p, q, s, r, t: p * (s - 1) * r * t, "Every program"),
    ],
}


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_passes(name):
    answer = check(name, EXERCISES[name].reference)
    assert answer.right, answer.message


def test_every_exercise_has_planted_wrong_answers():
    assert set(PLANTED) == set(EXERCISES) and all(len(wrong) >= 2 for wrong in PLANTED.values())


@pytest.mark.parametrize("name, wrong, hint", [(n, w, h) for n, rows in PLANTED.items() for w, h in rows])
def test_a_wrong_answer_gets_its_hint(name, wrong, hint):
    answer = check(name, wrong)
    assert not answer.right
    assert any(part in answer.message for part in hint.split("|")), answer.message
    assert repr(answer).startswith("✘")


@pytest.mark.parametrize(
    "answer, said", [(3, "function itself"), (lambda: 1, "raised TypeError"), (lambda v: None, "gave None")]
)
def test_what_is_no_answer_is_told_so(answer, said):
    assert said in check("share_passed", answer).message
