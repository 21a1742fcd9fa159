"""What a study found, in sentences: computed from its tables, so that they hold for whatever study they are asked of.

The README, the book and the report take them from here; their words are in `data/templates/answer.txt`.  The verdict of
a comparison (`is better than`, `cannot be told apart from`, ...) is the one that `test_time_scaling` wrote into
`differences.csv`, which is not judged a second time.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from dreamprm_lib.evidence.costs import CORE
from dreamprm_lib.evidence.statistics import counted
from dreamprm_lib.show.methods import KINDS
from dreamprm_lib.show.templates import filled
from dreamprm_lib.study.folder import Study

STACK = "prm_cof + mean_logprob"
NO_SAMPLES = "random without samples"  # the baseline of what the public samples alone give


@dataclass(frozen=True)
class Summary:
    """`headline`: the answer in a few sentences that need no knowledge of the methods.  `findings`: one item a
    question, with 95 % intervals."""

    headline: list[str]
    findings: list[str]


def answer_of(study: Study) -> Summary:
    """What the tables of a complete study say; nothing of a stack, log-probabilities or samples if it has none."""
    table, differences = study.read_table("table.csv"), study.read_table("differences.csv")
    overall = table[(table.difficulty == "overall") & (table.samples == 0)]
    most = differences.samples.max()
    confirmed = study.read_table("confirmed.csv")
    text = filled(
        "answer.txt",
        chance=_row(overall, method="random"),
        best=_row(overall, method="oracle"),
        prm=_row(differences, method="prm_cof", baseline="random", samples=0),
        logprob=_row(differences, method="mean_logprob", baseline="random", samples=0),
        stack=_row(differences, method=STACK, baseline="random", samples=0),
        stack_gain=_row(differences, method=STACK, baseline="mean_logprob", samples=0),
        samples=_row(differences, baseline=NO_SAMPLES, samples=most),
        prm_after=_row(differences, method="prm_cof", baseline="random", samples=most),
        unseen=[
            list(part[part.baseline == "random"].itertuples())
            for name, part in confirmed.groupby("set", sort=False)
            if name != "seen"
        ],
        correction=_row(differences, method="dreamprm_code", baseline="prm_cof", samples=0),
        worth=_row(study.read_table("label_worth.csv"), method="dreamprm_code"),
    )
    headline, findings = ([line for line in part.splitlines() if line] for part in text.split("---"))
    return Summary(headline, findings)


def _row(table: pd.DataFrame, **wanted: Any) -> Any:
    """The first row with these values, or None."""
    chosen = (table[list(wanted)] == pd.Series(wanted)).all(axis=1)
    return next(table[chosen].itertuples(), None)


def worth_in_words(worth: pd.DataFrame, kind: str) -> str:
    """What a kind of labels is worth beside the raw ones: two sentences on a row of `label_worth.csv`."""
    row = _row(worth, method=kind)
    return (
        f"Measured by further rollouts, the labels `{kind}` have {1 - row.gain:.2f} times the squared error of "
        f"the raw labels ({1 - row.gain_high:.2f} to {1 - row.gain_low:.2f}): {_change(row.gain_low, row.gain_high)}. "
        f"The held-out ranking of a head that learns from them changes by {row.held_out_gain:+.3f} "
        f"({row.held_out_gain_low:+.3f} to {row.held_out_gain_high:+.3f}): "
        f"{_change(row.held_out_gain_low, row.held_out_gain_high)}."
    )


def reading_in_words(reading: pd.DataFrame, tested: pd.DataFrame) -> list[str]:
    """How well each reader of chapter 11 ranks beside `prm_cof`, a sentence on each row of `reading.csv`; if a head was
    trained without the statement, the last one says how much of the ranking needs it, there and on each set of test
    problems (`reading_test.csv`)."""
    prm, blind = (_row(reading, method=method) for method in ("prm_cof", "blind"))
    said = [f"`prm_cof` ranks {prm.ranking:.3f} ({prm.ci_low:.3f} to {prm.ci_high:.3f})."]
    for row in reading[reading.method != "prm_cof"].itertuples():
        gain = f"{row.gain:+.3f} ({row.gain_low:+.3f} to {row.gain_high:+.3f})"
        said.append(f"`{row.method}` ranks {row.ranking:.3f}, {gain}: {_change(row.gain_low, row.gain_high)}.")
    if blind:
        needed = {"held-out problems": (-blind.gain, -blind.gain_high, -blind.gain_low)}
        for row in tested.query("measure == 'ranking' and method == 'prm_cof' and on == 'blind'").itertuples():
            needed[f"the test problems ({row.set})"] = (row.gain, row.gain_low, row.gain_high)
        how_much = [
            f"{gain:.3f} ({low:.3f} to {high:.3f}) on {where}" if low > 0 else f"nothing that can be shown on {where}"
            for where, (gain, low, high) in needed.items()
        ]
        said.append(f"How much of the ranking of `prm_cof` needs the statement: {'; '.join(how_much)}.")
    return said


def asking_in_words(quality: pd.DataFrame, compared: pd.DataFrame, repair: pd.DataFrame) -> list[str]:
    """What chapter 12 found, from `written_tests.csv`, `asking.csv` and `repair.csv`: how many written tests are right,
    what each reply costs to write, what selection by them gains at equal tokens without samples, and how a repair does
    beside another candidate, program by program and in a pool."""
    every = quality.iloc[-1]
    right = f"{100 * every.right:.0f} % of the time ({100 * every.ci_low:.0f} % to {100 * every.ci_high:.0f} %)"
    said = [f"The {every.tests:,.0f} tests that the policy wrote expect the right output {right}."]
    for row in repair[:1].itertuples():
        cost = [
            f"{what} takes {tokens:.0f} tokens and {tokens / CORE.written:.0f} seconds of one core"
            for what, tokens in (
                ("a candidate", row.candidate_tokens),
                ("a reply with tests", row.tests_tokens),
                ("a repair", row.tokens),
            )
        ]
        said.append(f"On average, {', '.join(cost[:2])}, and {cost[2]}.")
    return [*said, *compared[compared.samples == 0].verdict, *repair.verdict]


def _change(low: float, high: float) -> str:
    """What an interval of a gain allows to be said."""
    return "a clear gain" if low > 0 else "a clear loss" if high < 0 else "no clear change"


def grouped_verdicts(differences: pd.DataFrame, confirmed: pd.DataFrame) -> list[tuple[str, list[str], list[str]]]:
    """The verdict's sentences by question: the question, what holds without samples, what holds after samples."""
    of_samples = differences.baseline == NO_SAMPLES
    against_chance, against_prm = differences.baseline == "random", differences.baseline == "prm_cof"
    other = differences.method.str.startswith("prm_weak") | ~(of_samples | against_chance | against_prm)
    untrained = differences.method.isin(KINDS["untrained"])
    questions = {
        "What do the public samples give?": of_samples,
        "Do reward models choose better than chance?": against_chance & ~untrained & ~other,
        "Do selectors that need no training?": against_chance & untrained & ~other,
        "Is anything better than training on raw labels?": against_prm & ~other,
        "What about labels of a weaker model, and combinations?": other,
    }
    first = (differences.samples == 0) | of_samples
    groups = [
        (question, list(differences.verdict[asked & first]), list(differences.verdict[asked & ~first]))
        for question, asked in questions.items()
        if asked.any()
    ]
    for name, part in confirmed.groupby("set", sort=False):
        if name != "seen":
            alone = counted(int(part.problems.iloc[0]), f"{name} problem")
            groups.append((f"And on {alone} alone?", list(part.verdict), []))
    return groups
