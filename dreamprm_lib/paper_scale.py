"""The paper's scale: published results, the sizes behind them, and where the released code departs from the paper.

Nothing here runs a large model; the `paper` profile has the settings for machines that can.
"""

import ast
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd

from dreamprm_lib.chain_of_functions import parsed, split_steps
from dreamprm_lib.engine.files import DATA
from dreamprm_lib.evidence.costs import Scale
from dreamprm_lib.evidence.statistics import mcnemar_power, problems_needed
from dreamprm_lib.label_correction import Corrected, Correction, LinearScorer, correct
from dreamprm_lib.reward_model import Head
from dreamprm_lib.steps import StepTable
from dreamprm_lib.study.rows import Program

PUBLISHED_PROBLEMS = {"easy": 31, "medium": 39, "hard": 61, "overall": 131}  # back-solved from the percentages

PUBLISHED = pd.read_csv(DATA / "published.csv")
"""Published pass@1 in percent on LiveCodeBench, 2025-02 on (DreamPRM-Code, table 1)."""

PAPER = Scale(problems=612, programs=1, rollouts=16, test_problems=PUBLISHED_PROBLEMS["overall"], candidates=8)
"""LiveCodeBench's problems before 2024-08 and from 2025-02 on (release v6), with the paper's settings; 8 candidates are
this suite's choice."""


def published_counts() -> pd.DataFrame:
    """Whole problems behind the published percentages: columns method, difficulty, solved, problems, exact.

    `exact` says whether a whole number of problems gives the percentage to its last digit; averages over several runs
    do not.
    """
    table = PUBLISHED.melt("method", var_name="difficulty", value_name="percent")
    problems = table.difficulty.map(PUBLISHED_PROBLEMS)
    solved = (table.percent / 100 * problems).round().astype(int)
    exact = (100 * solved / problems - table.percent).abs() <= 0.0501
    return table.drop(columns="percent").assign(solved=solved, problems=problems, exact=exact)


def discordant_shares(gain: float, discordance: float) -> tuple[float, float]:
    """The shares of problems won and lost for a gain and a share of discordant problems, all in [0, 1]; `discordance`
    is taken as at least the gain."""
    discordance = max(discordance, gain)
    return (discordance + gain) / 2, (discordance - gain) / 2


def power_curves(
    gains: Sequence[float], discordances: Sequence[float], sizes: Sequence[int], level: float = 0.05
) -> pd.DataFrame:
    """Power of the exact McNemar test: columns gain, discordance, problems, power."""
    rows = [
        (gain, discordance, size, mcnemar_power(size, *discordant_shares(gain, discordance), level))
        for discordance, gain, size in product(discordances, gains, sizes)
    ]
    return pd.DataFrame(rows, columns=["gain", "discordance", "problems", "power"])


def settling_sizes(pairs: Sequence[tuple[str, str]], discordances: Sequence[float] = (0.02, 0.05, 0.1)) -> pd.DataFrame:
    """How many problems settle each published difference with a power of 0.8 (empty: over 20,000).

    Columns method, against, points (of gain), and the number by discordance: `least` if no problem is lost, which is
    the best case, then each of `discordances` that is not below the gain.
    """
    solved = published_counts().query("difficulty == 'overall'").set_index("method").solved
    columns = ["least", *(f"{share:.0%}" for share in discordances)]
    rows = []
    for method, other in pairs:
        gain = (solved[method] - solved[other]) / PUBLISHED_PROBLEMS["overall"]
        shares = [discordant_shares(gain, share) if share >= gain else (0.0, 0.0) for share in (gain, *discordances)]
        rows.append((method, other, 100 * gain, *(problems_needed(*share) for share in shares)))
    return pd.DataFrame(rows, columns=["method", "against", "points", *columns]).astype(dict.fromkeys(columns, "Int64"))


# ------------------------------------------------------------------------------------------------- steps


PLACES = ("end of a function", "in a body", "before a body", "in a docstring", "whole program")


def released_cuts(code: str, most: int = 10) -> list[int]:
    """How many lines each prefix keeps, as the released splitter's rule cuts; the last one keeps all.

    A re-implementation of the rule in `lcb_runner/benchmarks/prefix_utils.py`, for comparison.  Line by line, but for
    lines that open a function: cut after a line where a docstring of several lines closes; and, once a function was
    opened, cut before the first line outside docstrings that is indented no deeper than the line before, if that is not
    blank.  The second cut is meant for the end of a function, but comes with the second line of its body, or with the
    line that closes its docstring, and so may keep less than the cut before it.
    """
    lines, cuts = code.split("\n"), []
    unclosed: set[str] = set()
    indent_before, in_function = 0, False
    for number, line in enumerate(lines):
        words = line.strip()
        indent = len(line) - len(line.lstrip()) if words else indent_before
        if words.startswith(("def ", "async def ")):
            in_function = True
        else:
            for quotes in ("'''", '"""'):
                if line.count(quotes) % 2:
                    unclosed ^= {quotes}
                    cuts += [] if quotes in unclosed else [number + 1]
            if in_function and words and not unclosed and indent <= indent_before and lines[number - 1].strip():
                in_function = False
                cuts.append(number)
        indent_before = indent
    cuts = cuts[: most - 1]
    return cuts if cuts and cuts[-1] == len(lines) else [*cuts, len(lines)]


def released_split(code: str) -> list[str]:
    """The prefixes of `released_cuts`; `chain_of_functions.split_steps` is what the suite uses."""
    lines = code.split("\n")
    return ["\n".join(lines[:cut]) for cut in released_cuts(code)]


def on_three_lines(code: str) -> str:
    """The program with each docstring of one line on three, as the original's prompt shows them."""
    return re.sub(r"""^([ \t]*)(\"{3}|'{3})(.+)\2[ \t]*$""", r"\1\2\n\1\3\n\1\2", code, flags=re.MULTILINE)


def parses(code: str) -> bool:
    """Whether Python can read the text as a module."""
    return parsed(code) is not None


def places_of_cuts(code: str, cuts: Sequence[int]) -> list[str]:
    """Which of `PLACES` a prefix ends in, for each number of lines that one keeps of a program that parses.

    A header of several lines also counts as `in a docstring`.
    """
    lines = code.rstrip().count("\n") + 1
    functions = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    places = []
    for cut in cuts:
        inside = [f for f in functions if f.lineno <= cut < (f.end_lineno or 0)]
        if cut >= lines:
            places.append("whole program")
        elif not inside:
            places.append("end of a function")
        else:
            function = max(inside, key=lambda f: f.lineno)  # the innermost
            first = function.body[0]
            ready = first.lineno - 1 if ast.get_docstring(function) is None else first.end_lineno or 0
            places.append("in a docstring" if cut < ready else "before a body" if cut == ready else "in a body")
    return places


def compare_splitters(programs: Sequence[Program]) -> pd.DataFrame:
    """Every prefix of every program that parses, by three ways to cut.

    Columns: splitter (`functions (here)`: the suite's; `released`; `released, three lines`: with docstrings spread by
    `on_three_lines`), program (its number), place (see `places_of_cuts`), parses, and shrinks (whether the prefix is no
    longer than the one before it).
    """
    rows = []
    for number, code in enumerate(p.code for p in programs if p.steps and parses(p.code)):
        ends = np.cumsum([step.text.count("\n") for step in split_steps(code)]).tolist()
        spread = on_three_lines(code)
        for splitter, text, cuts in (
            ("functions (here)", code, ends),
            ("released", code, released_cuts(code)),
            ("released, three lines", spread, released_cuts(spread)),
        ):
            lines = text.split("\n")
            for before, cut, place in zip([0, *cuts], cuts, places_of_cuts(text, cuts), strict=False):
                rows.append((splitter, number, place, parses("\n".join(lines[:cut])), cut <= before))
    return pd.DataFrame(rows, columns=["splitter", "program", "place", "parses", "shrinks"])


def splitter_summary(prefixes: pd.DataFrame) -> pd.DataFrame:
    """Means by splitter over the table of `compare_splitters`: programs, prefixes (a program), and the shares of
    prefixes that parse, that shrink, and that end where a function or the program ends (`whole steps`)."""
    prefixes = prefixes.assign(whole=prefixes.place.isin(["end of a function", "whole program"]))
    means = prefixes.groupby("splitter").agg(
        programs=("program", "nunique"), prefixes=("program", "size"), parse=("parses", "mean"),
        shrink=("shrinks", "mean"), whole=("whole", "mean"),
    )  # fmt: skip
    return means.assign(prefixes=means.prefixes / means.programs).rename(columns={"whole": "whole steps"})


# ------------------------------------------------------------------------------------------------- labels and weights


def labels_and_weights_toy(
    value: float = 0.9, label: float = 0.0, other: float = 0.1, rows: int = 10, iterations: int = 200
) -> dict[str, Corrected[Head]]:
    """Two states of known value, corrected by labels and by weights: a `Corrected` for each.

    The first has the feature 1, the value `value`, and wrong labels (`label`), which may move; the second has the
    feature -1, the value `other`, and right labels, which may not.  Each has `rows` training rows, and as many clean
    outcomes with the share of its value, rounded to whole rows.
    """
    features = np.repeat([[1.0], [-1.0]], rows, axis=0)
    names = np.arange(2 * rows).astype(str)
    noisy = np.repeat([label, other], rows)
    passed = np.concatenate([np.arange(rows) < round(share * rows) for share in (value, other)]).astype(float)
    train = StepTable(features, noisy, names, movable=np.arange(2 * rows) < rows)
    meta = StepTable(features, passed, names)
    settings = Correction(iterations=iterations, meta_lr=0.02, smoothing=0.0, ridge=0.01)
    return {
        learn: correct(LinearScorer(), train, meta, replace(settings, learn=learn)) for learn in ("labels", "weights")
    }
