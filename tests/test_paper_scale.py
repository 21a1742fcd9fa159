"""The published numbers as counts, and the released splitter's rule on an example."""

import pytest

from dreamprm_lib.chain_of_functions import worked_example
from dreamprm_lib.engine.problems import load_problems
from dreamprm_lib.paper_scale import (
    PUBLISHED,
    PUBLISHED_PROBLEMS,
    published_counts,
    released_split,
    rollout_budget,
    smallest_p_value,
)


def test_published_percentages_are_whole_problems():
    counts = published_counts().set_index(["method", "difficulty"])
    assert counts.solved["DreamPRM-Code", "overall"] == 106
    assert counts.solved["PRM-CoF", "overall"] == 105
    assert counts.solved["O4-mini-high", "overall"] == 101
    parts = counts.solved.unstack()
    single_runs = parts[counts.exact.unstack().all(axis=1)]
    assert "DreamPRM-Code" in single_runs.index
    assert (single_runs[["easy", "medium", "hard"]].sum(axis=1) == single_runs.overall).all()
    assert sum(PUBLISHED_PROBLEMS[d] for d in ("easy", "medium", "hard")) == PUBLISHED_PROBLEMS["overall"] == 131
    assert len(PUBLISHED) == 7


@pytest.mark.parametrize("solved, baseline, p", [(106, 105, 1.0), (106, 101, 0.0625), (105, 105, 1.0)])
def test_no_test_could_settle_the_published_differences(solved, baseline, p):
    assert smallest_p_value(solved, baseline) == pytest.approx(p)


def test_three_functions_become_seven_prefixes_of_which_some_do_not_parse():
    code = worked_example(load_problems("starter")[0]).reference
    functions = code.count('"""') // 2
    prefixes = released_split(code)
    assert len(prefixes) == 2 * functions + 1 and prefixes[-1] == code
    assert all(code.startswith(p) for p in prefixes)
    broken = 0
    for prefix in prefixes:
        try:
            compile(prefix, "p", "exec")
        except SyntaxError:
            broken += 1
    assert broken == functions


def test_the_budget_is_plain_multiplication():
    scale = dict(problems=10, programs=2, steps=3, rollouts=4, test_problems=5, candidates=8, program_tokens=100)
    table = rollout_budget(scale).set_index("stage")
    assert table.completions.to_dict() == {"programs": 20, "rollouts": 160, "candidates": 40}
    assert table.tokens.to_dict() == {"programs": 2000, "rollouts": 8000, "candidates": 4000}
