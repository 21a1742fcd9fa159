"""Stores merge as sets do, and a damaged one costs nothing but its own completions."""

import shutil
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamprm_lib.__main__ import main
from dreamprm_lib.engine.policy.completions import Completion, CompletionStore, Cost, Request, export_recording
from dreamprm_lib.engine.policy.stores import merge
from dreamprm_lib.errors import InputError


def request(k):
    return Request("m", "completion", f"Say {k}.", 0.8, 0.95, 10)


def make(path, rows):
    """A store of (request's number, sample) → text, each paid for."""
    with CompletionStore(path) as store:
        for (k, sample), text in rows.items():
            store.pay(request(k), {sample: Completion(text, 1, "stop")}, Cost(1, 1, 5, 1, 0.01), "s/01")
    return path


def record(path, rows):
    exported = {}
    for (k, sample), text in rows.items():
        exported.setdefault(request(k).digest, (request(k), {}))[1][sample] = Completion(text, 1, "stop")
    export_recording(exported, path, {})
    return path


def content(path):
    db = sqlite3.connect(path)
    completions = db.execute("SELECT digest, sample, body FROM completions").fetchall()
    return sorted(completions), sorted(db.execute("SELECT id FROM ledger").fetchall())


ROWS = st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 2)), st.text("ab", max_size=2), max_size=8)


@given(ROWS, ROWS, ROWS)
@settings(max_examples=10, deadline=None)
def test_merging_commutes_associates_and_is_idempotent(tmp_path_factory, one, two, three):
    folder = tmp_path_factory.mktemp("stores")
    a, b = make(folder / "a.sqlite", one), make(folder / "b.sqlite", two)
    c = record(folder / "c.jsonl.gz", three)
    forth, back, twice = (folder / f"{name}.sqlite" for name in ("forth", "back", "twice"))
    merge([a, b, c], forth)
    merge([c, b, a], back)
    merge([a, c], twice)
    merge([twice, b], twice)
    assert content(forth) == content(back) == content(twice)
    assert "0 are new" in merge([a, b, c, back], forth) and content(forth) == content(back)
    completions, costs = content(forth)
    assert {(digest, sample) for digest, sample, _ in completions} == {
        (request(k).digest, sample) for k, sample in {**one, **two, **three}
    }
    assert len(costs) == len(one) + len(two)


def test_two_draws_of_one_sample_are_counted_and_one_is_kept(tmp_path):
    a, b = make(tmp_path / "a.sqlite", {(0, 0): "b", (1, 0): "x"}), make(tmp_path / "b.sqlite", {(0, 0): "a"})
    assert merge([b], a) == "2 completions: 0 are new, 1 took the place of another draw."
    with CompletionStore(a) as store:
        assert store.get(request(0))[0].text == "a" and store.spent().dollars == pytest.approx(0.03)


def damaged(path, how):
    if how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "no store":
        path.write_text("hello " * 1000)
    elif how == "gone":
        path.unlink()
    else:
        with sqlite3.connect(path) as db:
            db.execute("UPDATE completions SET body = '{\"text\": 1' WHERE rowid = 1")


@pytest.mark.parametrize("how", ["cut", "no store", "gone", "row"])
def test_a_damaged_source_is_named_and_nothing_is_lost(tmp_path, capsys, how):
    good = make(tmp_path / "good.sqlite", {(k, 0): "x" * 500 for k in range(40)})
    bad = tmp_path / "bad.sqlite"
    shutil.copy(good, bad)
    damaged(bad, how)
    into = make(tmp_path / "into.sqlite", {(99, 0): "mine"})
    before = content(into)
    assert main(["store", "merge", str(good), str(bad), "--into", str(into)]) == 2
    assert str(bad) in capsys.readouterr().err and content(into) == before
    assert main(["store", "merge", str(good), str(bad), "--into", str(tmp_path / "new.sqlite")]) == 2
    assert not (tmp_path / "new.sqlite").exists() and len(content(good)[0]) == 40


def test_a_target_that_is_no_store_is_named_and_not_written(tmp_path):
    good, into = make(tmp_path / "good.sqlite", {(0, 0): "x"}), tmp_path / "into.sqlite"
    into.write_text("my notes " * 1000)
    with pytest.raises(InputError, match=r"into\.sqlite is no store"):
        merge([good], into)
    assert into.read_text() == "my notes " * 1000


def test_the_command_merges_and_reports(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path))
    a = make(tmp_path / "a.sqlite", {(0, 0): "x", (0, 1): "y"})
    c = record(tmp_path / "c.jsonl.gz", {(1, 0): "z"})
    assert main(["store", "merge", str(a), str(c), "--into", str(tmp_path / "completions.sqlite")]) == 0
    assert "3 completions: 3 are new" in capsys.readouterr().out
    assert main(["store", "info"]) == 0
    said = capsys.readouterr().out
    assert "3 completions of 2 requests" in said and "m: asked for 2 completions in 2 requests; 10 tokens in" in said
    assert main(["store", "info", str(c)]) == 0 and "1 completions" in capsys.readouterr().out
