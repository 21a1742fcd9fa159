"""Problems load whole or not at all, with an error that names file, line and field; and nothing in them is run."""

import base64
import codecs
import gzip
import json
import pickle
import zlib
from dataclasses import replace

import numpy as np
import pytest

from dreamprm_lib.engine import humaneval
from dreamprm_lib.engine.leakage import statement_similarity
from dreamprm_lib.engine.problem import KINDS, SPLITS, split_of
from dreamprm_lib.engine.problems import describe, load_problems, named
from dreamprm_lib.engine.sandbox.judge import Sandbox
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


def test_similarity_is_the_share_of_common_word_triples():
    """Triples of "a b c" are (,,a) (,a,b) (a,b,c); "a b d" shares the first two of four."""
    similarity = statement_similarity(["a b c", "A  b d", "x", ""])
    assert similarity[0].tolist() == pytest.approx([1, 2 / 4, 0, 0]) and similarity[1, 0] == similarity[0, 1]


def test_our_problems_are_of_many_kinds_no_two_alike_and_some_kinds_are_met_in_the_test_split_alone():
    problems = load_problems("starter")
    for p in problems:
        assert len(p.tests) >= 10 and p.samples and p.reference and p.brute and p.generator and p.rules, p.id
    assert {p.split for p in load_problems("starter", "meta")} == {"meta"}
    assert len({p.id for p in problems}) == len(problems)
    kinds = {p.kind for p in problems}
    assert kinds <= set(KINDS) and len(kinds) >= 12
    unseen = ("nested text", "table layout", "bases and encodings", "geometry")
    assert {p.split for p in problems if p.kind in unseen} == {"test"}
    similarity = statement_similarity([p.statement for p in problems])
    np.fill_diagonal(similarity, 0)
    assert similarity.max() < 0.5


def test_a_leak_between_splits_is_refused_and_can_be_dropped(tmp_path):
    story = (
        "A camera at the old bridge writes down every car before noon. Count the red cars among them and print how "
        "many there were. The first line holds the number of cars, the second one their colours, with blanks between."
    )
    rows = [
        lcb_row(question_id="a", question_content=story, split="train"),
        lcb_row(question_id="b", question_content=story.replace("red", "blue"), split="test"),
        lcb_row(question_id="c", question_content=story.replace("red", "green"), split="train"),
    ]
    path = write(tmp_path / "leak.jsonl", "\n".join(rows))
    with pytest.raises(InputError, match=r"2 pairs .* a \(train\) and b \(test\), 8\d% similar.*\?drop="):
        load_problems(path)
    assert [p.id for p in load_problems(f"{path}?drop=b")] == ["a", "c"]
    assert [p.id for p in load_problems(f"{path}?first=1")] == ["a"]


def test_a_toml_file_is_one_problem(tmp_path):
    (problem,) = load_problems(write(tmp_path / "p.toml", TOML))
    assert (problem.id, problem.split, problem.rules) == ("p", "train", ("add",))
    assert describe(problem) == "Add.\n\nSample input:\n1 2\nSample output:\n3"
    assert load_problems(tmp_path) == [problem]


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda t: t.replace("split =", 'kind = "riddles"\nsplit ='), "`kind` is 'riddles': it should be 'text'"),
        (lambda t: t.replace('output = "4\\n"', "output = 4"), r"`tests\[0\]\.output` is 4: it should be"),
        (lambda t: t.replace("difficulty", "dificulty"), r"no field `dificulty` \(did you mean `difficulty`\?\)"),
        (lambda t: 'id = "p"', "`title` is missing, and so are `statement`, `difficulty`, `samples`, `tests`, `refer"),
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
    other = lcb_row(question_id=7, question_content="Add.", public_test_cases=functional, metadata={"func_name": "add"})
    first, second = load_problems(write(tmp_path / "test.jsonl", f"{lcb_row()}\n\n{other}"))
    assert [t.input for t in first.tests] == ["1", "2"] and len(first.samples) == 1 and first.date == "2023-08-21"
    assert (second.id, second.entry_point, second.tests[0].kind) == ("7", "add", "functional")


def test_a_split_by_date_keeps_train_before_and_test_after(tmp_path):
    dates = ("2024-07-31", "2024-08-01", "2025-01-31", "2025-02-01")
    rows = [lcb_row(question_id=d, question_content=f"Task {d * 9}", contest_date=f"{d}T00:00:00") for d in dates]
    path = write(tmp_path / "dated.jsonl", "\n".join(rows))
    first, last = load_problems(f"{path}?train_before=2024-08-01&test_from=2025-02-01")
    assert (first.id, last.id, last.split) == (dates[0], dates[3], "test") and first.split in ("train", "meta")


@pytest.mark.parametrize(
    "query, said",
    [
        ("release=v9", "the option `release` is 'v9': it should be 'v1'"),
        ("test_from=2024", "the option `test_from` is '2024': it should be a date, YYYY-MM-DD"),
        ("first=few", "the option `first` is 'few': it should be a valid integer"),
        ("train_before=2025-01-01&test_from=2024-01-01", "lies after"),
        ("first=0", "no problem is left"),
        ("v5", "options are written"),
    ],
)
def test_wrong_options_are_named(tmp_path, query, said):
    with pytest.raises(InputError, match=said):
        load_problems(f"{write(tmp_path / 'test.jsonl', lcb_row())}?{query}")


def test_livecodebench_comes_as_raw_files_by_release(tmp_path, monkeypatch):
    """A fake hub: no dataset script, only the files that the release needs."""
    asked = []

    def snapshot_download(repo, repo_type, allow_patterns):
        asked.append((repo, repo_type, allow_patterns))
        for name in allow_patterns:
            write(tmp_path / name, lcb_row(question_id=name, question_content=f"Task {name * 9}"))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert [p.id for p in load_problems("livecodebench?release=v2")] == ["test.jsonl", "test2.jsonl"]
    assert asked == [("livecodebench/code_generation_lite", "dataset", ["test.jsonl", "test2.jsonl"])]
    assert len(load_problems("livecodebench")) == 6


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
        (lcb_row() + "\n" + "{}", "line 2: the field `"),
        (lcb_row(private_test_cases="!!!"), "line 1, field `private_test_cases`: cannot be decoded"),
        (lcb_row() + "\n" + lcb_row(), "'1873_A' appears twice"),
        (lcb_row(metadata='{"func_name": 3}'), "field `metadata`: the field `func_name` is 3"),
        (lcb_row(private_test_cases='[{"input": "", "output": "", "testtype": "x"}]'), r"\[0\]\.testtype` is 'x'"),
        ("[" + lcb_row() + "]", "where an object was expected. To make JSON Lines of one JSON array"),
        ('{"a":' * 90_000, "line 1: not JSON"),
    ],
)
def test_a_malformed_jsonl_file_is_named(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        load_problems(write(tmp_path / "test.jsonl", text))


@pytest.mark.parametrize(
    "data, said",
    [
        (lcb_row().encode("utf-16"), "the byte 0xff is not UTF-8"),
        (lcb_row(question_title="é").replace("\\u00e9", "é").encode("latin-1"), "the byte 0xe9 is not UTF-8"),
        (gzip.compress(lcb_row().encode())[:-20], "packed by gzip, and damaged or cut short"),
    ],
)
def test_a_file_that_is_no_utf8_text_is_named_for_what_it_is(tmp_path, data, said):
    for path in (tmp_path / "p.jsonl", tmp_path / "p.toml"):
        path.write_bytes(data)
        with pytest.raises(InputError, match=f"{path.name}.*{said}"):
            load_problems(path)


def test_humaneval_loads_from_its_package():
    problems = load_problems("humaneval")
    assert len(problems) == 164 and problems[0].tests[0].kind == "check"
    assert [sum(p.split == split for p in problems) for split in SPLITS] == [67, 26, 71]
    assert all(p.split == "test" for p in load_problems("humaneval?split=test"))


STUB = """def helper(x):
    return f(x)

def f(a, b):
    \"\"\" Add f to g.
    >>> f([1, (2, 3)], "a)")
    'b'
    f(1, 2) ➞ 3, because f(1, 2) == 3. f(2, 2) returns 4 # f(x, 2) == 5; f() == 1, f({1}, 2) = 0
    f(-1, 0.5)==True
    \"\"\"
"""


def test_the_examples_of_a_docstring_are_samples():
    """Calls with names or sets are none, and neither is what stands in front of the function."""
    found = [(test.input, test.output) for test in humaneval.examples(STUB, "f")]
    assert found == [('[1, [2, 3]]\n"a)"', '"b"'), ("1\n2", "3"), ("2\n2", "4"), ("-1\n0.5", "true")]


def test_humanevals_own_solutions_pass_their_samples_which_its_docstrings_show():
    with_samples = [p for p in load_problems("humaneval") if p.samples]
    assert len(with_samples) == 123
    with Sandbox() as sandbox:
        verdicts = sandbox.grade([(replace(p, tests=p.samples), p.reference) for p in with_samples])
    assert all(verdict.passed for verdict in verdicts)
    assert not any("Sample input" in describe(p) for p in with_samples)
    assert "Sample input" in describe(replace(with_samples[0], starter_code="def f(x):"))


def test_several_sources_are_one_set(tmp_path):
    first = write(tmp_path / "a.toml", TOML)
    second = write(tmp_path / "b.toml", TOML.replace('"p"', '"q"').replace("Add.", "Subtract one from the other."))
    rows = "\n".join(lcb_row(question_id=name, question_content=f"Task {name * 9}") for name in "xyz")
    third = write(tmp_path / "c.jsonl", rows)
    assert [p.id for p in load_problems([first, str(second)])] == ["p", "q"]
    assert [p.id for p in load_problems(f"{second},{first}", "train")] == ["q", "p"]
    assert [p.id for p in load_problems(f"{first},{third}?drop=x,z")] == ["p", "y"]


@pytest.mark.parametrize("train", [0.60, 0.40])
def test_a_split_by_hash_is_stable_and_has_its_shares(train):
    assert [split_of(text) for text in ("a", "b", "c", "def f(x):")] == ["test", "train", "train", "test"]
    found = [split_of(f"problem-{i}", train) for i in range(20_000)]
    assert [found.count(split) / 20_000 for split in SPLITS[:2]] == pytest.approx([train, 0.15], abs=0.015)


@pytest.mark.parametrize(
    "source, split, said",
    [
        ("starter", "dev", "'dev'"),
        ("starter?train_before=2024-01-01&test_from=2024-01-01", None, "has no date"),
        ("starter,starter", None, "appears twice"),
    ],
)
def test_what_cannot_be_loaded_is_named(source, split, said):
    with pytest.raises(InputError, match=said):
        load_problems(source, split)


def test_named_problems_are_there_or_named_in_the_error():
    problems = load_problems("starter", "train")
    ids = [p.id for p in problems]
    assert named(problems, [ids[5], ids[2]]) == [problems[2], problems[5]] and named(problems, []) == problems[:3]
    with pytest.raises(InputError, match=f"no problem 'gone' among these {len(problems)}"):
        named(problems, [ids[0], "gone"])


@pytest.mark.parametrize(
    "pack",
    [
        lambda b: codecs.BOM_UTF8 + b,
        lambda b: gzip.compress(codecs.BOM_UTF8 + b),
        lambda b: gzip.compress(b + b"\r\n\n"),
    ],
)
def test_packed_files_and_byte_order_marks_are_simply_read(tmp_path, pack):
    (tmp_path / "a.jsonl").write_bytes(pack(lcb_row(question_content="Zähle bis \u2028 drei.").encode()))
    (tmp_path / "b.toml").write_bytes(pack(TOML.encode()))
    (row,), (problem,) = load_problems(tmp_path / "a.jsonl"), load_problems(tmp_path / "b.toml")
    assert row.statement == "Zähle bis \u2028 drei." and problem.id == "p"
