"""Chapter 6: best-of-N over N, by difficulty, and as differences."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import dreamprm_lib.show.figures.primitives as draw
from dreamprm_lib.engine.problems import by_difficulty
from dreamprm_lib.evidence.statistics import counted

BOUNDS = ("random", "oracle")


def pass_rate_line(
    axes: Axes, x: pd.Series, part: pd.DataFrame, method: str, **options: Any
) -> tuple[str, float, float, str]:
    """Draw the pass rates `part` of a method over `x`; its name, the end of the line and the colour."""
    color, marker = draw.method_style(method)
    stands_out = method in draw.METHOD_STYLE
    style = {"marker": marker, "lw": 2 if stands_out else 1, "ms": 6, "zorder": 3 if stands_out else 2} | options
    axes.plot(x, part.pass_rate, color=color, label=method, **style)
    return method, float(x.iloc[-1]), float(part.pass_rate.iloc[-1]), color


def curve_figure(curve: pd.DataFrame, methods: Sequence[str] | None = None) -> Figure:
    """Best-of-N against N, a line a method and a panel for each number of samples that were run first; bands (of
    `random` and `oracle`) are 95 % intervals over problems."""
    methods = list(methods or curve.method.unique())
    regimes = list(curve.samples.unique())
    most = curve.n.max()
    figure, grid = draw.panels(len(regimes), 1, 1.2 + 2.8 * len(regimes), sharex=True)
    ticks = sorted(curve.n.unique())
    for samples, axes in zip(regimes, grid[:, 0], strict=True):
        ends = []
        for method in methods:
            part = curve[(curve.method == method) & (curve.samples == samples)]
            if len(part):
                ends.append(pass_rate_line(axes, part.n, part, method))
            if method in BOUNDS:
                axes.fill_between(part.n, part.ci_low, part.ci_high, color=draw.GREY, alpha=0.12, lw=0)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.minorticks_off()
        draw.in_percent(axes.yaxis)
        axes.set_title(draw.regime(samples), weight="bold")
        axes.set(ylim=axes.get_ylim(), ylabel="problems solved")
        draw.end_labels(axes, _together(ends))
    grid[-1, 0].set_xlabel("candidates N")
    return draw.finished(figure, f"Best of {most}: " + "; ".join(_summary(curve[curve.n == most], methods, regimes)))


def _together(ends: list[tuple[str, float, float, str]]) -> list[tuple[str, float, float, str]]:
    """One name for the grey lines, which do not stand out."""
    others = [end for end in ends if end[0] not in draw.METHOD_STYLE]
    if len(others) < 2:
        return ends
    middle = float(np.mean([rate for _, _, rate, _ in others]))
    common = (counted(len(others), "other"), others[0][1], middle, draw.GREY)
    return [*(end for end in ends if end not in others), common]


def _summary(last: pd.DataFrame, methods: Sequence[str], regimes: Sequence[int]) -> list[str]:
    """What selectors gain of all that can be gained on `random`, without samples and after the most."""
    said = []
    for samples in dict.fromkeys((regimes[0], regimes[-1])):
        rate = last[last.samples == samples].set_index("method").pass_rate.reindex(methods).dropna()
        between = rate.drop([b for b in BOUNDS if b in rate])
        if len(between) and len(between) + len(BOUNDS) == len(rate):
            gain, room = 100 * (between - rate["random"]), 100 * (rate["oracle"] - rate["random"])
            words = [
                f"selectors gain {round(gain.min()):+d} to {round(gain.max()):+d} points on random, oracle {room:+.0f}"
            ]
        else:
            words = [f"{name} solves {draw.percentage(value)}" for name, value in rate.items()]
        said.append(f"{draw.regime(samples)}, {', '.join(words)}" if len(regimes) > 1 else ", ".join(words))
    return said


def difficulty_figure(table: pd.DataFrame) -> Figure:
    """Best-of-N by difficulty with intervals, a mark a method and a panel for each number of samples run first."""
    levels = by_difficulty(table.difficulty)
    regimes, methods = list(table.samples.unique()), list(table.method.unique())
    counts = table.drop_duplicates("difficulty").set_index("difficulty").problems
    figure, grid = draw.panels(1, len(regimes), 1.6 + len(levels) * (0.35 + 0.09 * len(methods)), sharey=True)
    for samples, axes in zip(regimes, grid[0], strict=True):
        part = table[table.samples == samples]
        for row in part.itertuples():
            color, marker = draw.method_style(row.method)
            shift = (methods.index(row.method) - (len(methods) - 1) / 2) * 0.75 / len(methods)
            strength = 1.6 if row.method in draw.METHOD_STYLE else 0.8
            draw.dot(axes, levels.index(row.difficulty) + shift, row.pass_rate, row.ci_low, row.ci_high, color,
                fmt=marker, elinewidth=strength)  # fmt: skip
        axes.set(xlim=(-0.04, 1.04), xlabel="problems solved", title=draw.regime(samples))
        axes.set_xticks([0, 0.5, 1])
        draw.in_percent(axes.xaxis)
        axes.axhline(len(levels) - 1.5, color=draw.GREY, lw=0.8)
    grid[0, 0].set_yticks(range(len(levels)), [f"{d}\n({counted(int(counts[d]), 'problem')})" for d in levels])
    grid[0, 0].set_ylim(len(levels) - 0.5, -0.5)
    for axes in grid[0]:
        axes.grid(False, axis="y")
    shown = {m: draw.method_style(m)[0] for m in methods if m in draw.METHOD_STYLE}
    grey = len(methods) - len(shown)
    markers = {m: draw.METHOD_STYLE[m][1] for m in shown}
    draw.key(figure, shown | ({f"{counted(grey, 'other')}": draw.GREY} if grey else {}), markers)
    first = table[table.samples == regimes[0]]
    best = first[~first.method.isin(BOUNDS)].groupby("difficulty").pass_rate.max()
    chance = first[first.method == "random"].set_index("difficulty").pass_rate.map(draw.percentage)
    said = ", ".join(f"{d} {draw.percentage(best[d])} (random {chance.get(d, '–')})" for d in levels if d in best)
    return draw.finished(
        figure, f"The best selector of {counted(table.n.iloc[0], 'candidate')}, {draw.regime(regimes[0])}: {said}"
    )


def forest_figure(table: pd.DataFrame) -> Figure:
    """Differences in best-of-N with paired 95 % intervals, a row a method under its baseline, and a panel for each
    number of samples that both ran first; hollow where the interval holds zero."""
    regimes = list(table.samples.unique())
    clear = (table.ci_low > 0) | (table.ci_high < 0)
    rows = table.assign(
        group="against " + table.baseline, label=table.method, panel=table.samples, middle=100 * table.difference,
        low=100 * table.ci_low, high=100 * table.ci_high, color=np.where(clear, draw.BLUE, draw.GREY),
        face=np.where(clear, draw.BLUE, "white"),
    )  # fmt: skip
    figure, drawn = draw.dot_figure(rows, {samples: "points" for samples in regimes}, 0.27)
    for samples, axes in zip(regimes, drawn, strict=True):
        axes.axvline(0, color=draw.INK, lw=1)
        axes.set_title(draw.regime(samples), weight="bold")
    draw.key(figure, {"interval clear of 0": draw.BLUE, "interval holds 0": draw.GREY})
    said = [f"{draw.regime(s)}, {clear[table.samples == s].sum()} of {(table.samples == s).sum()}" for s in regimes]
    return draw.finished(figure, "Differences whose interval is clear of 0: " + "; ".join(said))


def sets_figure(table: pd.DataFrame) -> Figure:
    """Paired differences on each set of problems alone, a row a comparison, with 95 % intervals; hollow on problems
    that were seen while the methods were made.  The title names what the other sets confirm, but for `oracle`: the
    interval is clear of 0, and the exact test holds after Holm's adjustment."""
    counts = table.groupby("set", sort=False).problems.first()
    place = {name: k for k, name in enumerate(counts.index)}
    hues = iter(draw.HUES)
    colors = {name: draw.GREY if name == "seen" else next(hues) for name in place}
    color = table.set.map(colors)
    rows = table.assign(
        group="", label=table.method + " − " + table.baseline, panel=0, middle=100 * table.difference,
        low=100 * table.ci_low, high=100 * table.ci_high, color=color, face=color.where(table.set != "seen", "white"),
        shift=table.set.map(place).sub((len(place) - 1) / 2) * 0.7 / max(2, len(place)),
    )  # fmt: skip
    figure, (axes,) = draw.dot_figure(rows, {0: "points"}, 0.2 + 0.17 * len(place))
    axes.axvline(0, color=draw.INK, lw=1)
    words = {name: counted(int(n), f"{name} problem") for name, n in counts.items()}
    draw.key(figure, {words[name]: colors[name] for name in place})
    if not (unseen := [name for name in place if name != "seen"]):
        return draw.finished(figure, "This study has no new problems: the claims on those that were seen")
    clear = table[(table.method != "oracle") & ((table.ci_low > 0) | (table.ci_high < 0)) & (table.p_holm <= 0.05)]
    found = {
        name: "; ".join(f"{r.method} {100 * r.difference:+.0f} points on {r.baseline}" for r in part.itertuples())
        for name, part in clear.groupby("set")
    }
    said = ". ".join(f"On {words[name]}: {found.get(name, 'nothing')}" for name in unseen)
    return draw.finished(figure, f"Confirmed {said[0].lower()}{said[1:]}")
