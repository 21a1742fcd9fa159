"""Chapter 6: best-of-N over N, by difficulty, as differences, by cost, and over reward models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

import dreamprm_lib.show.figures.primitives as draw
from dreamprm_lib.engine.problems import DIFFICULTIES
from dreamprm_lib.evidence.statistics import counted

BOUNDS = ("random", "oracle")


def _line(axes: Axes, x: pd.Series, part: pd.DataFrame, method: str, **options: Any) -> tuple[str, float, float, str]:
    """Draw the pass rate of a method; its name, the end of the line and the colour."""
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
                ends.append(_line(axes, part.n, part, method))
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
    """One name for the grey lines, if they end within two points of each other."""
    others = [end for end in ends if end[0] not in draw.METHOD_STYLE]
    rates = [rate for _, _, rate, _ in others]
    if len(others) < 2 or max(rates) - min(rates) > 0.02:
        return ends
    common = (counted(len(others), "other"), others[0][1], float(np.mean(rates)), draw.GREY)
    return [*(end for end in ends if end not in others), common]


def _summary(last: pd.DataFrame, methods: Sequence[str], regimes: Sequence[int]) -> list[str]:
    """What selectors, `random` and `oracle` solve, without samples and after the most."""
    said = []
    for samples in dict.fromkeys((regimes[0], regimes[-1])):
        rate = last[last.samples == samples].set_index("method").pass_rate.reindex(methods).dropna()
        between = rate.drop([b for b in BOUNDS if b in rate])
        words = [] if between.empty else [f"selectors {100 * between.min():.0f} to {draw.percentage(between.max())}"]
        words += [f"{name} {draw.percentage(rate[name])}" for name in BOUNDS if name in rate]
        said.append(f"{draw.regime(samples)}, {', '.join(words)}" if len(regimes) > 1 else ", ".join(words))
    return said


def difficulty_figure(table: pd.DataFrame) -> Figure:
    """Best-of-N by difficulty with intervals, a mark a method and a panel for each number of samples run first."""
    levels = [d for d in (*DIFFICULTIES, "overall") if d in set(table.difficulty)]
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
    said = ", ".join(f"{d} {draw.percentage(best[d])}" for d in levels if d in best)
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


def cost_figure(curve: pd.DataFrame) -> Figure:
    """Best-of-N against what a problem costs: tokens, FLOPs and seconds, on logarithmic axes; a marker for each N.

    `curve`: columns method, samples, n, pass_rate, ci_low, ci_high, tokens, flops, seconds.  Without samples first,
    lines are whole; after the most samples, dashed.  A method with a single point, which needs one candidate alone, is
    drawn as a level.
    """
    figure, grid = draw.panels(3, 1, 8.6, sharey=True)
    most = curve.samples.max()
    quantities = [("tokens", 1, "tokens"), ("flops", 1e12, "TFLOPs"), ("seconds", 1, "seconds")]
    for axes, (quantity, unit, label) in zip(grid[:, 0], quantities, strict=True):
        ends = []
        for (samples, method), part in curve.groupby(["samples", "method"], sort=False):
            if samples not in (0, most):
                continue
            name = f"{method}, {draw.regime(samples)}" if samples else method
            if len(part) == 1:
                rate, color = part.pass_rate.iloc[0], draw.method_style(method)[0]
                axes.axhline(rate, color=color, lw=1.3, ls=":", label=name)
                ends.append((method, curve[quantity].max() / unit, rate, color))
                continue
            end = _line(axes, part[quantity] / unit, part, method, ls="--" if samples else "-", ms=4)
            axes.lines[-1].set_label(name)
            if not samples:
                ends.append(end)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        draw.in_percent(axes.yaxis)
        axes.set(xlabel=f"{label} a problem (log scale)", ylabel="problems solved", ylim=axes.get_ylim())
        draw.end_labels(axes, ends)
    grid[0, 0].set_title("whole: no sample run" + (f"; dashed: {draw.regime(most)}" if most else ""))
    return draw.finished(figure, _most_solved(curve))


def _most_solved(curve: pd.DataFrame) -> str:
    """The selector that solves most, and its tokens, without samples and after the most."""
    said = []
    for samples in dict.fromkeys((curve.samples.min(), curve.samples.max())):
        part = curve[(curve.samples == samples) & (curve.method != "oracle")]
        best = part.sort_values("pass_rate").iloc[-1]
        solves = f"{best.method} solves {draw.percentage(best.pass_rate)} with {best.tokens:,.0f} tokens"
        said.append(f"{draw.regime(samples)}, {solves}")
    return "Most is solved: " + "; ".join(said)


def spread_figure(table: pd.DataFrame, retrained: pd.DataFrame) -> Figure:
    """Two uncertainties side by side: intervals over test problems, and reward models that were trained again.

    `table`: columns training, pass_rate, ci_low, ci_high (over problems, of the mean of the reward models);
    `retrained`: columns training, pass_rate, a row a reward model.
    """
    rows = table.rename(columns={"training": "label", "pass_rate": "middle", "ci_low": "low", "ci_high": "high"})
    rows = rows.assign(group="", panel="solved", color=draw.BLUE, shift=-0.14)
    figure, (axes,) = draw.dot_figure(rows, {"solved": "problems solved"}, 0.55)
    for y, training in enumerate(table.training):
        again = retrained[retrained.training == training].pass_rate
        axes.plot(again, [y + 0.2] * len(again), "|", color=draw.RED, ms=13, mew=2.5)
    draw.in_percent(axes.xaxis)
    draw.key(figure, {"95 % over test problems": draw.BLUE, "each reward model": draw.RED}, {"each reward model": "|"})
    ends = retrained.groupby("training", sort=False).pass_rate.agg(["min", "max"])
    widest = (ends["max"] - ends["min"]).idxmax()
    row = table[table.training == widest].iloc[0]
    models = f"{100 * ends['min'][widest]:.0f} to {draw.percentage(ends['max'][widest])}"
    tests = f"{100 * row.ci_low:.0f} to {draw.percentage(row.ci_high)}"
    said = f"Trained on {widest}, reward models solve {models}"
    return draw.finished(figure, f"{said}; other test problems might give {tests}")


def agreement_figure(table: pd.DataFrame) -> Figure:
    """How far two selectors agree on the order of candidates.  `table`: columns method, other, tau in [-1, 1]."""
    names = list(table.method.unique())
    whole = table.pivot(index="method", columns="other", values="tau").loc[names, names].round(2) + 0.0  # no -0.00
    tau = whole.iloc[1:, :-1]  # each pair once
    above = np.triu(np.ones(tau.shape, bool), 1)
    figure, grid = draw.panels(1, 1, 1.8 + 0.42 * len(names))
    sns.heatmap(
        tau, mask=above, vmin=-1, vmax=1, cmap="RdBu", annot=True, fmt=".1f", annot_kws={"fontsize": 10}, linewidths=1,
        cbar=False, ax=grid[0, 0],
    )  # fmt: skip
    axes = grid[0, 0]
    axes.set(xlabel="Kendall's tau-b: 1 is the same order, 0 none, −1 the reverse", ylabel="")
    axes.set_yticks(np.arange(len(tau)) + 0.5, tau.index, rotation=0)
    axes.set_xticks(np.arange(len(tau)) + 0.5, tau.columns, rotation=45, ha="right")
    axes.grid(False)
    rest = tau.mask(above).stack()
    one, other = rest.idxmax()
    said = f"Nearest in their order: {one} and {other} (tau {rest.max():.2f})"
    if "oracle" in names and len(names) > 2:
        right = whole.loc["oracle"].drop("oracle")
        said += f"; nearest to the oracle: {right.idxmax()} ({right.max():.2f})"
    return draw.finished(figure, said)
