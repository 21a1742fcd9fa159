"""Candidate solutions: the graded programs that a selector picks from, and files of them in LiveCodeBench's form."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field
from tqdm.auto import tqdm

from dreamprm_lib.chain_of_functions import Batch, batch_of, split_steps
from dreamprm_lib.engine.files import read_json, to_json, write_atomically
from dreamprm_lib.engine.problems import LcbQuestion, Problem, by_difficulty
from dreamprm_lib.engine.sandbox.consensus import agreement, answers, perturbed_inputs
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.engine.schema import checked
from dreamprm_lib.errors import InputError
from dreamprm_lib.study.rows import CandidateScores, Program


def requests(test: Sequence[Problem], samples: int, temperature: float, **_others: object) -> list[Batch]:
    """All that chapter 3 asks of its policy, by the names of its parameters; others are passed over: one batch, the
    candidates."""
    return [batch_of("candidates", test, samples, temperature)]


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that at least one of `k` programs, drawn without replacement from `n` of which `c` pass, passes.

    1 - C(n - c, k) / C(n, k), as a product (Chen et al. 2021, equation 1).  Raises `InputError` unless
    0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise InputError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, not n = {n}, c = {c}, k = {k}.")
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def free_scores(
    problems: Sequence[Problem], candidates: Sequence[Program], sandbox: Sandbox | None = None
) -> list[CandidateScores]:
    """Scores of each program that need no training; the program with the highest score is picked.

    `first` (the earlier sample), `mean_logprob` (the policy's mean log-probability a token, in nats), `shortest` and
    `longest` (by characters); and with a sandbox `consensus` (`engine.sandbox.consensus`) and `public_samples`, which
    has a score for each sample of the statement: 1 if the program passes it.  No hidden test is touched.  A method that
    lacks a score for any candidate is left out.
    """
    rows: list[CandidateScores] = []
    for problem in tqdm(problems, desc="running on made-up inputs", unit="problem", disable=sandbox is None):
        mine = [c for c in candidates if c.problem == problem.id]
        found: dict[str, list[list[float]]] = {
            "first": [[float(-c.sample)] for c in mine],
            "mean_logprob": [[c.mean_logprob] for c in mine],
            "shortest": [[float(-len(c.code))] for c in mine],
            "longest": [[float(len(c.code))] for c in mine],
        }
        if sandbox:
            table = answers(problem, [c.code for c in mine], sandbox, perturbed_inputs(problem))
            found["consensus"] = [[float(share)] for share in agreement(table)]
            found["public_samples"] = samples_passed([(problem, c.code) for c in mine], sandbox)
        for method, scores in found.items():
            rows += [CandidateScores(method, problem.id, c.sample, own) for c, own in zip(mine, scores, strict=True)]
    lacking = {row.method for row in rows if np.isnan(row.scores).any()}
    return [row for row in rows if row.method not in lacking]


def samples_passed(programs: Sequence[tuple[Problem, str]], sandbox: Sandbox) -> list[list[float]]:
    """A number for each public sample of each program's problem: 1 if the program passes it, else 0."""
    each = [[(replace(problem, tests=(sample,)), code) for sample in problem.samples] for problem, code in programs]
    verdicts = iter(sandbox.grade(list(chain.from_iterable(each))))
    return [[float(next(verdicts).passed) for _ in row] for row in each]


def headroom(problems: Sequence[Problem], candidates: Sequence[Program]) -> pd.DataFrame:
    """Per difficulty: how much a selector could win.

    Columns: difficulty (… overall), problems, candidates (a problem, the fewest), pass_at_1, pass_at_n, mixed (share of
    problems with both passing and failing candidates), functions (mean steps a program), chained (share of programs
    with two or more steps).
    """
    difficulty = {p.id: p.difficulty for p in problems}
    rows = [(c.problem, difficulty[c.problem], c.passed, len(c.steps)) for c in candidates]
    table = pd.DataFrame(rows, columns=["problem", "difficulty", "passed", "functions"])
    summary = []
    for name in (*by_difficulty(table.difficulty), "overall"):
        part = table[(table.difficulty == name) | (name == "overall")]
        share, size = part.groupby("problem").passed.mean(), part.groupby("problem").size()
        row = {"difficulty": name, "problems": len(share), "candidates": size.min(), "pass_at_1": share.mean()}
        row |= {"pass_at_n": (share > 0).mean(), "mixed": ((share > 0) & (share < 1)).mean()}
        row |= {"functions": part.functions.mean(), "chained": (part.functions >= 2).mean()}
        summary.append(row)
    return pd.DataFrame(summary)


@dataclass(frozen=True)
class GradedProblem:
    """One problem of a LiveCodeBench `…_eval_all.json`: the question's fields and its graded programs."""

    problem: Problem
    codes: list[str]
    passed: list[bool]

    def programs(self) -> list[Program]:
        """The candidates as the suite's own rows (the file has no tokens and no kind of failure)."""
        rows = []
        for i, (code, ok) in enumerate(zip(self.codes, self.passed, strict=True)):
            steps = [step.text for step in split_steps(code)]
            rows.append(Program(self.problem.id, i, code, steps, ok, "passed" if ok else "wrong_answer", 0))
        return rows


class _Entry(LcbQuestion, extra="ignore"):
    code_list: Annotated[list[str], Field(min_length=1)]
    graded_list: list[bool]


def read_lcb(path: Path | str) -> list[GradedProblem]:
    """Read LiveCodeBench's `…_eval_all.json` (question fields, `code_list`, `graded_list`).

    Raises `InputError` with the entry, and each field that is missing or wrong, with its value.
    """
    entries = read_json(Path(path))
    if not isinstance(entries, list):
        raise InputError(f"{path} holds no list of problems, as LiveCodeBench's `…_eval_all.json` does.")
    graded: dict[str, GradedProblem] = {}
    for number, value in enumerate(entries):
        where = f"{path}, entry {number}"
        entry = checked(_Entry, value, where)
        codes, passed = entry.code_list, entry.graded_list
        if len(codes) != len(passed):
            raise InputError(f"{where}: {len(codes)} programs in `code_list`, {len(passed)} in `graded_list`.")
        if entry.id in graded:
            raise InputError(f"{where}: the question {entry.id!r} appears a second time.")
        graded[entry.id] = GradedProblem(entry.problem("test"), codes, passed)
    return list(graded.values())


def write_lcb(path: Path | str, problems: Sequence[Problem], candidates: Sequence[Program]) -> None:
    """Write candidates as LiveCodeBench's `…_eval_all.json`; `read_lcb` gives the same programs and verdicts back."""
    entries = []
    for problem in problems:
        programs = [c for c in candidates if c.problem == problem.id]
        entries.append(
            {
                "question_title": problem.title,
                "question_content": problem.statement,
                "platform": problem.source,
                "question_id": problem.id,
                "contest_id": "",
                "contest_date": problem.date,
                "starter_code": problem.starter_code,
                "difficulty": problem.difficulty,
                "output_list": [f"```python\n{p.code}```" for p in programs],
                "code_list": [p.code for p in programs],
                "graded_list": [bool(p.passed) for p in programs],
                "pass@1": sum(p.passed for p in programs) / max(len(programs), 1),
                "metadata": ["{}"] * len(programs),
            }
        )
    write_atomically(Path(path), to_json(entries, indent=1))
