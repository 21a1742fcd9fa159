"""Chapter 5: methods that learn from noisy labels, in planted worlds and beside the oracle."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import dreamprm_lib.show.figures.primitives as draw
from dreamprm_lib.evidence.statistics import counted, mean_with_interval

RANKING, ERROR = "ranking of held-out states", "squared label error"
FAMILIES = {
    "labels as they are": draw.GREY,
    "outcomes used otherwise": draw.BLUE,
    "labels or weights moved": draw.GREEN,
}


def family(method: str) -> str:
    """Methods that move labels or weights, those that use outcomes otherwise, and those that know labels alone."""
    if method.startswith("corrected") or method == "weights":
        return "labels or weights moved"
    return "outcomes used otherwise" if method in ("meta only", "joint", "recalibrated") else "labels as they are"


def _in_families(methods: pd.Series) -> pd.Series:
    return methods.map(family).map(list(FAMILIES).index)


def _over_worlds(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean and 95 % interval over worlds of `ranking` and `label_mse`: columns of `by`, panel, middle, low, high."""
    rows = [
        (*names, panel, *mean_with_interval(part[panel]))
        for names, part in table.groupby(by, sort=False)
        for panel in ("ranking", "label_mse")
    ]
    return pd.DataFrame(rows, columns=[*by, "panel", "middle", "low", "high"])


def _best_gains(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Which method ranks best, and its gain on the first one, the raw labels: columns method, gain, a row a `by`."""
    means = table.groupby([*by, "method"], sort=False).ranking.mean().unstack()
    return pd.DataFrame({"method": means.idxmax(axis=1), "gain": means.max(axis=1) - means[table.method.iloc[0]]})


def planted_figure(table: pd.DataFrame) -> Figure:
    """Known truth: ranking of held-out states, and label error, by bias and method, 95 % intervals over worlds.

    `table`: columns bias, method, seed, ranking, label_mse; the first method is the raw labels.
    """
    rows = _over_worlds(table, ["bias", "method"])
    rows = rows.assign(group="bias: " + rows.bias, label=rows.method, color=rows.method.map(family).map(FAMILIES))
    figure, _ = draw.dot_figure(rows, {"ranking": RANKING, "label_mse": ERROR}, 0.25)
    draw.key(figure, {name: FAMILIES[name] for name in FAMILIES if name in set(table.method.map(family))}, columns=3)
    return draw.finished(figure, _where_it_pays(_best_gains(table, ["bias"]).gain, "bias `{}`"))


def _where_it_pays(gains: pd.Series, what: str) -> str:
    """The largest gain on raw labels and the next one, by the index of the gains."""
    gains = gains.sort_values(ascending=False)
    said = f"Clean outcomes gain {gains.iloc[0]:+.2f} in ranking with {what.format(gains.index[0])}"
    return said + (f", at most {gains.iloc[1]:+.2f} elsewhere" if len(gains) > 1 else "")


def planted_map(table: pd.DataFrame) -> Figure:
    """Known truth: by bias, rollouts a label and clean outcomes, which method ranks best, and its gain on raw labels.

    `table`: columns bias, rollouts, meta, method, seed, ranking; the first method is the raw labels.
    """
    best = _best_gains(table, ["bias", "rollouts", "meta"])
    biases = list(table.bias.unique())
    rollouts, sizes = sorted(table.rollouts.unique()), sorted(table.meta.unique())
    lines = -(-len(biases) // 2)
    height = 1.2 + lines * (0.6 + 0.42 * len(rollouts))
    figure, grid = draw.panels(lines, min(len(biases), 2), height, sharex=True, sharey=True)
    for axes in grid.flat[len(biases) :]:
        axes.axis("off")
    for bias, axes in zip(biases, grid.flat, strict=False):
        gain = best.gain[bias].unstack().loc[rollouts, sizes].to_numpy()
        axes.imshow(gain, cmap="Greens", vmin=0, vmax=0.35, aspect="auto")
        for (i, j), value in np.ndenumerate(gain):
            name = best.method[bias, rollouts[i], sizes[j]].replace("corrected, ", "")
            words, ink = (f"{name}\n{value:+.2f}", draw.INK) if value >= 0.005 else ("no gain", draw.GREY)
            axes.text(j, i, words, ha="center", va="center", fontsize=9, color=ink)
        axes.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
        axes.set_yticks(range(len(rollouts)), rollouts)
        axes.set_title(f"bias: {bias}", weight="bold")
        axes.grid(False)
    figure.supxlabel("clean outcomes", fontsize=11)
    figure.supylabel("rollouts a label", fontsize=11)
    return draw.finished(figure, _where_it_pays(best.gain.groupby("bias").max(), "bias `{}`"))


def planted_bars(table: pd.DataFrame) -> Figure:
    """One planted world: ranking of held-out states and label error, a bar a method."""
    figure, grid = draw.panels(1, 2, 1.6 + 0.3 * len(table), sharey=True)
    colors = [FAMILIES[family(method)] for method in table.method]
    for axes, what, name in zip(grid[0], ("ranking", "label_mse"), (RANKING, ERROR), strict=True):
        axes.barh(table.method, table[what], color=colors)
        axes.set(xlabel=name)
        axes.grid(False, axis="y")
    grid[0, 0].set(xlim=(0.5, 1))
    grid[0, 0].invert_yaxis()
    best = table.sort_values("ranking").iloc[-1]
    return draw.finished(figure, f"Bias `{best.bias}`: {best.method} ranks best, {best.ranking:.2f}")


def ablation_figure(table: pd.DataFrame) -> Figure:
    """One thing changed at a time: ranking of held-out states and label error, of corrected and of raw labels.

    `table`: columns ablation, value, method, seed, ranking, label_mse; bars are 95 % intervals over worlds.
    """
    rows = _over_worlds(table, ["ablation", "value", "method"])
    color = rows.method.map({"raw labels": draw.GREY, "corrected": draw.GREEN})
    rows = rows.assign(group=rows.ablation, label=rows.value.astype(str), color=color)
    figure, _ = draw.dot_figure(rows, {"ranking": RANKING, "label_mse": ERROR}, 0.25)
    draw.key(figure, {"corrected": draw.GREEN, "raw labels": draw.GREY})
    means = table.groupby(["ablation", "value", "method"]).ranking.mean().unstack()
    gain = means["corrected"] - means["raw labels"]
    spread = (gain.groupby("ablation").max() - gain.groupby("ablation").min()).sort_values()
    most = gain[spread.index[-1]]
    said = f"`{spread.index[-1]}` changes the gain most ({most.min():+.2f} to {most.max():+.2f})"
    return draw.finished(figure, f"{said}, `{spread.index[0]}` least")


def oracle_figure(own: pd.DataFrame, weak: pd.DataFrame) -> Figure:
    """Labels beside the oracle, by method: squared error and rank correlation, of labels from the policy's own rollouts
    and from as many of a weaker one.

    Both tables as `known_truth.oracle_table` makes them; intervals over problems.  Drawn for the most
    rollouts that both have.
    """
    n = max(set(own.rollouts) & set(weak.rollouts))
    sources = {"own": own[own.rollouts == n], "weaker": weak[weak.rollouts == n]}
    rows = pd.DataFrame(
        [
            (what, r["method"], r[what], r[f"{what}_low"], r[f"{what}_high"], color, face, shift)
            for (color, face, shift), part in zip(
                ((draw.BLUE, draw.BLUE, -0.15), (draw.RED, "white", 0.15)), sources.values(), strict=True
            )
            for r in part.to_dict("records")
            for what in ("mse", "ranking")
        ],
        columns=["panel", "label", "middle", "low", "high", "color", "face", "shift"],
    )
    rows = rows.assign(group=rows.label.map(family)).sort_values("label", key=_in_families, kind="stable")
    names = {"mse": f"{ERROR} (small is good)", "ranking": "rank correlation (large is good)"}
    figure, drawn = draw.dot_figure(rows, names, 0.34)
    for what, axes in zip(names, drawn, strict=True):
        for part, color in zip(sources.values(), (draw.BLUE, draw.RED), strict=True):
            axes.axvline(part.set_index("method")[what]["raw labels"], color=color, lw=1, ls=":")
    draw.key(figure, {"own rollouts": draw.BLUE, "a weaker policy's": draw.RED})
    drawn[0].set_title("dotted: raw labels")
    said = []
    for name, part in sources.items():
        best, raw = part.loc[part.mse.idxmin()], part.set_index("method").mse["raw labels"]
        said.append(f"{name}: {best.method} ({best.mse:.3f}; raw {raw:.3f})")
    return draw.finished(figure, f"Nearest to the oracle with {counted(n, 'rollout')}, " + ", ".join(said))


def movement_figure(moves: Mapping[str, tuple[np.ndarray, np.ndarray]], truth: np.ndarray) -> Figure:
    """What correction does to labels, beside the oracle's values: how many come nearer, and the mean distance.

    `moves`: labels before and after [m], by method; `truth` [m].
    """
    kinds = {"nearer to the oracle": draw.GREEN, "farther from it": draw.RED, "not moved": draw.PALE}
    figure, grid = draw.panels(1, 2, 1.6 + 0.62 * len(moves), sharey=True, width_ratios=(1.6, 1))
    left, right = grid[0]
    said = []
    for y, (method, (before, after)) in enumerate(moves.items()):
        old, new = np.abs(before - truth), np.abs(after - truth)
        moved = np.abs(after - before) > 1e-3
        counts = [int((moved & (new < old)).sum()), int((moved & (new >= old)).sum()), int((~moved).sum())]
        for count, start, color in zip(counts, np.cumsum([0, *counts]), kinds.values(), strict=False):
            left.barh(y, count, left=start, height=0.6, color=color)
            if count:
                ink = draw.INK if color == draw.PALE else "white"
                left.text(start + count / 2, y, str(count), ha="center", va="center", color=ink, weight="bold")
        right.plot([old.mean(), new.mean()], [y, y], color=draw.INK, lw=1.5)
        right.plot(old.mean(), y, "o", color=draw.GREY, ms=8)
        if moved.any():
            right.plot(new.mean(), y, "o", color=draw.GREEN if new.mean() < old.mean() else draw.RED, ms=8)
        said.append(
            f"{method}: {counts[0]} nearer, {counts[1]} farther" if moved.any() else f"{method}: no label moved"
        )
    left.set_yticks(range(len(moves)), list(moves))
    left.set(xlabel=f"{counted(len(truth), 'label')}", ylim=(len(moves) - 0.5, -0.5), xlim=(0, max(len(truth), 1)))
    left.grid(False)
    right.set(xlabel="mean distance from the oracle,\nbefore (grey) and after")
    right.set_xlim(0, 1.25 * right.get_xlim()[1])
    draw.key(figure, kinds, columns=3)
    return draw.finished(figure, "; ".join(said))


def bias_figure(table: pd.DataFrame) -> Figure:
    """How much less often a weaker policy finishes a prefix, by kinds of prefix (`known_truth.bias_table`)."""
    clear = (table.bias_high < 0) | (table.bias_low > 0)
    labels = [f"{row.group} ({row.states})" for row in table.itertuples()]
    rows = table.rename(columns={"bias": "middle", "bias_low": "low", "bias_high": "high"})
    rows = rows.assign(group=table.trait, label=labels, panel="bias", color=np.where(clear, draw.RED, draw.GREY))
    figure, (axes,) = draw.dot_figure(rows, {"bias": "the weaker policy's pass rate minus the policy's own (95 %)"})
    axes.axvline(0, color=draw.INK, lw=1)
    draw.in_percent(axes.xaxis)
    ends = [table.loc[table.bias.idxmin()], table.loc[table.bias.idxmax()]]
    said = [f"{100 * row.bias:+.0f} points for `{row.trait}: {row.group}`" for row in ends]
    return draw.finished(figure, f"The bias of a weaker policy depends on the prefix: from {said[0]} to {said[1]}")
