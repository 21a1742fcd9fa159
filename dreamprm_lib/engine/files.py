"""Files: read with an error that says what is wrong with them, written whole or not at all.

Text is UTF-8, with or without a byte-order mark, plain or packed by gzip.  JSON Lines are split at the line feed alone,
so that every text can be written and is read back as it was.  YAML is YAML 1.2.
"""

import gzip
import hashlib
import json
import os
import re
import uuid
import zlib
from collections.abc import Iterable, Iterator
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError

from dreamprm_lib.errors import InputError

DATA = Path(__file__).parent.parent / "data"  # what comes with the library


def cache_dir() -> Path:
    """The folder of everything fetched or stored; it need not exist."""
    if chosen := os.environ.get("DREAMPRM_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dreamprm"


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write to a temporary file beside `path`, then rename: a reader sees the old file or the new one, whole.

    That holds for several writers at once, and after a power cut.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


# ------------------------------------------------------------------------------------------------- text


def text_lines(path: Path | Traversable) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers, from 1; only a line feed ends a line.

    Raises `InputError` for a file that is missing, damaged or no UTF-8.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            for number, line in enumerate(gzip.open(file) if packed else file, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {number}: the byte {error.object[error.start]:#04x} is not UTF-8. Unpack an archive, and "
            "save other text as UTF-8, for example by `iconv -f latin1 -t utf-8 FILE > OUT`."
        ) from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InputError(f"There is no file {path}.") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path} is packed by gzip, and damaged or cut short ({error}).") from error


def read_text(path: Path | Traversable) -> str:
    """The text of a file, as `text_lines` reads it."""
    return "".join(line for _, line in text_lines(path))


# ------------------------------------------------------------------------------------------------- JSON


def to_json(value: Any, indent: int | None = None) -> bytes:
    """JSON in UTF-8 that `from_json` reads back equal, whatever texts are in it.

    A lone surrogate, which UTF-8 lacks, is written as its escape.  A pair of escapes would be read as one character, so
    that the second of a pair goes as it is.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    lone = "[\ud800-\udbff]|(?<![\ud800-\udbff])[\udc00-\udfff]"
    return re.sub(lone, lambda found: f"\\u{ord(found[0]):04x}", text).encode("utf-8", "surrogatepass")


def from_json(text: str, where: object) -> Any:
    """The value of a JSON text.  Raises `InputError`, which begins with `where`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}).") from error


def read_json(path: Path | Traversable) -> Any:
    """The value of a JSON file."""
    return from_json(read_text(path), path)


def json_lines(path: Path | Traversable) -> Iterator[tuple[str, dict]]:
    """The objects of a JSON Lines file, each with its place as `FILE, line N`; blank lines are passed over."""
    for number, line in text_lines(path):
        if line.strip():
            where = f"{path}, line {number}"
            value = from_json(line, where)
            if not isinstance(value, dict):
                raise InputError(
                    f"{where}: {line.strip()[:60]} where an object was expected. To make JSON Lines of one JSON array: "
                    "`jq -c '.[]' FILE > OUT`."
                )
            yield where, value


def as_json_lines(values: Iterable[dict]) -> bytes:
    """Objects as JSON Lines."""
    return b"".join(to_json(value) + b"\n" for value in values)


# ------------------------------------------------------------------------------------------------- YAML


class _Plain(SafeConstructor):
    """YAML 1.2's core schema, in which a date is a text."""


_Plain.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def from_yaml(text: str, where: object) -> Any:
    """The value of a YAML 1.2 text: `1e-3` and `010` are decimal numbers, `off`, `12:30` and `2024-08-01` are words.

    Raises `InputError`, which begins with `where` and names the line.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Plain
    try:
        return yaml.load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        said = getattr(error, "problem", None) or " ".join(str(error).split())
        raise InputError(f"{where}{f', line {mark.line + 1}' if mark else ''}: not YAML ({said}).") from error
