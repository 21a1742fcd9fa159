"""Files: every text is written and read back equal, writers never tear a file, and YAML is YAML 1.2."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamprm_lib.engine.files import as_json_lines, from_json, from_yaml, json_lines, to_json, write_atomically
from dreamprm_lib.errors import InputError

ANY_TEXT = st.text(st.characters() | st.sampled_from("\ud83d\ude00\u2028\u2029\u0085\x0b\x0c\x1c\r\\u"))


@given(st.lists(ANY_TEXT, max_size=5))
def test_every_text_is_read_back_equal_and_is_one_line(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    path.write_bytes(as_json_lines({"text": text, text: 1} for text in texts))
    assert [row for _, row in json_lines(path)] == [{"text": text, text: 1} for text in texts]
    assert path.read_bytes().count(b"\n") == len(texts)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "é\ud83d", "\ude00\ud83d"])
def test_a_lone_surrogate_is_written_as_json_that_every_reader_takes(text):
    assert json.loads(to_json(text).decode("utf-8")) == text


def test_lines_are_named_by_their_number(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{}\n\n{"a": "\u2028"}\n{\n', encoding="utf-8")
    lines = json_lines(path)
    assert [next(lines)[0], next(lines)[0]] == [f"{path}, line 1", f"{path}, line 3"]
    with pytest.raises(InputError, match="line 4: not JSON"):
        next(lines)


@pytest.mark.parametrize("text", ["", "[1,]", "9" * 5000, '"\n"'])
def test_what_is_no_json_is_said_to_be_none(text):
    with pytest.raises(InputError, match=r"place: not JSON"):
        from_json(text, "place")


def test_several_writers_and_readers_never_see_a_torn_file(tmp_path):
    path, stop = tmp_path / "file", threading.Event()
    write_atomically(path, b"0" * 20_000)

    def write(byte):
        for _ in range(25):
            write_atomically(path, byte * 20_000)

    def read():
        seen = set()
        while not stop.is_set():
            seen.add(path.read_bytes())
        return seen

    with ThreadPoolExecutor(4) as threads:
        reader = threads.submit(read)
        list(threads.map(write, [b"1", b"2", b"3"]))
        stop.set()
    assert all(len(data) == 20_000 and len(set(data)) == 1 for data in reader.result())
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_atomic_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-3", 0.001), ("2E5", 2e5), ("1.0e-4", 1e-4), ("010", 10), ("0o17", 15), ("-.5", -0.5), ("0x1F", 31),
        ("off", "off"), ("yes", "yes"), ("N", "N"), ("true", True), ("~", None), ("12:30", "12:30"),
        ("2024-13-45", "2024-13-45"), ("1:02:03", "1:02:03"),
        ("[1e2, on]", [100.0, "on"]), ("{a: 09, b: no}", {"a": 9, "b": "no"}),
    ],
)  # fmt: skip
def test_yaml_is_yaml_1_2(text, value):
    found = from_yaml(text, "x")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "text, said",
    [
        ("[12", "p.yaml, line 1: not YAML"),
        ("a: 1\nb: c: d", "p.yaml, line 2: not YAML .mapping values"),
        ("a: 1\na: 2", 'duplicate key "a"'),
        ("!!python/name:os.system x", "p.yaml, line 1: not YAML"),
        ("a\x01", "p.yaml: not YAML"),
        ("\t- a", "not YAML"),
        ("[" * 3000, "p.yaml: not YAML"),
    ],
)
def test_what_is_no_yaml_is_one_clear_sentence(text, said):
    with pytest.raises(InputError, match=said) as caught:
        from_yaml(text, "p.yaml")
    assert "\n" not in str(caught.value)
