"""What a programming problem is: a statement, samples, and tests that decide whether a program is right.

`engine.problems` reads problems; nothing here does.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from dreamprm_lib.engine.schema import nearest
from dreamprm_lib.errors import InputError

Difficulty = Literal["easy", "medium", "hard"]
Unrated = Literal["codeio", "humaneval"]  # sets whose authors rate no difficulty: their names take its place
Split = Literal["train", "meta", "test"]
Kind = Literal[
    "text", "sequences", "numbers", "records", "intervals", "grids", "graphs", "simulation", "parsing", "greedy",
    "dynamic programming", "dates and times", "nested text", "table layout", "bases and encodings", "geometry",
]  # fmt: skip
TestKind = Literal["stdin", "functional", "check"]
DIFFICULTIES, SPLITS, KINDS, TEST_KINDS = map(get_args, (Difficulty, Split, Kind, TestKind))


@dataclass(frozen=True)
class Test:
    """One test.  `kind` says how a program meets it.

    - `stdin`: `input` is standard input, `output` the expected standard output.
    - `functional`: `input` has one JSON argument a line for `Problem.entry_point`, `output` is the JSON result.
    - `check`: `input` is Python code that is run after the program and must not raise; `output` is empty.
    """

    input: str
    output: str
    kind: str = "stdin"


@dataclass(frozen=True)
class Problem:
    """A problem.  Hidden `tests` grade; `samples` are shown to the policy.

    `difficulty` is one of `DIFFICULTIES`, or the name of a set that rates none; `split` is train, meta, test or "" (not
    assigned); `kind` is one of `KINDS`, or "" outside the starter set; `rules`
    are the things that a right program must do beyond reading and printing, and fix the difficulty of a starter
    problem; `reference`, `brute` and `generator` are program texts (the generator defines `generate(rng) -> str`, an
    input); `tolerance` is the relative and absolute error allowed for numbers in an answer (0: exact); `checker`, for
    problems with many right answers, is a program text that defines `check(input, output, expected) -> bool`.
    """

    id: str
    title: str
    statement: str
    difficulty: str
    split: str
    samples: tuple[Test, ...]
    tests: tuple[Test, ...]
    source: str = "starter"
    date: str = ""
    starter_code: str = ""
    entry_point: str = ""
    kind: str = ""
    topics: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    tolerance: float = 0.0
    reference: str = field(default="", repr=False)
    brute: str = field(default="", repr=False)
    generator: str = field(default="", repr=False)
    checker: str = field(default="", repr=False)
    equivalent: tuple[str, ...] = field(default=(), repr=False)

    @property
    def is_stub(self) -> bool:
        """Whether the starter code has a docstring, as HumanEval's: it shows the samples, and what stands before its
        function belongs in front of a program."""
        return '"""' in self.starter_code or "'''" in self.starter_code


def by_difficulty(names: Iterable[str]) -> list[str]:
    """These difficulties, each once: `DIFFICULTIES` in their order, then the names of sets, and `overall` last."""
    places = [*DIFFICULTIES, "", "overall"]
    return sorted(set(names), key=lambda name: (places.index(name if name in places else ""), name))


def describe(problem: Problem) -> str:
    """The text that a policy and a reward model read: the statement, the samples, the starter code if there is one."""
    parts = [problem.statement.strip()]
    for sample in () if problem.is_stub else problem.samples:
        parts.append(f"Sample input:\n{sample.input.rstrip()}\nSample output:\n{sample.output.rstrip()}")
    if problem.starter_code:
        parts.append(f"Start from:\n{problem.starter_code.rstrip()}")
    return "\n\n".join(parts)


def named(problems: Sequence[Problem], ids: Sequence[str]) -> list[Problem]:
    """The problems that `ids` name, or the first three where it is empty.  Raises `InputError` for an unknown id."""
    known = {p.id: p for p in problems}
    if strange := [i for i in ids if i not in known]:
        raise InputError(
            f"There is no problem {strange[0]!r} among these {len(known)}{nearest(strange[0], known)}. An empty list "
            "of ids takes the first three."
        )
    return [p for p in problems if p.id in ids] if ids else list(problems[:3])


def hash_share(text: str) -> float:
    """A number in [0, 1) that belongs to an id or a text for good."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8


def split_of(text: str, train: float = 0.60) -> Split:
    """The split of a problem that has none of its own, by a stable hash of its id or its text: the share `train`, 15
    percent meta, and the rest test."""
    share = hash_share(text)
    return "train" if share < train else "meta" if share < train + 0.15 else "test"
