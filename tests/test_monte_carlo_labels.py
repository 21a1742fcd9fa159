"""Labels by a scripted policy and a sandbox that looks for a word: every count is known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from dreamprm_lib.artifacts import Program
from dreamprm_lib.engine import problems
from dreamprm_lib.engine.completions import Completion
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.engine.statistics import wilson_interval
from dreamprm_lib.monte_carlo_labels import label_steps, rollout_prompt, subsampled_labels

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
