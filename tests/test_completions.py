"""The store and recordings: nothing is lost, nothing is paid twice, nothing that was changed is believed."""

import gzip
import json
import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from dreamprm_lib.engine.files import write_atomically
from dreamprm_lib.engine.policy.completions import (
    LEDGER,
    Completion,
    CompletionStore,
    Cost,
    Request,
    WithheldRequest,
    export_recording,
    load_recording,
)
from dreamprm_lib.engine.policy.stores import merge
from dreamprm_lib.errors import InputError

REQUEST = Request("m", "completion", "Say é.", 0.8, 0.95, 10, ("\n",))


def completion(i):
    return Completion(f"text {i} é\n", i + 1, "stop", -0.5)


def test_the_digest_is_stable_and_covers_every_field():
    others = [
        replace(REQUEST, **{field: value})
        for field, value in dict(
            model="n", kind="chat", prompt="x", temperature=0.7, top_p=None, max_tokens=11, stop=()
        ).items()
    ]
    assert len({r.digest for r in [REQUEST, *others]}) == 8


def test_a_store_gives_back_what_was_put_and_keeps_the_first(tmp_path):
    with CompletionStore(tmp_path / "deep" / "s.sqlite") as store:
        store.put(REQUEST, {0: completion(0), 3: completion(3)})
        store.put(REQUEST, {0: completion(9), 1: completion(1)})
    with CompletionStore(tmp_path / "deep" / "s.sqlite") as store:
        assert store.get(REQUEST) == {0: completion(0), 1: completion(1), 3: completion(3)}
        assert store.get(replace(REQUEST, max_tokens=9)) == {}
        assert len(store) == 3


def _put_many(path, start):
    with CompletionStore(path) as store:
        for i in range(start, start + 50):
            store.put(REQUEST, {i: completion(i)})


def test_two_processes_share_a_store(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_put_many, args=(tmp_path / "s.sqlite", k * 50)) for k in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    with CompletionStore(tmp_path / "s.sqlite") as store:
        assert sorted(store.get(REQUEST)) == list(range(100))


def test_a_new_store_opens_for_many_at_once(tmp_path):
    at_once = threading.Barrier(8)

    def open_and_close(path):
        at_once.wait()
        CompletionStore(path).close()

    with ThreadPoolExecutor(8) as threads:
        for i in range(20):
            list(threads.map(open_and_close, [tmp_path / f"{i}.sqlite"] * 8))


def _put_for_ever(path):
    with CompletionStore(path) as store:
        for i in range(10**9):
            store.put(REQUEST, {i: completion(i)})


def test_a_killed_writer_leaves_a_store_that_reads(tmp_path):
    path = tmp_path / "s.sqlite"
    worker = multiprocessing.get_context("spawn").Process(target=_put_for_ever, args=(path,))
    worker.start()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if path.exists():
            with CompletionStore(path) as store:
                if len(store) > 20:
                    break
        time.sleep(0.05)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    with CompletionStore(path) as store:
        known = store.get(REQUEST)
    assert len(known) > 20 and all(known[i] == completion(i) for i in known)


def test_a_recording_round_trips_and_is_the_same_bytes_twice(tmp_path):
    rows = {REQUEST.digest: (REQUEST, {1: completion(1), 0: completion(0)})}
    path = tmp_path / "m.jsonl.gz"
    recording = export_recording(rows, path, {"model": "m"})
    assert recording.get(REQUEST) == {0: completion(0), 1: completion(1)} and len(recording) == 2
    assert recording.manifest["tokens"] == 3 and recording.manifest["requests"] == 1
    first = path.read_bytes()
    export_recording(load_recording(path).rows, path, {"model": "m"})
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    "row, said",
    [
        ({"digest": "ab", "problem": "p", "completions": {}}, "digest"),
        ({"digest": "a" * 64, "completions": {}}, "problem"),
        ({"digest": "a" * 64, "problem": 5, "completions": {}}, "problem"),
        ({"digest": "a" * 64, "problem": "p", "request": {}, "completions": {}}, "request"),
        ({"problem": "p", "completions": {}}, "request"),
    ],
)
def test_a_withheld_request_has_a_digest_and_a_problem(tmp_path, row, said):
    path = tmp_path / "m.jsonl.gz"
    withheld = WithheldRequest(REQUEST.digest, "set/1")
    recording = export_recording({REQUEST.digest: (withheld, {0: completion(0)})}, path, {})
    assert recording.get(REQUEST) == {0: completion(0)} and load_recording(path).rows == recording.rows
    assert b"Say" not in gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(json.dumps(row).encode()))
    with pytest.raises(InputError, match=rf"line 1.*{said}"):
        load_recording(path, repair=True)


def test_a_recording_that_was_changed_is_refused(tmp_path):
    path = tmp_path / "m.jsonl.gz"
    export_recording({REQUEST.digest: (REQUEST, {0: completion(0)})}, path, {})
    text = gzip.decompress(path.read_bytes()).replace(b"text 0", b"text 1")
    path.write_bytes(gzip.compress(text))
    with pytest.raises(InputError, match="changed or cut short"):
        load_recording(path)


def test_a_malformed_row_is_named_by_its_line(tmp_path):
    import hashlib

    path = tmp_path / "m.jsonl.gz"
    packed = gzip.compress(b'{"request": {"model": "m"}}\n')
    path.write_bytes(packed)
    (tmp_path / "m.manifest.json").write_text(json.dumps({"sha256": hashlib.sha256(packed).hexdigest()}))
    with pytest.raises(InputError, match="line 1"):
        load_recording(path)


TEXTS = ["a\u2028b", "\u2029", "x\u0085y", "\x0c\x1e", "\ud800", "é\udcff😀", "\r\n"]


@pytest.mark.parametrize("text", TEXTS)
def test_every_reply_is_stored_recorded_and_replayed_equal(tmp_path, text):
    request = replace(REQUEST, prompt=f"Go on: {text}", stop=(text,))
    reply = Completion(text, 1, "stop")
    with CompletionStore(tmp_path / "s.sqlite") as store:
        store.put(request, {0: reply})
        assert store.get(request) == {0: reply}
    export_recording({request.digest: (request, {0: reply})}, tmp_path / "m.jsonl.gz", {})
    assert load_recording(tmp_path / "m.jsonl.gz").get(request) == {0: reply}


@pytest.mark.parametrize("killed_before", ["m.jsonl.gz", "m.manifest.json"])
def test_an_export_that_was_killed_can_be_repaired(tmp_path, monkeypatch, killed_before):
    path = tmp_path / "m.jsonl.gz"
    rows = {REQUEST.digest: (REQUEST, {0: completion(0)})}
    export_recording(rows, path, {"model": "m"})
    rows[REQUEST.digest][1][1] = completion(1)

    def killed(file, data):
        if file.name == killed_before:
            raise KeyboardInterrupt
        write_atomically(file, data)

    monkeypatch.setattr("dreamprm_lib.engine.policy.completions.write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        export_recording(rows, path, {"model": "m"})
    monkeypatch.undo()
    whole = load_recording(path, repair=True)
    assert len(whole) == (1 if killed_before == path.name else 2)
    export_recording(whole.rows, path, whole.manifest)
    assert load_recording(path).rows == whole.rows and whole.manifest["model"] == "m"


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:30], lambda b: b"", lambda b: b"{}\n"])
def test_a_damaged_recording_is_refused_even_for_a_repair(tmp_path, damage):
    path = tmp_path / "m.jsonl.gz"
    export_recording({REQUEST.digest: (REQUEST, {0: completion(0)})}, path, {})
    path.write_bytes(damage(path.read_bytes()))
    for repair in (False, True):
        with pytest.raises(InputError, match=r"m\.jsonl\.gz"):
            load_recording(path, repair)


def test_completions_of_a_request_on_several_lines_are_joined(tmp_path):
    path = tmp_path / "m.jsonl.gz"
    parts = []
    for k in range(3):
        export_recording({REQUEST.digest: (REQUEST, {k: completion(k)})}, path, {})
        parts.append(gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(b"".join(parts)))
    assert load_recording(path, repair=True).get(REQUEST) == {k: completion(k) for k in range(3)}


@pytest.mark.parametrize(
    "manifest, said",
    [
        (None, r"There is no file .*m\.manifest\.json"),
        ("{", r"m\.manifest\.json: not JSON"),
        ("[]", r"m\.manifest\.json: \[\] where fields"),
        ("{}", r"m\.manifest\.json: the field `sha256` is missing"),
        ('{"sha256": 5}', r"m\.manifest\.json: the field `sha256` is 5"),
    ],
)
def test_a_damaged_manifest_is_named(tmp_path, manifest, said):
    path = tmp_path / "m.jsonl.gz"
    export_recording({}, path, {})
    beside = tmp_path / "m.manifest.json"
    beside.unlink() if manifest is None else beside.write_text(manifest)
    with pytest.raises(InputError, match=said):
        load_recording(path)


@pytest.mark.parametrize("body", ["{", "[]", '{"text": 5, "tokens": 1, "finish": "stop"}', '{"text": "x"}', "null"])
def test_a_damaged_row_of_a_store_is_named(tmp_path, body):
    with CompletionStore(tmp_path / "s.sqlite") as store:
        store.put(REQUEST, {7: completion(0)})
        with sqlite3.connect(tmp_path / "s.sqlite") as db:
            db.execute("UPDATE completions SET body = ?", (body,))
        with pytest.raises(InputError, match=rf"s\.sqlite, sample 7 of {REQUEST.digest}"):
            store.get(REQUEST)


def test_damaged_pages_are_named(tmp_path):
    path = tmp_path / "s.sqlite"
    with CompletionStore(path) as store:
        store.put(REQUEST, {i: replace(completion(i), text="x" * 900) for i in range(40)})
    data = bytearray(path.read_bytes())
    data[12_288:] = b"\x5a" * (len(data) - 12_288)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"s\.sqlite is no store of completions, or is damaged"):
        with CompletionStore(path) as store:
            store.get(REQUEST)


@pytest.mark.parametrize(
    "what",
    [
        lambda store: store.put(REQUEST, {0: completion(0)}),
        lambda store: store.get(REQUEST),
        lambda store: store.spent(),
        len,
    ],
)
def test_what_the_disk_refuses_is_told_with_the_way_out(tmp_path, what):
    """Tables that are gone stand for a full disk and a read-only folder: to SQLite they are of one kind."""
    with CompletionStore(tmp_path / "s.sqlite") as store:
        with sqlite3.connect(tmp_path / "s.sqlite") as db:
            db.executescript("DROP TABLE completions; DROP TABLE ledger")
        with pytest.raises(InputError, match=r"s\.sqlite cannot be used .*DREAMPRM_CACHE"):
            what(store)


@pytest.mark.parametrize("place", ["file/s.sqlite", "file/deep/s.sqlite", "folder"])
def test_a_store_that_cannot_be_opened_is_told_with_the_way_out(tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"cannot be used .*DREAMPRM_CACHE"):
        CompletionStore(tmp_path / place)


def test_an_atomic_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("column", ["note TEXT", "note TEXT DEFAULT 'x'", "cached INTEGER"])
def test_a_ledger_with_one_more_column_is_booked_in(tmp_path, column):
    path = tmp_path / "s.sqlite"
    CompletionStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"ALTER TABLE ledger ADD COLUMN {column}")
    with CompletionStore(path) as store:
        store.pay(REQUEST, {0: completion(0)}, ["stop"], Cost(1, 1, 5, 1, 0.5), "s/01")
        assert store.spent("s") == Cost(1, 1, 5, 1, 0.5) and len(store) == 1
    assert merge([path], tmp_path / "new.sqlite").new == 1
    with CompletionStore(tmp_path / "new.sqlite") as store:
        assert store.spent() == Cost(1, 1, 5, 1, 0.5)


@pytest.mark.parametrize(
    "ledger",
    ["(id TEXT, note TEXT NOT NULL)", "(id TEXT PRIMARY KEY, time REAL)", f"({LEDGER.replace('dollars', 'euros')})"],
)
def test_a_ledger_that_nothing_can_be_booked_in_is_named_before_anything_is_paid(tmp_path, ledger):
    with sqlite3.connect(tmp_path / "s.sqlite") as db:
        db.execute(f"CREATE TABLE ledger {ledger}")
    with pytest.raises(InputError, match=r"s\.sqlite"):
        CompletionStore(tmp_path / "s.sqlite")


def test_a_full_disk_is_named_when_an_answer_is_booked(tmp_path):
    path = tmp_path / "s.sqlite"
    with CompletionStore(path) as store:
        store.pay(REQUEST, {0: completion(0)}, ["stop"], Cost(1, 1, 5, 1, None), "")
        (pages,) = store._db.execute("PRAGMA page_count").fetchone()
        store._db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to run out of room
        for text in ("x" * 10_000, "y" * 100_000, "z" * 1_000_000):
            with pytest.raises(InputError, match=r"s\.sqlite cannot be used .*full.*Make room"):
                store.pay(REQUEST, {1: replace(completion(1), text=text)}, ["stop"], Cost(1, 1, 5, 1, None), "")
        assert store.get(REQUEST) == {0: completion(0)} and store.spent().answers == 1


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_damaged_pages_of_a_store_are_named(tmp_path, share):
    path = tmp_path / "s.sqlite"
    with CompletionStore(path) as store:
        for i in range(400):
            store.pay(replace(REQUEST, prompt=f"{i}"), {0: completion(i)}, ["stop"], Cost(1, 1, 5, 1, None), "")
    data = bytearray(path.read_bytes())
    start = int(len(data) * share) // 4096 * 4096
    data[start:] = b"\x55" * (len(data) - start)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"s\.sqlite"), CompletionStore(path) as store:
        for i in range(400):
            store.get(replace(REQUEST, prompt=f"{i}"))
        store.spent()


@pytest.mark.parametrize(
    "field", [{"text": 5}, {"tokens": -1}, {"tokens": 2.5}, {"finish": {}}, {"logprob": float("nan")}]
)
def test_a_completion_that_is_none_is_named_with_its_place(tmp_path, field):
    path = tmp_path / "s.sqlite"
    with CompletionStore(path) as store:
        store.put(REQUEST, {7: completion(0)})
        body = json.dumps({"text": "x", "tokens": 1, "finish": "stop", **field})
        with store._db:
            store._db.execute("UPDATE completions SET body = ?", (body,))
        with pytest.raises(InputError, match=rf"s\.sqlite, sample 7 of {REQUEST.digest}.*`{next(iter(field))}`"):
            store.get(REQUEST)
