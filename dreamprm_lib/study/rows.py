"""The rows of the tables that one chapter hands to the next: a dataclass each, one JSON object a line on disk."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from dreamprm_lib.engine.files import as_json_lines, json_lines, write_atomically
from dreamprm_lib.engine.schema import row_of

Row = TypeVar("Row")
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Program:
    """A graded CoF program (`solutions.jsonl`, `candidates.jsonl`): `steps` are the texts of its functions, `verdict`
    the kind of `sandbox.Verdict`, `tokens` the length of the reply, `logprob` its log-probability in nats."""

    problem: str
    sample: Count
    code: str
    steps: list[str]
    passed: bool
    verdict: str
    tokens: Count
    logprob: float | None = None

    @property
    def prefixes(self) -> list[str]:
        """The text up to and including each step."""
        return ["".join(self.steps[: k + 1]) for k in range(len(self.steps))]

    @property
    def mean_logprob(self) -> float:
        """The policy's mean log-probability of a token that it wrote, in nats; NaN where it was not recorded."""
        return float("nan") if self.logprob is None else self.logprob / max(self.tokens, 1)


@dataclass(frozen=True)
class Repair(Program):
    """A graded program (`repairs.jsonl`) that was written to mend the one before it: the candidate of this `sample`
    (round 1), or that candidate's repair of the round before."""

    round: Count = 1


@dataclass(frozen=True)
class StepLabel:
    """The label of one step (`labels.jsonl`): `passes` of `rollouts` completions of the prefix that ends with it.

    `step` counts from 0.  The last step is `clean`: its label is the program's own verdict, as one rollout.  `tokens`
    is how many the rollouts wrote: 0 for a clean step, None in tables that were made before it was kept.  The row of a
    clean step says how many rollouts of its whole program were `restarted`: they began another one and do not count.
    `posterior` is the label from all that is known (`monte_carlo_labels.posterior_labels`), None where it was not made.
    """

    problem: str
    sample: Count
    step: Count
    prefix: str
    rollouts: Count
    passes: Count
    label: Share
    clean: bool
    tokens: Count | None = None
    restarted: Count = 0
    posterior: Share | None = None


@dataclass(frozen=True)
class OracleState:
    """A prefix that was finished many times (`oracle.jsonl`): for each rollout of the policy that wrote it, and for
    each of a weaker policy, whether it passed (1) or not (0).  The share of passes estimates the prefix's value."""

    problem: str
    sample: Count
    step: Count
    prefix: str
    outcomes: list[Literal[0, 1]]
    weak: list[Literal[0, 1]]


@dataclass(frozen=True)
class CorrectedLabel:
    """A label before and after correction, in [0, 1], and the weight that the weight variant gives it, in [0, 2]."""

    problem: str
    sample: Count
    step: Count
    before: Share
    after: Share
    weight: Annotated[float, Field(ge=0, le=2)]


@dataclass(frozen=True)
class CandidateScores:
    """The scores of one candidate by one method: of its steps by a reward model (`scores.jsonl`), each in [0, 1]; or
    one of the whole program by a selector that needs no training (`free_scores.jsonl`), on any scale."""

    method: str
    problem: str
    sample: Count
    scores: list[float]


@dataclass(frozen=True)
class SearchedProgram:
    """A finished program of a beam search (`search.jsonl`); of one problem's programs rank 0 is the search's pick.

    `scores` of its `steps`, each in [0, 1], and `score`, their aggregate; `search_tokens` and `levels` are those of the
    problem's whole search.
    """

    problem: str
    rank: Count
    code: str
    steps: list[str]
    scores: list[Share]
    score: float
    passed: bool
    verdict: str
    search_tokens: Count
    levels: Count


def write_rows(path: Path, rows: list) -> None:
    """Write dataclass rows as JSON Lines, whole or not at all; `read_rows` gives the same rows back."""
    write_atomically(Path(path), as_json_lines(map(dataclasses.asdict, rows)))


def read_rows(path: Path, row_type: type[Row]) -> list[Row]:
    """Read JSON Lines as rows of a dataclass.  Raises `InputError` with file, line, field and value for what does not
    have the names and types of its fields."""
    return [row_of(row_type, row, where) for where, row in json_lines(Path(path))]
