"""What a study made, as data that other projects train on: labels of steps, preference pairs, and pools."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from dreamprm_lib.commands.run import PROJECT
from dreamprm_lib.engine.backbone import Template
from dreamprm_lib.engine.files import as_json_lines, file_digest, read_json, to_json, write_atomically
from dreamprm_lib.engine.problems import Problem, load_problems
from dreamprm_lib.errors import InputError, StudyError
from dreamprm_lib.study.folder import Study
from dreamprm_lib.study.rows import CandidateScores, CorrectedLabel, Program, Row, StepLabel, read_rows

PLACEHOLDER = "ки"  # what OpenRLHF's examples put behind each step
TABLES = ("solutions.jsonl", "labels.jsonl", "corrected_labels.jsonl", "candidates.jsonl", "scores.jsonl")


def study_of(name: str | Path) -> Study:
    """The study in the folder of that path, or of that name in `outputs/`."""
    folder = (Path(name) if Path(name).is_dir() else PROJECT / "outputs" / name).resolve()
    if not folder.is_dir():
        raise InputError(f"There is no study {name}: give the name of a folder in outputs/, or the path of one.")
    return Study(folder.parent, folder.name)


def file_of(study: Study, file: str) -> Path | None:
    """The path of a study's file, None if the study does not have it."""
    try:
        return study.existing(file)
    except StudyError:
        return None


def rows_of(study: Study, file: str, row_type: type[Row]) -> list[Row]:
    """The rows of a study's table; none if it does not have it."""
    path = file_of(study, file)
    return read_rows(path, row_type) if path else []


def parameters_of(study: Study, notebook: str) -> dict[str, Any]:
    """The parameters that a notebook of the study had; none if its manifest does not know."""
    path = file_of(study, "manifest.json")
    return read_json(path)["stages"].get(notebook, {}).get("parameters", {}) if path else {}


def problems_of(study: Study) -> list[Problem]:
    """The problems of the sets that the study trains and tests on."""
    chapters = ("01_chain_of_functions", "03_candidate_solutions")
    sets = dict.fromkeys(parameters_of(study, chapter).get("problems", "starter") for chapter in chapters)
    return list({problem.id: problem for name in sets for problem in load_problems(name)}.values())


def export(name: str, form: str, out: Path) -> str:
    """Write the tables of a study in a form into the folder `out`, with `manifest.json` last; what was written.

    `trl` and `openrlhf` are JSON Lines in the columns of these projects' trainers, `parquet` has TRL's columns.
    """
    study = study_of(name)
    problems = {p.id: p for p in problems_of(study)}
    solutions = rows_of(study, "solutions.jsonl", Program)
    tables = {"steps": _steps(study, problems, solutions), "pairs": _pairs(problems, solutions)}
    tables["pools"] = _pools(study, problems)
    if form == "openrlhf":
        tables["steps"] = [_with_placeholders(row) for row in tables["steps"]]
    out.mkdir(parents=True, exist_ok=True)
    files = {}
    for table, rows in tables.items():
        file = f"{table}.{'parquet' if form == 'parquet' else 'jsonl'}"
        data = _as_parquet(rows) if form == "parquet" else as_json_lines(rows)
        write_atomically(out / file, data)
        files[file] = {"rows": len(rows), "sha256": hashlib.sha256(data).hexdigest()}
    sources = {file: file_digest(path) for file in TABLES if (path := file_of(study, file))}
    manifest = {"study": study.name, "format": form, "files": files, "sources": sources}
    write_atomically(out / "manifest.json", to_json(manifest, indent=2) + b"\n")
    return f"{out}: " + ", ".join(f"{file} ({entry['rows']} rows)" for file, entry in files.items())


def _prompt(problems: Mapping[str, Problem], name: str) -> str:
    """What our reward models read before a program."""
    if name not in problems:
        raise InputError(f"The study has programs for {name!r}, which its problem set does not have any more.")
    return Template().root(problems[name])


def _steps(study: Study, problems: Mapping[str, Problem], solutions: Sequence[Program]) -> list[dict]:
    """Stepwise supervision in TRL's columns (`prompt`, `completions`, `labels`), with what the labels are made of.

    A label says whether the raw one, `values`, is at least 0.5.  A program with a step without a label is left out.
    """
    labels = {(x.problem, x.sample, x.step): x for x in rows_of(study, "labels.jsonl", StepLabel)}
    moved = rows_of(study, "corrected_labels.jsonl", CorrectedLabel)
    after = {(x.problem, x.sample, x.step): x.after for x in moved}
    rows = []
    for program in solutions:
        places = [(program.problem, program.sample, step) for step in range(len(program.steps))]
        mine = [labels[place] for place in places if place in labels]
        if program.steps and len(mine) == len(places):
            rows.append(
                {
                    "prompt": _prompt(problems, program.problem),
                    "completions": program.steps,
                    "labels": [x.label >= 0.5 for x in mine],
                    "values": [x.label for x in mine],
                    "posterior": [x.posterior for x in mine],
                    "corrected": [after.get(place) for place in places],
                    "problem": program.problem,
                    "sample": program.sample,
                }
            )
    return rows


def _with_placeholders(row: dict) -> dict:
    """A row of `_steps` in OpenRLHF's columns: `input`, with a placeholder behind each step, and `label`."""
    text = row.pop("prompt") + "".join(step + PLACEHOLDER for step in row.pop("completions"))
    return {"input": text, "label": ["+" if right else "-" for right in row.pop("labels")], **row}


def _pairs(problems: Mapping[str, Problem], solutions: Sequence[Program]) -> list[dict]:
    """Each passing with each failing program of the same problem: `prompt`, `chosen`, `rejected`."""
    good, bad = ([p for p in solutions if p.passed is passed] for passed in (True, False))
    pairs = dict.fromkeys((a.problem, a.code, b.code) for a in good for b in bad if a.problem == b.problem)
    return [
        {"prompt": _prompt(problems, problem), "chosen": chosen, "rejected": rejected, "problem": problem}
        for problem, chosen, rejected in pairs
    ]


def _pools(study: Study, problems: Mapping[str, Problem]) -> list[dict]:
    """The candidates of the test problems, each with the step scores of all methods."""
    scores: dict[tuple[str, int], dict[str, list[float]]] = {}
    for row in rows_of(study, "scores.jsonl", CandidateScores):
        scores.setdefault((row.problem, row.sample), {})[row.method] = row.scores
    return [
        {"prompt": _prompt(problems, c.problem), **asdict(c), "scores": scores.get((c.problem, c.sample), {})}
        for c in rows_of(study, "candidates.jsonl", Program)
    ]


def _as_parquet(rows: list[dict]) -> bytes:
    data = io.BytesIO()
    try:
        pd.DataFrame(rows).to_parquet(data, index=False)
    except ImportError as error:
        raise InputError('Parquet needs the package pyarrow: pip install -e ".[parquet]".') from error
    return data.getvalue()
