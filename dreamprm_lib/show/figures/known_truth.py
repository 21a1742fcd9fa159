"""Chapters 5 and 10: methods that learn from noisy labels, in planted worlds, and the bias of a real completer."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

import dreamprm_lib.show.figures.primitives as draw
from dreamprm_lib.evidence.statistics import mean_with_interval

PANELS = {"ranking": "ranking of held-out states", "label_mse": "squared label error"}
FAMILIES = {
    "labels as they are": draw.GREY,
    "outcomes used otherwise": draw.BLUE,
    "labels or weights moved": draw.GREEN,
}


def family(method: str) -> str:
    """Methods that move labels or weights, those that use outcomes otherwise, and those that know labels alone."""
    if method.startswith("corrected"):
        return "labels or weights moved"
    return "outcomes used otherwise" if method in ("meta only", "recalibrated") else "labels as they are"


def _worlds_figure(table: pd.DataFrame, group: str, label: str, finding: str) -> Figure:
    """Mean and 95 % interval over worlds of each panel, a heading a `group`, a row a `label`, coloured by method."""
    rows = [
        (*names, FAMILIES[family(names[-1])], panel, *mean_with_interval(part[panel]))
        for names, part in table.assign(group=table[group], label=table[label]).groupby(
            ["group", "label", "method"], sort=False
        )
        for panel in PANELS
    ]
    columns = ["group", "label", "method", "color", "panel", "middle", "low", "high"]
    figure, _ = draw.dot_figure(pd.DataFrame(rows, columns=columns), PANELS, 0.25)
    shown = set(table.method.map(family))
    draw.key(figure, {name: color for name, color in FAMILIES.items() if name in shown}, columns=3)
    return draw.finished(figure, finding)


def _best_gains(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Which method ranks best, and its gain on the first one, the raw labels: columns method, gain, a row a `by`."""
    means = table.groupby([*by, "method"], sort=False).ranking.mean().unstack()
    return pd.DataFrame({"method": means.idxmax(axis=1), "gain": means.max(axis=1) - means[table.method.iloc[0]]})


def _where_it_pays(gains: pd.Series) -> str:
    """The largest gain on raw labels and the next one, by bias."""
    first, *others = gains.sort_values(ascending=False).items()
    said = f"Clean outcomes gain {first[1]:+.2f} in ranking with bias `{first[0]}`"
    return said + (f", at most {others[0][1]:+.2f} elsewhere" if others else "")


def planted_figure(table: pd.DataFrame) -> Figure:
    """Known truth: ranking of held-out states, and label error, by bias and method, 95 % intervals over worlds.

    `table`: columns bias, method, seed, ranking, label_mse; the first method is the raw labels.
    """
    finding = _where_it_pays(_best_gains(table, ["bias"]).gain)
    return _worlds_figure(table.assign(bias="bias: " + table.bias), "bias", "method", finding)


def planted_map(table: pd.DataFrame) -> Figure:
    """Known truth: by bias, rollouts a label and clean outcomes, which method ranks best, and its gain on raw labels.

    `table`: columns bias, rollouts, meta, method, seed, ranking; the first method is the raw labels.
    """
    best = _best_gains(table, ["bias", "rollouts", "meta"])
    name = best.method.str.removeprefix("corrected, ")
    best["words"] = (name + "\n" + best.gain.map("{:+.2f}".format)).where(best.gain >= 0.005, "no gain")
    biases = list(table.bias.unique())
    lines = -(-len(biases) // 2)
    height = 1.2 + lines * (0.6 + 0.42 * table.rollouts.nunique())
    figure, grid = draw.panels(lines, min(len(biases), 2), height, sharex=True, sharey=True)
    for axes in grid.flat[len(biases) :]:
        axes.axis("off")
    for bias, axes in zip(biases, grid.flat, strict=False):
        gain, words = (best[column][bias].unstack().sort_index() for column in ("gain", "words"))
        sns.heatmap(gain, annot=words, fmt="", vmin=0, vmax=0.35, cmap="Greens", cbar=False, ax=axes,
                    annot_kws={"fontsize": 9})  # fmt: skip
        axes.set(xlabel="", ylabel="")
        axes.tick_params(axis="y", rotation=0)
        axes.set_title(f"bias: {bias}", weight="bold")
    figure.supxlabel("clean outcomes", fontsize=11)
    figure.supylabel("rollouts a label", fontsize=11)
    return draw.finished(figure, _where_it_pays(best.gain.groupby("bias").max()))


def ablation_figure(table: pd.DataFrame) -> Figure:
    """One thing changed at a time: ranking of held-out states and label error, of corrected and of raw labels.

    `table`: columns ablation, value, method, seed, ranking, label_mse; bars are 95 % intervals over worlds.
    """
    means = table.groupby(["ablation", "value", "method"]).ranking.mean().unstack()
    gain = (means["corrected"] - means["raw labels"]).groupby("ablation").agg(["min", "max"])
    order = (gain["max"] - gain["min"]).sort_values().index
    most = gain.loc[order[-1]]
    said = f"`{order[-1]}` changes the gain most ({most['min']:+.2f} to {most['max']:+.2f}), `{order[0]}` least"
    return _worlds_figure(table, "ablation", "value", said)


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
