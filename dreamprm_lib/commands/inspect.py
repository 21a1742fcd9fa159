"""The step debugger: a page that shows programs function by function, with what is thought and known of each step."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dreamprm_lib import test_time_scaling as tts
from dreamprm_lib.commands.evaluate import read_candidates
from dreamprm_lib.commands.export import parameters_of, problems_of, rows_of, study_of
from dreamprm_lib.engine.files import write_atomically
from dreamprm_lib.engine.policy.policy import open_policy
from dreamprm_lib.engine.problems import Problem, describe
from dreamprm_lib.engine.sandbox.grading import open_grader
from dreamprm_lib.engine.schema import nearest
from dreamprm_lib.errors import InputError, MissingCompletion, SandboxError
from dreamprm_lib.evidence.statistics import counted
from dreamprm_lib.monte_carlo_labels import continued, graded_rollouts, rollout_prompt
from dreamprm_lib.reward_model import RewardModel, aggregate
from dreamprm_lib.show.templates import filled
from dreamprm_lib.study.folder import Study
from dreamprm_lib.study.rows import CandidateScores, CorrectedLabel, Program, StepLabel

log = logging.getLogger(__name__)

SHOWN_FIRST = ("dreamprm_code", "prm_cof")  # the study's scores that are shown, if there are any
Place = tuple[str, int, int]  # problem, sample, step
Rollout = tuple[str, bool | None]  # what was written behind a prefix, and whether it passes; None if it does not count


def inspect(target: str, study_name: str, prm: str | None, out: Path) -> str:
    """Write the page of a file of programs, or of one problem of a study; where it is.

    Scores are those of the reward model `prm`, or else of the study (`scores.jsonl`).  Labels are the study's in whose
    folder the file lies; the texts of rollouts are those that are recorded or stored.  Nothing is asked of a policy.
    """
    study = study_of(Path(target).parent if Path(target).is_file() else study_name)
    problems, programs = _read(target, study)
    method, scores = _scores(study, prm, problems, programs)
    means = {key: aggregate(own) for key, own in scores.items()}
    labels = _labels(study, programs)
    moved = rows_of(study, "corrected_labels.jsonl", CorrectedLabel)
    best_first = sorted(programs, key=lambda p: -means.get((p.problem, p.sample), 0))
    page = filled(
        "inspect.html",
        target=target,
        function=_function,
        method=method,
        pools=[(p, describe(p), [x for x in best_first if x.problem == p.id]) for p in problems],
        scores=scores,
        means=means,
        labels=labels,
        corrected={(x.problem, x.sample, x.step): x.after for x in moved},
        rollouts=_rollouts(study, problems, labels),
    )
    write_atomically(out, page.encode(errors="replace"))
    return f"{counted(len(programs), 'program')} of {counted(len(problems), 'problem')}: {out}"


def _read(target: str, study: Study) -> tuple[list[Problem], list[Program]]:
    """The programs of a file, or of a problem of a study, and their problems."""
    if Path(target).is_file():
        return read_candidates(Path(target), problems_of(study))
    tables = ("candidates.jsonl", "solutions.jsonl")
    known = [program for table in tables for program in rows_of(study, table, Program)]
    programs = [program for program in known if program.problem == target]
    if not programs:
        hint = nearest(target, {p.problem for p in known})
        raise InputError(f"There is no file {target}, and no problem of that name in the study {study.name}{hint}.")
    return [p for p in problems_of(study) if p.id == target], programs


def _scores(
    study: Study, prm: str | None, problems: Sequence[Problem], programs: Sequence[Program]
) -> tuple[str, dict[tuple[str, int], list[float]]]:
    """Whose scores are shown, and those of the steps of each program; an empty name if there are none."""
    if prm:
        rows, method = tts.score_candidates(RewardModel.load(prm), prm, problems, programs), prm
    else:
        rows = rows_of(study, "scores.jsonl", CandidateScores)
        methods = [row.method for row in rows]
        method = next((name for name in (*SHOWN_FIRST, *methods) if name in methods), "")
    sizes = {(p.problem, p.sample): len(p.steps) for p in programs}
    found = {(r.problem, r.sample): r.scores for r in rows if r.method == method}
    found = {key: own for key, own in found.items() if sizes.get(key) == len(own)}
    return method if found else "", found


def _labels(study: Study, programs: Sequence[Program]) -> dict[Place, StepLabel]:
    """The labels that the study has of these programs' own prefixes."""
    prefixes = {(p.problem, p.sample, k): prefix for p in programs for k, prefix in enumerate(p.prefixes)}
    labels = {(x.problem, x.sample, x.step): x for x in rows_of(study, "labels.jsonl", StepLabel)}
    return {place: x for place, x in labels.items() if prefixes.get(place) == x.prefix}


def _rollouts(
    study: Study, problems: Sequence[Problem], labels: Mapping[Place, StepLabel]
) -> dict[Place, list[Rollout]]:
    """The rollouts behind each label with their outcomes, which the sandbox gives again; none if that can't be."""
    asked = parameters_of(study, "02_monte_carlo_labels")
    noisy = {place: label for place, label in labels.items() if not label.clean}
    if not asked or not noisy:
        return {}
    by_id, n, temperature = {p.id: p for p in problems}, asked["rollouts"], asked["temperature"]
    states = [(label.problem, label.prefix) for label in noisy.values()]
    try:
        with open_policy(asked["policy"]) as policy, open_grader("local", **asked["limits"]) as sandbox:
            policy.offline = True
            prompts = [rollout_prompt(by_id[problem], prefix) for problem, prefix in states]
            replies = policy.sample(prompts, n, temperature=temperature)
            outcomes, _ = graded_rollouts(policy, sandbox, problems, states, n, temperature)
    except (MissingCompletion, SandboxError) as error:
        log.warning("The page has no rollouts: %s", error)
        return {}
    found: dict[Place, list[Rollout]] = {place: [] for place in noisy}
    for (place, label), row, passes in zip(noisy.items(), replies, outcomes, strict=True):
        for reply, outcome in zip(row, passes, strict=True):
            text = (continued(label.prefix, reply.text) or reply.text).removeprefix(label.prefix)
            found[place].append((text, None if np.isnan(outcome) else bool(outcome)))
    return found


def _function(step: str) -> str:
    """The function that a step defines."""
    found = re.search(r"^(?:async )?def (\w+)", step, re.MULTILINE)
    return found[1] if found else "code"
