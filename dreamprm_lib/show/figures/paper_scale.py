"""Chapter 7: what was published, what it takes to tell methods apart, and what the released code does."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from scipy.stats import binomtest

import dreamprm_lib.show.figures.primitives as draw
from dreamprm_lib.evidence.statistics import counted
from dreamprm_lib.paper_scale import PLACES

PLACE_COLOR = dict(zip(PLACES, (draw.GREEN, draw.YELLOW, draw.ORANGE, draw.RED, draw.GREY), strict=True))


def published_figure(published: pd.DataFrame) -> Figure:
    """The published overall pass rates with exact 95 % binomial intervals.  Columns: method, solved, problems."""
    spans = [binomtest(row.solved, row.problems).proportion_ci(0.95) for row in published.itertuples()]
    rows = published.assign(
        group="", label=published.method, panel="solved", middle=published.solved / published.problems, color=draw.BLUE,
        low=[span.low for span in spans], high=[span.high for span in spans],
    )  # fmt: skip
    figure, (axes,) = draw.dot_figure(rows, {"solved": "problems solved, overall (95 % intervals added here)"}, 0.42)
    for y, row in enumerate(rows.itertuples()):
        axes.annotate(f"{row.solved} / {row.problems}", (row.high, y), xytext=(6, 0), textcoords="offset points",
                      va="center", fontsize=10)  # fmt: skip
    axes.margins(x=0.15)
    draw.in_percent(axes.xaxis)
    first, second = published.nlargest(2, "solved").itertuples()
    ahead = f"{counted(first.solved - second.solved, 'problem')} of {first.problems}"
    return draw.finished(figure, f"Published on LiveCodeBench: {first.method} is {ahead} ahead of {second.method}")


def costs_figure(costs: pd.DataFrame) -> Figure:
    """What a policy writes, by kind of work, on a logarithmic axis.  Columns: work, tokens, profile."""
    works, profiles = list(costs.work.unique()), list(costs.profile.unique())
    figure, axes = draw.panel(1.6 + 0.5 * len(works))
    for row in costs.itertuples():
        number, y = profiles.index(row.profile), works.index(row.work)
        color = draw.HUES[number]
        axes.plot(row.tokens, y, "o", color=color, ms=9, alpha=0.9)
        axes.annotate(f"{row.tokens:,.0f}", (row.tokens, y), xytext=(0, -18 if number % 2 else 8),
                      textcoords="offset points", ha="center", fontsize=9, color=color)  # fmt: skip
    draw.on_log_scale(axes)
    axes.set(yticks=range(len(works)), yticklabels=works, ylim=(len(works) - 0.5, -0.7))
    axes.set(xlabel="tokens that the policy writes (log scale)")
    axes.margins(x=0.12)
    draw.key(figure, dict(zip(profiles, draw.HUES, strict=False)))
    most = costs[costs.profile == profiles[0]]
    row = most.loc[most.tokens.idxmax()]
    share = draw.percentage(row.tokens / most.tokens.sum())
    return draw.finished(figure, f"{profiles[0]}: {share} of all tokens {row.work}")


def cuts_figure(texts: Sequence[str], cuts: Sequence[int], parse: Sequence[bool]) -> Figure:
    """A program by its functions, a band each, and where prefixes end: `cuts` count lines, `parse` says which parse."""
    figure, axes = draw.panel(0.2 * "".join(texts).count("\n") + 0.8)
    tints = [sns.light_palette(draw.HUES[k % len(draw.HUES)], 6)[1] for k in range(len(texts))]
    total = draw.listing(axes, texts, tints, width=72)
    for k, (cut, good) in enumerate(zip(cuts, parse, strict=True)):
        y, color = min(cut, total), draw.BLUE if good else draw.RED
        axes.plot([0, 1], [y, y], color=color, lw=1.5, ls="-" if good else "--")
        words = f"prefix {k + 1} ends here" + ("" if good else ", does not parse")
        axes.text(0.995, y - 0.5, words, ha="right", va="center", fontsize=9, color=color, weight="bold",
                  bbox={"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.5})  # fmt: skip
    axes.set_ylim(total + 0.3, 0)
    return draw.finished(figure, f"{len(texts)} functions, {len(cuts)} prefixes, of which {sum(parse)} parse")


def places_figure(prefixes: pd.DataFrame) -> Figure:
    """Prefixes a program by where they end, a bar a splitter.  Columns: splitter, program, place."""
    counts = prefixes.groupby(["splitter", "place"]).size().unstack(fill_value=0)
    counts = counts.div(prefixes.groupby("splitter").program.nunique(), axis=0)
    shown = {place: color for place, color in PLACE_COLOR.items() if place in counts}
    figure, axes = draw.panel(1.8 + 0.5 * len(counts))
    draw.stacked(axes, counts[list(shown)], shown, lambda _, width: f"{width:.1f}" if width > 0.15 else "")
    axes.set(xlabel="prefixes a program (mean)", ylabel="")
    draw.key(figure, shown, columns=3)
    inside = prefixes.groupby("splitter").place.apply(lambda places: places.isin(PLACES[1:4]).mean())
    worst = inside.idxmax()
    return draw.finished(figure, f"{worst}: {draw.percentage(inside[worst])} of its prefixes end within a function")


def pulls_figure(value: float, label: float, weights: Sequence[float], labels: Sequence[float]) -> Figure:
    """What a row does to its score: the slope w (y - p) of cross-entropy by the logit, for several weights at one
    label, and for several labels at weight 1.  All but the weights lie in [0, 1]."""
    score = np.linspace(0, 1, 101)
    figure, grid = draw.panels(1, 2, 3.6, sharey=True)
    rows = ([(f"weight {w:g}", w * (label - score)) for w in weights], [(f"label {y:g}", y - score) for y in labels])
    titles = (f"Label {label:g}, several weights", "Weight 1, several labels")
    for axes, lines, title in zip(grid[0], rows, titles, strict=True):
        for (_, pull), color in zip(lines, draw.HUES, strict=False):
            axes.plot(score, pull, color=color, lw=2.5)
        axes.axhline(0, color=draw.INK, lw=1, zorder=1)
        axes.axvline(value, color="#555555", lw=1, ls="--")
        axes.set(xlabel=f"score (dashed: true value {value:g})", xlim=(0, 1), title=title)
    for axes, lines in zip(grid[0], rows, strict=True):
        axes.set_ylim(axes.get_ylim())
        ends = [(name, 1.0, pull[-1], color) for (name, pull), color in zip(lines, draw.HUES, strict=False)]
        draw.end_labels(axes, ends)
    grid[0, 0].set(ylabel="pull on the logit (up > 0)")
    return draw.finished(figure, "A weight scales the pull of a row; only a label moves the score at which it rests")


def power_figure(curves: pd.DataFrame, marked: int) -> Figure:
    """Power against the number of problems, a panel a share of discordant problems, a line a gain; `marked` problems
    are marked.  Columns: gain, discordance, problems, power."""
    parts = list(curves.groupby("discordance"))
    figure, grid = draw.panels(len(parts), 1, 1.2 + 2.1 * len(parts), sharex=True, sharey=True)
    for axes, (discordance, panel) in zip(grid[:, 0], parts, strict=True):
        ends = []
        for color, (gain, part) in zip(draw.HUES, panel.groupby("gain"), strict=False):
            axes.plot(part.problems, part.power, color=color, lw=2)
            ends.append((f"gain {100 * gain:.3g}", part.problems.iloc[-1], part.power.iloc[-1], color))
        axes.axhline(0.8, color="#999999", lw=1, ls="--")
        axes.axvline(marked, color=draw.INK, lw=1, ls=":")
        draw.on_log_scale(axes)
        title = f"{draw.percentage(discordance)} discordant"
        axes.set(ylim=(0, 1.05), ylabel="power", xlim=axes.get_xlim(), title=title)
        draw.end_labels(axes, ends)
    grid[-1, 0].set(xlabel=f"test problems (dotted: {marked}; dashed: power 0.8)")
    return draw.finished(figure, _power_at(curves, marked))


def _power_at(curves: pd.DataFrame, marked: int) -> str:
    """The chance that the smallest gain is seen with about so many problems, at best."""
    smallest = curves[curves.gain == curves.gain.min()]
    near = smallest.loc[(smallest.problems - marked).abs().groupby(smallest.discordance).idxmin()]
    best, points = draw.percentage(near.power.max()), f"{100 * curves.gain.min():.3g}"
    gain = f"a true gain of {points} point{'s' * (points != '1')}"
    return f"With {marked} problems {gain} is seen {best} of the time at best"
