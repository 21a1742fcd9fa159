"""The runner: papermill executes the notebooks in sequence, with the parameters of a profile.

A stage whose entry in `manifest.json` still matches (parameters, inputs, code, outputs) is skipped.  The entry is
written last, so a run that was killed anywhere starts again at the stage where it was.
"""

from __future__ import annotations

import ast
import hashlib
import html
import importlib.metadata
import json
import logging
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import nbformat
import papermill
import yaml
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from dreamprm_lib.artifacts import STAGES, Stage, Study
from dreamprm_lib.engine.completions import CompletionStore, Cost, write_atomically
from dreamprm_lib.engine.endpoint import Endpoint, settings_from_environment
from dreamprm_lib.engine.policy import ACCOUNT, store_path
from dreamprm_lib.engine.weights import fetch, file_digest
from dreamprm_lib.errors import InputError, StudyError
from dreamprm_lib.show.report import write_report

log = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parent.parent
INDIFFERENT = ("budget", "slots", "threads", "key_variable")  # fields of a policy that change no result
PACKAGES = ("numpy", "pandas", "torch", "transformers", "papermill")


@dataclass(frozen=True)
class Profile:
    """Papermill parameters by notebook (`common` goes to each that has the parameter), and the weights they need.

    `plan` holds what `plan.Assumptions` are to be other than its defaults; a `note` stands on top of the report.
    """

    name: str
    weights: tuple[str, ...]
    common: dict
    sections: dict[str, dict]
    plan: dict = field(default_factory=dict)
    note: str = ""


NOT_NOTEBOOKS = ("description", "weights", "common", "plan", "note")


def load_profile(name: str) -> Profile:
    """Read `profiles/NAME.yaml`, or the file at a path.  Raises `InputError` if a section is no notebook."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROJECT / "profiles" / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in (PROJECT / "profiles").glob("*.yaml")))
        raise InputError(f"There is no profile {name!r}: choose one of {known}, or give the path of a .yaml file.")
    try:
        data = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    sections = {key: value or {} for key, value in data.items() if key not in NOT_NOTEBOOKS}
    for key in sections:
        _stage_named(key)
    plan, note = data.get("plan") or {}, data.get("note") or ""
    return Profile(path.stem, tuple(data.get("weights") or ()), data.get("common") or {}, sections, plan, note)


def elsewhere(profile: Profile) -> Profile:
    """The profile with the policy that the environment names (`DREAMPRM_BASE_URL`, `DREAMPRM_MODEL`), if it names one.

    That policy is asked, not replayed.  One whose replies cannot be opened with a prefix is not searched with.  The
    weaker model of chapter 2 stays what it was.
    """
    policy = settings_from_environment()
    if policy is None:
        return profile
    changed = {"policy": policy, "replay": False}
    if not Endpoint(**policy).prefill:
        changed["search_problems"] = 0
    sections = {
        notebook: {name: value for name, value in section.items() if name not in changed}
        for notebook, section in profile.sections.items()
    }
    return replace(profile, common={**profile.common, **changed}, sections=sections)


def parse_overrides(options: list[str]) -> dict[str, dict]:
    """`NOTEBOOK.parameter=value` options as parameters by notebook; values are YAML literals."""
    overrides: dict[str, dict] = {}
    for option in options:
        name, separator, value = option.partition("=")
        notebook, dot, parameter = name.partition(".")
        if not (separator and dot and parameter):
            raise InputError(f"-p takes NOTEBOOK.parameter=value, for example -p 04.layers=[12], not {option!r}.")
        overrides.setdefault(_stage_named(notebook).notebook, {})[parameter] = yaml.safe_load(value)
    return overrides


def _stage_named(name: str) -> Stage:
    for stage in STAGES:
        if name in (stage.notebook, stage.notebook[:2], stage.notebook[3:]):
            return stage
    raise InputError(f"There is no notebook {name!r}: known are {', '.join(s.notebook for s in STAGES)}.")


def notebook_path(stage: Stage, notebooks: Path | None = None) -> Path:
    path = (notebooks or PROJECT / "notebooks") / f"{stage.notebook}.ipynb"
    if not path.exists():
        raise StudyError(f"{path} is missing. The runner needs a clone of the whole project, installed with pip -e.")
    return path


def stage_parameters(
    stage: Stage, profile: Profile, overrides: Mapping[str, dict], fixed: dict, notebooks: Path | None = None
) -> dict:
    """All parameters of a notebook: its own literals, then the profile's, then the overrides, then `fixed`.

    Raises `InputError` for a parameter that the notebook does not have, or if it has no cell tagged `parameters`.
    """
    path = notebook_path(stage, notebooks)
    declared = papermill.inspect_notebook(str(path))
    if not declared:
        raise InputError(f"{path} has no cell tagged `parameters`, so nothing could be set in it.")
    section = {**profile.sections.get(stage.notebook, {}), **overrides.get(stage.notebook, {})}
    if unknown := sorted(set(section) - set(declared)):
        raise InputError(f"{stage.notebook} has no parameter `{unknown[0]}`: known are {', '.join(sorted(declared))}.")
    values = {name: ast.literal_eval(info["default"]) for name, info in declared.items()}
    common = {name: value for name, value in {**profile.common, **fixed}.items() if name in declared}
    return {**values, **common, **section}


def run(
    profile: Profile,
    study_name: str | None = None,
    fresh: bool = False,
    overrides: Mapping[str, dict] | None = None,
    outputs: Path = PROJECT / "outputs",
    notebooks: Path | None = None,
) -> Study:
    """Execute the study's stages that are not complete, then write the report.  Returns the study.

    `fresh` runs every stage again; completions that were paid for stay in the store.  `notebooks` is a folder with
    another edition of them, each run where it lies.
    """
    study = Study(outputs, study_name or profile.name)
    if study.shipped:
        raise InputError(f"The study {study.name} is shipped and only read: name another one with --study NAME.")
    fixed = {"study": study.name, "outputs": os.path.relpath(outputs, notebooks or PROJECT / "notebooks")}
    parameters = {s.notebook: stage_parameters(s, profile, overrides or {}, fixed, notebooks) for s in STAGES}
    for name in profile.weights:
        fetch(name)
    manifest = _read_manifest(study)
    if fresh:
        manifest["stages"] = {}
        shutil.rmtree(study.folder / "training", ignore_errors=True)
    manifest |= {"study": study.name, "profile": profile.name, "note": profile.note, "versions": _versions()}
    for number, stage in enumerate(STAGES):
        entry = manifest["stages"].get(stage.notebook)
        source = notebook_path(stage, notebooks)
        expected = _fingerprint(stage, study, parameters[stage.notebook], source)
        if entry and all(entry[key] == value for key, value in expected.items()) and _intact(entry, study):
            log.info("[%d/%d] %s: complete, skipped", number + 1, len(STAGES), stage.notebook)
            continue
        log.info("[%d/%d] %s", number + 1, len(STAGES), stage.notebook)
        seconds = _execute(stage, study, parameters[stage.notebook], source)
        manifest["stages"][stage.notebook] = {
            **expected,
            "outputs": _digests(stage.writes, study),
            "seconds": round(seconds, 1),
            "tokens": _tokens(stage.writes, study),
            "asked": asdict(_asked(stage, study)),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S"),
        }
        write_atomically(study.path("manifest.json"), (json.dumps(manifest, indent=2) + "\n").encode())
    write_report(study, manifest)
    return study


class _TellingClient(PapermillNotebookClient):
    """Shows behind papermill's bar of cells what a bar in the running cell says, such as `3/40 [00:05<01:02]`."""

    def handle_comm_msg(self, outs, msg, cell_index):
        super().handle_comm_msg(outs, msg, cell_index)
        said = str(msg["content"]["data"].get("state", {}).get("value", ""))
        said = html.unescape(said).replace("\u2007", " ").strip()
        if self.nb_man.pbar is not None and re.search(r"\[[\d:]+<[\d:?]+", said):
            self.nb_man.pbar.set_postfix_str("" if re.match(r"(\S+)/\1 ", said) else said)


class _TerminalEngine(NBClientEngine):
    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, start_timeout=60, extra_arguments=(), **_unused):
        return _TellingClient(
            nb_man, kernel_name=kernel_name, startup_timeout=start_timeout, extra_arguments=extra_arguments
        ).execute()


papermill_engines.register("terminal", _TerminalEngine)


def _execute(stage: Stage, study: Study, parameters: dict, source: Path) -> float:
    """Run one notebook; seconds.  Its executed copy goes to `notebooks/`, also when it fails."""
    started = time.monotonic()
    os.environ[ACCOUNT] = _account(stage, study)  # the notebook's process inherits it
    executed = study.path(f"notebooks/{stage.notebook}.ipynb")
    terminal = sys.stderr.isatty()  # a log gets the bar of cells alone, now and then
    try:
        papermill.execute_notebook(
            str(source),
            str(executed),
            parameters,
            engine_name="terminal" if terminal else None,
            progress_bar={"mininterval": 0.1 if terminal else 30},
            kernel_name="python3",
            cwd=str(source.parent),
            extra_arguments=["--log-level=CRITICAL"],
        )
    except PapermillExecutionError as error:
        raise StudyError(
            f"{stage.notebook} failed in cell {error.cell_index + 1} with {error.ename}: {error.evalue}\n"
            f"The executed copy shows where: {executed}. What was complete before it is kept."
        ) from error
    finally:
        del os.environ[ACCOUNT]
    _forget_paths(executed, stage)
    if missing := [file for file in stage.writes if not (study.folder / file).exists()]:
        raise StudyError(f"{stage.notebook} ended without writing {', '.join(missing)}.")
    return time.monotonic() - started


def _forget_paths(executed: Path, stage: Stage) -> None:
    """Papermill notes absolute paths in the executed copy; they say nothing on another machine."""
    notebook = nbformat.read(executed, 4)
    notebook.metadata.papermill |= {
        "input_path": f"notebooks/{stage.notebook}.ipynb",
        "output_path": f"notebooks/{stage.notebook}.ipynb",
    }
    write_atomically(executed, nbformat.writes(notebook).encode())


def _fingerprint(stage: Stage, study: Study, parameters: dict, source: Path) -> dict:
    """What a stage's results depend on; how fast and for how much money a model is asked is not part of it."""
    matter = {
        name: {k: v for k, v in value.items() if k not in INDIFFERENT} if name.endswith("policy") else value
        for name, value in parameters.items()
    }
    return {"parameters": matter, "inputs": _digests(stage.reads, study), "code": _code_digest(source)}


def _intact(entry: dict, study: Study) -> bool:
    return entry["outputs"] == _digests(tuple(entry["outputs"]), study)


def _digests(files: tuple[str, ...], study: Study) -> dict[str, str]:
    return {file: file_digest(study.folder / file) for file in files if (study.folder / file).exists()}


def _code_digest(source: Path) -> str:
    """SHA-256 of the notebook's cells, the library's modules and its data."""
    cells = json.loads(source.read_text(encoding="utf-8"))["cells"]
    digest = hashlib.sha256(json.dumps([cell["source"] for cell in cells]).encode())
    package = PROJECT / "dreamprm_lib"
    for path in sorted(p for p in package.rglob("*") if p.is_file() and p.suffix in (".py", ".toml", ".gz")):
        digest.update(f"{path.relative_to(package)}:{file_digest(path)}".encode())
    return digest.hexdigest()


def _tokens(files: tuple[str, ...], study: Study) -> int:
    """Tokens of the completions in the tables that a stage wrote."""
    rows = (json.loads(line) for file in files if file.endswith(".jsonl") for line in (study.folder / file).open())
    return sum(row.get("tokens") or 0 for row in rows)


def _account(stage: Stage, study: Study) -> str:
    return f"{study.name}/{stage.notebook}"


def _asked(stage: Stage, study: Study) -> Cost:
    """What a stage has asked of models in all its runs, and what that cost."""
    with CompletionStore(store_path()) as store:
        return store.spent(_account(stage, study))


def _read_manifest(study: Study) -> dict:
    path = study.folder / "manifest.json"
    if not path.exists():
        return {"stages": {}}
    try:
        manifest = json.loads(path.read_text())
        return manifest if isinstance(manifest["stages"], dict) else {"stages": {}}
    except (ValueError, KeyError, TypeError):
        log.warning("%s is not readable and is made anew: every stage runs again", path)
        return {"stages": {}}


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}
