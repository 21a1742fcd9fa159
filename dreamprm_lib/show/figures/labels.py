"""Chapter 2: how Monte-Carlo labels are spread, how noisy they are, and where rollouts are spent."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import binom

import dreamprm_lib.show.figures.primitives as draw
from dreamprm_lib.evidence.statistics import counted, mean_with_interval
from dreamprm_lib.study.rows import StepLabel

FIRST_STEPS = 5  # further steps are too few for a mean


def labels_figure(labels: Sequence[StepLabel]) -> Figure:
    """Left: how labels are spread, those from rollouts and the clean ones of last steps apart.  Right: labels of
    chains, step by step, by outcome."""
    table = pd.DataFrame([(x.label, x.clean, x.step + 1, f"{x.problem}/{x.sample}") for x in labels])
    table.columns = pd.Index(["label", "clean", "step", "program"])
    table["passes"] = table.program.map(table[table.clean].set_index("program").label.gt(0.5))
    figure, grid = draw.panels(1, 2, 3.6)
    left, right = grid[0]
    from_rollouts = table.label[~table.clean]
    left.hist([from_rollouts, table.label[table.clean]], np.linspace(-0.05, 1.05, 12), color=[draw.BLUE, draw.GREY])
    left.set(xlabel="label (share of rollouts that pass)", ylabel="steps", title=counted(len(labels), "label"))
    ends = []
    first = table[table.step <= FIRST_STEPS]
    for passes, part in first.groupby("passes"):
        name, color = ("program\npasses", draw.GREEN) if passes else ("program\nfails", draw.RED)
        means = part.groupby("step").label.mean()
        right.plot(means.index, means, color=color, lw=1.5)
        for step, values in part.groupby("step").label:
            draw.dot(right, step, *mean_with_interval(values), color, upright=True)
        ends.append((name, means.index[-1], means.iloc[-1], color))
    right.set(xlabel="step", ylabel="mean label (95 %)", ylim=(-0.03, 1.05), title="Value along the chain")
    right.set_xticks(range(1, first.step.max() + 1))
    draw.end_labels(right, ends)
    draw.key(figure, {"from rollouts": draw.BLUE, "last step: the verdict": draw.GREY})
    extreme = from_rollouts.isin([0, 1]).mean() if len(from_rollouts) else 0
    said = f"{draw.percentage(extreme)} of the labels from rollouts are 0 or 1"
    return draw.finished(figure, f"{said}, as all verdicts are")


def noise_figure(few: np.ndarray, many: np.ndarray, n_few: int, n_many: int) -> Figure:
    """Labels from few rollouts against those from many, same prefixes, with the binomial band that noise explains."""
    figure, axes = draw.panel(4.8)
    values = np.linspace(0, 1, 101)
    band = 1.96 * np.sqrt(values * (1 - values) * (1 / n_few - 1 / n_many))
    axes.fill_between(values, values - band, values + band, color=draw.PALE)
    axes.annotate("95 % of what\nnoise explains", (0.5, 0.5 - band[50]), xytext=(0.62, 0.03), color="#555555",
                  arrowprops={"arrowstyle": "-", "color": "#999999"})  # fmt: skip
    shift = np.random.default_rng(0).uniform(-0.015, 0.015, (2, len(few)))
    axes.plot(many + shift[0], few + shift[1], "o", alpha=0.6, color=draw.BLUE)
    axes.plot([0, 1], [0, 1], color=draw.INK, lw=1)
    axes.set(xlabel=f"label from {n_many} rollouts", ylabel=f"label from the first {n_few}")
    axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
    gap = np.abs(few - many).mean()
    words = f"{counted(len(few), 'prefix', 'prefixes')}: the label from {counted(n_few, 'rollout')} is off by {gap:.2f}"
    return draw.finished(figure, f"{words} on average (against {n_many})")


def distribution_grid(rollouts: Sequence[int], value: float) -> Figure:
    """The exact distribution of a label around the true value, and one standard deviation to either side, for several
    numbers of rollouts."""
    figure, grid = draw.panels(1, len(rollouts), 3, sharey=True)
    said = []
    for axes, n in zip(grid[0], rollouts, strict=True):
        label = binom(n, value)
        axes.bar(np.arange(n + 1) / n, label.pmf(np.arange(n + 1)), width=0.6 / max(n, 4), color=draw.BLUE, zorder=2)
        axes.axvspan(value - label.std() / n, value + label.std() / n, color=draw.PALE, zorder=1)
        axes.axvline(value, color=draw.RED, lw=2)
        axes.set(xlabel=f"label (line: true value {value:.2f})", xlim=(-0.1, 1.1), title=counted(n, "rollout"))
        said.append(f"{label.std() / n:.2f} after {counted(n, 'rollout')}")
    grid[0, 0].set(ylabel="probability")
    return draw.finished(figure, f"A label of a prefix of value {value:g} is typically off by {', '.join(said)}")


def allocation_figure(table: pd.DataFrame, at: int, share: tuple[float, float, float]) -> Figure:
    """Squared error of labels by rollouts a prefix, a line and a 95 % band a way of spending them; and an arrow at the
    error of `at` rollouts spread evenly, to the `share` of them that gives the same error (with its interval).

    `table`: columns rollouts, method, mse, mse_low, mse_high.
    """
    figure, axes = draw.panel(4.4)
    colors = dict(zip(table.method.unique(), (draw.BLUE, draw.GREEN, draw.GREY), strict=False))
    ends = []
    for method, part in table.groupby("method", sort=False):
        axes.plot(part.rollouts, part.mse, "o-", color=colors[method])
        axes.fill_between(part.rollouts, part.mse_low, part.mse_high, color=colors[method], alpha=0.12, lw=0)
        ends.append((method, part.rollouts.iloc[-1], part.mse.iloc[-1], colors[method]))
    error = table[(table.method == "evenly") & (table.rollouts == at)].mse.iloc[0]
    arrow = {"arrowstyle": "->", "color": draw.INK, "lw": 1.5}
    axes.annotate("", (at * share[0], error), xytext=(at, error), arrowprops=arrow)
    axes.set(xlabel="rollouts a prefix, on average", ylabel="squared label error (95 % over problems)")
    axes.set_ylim(0, 1.4 * table[table.method == "evenly"].mse_high.max())
    draw.end_labels(axes, ends)
    shares = [draw.percentage(part) for part in share]
    said = f"Spent where they matter, {shares[0]} of the rollouts ({shares[1]} to {shares[2]}) give the error"
    return draw.finished(figure, f"{said} of {counted(at, 'rollout')} a prefix")
