"""pass@k against enumeration, headroom literals, LiveCodeBench files in and out."""

import gzip
import json
import re
from dataclasses import asdict, replace
from itertools import combinations

import pandas as pd
import pytest

from dreamprm_lib.__main__ import main
from dreamprm_lib.candidate_solutions import headroom, pass_at_k, read_lcb, write_lcb
from dreamprm_lib.commands.evaluate import evaluate, read_pool
from dreamprm_lib.engine.problems import Problem, load_problems
from dreamprm_lib.errors import InputError
from dreamprm_lib.study.rows import Program, write_rows


def test_pass_at_k_equals_enumeration():
    for n in range(1, 7):
        for c in range(n + 1):
            for k in range(1, n + 1):
                draws = list(combinations([True] * c + [False] * (n - c), k))
                assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize("n, c, k", [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_pass_at_k_refuses_what_has_no_meaning(n, c, k):
    with pytest.raises(InputError):
        pass_at_k(n, c, k)


def problem(name, difficulty):
    return Problem(name, name.title(), "Do it.", difficulty, "test", (), (), source="starter", date="2025-02-01")


def programs(name, outcomes, steps=("a\n", "b\n")):
    return [
        Program(name, i, "".join(steps), list(steps), ok, "passed" if ok else "wrong_answer", 7)
        for i, ok in enumerate(outcomes)
    ]


def test_headroom_literals():
    rows = headroom(
        [problem("p", "easy"), problem("q", "hard")],
        programs("p", [True, False, False, False]) + programs("q", [False] * 4, ("a\n",)),
    ).set_index("difficulty")
    assert list(rows.index) == ["easy", "hard", "overall"]
    assert rows.pass_at_1["overall"] == 0.125 and rows.pass_at_n["overall"] == 0.5 and rows.mixed["easy"] == 1
    assert rows.chained["overall"] == 0.5 and rows.functions["hard"] == 1


def test_lcb_files_round_trip(tmp_path):
    problems = [problem("p", "easy"), replace(problem("q", "humaneval"), source="humaneval")]
    candidates = programs("p", [True, False]) + programs("q", [False, False])
    write_lcb(tmp_path / "x_eval_all.json", problems, candidates)
    back = read_lcb(tmp_path / "x_eval_all.json")
    assert [g.problem for g in back] == problems
    assert [program for g in back for program in g.programs()] == [
        replace(c, tokens=0, steps=[c.code]) for c in candidates
    ]
    assert json.loads((tmp_path / "x_eval_all.json").read_text())[0]["pass@1"] == 0.5


def test_evaluate_prints_and_writes_the_share_that_passes(tmp_path, capsys):
    write_lcb(
        tmp_path / "x.json", [problem("p", "easy"), problem("q", "hard")], programs("p", [1]) + programs("q", [0])
    )
    assert main(["evaluate", str(tmp_path / "x.json"), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"random +100\.0 \(100–100\) +0\.0 \(0–0\) +50\.0 \(0–100\)", printed)
    table = pd.read_csv(tmp_path / "out" / "table.csv").set_index(["method", "difficulty"])
    assert table.pass_rate["random", "easy"] == 1 and table.pass_rate["random", "overall"] == 0.5
    assert {m for m, _ in table.index} == {"random", "first", "shortest", "longest", "oracle"}
    written = {p.name for p in (tmp_path / "out").rglob("*.*")}
    assert {"table.csv", "curve.csv", "differences.csv", "curve.png", "difficulty.svg", "differences.pdf"} <= written


def test_evaluate_picks_by_length_and_certainty_without_a_run(tmp_path):
    rows = [replace(p, problem=load_problems("starter")[0].id) for p in programs("p", [True, False])]
    rows = [replace(rows[0], code="a\nb\nlong\n", logprob=-1.0), replace(rows[1], logprob=-5.0)]
    write_rows(tmp_path / "candidates.jsonl", rows)
    table = evaluate(read_pool(tmp_path / "candidates.jsonl"))["table"]
    overall = table.query("difficulty == 'overall'").set_index("method").pass_rate
    assert overall.to_dict() == {
        "random": 0.5, "first": 1, "mean_logprob": 1, "shortest": 0, "longest": 1, "oracle": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "name, content",
    [("x.jsonl", b"{}\n"), ("x.json", b"\xff"), ("x.json", b"[3]"), ("x.json", b"{}")],
)
def test_evaluate_says_in_one_paragraph_what_is_wrong_with_a_file(tmp_path, capsys, name, content):
    (tmp_path / name).write_bytes(content)
    assert main(["evaluate", str(tmp_path / name)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.strip().count("\n") == 0


@pytest.mark.parametrize(
    "change, said",
    [
        ({"passed": 2}, "line 2: the field `passed` is 2"),
        ({"passed": "true", "tokens": "7"}, "`passed` is 'true'.*`tokens` is '7'"),
        ({"sample": 0}, "holds sample 0 of '[a-z-]+' more than once"),
        ({"passd": True}, r"no field `passd` \(did you mean `passed`\?\)"),
    ],
)
def test_evaluate_takes_no_wrong_value_for_good(tmp_path, change, said):
    rows = [asdict(replace(p, problem=load_problems("starter")[0].id)) for p in programs("p", [True, False])]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (rows[0], rows[1] | change)))
    with pytest.raises(InputError, match=said):
        read_pool(tmp_path / "c.jsonl")


@pytest.mark.parametrize("pack", [gzip.compress, lambda b: b"\xef\xbb\xbf" + b])
def test_packed_candidates_and_byte_order_marks_are_read(tmp_path, pack):
    rows = [replace(p, problem=load_problems("starter")[0].id) for p in programs("p", [True, False])]
    write_rows(tmp_path / "c.jsonl", rows)
    write_lcb(tmp_path / "x.json", [problem("p", "easy")], programs("p", [True, False]))
    for name in ("c.jsonl", "x.json"):
        packed = tmp_path / f"{name}.gz"
        packed.write_bytes(pack((tmp_path / name).read_bytes()))
        assert [ok.tolist() for ok in read_pool(packed).passed] == [[True, False]]


@pytest.mark.parametrize(
    "change, said",
    [
        (None, "entry 1: the question 'p' appears a second time"),
        (lambda e: e.update(difficulty="trivial"), "'trivial'"),
        (lambda e: e.update(graded_list=3), "`graded_list` is 3: it should be a valid list"),
        (lambda e: e.update(graded_list=["false"]), r"`graded_list\[0\]` is 'false': it should be a valid boolean"),
        (lambda e: e.update(graded_list=[True, False]), "1 programs in `code_list`, 2 in"),
        (lambda e: e.update(code_list=[["a", "b"]]), r"`code_list\[0\]` is \['a', 'b'\]"),
        (lambda e: e.update(question_title=3, platform=None), "`question_title` is 3.*`platform` is None"),
        (lambda e: (e.pop("code_list"), e.pop("question_id")), "`question_id` is missing, and so is `code_list`"),
    ],
)
def test_a_malformed_file_is_named_with_entry_and_field(tmp_path, change, said):
    write_lcb(tmp_path / "x.json", [problem("p", "easy")], programs("p", [True]))
    entries = json.loads((tmp_path / "x.json").read_text())
    change(entries[0]) if change else entries.append(entries[0])
    (tmp_path / "x.json").write_text(json.dumps(entries))
    with pytest.raises(InputError, match=said):
        read_lcb(tmp_path / "x.json")
