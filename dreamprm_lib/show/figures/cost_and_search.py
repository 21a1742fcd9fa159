"""Chapter 8: what is solved for what it costs, reward models trained again, and the beam search."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import dreamprm_lib.show.figures.primitives as draw
from dreamprm_lib.chain_of_functions import split_steps
from dreamprm_lib.cost_and_search import Search, State
from dreamprm_lib.engine.sandbox.comparison import short
from dreamprm_lib.show.figures.scaling import pass_rate_line


def search_figure(curve: pd.DataFrame) -> Figure:
    """Problems solved against tokens: best-of-N as lines, searches as points, 95 % intervals over problems.

    `curve`: columns method, n (missing for a search), tokens, pass_rate, ci_low, ci_high.
    """
    figure, axes = draw.panel(4.6)
    searched, sampled = curve[curve.n.isna()], curve[curve.n.notna()]
    ends = []
    for method, part in sampled.groupby("method", sort=False):
        _, x, y, color = pass_rate_line(axes, part.tokens, part, method)
        axes.fill_between(part.tokens, part.ci_low, part.ci_high, color=color, alpha=0.07, lw=0)
        ends.append((f"{method}, best of N", x, y, color))
    for row in searched.itertuples():
        color, marker = draw.method_style(row.method)
        face = "white" if "," in row.method else color
        interval = (row.pass_rate, row.ci_low, row.ci_high)
        draw.dot(axes, row.tokens, *interval, color, upright=True, fmt=marker, mfc=face, ms=10)
        axes.annotate(row.method, (row.tokens, row.pass_rate), xytext=(10, 0), textcoords="offset points", color=color,
                      va="center", fontsize=10, weight="bold")  # fmt: skip
    whole = sampled.drop_duplicates("n").sort_values("n")
    axes.set_xscale("log", base=2)
    axes.set_xticks(whole.tokens, [f"{t:.0f}\nN = {n:.0f}" for t, n in zip(whole.tokens, whole.n, strict=True)])
    axes.minorticks_off()
    draw.in_percent(axes.yaxis)
    axes.set(xlabel="tokens a problem (mean)", ylabel="problems solved", ylim=axes.get_ylim())
    draw.end_labels(axes, ends)
    found = searched.iloc[0]
    said = f"For {found.tokens:,.0f} tokens a problem {found.method} solves {draw.percentage(found.pass_rate)}"
    rival = sampled[~sampled.method.isin(["random", "oracle"])]
    if len(rival):
        mine = rival[rival.method == rival.method.iloc[0]].sort_values("tokens")
        equal = np.interp(np.log(found.tokens), np.log(mine.tokens), mine.pass_rate)
        said += f", best-of-N by {mine.method.iloc[0]} about {draw.percentage(equal)}"
    return draw.finished(figure, said)


def beam_figure(found: Search, passed: Mapping[str, bool]) -> Figure:
    """A beam search as a tree, a column a function: what was kept, what was dropped, what came of it.

    `passed`: the verdict of each draw.finished program, by its text.
    """
    figure, axes = draw.panel(0.36 * max(map(len, found.levels)) + 1.8)
    before = [("", 0.0)]  # the beam of the level before, and its height
    middle = (max(map(len, found.levels)) - 1) / 2
    letters = max(4, 72 // (len(found.levels) + 1) - 5)  # of a function's name, so that columns keep apart
    for x, level in enumerate(found.levels, 1):
        places = [y + middle - (len(level) - 1) / 2 for y in range(len(level))]
        for y, (state, place) in enumerate(zip(level, places, strict=True)):
            kept = y < found.width
            above = next((p for text, p in before if text and state.text.startswith(text)), middle)
            axes.plot([x - 1, x], [above, place], color=draw.BLUE if kept else "#cccccc", lw=1.5, zorder=1)
            _draw_state(axes, x, place, state, kept, passed, letters)
        before = [(s.text, p) for s, p in zip(level[: found.width], places, strict=False)]
    axes.plot(0, middle, "o", color="black", ms=9)
    axes.set_xticks(range(len(found.levels) + 1), ["problem", *range(1, len(found.levels) + 1)])
    axes.set(xlim=(-0.2, len(found.levels) + 0.9), ylim=(2 * middle + 0.6, -0.6), yticks=[])
    axes.set(xlabel="states after each function, best on top (kept: filled, dropped: hollow)")
    axes.spines["left"].set_visible(False)
    axes.grid(False)
    colors = {"not finished": draw.BLUE, "finished, passes": draw.GREEN, "finished, fails": draw.RED}
    draw.key(figure, colors, {"finished, passes": "s", "finished, fails": "s"})
    pick = found.programs[0]
    outcome = f"the pick ({pick.score:.2f}) {'passes' if passed[pick.text] else 'fails'}"
    return draw.finished(figure, f"{found.problem}: {outcome}")


def _draw_state(
    axes: Axes, x: float, y: float, state: State, kept: bool, passed: Mapping[str, bool], letters: int
) -> None:
    color = draw.BLUE if not state.finished else draw.GREEN if passed[state.text] else draw.RED
    axes.plot(x, y, "s" if state.finished else "o", color=color, mfc=color if kept else "white", ms=8, zorder=2)
    name = split_steps(state.text)[-1].name
    axes.annotate(
        f"{state.score:.2f} {short(name, letters)}", (x, y), xytext=(7, 0), textcoords="offset points",
        va="center", fontsize=9, weight="bold" if kept else "normal", zorder=3,
        bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 0.5},
    )  # fmt: skip


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
            end = pass_rate_line(axes, part[quantity] / unit, part, method, ls="--" if samples else "-", ms=4)
            axes.lines[-1].set_label(name)
            if not samples:
                ends.append(end)
        draw.on_log_scale(axes, subs=(1, 2, 5))
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
