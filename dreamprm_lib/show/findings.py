"""What a study found, in sentences: computed from its tables, so that they hold for whatever study they are asked of.

The README, the book and the report take them from here.  The verdict of a comparison (`is better than`, `cannot be told
apart from`, ...) is the one that `test_time_scaling` wrote into `differences.csv`; nothing is judged a second time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dreamprm_lib.evidence.statistics import counted
from dreamprm_lib.study.folder import Study

UNTRAINED = {
    "random": "any candidate, taken without looking",
    "first": "the candidate that was written first",
    "mean_logprob": "the candidate whose tokens the policy itself found most likely, on average",
    "shortest": "the shortest program",
    "longest": "the longest program",
    "consensus": "the program that prints the same as most others on made-up inputs",
}
TRAINED = {
    "orm": "an outcome reward model, which learned from whole programs and their verdicts",
    "prm_cof": "a process reward model, which learned from the raw Monte-Carlo label of every step",
    "dreamprm_code": "a process reward model that learned from corrected labels: the paper's method",
    "prm_likelihood": "as dreamprm_code, but each label is held by the likelihood of its rollouts",
    "prm_weights": "a process reward model that learned a weight for each label, as the released code does",
    "prm_recalibrated": "as prm_cof, after its scores were fitted to the clean outcomes, without a bilevel loop",
    "prm_weak": "a process reward model that learned from the rollouts of a weaker model",
    "prm_weak_corrected": "as prm_weak, after its labels were corrected",
    "prm_weak_recalibrated": "as prm_weak, after its scores were fitted to the clean outcomes",
    "prm_posterior": "as prm_cof, but from posterior labels, which use all that is known of a step",
    "prm_cof x consensus": "a vote in which each program counts by its score",
    "prm_cof + mean_logprob": "the stack: prm_cof and the policy's mean log-probability, weighted on held-out problems",
}
METHODS = UNTRAINED | TRAINED | {"oracle": "a perfect choice, which knows the verdicts: no selector can do better"}
STACK = "prm_cof + mean_logprob"
NO_SAMPLES = "random without samples"  # the baseline of what the public samples alone give


@dataclass(frozen=True)
class KeyRows:
    """The rows of a study's tables that answer its questions; None for what a study does not have.

    `chance` and `best` are rows of `table.csv`, `moved` is one of `oracle.csv`, the others are rows of
    `differences.csv`.
    """

    chance: Any
    best: Any
    prm: Any
    logprob: Any
    stack: Any
    stack_gain: Any
    samples: Any
    prm_after: Any
    correction: Any
    moved: Any

    def headline(self) -> list[str]:
        """The answer in a few sentences that need no knowledge of the methods."""
        samples = f", while running {self._samples} of the statement {_gain(self.samples)}" if self.samples else ""
        return [
            f"A language model writes {counted(self.chance.n, 'program')} for each of "
            f"{counted(self.chance.problems, 'problem')}: a random choice among them solves "
            f"{_percent(self.chance.pass_rate)} of the problems, a perfect choice {_percent(self.best.pass_rate)}.",
            "A process reward model, which scores a program function by function without running it, "
            f"{_relation(self.prm)} a random choice{samples}.",
            *self._stacked("Together with the policy's own log-probability it"),
            "Correcting the labels that it learns from, the idea that we put to the test, "
            f"{_relation(self.correction)} leaving them as they are.",
        ]

    def findings(self) -> list[str]:
        """One sentence a question, each with its 95 % intervals."""
        room = self.best.pass_rate - self.chance.pass_rate
        low, high = _percent(self.chance.ci_low), _percent(self.chance.ci_high)
        logprob = f"; for the policy's own mean log-probability it is {_points(self.logprob)}" if self.logprob else ""
        said = [
            f"A random choice solves {_percent(self.chance.pass_rate)} of the problems ({low} to {high}); a perfect "
            f"choice among the same {counted(self.chance.n, 'program')} would gain {100 * room:.1f} points.",
            " ".join(
                [
                    f"Without running a program, `prm_cof` {_relation(self.prm)} a random choice: "
                    f"{_points(self.prm)}{logprob}.",
                    *self._stacked(f"Their stack, `{STACK}`,", _points),
                ]
            ),
        ]
        if self.samples:
            said += [
                f"Running {self._samples} of the statement first, and choosing at random among the programs that pass, "
                f"{_gain(self.samples)} ({_limits(self.samples)}).",
                f"Among the programs that pass, `prm_cof` {_relation(self.prm_after)} a random choice: "
                f"{_points(self.prm_after)}.",
            ]
        times = f"{1 - self.moved.gain:.1f} ({1 - self.moved.gain_high:.1f} to {1 - self.moved.gain_low:.1f})"
        return [
            *said,
            f"Training on corrected labels (`dreamprm_code`) {_relation(self.correction)} training on raw ones: "
            f"{_points(self.correction)}; where the truth is known from many rollouts, correction multiplied the "
            f"squared error of labels from {counted(self.moved.rollouts, 'rollout')} by {times}.",
        ]

    def _stacked(self, subject: str, said: Callable[[Any], str] = lambda row: _gain(row)) -> list[str]:
        """What the stack gains, if the study has one: nothing, or a sentence."""
        if not (self.stack and self.stack_gain):
            return []
        numbers = said(self.stack), said(self.stack_gain)
        return [
            f"{subject} {_relation(self.stack)} a random choice ({numbers[0]}), and {_relation(self.stack_gain)} the "
            f"log-probability alone ({numbers[1]})."
        ]

    @property
    def _samples(self) -> str:
        return "the public sample" if self.samples.samples == 1 else f"the {self.samples.samples} public samples"


def answer_of(study: Study) -> KeyRows:
    """The rows of a complete study's tables that answer its questions."""
    table, differences, oracle = (study.read_table(f"{name}.csv") for name in ("table", "differences", "oracle"))
    overall = table[(table.difficulty == "overall") & (table.samples == 0)]
    most = differences.samples.max()
    labels = oracle[(oracle.labels == "own") & (oracle.method == "corrected")]
    return KeyRows(
        chance=_row(overall, method="random"),
        best=_row(overall, method="oracle"),
        prm=_row(differences, method="prm_cof", baseline="random", samples=0),
        logprob=_row(differences, method="mean_logprob", baseline="random", samples=0),
        stack=_row(differences, method=STACK, baseline="random", samples=0),
        stack_gain=_row(differences, method=STACK, baseline="mean_logprob", samples=0),
        samples=_row(differences, baseline=NO_SAMPLES, samples=most),
        prm_after=_row(differences, method="prm_cof", baseline="random", samples=most),
        correction=_row(differences, method="dreamprm_code", baseline="prm_cof", samples=0),
        moved=_row(labels, rollouts=shared_rollouts(oracle)),
    )


def shared_rollouts(oracle: pd.DataFrame) -> int:
    """The number of rollouts a label that `oracle.csv` has for the policy's own labels and for a weaker one's."""
    return int(oracle[oracle.labels == "weaker"].rollouts.iloc[0])


def grouped_verdicts(differences: pd.DataFrame) -> list[tuple[str, list[str], list[str]]]:
    """The verdict's sentences by question: the question, what holds without samples, what holds after samples."""
    of_samples = differences.baseline == NO_SAMPLES
    against_chance, against_prm = differences.baseline == "random", differences.baseline == "prm_cof"
    other = differences.method.str.startswith("prm_weak") | ~(of_samples | against_chance | against_prm)
    untrained = differences.method.isin(UNTRAINED)
    questions = {
        "What do the public samples give?": of_samples,
        "Do reward models choose better than chance?": against_chance & ~untrained & ~other,
        "Do selectors that need no training?": against_chance & untrained & ~other,
        "Is anything better than training on raw labels?": against_prm & ~other,
        "What about labels of a weaker model, and combinations?": other,
    }
    groups = []
    for question, asked in questions.items():
        first = asked & ((differences.samples == 0) | of_samples)
        groups.append((question, list(differences.verdict[first]), list(differences.verdict[asked & ~first])))
    return [(question, first, later) for question, first, later in groups if first or later]


def _row(table: pd.DataFrame, **wanted: Any) -> Any:
    """The first row with these values, or None."""
    chosen = (table[list(wanted)] == pd.Series(wanted)).all(axis=1)
    return next(table[chosen].itertuples(), None)


def _relation(row: Any) -> str:
    """What the verdict says of a comparison, between the names of its two methods."""
    return row.verdict.split("`")[2].strip()


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _gain(row: Any) -> str:
    return f"{'gains' if row.difference >= 0 else 'loses'} {abs(100 * row.difference):.1f} points"


def _points(row: Any) -> str:
    return f"{100 * row.difference:+.1f} points ({_limits(row)})"


def _limits(row: Any) -> str:
    return f"{100 * row.ci_low:+.1f} to {100 * row.ci_high:+.1f}"
