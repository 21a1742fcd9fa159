"""The store and recordings: nothing is lost, nothing is paid twice, nothing that was changed is believed."""

import gzip
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
    Completion,
    CompletionStore,
    Cost,
    Request,
    WithheldRequest,
    export_recording,
    load_recording,
)
from dreamprm_lib.errors import InputError

REQUEST = Request("m", "completion", "Say é.", 0.8, 0.95, 10, ("\n",))
COST = Cost(1, 1, 5, 1, 0.5)


def completion(i):
    return Completion(f"text {i} é\n", i + 1, "stop", -0.5)


def pay(store, completions, request=REQUEST):
    store.pay(request, completions, COST, "s/01")


def test_the_digest_is_stable_and_covers_every_field():
    changed = dict(model="n", kind="chat", prompt="x", temperature=0.7, top_p=None, max_tokens=11, stop=(), extra="{}")
    assert len({r.digest for r in [REQUEST, *(replace(REQUEST, **{k: v}) for k, v in changed.items())]}) == 9
    assert REQUEST.digest == "7d4fa16402ce0a3b4ee8ece6fcef5fa6908b074b35637fafdfb49c6b4006fa40"


# ------------------------------------------------------------------------------------------------- stores


def test_a_store_gives_back_what_was_paid_and_keeps_the_first(tmp_path):
    with CompletionStore(tmp_path / "deep" / "s.sqlite") as store:
        pay(store, {0: completion(0), 3: completion(3)})
        pay(store, {0: completion(9), 1: completion(1)})
    with CompletionStore(tmp_path / "deep" / "s.sqlite") as store:
        assert store.get(REQUEST) == {0: completion(0), 1: completion(1), 3: completion(3)}
        assert store.get(replace(REQUEST, max_tokens=9)) == {} and len(store) == 3
        assert store.spent("s") == Cost(2, 2, 10, 2, 1.0) and store.spent(model="n") == Cost()


def _pay_many(path, numbers):
    with CompletionStore(path) as store:
        for i in numbers:
            pay(store, {i: completion(i)})


@pytest.mark.parametrize("body", ["{", '{"text": "x"}', '{"text": 5, "tokens": 1, "finish": "stop"}'])
def test_a_damaged_row_of_a_store_is_named_with_its_place(tmp_path, body):
    with CompletionStore(tmp_path / "s.sqlite") as store:
        pay(store, {7: completion(0)})
        with sqlite3.connect(tmp_path / "s.sqlite") as db:
            db.execute("UPDATE completions SET body = ?", (body,))
        with pytest.raises(InputError, match=rf"s\.sqlite, request {REQUEST.digest}, sample 7"):
            store.get(REQUEST)


def test_a_full_disk_is_named_when_an_answer_is_booked_and_nothing_is_lost(tmp_path, monkeypatch):
    connect = sqlite3.connect

    def small(*arguments, **options):
        db = connect(*arguments, **options)
        db.execute("PRAGMA max_page_count = 20")  # SQLite's own way to run out of room
        return db

    monkeypatch.setattr(sqlite3, "connect", small)
    with CompletionStore(tmp_path / "s.sqlite") as store:
        pay(store, {0: completion(0)})
        with pytest.raises(InputError, match=r"s\.sqlite cannot be used .*full.*Make room.*DREAMPRM_CACHE"):
            pay(store, {1: replace(completion(1), text="x" * 100_000)})
        assert store.get(REQUEST) == {0: completion(0)} and store.spent().answers == 1


@pytest.mark.parametrize("place", ["file/s.sqlite", "folder"])
def test_a_store_that_cannot_be_opened_is_reported_with_the_way_out(tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"cannot be used .*DREAMPRM_CACHE"):
        CompletionStore(tmp_path / place)


def test_a_ledger_that_nothing_can_be_booked_in_is_named_before_anything_is_paid(tmp_path):
    CompletionStore(tmp_path / "s.sqlite").close()
    with sqlite3.connect(tmp_path / "s.sqlite") as db:
        db.execute("ALTER TABLE ledger RENAME COLUMN dollars TO euros")
    with pytest.raises(InputError, match=r"s\.sqlite.*dollars"):
        CompletionStore(tmp_path / "s.sqlite")


# ------------------------------------------------------------------------------------------------- recordings


def rows(*samples, request=REQUEST):
    return {REQUEST.digest: (request, {i: completion(i) for i in samples})}


@pytest.fixture
def path(tmp_path):
    """A recording of one completion."""
    export_recording(rows(0), tmp_path / "m.jsonl.gz", {"model": "m"})
    return tmp_path / "m.jsonl.gz"


def test_a_recording_round_trips_and_is_the_same_bytes_twice(path):
    recording = export_recording(rows(1, 0), path, {"model": "m"})
    assert recording.get(REQUEST) == {0: completion(0), 1: completion(1)} and len(recording) == 2
    assert recording.manifest["tokens"] == 3 and recording.manifest["requests"] == 1
    first = path.read_bytes()
    export_recording(load_recording(path).rows, path, {"model": "m"})
    assert path.read_bytes() == first


def test_a_withheld_request_is_found_by_its_digest_and_shows_no_text(path):
    recording = export_recording(rows(0, request=WithheldRequest(REQUEST.digest, "set/1")), path, {})
    assert recording.get(REQUEST) == {0: completion(0)} and load_recording(path).rows == recording.rows
    assert b"Say" not in gzip.decompress(path.read_bytes())


def test_a_recording_that_was_changed_is_refused(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"text 0", b"text 1")))
    with pytest.raises(InputError, match="changed or cut short"):
        load_recording(path)


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda b: b[:-9], "damaged or cut short"),
        (lambda b: b"{}\n", "line 1"),
        (lambda b: gzip.compress(b'{"request": {"model": "m"}, "completions": {}}'), "line 1.*prompt"),
    ],
)
def test_a_damaged_recording_is_refused_even_for_a_repair(path, damage, said):
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=rf"m\.jsonl\.gz.*{said}"):
        load_recording(path, repair=True)


@pytest.mark.parametrize("killed_before, kept", [("m.jsonl.gz", 1), ("m.manifest.json", 2)])
def test_an_export_that_was_killed_can_be_repaired(path, monkeypatch, killed_before, kept):
    def killed(file, data):
        if file.name == killed_before:
            raise KeyboardInterrupt
        write_atomically(file, data)

    with monkeypatch.context() as patch:
        patch.setattr("dreamprm_lib.engine.files.write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            export_recording(rows(0, 1), path, {"model": "m"})
    whole = load_recording(path, repair=True)
    assert len(whole) == kept
    export_recording(whole.rows, path, whole.manifest)
    assert load_recording(path).rows == whole.rows and whole.manifest["model"] == "m"


@pytest.mark.parametrize("manifest, said", [(None, "There is no file .*"), ("{}", ""), ("[]", "")])
def test_a_damaged_manifest_is_named(path, manifest, said):
    beside = path.parent / "m.manifest.json"
    beside.unlink() if manifest is None else beside.write_text(manifest)
    with pytest.raises(InputError, match=rf"{said}m\.manifest\.json"):
        load_recording(path)


def test_two_processes_share_a_store_and_a_killed_one_leaves_what_it_paid(tmp_path):
    path, context = tmp_path / "s.sqlite", multiprocessing.get_context("spawn")
    mortal = context.Process(target=_pay_many, args=(path, range(100, 10**9)))
    other = context.Process(target=_pay_many, args=(path, range(50)))
    mortal.start()
    other.start()
    other.join()
    with CompletionStore(path) as store:
        deadline = time.monotonic() + 60
        while len(store) < 70 and time.monotonic() < deadline:
            time.sleep(0.05)
    os.kill(mortal.pid, signal.SIGKILL)
    mortal.join()
    with CompletionStore(path) as store:
        known = store.get(REQUEST)
        assert len(known) >= 70 and set(range(50)) < set(known) and store.spent().answers == len(known)
    assert all(known[i] == completion(i) for i in known)


def test_a_new_store_opens_for_many_at_once(tmp_path):
    at_once = threading.Barrier(8)

    def open_and_close(path):
        at_once.wait()
        CompletionStore(path).close()

    with ThreadPoolExecutor(8) as threads:
        for i in range(20):
            list(threads.map(open_and_close, [tmp_path / f"{i}.sqlite"] * 8))


@pytest.mark.parametrize("text", ["a\u2028b\u2029", "x\u0085y\x0c\x1e", "\ud800", "é\udcff😀", "\r\n"])
def test_every_reply_is_stored_recorded_and_replayed_equal(tmp_path, text):
    request, reply = replace(REQUEST, prompt=f"Go on: {text}", stop=(text,)), Completion(text, 1, "stop")
    with CompletionStore(tmp_path / "s.sqlite") as store:
        pay(store, {0: reply}, request)
        assert store.get(request) == {0: reply}
    exported = {request.digest: (request, {0: reply})}
    export_recording(exported, tmp_path / "m.jsonl.gz", {})
    assert load_recording(tmp_path / "m.jsonl.gz").rows == exported
