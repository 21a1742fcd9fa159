"""The manifest of a study: what each stage was made from, so that a stage whose entry still matches is skipped.

An entry says what a stage depends on (its parameters, the tables that it reads, files that parameters name, the code)
and what came of it: the digests of what it wrote, its seconds and tokens, and what was asked of models.
"""

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dreamprm_lib.engine.files import file_digest, json_lines, read_json, write_atomically
from dreamprm_lib.engine.policy.completions import CompletionStore
from dreamprm_lib.engine.policy.policy import store_path
from dreamprm_lib.errors import InputError
from dreamprm_lib.study.folder import Stage, Study

log = logging.getLogger(__name__)

# Fields of a policy that change no result.
INDIFFERENT = ("budget", "slots", "unpacked", "timeout", "retries", "key_variable")
CODE = (".py", ".toml", ".yaml", ".gz")  # files of the library that decide about results
PACKAGES = ("numpy", "pandas", "torch", "transformers", "papermill")


def read(study: Study) -> dict:
    """The manifest of a study, with no stage where there is none that can be read."""
    path = study.folder / "manifest.json"
    if path.exists():
        try:
            manifest = read_json(path)
            return manifest | {"stages": {name: dict(entry) for name, entry in dict(manifest["stages"]).items()}}
        except (InputError, TypeError, ValueError, LookupError) as error:
            log.warning("%s is damaged (%s). A new one is written, and every stage runs again.", path, error)
    return {"stages": {}}


def write(study: Study, manifest: dict) -> None:
    """Write the manifest, whole or not at all."""
    write_atomically(study.path("manifest.json"), (json.dumps(manifest, indent=2) + "\n").encode())


def versions() -> dict[str, str]:
    """Of Python, and of the packages that results may depend on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def fingerprint(stage: Stage, study: Study, parameters: dict, source: Path, library: Path) -> dict:
    """What the results of a stage depend on: parameters, tables, files, its notebook, and the code in `library`.

    How fast and for how much money a model is asked is not part of it.
    """
    matter = {
        name: {k: v for k, v in value.items() if k not in INDIFFERENT} if name.endswith("policy") else value
        for name, value in parameters.items()
    }
    outside = [value for name, value in parameters.items() if name not in ("study", "outputs")]
    modules = sorted(p for p in library.rglob("*") if p.suffix in CODE and p.is_file())
    cells = json.dumps([cell["source"] for cell in read_json(source)["cells"]])
    return {
        "parameters": matter,
        "inputs": _digests(stage.reads, study),
        "files": {
            name: _digest_below(path) for name in _words(outside) if os.path.exists(path := source.parent / name)
        },
        "code": hashlib.sha256(f"{cells}\n{_listed(modules, library)}".encode()).hexdigest(),
    }


def is_complete(stage: Stage, study: Study, entry: dict, expected: dict) -> bool:
    """Whether a stage's entry has what is expected, and what the stage wrote is still there as it was."""
    now = expected | {"outputs": _digests(stage.writes, study)}
    return all(entry.get(key) == value for key, value in now.items())


def result(stage: Stage, study: Study, seconds: float) -> dict:
    """What the manifest says of a stage that has ended: what it wrote, took, and asked of models in all its runs."""
    with CompletionStore(store_path()) as store:
        asked = store.spent(account(stage, study))
    tables = [study.folder / file for file in stage.writes if file.endswith(".jsonl")]
    return {
        "outputs": _digests(stage.writes, study),
        "seconds": round(seconds, 1),
        "tokens": sum(row.get("tokens") or 0 for table in tables for _, row in json_lines(table)),
        "asked": asdict(asked),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }


def account(stage: Stage, study: Study) -> str:
    """The name under which the store of completions books what a stage asks for."""
    return f"{study.name}/{stage.notebook}"


def _words(value: Any) -> list[str]:
    """The texts in parameters that may name files or folders, such as problem sets and backbones."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return [word for part in parts for word in _words(part)]
    return [word for word in value.partition("?")[0].split(",") if word] if isinstance(value, str) else []


def _digest_below(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files in a folder."""
    if path.is_file():
        return file_digest(path)
    return hashlib.sha256(_listed((p for p in path.rglob("*") if p.is_file()), path).encode()).hexdigest()


def _listed(files: Iterable[Path], folder: Path) -> str:
    return "".join(f"{path.relative_to(folder)}:{file_digest(path)}\n" for path in sorted(files))


def _digests(files: Iterable[str], study: Study) -> dict[str, str]:
    return {file: file_digest(study.folder / file) for file in files if (study.folder / file).exists()}
