"""What a study made, as data that other projects train on: labels of steps, preference pairs, and pools."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dreamprm_lib.commands.run import PROJECT
from dreamprm_lib.engine.backbone import Template
from dreamprm_lib.engine.files import as_json_lines, file_digest, read_json, to_json, write_atomically
from dreamprm_lib.engine.problems import Problem, load_problems
from dreamprm_lib.errors import InputError, StudyError
from dreamprm_lib.steps import in_order
from dreamprm_lib.study.folder import Study
from dreamprm_lib.study.rows import CandidateScores, CorrectedLabel, Program, Row, StepLabel, read_rows

PLACEHOLDER = "ки"  # what OpenRLHF's examples put behind each step
ABOUT = {
    "steps": "One program a row. `labels` (TRL) and `label` (OpenRLHF) say whether at least half of the rollouts of a "
    "step's prefix pass, and of the last step whether the program does; `values` is that share, `posterior` and "
    "`corrected` are better estimates of it where the study has them. A program with a step without a label is left "
    "out.",
    "pairs": "Every passing with every failing program of the same training or meta problem.",
    "pools": "The candidates of the test problems with their verdicts and the step scores of each method. They measure "
    "a selector; nothing should be trained on them.",
}


def study_of(name: str | Path) -> Study:
    """The study of that name in `outputs/`, or in the folder of that path."""
    folder = Path(name) if Path(name).is_dir() else PROJECT / "outputs" / name
    if not folder.is_dir():
        raise InputError(f"There is no study {name}: give the name of a folder in outputs/, or the path of one.")
    return Study(folder.resolve().parent, folder.resolve().name)


def file_of(study: Study, file: str) -> Path | None:
    """The path of a study's file, None if the study does not have it."""
    try:
        return study.existing(file)
    except StudyError:
        return None


def parameters_of(study: Study, notebook: str) -> dict[str, Any]:
    """The parameters that a notebook of a study had; none if its manifest does not know."""
    path = file_of(study, "manifest.json")
    return read_json(path)["stages"].get(notebook, {}).get("parameters", {}) if path else {}


def rows_of(study: Study, file: str, row_type: type[Row]) -> list[Row]:
    """The rows of a table of a study; none if it has no such table."""
    path = file_of(study, file)
    return read_rows(path, row_type) if path else []


def problems_of(study: Study, programs: Sequence[Program]) -> dict[str, Problem]:
    """The problems of a study's programs by id, in the order of the problem set."""
    problem_set = parameters_of(study, "01_chain_of_functions").get("problems", "starter")
    wanted = {p.problem for p in programs}
    found = {p.id: p for p in load_problems(problem_set) if p.id in wanted}
    if strange := sorted(wanted - set(found)):
        raise InputError(f"There are programs for {strange[0]!r}, which is no problem of the set {problem_set}.")
    return found


def export(name: str, form: str, out: Path) -> str:
    """Write the tables of a study in a form into the folder `out`, with `manifest.json` last; what was written.

    `trl` and `openrlhf` are JSON Lines in the columns of these projects' trainers, `parquet` has TRL's columns.
    """
    study = study_of(name)
    solutions, candidates = rows_of(study, "solutions.jsonl", Program), rows_of(study, "candidates.jsonl", Program)
    problems = problems_of(study, [*solutions, *candidates])
    prompts = {p.id: Template().root(p) for p in problems.values()}
    tables = {
        "steps": _steps(study, prompts, solutions),
        "pairs": _pairs(prompts, solutions),
        "pools": _pools(study, problems, prompts, candidates),
    }
    if form == "openrlhf":
        tables["steps"] = [_with_placeholders(row) for row in tables["steps"]]
    out.mkdir(parents=True, exist_ok=True)
    files = {}
    for table, rows in tables.items():
        file = f"{table}.{'parquet' if form == 'parquet' else 'jsonl'}"
        data = _as_parquet(rows) if form == "parquet" else as_json_lines(rows)
        write_atomically(out / file, data)
        columns = list(rows[0]) if rows else []
        digest = hashlib.sha256(data).hexdigest()
        files[file] = {"rows": len(rows), "columns": columns, "sha256": digest, "about": ABOUT[table]}
    read = ("solutions.jsonl", "labels.jsonl", "corrected_labels.jsonl", "candidates.jsonl", "scores.jsonl")
    sources = {file: file_digest(path) for file in read if (path := file_of(study, file))}
    manifest = {"study": study.name, "format": form, "files": files, "sources": sources}
    write_atomically(out / "manifest.json", to_json(manifest, indent=2) + b"\n")
    return f"{out}: " + ", ".join(f"{file} ({entry['rows']} rows)" for file, entry in files.items())


def _steps(study: Study, prompts: Mapping[str, str], solutions: Sequence[Program]) -> list[dict]:
    """Stepwise supervision, in TRL's columns: `prompt`, `completions`, `labels`; and what the labels are made of."""
    labels = {(x.problem, x.sample, x.step): x for x in rows_of(study, "labels.jsonl", StepLabel)}
    moved = rows_of(study, "corrected_labels.jsonl", CorrectedLabel)
    after = {(x.problem, x.sample, x.step): x.after for x in moved}
    rows = []
    for program in in_order(solutions):
        keys = [(program.problem, program.sample, step) for step in range(len(program.steps))]
        mine = [labels[key] for key in keys if key in labels]
        if program.steps and len(mine) == len(keys):
            rows.append(
                {
                    "prompt": prompts[program.problem],
                    "completions": program.steps,
                    "labels": [x.label >= 0.5 for x in mine],
                    "values": [x.label for x in mine],
                    "posterior": [x.posterior for x in mine],
                    "corrected": [after.get(key) for key in keys],
                    "problem": program.problem,
                    "sample": program.sample,
                }
            )
    return rows


def _with_placeholders(row: dict) -> dict:
    """A row of `_steps` in OpenRLHF's columns: `input`, with a placeholder behind each step, and `label`."""
    marked = "".join(step + PLACEHOLDER for step in row["completions"])
    signs = ["+" if right else "-" for right in row["labels"]]
    others = {name: value for name, value in row.items() if name not in ("prompt", "completions", "labels")}
    return {"input": row["prompt"] + marked, "label": signs, **others}


def _pairs(prompts: Mapping[str, str], solutions: Sequence[Program]) -> list[dict]:
    """Preference pairs: `prompt`, `chosen`, `rejected`."""
    rows = []
    for problem in dict.fromkeys(p.problem for p in solutions):
        mine = [p for p in solutions if p.problem == problem]
        good, bad = (dict.fromkeys(p.code for p in mine if p.passed is ok) for ok in (True, False))
        rows += [
            {"prompt": prompts[problem], "chosen": chosen, "rejected": rejected, "problem": problem}
            for chosen in good
            for rejected in bad
        ]
    return rows


def _pools(
    study: Study, problems: Mapping[str, Problem], prompts: Mapping[str, str], candidates: Sequence[Program]
) -> list[dict]:
    """The candidates, each with the scores of all methods of the study."""
    scores: dict[tuple[str, int], dict[str, list[float]]] = {}
    for row in rows_of(study, "scores.jsonl", CandidateScores):
        scores.setdefault((row.problem, row.sample), {})[row.method] = row.scores
    return [
        {
            "prompt": prompts[c.problem],
            "code": c.code,
            "steps": c.steps,
            "passed": c.passed,
            "verdict": c.verdict,
            "scores": scores.get((c.problem, c.sample), {}),
            "problem": c.problem,
            "difficulty": problems[c.problem].difficulty,
            "sample": c.sample,
            "logprob": c.logprob,
        }
        for c in candidates
    ]


def _as_parquet(rows: list[dict]) -> bytes:
    data = io.BytesIO()
    try:
        pd.DataFrame(rows).to_parquet(data, index=False)
    except ImportError as error:
        raise InputError('Parquet needs the package pyarrow: pip install -e ".[parquet]".') from error
    return data.getvalue()
