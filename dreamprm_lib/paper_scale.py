"""The paper's scale: published results, what the settings cost, and where the released code departs from the paper.

Nothing here runs a large model; the `paper` profile has the settings for machines that can.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import pandas as pd

from dreamprm_lib.engine.statistics import mcnemar

PUBLISHED_PROBLEMS = {"easy": 31, "medium": 39, "hard": 61, "overall": 131}  # back-solved from the percentages

PUBLISHED = pd.DataFrame(
    [
        ("Gemini-2.5", 100.0, 82.1, 52.5, 72.5),
        ("O3", 100.0, 71.8, 57.4, 71.8),
        ("DeepSeek-R1", 99.7, 77.7, 47.2, 68.7),
        ("O4-mini-high", 100.0, 89.7, 57.4, 77.1),
        ("ORM", 100.0, 89.7, 62.3, 79.4),
        ("PRM-CoF", 100.0, 92.3, 62.3, 80.2),
        ("DreamPRM-Code", 100.0, 92.3, 63.9, 80.9),
    ],
    columns=["method", "easy", "medium", "hard", "overall"],
)
"""Published pass@1 in percent on LiveCodeBench, 2025-02 on (DreamPRM-Code, table 1)."""


def published_counts() -> pd.DataFrame:
    """Whole problems behind the published percentages: columns method, difficulty, solved, problems, exact.

    `exact` tells whether a whole number of problems gives the percentage to its last digit; averages over several runs
    do not.
    """
    rows = []
    for row in PUBLISHED.itertuples():
        for difficulty, problems in PUBLISHED_PROBLEMS.items():
            percent = getattr(row, difficulty)
            solved = round(percent / 100 * problems)
            exact = abs(100 * solved / problems - percent) <= 0.0501
            rows.append((row.method, difficulty, solved, problems, exact))
    return pd.DataFrame(rows, columns=["method", "difficulty", "solved", "problems", "exact"])


def smallest_p_value(solved: int, baseline: int) -> float:
    """The least p-value that an exact McNemar test could give for two methods that solve so many of the same problems.

    It is reached if the better one loses no problem that the other solves, so that all discordant ones are wins.
    """
    wins = abs(solved - baseline)
    return mcnemar(wins, 0)


def released_split(code: str) -> list[str]:
    """Prefixes as the released splitter's rule cuts them: at the start and the end of every docstring.

    A re-implementation of the rule, to show what it does; `chain_of_functions.split_steps` is what the suite uses.
    """
    marks = [m.start() if k % 2 == 0 else m.end() for k, m in enumerate(re.finditer(r'"""', code))]
    return [code[:mark] for mark in marks] + [code]


def rollout_budget(scale: Mapping[str, float]) -> pd.DataFrame:
    """What each stage asks of a policy: columns stage, completions, tokens.

    `scale` has problems, programs (a problem), steps (a program), rollouts (an open step), test_problems, candidates
    (a test problem), program_tokens.  A rollout is taken to write half a program on average.
    """
    programs = scale["problems"] * scale["programs"]
    rollouts = programs * (scale["steps"] - 1) * scale["rollouts"]
    candidates = scale["test_problems"] * scale["candidates"]
    length = scale["program_tokens"]
    return pd.DataFrame(
        [
            ("programs", programs, programs * length),
            ("rollouts", rollouts, rollouts * length / 2),
            ("candidates", candidates, candidates * length),
        ],
        columns=["stage", "completions", "tokens"],
    )
