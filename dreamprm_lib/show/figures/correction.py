"""Chapter 5: the correction of labels, when it is stopped, whether its derivative is right, what the labels are worth,
and what would help it."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import dreamprm_lib.show.figures.primitives as draw
from dreamprm_lib.evidence.statistics import counted
from dreamprm_lib.study.rows import CorrectedLabel

CLEAR = {"clearly better": draw.GREEN, "not clear": draw.GREY, "clearly worse": draw.RED}
WORTH = {"mse": "squared label error\n(small is good)", "held_out": "held-out ranking\n(large is good)"}


def correction_figure(
    losses: pd.Series, stop: int, labels: Sequence[CorrectedLabel], movable: Sequence[bool]
) -> Figure:
    """Left: held-out loss by iteration, its index, and where it is stopped.  Right: movable labels before and after."""
    figure, grid = draw.panels(1, 2, 4)
    left, right = grid[0]
    left.plot(losses.index, losses, color=draw.BLUE)
    left.axvline(stop, color="#555555", ls="--", lw=1)
    early = stop < losses.index.max() / 2
    left.annotate(f"stopped\nafter {stop}", (stop, losses.max()), xytext=(6 if early else -6, -2), va="top",
                  ha="left" if early else "right", textcoords="offset points", fontsize=10)  # fmt: skip
    left.set(xlabel="iteration", ylabel="held-out loss (nats)", title="When to stop")
    moves = [(x.before, x.after) for x, can_move in zip(labels, movable, strict=True) if can_move]
    before, after = np.array(moves).reshape(-1, 2).T
    up, down = after > before + 0.01, after < before - 0.01
    shift = np.random.default_rng(0).uniform(-0.02, 0.02, len(before))
    right.plot([0, 1], [0, 1], color=draw.INK, lw=1)
    for which, color in ((~up & ~down, draw.GREY), (up, draw.GREEN), (down, draw.RED)):
        right.plot((before + shift)[which], after[which], "o", color=color, ms=4.5, alpha=0.7)
    right.set(xlabel="Monte-Carlo label", ylabel="corrected label", xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
    right.set_title("Where labels went")
    draw.key(figure, {"up": draw.GREEN, "down": draw.RED, "moved by at most 0.01": draw.GREY})
    said = f"Of {counted(len(before), 'label')} from rollouts, {up.sum()} go up and {down.sum()} go down"
    return draw.finished(figure, f"{said}; free labels are stopped after {counted(stop, 'iteration')}")


def formula_figure(formula: Sequence[float], numeric: Sequence[float]) -> Figure:
    """Derivatives by a formula against the same by nudging, a point a label; on the line they agree."""
    figure, axes = draw.panel(4.4)
    ends = [min(*formula, 0), max(*formula, 0)]
    axes.plot(ends, ends, color=draw.INK, lw=1)
    axes.plot(formula, numeric, "o", color=draw.BLUE, alpha=0.7)
    axes.set(xlabel="derivative by the formula", ylabel="derivative by nudging")
    axes.ticklabel_format(style="sci", scilimits=(-2, 2))
    gap = np.abs(np.subtract(formula, numeric)).max()
    return draw.finished(figure, f"Largest gap between formula and nudging: {gap:.0e}")


def worth_figure(worth: pd.DataFrame) -> Figure:
    """What each kind of label is worth: its error beside the oracle, and the ranking by a head that learned from it,
    with 95 % intervals; coloured by how it compares with the first kind, the raw labels (dotted).

    `worth` as `known_truth.label_worth` makes it.
    """
    rows, better = [], {}
    for what, gain in (("mse", "gain"), ("held_out", "held_out_gain")):
        low, high = worth[f"{gain}_low"], worth[f"{gain}_high"]
        values = worth.rename(columns={what: "middle", f"{what}_low": "low", f"{what}_high": "high", "method": "label"})
        values = values[["label", "middle", "low", "high"]]
        rows.append(values.assign(group="", panel=what, color=_clearly(low, high)))
        better[what] = ", ".join(worth.method[low > 0]) or "none"
    figure, drawn = draw.dot_figure(pd.concat(rows), WORTH)
    for what, axes in zip(WORTH, drawn, strict=True):
        axes.axvline(worth[what].iloc[0], color=draw.INK, lw=1, ls=":")
    draw.key(figure, CLEAR)
    said = f"Labels clearly nearer to the oracle than the raw ones: {better['mse']}"
    return draw.finished(figure, f"{said}; labels that clearly teach a better ranking: {better['held_out']}")


def reasons_figure(table: pd.DataFrame) -> Figure:
    """What each intervention gains, a heading a suspected reason, a panel a measure, with 95 % intervals.

    `table`: columns reason, intervention, measure, gain, low, high.
    """
    rows = table.rename(columns={"reason": "group", "intervention": "label", "measure": "panel", "gain": "middle"})
    figure, drawn = draw.dot_figure(
        rows.assign(color=_clearly(table.low, table.high)), {name: name for name in table.measure.unique()}
    )
    for axes in drawn:
        axes.axvline(0, color=draw.INK, lw=1)
        draw.in_percent(axes.xaxis)
    draw.key(figure, CLEAR)
    helped = table[table.low > 0].sort_values("gain", ascending=False)
    said = "; ".join(f"{row.intervention} ({draw.percentage(row.gain)})" for row in helped.itertuples()) or "none"
    return draw.finished(figure, f"Of {counted(len(table), 'intervention')}, these clearly help: {said}")


def _clearly(low: pd.Series, high: pd.Series) -> np.ndarray:
    """The colour of each gain [m] whose interval ends there."""
    return np.select([low > 0, high < 0], [draw.GREEN, draw.RED], draw.GREY)
