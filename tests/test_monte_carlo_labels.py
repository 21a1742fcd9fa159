"""Labels by a scripted policy and a sandbox that looks for a word: every count is known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from dreamprm_lib.artifacts import Program, StepLabel
from dreamprm_lib.engine import problems
from dreamprm_lib.engine.completions import Completion
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.engine.statistics import wilson_interval
from dreamprm_lib.errors import PolicyError
from dreamprm_lib.monte_carlo_labels import (
    continued,
    graded_rollouts,
    label_steps,
    oracle_states,
    resampled_labels,
    rollout_prompt,
    subsampled_labels,
    thinned_labels,
)

PROBLEM = Problem("p", "P", "Do it.", "easy", "train", (problems.Test("1\n", "1\n"),), (problems.Test("1\n", "1\n"),))
STEPS = ["def main():\n    pass\n\n\n", "def helper():\n    pass\n\n\n", "def last():\n    pass\nmain()\n"]


class ScriptedPolicy:
    """The continuation of prefix k is right in the first k of n samples."""

    def sample(self, prompts, n, temperature):
        rows = []
        for prompt in prompts:
            right = prompt.prefill.count("def ")
            rows.append([Completion(prompt.prefill + ("right" if i < right else "wrong"), 1, "stop") for i in range(n)])
        return rows


class WordSandbox:
    """A program passes if it holds the word `right`."""

    def grade(self, pairs, progress=False):
        class Verdict:
            def __init__(self, code):
                self.passed = "right" in code

        return [Verdict(code) for _, code in pairs]


def program(steps, passed):
    return Program("p", 0, "".join(steps), steps, passed, "passed" if passed else "wrong_answer", 9)


def test_open_steps_are_labelled_by_rollouts_and_the_last_by_the_verdict():
    labels = label_steps(ScriptedPolicy(), WordSandbox(), [PROBLEM], [program(STEPS, False)], 4)
    assert [(x.step, x.passes, x.rollouts, x.label, x.clean) for x in labels] == [
        (0, 1, 4, 0.25, False),
        (1, 2, 4, 0.5, False),
        (2, 0, 1, 0.0, True),
    ]
    assert labels[1].prefix == STEPS[0] + STEPS[1]
    assert [x.tokens for x in labels] == [4, 4, 0]  # what the rollouts wrote, one token each


def test_equal_rollouts_are_graded_once_and_each_keeps_its_place():
    class Counting(WordSandbox):
        graded = 0

        def grade(self, pairs, progress=False):
            self.graded += len(pairs)
            return super().grade(pairs)

    sandbox = Counting()
    states = [("p", STEPS[0] + STEPS[1]), ("p", STEPS[0])]
    outcomes, tokens = graded_rollouts(ScriptedPolicy(), sandbox, [PROBLEM], states, 5)
    assert tokens.tolist() == [[1] * 5] * 2
    assert outcomes.tolist() == [[True, True, False, False, False], [True, False, False, False, False]]
    assert sandbox.graded == 4  # a right and a wrong one for each state


def test_an_oracle_state_keeps_the_outcome_of_each_rollout_of_both_policies():
    class Never:
        def sample(self, prompts, n, temperature):
            return [[Completion(prompt.prefill + "wrong", 1, "stop")] * n for prompt in prompts]

    policy, sandbox = ScriptedPolicy(), WordSandbox()
    labels = [x for x in label_steps(policy, sandbox, [PROBLEM], [program(STEPS, True)], 2) if not x.clean]
    first, second = oracle_states(policy, Never(), sandbox, [PROBLEM], labels, (4, 3))
    assert (first.step, first.prefix, first.outcomes, first.weak) == (0, STEPS[0], [1, 0, 0, 0], [0, 0, 0])
    assert (second.step, second.outcomes) == (1, [1, 1, 0, 0])
    assert [x.passes for x in labels] == [sum(x.outcomes[:2]) for x in (first, second)]


def test_programs_beyond_the_rolled_ones_are_labelled_at_their_last_step_alone():
    programs = [replace(program(STEPS, True), sample=sample) for sample in range(3)]
    labels = label_steps(ScriptedPolicy(), WordSandbox(), [PROBLEM], programs, 4, rolled=1)
    assert [(x.sample, x.step, x.label) for x in labels] == [(0, 0, 0.25), (0, 1, 0.5), (0, 2, 1), (1, 2, 1), (2, 2, 1)]


def test_one_step_programs_need_no_rollouts_and_empty_ones_no_labels():
    class NoPolicy:
        def sample(self, prompts, n, temperature):
            assert not prompts
            return []

    labels = label_steps(NoPolicy(), WordSandbox(), [PROBLEM], [program(STEPS[2:], True), program([], False)], 4)
    assert [(x.label, x.clean) for x in labels] == [(1.0, True)]


BEGUN = (
    'def main():\n    """Strategy: add."""\n    print(add(read()))\n\n\ndef read():\n    return input().split()\n\n\n'
)
END = "def add(words):\n    return sum(map(int, words))\n\n\nmain()\n"
OTHER = "def main():\n    print(sum(map(int, input().split())))\n\n\nmain()\n"


@pytest.mark.parametrize(
    "reply",
    [
        f"```python\n{BEGUN}{END}```\nDone.",
        f"{BEGUN}{END}",
        f"```python\n{BEGUN}{END}```\nAnother way:\n```python\n{OTHER}```",
        "```python\n" + BEGUN[BEGUN.index("def read") :] + END + "```",
        BEGUN[BEGUN.index("    return input") :] + END + "```\nThe rest of the program.",
    ],
)
def test_a_reply_that_goes_on_is_joined_where_it_overlaps(reply):
    assert continued(BEGUN, reply) == BEGUN + END
    spaced = reply.replace("\n\n\n", "\n").replace("\ndef read", "  \ndef read")
    assert continued(BEGUN, spaced).split() == (BEGUN + END).split()


@pytest.mark.parametrize(
    "reply",
    [
        f"```python\n{OTHER}```",
        f"```python\n{BEGUN.replace('add.', 'sum.')}{END}```",
        f"```python\n{END}```",  # it may go on, or be a part of another program
        f"```python\n{BEGUN[:40]}",
        "I cannot go on.",
        "",
    ],
)
def test_a_reply_that_begins_another_program_is_none(reply):
    assert continued(BEGUN, reply) is None


class Restarting:
    """A chat model that begins another program in the first `restarts` of the samples; what it writes is right."""

    def __init__(self, *restarts):
        self.restarts = iter(restarts)

    def sample(self, prompts, n, temperature):
        begun = [prompt.prefill.removeprefix("```python\n") for prompt in prompts]
        return [
            [Completion(OTHER if i < other else prefix + "right = 1\n", 2, "stop") for i in range(n)]
            for prefix, other in zip(begun, self.restarts, strict=False)
        ]


@pytest.mark.parametrize(
    "restarts, rows",
    [
        ((0, 0), [(0, 4, 4, 0), (1, 4, 4, 0), (2, 1, 1, 0)]),
        ((1, 3), [(0, 3, 3, 0), (1, 1, 1, 0), (2, 1, 1, 4)]),
        ((4, 2), [(1, 2, 2, 0), (2, 1, 1, 6)]),
        ((4, 4), [(2, 1, 1, 8)]),
    ],
)
def test_rollouts_of_another_program_are_not_counted_but_told(restarts, rows):
    labels = label_steps(Restarting(*restarts), WordSandbox(), [PROBLEM], [program(STEPS, True)], 4)
    assert [(x.step, x.passes, x.rollouts, x.restarted) for x in labels] == rows
    assert all(x.label == 1 for x in labels)


def test_oracle_states_have_equally_many_rollouts_and_each_of_them_counts():
    labels = [
        x for x in label_steps(Restarting(0, 0), WordSandbox(), [PROBLEM], [program(STEPS, True)], 2) if not x.clean
    ]

    def states(own, weak):
        return oracle_states(Restarting(*own), Restarting(*weak), WordSandbox(), [PROBLEM], labels, (4, 2))

    assert [(x.step, x.outcomes, x.weak) for x in states((1, 2), (0, 1))] == [(0, [1, 1], [1]), (1, [1, 1], [1])]
    assert [(x.step, x.outcomes, x.weak) for x in states((3, 1), (0, 0))] == [(1, [1, 1, 1], [1, 1])]
    with pytest.raises(PolicyError, match="another program"):
        states((3, 0), (0, 2))


def test_a_rollout_is_opened_with_the_prefix():
    assert rollout_prompt(PROBLEM, STEPS[0]).prefill == "```python\n" + STEPS[0]


@pytest.mark.parametrize("passes, rollouts", [(0, 4), (1, 4), (4, 4), (7, 16)])
def test_wilsons_interval_inverts_the_score_test(passes, rollouts):
    """At each bound the observed share lies 1.96 standard errors away (or the bound is 0 or 1)."""
    low, high = wilson_interval(passes, rollouts)
    for bound in (float(low), float(high)):
        if 1e-9 < bound < 1 - 1e-9:
            gap = abs(passes / rollouts - bound) / np.sqrt(bound * (1 - bound) / rollouts)
            assert gap == pytest.approx(stats.norm.ppf(0.975))
    assert 0 <= low <= passes / rollouts <= high <= 1


def test_subsampled_labels_are_a_distribution_with_the_right_mean():
    labels, share = subsampled_labels(passes=5, rollouts=16, n=4)
    assert share.sum() == pytest.approx(1) and labels @ share == pytest.approx(5 / 16)


OPEN = StepLabel("p", 0, 0, "x", 4, 1, 0.25, False, 40)
CLEAN = StepLabel("p", 0, 1, "xy", 1, 1, 1.0, True, 0)


def test_thinned_labels_are_what_fewer_rollouts_would_have_said():
    rng = np.random.default_rng(0)
    draws = [thinned_labels([OPEN, CLEAN], 2, rng) for _ in range(2000)]
    assert all(clean == CLEAN and (x.rollouts, x.tokens) == (2, 20) for x, clean in draws)
    values, share = subsampled_labels(1, 4, 2)
    seen = np.array([x.label for x, _ in draws])
    assert [np.mean(seen == v) for v in values] == pytest.approx(share, abs=0.04)


def test_thinning_keeps_what_has_no_more_rollouts_and_drops_open_steps_at_none():
    rng = np.random.default_rng(0)
    assert thinned_labels([OPEN, CLEAN], 4, rng) == [OPEN, CLEAN]
    assert thinned_labels([OPEN, CLEAN], 0, rng) == [CLEAN]


def test_a_resample_takes_all_labels_of_a_problem_or_none():
    labels = [replace(x, problem=name) for name in "abcdef" for x in (OPEN, CLEAN)]
    drawn = resampled_labels(labels, np.random.default_rng(1))
    assert len(drawn) == len(labels) and len({x.problem for x in drawn}) < 6
    assert all(
        x.problem == y.problem and (x.step, y.step) == (0, 1) for x, y in zip(drawn[::2], drawn[1::2], strict=True)
    )
