"""Problems load whole or not at all, with an error that names file, line and field; and nothing in them is run."""

import base64
import json
import pickle
import zlib

import pytest

from dreamprm_lib.engine.problems import SPLITS, describe, load_problems, split_of
from dreamprm_lib.errors import InputError

TOML = """
id = "p"
title = "P"
difficulty = "easy"
split = "train"
statement = "Add."
reference = "print(sum(map(int, input().split())))"
rules = ["add"]
[[samples]]
input = "1 2\\n"
output = "3\\n"
[[tests]]
input = "2 2\\n"
output = "4\\n"
"""


def write(path, text):
    path.write_text(text)
    return path


def test_the_starter_set_is_split_and_sound_in_form():
    problems = load_problems("starter")
    assert len(problems) >= 40
    assert {p.split for p in problems} == set(SPLITS)
    for p in problems:
        assert len(p.tests) >= 8 and p.samples and p.reference and p.brute and p.generator and p.rules, p.id
    assert [p.id for p in problems] == sorted(p.id for p in problems)
    assert load_problems("starter", "meta") == [p for p in problems if p.split == "meta"]


def test_no_statement_stands_twice():
    """Near-identical statements across splits would leak: no two share most of their words."""
    stories = {p.id: p.statement.split("Input:")[0].lower() for p in load_problems("starter")}
    words = {name: frozenset(story.split()) for name, story in stories.items()}
    names = sorted(words)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            shared = len(words[a] & words[b]) / len(words[a] | words[b])
            assert shared < 0.6, (a, b, shared)


def test_a_toml_file_round_trips(tmp_path):
    (problem,) = load_problems(write(tmp_path / "p.toml", TOML))
    assert (problem.id, problem.split, problem.rules) == ("p", "train", ("add",))
    assert describe(problem) == "Add.\n\nSample input:\n1 2\nSample output:\n3"
    assert load_problems(tmp_path) == [problem]


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda t: t.replace('statement = "Add."', ""), "`statement` is missing"),
        (lambda t: t.replace("easy", "trivial"), "'trivial'"),
        (lambda t: t.replace("train", "holdout"), "'holdout'"),
        (lambda t: t.replace("[[tests]]", "[[trials]]"), "`tests` is missing"),
        (lambda t: t.replace('rules = ["add"]', "colour = 1"), "no field `colour`"),
        (lambda t: t.replace('output = "4\\n"', "output = 4"), r"tests\[0\]: the field `output`"),
        (lambda t: t + "]", "not readable as TOML"),
    ],
)
def test_a_malformed_toml_file_is_named(tmp_path, change, said):
    with pytest.raises(InputError, match=said):
        load_problems(write(tmp_path / "p.toml", change(TOML)))


def lcb_row(**changes):
    row = {
        "question_id": "1873_A",
        "question_title": "Short",
        "question_content": "Sort.",
        "platform": "codeforces",
        "contest_date": "2023-08-21T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps([{"input": "1", "output": "1", "testtype": "stdin"}]),
        "private_test_cases": packed(json.dumps([{"input": "2", "output": "2", "testtype": "stdin"}])),
        "metadata": "{}",
    }
    return json.dumps(row | changes)


def packed(value):
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def test_livecodebench_rows_load_with_packed_tests(tmp_path):
    functional = json.dumps([{"input": "[1]\n2", "output": "3", "testtype": "functional"}])
    text = lcb_row() + "\n\n" + lcb_row(question_id="f", public_test_cases=functional, metadata='{"func_name": "add"}')
    first, second = load_problems(write(tmp_path / "test.jsonl", text))
    assert [t.input for t in first.tests] == ["1", "2"] and len(first.samples) == 1 and first.date == "2023-08-21"
    assert second.entry_point == "add" and second.tests[0].kind == "functional"


class Bomb:
    def __reduce__(self):
        return (print, ("exploded",))


@pytest.mark.parametrize("value", [Bomb(), {"a": Bomb()}, print])
def test_a_pickle_that_holds_more_than_text_is_refused_and_not_run(tmp_path, capsys, value):
    path = write(tmp_path / "test.jsonl", lcb_row(private_test_cases=packed(value)))
    with pytest.raises(InputError, match="line 1, field `private_test_cases`"):
        load_problems(path)
    assert "exploded" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "line 1: not JSON"),
        (lcb_row() + "\n" + "{}", "line 2: the field `"),
        (lcb_row(private_test_cases="!!!"), "line 1, field `private_test_cases`: cannot be decoded"),
        (lcb_row() + "\n" + lcb_row(), "'1873_A' stands twice"),
    ],
)
def test_a_malformed_jsonl_file_is_named(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        load_problems(write(tmp_path / "test.jsonl", text))


def test_humaneval_loads_from_its_package():
    problems = load_problems("humaneval")
    assert len(problems) == 164 and problems[0].tests[0].kind == "check"
    assert {p.split for p in problems} == set(SPLITS)


def test_the_hash_split_is_stable_and_has_its_shares():
    assert [split_of(name) for name in ("a", "b", "1873_A")] == ["test", "train", "test"]
    shares = [split_of(f"problem-{i}") for i in range(20_000)]
    assert shares.count("train") / 20_000 == pytest.approx(0.60, abs=0.015)
    assert shares.count("test") / 20_000 == pytest.approx(0.25, abs=0.015)


@pytest.mark.parametrize("source, split, said", [("nowhere", None, "No problems at"), ("starter", "dev", "'dev'")])
def test_what_is_not_there_is_named(source, split, said):
    with pytest.raises(InputError, match=said):
        load_problems(source, split)
