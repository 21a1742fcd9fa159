"""Every check passes its reference and fails planted wrong answers with the hint that helps."""

import ast
import itertools
import math
import re

import numpy as np
import pytest

from dreamprm_lib.course.checks import EXERCISES
from dreamprm_lib.course.exercises import check, hint


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


def by_a_name(code):
    """The first function mentions a later one, whether it calls it or not."""
    first, *later = [n for n in ast.parse(code).body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)] or [None]
    return any(isinstance(n, ast.Name) and n.id in {f.name for f in later} for n in (ast.walk(first) if first else ()))


def called_later(code, kind):
    """As it should be, but a method of that name counts too."""
    first, *later = [n for n in ast.parse(code).body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)] or [None]
    calls = [n.func for n in (ast.walk(first) if first else ()) if isinstance(n, ast.Call)]
    names = {n.attr if isinstance(n, kind) else getattr(n, "id", None) for n in calls}
    return bool(names & {f.name for f in later})


def any_later_call(code):
    """Anywhere in the program, not in the first function alone."""
    tree = ast.parse(code)
    names = {n.name for n in tree.body[1:] if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    return any(isinstance(n, ast.Call) and getattr(n.func, "id", None) in names for n in ast.walk(tree))


def first_of_equals(scores, passed, n):
    picks = itertools.combinations(range(len(scores)), n)
    return float(np.mean([passed[max(some, key=lambda k: scores[k])] for some in picks]))


PLANTED = {  # exercise: [(wrong answer, a word of the hint it must get)]
    "share_passed": [
        (lambda v: v.count("passed"), "divide"),
        (lambda v: sum(x != "wrong_answer" for x in v) / len(v), "every other kind"),
        (
            lambda v: v.count("passed") / max(1, v.count("passed") + v.count("wrong_answer")),
            "every other kind|whole words",
        ),
        (lambda v: sum("passed" in x for x in v) / len(v), "whole words"),
    ],
    "best_candidate": [
        (lambda s: int(np.argmax([sum(x) for x in s])), "mean, not a sum"),
        (lambda s: len(s) - 1 - int(np.argmax([np.mean(x) for x in reversed(s)])), "tie"),
        (lambda s: max(np.mean(x) for x in s), "index"),
        (lambda s: int(np.argmax([max(x) for x in s])), "not a maximum"),
    ],
    "count_steps": [
        (lambda c: c.count("def "), "nested"),
        (lambda c: sum(line.startswith("def ") for line in c.splitlines()), "async"),
        (lambda c: len(re.findall(r"^(?:async )?def ", c, re.MULTILINE)), "should give 1"),
        (lambda c: len(re.findall(r"^(?:async\s+)?def\s", c, re.MULTILINE)), "should give 1"),
        (
            lambda c: sum(isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.walk(ast.parse(c))),
            "nested",
        ),
        (lambda c: len(ast.parse(c).body), "not code"),
    ],
    "running_prefixes": [
        (lambda t: t, "joined"),
        (lambda t: ["\n".join(t[: k + 1]) for k in range(len(t))], "joined"),
        (lambda t: ["".join(t[: k + 1]) for k in range(len(t))] or [""], "empty program"),
        (lambda t: ["".join(t[:k]) for k in range(len(t))], "joined"),
        (lambda t: ["".join(t[: k + 1]).strip() for k in range(len(t))], "carry their own"),
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
        (by_a_name, "should give False"),
        (lambda c: called_later(c, ast.Attribute), "should give False"),
        (lambda c: any_later_call(c), "itself|should give False|comes first"),
    ],
    "label_error": [
        (lambda p, n: p * (1 - p) / n, "standard deviation|square root"),
        (lambda p, n: math.sqrt(0.25 / n), "value is p"),
        (lambda p, n: math.sqrt(p * (1 - p)) / n, "standard deviation|square root"),
        (lambda p, n: math.sqrt(p / n), "standard deviation|square root"),
    ],
    "rollouts_needed": [
        (lambda p, e: p * (1 - p) / e**2, "smallest whole n|round up"),
        (lambda p, e: math.ceil(p * (1 - p) / e), "Solve"),
        (lambda p, e: math.floor(p * (1 - p) / e**2), "round up|p itself"),
        (lambda p, e: math.ceil(0.25 / e**2), "round up|p itself"),
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
        (lambda n, c, k: 1 - comb_ratio(n, c, k) if n - c >= k else 0.0, "every draw hits"),
        (lambda n, c, k: math.comb(c, k) / math.comb(n, k), "draw only failures"),
        (lambda n, c, k: float(c >= k), "share that passes"),
        (lambda n, c, k: min(1.0, k * c / n), "draw only failures"),
    ],
    "mixed_share": [
        (lambda p: np.mean([any(x) for x in p]), "some, but not all"),
        (lambda p: np.mean([not all(x) for x in p]), "every candidate fails"),
        (lambda p: float(any(any(x) and not all(x) for x in p)), "some, but not all"),
        (lambda p: np.mean([sum(x) == 1 for x in p]), "never mixed"),
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
        (lambda n, c, g: math.ceil(g * (n - c + 1)) if c else None, "exact pass@k"),
    ],
    "ranking": [
        (lambda g, b: np.mean([x > y for x in g for y in b]), "tie"),
        (lambda g, b: float(max(g) > max(b)), "every passing"),
        (lambda g, b: float(np.mean([x >= y for x in g for y in b])), "tie"),
        (lambda g, b: 0.5 + abs(EXERCISES["ranking"].reference(g, b) - 0.5), "ranking is 0"),
        (lambda g, b: float(np.mean([x > y for x, y in zip(g, b, strict=False)])), "every passing"),
    ],
    "soft_cross_entropy": [
        (lambda p, y: -math.log(p), "label 0"),
        (lambda p, y: -math.log(p if y > 0.5 else 1 - p), "soft label"),
        (lambda p, y: (p - y) ** 2, "-log"),
        (lambda p, y: -y * math.log(p), "label 0"),
    ],
    "calibration_error": [
        (lambda s, y, b: float(np.mean(np.abs(np.array(s) - y))), "mean score"),
        (lambda s, y, b: abs(float(np.mean(s)) - float(np.mean(y))), "each bin first"),
        (lambda s, y, b: float(np.mean(bin_gaps(s, y, b))), "number of its rows"),
        (lambda s, y, b: float(np.sum(bin_gaps(s, y, b)) / b), "too low|distance|number of its rows"),
    ],
    "likelihood_slope": [
        (lambda y, k, n, s: s * (k / y - (n - k) / (1 - y)), "Differentiate"),
        (lambda y, k, n, s: -s * 4 * (k / n / y - (1 - k / n) / (1 - y)), "Counts, not shares"),
        (lambda y, k, n, s: -(k / y - (n - k) / (1 - y)), "scales"),
        (lambda y, k, n, s: -s * (k / n - y), "Differentiate"),
    ],
    "weight_slope": [
        (lambda lr, x, p, y, v: lr / len(x) * (np.array(p) - y) * (np.array(x) @ v), "against"),
        (lambda lr, x, p, y, v: -lr * (np.array(p) - y) * (np.array(x) @ v), "number of rows"),
        (lambda lr, x, p, y, v: -lr / len(x) * sum((np.array(p) - y) * (np.array(x) @ v)), "One number|against"),
        (lambda lr, x, p, y, v: -lr / len(x) * np.array(p) * (np.array(x) @ v), "One number|no pull"),
    ],
    "label_slope": [
        (lambda lr, x, v: lr * np.asarray(x) @ np.asarray(v), "number of rows"),
        (lambda lr, x, v: -lr / len(x) * np.asarray(x) @ np.asarray(v), "x·v"),
        (lambda lr, x, v: lr / len(x) * (np.asarray(x) @ np.asarray(v)).sum(), "x·v"),
        (lambda lr, x, v: np.asarray(x) @ np.asarray(v) / len(x), "η / n"),
    ],
    "move_label": [
        (lambda y, s, r: y + r * s, "Downhill"),
        (lambda y, s, r: max(0.0, y - r * s), "1 or below"),
        (lambda y, s, r: min(1.0, y - r * s), "0 or above"),
        (lambda y, s, r: min(1.0, max(0.0, y - s)), "Downhill"),
    ],
    "best_of_n": [
        (lambda s, p, n: float(p[int(np.argmax(s))]), "Average over all"),
        (lambda s, p, n: float(np.mean(p)), "highest score"),
        (lambda s, p, n: float(sorted(zip(s, p, strict=True), reverse=True)[0][1]), "Average over all"),
        (first_of_equals, "On a tie"),
        (lambda s, p, n: 1 - comb_ratio(len(s), sum(p), n), "highest score|On a tie|should give"),
    ],
    "mcnemar": [
        (lambda w, lo: 0.5 ** max(w + lo - 1, 0) if lo == 0 else 0.0, "Two-sided"),
        (lambda w, lo: 2 * sum(math.comb(w + lo, k) for k in range(min(w, lo) + 1)) / 2 ** (w + lo), "at most 1"),
        (
            lambda w, lo: min(1.0, 2 * sum(math.comb(w + lo, k) for k in range(lo + 1)) / 2 ** (w + lo)),
            "named first",
        ),
        (
            lambda w, lo: min(1.0, sum(math.comb(w + lo, k) for k in range(min(w, lo) + 1)) / 2 ** (w + lo)),
            "One discordant",
        ),
        (lambda w, lo: min(1.0, 2 * math.comb(w + lo, min(w, lo)) / 2 ** (w + lo)), "Two-sided"),
        (lambda w, lo: 1.0 if w == lo else 2 * 0.5 ** (w + lo) * (1 + min(w, lo) * (w + lo)), "should give"),
    ],
    "holm": [
        (lambda p: [min(1.0, len(p) * x) for x in p], "m - 1"),
        (lambda p: sorted(stepped(p)), "order of the question"),
        (stepped, "running maximum"),
        (lambda p: capped_never(p), "at most 1"),
    ],
    "problems_solved": [
        (lambda p, n: p / 100 * n, "cut off"),
        (lambda p, n: int(p / 100 * n), "cut off"),
        (lambda p, n: math.ceil(p / 100 * n), "going up"),
        (lambda p, n: round(p), "undo it"),
    ],
    "rollout_tokens": [
        (lambda p, q, s, r, t: p * q * s * r * t, "last step"),
        (lambda p, q, s, r, t: p * (s - 1) * r * t, "Every program"),
        (lambda p, q, s, r, t: p * q * (s - 1) * r, "last step"),
        (lambda p, q, s, r, t: p * q * max(s - 1, 1) * r * t, "costs 0"),
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


def test_every_exercise_refuses_at_least_four_wrong_answers_with_three_messages():
    assert set(PLANTED) == set(EXERCISES)
    assert {name: len(wrong) for name, wrong in PLANTED.items() if len(wrong) < 4} == {}
    mistakes = {name: {check(name, wrong).mistake for wrong, _ in rows} for name, rows in PLANTED.items()}
    assert {name: said for name, said in mistakes.items() if len(said) < 3 or "" in said} == {}


@pytest.mark.parametrize("name", EXERCISES)
def test_hints_are_opened_one_by_one_and_the_last_one_stays(name):
    ladder = EXERCISES[name].hints
    assert len(ladder) in (2, 3) and len(set(ladder)) == len(ladder)
    said = [hint(name).message for _ in range(len(ladder) + 1)]
    steps = [*range(1, len(ladder) + 1), len(ladder)]
    assert said == [f"Hint {k} of {len(ladder)}: {ladder[k - 1]}" for k in steps]
    assert hint(name).right is None and "did you mean" in hint(f"{name}x").message


@pytest.mark.parametrize("name, wrong, hint", [(n, w, h) for n, rows in PLANTED.items() for w, h in rows])
def test_a_wrong_answer_gets_its_hint(name, wrong, hint):
    answer = check(name, wrong)
    assert not answer.right
    assert any(part in answer.message for part in hint.split("|")), answer.message
    assert repr(answer).startswith("✘")


@pytest.mark.parametrize(
    "answer, said",
    [
        (3, "function itself"),
        (np.ones(3), "function itself"),
        (lambda: 1, "raised TypeError"),
        (lambda v: None, "gave None: end the function with `return`"),
        (lambda v: np.array([0.5, 0.5]), "gave array"),
        (lambda v: "0.5", "gave '0.5'"),
        (lambda v: {"share": 0.5}, "gave {'share'"),
        (lambda v: [0.5, [1]], "gave [0.5, [1]]"),
        (lambda v: print, "gave <built-in"),
    ],
)
def test_what_is_no_answer_is_told_so(answer, said):
    found = check("share_passed", answer)
    assert said in found.message and found.right is False


@pytest.mark.parametrize("name", ["is_chain", "running_prefixes", "candidates_needed", "label_slope", "count_steps"])
@pytest.mark.parametrize(
    "value", [np.array([True, False]), np.array(["a", "b"]), np.zeros((2, 2)), [], float("nan"), object(), {1}, "True"]
)
def test_an_answer_of_any_type_is_judged_and_not_crashed_on(name, value):
    found = check(name, lambda *_: value)
    assert found.right is False and repr(found).startswith("✘")


@pytest.mark.parametrize("name", ["is_chain", "running_prefixes", "label_slope", "holm", "count_steps"])
@pytest.mark.parametrize("form", [np.asarray, lambda x: x])
def test_a_right_answer_may_be_an_array(name, form):
    assert check(name, lambda *arguments: form(EXERCISES[name].reference(*arguments))).right


@pytest.mark.parametrize(
    "name, said",
    [("mc_nemar", "did you mean 'mcnemar'"), ("", "choose one of"), ("Holm", "'holm'"), (3, "choose one of")],
)
def test_an_unknown_exercise_is_named(name, said):
    answer = check(name, lambda: 1)
    assert answer.right is False and f"no exercise {name!r}" in answer.message and said in answer.message


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
