"""The step table: one row per step of a program, its columns arrays, joined once from what the chapters wrote.

Every method of chapters 4 to 6 (PRM or ORM; raw, posterior, corrected or weighted labels) is a function of such a table
and its settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
from tqdm.auto import tqdm

from dreamprm_lib.engine.backbone import VIEWS, Backbone
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.errors import InputError
from dreamprm_lib.study.rows import Program, StepLabel


@dataclass(frozen=True)
class StepTable:
    """Rows for a scorer; all columns have the length m.

    `states` [m, width] are what a scorer reads of each step; `label` lies in [0, 1] and is NaN where a step has none;
    `problem` names the owner of each row; `movable` says which labels a meta set may change (the noisy ones; none by
    default); `rollouts` is how many of them a label is made of (1 for an outcome, 0 where there is no label).

    A table that `join` made has also `sample`, `step` and `is_last` (the step is its program's last one), `outcome`
    (whether the program passes), `split` and `text` (of the step), which fine-tuning reads in place of states.
    """

    states: np.ndarray
    label: np.ndarray
    problem: np.ndarray
    movable: np.ndarray = field(default_factory=lambda: np.empty(0, bool))
    rollouts: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    sample: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    step: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    is_last: np.ndarray = field(default_factory=lambda: np.empty(0, bool))
    outcome: np.ndarray = field(default_factory=lambda: np.empty(0, bool))
    split: np.ndarray = field(default_factory=lambda: np.empty(0, str))
    text: np.ndarray = field(default_factory=lambda: np.empty(0, object))

    def __post_init__(self) -> None:
        rows = len(self.label)
        defaults = {"movable": np.zeros(rows, bool), "rollouts": np.ones(rows, int)}
        for name in (column.name for column in fields(self)):
            column = np.asarray(getattr(self, name))
            if not len(column) and rows:
                column = defaults.get(name, column)
            elif len(column) != rows:
                raise InputError(
                    f"The column {name} of a step table has {len(column)} rows where {rows} were expected."
                )
            object.__setattr__(self, name, column)

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def join(
        cls, problems: Mapping[str, Problem], programs: Sequence[Program], labels: Sequence[StepLabel] = ()
    ) -> StepTable:
        """All steps of the programs, problem by problem, with the labels that they have; its states are empty [m, 0].

        `problems` by id.  A label may move unless it is clean.
        """
        known = {(x.problem, x.sample, x.step): x for x in labels}
        owners = in_order(programs)
        rows = [(p, k, known.get((p.problem, p.sample, k))) for p in owners for k in range(len(p.steps))]
        return cls(
            states=np.empty((len(rows), 0)),
            label=np.array([x.label if x else np.nan for _, _, x in rows]),
            problem=np.array([p.problem for p, _, _ in rows], str),
            movable=np.array([x is not None and not x.clean for _, _, x in rows], bool),
            rollouts=np.array([x.rollouts if x else 0 for _, _, x in rows], int),
            sample=np.array([p.sample for p, _, _ in rows], int),
            step=np.array([k for _, k, _ in rows], int),
            is_last=np.array([k + 1 == len(p.steps) for p, k, _ in rows], bool),
            outcome=np.array([p.passed for p, _, _ in rows], bool),
            split=np.array([problems[p.problem].split for p, _, _ in rows], str),
            text=np.array([p.steps[k] for p, k, _ in rows], object),
        )

    def take(self, rows: np.ndarray) -> StepTable:
        """The rows that a mask [m] or indices name."""
        columns = {column.name: getattr(self, column.name) for column in fields(self)}
        return StepTable(**{name: column[rows] if len(column) else column for name, column in columns.items()})

    def followed_by(self, other: StepTable) -> StepTable:
        """The rows of both tables; of their columns those that both have."""
        both = {column.name: (getattr(self, column.name), getattr(other, column.name)) for column in fields(self)}
        kept = {name: pair for name, pair in both.items() if len(pair[0]) and len(pair[1])}
        return StepTable(**{name: np.concatenate(pair) for name, pair in kept.items()})

    def with_rollouts(self, passed: np.ndarray) -> StepTable:
        """The same rows, labelled by the share of passes in some rollouts of each [m, n] bool; all may move."""
        rows, n = passed.shape
        return replace(self, label=passed.mean(axis=1), movable=np.full(rows, True), rollouts=np.full(rows, n))

    def relabelled(self, label: np.ndarray) -> StepTable:
        """The same rows, with other labels [m] where they may move."""
        return replace(self, label=np.where(self.movable, label, self.label))

    def with_outcomes(self) -> StepTable:
        """The same rows, where the last step of each program has the program's outcome as its label, which is clean,
        and the others have none."""
        label = np.where(self.is_last, self.outcome.astype(float), np.nan)
        return replace(self, label=label, movable=np.zeros(len(self), bool), rollouts=self.is_last.astype(int))

    @property
    def labelled(self) -> StepTable:
        """The rows that have a label."""
        return self.take(~np.isnan(self.label))

    def rows_of(self, steps: Sequence[tuple[str, int, int]]) -> np.ndarray:
        """The row of each step that is named by problem, sample and step."""
        where = {key: row for row, key in enumerate(zip(self.problem, self.sample, self.step, strict=True))}
        return np.array([where[key] for key in steps], int)


def in_order(programs: Sequence[Program]) -> list[Program]:
    """The programs problem by problem, each problem where it comes first: the order of a table's rows."""
    place = {name: number for number, name in enumerate(dict.fromkeys(p.problem for p in programs))}
    return sorted(programs, key=lambda program: place[program.problem])


def of_mixed_problems(programs: Sequence[Program]) -> list[Program]:
    """The programs of problems that have passing and failing ones: no others can be ranked."""
    passing, failing = ({p.problem for p in programs if p.passed == ok} for ok in (True, False))
    return [p for p in programs if p.problem in passing & failing]


def read_states(backbone: Backbone, problems: Mapping[str, Problem], programs: Sequence[Program]) -> np.ndarray:
    """What a backbone's layers hold of every step [m, layers, views, width], in the order of `StepTable.join`."""
    found = []
    names = list(dict.fromkeys(p.problem for p in programs))
    for name in tqdm(names, desc=f"reading with {backbone.name}", unit="problem"):
        found += backbone.features(problems[name], [p.steps for p in programs if p.problem == name])
    return np.concatenate(found)


def viewed(states: np.ndarray, layers: Sequence[int], views: Sequence[str]) -> np.ndarray:
    """The states [m, width · layers · views] that a head reads, of states [m, layers, `VIEWS`, width] at some places.

    `layers` are indices into the second axis.  Raises `InputError` for an unknown view.
    """
    if unknown := [view for view in views if view not in VIEWS]:
        raise InputError(f"There is no view {unknown[0]!r} of a step: choose among {', '.join(VIEWS)}.")
    chosen = states[:, list(layers)][:, :, [VIEWS.index(view) for view in views]]
    return chosen.reshape(len(states), np.prod(chosen.shape[1:], dtype=int)).astype(float)
