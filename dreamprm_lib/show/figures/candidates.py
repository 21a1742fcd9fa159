"""Chapter 3: what is there to select from."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import dreamprm_lib.show.figures.primitives as draw
from dreamprm_lib.engine.problems import Problem, by_difficulty
from dreamprm_lib.evidence.statistics import counted
from dreamprm_lib.study.rows import Program


def headroom_figure(problems: Sequence[Problem], candidates: Sequence[Program]) -> Figure:
    """Pass rate of every problem, sorted, by difficulty: between 0 and 1 lies the room for a selector."""
    levels = by_difficulty(p.difficulty for p in problems)
    level = {p.id: levels.index(p.difficulty) for p in problems}
    table = pd.DataFrame(
        [(level[c.problem], c.problem, c.passed) for c in candidates], columns=["level", "name", "rate"]
    )
    table = table.groupby(["level", "name"], as_index=False, sort=False).rate.mean()
    table = table.sort_values(["level", "rate"], ascending=[True, False], kind="stable", ignore_index=True)
    mixed, count = table.rate.between(0, 1, inclusive="neither"), len(table)
    figure, axes = draw.panel(3.6)
    color = np.where(mixed, draw.BLUE, draw.GREY)
    axes.vlines(table.index, 0, table.rate, color=color, lw=max(1.0, 160 / count), alpha=0.6)
    axes.scatter(table.index, table.rate, color=color, s=25, zorder=3)
    for number, part in table.groupby("level"):
        axes.text(part.index[0] - 0.2, 1.07, f"{levels[number]}\n({len(part)})", fontsize=11, weight="bold")
        axes.axvline(part.index[0] - 0.5, color=draw.GREY, lw=1, ls=":")
    axes.set(xticks=[], xlim=(-0.6, count - 0.4), ylim=(-0.04, 1.3), yticks=[0, 0.25, 0.5, 0.75, 1])
    axes.set(xlabel=f"{counted(count, 'test problem')}, by difficulty and pass rate", ylabel="candidates that pass")
    draw.in_percent(axes.yaxis)
    axes.grid(False, axis="x")
    draw.key(figure, {"a selector can win or lose": draw.BLUE, "all pass or all fail": draw.GREY})
    each = counted(len(candidates) // max(count, 1), "candidate")
    said = f"Selection matters for {mixed.sum()} of {counted(count, 'problem')}"
    return draw.finished(figure, f"{said}: some of their {each} pass, and some fail")
