"""Every check passes its reference and fails planted wrong answers with the hint that helps."""

import ast
import math

import numpy as np
import pytest

from dreamprm_lib.show.exercises import EXERCISES, check


def bool_share(code, is_good):
    """A share over top-level functions."""
    found = [bool(is_good(f)) for f in ast.parse(code).body if isinstance(f, ast.FunctionDef)]
    return sum(found) / len(found)


def below_half(value, rollouts, tie):
    """The chance of a label below 1/2, where one of exactly 1/2 counts `tie`."""
    chance = [math.comb(rollouts, k) * value**k * (1 - value) ** (rollouts - k) for k in range(rollouts + 1)]
    return sum(c * (1 if 2 * k < rollouts else tie if 2 * k == rollouts else 0) for k, c in enumerate(chance))


def votes(outputs, count_crashes=False):
    """How often each program prints what a program, also itself, prints."""
    columns = list(zip(*outputs, strict=True))
    return [sum(c.count(c[k]) for c in columns if count_crashes or c[k] is not None) for k in range(len(outputs))]


def last_best(values):
    return max(range(len(values)), key=lambda k: (values[k], k))


def comb_ratio(n, c, k):
    return math.comb(n - c, k) / math.comb(n, k)


def bin_gaps(scores, outcomes, bins):
    """The distance of score and outcome in each bin that is not empty."""
    where = np.minimum(np.array(scores) * bins, bins - 1).astype(int)
    scores, outcomes = np.array(scores), np.array(outcomes, float)
    return [abs(scores[where == b].mean() - outcomes[where == b].mean()) for b in set(where)]


def stepped(p, most=1.0):
    """Holm's factors without the running maximum."""
    rank = {k: r for r, k in enumerate(sorted(range(len(p)), key=lambda k: p[k]))}
    return [min(most, (len(p) - rank[k]) * p[k]) for k in range(len(p))]


def capped_never(p):
    found = stepped(p, math.inf)
    return [max(found[j] for j in range(len(p)) if p[j] <= p[k]) for k in range(len(p))]


def sign_test(wins, losses):
    return min(1.0, 2 * sum(math.comb(wins + losses, k) for k in range(losses + 1)) / 2 ** (wins + losses))


def most_losses(lead, level):
    return next(k for k in range(99) if sign_test(lead + k, k) > level) - 1 if sign_test(lead, 0) <= level else None


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
    "share_documented": [
        (lambda c: min(1.0, c.count('"""') / 2), "divide by the number"),
        (lambda c: sum(ast.get_docstring(f) is not None for f in ast.parse(c).body) / len(ast.parse(c).body), "raised"),
        (lambda c: bool_share(c, lambda f: "'" in ast.unparse(f) or ast.get_docstring(f)), "opens"),
        (lambda c: bool_share(c, ast.get_docstring) if "def" in c else 1.0, "answer 0"),
    ],
    "is_chain": [
        (lambda c: "add()" in c, "High-level first"),
        (lambda c: any(c.count(f"{f.name}(") > 1 for f in ast.parse(c).body if hasattr(f, "name")), "High-level first"),
        (lambda c: c.startswith("def main") and c.count("add(") > 1, "no call"),
        (lambda c: c.startswith("def main():\n    add()"), "walk the whole tree"),
    ],
    "label_error": [
        (lambda p, n: p * (1 - p) / n, "standard deviation"),
        (lambda p, n: math.sqrt(0.25 / n), "value is p"),
    ],
    "rollouts_needed": [
        (lambda p, e: p * (1 - p) / e**2, "smallest whole n|round up"),
        (lambda p, e: math.ceil(p * (1 - p) / e), "Solve"),
    ],
    "wrong_side": [
        (lambda p, n: math.sqrt(p * (1 - p) / n), "wrong as often"),
        (lambda p, n: 1 - p, "binomial chances"),
        (lambda p, n: below_half(p, n, 0), "counts half"),
        (lambda p, n: below_half(p, n, 1), "counts half"),
        (lambda p, n: below_half(p, n, 0.5), "above it"),
    ],
    "pass_at_k": [
        (lambda n, c, k: 1 - (1 - c / n) ** k, "draw only failures"),
        (lambda n, c, k: c / n, "draw only failures"),
    ],
    "mixed_share": [
        (lambda p: np.mean([any(x) for x in p]), "some, but not all"),
        (lambda p: np.mean([not all(x) for x in p]), "every candidate fails"),
    ],
    "consensus_pick": [
        (lambda o: 0, "every *other*"),
        (lambda o: int(np.argmax([o.count(x) for x in o])), "input by input"),
        (lambda o: int(np.argmax(votes(o, count_crashes=True))), "two crashes"),
        (lambda o: last_best(votes(o)), "of equals"),
    ],
    "candidates_needed": [
        (lambda n, c, g: math.ceil(math.log(1 - g) / math.log(1 - c / n)), "exact pass@k"),
        (lambda n, c, g: next((k for k in range(n + 1) if 1 - comb_ratio(n, c, k) >= g), n), "answer None"),
        (lambda n, c, g: next((k for k in range(1, n) if 1 - comb_ratio(n, c, k) > g), None), "must pass"),
    ],
    "ranking": [
        (lambda g, b: np.mean([x > y for x in g for y in b]), "tie"),
        (lambda g, b: float(max(g) > max(b)), "every passing"),
    ],
    "soft_cross_entropy": [
        (lambda p, y: -math.log(p), "label 0"),
        (lambda p, y: -math.log(p if y > 0.5 else 1 - p), "soft label"),
    ],
    "calibration_error": [
        (lambda s, y, b: float(np.mean(np.abs(np.array(s) - y))), "mean score"),
        (lambda s, y, b: abs(float(np.mean(s)) - float(np.mean(y))), "each bin first"),
        (lambda s, y, b: float(np.mean(bin_gaps(s, y, b))), "number of its rows"),
    ],
    "likelihood_slope": [
        (lambda y, k, n, s: s * (k / y - (n - k) / (1 - y)), "Differentiate"),
        (lambda y, k, n, s: -s * 4 * (k / n / y - (1 - k / n) / (1 - y)), "Counts, not shares"),
        (lambda y, k, n, s: -(k / y - (n - k) / (1 - y)), "scales"),
    ],
    "weight_slope": [
        (lambda lr, x, p, y, v: lr / len(x) * (np.array(p) - y) * (np.array(x) @ v), "against"),
        (lambda lr, x, p, y, v: -lr * (np.array(p) - y) * (np.array(x) @ v), "number of rows"),
        (lambda lr, x, p, y, v: -lr / len(x) * sum((np.array(p) - y) * (np.array(x) @ v)), "One number|against"),
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
    "holm": [
        (lambda p: [min(1.0, len(p) * x) for x in p], "m - 1"),
        (lambda p: sorted(stepped(p)), "order of the question"),
        (stepped, "running maximum"),
        (lambda p: capped_never(p), "at most 1"),
    ],
    "problems_solved": [
        (lambda p, n: p / 100 * n, "count|nearest"),
        (lambda p, n: int(p / 100 * n), "undo it|nearest"),
    ],
    "rollout_tokens": [
        (lambda p, q, s, r, t: p * q * s * r * t, "last step"),
        (lambda p, q, s, r, t: p * (s - 1) * r * t, "Every program"),
    ],
    "losses_allowed": [
        (lambda d, a: 0, "more it wins"),
        (lambda d, a: next(k for k in range(99) if sign_test(d + k, k) > a), "more it wins"),
        (lambda d, a: next(k for k in range(99) if sign_test(d + k, k) > a) - 1, "answer None"),
        (lambda d, a: most_losses(d, 0.05), "`level`"),
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


@pytest.mark.parametrize("gap", [..., lambda *_: ...])
def test_a_gap_is_no_wrong_answer(gap):
    answer = check("share_passed", gap)
    assert answer.right is None and repr(answer).startswith("– share_passed waits")


def test_an_answer_that_changes_its_arguments_does_no_harm():
    def careless(verdicts):
        share = sum(v == "passed" for v in verdicts) / len(verdicts)
        verdicts.clear()
        return share

    assert check("share_passed", careless).right and check("share_passed", careless).right
