"""The step debugger: a page that shows programs function by function, with what is thought and known of each step."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np

from dreamprm_lib import test_time_scaling as tts
from dreamprm_lib.commands.evaluate import read_candidates
from dreamprm_lib.commands.export import parameters_of, problems_of, rows_of, study_of
from dreamprm_lib.engine.files import DATA, write_atomically
from dreamprm_lib.engine.policy.policy import open_policy
from dreamprm_lib.engine.problems import Problem, describe
from dreamprm_lib.engine.sandbox.grading import open_grader
from dreamprm_lib.engine.schema import nearest
from dreamprm_lib.errors import InputError, MissingCompletion, SandboxError
from dreamprm_lib.monte_carlo_labels import continued, graded_rollouts, rollout_prompt
from dreamprm_lib.reward_model import RewardModel
from dreamprm_lib.study.folder import Study
from dreamprm_lib.study.rows import CandidateScores, CorrectedLabel, Program, StepLabel

log = logging.getLogger(__name__)

SHOWN_FIRST = ("dreamprm_code", "prm_cof")  # the study's scores that are shown, if there are any
Place = tuple[str, int, int]  # problem, sample, step


@dataclass(frozen=True)
class Rollout:
    """A completion of a prefix: what it wrote behind it, and whether the program passes (None: it is another one)."""

    text: str
    passed: bool | None


@dataclass(frozen=True)
class ShownStep:
    """A step as the page shows it; None where a thing is not known."""

    name: str
    text: str
    score: float | None
    label: StepLabel | None
    corrected: float | None
    rollouts: list[Rollout]


@dataclass(frozen=True)
class ShownProgram:
    """A program as the page shows it; `number` is its own on the page, `score` the mean of its steps'."""

    number: int
    program: Program
    score: float | None
    steps: list[ShownStep]


def inspect(target: str, study_name: str = "reference", prm: str | None = None, out: Path = Path("page.html")) -> str:
    """Write the page of a file of programs, or of one problem of a study; where it is.

    Scores are those of the reward model `prm`, or else of the study (`scores.jsonl`).  Labels are the study's in whose
    folder the file lies; the texts of rollouts are those that are recorded or stored.  Nothing is asked of a model.
    """
    study = study_of(Path(target).parent if Path(target).is_file() else study_name)
    problems, programs = _read(target, study)
    method, scores = _scores(study, prm, list(problems.values()), programs)
    labels = _labels(study, programs)
    corrected = {
        (x.problem, x.sample, x.step): x.after for x in rows_of(study, "corrected_labels.jsonl", CorrectedLabel)
    }
    rollouts = _rollouts(study, problems, labels)
    shown = []
    for program in programs:
        own = scores.get((program.problem, program.sample), [])
        steps = []
        for k, text in enumerate(program.steps):
            place = (program.problem, program.sample, k)
            label = labels.get(place)
            after = corrected.get(place) if label else None
            score = own[k] if own else None
            steps.append(ShownStep(_name(text), text, score, label, after, rollouts.get(place, [])))
        shown.append(ShownProgram(len(shown), program, float(np.mean(own)) if own else None, steps))
    pools = [
        (
            problem,
            describe(problem),
            sorted((x for x in shown if x.program.problem == problem.id), key=lambda x: -(x.score or 0)),
        )
        for problem in problems.values()
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(DATA / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("inspect.html").render(target=target, method=method, pools=pools)
    write_atomically(out, page.encode(errors="replace"))
    return f"{len(shown)} programs of {len(pools)} problems: {out}"


def _read(target: str, study: Study) -> tuple[dict[str, Problem], list[Program]]:
    """The programs of a file, or of a problem of a study, and their problems by id."""
    if Path(target).is_file():
        problem_set = parameters_of(study, "01_chain_of_functions").get("problems", "starter")
        problems, programs = read_candidates(Path(target), problem_set)
        return {p.id: p for p in problems}, programs
    tables = ("candidates.jsonl", "solutions.jsonl")
    known = [program for table in tables for program in rows_of(study, table, Program)]
    programs = [program for program in known if program.problem == target]
    if not programs:
        hint = nearest(target, {p.problem for p in known})
        raise InputError(f"There is no file {target}, and no problem of that name in the study {study.name}{hint}.")
    return problems_of(study, programs), programs


def _scores(
    study: Study, prm: str | None, problems: Sequence[Problem], programs: Sequence[Program]
) -> tuple[str, dict[tuple[str, int], list[float]]]:
    """Whose scores are shown, and those of the steps of each program; an empty name if there are none."""
    if prm:
        rows, method = tts.score_candidates(RewardModel.load(prm), prm, problems, programs), prm
    else:
        rows = rows_of(study, "scores.jsonl", CandidateScores)
        methods = dict.fromkeys(row.method for row in rows)
        method = next((name for name in (*SHOWN_FIRST, *methods) if name in methods), "")
    sizes = {(p.problem, p.sample): len(p.steps) for p in programs}
    found = {(r.problem, r.sample): r.scores for r in rows if r.method == method}
    found = {key: own for key, own in found.items() if sizes.get(key) == len(own)}
    return method if found else "", found


def _labels(study: Study, programs: Sequence[Program]) -> dict[Place, StepLabel]:
    """The labels that the study has of these programs' own prefixes."""
    prefixes = {(p.problem, p.sample): p.prefixes for p in programs}
    return {
        (x.problem, x.sample, x.step): x
        for x in rows_of(study, "labels.jsonl", StepLabel)
        if x.prefix in prefixes.get((x.problem, x.sample), [])[x.step : x.step + 1]
    }


def _rollouts(
    study: Study, problems: Mapping[str, Problem], labels: Mapping[Place, StepLabel]
) -> dict[Place, list[Rollout]]:
    """The rollouts behind each label with their outcomes, which the sandbox gives again; none if that can't be."""
    asked = parameters_of(study, "02_monte_carlo_labels")
    places = [place for place, label in labels.items() if not label.clean]
    if not asked or not places:
        return {}
    states = [(labels[place].problem, labels[place].prefix) for place in places]
    prompts = [rollout_prompt(problems[problem], prefix) for problem, prefix in states]
    settings, n, temperature = asked["policy"], asked["rollouts"], asked["temperature"]
    try:
        with open_policy(settings) as policy, open_grader("local", **asked["limits"]) as sandbox:
            policy.offline = True
            replies = policy.sample(prompts, n, temperature=temperature)
            outcomes, _ = graded_rollouts(policy, sandbox, list(problems.values()), states, n, temperature)
    except (MissingCompletion, SandboxError) as error:
        log.warning("The page has no rollouts: %s", error)
        return {}
    found: dict[Place, list[Rollout]] = {}
    for place, (_, prefix), row, passes in zip(places, states, replies, outcomes, strict=True):
        for reply, outcome in zip(row, passes, strict=True):
            program = continued(prefix, reply.text)
            text = reply.text if program is None else program.removeprefix(prefix)
            found.setdefault(place, []).append(Rollout(text, None if np.isnan(outcome) else bool(outcome)))
    return found


def _name(text: str) -> str:
    """The function that a step defines."""
    found = re.search(r"^\s*(?:async )?def (\w+)", text, re.MULTILINE)
    return found[1] if found else "code"
