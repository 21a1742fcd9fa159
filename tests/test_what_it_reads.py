"""What a reward model reads: docstrings go alone, and only mixed problems are read."""

import numpy as np
import pytest
import transformers

from dreamprm_lib import what_it_reads as wr
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.study.rows import Program


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
    assert wr.without_docstrings(code) == left


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
    found = wr.read_backwards(reader, problems, programs)
    assert found[[0, 2]].tolist() == [0, 0] and found[1] != found[3] and (found[[1, 3]] < 0).all()
    alone = wr.read_backwards(reader, problems, [programs[3], programs[1]])
    np.testing.assert_allclose(alone, found[[3, 1]], atol=1e-6)


def test_scores_are_judged_on_each_set_of_problems_alone_and_on_all():
    kind = {"a": "text", "b": "grids", "c": "", "d": "text"}
    problems = {
        name: Problem(name, name, "", "easy", "test", (), (), "humaneval" if name == "c" else "starter", kind=of)
        for name, of in kind.items()
    }
    candidates = [Program(name, k, "x", ["x"], k == 0, "", 1) for name in "abcd" for k in range(2) if name != "d" or k]
    right = np.array([1.0 if c.passed else 0.0 for c in candidates])
    taught = [Program("d", 0, "x", ["x"], True, "", 1)]
    table = wr.by_set(problems, taught, candidates, {"prm_cof": right, "blind": np.ones(len(right))})
    assert list(table.set) == [s for s in ("kinds of training", "other kinds", "humaneval", "all") for _ in range(2)]
    assert table.problems.tolist() == [1, 1, 1, 1, 1, 1, 3, 3]  # `d` is not mixed
    prm = table[table.method == "prm_cof"]
    assert (prm.on == "blind").all() and (prm.ranking == 1).all() and (prm.gain == 0.5).all()
    assert (table[table.method == "blind"].gain == 0).all()
