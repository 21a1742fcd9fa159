"""The step table: rows, labels and outcomes joined once, and what is taken from it."""

from dataclasses import replace

import numpy as np
import pytest

from dreamprm_lib.engine.backbone import VIEWS
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.errors import InputError
from dreamprm_lib.steps import StepTable, in_order, viewed
from dreamprm_lib.study.rows import Program, StepLabel

PROBLEMS = {name: Problem(name, name, "", "easy", split, (), ()) for name, split in {"a": "train", "m": "meta"}.items()}
PROGRAMS = [
    Program("m", 1, "zw", ["z", "w"], False, "wrong_answer", 2),
    Program("a", 0, "xy", ["x", "y"], True, "passed", 2),
    Program("m", 0, "v", ["v"], True, "passed", 1),
]
LABELS = [StepLabel("a", 0, 0, "x", 4, 1, 0.25, False), StepLabel("a", 0, 1, "xy", 1, 1, 1.0, True)]


@pytest.fixture
def table():
    return StepTable.join(PROBLEMS, PROGRAMS, LABELS)


def test_programs_labels_and_outcomes_are_joined_problem_by_problem(table):
    assert [p.sample for p in in_order(PROGRAMS)] == [1, 0, 0]
    keys = zip(table.problem, table.sample, table.step, strict=True)
    assert list(keys) == [("m", 1, 0), ("m", 1, 1), ("m", 0, 0), ("a", 0, 0), ("a", 0, 1)]
    np.testing.assert_array_equal(table.label, [np.nan, np.nan, np.nan, 0.25, 1.0])
    assert table.rollouts.tolist() == [0, 0, 0, 4, 1] and table.movable.tolist() == [False] * 3 + [True, False]
    assert table.is_last.tolist() == [False, True, True, False, True]
    assert table.outcome.tolist() == [False, False, True, True, True] and set(table.split) == {"train", "meta"}
    assert table.text.tolist() == ["z", "w", "v", "x", "y"]
    assert table.rows_of([("a", 0, 1), ("m", 1, 0)]).tolist() == [4, 0]


def test_labels_are_replaced_by_others_by_outcomes_and_by_rollouts(table):
    assert table.labelled.relabelled(np.array([0.5, 0.5])).label.tolist() == [0.5, 1.0]  # the clean one stays
    rolled = table.labelled.with_rollouts(np.array([[True, False], [True, True]]))
    assert rolled.label.tolist() == [0.5, 1.0] and rolled.movable.all() and rolled.rollouts.tolist() == [2, 2]
    ends = table.with_outcomes().labelled
    assert ends.label.tolist() == [0.0, 1.0, 1.0] and not ends.movable.any() and ends.rollouts.tolist() == [1, 1, 1]


def test_tables_follow_one_another_in_the_columns_that_both_have(table):
    bare = StepTable(np.zeros((2, 0)), np.array([0.5, 0.75]), np.array(["p", "q"]), np.array([True, True]))
    both = table.labelled.followed_by(bare)
    assert both.label.tolist() == [0.25, 1.0, 0.5, 0.75] and both.movable.tolist() == [True, False, True, True]
    assert not len(both.outcome) and len(both) == 4
    assert len(both.take(both.movable)) == 3 and both.take(np.array([3, 0])).label.tolist() == [0.75, 0.25]


def test_columns_of_another_length_are_named(table):
    with pytest.raises(InputError, match="column problem of a step table has 1 rows where 5 were expected"):
        replace(table, problem=np.array(["a"]))


def test_a_head_reads_the_views_and_layers_that_it_names():
    states = np.arange(2 * 2 * 3 * 2, dtype=float).reshape(2, 2, 3, 2)  # steps, layers, views, width
    np.testing.assert_array_equal(viewed(states, [1], ["prefix", "last"])[0], [10, 11, 6, 7])
    assert viewed(states, [0, 1], VIEWS).shape == (2, 12) and viewed(states[:0], [0], ["last"]).shape == (0, 2)
    with pytest.raises(InputError, match="no view 'first' of a step: choose among last, step, prefix"):
        viewed(states, [0], ["first"])
