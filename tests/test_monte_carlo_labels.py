"""Labels by a scripted policy and a sandbox that looks for a word: every count is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dreamprm_lib.engine import problems
from dreamprm_lib.engine.policy.completions import Completion
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.errors import InputError, PolicyError
from dreamprm_lib.evidence.oracle import oracle_table, share_for_the_same_error
from dreamprm_lib.evidence.statistics import wilson_interval
from dreamprm_lib.monte_carlo_labels import (
    allocate,
    allocations,
    beside_oracle,
    continued,
    from_rollouts,
    label_steps,
    oracle_draw,
    oracle_states,
    posterior_labels,
    requests,
    resampled_labels,
    rollout_prompt,
    thinned_labels,
)
from dreamprm_lib.study.rows import OracleState, Program, StepLabel, read_rows

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


def test_intermediate_steps_are_labelled_by_rollouts_and_the_last_by_the_verdict():
    """Of the second program the last step alone is labelled; a program of one step needs no rollouts, an empty one has
    no label."""
    more = [program(STEPS, True), program(STEPS[2:], True), program([], False)]
    programs = [program(STEPS, False), *(replace(p, sample=k) for k, p in enumerate(more, 1))]
    labels = label_steps(ScriptedPolicy(), WordSandbox(), [PROBLEM], programs, 4, rolled=1)
    assert [(x.sample, x.step, x.passes, x.rollouts, x.label, x.clean, x.tokens) for x in labels] == [
        (0, 0, 1, 4, 0.25, False, 4),
        (0, 1, 2, 4, 0.5, False, 4),
        (0, 2, 0, 1, 0.0, True, 0),
        (1, 2, 1, 1, 1.0, True, 0),
        (2, 0, 1, 1, 1.0, True, 0),
    ]
    assert labels[1].prefix == STEPS[0] + STEPS[1]
    assert rollout_prompt(PROBLEM, STEPS[0]).prefill == "```python\n" + STEPS[0]


def test_requests_are_all_that_labels_and_oracle_ask_for():
    """The policies below note what they are asked; the requests list it beforehand, and after restarts too."""

    class Noting(Restarting):
        def sample(self, prompts, n, temperature):
            asked.extend((prompt, i) for prompt in prompts for i in range(n))
            return super().sample(prompts, n, temperature)

    asked: list = []
    programs = [replace(program(STEPS, True), sample=sample) for sample in range(2)]
    labels = label_steps(Noting(4, 0), WordSandbox(), [PROBLEM], programs, 4, rolled=1)
    settings = dict(rollouts=4, rolled=1, oracle_states=1, oracle_rollouts=6, weak_rollouts=2, temperature=0.8)
    rollouts, oracle, weaker = requests([PROBLEM], programs, **settings, labels=labels)
    assert set(asked) == {(prompt, i) for prompt in rollouts.prompts for i in range(4)}
    asked.clear()
    chosen = [x for x in labels if not x.clean][:1]
    oracle_states(Noting(0), Restarting(0), WordSandbox(), [PROBLEM], chosen, (6, 2))
    assert set(asked) == {(prompt, i) for prompt in oracle.prompts for i in range(6)}
    assert (oracle.known, weaker.samples, weaker.policy) == (4, 2, "weak_policy") and weaker.prompts == oracle.prompts
    assert requests([PROBLEM], programs, **settings)[1].prompts == rollouts.prompts[:1] != oracle.prompts


def test_the_oracle_takes_the_steps_of_all_first_programs_before_those_of_the_second():
    """So that a second program with rollouts adds to the oracle's states and replaces none of them."""
    two = [replace(PROBLEM, id=name) for name in "ab"]
    programs = [replace(program(STEPS, True), problem=p.id, sample=k) for p in two for k in range(2)]
    labels = label_steps(ScriptedPolicy(), WordSandbox(), two, programs, 4)
    settings = dict(rollouts=4, rolled=2, oracle_states=6, oracle_rollouts=6, weak_rollouts=2, temperature=0.8)
    for known in (None, labels):
        assert "".join(p.id for p in requests(two, programs, **settings, labels=known)[1].problems) == "aabbaa"
    assert [(x.problem, x.sample) for x in from_rollouts(labels)][3:5] == [("b", 0), ("a", 1)]


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


@pytest.mark.parametrize("passes, rollouts", [(0, 4), (1, 4), (4, 4), (7, 16)])
def test_wilsons_interval_inverts_the_score_test(passes, rollouts):
    """At each bound the observed share lies 1.96 standard errors away (or the bound is 0 or 1)."""
    low, high = wilson_interval(passes, rollouts)
    for bound in (float(low), float(high)):
        if 1e-9 < bound < 1 - 1e-9:
            gap = abs(passes / rollouts - bound) / np.sqrt(bound * (1 - bound) / rollouts)
            assert gap == pytest.approx(stats.norm.ppf(0.975))
    assert 0 <= low <= passes / rollouts <= high <= 1


OPEN = StepLabel("p", 0, 0, "x", 4, 1, 0.25, False, 40)
CLEAN = StepLabel("p", 0, 1, "xy", 1, 1, 1.0, True, 0)


def test_thinned_labels_are_what_fewer_rollouts_would_have_said():
    """Of 4 rollouts 1 passes: two of them, drawn without replacement, have it with chance 1/2."""
    rng = np.random.default_rng(0)
    assert thinned_labels([OPEN, CLEAN], 4, rng) == [OPEN, CLEAN] and thinned_labels([OPEN, CLEAN], 0, rng) == [CLEAN]
    draws = [thinned_labels([OPEN, CLEAN], 2, rng) for _ in range(2000)]
    assert all(clean == CLEAN and x.rollouts == 2 for x, clean in draws)
    assert {x.label for x, _ in draws} == {0.0, 0.5}
    assert np.mean([x.label for x, _ in draws]) == pytest.approx(1 / 4, abs=0.02)


def test_a_resample_takes_all_labels_of_a_problem_or_none():
    labels = [replace(x, problem=name) for name in "abcdef" for x in (OPEN, CLEAN)]
    drawn = resampled_labels(labels, np.random.default_rng(1))
    assert len(drawn) == len(labels) and len({x.problem for x in drawn}) < 6
    assert all(
        x.problem == y.problem and (x.step, y.step) == (0, 1) for x, y in zip(drawn[::2], drawn[1::2], strict=True)
    )


# ------------------------------------------------------------------------------------------------- posterior labels


def rows(problem, sample, passes, verdict, n=4):
    """A label for each of the intermediate steps and one for the last, which is clean."""
    steps = [StepLabel(problem, sample, k, "x", n, c, c / n, False) for k, c in enumerate(passes)]
    return [*steps, StepLabel(problem, sample, len(passes), "x", 1, verdict, float(verdict), True)]


SEEN = [*rows("p", 0, [1, 0], 0), *rows("p", 1, [2], 1), *rows("q", 0, [4, 4, 3], 1), *rows("q", 1, [], 1)]


def test_a_posterior_label_lies_between_its_own_rollouts_and_the_rest_and_a_clean_one_is_its_verdict():
    found = posterior_labels(SEEN)
    assert posterior_labels(SEEN[::-1]).mean == pytest.approx(found.mean[::-1])
    low, high = found.interval()
    for x, mean, a, b in zip(SEEN, found.mean, low, high, strict=True):
        assert (mean, a, b) == (x.label,) * 3 if x.clean else 0 < a < mean < b < 1
    assert 0 < found.mean[1] < found.mean[0] < 0.3 and 0.7 < found.mean[5] < 1


def test_verdicts_that_are_no_fair_draws_are_not_used():
    turned = [replace(x, passes=1 - x.passes, label=1 - x.label) if x.clean else x for x in SEEN]
    mine, other = (posterior_labels(labels, verdicts=False).mean for labels in (SEEN, turned))
    opened = [not x.clean for x in SEEN]
    assert mine[opened] == pytest.approx(other[opened])
    assert posterior_labels(turned).mean[opened] != pytest.approx(mine[opened], abs=0.01)


def test_a_step_with_two_labels_is_an_error():
    with pytest.raises(InputError, match="Step 1 of program 0 of p has two labels"):
        posterior_labels([*SEEN, SEEN[1]])


ORACLE = [
    OracleState("p", 0, 0, "x", [1] * 8, []),
    OracleState("q", 0, 1, "x", [0] * 8, []),
    OracleState("q", 0, 0, "x", [1, 0] * 4, []),
]


@pytest.mark.parametrize("n", [0, 1, 3])
def test_a_draw_gives_each_rollout_to_the_label_or_to_the_oracle(n):
    labels, states, outcomes = oracle_draw(SEEN, ORACLE, n, np.random.default_rng(n))
    of_labels = [labels[i] for i in states]
    assert [(x.problem, x.sample, x.step) for x in of_labels] == [("p", 0, 0), ("q", 0, 1), ("q", 0, 0)]
    assert [x.passes for x in of_labels] + outcomes.sum(axis=1) == pytest.approx([8, 0, 4])
    assert outcomes.shape == (3, 8 - n)
    others = [x for i, x in enumerate(labels) if i not in states and not x.clean]
    assert [x.rollouts for x in others] == ([] if n == 0 else [n] * 3)


def test_an_oracle_that_cannot_judge_the_labels_is_an_error():
    with pytest.raises(InputError, match="7 of the oracle's 8 rollouts"):
        oracle_draw(SEEN, ORACLE, 7, np.random.default_rng(0))


def test_errors_of_labels_are_the_squares_without_the_oracles_noise():
    methods = {
        "beyond": lambda labels: np.full(len(labels), 1.5),
        "raw": lambda labels: np.array([x.label for x in labels]),
        "half": lambda labels: np.full(len(labels), 0.5),
        "posterior": posterior_labels,
    }
    found = beside_oracle(methods, SEEN, ORACLE[:2], rollouts=(1, 2), draws=3)
    assert len(found) == 2 * 3 * 4 * 2 and (found.trials == 8 - found.rollouts).all()
    table = oracle_table(found, draws=200).set_index(["method", "rollouts"])
    assert table.mse.tolist()[:3] == [1.25, 0, 0.25] and table.loc[("beyond", 1), ["mse_low", "mse_high"]].tolist() == [
        0.25, 2.25,
    ]  # fmt: skip
    assert table.gain["half"].tolist() == pytest.approx([0.8, 0.8])
    assert table.loc[("raw", 2), ["gain", "gain_low", "gain_high"]].tolist() == [1, 1, 1]
    assert table.coverage.isna().tolist() == [True, True, True, False] * 2 and 0 <= table.coverage["posterior"][1] <= 1


def recorded():
    """The labels and the oracle of the reference study."""
    folder = Path(__file__).parent.parent / "outputs" / "reference"
    return read_rows(folder / "labels.jsonl", StepLabel), read_rows(folder / "oracle.jsonl", OracleState)


def test_on_the_states_of_new_problems_posterior_labels_lead_as_the_docs_say_and_know_how_near_they_are():
    methods = {"raw": lambda rows: np.array([x.label for x in rows]), "posterior": posterior_labels}
    labels, oracle = recorded()
    of_four = [x for x in labels if x.sample == 0 or (x.clean and x.sample < 4)]  # what was recorded at that time

    def lead(labels, states):
        table = oracle_table(beside_oracle(methods, labels, states, (1, 4), draws=4)).set_index("method")
        assert table.coverage.dropna().between(0.82, 0.97).all()
        return table.loc["posterior"]

    new, last, all_of_four = (lead(of_four, states) for states in (oracle[100:200], oracle[200:260], oracle[:260]))
    assert new.gain.tolist() == pytest.approx([0.673, 0.309], abs=0.001)
    assert new.gain_low.iloc[0] > 0.4 and new.gain_low.iloc[1] < 0 < new.gain_high.iloc[1]
    assert new.ranking_gain.iloc[1] == pytest.approx(0.011, abs=0.001)
    assert last.gain.tolist() == pytest.approx([0.802, 0.625], abs=0.001) and (last.gain_low > 0.4).all()
    assert all_of_four.gain.tolist() == pytest.approx([0.747, 0.512], abs=0.001) and (all_of_four.gain_low > 0.25).all()
    latest, again, every = (lead(labels, states) for states in (oracle[260:], oracle[:260], oracle))
    assert latest.gain.tolist() == pytest.approx([0.804, 0.608], abs=0.001) and (latest.gain_low > 0.3).all()
    assert again.gain.tolist() == pytest.approx([0.776, 0.563], abs=0.001)
    assert every.gain.tolist() == pytest.approx([0.781, 0.585], abs=0.001) and (every.gain_low > 0.4).all()


# ------------------------------------------------------------------------------------------------- allocation


def test_rollouts_go_where_they_matter_or_evenly_and_none_is_drawn_twice():
    outcomes = np.array([[[0, 0, 0, 0], [1, 0, 1, 1], [1, 1, 1, 1]]])  # one order of three states
    a, b = np.array([0.1, 1.0, 3.0]), np.array([3.0, 1.0, 0.1])
    passes, rollouts = allocate(a, b, outcomes, [1, 3, 12])
    assert rollouts[:, 0].tolist() == [[0, 1, 0], [0, 3, 0], [4, 4, 4]]  # the one that may be anything comes first
    assert passes[:, 0].tolist() == [[0, 1, 0], [0, 2, 0], [0, 3, 4]]
    assert allocate(a, b, outcomes, [4], even=True)[1][0, 0].tolist() == [2, 1, 1]
    with pytest.raises(InputError, match="13 rollouts cannot be spent"):
        allocate(a, b, outcomes, [13])


def test_spending_where_it_matters_costs_less_on_the_recorded_oracle():
    found = allocations(*recorded(), [2, 4, 8], orders=10)
    table = oracle_table(found, draws=100).set_index(["method", "rollouts"])
    assert table.spent.tolist() == pytest.approx([2, 2, 2, 4, 4, 4, 8, 8, 8])
    assert table.gain["where it matters"][8] > 0.1 > table.gain["evenly"][8] == 0
    for cost, expected in (("spent", 0.505), ("tokens", 0.435)):
        share, low, high = share_for_the_same_error(found, "where it matters", "evenly", 4, cost, draws=100)
        assert share == pytest.approx(expected, abs=0.001) and low < share < high < 0.8
    assert share_for_the_same_error(found, "evenly", "evenly", 4, draws=20) == pytest.approx((1, 1, 1))
