"""What a reward model reads: docstrings go alone, and only mixed problems are read."""

import numpy as np
import pytest
import transformers

from dreamprm_lib import what_it_reads as wr
from dreamprm_lib.engine.foreign import foreign_model, without_docstrings
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.study.rows import Program
from dreamprm_lib.test_time_scaling import read_whole


@pytest.mark.parametrize(
    ("code", "left"),
    [
        ('def f():\n    """Strategy: x."""\n    return 1  # one\n\nf()\n', "def f():\n    return 1\nf()\n"),
        ('def f():\n    """Alone."""\n', "def f():\n    pass\n"),
        ('"""Of the module."""\nprint("""kept""")\n', "print('kept')\n"),
        ("def broken(:\n", "def broken(:\n"),
        ("", "\n"),
    ],
)
def test_docstrings_and_comments_go_and_all_else_stays(code, left):
    assert without_docstrings(code) == left


@pytest.fixture
def reader(tiny_backbone, tmp_path):
    """The folder of a causal LM with random weights whose tokens are bytes."""
    transformers.AutoTokenizer.from_pretrained(tiny_backbone).save_pretrained(tmp_path / "reader")
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "reader")
    return str(tmp_path / "reader")


@pytest.mark.usefixtures("float32_backbones")
def test_only_programs_of_mixed_problems_are_read(reader):
    problems = {name: Problem(name, name, f"Add {name}.", "easy", "train", (), ()) for name in ("mixed", "easy")}
    programs = [
        Program(name, sample, f"x = {sample}\n", [], ok, "passed" if ok else "wrong_answer", 9)
        for name, sample, ok in (("easy", 0, True), ("mixed", 0, True), ("easy", 1, True), ("mixed", 1, False))
    ]
    source = f"{reader}?backwards=1"
    found = read_whole(source, problems, programs)
    assert found[[0, 2]].tolist() == [0, 0] and found[1] != found[3] and (found[[1, 3]] < 0).all()
    alone = read_whole(source, problems, [programs[3], programs[1]])
    np.testing.assert_allclose(alone, found[[3, 1]], atol=1e-6)


@pytest.mark.usefixtures("float32_backbones")
def test_a_reader_without_docstrings_scores_a_program_as_if_it_had_none(reader):
    problem = Problem("p", "p", "Add.", "easy", "train", (), ())
    full, bare = 'def f():\n    """Add."""\n    return 1  # one\n', "def f():\n    return 1\n"
    scores = [
        read.features(problem, [[code]])[0].item()
        for read in map(foreign_model, (f"{reader}?backwards=1", f"{reader}?backwards=1&docstrings=0"))
        for code in (full, bare)
    ]
    assert scores[0] != scores[1] and scores[2] == scores[3] == pytest.approx(scores[1], abs=1e-6)


def test_scores_are_judged_on_each_set_of_problems_alone_and_on_all():
    kind = {"a": "text", "b": "grids", "c": "", "d": "text"}
    problems = {
        name: Problem(name, name, "", "easy", "test", (), (), "humaneval" if name == "c" else "starter", kind=of)
        for name, of in kind.items()
    }
    candidates = [Program(name, k, "x", ["x"], k == 0, "", 1) for name in "abcd" for k in range(2) if name != "d" or k]
    right = np.array([1.0 if c.passed else 0.0 for c in candidates])
    taught = [Program("d", 0, "x", ["x"], True, "", 1)]
    scores = {"prm_cof": right, "prm_cof, 1 problem": 1 - right, "blind": np.ones(len(right))}
    table = wr.by_set(problems, taught, candidates, scores)
    sets = ["kinds of training", "other kinds", "humaneval", "all"]
    assert list(table.set.unique()) == sets and list(table.measure.unique()) == ["ranking", "best of 2"]
    of = table.drop_duplicates(["measure", "set"]).problems
    assert of.tolist() == [1, 1, 1, 3, 2, 1, 1, 4]  # `d` is not mixed, and yet one has to be chosen
    gain = table.set_index(["measure", "set", "method", "on"]).gain
    for name in sets[1:3]:
        assert gain["ranking", name, "prm_cof", "blind"] == 0.5
        assert gain["ranking", name, "prm_cof, 1 problem", "prm_cof"] == -1
        assert gain["best of 2", name, "prm_cof", "random"] == 0.5
        assert gain["best of 2", name, "blind", "random"] == 0
    assert gain["best of 2", "kinds of training", "prm_cof", "random"] == 0.25  # half of the problems have no choice
    first = table.drop_duplicates(["measure", "set", "method"])
    assert set(first[first.method == "prm_cof, 1 problem"].on) == {"prm_cof"}
    assert set(first[first.method == "prm_cof"].on) == {"blind", "random"}
