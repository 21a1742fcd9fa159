"""The store and recordings: nothing is lost, nothing is paid twice, nothing that was changed is believed."""

import gzip
import json
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from dreamprm_lib.engine.completions import (
    Completion,
    CompletionStore,
    Request,
    export_recording,
    load_recording,
    write_atomically,
)
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


def test_an_atomic_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]
