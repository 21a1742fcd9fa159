"""Figures: each function takes results and returns a `Figure` with labelled axes, units and intervals."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, PercentFormatter, StrMethodFormatter

from dreamprm_lib.chain_of_functions import split_steps
from dreamprm_lib.engine.problems import DIFFICULTIES, Problem
from dreamprm_lib.evidence.statistics import counted, mean_with_interval, wilson_interval
from dreamprm_lib.paper_scale import PLACES
from dreamprm_lib.show.interrupts import explain_interrupts
from dreamprm_lib.study.rows import CorrectedLabel, Program, StepLabel

if TYPE_CHECKING:
    from dreamprm_lib.show.game import Round
    from dreamprm_lib.step_search import Search, State

PALETTE = sns.color_palette("colorblind")
DARK = sns.color_palette("dark")
METHOD_STYLE = {  # one colour and one marker for a method, everywhere; no two share either
    "random": ("#777777", "o"),
    "orm": (PALETTE[1], "s"),
    "prm_cof": (PALETTE[0], "^"),
    "prm_weights": (PALETTE[4], "v"),
    "prm_recalibrated": (PALETTE[5], "D"),
    "prm_likelihood": (PALETTE[8], "X"),
    "dreamprm_code": (PALETTE[2], "P"),
    "prm_weak": (DARK[5], "<"),
    "prm_weak_corrected": (DARK[2], ">"),
    "prm_weak_recalibrated": (DARK[8], "H"),
    "first": ("#bbbbbb", "8"),
    "shortest": (DARK[9], (3, 1)),
    "longest": (DARK[4], (4, 1)),
    "mean_logprob": (PALETTE[3], "p"),
    "consensus": (PALETTE[6], "h"),
    "prm_cof x consensus": (DARK[6], (6, 1)),
    "mean_logprob": (PALETTE[9], "d"),
    "beam search": (DARK[3], (7, 1)),
    "prm": (DARK[0], (8, 1)),
    "oracle": ("#000000", "*"),
}
DIFFICULTY_COLOR = dict(zip(DIFFICULTIES, (PALETTE[2], PALETTE[1], PALETTE[3]), strict=True))


def method_styles(methods: Iterable[str]) -> dict[str, dict[str, object]]:
    """Colour, marker and line of each method: that of `METHOD_STYLE`, and for the k-th other one a hue and a letter;
    what votes with a score (`prm_cof x consensus`) is dotted."""
    methods = list(dict.fromkeys(methods))
    others = [m for m in methods if m not in METHOD_STYLE]
    hues = sns.husl_palette(max(len(others), 1), l=0.45)
    styles = METHOD_STYLE | {m: (hues[k], f"${chr(65 + k % 26)}$") for k, m in enumerate(others)}
    found = {m: dict(zip(("color", "marker"), styles[m], strict=True)) for m in methods}
    return {m: style | {"linestyle": ":" if " x " in m else "-"} for m, style in found.items()}


def _in_regime(samples: int) -> str:
    """The heading of a panel of selectors that ran so many public samples first."""
    return f"after {counted(samples, 'sample')}" if samples else "no sample run"


def use_style() -> None:
    """The house style: seaborn's white grid on white paper, text that stays text in SVG and PDF; and a notebook's cells
    say, when they are interrupted, what is kept."""
    explain_interrupts()
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    mpl.rcParams.update(
        {
            "figure.facecolor": "white",
            "axes.titlelocation": "left",
            "axes.titleweight": "bold",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.fonttype": "none",
            "pdf.fonttype": 42,
        }
    )


def _legend(axes, gap: float = 4.5, **options) -> None:
    """The key of a panel, below it, where it hides nothing; `gap` is in heights of its letters."""
    options = {"fontsize": 9, "ncol": 2, "frameon": False} | options
    options |= {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": gap}
    if axes.get_legend():  # one that seaborn drew
        axes.legend(axes.get_legend().legend_handles, [t.get_text() for t in axes.get_legend().get_texts()], **options)
    else:
        axes.legend(**options)


def _legend_beside(axes, **options) -> None:
    """The key of the last panel of a row, to its right."""
    axes.legend(**{"fontsize": 9, "bbox_to_anchor": (1.01, 1), "loc": "upper left"} | options)


def _finished(figure: Figure) -> Figure:
    """Laid out, and taken from pyplot's list, so that a notebook shows it once: where it is the value of a cell."""
    figure.tight_layout()
    plt.close(figure)
    return figure


def steps_figure(names: Sequence[str], texts: Sequence[str], scores: Sequence[float] | None = None) -> Figure:
    """A program taken apart: each step on its own band, coloured by its score in [0, 1] if `scores` is given."""
    lines = [text.rstrip("\n").split("\n") for text in texts]
    total = sum(map(len, lines))
    figure, axes = plt.subplots(figsize=(9, 0.24 * total + 0.6))
    row = 0
    for k, (name, block) in enumerate(zip(names, lines, strict=True)):
        color = sns.light_palette(PALETTE[k % 10], 6)[1] if scores is None else mpl.colormaps["RdYlBu"](scores[k])
        axes.axhspan(row, row + len(block), color=color, alpha=0.55 if scores is not None else 1, lw=0)
        for i, line in enumerate(block):
            axes.text(0.01, row + i + 0.5, _cut(line), family="monospace", fontsize=9, va="center")
        value = "" if scores is None else f"  score {scores[k]:.2f}"
        axes.text(0.995, row + 0.55, f"step {k + 1}: {name}{value}", ha="right", va="center", fontsize=9, weight="bold")
        row += len(block)
    axes.set(xlim=(0, 1), ylim=(total, 0))
    axes.axis("off")
    return _finished(figure)


def _cut(line: str, width: int = 92) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"


def prompt_comparison_figure(table: pd.DataFrame) -> Figure:
    """Steps a program and pass rate by prompt.  `table`: a row a program, with prompt, steps, passed."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    counts = table.groupby("prompt", sort=False).steps.value_counts(normalize=True).rename("share").reset_index()
    sns.barplot(counts, x="steps", y="share", hue="prompt", ax=left)
    left.yaxis.set_major_formatter(PercentFormatter(1))
    left.set(xlabel="steps (functions) a program", ylabel="share of programs", title="How long the chain is")
    _legend(left)
    for x, (_prompt, part) in enumerate(table.groupby("prompt", sort=False)):
        low, high = wilson_interval(part.passed.sum(), len(part))
        rate = part.passed.mean()
        right.errorbar(x, rate, [[rate - low], [high - rate]], fmt="o", ms=9, capsize=5, color=PALETTE[x])
        right.annotate(f"n = {len(part)}", (x, high), xytext=(0, 5), textcoords="offset points", ha="center")
    right.set(
        xticks=range(table.prompt.nunique()),
        xticklabels=table.prompt.unique(),
        xlim=(-0.5, max(table.prompt.nunique(), 1) - 0.5),
        ylim=(0, 1),
        ylabel="programs that pass",
        title="How often it passes",
    )
    right.yaxis.set_major_formatter(PercentFormatter(1))
    return _finished(figure)


def labels_figure(labels: Sequence[StepLabel]) -> Figure:
    """Left: how labels are spread, open and clean steps apart.  Right: labels of chains, step by step, by outcome."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    table = pd.DataFrame(
        {
            "label": [x.label for x in labels],
            "kind": ["last step (clean)" if x.clean else "open step (MC)" for x in labels],
            "step": [x.step + 1 for x in labels],
            "program": [f"{x.problem}/{x.sample}" for x in labels],
            "clean": [x.clean for x in labels],
        }
    )
    sns.histplot(
        table, x="label", hue="kind", bins=np.linspace(-0.05, 1.05, 12), stat="count", multiple="dodge", ax=left
    )
    left.set(xlabel="label (share of rollouts that pass)", ylabel="steps", title=counted(len(labels), "label"))
    _legend(left)
    passes = table[table.clean].set_index("program").label.gt(0.5)
    table["outcome"] = table.program.map(passes).map({True: "program passes", False: "program fails"})
    sns.pointplot(
        table[table.step <= 5],
        x="step",
        y="label",
        hue="outcome",
        hue_order=["program passes", "program fails"],
        palette=[PALETTE[2], PALETTE[3]],
        errorbar=("ci", 95),
        seed=0,
        ax=right,
    )
    right.set(xlabel="step", ylabel="mean label", ylim=(0, 1.04), title="Value along the chain (95 % bootstrap)")
    _legend(right)
    return _finished(figure)


def noise_figure(few: np.ndarray, many: np.ndarray, n_few: int, n_many: int) -> Figure:
    """Labels from few rollouts against those from many, same prefixes, with the binomial band that noise explains."""
    figure, axes = plt.subplots(figsize=(5.4, 4.6))
    grid = np.linspace(0, 1, 101)
    band = 1.96 * np.sqrt(grid * (1 - grid) * (1 / n_few - 1 / n_many))
    axes.fill_between(grid, grid - band, grid + band, color="#dddddd", label="95 % of what noise explains")
    jitter = np.random.default_rng(0).uniform(-0.015, 0.015, (2, len(few)))
    axes.plot(
        many + jitter[0],
        few + jitter[1],
        "o",
        alpha=0.6,
        color=PALETTE[0],
        label=counted(len(few), "prefix", "prefixes"),
    )
    axes.plot([0, 1], [0, 1], color="black", lw=1)
    axes.set(
        xlabel=f"label from {n_many} rollouts", ylabel=f"label from the first {n_few}", xlim=(-0.05, 1.05),
        ylim=(-0.05, 1.05), title=f"n = {n_few} against n = {n_many}",
    )  # fmt: skip
    _legend_beside(axes)
    return _finished(figure)


def headroom_figure(problems: Sequence[Problem], candidates: Sequence[Program]) -> Figure:
    """Pass rate of every problem, sorted, by difficulty: between 0 and 1 lies the room for a selector."""
    by_id = {p.id: p for p in problems}
    rate = pd.Series([c.passed for c in candidates]).groupby([c.problem for c in candidates]).mean()
    order = sorted(rate.index, key=lambda i: (DIFFICULTIES.index(by_id[i].difficulty), -rate[i]))
    figure, axes = plt.subplots(figsize=(9, 3.4))
    for x, name in enumerate(order):
        color = DIFFICULTY_COLOR[by_id[name].difficulty]
        axes.vlines(x, 0, rate[name], color=color, lw=4, alpha=0.6)
        axes.plot(x, rate[name], "o", color=color)
    for name, color in DIFFICULTY_COLOR.items():
        axes.plot([], [], "o", color=color, label=name)
    axes.set(
        xticks=range(len(order)),
        ylim=(-0.03, 1.03),
        ylabel="candidates that pass",
        title=f"{counted(len(candidates) // max(len(order), 1), 'candidate')} for each of "
        f"{counted(len(order), 'test problem')}",
    )
    axes.set_xticklabels(order, rotation=90, fontsize=8)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    _legend_beside(axes)
    axes.grid(False, axis="x")
    return _finished(figure)


def tree_mask_figure(mask: np.ndarray, names: Sequence[str]) -> Figure:
    """Who sees whom in a tree of tokens.  `mask` [tokens, tokens] bool, rows see columns; `names`: their segments."""
    figure, axes = plt.subplots(figsize=(6.2, 5))
    axes.imshow(mask, cmap=mpl.colors.ListedColormap(["#f2f2f2", PALETTE[0]]), aspect="equal")
    starts = [i for i in range(len(names)) if i == 0 or names[i] != names[i - 1]]
    for start in starts[1:]:
        axes.axhline(start - 0.5, color="white", lw=2)
        axes.axvline(start - 0.5, color="white", lw=2)
    middles = [(a + b - 1) / 2 for a, b in zip(starts, [*starts[1:], len(names)], strict=True)]
    axes.set_yticks(middles, [names[s] for s in starts])
    axes.set_xticks(middles, [names[s] for s in starts], rotation=45, ha="right")
    axes.set(title="Each token sees its ancestors and nothing else", xlabel="is seen", ylabel="sees")
    axes.tick_params(length=0)
    axes.grid(False)
    return _finished(figure)


def choice_figure(table: pd.DataFrame, x: str, hue: str, chosen: Mapping[str, object]) -> Figure:
    """Cross-validated within-problem ranking, with the interval of the chosen line.

    `table`: columns x, hue, ranking, ci_low, ci_high.
    """
    figure, axes = plt.subplots(figsize=(7.5, 3.8))
    for k, (name, part) in enumerate(table.groupby(hue, sort=False)):
        axes.plot(part[x], part.ranking, "o-", color=PALETTE[k], label=f"{hue} {name}")
        if name == chosen[hue]:
            axes.fill_between(part[x], part.ci_low, part.ci_high, color=PALETTE[k], alpha=0.15, lw=0)
    axes.axhline(0.5, color="black", lw=1, ls=":")
    axes.annotate("chance", (table[x].max(), 0.5), xytext=(-4, 4), textcoords="offset points", ha="right")
    axes.axvline(chosen[x], color="#555555", lw=1, ls="--")
    axes.set(
        xlabel=x,
        ylabel="within-problem ranking",
        title="Chosen without the test split: " + ", ".join(f"{k} {v}" for k, v in chosen.items()),
    )
    _legend_beside(axes)
    return _finished(figure)


def ranking_figure(table: pd.DataFrame) -> Figure:
    """Within-problem ranking by method, with 95 % intervals.  `table`: columns method, ranking, ci_low, ci_high."""
    figure, axes = plt.subplots(figsize=(7.5, 0.45 * len(table) + 1.2))
    styles = method_styles(map(_named, table.method))
    for y, row in enumerate(table.itertuples()):
        color = styles[_named(row.method)]["color"]
        axes.plot([row.ci_low, row.ci_high], [y, y], color=color, lw=2)
        axes.plot(row.ranking, y, "o", color=color, ms=8)
    axes.axvline(0.5, color="black", lw=1, ls=":")
    axes.annotate("chance", (0.5, -0.45), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(table)), table.method)
    axes.set(xlabel="within-problem ranking on held-out problems", ylim=(len(table) - 0.4, -0.7))
    return _finished(figure)


def _named(method: str) -> str:
    """The method of `prm_cof, mse` or `mean-logprob`, as tables name it."""
    return method.split(",")[0].replace("-", "_")


def calibration_figure(
    curves: Mapping[str, pd.DataFrame], errors: pd.DataFrame, temperature: float | None = None
) -> Figure:
    """Left: what scores promise and what comes of them.  Right: calibration error by group.

    `curves`: for `before` and `after` (or for methods), the table of `reward_model.reliability`; `errors`: columns
    group, steps, when, error; `temperature`: what lies between before and after.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(1, 1.4))
    left.plot([0, 1], [0, 1], color="black", lw=1, ls=":")
    for k, (when, table) in enumerate(curves.items()):
        left.plot(table.score, table.outcome, "-", color=PALETTE[k], lw=1)
        area = 10 + 500 * table.rows / table.rows.sum()
        left.scatter(table.score, table.outcome, s=area, color=PALETTE[k], label=when, zorder=3, alpha=0.8)
    left.set(
        xlabel="mean step score", ylabel="programs that pass", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03),
        title="Reliability",
    )  # fmt: skip
    _legend(left, title="area: steps", title_fontsize=9)
    for handle in left.get_legend().legend_handles:
        handle.set_sizes([40])
    sns.barplot(errors, x="group", y="error", hue="when", ax=right)
    counts = errors.drop_duplicates("group")
    right.set_xticks(range(len(counts)), [f"{r.group}\n({r.steps})" for r in counts.itertuples()], fontsize=9)
    cooled = "" if temperature is None else f" (T = {temperature:.2f})"
    right.set(xlabel="steps of", ylabel="expected calibration error", title=f"Calibration error{cooled}")
    right.set_ylim(0, 1.05 * max(errors.error.max(), 0.01))
    _legend(right, gap=6, ncol=3)
    right.grid(False, axis="x")
    return _finished(figure)


def correction_figure(
    losses: pd.Series, stop: int, labels: Sequence[CorrectedLabel], movable: Sequence[bool]
) -> Figure:
    """Left: held-out loss by iteration, its index, and where it is stopped.  Right: movable labels before and after."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    left.plot(losses.index, losses, color=PALETTE[0])
    left.axvline(stop, color="#555555", ls="--", lw=1)
    left.annotate(f"stopped after {stop}", (stop, losses.max()), xytext=(6, -4), textcoords="offset points", va="top")
    left.set(xlabel="iteration", ylabel="loss on held-out meta problems (nats)", title="When to stop")
    moved = [x for x, m in zip(labels, movable, strict=True) if m]
    before, after = np.array([x.before for x in moved]), np.array([x.after for x in moved])
    jitter = np.random.default_rng(0).uniform(-0.02, 0.02, len(before))
    right.plot([0, 1], [0, 1], color="black", lw=1)
    right.scatter(before + jitter, after, c=after - before, cmap="coolwarm_r", vmin=-0.5, vmax=0.5, s=22, alpha=0.8)
    right.set(
        xlabel="Monte-Carlo label", ylabel="corrected label", xlim=(-0.05, 1.05), ylim=(-0.05, 1.05),
        title=f"{counted(len(moved), 'label')} of open steps",
    )  # fmt: skip
    return _finished(figure)


def formula_figure(formula: Sequence[float], numeric: Sequence[float]) -> Figure:
    """Derivatives by a formula against the same by nudging, a point a label; on the line they agree."""
    formula, numeric = np.asarray(formula), np.asarray(numeric)
    figure, axes = plt.subplots(figsize=(4.4, 4))
    ends = [min(formula.min(), 0), max(formula.max(), 0)]
    axes.plot(ends, ends, color="black", lw=1)
    axes.plot(formula, numeric, "o", color=PALETTE[0], alpha=0.7)
    axes.set(xlabel="formula", ylabel="nudging", title=f"largest gap {np.abs(formula - numeric).max():.0e}")
    axes.ticklabel_format(style="sci", scilimits=(-2, 2))
    return _finished(figure)


def planted_figure(table: pd.DataFrame) -> Figure:
    """Known truth, a column a bias: ranking of held-out states, and label error, by method, 95 % intervals over worlds.

    `table`: columns bias, method, seed, ranking, label_mse.
    """
    biases, methods = list(table.bias.unique()), list(table.method.unique())
    figure, grid = plt.subplots(
        2, len(biases), figsize=(12, 1.6 + 0.44 * len(methods)), sharey=True, sharex="row", squeeze=False
    )
    rows = {"ranking": "ranking of held-out states", "label_mse": "mean squared label error"}
    for (what, name), line in zip(rows.items(), grid, strict=True):
        for bias, axes in zip(biases, line, strict=True):
            part = table[table.bias == bias]
            for y, method in enumerate(methods):
                mean, low, high = mean_with_interval(part[part.method == method][what])
                color = _planted_color(method)
                axes.plot([low, high], [y, y], color=color, lw=2)
                axes.plot(mean, y, "o", color=color, ms=6)
            raw = part[part.method == methods[0]][what].mean()
            axes.axvline(raw, color="#999999", lw=1, ls="--")
            axes.set(xlabel=name, title=f"bias: {bias}" if what == "ranking" else "")
        line[0].set_yticks(range(len(methods)), methods, fontsize=9)
        line[0].set_ylim(len(methods) - 0.5, -0.5)
    return _finished(figure)


def _planted_color(method: str):
    """Methods that move labels, those that use outcomes otherwise, and those that know labels alone."""
    if method.startswith("corrected") or method == "weights":
        return PALETTE[2]
    return PALETTE[0] if method in ("meta only", "joint", "recalibrated") else "#777777"


def planted_map(table: pd.DataFrame) -> Figure:
    """Known truth: by bias, rollouts a label and clean outcomes, which method ranks best, and its gain on raw labels.

    `table`: columns bias, rollouts, meta, method, seed, ranking.
    """
    means = table.groupby(["bias", "rollouts", "meta", "method"]).ranking.mean()
    biases = list(table.bias.unique())
    rollouts, sizes = sorted(table.rollouts.unique()), sorted(table.meta.unique())
    raw = table.method.iloc[0]
    figure, grid = plt.subplots(1, len(biases), figsize=(12, 1.4 + 0.75 * len(rollouts)), sharey=True, squeeze=False)
    for bias, axes in zip(biases, grid[0], strict=True):
        gain = np.empty((len(rollouts), len(sizes)))
        for i, n in enumerate(rollouts):
            for j, size in enumerate(sizes):
                cell = means[bias, n, size]
                gain[i, j] = cell.max() - cell[raw]
                best = cell.idxmax().replace("corrected, ", "").replace(" labels", "").replace(" ", "\n")
                axes.text(j, i, f"{best}\n{gain[i, j]:+.2f}", ha="center", va="center", fontsize=7)
        axes.imshow(gain, cmap="Greens", vmin=0, vmax=0.4, aspect="auto")
        axes.set_xticks(range(len(sizes)), sizes)
        axes.set_yticks(range(len(rollouts)), rollouts)
        axes.set(xlabel="clean outcomes", title=f"bias: {bias}")
        axes.grid(False)
    grid[0, 0].set_ylabel("rollouts a label")
    return _finished(figure)


def ablation_figure(table: pd.DataFrame) -> Figure:
    """One thing changed at a time: ranking of held-out states and, below it, label error, corrected and raw labels;
    four things in a row.

    `table`: columns ablation, value, method, seed, ranking, label_mse; bars are 95 % intervals over worlds.
    """
    names = list(table.ablation.unique())
    bands = -(-len(names) // 4)
    figure, grid = plt.subplots(2 * bands, min(len(names), 4), figsize=(10, 4.6 * bands), sharey="row", squeeze=False)
    columns = [column for k in range(bands) for column in grid[2 * k : 2 * k + 2].T]
    for axes in np.ravel(columns[len(names) :]):
        axes.axis("off")
    for name, column in zip(names, columns, strict=False):
        part = table[table.ablation == name]
        values = list(part.value.unique())
        for what, axes in zip(("ranking", "label_mse"), column, strict=True):
            for method, color in (("raw labels", "#777777"), ("corrected", PALETTE[2])):
                mine = part[part.method == method]
                found = [mean_with_interval(mine[mine.value == value][what]) for value in values]
                mean, low, high = np.array(found).T
                axes.errorbar(
                    range(len(values)), mean, [mean - low, high - mean], fmt="o-", ms=5, color=color, label=method
                )
            axes.set_xticks(range(len(values)), values, fontsize=9)
            axes.set_xlim(-0.5, len(values) - 0.5)
        column[0].set_title(textwrap.fill(name, 26), fontsize=10)
    for k, axes in enumerate(grid[:, 0]):
        axes.set_ylabel(("ranking", "label error (MSE)")[k % 2])
    _legend(grid[-1, 0], ncol=1, gap=3)
    return _finished(figure)


def oracle_figure(own: pd.DataFrame, weak: pd.DataFrame) -> Figure:
    """Labels beside the oracle, by method and rollouts: squared error (left) and rank correlation (right), labels from
    the policy's own rollouts and from those of a weaker one.

    Both tables as `known_truth.oracle_table` makes them; bars are 95 % intervals over problems.
    """
    own, weak = own.assign(whose="own"), weak.assign(whose="weaker")
    methods = list(own.method.unique())
    columns = [*own.groupby(["whose", "rollouts"], sort=False), *weak.groupby(["whose", "rollouts"], sort=False)]
    figure, axes = plt.subplots(
        2,
        len(columns),
        figsize=(2.3 * len(columns), 1.8 + 0.42 * len(methods)),
        sharey=True,
        sharex="row",
        squeeze=False,
    )
    for line, (what, name) in zip(axes, (("mse", "squared error"), ("ranking", "rank correlation")), strict=True):
        for ((whose, n), part), panel in zip(columns, line, strict=True):
            for y, row in enumerate(part.set_index("method").loc[methods].itertuples()):
                color = _planted_color(row.Index)
                panel.plot([getattr(row, f"{what}_low"), getattr(row, f"{what}_high")], [y, y], color=color, lw=2)
                panel.plot(getattr(row, what), y, "o", color=color, ms=6)
            panel.axvline(part[part.method == "raw labels"][what].iloc[0], color="#999999", lw=1, ls="--")
            panel.set(xlabel=name, title=f"{whose}, n = {n}" if what == "mse" else "")
        line[0].set_yticks(range(len(methods)), methods, fontsize=9)
        line[0].set_ylim(len(methods) - 0.5, -0.5)
    return _finished(figure)


def movement_figure(moves: Mapping[str, tuple[np.ndarray, np.ndarray]], truth: np.ndarray) -> Figure:
    """Labels before and after correction against the oracle's value, a panel a method.

    `moves`: labels before and after [m], by title; `truth` [m].  Lines lead from before to after; the title says how
    many labels moved.
    """
    figure, grid = plt.subplots(1, len(moves), figsize=(4.4 * len(moves), 4.2), sharey=True, squeeze=False)
    shift = np.random.default_rng(0).uniform(-0.012, 0.012, len(truth))
    for axes, (title, (before, after)) in zip(grid[0], moves.items(), strict=True):
        moved, nearer = np.abs(after - before) > 1e-3, np.abs(after - truth) < np.abs(before - truth)
        kinds = {"nearer to the oracle": moved & nearer, "farther from it": moved & ~nearer, "not moved": ~moved}
        for (name, mine), color in zip(kinds.items(), (PALETTE[2], PALETTE[3], "#999999"), strict=True):
            x, start, end = truth[mine] + shift[mine], before[mine], after[mine]
            axes.vlines(x, start, end, color=color, lw=1, alpha=0.5)
            axes.plot(x, end, "o", ms=4, color=color, label=name)
        axes.plot([0, 1], [0, 1], color="black", lw=1)
        said = f"{moved.sum()} of {counted(len(moved), 'label')} moved" if moved.any() else "no label moved"
        axes.set(xlabel="oracle: share of many rollouts that pass", xlim=(-0.04, 1.04), ylim=(-0.04, 1.04))
        axes.set_title(f"{title}:\n{said}", fontsize=11)
    grid[0, 0].set_ylabel("label: line from before to after")
    _legend(grid[0, len(moves) // 2], ncol=3)
    return _finished(figure)


def bias_figure(table: pd.DataFrame) -> Figure:
    """How much less often a weaker policy finishes a prefix, by kinds of prefix (`known_truth.bias_table`)."""
    figure, axes = plt.subplots(figsize=(7.5, 1.2 + 0.36 * len(table)))
    labels = [f"{row.trait}: {row.group}  ({row.states})" for row in table.itertuples()]
    colors = {trait: PALETTE[i] for i, trait in enumerate(table.trait.unique())}
    for y, row in enumerate(table.itertuples()):
        axes.plot([row.bias_low, row.bias_high], [y, y], color=colors[row.trait], lw=2)
        axes.plot(row.bias, y, "o", color=colors[row.trait])
    axes.axvline(0, color="black", lw=1)
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set(xlabel="share of the weaker policy's passes minus the policy's own (95 %)", title="Bias by kind of prefix")
    return _finished(figure)


def curve_figure(curve: pd.DataFrame, methods: Sequence[str] | None = None) -> Figure:
    """Best-of-N against N, a line a method and a panel for each number of samples that were run first; bands (of
    `random` and `oracle`) are 95 % intervals over problems."""
    regimes = list(curve.samples.unique())
    figure, row = plt.subplots(1, len(regimes), figsize=(4.6 + 3.6 * len(regimes), 4.6), sharey=True, squeeze=False)
    styles = method_styles(curve.method)
    ticks = sorted(curve.n.unique())
    for samples, axes in zip(regimes, row[0], strict=True):
        for method in methods or styles:
            part, style = curve[(curve.method == method) & (curve.samples == samples)], styles[method]
            axes.plot(part.n, part.pass_rate, label=method, zorder=3, **style)
            if method in ("random", "oracle"):
                axes.fill_between(part.n, part.ci_low, part.ci_high, color=style["color"], alpha=0.1, lw=0)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set(xlabel="candidates N", title=_in_regime(samples))
    row[0, 0].set_ylabel("problems solved (best-of-N)")
    _legend_beside(row[0, -1])
    return _finished(figure)


def search_figure(curve: pd.DataFrame) -> Figure:
    """Problems solved against tokens: best-of-N as lines, searches as points, 95 % intervals over problems.

    `curve`: columns method, n (missing for a search), tokens, pass_rate, ci_low, ci_high.
    """
    figure, axes = plt.subplots(figsize=(8.5, 4.6))
    styles = method_styles(m.split(",")[0] for m in curve.method)
    for method, part in curve.groupby("method", sort=False):
        style = styles[method.split(",")[0]]
        if part.n.isna().any():
            error = [part.pass_rate - part.ci_low, part.ci_high - part.pass_rate]
            face = style["color"] if "," not in method else "white"
            axes.errorbar(
                part.tokens, part.pass_rate, error, marker=style["marker"], ls="none", color=style["color"], mfc=face,
                ms=9, capsize=4, zorder=4, label=method,
            )  # fmt: skip
        else:
            axes.plot(part.tokens, part.pass_rate, label=f"{method}, best of N", zorder=3, **style)
            axes.fill_between(part.tokens, part.ci_low, part.ci_high, color=style["color"], alpha=0.08, lw=0)
    whole = curve[curve.n.notna()].drop_duplicates("n").sort_values("n")
    axes.set_xscale("log", base=2)
    axes.set_xticks(whole.tokens, [f"{t:.0f}\nN = {n:.0f}" for t, n in zip(whole.tokens, whole.n, strict=True)])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set(xlabel="tokens a problem (mean)", ylabel="problems solved", title="Search and best-of-N at equal tokens")
    _legend_beside(axes)
    return _finished(figure)


def beam_figure(found: Search, passed: Mapping[str, bool]) -> Figure:
    """A beam search as a tree, a column a function: what was kept, what was dropped, what came of it.

    `passed`: the verdict of each finished program, by its text.
    """
    figure, axes = plt.subplots(figsize=(1.6 + 2.1 * len(found.levels), 0.36 * max(map(len, found.levels)) + 1.6))
    before = [(None, 0.0)]  # the beam of the level before, and where it stands
    middle = (max(map(len, found.levels)) - 1) / 2
    for x, level in enumerate(found.levels, 1):
        places = [y + middle - (len(level) - 1) / 2 for y in range(len(level))]
        for y, (state, place) in enumerate(zip(level, places, strict=True)):
            kept = y < found.width
            above = next((p for text, p in before if text and state.text.startswith(text)), middle)
            axes.plot([x - 1, x], [above, place], color=PALETTE[0] if kept else "#cccccc", lw=1.5, zorder=1)
            _draw_state(axes, x, place, state, kept, passed)
        before = [(s.text, p) for s, p in zip(level[: found.width], places, strict=False)]
    axes.plot(0, middle, "o", color="black", ms=9)
    axes.set_xticks(range(len(found.levels) + 1), ["problem", *range(1, len(found.levels) + 1)])
    axes.set(xlim=(-0.2, len(found.levels) + 0.9), ylim=(2 * middle + 0.6, -0.6), yticks=[])
    pick = found.programs[0]
    outcome = f"the pick ({pick.score:.2f}) {'passes' if passed[pick.text] else 'fails'}"
    axes.set(xlabel="states after each function, best on top", title=f"{found.problem}: {outcome}")
    axes.spines["left"].set_visible(False)
    axes.grid(False)
    figure.legend(handles=_beam_key(), fontsize=8, ncol=4, loc="upper center", bbox_to_anchor=(0.5, 0.02))
    return _finished(figure)


def _draw_state(axes, x: float, y: float, state: State, kept: bool, passed: Mapping[str, bool]) -> None:
    color = PALETTE[0] if not state.finished else PALETTE[2] if passed[state.text] else PALETTE[3]
    marker = "s" if state.finished else "o"
    axes.plot(x, y, marker, color=color, mfc=color if kept else "white", ms=8, zorder=2)
    name = split_steps(state.text)[-1].name
    weight = "bold" if kept else "normal"
    axes.annotate(
        f"{state.score:.2f} {_cut(name, 20)}", (x, y), xytext=(7, 0), textcoords="offset points", va="center",
        fontsize=8, weight=weight, zorder=3, bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 0.5},
    )  # fmt: skip


def _beam_key() -> list[Line2D]:
    """What the markers of `beam_figure` mean."""

    def mark(label: str, marker: str, color, face) -> Line2D:
        return Line2D([], [], marker=marker, color=color, mfc=face, linestyle="none", label=label)

    return [
        mark("kept", "o", PALETTE[0], PALETTE[0]),
        mark("dropped", "o", PALETTE[0], "white"),
        mark("finished, passes", "s", PALETTE[2], PALETTE[2]),
        mark("finished, fails", "s", PALETTE[3], PALETTE[3]),
    ]


def difficulty_figure(table: pd.DataFrame) -> Figure:
    """Best-of-N by difficulty with intervals, a marker a method and a panel for each number of samples run first."""
    levels = [d for d in (*DIFFICULTIES, "overall") if d in set(table.difficulty)]
    regimes, styles = list(table.samples.unique()), method_styles(table.method)
    counts = table.drop_duplicates("difficulty").set_index("difficulty").problems
    figure, column = plt.subplots(len(regimes), 1, figsize=(9, 1 + 3 * len(regimes)), squeeze=False)
    for samples, axes in zip(regimes, column[:, 0], strict=True):
        for k, (method, style) in enumerate(styles.items()):
            part = table[(table.method == method) & (table.samples == samples)].set_index("difficulty").loc[levels]
            x = np.arange(len(levels)) + (k - (len(styles) - 1) / 2) * 0.8 / len(styles)
            error = np.clip([part.pass_rate - part.ci_low, part.ci_high - part.pass_rate], 0, None)
            style = style | {"linestyle": "none"}
            axes.errorbar(x, part.pass_rate, error, label=method, capsize=2, ms=7, elinewidth=1, **style)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set(ylabel=f"solved (best of {table.n.iloc[0]})", title=_in_regime(samples), ylim=(-0.03, 1.03))
        axes.set_xticks(range(len(levels)), [f"{d}\n({counted(counts[d], 'problem')})" for d in levels])
        axes.grid(False, axis="x")
    _legend_beside(column[0, 0], fontsize=8)
    return _finished(figure)


def forest_figure(table: pd.DataFrame) -> Figure:
    """Differences in best-of-N with paired 95 % intervals, a row a pair and a panel for each number of samples that
    both ran first."""
    pairs = list(dict.fromkeys(zip(table.method, table.baseline, strict=True)))
    regimes, styles = list(table.samples.unique()), method_styles(table.method)
    figure, row = plt.subplots(
        1, len(regimes), figsize=(4 + 3.4 * len(regimes), 0.4 * len(pairs) + 1.2), sharey=True, squeeze=False
    )
    for samples, axes in zip(regimes, row[0], strict=True):
        for found in table[table.samples == samples].itertuples():
            y, color = pairs.index((found.method, found.baseline)), styles[found.method]["color"]
            axes.plot([100 * found.ci_low, 100 * found.ci_high], [y, y], color=color, lw=2)
            axes.plot(100 * found.difference, y, "o", color=color, ms=8)
        axes.axvline(0, color="black", lw=1)
        axes.set(xlabel="points", title=_in_regime(samples))
    row[0, 0].set_yticks(range(len(pairs)), [" − ".join(pair) for pair in pairs])
    row[0, 0].set_ylim(len(pairs) - 0.5, -0.5)
    return _finished(figure)


def cost_figure(curve: pd.DataFrame) -> Figure:
    """Best-of-N against what a problem costs: tokens, FLOPs and seconds, on logarithmic axes; a marker for each N.

    `curve`: columns method, samples, n, pass_rate, ci_low, ci_high, tokens, flops, seconds.  Without samples first,
    lines are whole; after the most samples, dashed.  Bands (of `oracle`) are 95 % intervals over problems; a method
    with a single point, which needs one candidate alone, is drawn as a level.
    """
    figure, row = plt.subplots(1, 3, figsize=(13, 4.6), sharey=True)
    styles = method_styles(curve.method)
    panels = [("tokens", 1, "tokens"), ("flops", 1e12, "TFLOPs"), ("seconds", 1, "seconds")]
    for axes, (quantity, unit, label) in zip(row, panels, strict=True):
        for (samples, method), part in curve.groupby(["samples", "method"], sort=False):
            style, x, most = styles[method], part[quantity] / unit, curve.samples.max()
            name = f"{method}, {_in_regime(samples)}" if samples else method
            if len(part) == 1:
                axes.axhline(part.pass_rate.iloc[0], color=style["color"], lw=1.3, ls=":", label=name)
                continue
            if samples not in (0, most):
                continue
            style = style | ({"linestyle": "--"} if samples else {})
            axes.plot(x, part.pass_rate, label=name, zorder=3, ms=5, lw=1.3, **style)
            if method == "oracle" and not samples:
                axes.fill_between(x, part.ci_low, part.ci_high, color=style["color"], alpha=0.08, lw=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
        axes.minorticks_off()
        axes.tick_params(axis="x", labelsize=10)
        axes.set(xlabel=f"{label} a problem (log scale)")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    row[0].set(ylabel="problems solved (best-of-N)", title="Best-of-N against its cost")
    _legend_beside(row[-1])
    return _finished(figure)


def spread_figure(table: pd.DataFrame, retrained: pd.DataFrame) -> Figure:
    """Two uncertainties side by side: intervals over test problems, and reward models that were trained again.

    `table`: columns training, pass_rate, ci_low, ci_high (over problems, of the mean of the reward models);
    `retrained`: columns training, pass_rate, a row a reward model.
    """
    figure, axes = plt.subplots(figsize=(8.5, 0.62 * len(table) + 1.3))
    for y, row in enumerate(table.itertuples()):
        axes.plot([row.ci_low, row.ci_high], [y - 0.14] * 2, color=PALETTE[0], lw=2)
        axes.plot(row.pass_rate, y - 0.14, "o", color=PALETTE[0], ms=7)
        again = retrained[retrained.training == row.training].pass_rate
        axes.plot(again, [y + 0.18] * len(again), "|", color=PALETTE[3], ms=12, mew=2, alpha=0.7)
    axes.plot([], [], "o-", color=PALETTE[0], label="95 % interval over test problems")
    axes.plot([], [], "|", color=PALETTE[3], ms=12, mew=2, label="each reward model")
    axes.set_yticks(range(len(table)), table.training)
    axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.set(xlabel="problems solved", title="Two sources of uncertainty", ylim=(len(table) - 0.5, -0.5))
    _legend_beside(axes)
    return _finished(figure)


def agreement_figure(table: pd.DataFrame) -> Figure:
    """How far two selectors agree on the order of candidates.  `table`: columns method, other, tau in [-1, 1]."""
    names = list(table.method.unique())
    tau = table.pivot(index="method", columns="other", values="tau").loc[names, names].round(2) + 0.0  # no -0.00
    tau = tau.iloc[1:, :-1]  # each pair once
    figure, axes = plt.subplots(figsize=(1.2 + 0.66 * len(names), 0.6 + 0.5 * len(names)))
    sns.heatmap(
        tau, mask=np.triu(np.ones(tau.shape, bool), 1), vmin=-1, vmax=1, cmap="RdBu", annot=True, fmt=".2f",
        annot_kws={"fontsize": 8}, linewidths=1, ax=axes,
        cbar_kws={"shrink": 0.6, "pad": 0.0},
    )  # fmt: skip
    figure.axes[-1].set_xlabel("tau-b", fontsize=9)
    axes.set(xlabel="", ylabel="", title="Do two selectors agree on the order of candidates?")
    axes.set_yticks(np.arange(len(tau)) + 0.5, tau.index, rotation=0, fontsize=9)
    axes.set_xticks(np.arange(len(tau)) + 0.5, tau.columns, rotation=45, ha="right", fontsize=9)
    axes.grid(False)
    return _finished(figure)


def published_figure(published: pd.DataFrame) -> Figure:
    """The published overall pass rates with exact 95 % binomial intervals.  Columns: method, solved, problems."""
    from scipy.stats import binomtest

    figure, axes = plt.subplots(figsize=(8, 0.42 * len(published) + 1.2))
    for y, row in enumerate(published.itertuples()):
        span = binomtest(row.solved, row.problems).proportion_ci(0.95)
        axes.plot([span.low, span.high], [y, y], color=PALETTE[0], lw=2)
        axes.plot(row.solved / row.problems, y, "o", color=PALETTE[0])
        axes.annotate(
            f"{row.solved} / {row.problems}", (span.high, y), xytext=(6, -4), textcoords="offset points", fontsize=9
        )
    axes.set_yticks(range(len(published)), published.method)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set(xlabel="problems solved, overall", title="Published results (LiveCodeBench), with intervals added here")
    axes.invert_yaxis()
    return _finished(figure)


def costs_figure(costs: pd.DataFrame) -> Figure:
    """What a policy writes, by kind of work, on a logarithmic axis.  Columns: work, tokens, profile."""
    figure, axes = plt.subplots(figsize=(8, 3.6))
    sns.barplot(costs, y="work", x="tokens", hue="profile", ax=axes)
    axes.set_xscale("log")
    axes.set(xlabel="tokens generated (log scale)", ylabel="", title="What each stage asks of the policy")
    _legend(axes)
    return _finished(figure)


def distribution_figure(labels: np.ndarray, share: np.ndarray, value: float) -> Figure:
    """The exact distribution of a Monte-Carlo label around the true value."""
    figure, axes = plt.subplots(figsize=(6, 3))
    _draw_distribution(axes, labels, share, value)
    axes.set(title=counted(len(labels) - 1, "rollout"), ylabel="probability")
    return _finished(figure)


def distribution_grid(rollouts: Sequence[int], value: float) -> Figure:
    """The same for several numbers of rollouts, side by side."""
    from scipy.stats import binom

    figure, row = plt.subplots(1, len(rollouts), figsize=(3.4 * len(rollouts), 2.8), sharey=True)
    for axes, n in zip(row, rollouts, strict=True):
        _draw_distribution(axes, np.arange(n + 1) / n, binom(n, value).pmf(np.arange(n + 1)), value)
        axes.set(title=counted(n, "rollout"))
    row[0].set(ylabel="probability")
    return _finished(figure)


def _draw_distribution(axes, labels: np.ndarray, share: np.ndarray, value: float) -> None:
    axes.bar(labels, share, width=0.6 / max(len(labels) - 1, 4), color=PALETTE[0])
    axes.axvline(value, color=PALETTE[3], lw=2, label=f"true value {value:.2f}")
    axes.set(xlabel="label", xlim=(-0.1, 1.1))
    _legend(axes)


def planted_bars(table: pd.DataFrame) -> Figure:
    """One planted world: ranking of held-out states and label error, a bar a method."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 2.8), sharey=True)
    colors = {method: _planted_color(method) for method in table.method}
    sns.barplot(table, y="method", x="ranking", hue="method", palette=colors, ax=left)
    left.set(xlim=(0.5, 1), xlabel="ranking of held-out states", ylabel="", title=f"bias: {table.bias.iloc[0]}")
    sns.barplot(table, y="method", x="label_mse", hue="method", palette=colors, ax=right)
    right.set(xlabel="mean squared label error")
    return _finished(figure)


PLACE_COLOR = dict(zip(PLACES, (PALETTE[2], PALETTE[8], PALETTE[1], PALETTE[3], "#777777"), strict=True))


def cuts_figure(texts: Sequence[str], cuts: Sequence[int], parse: Sequence[bool]) -> Figure:
    """A program by its functions, a band each, and where prefixes end: `cuts` count lines, `parse` says which parse."""
    blocks = [text.rstrip("\n").split("\n") for text in texts]
    lines = "".join(texts).rstrip("\n").split("\n")
    figure, axes = plt.subplots(figsize=(9, 0.21 * len(lines) + 0.5))
    row = 0
    for k, (text, block) in enumerate(zip(texts, blocks, strict=True)):
        axes.axhspan(row, row + len(block), color=sns.light_palette(PALETTE[k % 10], 6)[1], lw=0)
        row += text.count("\n")
    for number, line in enumerate(lines):
        axes.text(0.01, number + 0.55, _cut(line, 76), family="monospace", fontsize=8, va="center")
    for k, (cut, good) in enumerate(zip(cuts, parse, strict=True)):
        y, color = min(cut, len(lines)), PALETTE[0] if good else PALETTE[3]
        axes.plot([0, 1], [y, y], color=color, lw=1.5, ls="-" if good else "--")
        words = f"prefix {k + 1} ends here" + ("" if good else ", does not parse")
        axes.text(0.995, y - 0.45, words, ha="right", va="center", fontsize=8, color=color, weight="bold")
    axes.set(xlim=(0, 1), ylim=(len(lines) + 0.3, 0))
    axes.axis("off")
    return _finished(figure)


def places_figure(prefixes: pd.DataFrame) -> Figure:
    """Prefixes a program by where they end, a bar a splitter.  Columns: splitter, program, place."""
    counts = prefixes.groupby(["splitter", "place"]).size().unstack(fill_value=0)
    counts = counts.div(prefixes.groupby("splitter").program.nunique(), axis=0)
    figure, axes = plt.subplots(figsize=(9, 2.6))
    left = np.zeros(len(counts))
    for place, color in PLACE_COLOR.items():
        if place in counts:
            axes.barh(counts.index, counts[place], left=left, color=color, label=place, height=0.6)
            left += counts[place]
    axes.set(xlabel="prefixes a program (mean)", title="Where prefixes end")
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    _legend_beside(axes)
    return _finished(figure)


def pulls_figure(value: float, label: float, weights: Sequence[float], labels: Sequence[float]) -> Figure:
    """What a row does to its score: the slope w (y - p) of cross-entropy by the logit, for several weights at one
    label, and for several labels at weight 1.  All but the weights lie in [0, 1]."""
    score = np.linspace(0, 1, 101)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True)
    for k, weight in enumerate(weights):
        left.plot(score, weight * (label - score), color=PALETTE[k], lw=2.5, label=f"weight {weight:g}")
    for k, target in enumerate(labels):
        right.plot(score, target - score, color=PALETTE[k], lw=2.5, label=f"label {target:g}")
    for axes, title in ((left, f"Label {label:g}, several weights"), (right, "Weight 1, several labels")):
        axes.axhline(0, color="black", lw=1, zorder=1)
        axes.axvline(value, color="#555555", lw=1, ls="--")
        axes.set(xlabel=f"score (dashed: true value {value:g})", xlim=(0, 1), title=title)
        _legend(axes, ncol=4)
    left.set(ylabel="pull on the logit (up > 0)")
    return _finished(figure)


def power_figure(curves: pd.DataFrame, marked: int) -> Figure:
    """Power against the number of problems, a panel a share of discordant problems, a line a gain; `marked` problems
    are marked.  Columns: gain, discordance, problems, power."""
    panels = list(curves.groupby("discordance"))
    figure, grid = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.6), sharey=True, squeeze=False)
    for axes, (discordance, panel) in zip(grid[0], panels, strict=True):
        for k, (gain, part) in enumerate(panel.groupby("gain")):
            axes.plot(part.problems, part.power, color=PALETTE[k], label=f"{100 * gain:.3g}")
        axes.axhline(0.8, color="#999999", lw=1, ls="--")
        axes.axvline(marked, color="black", lw=1, ls=":")
        axes.annotate(f"{marked}", (marked, 1.0), xytext=(3, 2), textcoords="offset points", fontsize=9)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set(xlabel="test problems", ylim=(0, 1.05), title=f"{discordance:.1%} discordant".replace(".0%", " %"))
    grid[0, 0].set(ylabel="power (exact McNemar, 5 %)")
    _legend_beside(grid[0, -1], title="true gain\n(points)", title_fontsize=9)
    return _finished(figure)


def rounds_figure(rounds: Sequence[Round]) -> Figure:
    """The rounds of the game: the PRM's score of each candidate, by its verdict, and which one it takes."""
    figure, panels = plt.subplots(1, len(rounds), figsize=(2.8 * len(rounds), 2.6), sharex=True, squeeze=False)
    for axes, r in zip(panels[0], rounds, strict=True):
        at = np.arange(len(r.programs))
        axes.barh(at, r.scores, color=[PALETTE[0] if ok else "white" for ok in r.passed], edgecolor=PALETTE[0])
        names = [f"{'ABCDEFGH'[k]} {'✔' if ok else '✘'}" for k, ok in enumerate(r.passed)]
        axes.set(yticks=at, yticklabels=names, title=textwrap.shorten(r.problem.title, 24, placeholder="…"))
        axes.set_xlabel(f"PRM score (takes {'ABCDEFGH'[r.machine]})")
        axes.invert_yaxis()
    return _finished(figure)
