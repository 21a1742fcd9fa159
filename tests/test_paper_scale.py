"""The published numbers as counts, and each departure of the released code on examples of known answers."""

import ast

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dreamprm_lib.chain_of_functions import split_steps, worked_example
from dreamprm_lib.engine.problems import load_problems
from dreamprm_lib.paper_scale import (
    PUBLISHED_PROBLEMS,
    compare_splitters,
    discordant_shares,
    labels_and_weights_toy,
    on_three_lines,
    parses,
    places_of_cuts,
    power_curves,
    published_counts,
    released_cuts,
    released_split,
    settling_sizes,
    splitter_summary,
)
from dreamprm_lib.study.rows import Program


def test_published_percentages_are_whole_problems():
    counts = published_counts().set_index(["method", "difficulty"])
    assert counts.solved["DreamPRM-Code", "overall"] == 106
    assert counts.solved["PRM-CoF", "overall"] == 105
    assert counts.solved["O4-mini-high", "overall"] == 101
    parts = counts.solved.unstack()
    single_runs = parts[counts.exact.unstack().all(axis=1)]
    assert "DreamPRM-Code" in single_runs.index and len(parts) == 7
    assert (single_runs[["easy", "medium", "hard"]].sum(axis=1) == single_runs.overall).all()
    assert sum(PUBLISHED_PROBLEMS[d] for d in ("easy", "medium", "hard")) == PUBLISHED_PROBLEMS["overall"] == 131


def test_without_losses_the_power_is_the_chance_of_six_wins():
    """Five wins to none give p = 0.0625, six 0.03."""
    table = power_curves([0.02], [0.02], [100, 400])
    expected = stats.binom.sf(5, [100, 400], 0.02)
    np.testing.assert_allclose(table.power, expected, atol=1e-12)
    low, high = power_curves([0.02], [0.02, 0.1], [400]).power
    assert high < low


@pytest.mark.parametrize(
    "gain, discordance, shares",
    [(0.02, 0.1, (0.06, 0.04)), (0.05, 0.05, (0.05, 0.0)), (0.05, 0.01, (0.05, 0.0)), (0.0, 0.0, (0.0, 0.0))],
)
def test_shares_of_wins_and_losses_make_up_the_gain(gain, discordance, shares):
    assert discordant_shares(gain, discordance) == pytest.approx(shares)


def test_the_published_steps_would_take_many_problems():
    pairs = [("DreamPRM-Code", "PRM-CoF"), ("DreamPRM-Code", "O4-mini-high")]
    last, whole = settling_sizes(pairs, [0.02, 0.1]).itertuples(index=False)
    first = next(n for n in range(1, 2000) if stats.binom.sf(5, n, 1 / 131) >= 0.8)
    assert last[3] == first and last[3] < last[4] < last[5]
    assert last[5] == pytest.approx((1.96 + 0.84) ** 2 * 0.1 * 131**2, rel=0.03)  # the normal approximation
    assert whole[4] is pd.NA  # 2 % discordant cannot give five problems of 131


ONE_LINE = '''def main():
    """Strategy: read and print."""
    n = read()
    print(n)


def read():
    """Strategy: one number."""
    return int(input())


main()
'''


def test_three_functions_become_seven_prefixes_of_which_three_do_not_parse():
    code = on_three_lines(worked_example(load_problems("starter")[0]).reference)
    assert len(split_steps(code)) == 3
    prefixes = released_split(code)
    assert len(prefixes) == 7 and prefixes[-1] == code
    assert [parses(p) for p in prefixes] == [True, False] * 3 + [True]
    assert all(len(after) < len(before) for before, after in zip(prefixes[:6:2], prefixes[1:6:2], strict=True))
    places = places_of_cuts(code, released_cuts(code))
    assert places == ["before a body", "in a docstring"] * 3 + ["whole program"]


@pytest.mark.parametrize(
    "code, cuts",
    [
        (ONE_LINE, [2, 8, 13]),  # at the second line of each body
        (on_three_lines(ONE_LINE), [4, 3, 12, 11, 17]),
        (ONE_LINE.replace('"""', "'''"), [2, 8, 13]),
        ("def f():\n    a = 1\n\n    b = 2\n    return a\n", [4, 6]),  # not after a blank line
        ("def f():\n    if x:\n        y()\n    z()\n", [3, 5]),
        ("x = 1\ny = 2\n", [3]),  # no function, no cut
        ("def f(): pass\ng()", [1, 2]),  # the end of a function: a line straight after it
    ],
)
def test_the_released_rule_on_literals(code, cuts):
    assert released_cuts(code) == cuts


def test_released_prefixes_are_capped_and_end_with_the_program():
    code = "".join(f"def f{k}():\n    a = 1\n    return a\n\n\n" for k in range(20))
    assert len(released_split(code)) == 10 and released_split(code)[-1] == code


def test_spreading_docstrings_changes_nothing_but_their_blanks():
    for problem in load_problems("starter")[:20]:
        for code in (problem.reference, worked_example(problem).reference):
            spread = on_three_lines(code)
            before, after = (ast.parse(text) for text in (code, spread))
            for node in ast.walk(after):
                if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
                    node.body[0].value.value = ast.get_docstring(node)
            assert ast.dump(before) == ast.dump(after)
            assert on_three_lines(spread) == spread


def test_places_of_cuts_by_hand():
    code = "def f():\n    '''D\n    D'''\n    a = 1\n    return a\n\n\ndef g():\n    return 2\n\n\nf()\n"
    assert places_of_cuts(code, range(1, 13)) == [
        *("in a docstring", "in a docstring", "before a body", "in a body"),
        *["end of a function"] * 3,
        "before a body",
        *["end of a function"] * 3,
        "whole program",
    ]


def program(code, **options):
    steps = [step.text for step in split_steps(code)]
    return Program("p", 0, code, steps, True, "passed", 1, **options)


def test_the_suite_s_prefixes_parse_and_are_whole_steps():
    table = compare_splitters([program(ONE_LINE), program("def f(:\n"), program("")])
    assert set(table.program) == {0}  # what does not parse, or is empty, says nothing on a splitter
    summary = splitter_summary(table)
    here = summary.loc["functions (here)"]
    assert list(here[["prefixes", "parse", "shrink", "whole steps"]]) == [2, 1, 0, 1]
    spread = summary.loc["released, three lines"]
    assert list(spread[["prefixes", "parse", "shrink", "whole steps"]]) == pytest.approx([5, 0.6, 0.4, 0.2])


def test_a_label_is_put_right_and_a_weight_only_removes_it():
    toy = labels_and_weights_toy()
    states = np.array([[1.0], [-1.0]])
    by_label, by_weight = (toy[learn].head.scores(states)[0] for learn in ("labels", "weights"))
    assert by_label == pytest.approx(0.9, abs=0.02)
    assert toy["weights"].weights[:10].max() == 0 and by_weight < 0.15
    assert toy["labels"].head.scores(states)[1] == pytest.approx(0.1, abs=0.03)
