"""The runner: papermill executes the notebooks in sequence, with the parameters of a profile.

A stage whose entry in `manifest.json` still matches is skipped (`commands.manifest`).  The entry is written last, so a
run that was killed anywhere starts again at the stage where it was.
"""

import ast
import contextlib
import html
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, TypeAlias

import papermill
from nbclient.exceptions import DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from pydantic import create_model

from dreamprm_lib.commands import manifest as manifests
from dreamprm_lib.engine.files import from_yaml, read_text
from dreamprm_lib.engine.policy.endpoint import Endpoint, endpoint_from, settings_from_environment
from dreamprm_lib.engine.policy.policy import ACCOUNT
from dreamprm_lib.engine.problems import Problem, load_problems, named
from dreamprm_lib.engine.schema import Form, checked, nearest, row_of
from dreamprm_lib.engine.weights import fetch
from dreamprm_lib.errors import InputError, StudyError
from dreamprm_lib.show.report import write_report
from dreamprm_lib.study.folder import STAGES, Stage, Study

log = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parents[2]
Overrides: TypeAlias = Mapping[str, dict]  # parameters by notebook

# ------------------------------------------------------------------------------------------------- profiles


@dataclass(frozen=True)
class Profile:
    """Papermill parameters by notebook (`common` goes to each that has the parameter), the weights that they need, and
    a `note` for the top of the report."""

    name: str
    weights: tuple[str, ...] = ()
    common: dict = field(default_factory=dict)
    sections: dict[str, dict] = field(default_factory=dict)
    note: str = ""
    description: str = ""


SETTINGS = ("description", "weights", "common", "note")  # of a profile's file, beside sections for notebooks


def load_profile(name: str) -> Profile:
    """Read `profiles/NAME.yaml`, or the file at a path.

    Raises `InputError` for a section that is no notebook, or a parameter in `common` that no notebook has.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROJECT / "profiles" / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in (PROJECT / "profiles").glob("*.yaml")))
        raise InputError(f"There is no profile {name!r}: choose one of {known}, or give the path of a .yaml file.")
    data = from_yaml(read_text(path), path) or {}
    if not isinstance(data, dict):
        raise InputError(f"{path}: {data!r} where sections with names were expected.")
    given = {key: value for key, value in data.items() if value is not None}
    own = {key: given.pop(key) for key in SETTINGS if key in given}
    sections = {_stage_named(key, path, SETTINGS).notebook: section for key, section in given.items()}
    if len(sections) < len(given):
        raise InputError(f"{path}: two of the sections {', '.join(map(repr, given))} are of one notebook.")
    profile = row_of(Profile, {"name": path.stem, "sections": sections} | own, path)
    declared = {name for stage in STAGES for name in _declared(notebook_path(stage))}
    if unknown := [name for name in profile.common if name not in declared]:
        hint = nearest(unknown[0], declared)
        raise InputError(f"{path}: in `common` there is no parameter `{unknown[0]}` of any notebook{hint}.")
    return profile


def elsewhere(profile: Profile) -> Profile:
    """The profile with the policy that the environment names (`DREAMPRM_BASE_URL`, `DREAMPRM_MODEL`), if it names one.

    That policy is asked, not replayed.  One whose replies cannot be opened with a prefix is not searched with.  The
    weaker model of chapter 2 is another model of the same server (`DREAMPRM_WEAK_MODEL`).
    """
    policy, weaker = settings_from_environment(), settings_from_environment(weaker=True)
    if policy is None:
        return profile
    if weaker == policy:
        log.warning("DREAMPRM_WEAK_MODEL is not set: %s also takes the weaker model's place", policy["model"])
    changed: dict[str, Any] = {"policy": policy, "weak_policy": weaker, "replay": False}
    if not Endpoint(**policy).api.prefill:
        changed["search_problems"] = 0
    kept = {k: {n: v for n, v in section.items() if n not in changed} for k, section in profile.sections.items()}
    return replace(profile, common=profile.common | changed, sections=kept)


# ------------------------------------------------------------------------------------------------- parameters


def parse_overrides(options: list[str]) -> dict[str, dict]:
    """`NOTEBOOK.parameter=value` options as parameters by notebook; values are YAML."""
    overrides: dict[str, dict] = {}
    for option in options:
        name, separator, value = option.partition("=")
        notebook, dot, parameter = name.partition(".")
        if not (separator and dot and parameter):
            raise InputError(f"-p takes NOTEBOOK.parameter=value, for example -p 04.layers=[12], not {name!r}.")
        where = f"-p {name}"  # the value may be secret
        overrides.setdefault(_stage_named(notebook, where).notebook, {})[parameter] = from_yaml(value, where)
    return overrides


def _stage_named(name: object, where: object, others: Iterable[str] = ()) -> Stage:
    name = f"{name:02}" if isinstance(name, int) else name  # `04:` is a number
    for stage in STAGES:
        if name in (stage.notebook, stage.notebook[:2], stage.notebook[3:]):
            return stage
    known = [*(stage.notebook for stage in STAGES), *others]
    raise InputError(f"{where}: there is no notebook {name!r}{nearest(name, known)}.")


def notebook_path(stage: Stage, notebooks: Path | None = None) -> Path:
    """Where the notebook of a stage is, in the project or in a folder with another edition."""
    path = (notebooks or PROJECT / "notebooks") / f"{stage.notebook}.ipynb"
    if not path.exists():
        raise StudyError(f"{path} is missing. The runner needs a clone of the whole project, installed with pip -e.")
    return path


def stage_parameters(
    stage: Stage, profile: Profile, overrides: Overrides, fixed: dict, notebooks: Path | None = None
) -> dict:
    """All parameters of a notebook: its own literals, then the profile's, then the overrides, then `fixed`.

    Raises `InputError` for a parameter that the notebook does not have, one of another type than its literal, a policy
    that does not fit (before what may be secret in it is written anywhere), or if no cell is tagged `parameters`.
    """
    declared = _declared(notebook_path(stage, notebooks))
    common = {name: value for name, value in profile.common.items() if name in declared}
    given = {**common, **profile.sections.get(stage.notebook, {}), **overrides.get(stage.notebook, {})}
    if taken := [name for name in fixed if name in given]:
        raise InputError(f"{stage.notebook}: `{taken[0]}` cannot be set. A study is named by --study.")
    form = create_model(stage.notebook, __base__=_Parameters, **declared)  # type: ignore[call-overload]
    checked(form, given, stage.notebook, "parameter")
    own = {name: literal for name, (_, literal) in declared.items()}
    together = own | given | {name: value for name, value in fixed.items() if name in declared}
    for name in together:
        if name.endswith("policy"):
            endpoint_from(together[name])
    return together


class _Parameters(Form, allow_inf_nan=False):
    """Parameters of a notebook, which are made into a form of their own."""


def _declared(path: Path) -> dict[str, tuple[Any, Any]]:
    """The type and the literal of each parameter in a notebook's parameters cell.

    The type is that of the literal; where that says too little (None, an empty list) the cell says it: `n: int = None`.
    """
    declared = papermill.inspect_notebook(str(path))
    if not declared:
        raise InputError(f"{path} has no cell tagged `parameters`, so nothing could be set in it.")
    return {
        name: _typed(ast.literal_eval(info["default"]), info["inferred_type_name"]) for name, info in declared.items()
    }


def _typed(literal: Any, said: str) -> tuple[Any, Any]:
    """The type of a literal, or the one that the cell `said`; and the literal."""
    if said != "None":
        return f"{said} | None" if literal is None else said, literal
    if isinstance(literal, list) and literal:
        return list[reduce(or_, map(type, literal))], literal  # type: ignore[misc]
    open_types: dict[type, Any] = {list: list[Any], dict: dict[str, Any], type(None): Any}
    return open_types.get(type(literal), type(literal)), literal


LIMITS = {"train": ("01", "train_limit"), "meta": ("01", "meta_limit"), "test": ("03", "limit")}
NEEDED = {"train": 2, "meta": 2, "test": 1}  # problems of each split, for cross-validation and for a result


def split_problems(wanted: Mapping[str, dict]) -> dict[str, list[Problem]]:
    """The problems of each split that a study takes, by its parameters; `wanted` holds those of `01`, `03`, ...

    Raises `InputError` if a limit or a problem set leaves fewer than `NEEDED`.
    """
    found = {}
    needed = "A study needs at least " + ", ".join(f"{n} {split}" for split, n in NEEDED.items()) + " problems"
    sets = {name: load_problems(name) for name in {wanted[notebook]["problems"] for notebook, _ in LIMITS.values()}}
    for split, (notebook, limit) in LIMITS.items():
        source, most = wanted[notebook]["problems"], wanted[notebook][limit]
        if most is not None and most < NEEDED[split]:
            raise InputError(f"{notebook}: `{limit}` is {most}. {needed}.")
        found[split] = [p for p in sets[source] if p.split == split][:most]
        if len(found[split]) < NEEDED[split]:
            raise InputError(
                f"{source} has {len(found[split])} {split} problems. {needed}; `split` in a problem's file says which "
                "it is."
            )
    return found


# ------------------------------------------------------------------------------------------------- the run


def run_command(profile: str, study: str | None, fresh: bool, overrides: list[str]) -> str:
    """`run` for the command line: a profile by its name, options as text; where the report is."""
    done = run(elsewhere(load_profile(profile)), study, fresh, parse_overrides(overrides))
    return f"The report: {done.folder / 'report.html'}"


def run(
    profile: Profile,
    study_name: str | None = None,
    fresh: bool = False,
    overrides: Overrides | None = None,
    outputs: Path | None = None,
    notebooks: Path | None = None,
) -> Study:
    """Execute the study's stages that are not complete, then write the report.  Returns the study.

    `fresh` runs every stage again; completions that were paid for stay in the store.  `notebooks` is a folder with
    another edition of them, each run where it lies.
    """
    outputs, notebooks = outputs or PROJECT / "outputs", notebooks or PROJECT / "notebooks"
    study = Study(outputs, study_name or profile.name)
    if study.shipped:
        raise InputError(f"The study {study.name} is shipped and only read: name another one with --study NAME.")
    fixed = {"study": study.name, "outputs": os.path.relpath(outputs, notebooks)}
    parameters = {s.notebook: stage_parameters(s, profile, overrides or {}, fixed, notebooks) for s in STAGES}
    _refuse_what_comes_too_late({notebook[:2]: values for notebook, values in parameters.items()}, notebooks)
    for name in profile.weights:
        fetch(name)
    manifest = manifests.read(study)
    if fresh:
        manifest["stages"] = {}
        shutil.rmtree(study.folder / "training", ignore_errors=True)
    manifest |= {"study": study.name, "profile": profile.name, "note": profile.note, "versions": manifests.versions()}
    for number, stage in enumerate(STAGES, 1):
        place, source = f"[{number}/{len(STAGES)}] {stage.notebook}", notebook_path(stage, notebooks)
        expected = manifests.fingerprint(stage, study, parameters[stage.notebook], source, PROJECT / "dreamprm_lib")
        if manifests.is_complete(stage, study, manifest["stages"].get(stage.notebook, {}), expected):
            log.info("%s: complete, skipped", place)
            continue
        log.info("%s", place)
        started = time.monotonic()
        _execute(stage, study, parameters[stage.notebook], source)
        entry = expected | manifests.result(stage, study, time.monotonic() - started)
        manifest["stages"][stage.notebook] = entry
        manifests.write(study, manifest)
    write_report(study, manifest)
    return study


def _refuse_what_comes_too_late(wanted: Mapping[str, dict], notebooks: Path) -> None:
    """Raise now what would else be raised in the middle of a study; `wanted` holds the parameters of `01`, `02`, ..."""
    if all(notebook in wanted for notebook, _ in LIMITS.values()):
        with contextlib.chdir(notebooks):  # where a notebook sees its files from
            named(split_problems(wanted)["train"], wanted["01"]["compared"])
    for settings in wanted.values():
        if settings.get("training", "head") != "head":
            from dreamprm_lib.engine.fine_tuning import recipe_in  # brings torch and peft

            recipe_in(settings)


# ------------------------------------------------------------------------------------------------- one notebook


class _ProgressClient(PapermillNotebookClient):
    """Shows behind papermill's bar of cells what a bar in the running cell says, such as `3/40 [00:05<01:02]`."""

    def handle_comm_msg(self, outs, msg, cell_index):
        super().handle_comm_msg(outs, msg, cell_index)
        said = (
            html.unescape(str(msg["content"]["data"].get("state", {}).get("value", ""))).replace("\u2007", " ").strip()
        )
        if self.nb_man.pbar is not None and re.search(r"\[[\d:]+<[\d:?]+", said):
            self.nb_man.pbar.set_postfix_str("" if re.match(r"(\S+)/\1 ", said) else said)


class _TerminalEngine(NBClientEngine):
    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, extra_arguments=(), **_unused):
        return _ProgressClient(nb_man, kernel_name=kernel_name, extra_arguments=extra_arguments).execute()


papermill_engines.register("terminal", _TerminalEngine)


def _execute(stage: Stage, study: Study, parameters: dict, source: Path) -> None:
    """Run one notebook.  Its executed copy goes to `notebooks/`, also when it fails."""
    os.environ[ACCOUNT] = manifests.account(stage, study)  # the notebook's process inherits it
    executed = study.path(f"notebooks/{stage.notebook}.ipynb")
    terminal = sys.stderr.isatty()  # a log gets the bar of cells alone, now and then
    try:
        papermill.execute_notebook(
            os.path.relpath(source),  # the executed copy holds these two, and an absolute path says nothing elsewhere
            os.path.relpath(executed),
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
    except DeadKernelError as error:
        raise StudyError(
            f"The process of {stage.notebook} was ended from outside: by an interrupt, by `kill`, or for want of "
            "memory. What was complete is kept; the same command goes on from there."
        ) from error
    finally:
        del os.environ[ACCOUNT]
    if missing := [file for file in stage.writes if not (study.folder / file).exists()]:
        raise StudyError(f"{stage.notebook} ended without writing {', '.join(missing)}.")
