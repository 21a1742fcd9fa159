"""What all figures share: style, colours, and ways to draw a dot with its interval, the name of a line, a finding.

A figure is about 7 inches wide, so that its letters can still be read on a phone.  Its title says what was found, and
is computed; names are written next to what they name, and a key, where one is needed, below the panels.
"""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.core.getipython import get_ipython
from IPython.core.pylabtools import print_figure
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from dreamprm_lib.engine.files import DATA
from dreamprm_lib.engine.sandbox.comparison import short
from dreamprm_lib.evidence.statistics import counted
from dreamprm_lib.show.interrupts import explain_interrupts
from dreamprm_lib.show.methods import METHODS

WIDTH = 7.2  # inches
BLUE, ORANGE, GREEN, RED, PINK, BROWN, _, _, YELLOW, SKY = (
    mpl.colors.to_hex(c) for c in sns.color_palette("colorblind")
)
HUES = (BLUE, ORANGE, GREEN, RED, PINK, BROWN, SKY)
INK, GREY, PALE = "#222222", "#8a8a8a", "#dddddd"
METHOD_STYLE = {name: (about["color"], about["marker"]) for name, about in METHODS.items() if "color" in about}
OTHER_STYLE = (GREY, ".")


def use_style() -> None:
    """The house style: seaborn's white grid on white paper, text that stays text in SVG and PDF; in a notebook, figures
    have an alt text, and a cell that is interrupted says what is kept."""
    explain_interrupts()
    if (shell := get_ipython()) and shell.display_formatter:
        shell.display_formatter.mimebundle_formatter.for_type(Figure, described)
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.style.use(DATA / "house.mplstyle")


def described(figure: Figure, include=None, exclude=None) -> tuple[dict, dict]:
    """A figure as a notebook shows it, and for those who cannot see it its finding and its caption, as alt text."""
    said = ". ".join(" ".join(text.split()) for text in (figure.get_suptitle(), str(figure.get_label())) if text)
    png = print_figure(figure, bbox_inches="tight", base64=True)
    return {"image/png": png}, {"image/png": {"alt": said}}


def method_style(method: str) -> tuple[str, str]:
    """Colour and marker of a method, also where a table calls it `prm_cof, mse` or `mean-logprob`; grey for those that
    do not stand out."""
    return METHOD_STYLE.get(method.split(",")[0].replace("-", "_"), OTHER_STYLE)


def regime(samples: int) -> str:
    """What is said of selectors that ran so many public samples first."""
    return f"after {counted(samples, 'sample')}" if samples else "no sample run"


def percentage(share: float) -> str:
    """A share in whole percent, which no line break parts from its sign."""
    return f"{100 * share:.0f}\u00a0%"


def in_percent(axis: Axis) -> None:
    """Let an axis of shares be read in percent."""
    axis.set_major_formatter(PercentFormatter(1, 0))


def on_log_scale(axes: Axes, subs: Sequence[float] = (1,)) -> None:
    """Let the x axis be logarithmic, with numbers written out at these multiples of powers of ten."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def panels(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of the house's width and its grid of axes [rows, columns]."""
    return plt.subplots(rows, columns, figsize=(WIDTH, height), squeeze=False, layout="constrained", **options)


def panel(height: float) -> tuple[Figure, Axes]:
    """A figure of the house's width with a single panel."""
    figure, grid = panels(1, 1, height)
    return figure, grid[0, 0]


def finished(figure: Figure, finding: str = "") -> Figure:
    """The figure under its finding, taken from pyplot's list, so that a notebook shows it once: where it is the value
    of a cell."""
    if finding:
        letters = int(figure.get_figwidth() * 9.2)
        figure.suptitle(textwrap.fill(finding, letters), x=0.01, ha="left", fontsize=13, fontweight="bold")
    plt.close(figure)
    return figure


def dot(
    axes: Axes, at: float, value: float, low: float, high: float, color: str, upright: bool = False, **options: Any
) -> None:
    """A dot with its interval in the row `at`, or, if `upright`, at x = `at`; hollow with `mfc="white"`."""
    error = np.clip([[value - low], [high - value]], 0, None)
    marks: dict[str, Any] = {"fmt": "o", "ms": 7, "elinewidth": 2, "color": color, "zorder": 3} | options
    x, y, direction = (at, value, "yerr") if upright else (value, at, "xerr")
    axes.errorbar(x, y, **marks | {direction: error})


def dot_figure(table: pd.DataFrame, names: Mapping[Any, str], row_height: float = 0.3) -> tuple[Figure, list[Axes]]:
    """Rows of dots with intervals, under bold headings, a panel for each of `names` (the label of its x axis, by what
    the column `panel` says).

    `table`: columns group (the heading, may be empty), label, panel, middle, low, high, color; and, if there, `shift`
    down from the middle of the row, and `face`, the colour inside the dot.
    """
    ticks: dict[tuple[str, str], int] = {}
    headings = []
    for group, part in table.groupby("group", sort=False):
        if group:
            headings.append(len(ticks))
            ticks[group, ""] = len(ticks)
        ticks |= {(group, label): len(ticks) + k for k, label in enumerate(part.label.unique())}
    figure, grid = panels(1, len(names), 1.3 + row_height * len(ticks), sharey=True)
    by_panel = dict(zip(names, grid[0], strict=True))
    for row in table.itertuples():
        face = getattr(row, "face", row.color)
        at = ticks[row.group, row.label] + getattr(row, "shift", 0)
        dot(by_panel[row.panel], at, row.middle, row.low, row.high, row.color, mfc=face)
    for panel, axes in by_panel.items():
        axes.set(xlabel=names[panel], ylim=(len(ticks) - 0.4, -0.6))
    first = grid[0, 0]
    first.set_yticks(range(len(ticks)), [label or group for group, label in ticks])
    for k in headings:
        first.get_yticklabels()[k].set_fontweight("bold")
    return figure, list(grid[0])


def stacked(axes: Axes, table: pd.DataFrame, colors: Mapping, words: Callable[[Any, float], str]) -> None:
    """A bar a row, from the top down, of a part a column in its colour, with `words(column, length)` in each part."""
    table.plot.barh(stacked=True, width=0.6, color=[colors[c] for c in table], edgecolor="white", legend=False, ax=axes)
    for bars, column in zip(axes.containers, table, strict=True):
        ink = INK if sum(mpl.colors.to_rgb(colors[column])) > 1.8 else "white"
        labels = [words(column, length) for length in table[column]]
        axes.bar_label(bars, labels, label_type="center", color=ink, fontsize=11)  # type: ignore[arg-type]
    axes.invert_yaxis()
    axes.grid(False)


def end_labels(axes: Axes, ends: Iterable[tuple[str, float, float, str]]) -> None:
    """The names of lines to the right of a panel, where they end, moved apart where they would overlap.

    `ends`: name, x and y of the end, colour.  The limits of the axes must be set.
    """
    ends = sorted(ends, key=lambda end: end[2])
    inches = 0.75 * axes.bbox.height / axes.figure.dpi  # the layout takes its share later
    gap = 13 / (72 * inches)  # letters of ten points, with what is between lines
    to_share = axes.transScale + axes.transLimits
    heights = [float(to_share.transform((x, y))[1]) for _, x, y, _ in ends]
    for k in range(1, len(heights)):
        heights[k] = max(heights[k], heights[k - 1] + gap)
    ceiling = 1.0 + gap / 2
    for k in reversed(range(len(heights))):
        heights[k] = min(heights[k], ceiling)
        ceiling = heights[k] - gap
    for (name, x, y, color), height in zip(ends, heights, strict=True):
        leader = {"arrowstyle": "-", "color": color, "lw": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 4}
        leader["relpos"] = (0, 0.5)  # from the middle of the name's left side
        axes.annotate(
            name, (x, y), xytext=(1.04, height), textcoords="axes fraction", va="center", fontsize=10, color=color,
            annotation_clip=False, arrowprops=leader,
        )  # fmt: skip


def key(figure: Figure, colors: Mapping[str, str], markers: Mapping[str, str] | None = None, columns: int = 4) -> None:
    """What colours mean, below all panels."""
    marks = [
        Line2D([], [], color=color, marker=(markers or {}).get(name, "o"), ms=8, ls="none", label=name)
        for name, color in colors.items()
    ]
    figure.legend(handles=marks, loc="outside lower left", ncols=columns, fontsize=10, frameon=False, handletextpad=0.1)


def listing(axes: Axes, texts: Sequence[str], tints: Sequence, width: int) -> int:
    """Program texts line by line, a tinted band for each; the number of lines."""
    row = 0
    for text, tint in zip(texts, tints, strict=True):
        lines = text.rstrip("\n").split("\n")
        axes.axhspan(row, row + len(lines), color=tint, lw=0)
        for line in lines:
            axes.text(0.01, row + 0.5, short(line, width), family="monospace", fontsize=9, va="center", in_layout=False)
            row += 1
    axes.set(xlim=(0, 1), ylim=(row, 0))
    axes.axis("off")
    return row
