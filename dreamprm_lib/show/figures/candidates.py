"""Chapter 3: what is there to select from."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

import dreamprm_lib.show.figures.primitives as draw
from dreamprm_lib.engine.problems import DIFFICULTIES, Problem
from dreamprm_lib.evidence.statistics import counted
from dreamprm_lib.study.rows import Program


def headroom_figure(problems: Sequence[Problem], candidates: Sequence[Program]) -> Figure:
    """Pass rate of every problem, sorted, by difficulty: between 0 and 1 lies the room for a selector."""
    difficulty = {p.id: p.difficulty for p in problems}
    rate = pd.Series([c.passed for c in candidates]).groupby([c.problem for c in candidates]).mean()
    order = sorted(rate.index, key=lambda name: (DIFFICULTIES.index(difficulty[name]), -rate[name]))
    mixed = int(rate.between(0, 1, inclusive="neither").sum())
    figure, grid = draw.panels(1, 1, 3.6)
    axes = grid[0, 0]
    for x, name in enumerate(order):
        color = draw.BLUE if 0 < rate[name] < 1 else draw.GREY
        axes.vlines(x, 0, rate[name], color=color, lw=max(1.0, 160 / len(order)), alpha=0.6)
        axes.plot(x, rate[name], "o", color=color, ms=5)
    for level in DIFFICULTIES:
        places = [x for x, name in enumerate(order) if difficulty[name] == level]
        if places:
            axes.text(places[0] - 0.4, 1.1, f"{level} ({len(places)})", fontsize=11, weight="bold")
            axes.axvline(places[0] - 0.5, color=draw.GREY, lw=1, ls=":")
    axes.set(xticks=[], xlim=(-0.6, len(order) - 0.4), ylim=(-0.04, 1.2), yticks=[0, 0.25, 0.5, 0.75, 1])
    axes.set(
        xlabel=f"{counted(len(order), 'test problem')}, by difficulty and pass rate", ylabel="candidates that pass"
    )
    draw.in_percent(axes.yaxis)
    axes.grid(False, axis="x")
    draw.key(figure, {"a selector can win or lose": draw.BLUE, "all pass or all fail": draw.GREY})
    each = counted(len(candidates) // max(len(order), 1), "candidate")
    said = f"Selection matters for {mixed} of {counted(len(order), 'problem')}"
    return draw.finished(figure, f"{said}: some of their {each} pass, and some fail")
