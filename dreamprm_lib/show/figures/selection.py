"""Chapter 7: tables of answers, what running buys, how far selectors agree, and when one should not answer."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

import dreamprm_lib.show.figures.primitives as draw
from dreamprm_lib.engine.sandbox.consensus import FAILED
from dreamprm_lib.evidence.statistics import counted
from dreamprm_lib.selection_by_execution import majority, same_everywhere


def answers_figure(table: np.ndarray, passed: np.ndarray) -> Figure:
    """A table of answers [programs, inputs], the largest cluster of equal programs on top, with each program's verdict
    `passed` [programs]: in a column equal colours are equal answers, the most frequent one is blue, and white is
    none."""
    same = same_everywhere(table)
    first = np.where(same.any(axis=1), same.argmax(axis=1), len(table))
    order = np.lexsort((first, -majority(table)))
    colors = [draw.BLUE, draw.ORANGE, draw.GREEN, draw.PINK, draw.YELLOW, draw.SKY, draw.BROWN, draw.RED, draw.PALE]
    names = pd.DataFrame(table[order], [f"program {k}" for k in order], range(1, table.shape[1] + 1))
    given = names.where(names != FAILED)
    ranks = given.apply(lambda answers: answers.map({a: k for k, a in enumerate(answers.value_counts().index)}))
    figure, axes = draw.panel(1.7 + 0.3 * len(table))
    top = len(colors) - 1  # the colour of all further answers
    sns.heatmap(ranks.clip(upper=top), vmin=0, vmax=top, cmap=colors, cbar=False, linewidths=2, ax=axes)
    axes.grid(False)
    axes.set(xlabel="made-up input")
    axes.tick_params(axis="y", rotation=0)
    for row, program in enumerate(order):
        word, color = ("passes", draw.GREEN) if passed[program] else ("fails", draw.RED)
        axes.text(table.shape[1] + 0.05, row + 0.5, word, color=color, va="center", fontsize=10, clip_on=False)
    clusters = len({tuple(row) for row in table[same.any(axis=1)].tolist()})
    largest = same[order[0]]
    right = "passes" if passed[order[0]] else "fails"
    said = f"{counted(len(table), 'program')} give {counted(clusters, 'different row')} of answers"
    return draw.finished(figure, f"{said}; the largest cluster, of {largest.sum()}, {right}")


def frontier_figure(table: pd.DataFrame) -> Figure:
    """Problems solved against the runs that each candidate needs, a line a method; whiskers are 95 % intervals.

    `table`: columns method, runs, pass_rate, ci_low, ci_high; a method with a single row is a point.
    """
    figure, axes = draw.panel(4.8)
    methods = list(table.method.unique())
    ends = []
    for k, (method, part) in enumerate(table.groupby("method", sort=False)):
        color, marker = draw.method_style(method)
        shift = 0.12 * (k - (len(methods) - 1) / 2)
        error = [part.pass_rate - part.ci_low, part.ci_high - part.pass_rate]
        axes.errorbar(part.runs + shift, part.pass_rate, yerr=error, color=color, marker=marker, ms=7, lw=2,
                      elinewidth=1)  # fmt: skip
        ends.append((method, float(part.runs.iloc[-1] + shift), float(part.pass_rate.iloc[-1]), color))
    axes.set_xticks(sorted(table.runs.unique()))
    draw.in_percent(axes.yaxis)
    axes.set(xlabel="runs of each candidate", ylabel="problems solved", ylim=axes.get_ylim(), xlim=axes.get_xlim())
    draw.end_labels(axes, ends)
    best = table[table.method != "oracle"].sort_values(["pass_rate", "runs"], ascending=[True, False]).iloc[-1]
    rate = f"{draw.percentage(best.pass_rate)} ({100 * best.ci_low:.0f} to {draw.percentage(best.ci_high)})"
    return draw.finished(figure, f"{best.method} solves most, {rate}, with {counted(best.runs, 'run')} a candidate")


def risk_figure(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """What share of its answers is wrong, over the share of problems that a selector answers; the most confident
    answers come first.  A table of `risk_coverage` for each method."""
    figure, axes = draw.panel(4.4)
    ends = []
    for method, curve in curves.items():
        color = draw.method_style(method)[0]
        axes.step(curve.coverage, curve.risk, where="post", color=color, lw=2)
        ends.append((method, 1.0, float(curve.risk.iloc[-1]), color))
    axes.set(xlabel="problems answered", ylabel="wrong answers among them", xlim=(0, 1), ylim=(-0.02, 1.02))
    draw.in_percent(axes.xaxis)
    draw.in_percent(axes.yaxis)
    draw.end_labels(axes, ends)
    half = {method: float(np.interp(0.5, curve.coverage, curve.risk)) for method, curve in curves.items()}
    best = min(half, key=lambda method: half[method])
    said = f"Answering half of the problems, {best} is wrong on {draw.percentage(half[best])} of them"
    return draw.finished(figure, f"{said}; answering all, on {draw.percentage(curves[best].risk.iloc[-1])}")


def agreement_figure(table: pd.DataFrame) -> Figure:
    """How far two selectors agree on the order of candidates.  `table`: columns method, other, tau in [-1, 1]."""
    names = list(table.method.unique())
    whole = table.pivot(index="method", columns="other", values="tau").loc[names, names].round(2) + 0.0  # no -0.00
    tau = whole.iloc[1:, :-1]  # each pair once
    above = np.triu(np.ones(tau.shape, bool), 1)
    figure, axes = draw.panel(1.8 + 0.42 * len(names))
    sns.heatmap(
        tau, mask=above, vmin=-1, vmax=1, cmap="RdBu", annot=True, fmt=".1f", annot_kws={"fontsize": 10}, linewidths=1,
        cbar=False, ax=axes,
    )  # fmt: skip
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
