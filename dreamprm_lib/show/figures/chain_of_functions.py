"""Chapter 1, and wherever a program is shown: its steps, and what the prompt changes."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

import dreamprm_lib.show.figures.primitives as draw
from dreamprm_lib.evidence.statistics import counted, wilson_interval


def steps_figure(names: Sequence[str], texts: Sequence[str], scores: Sequence[float] | None = None) -> Figure:
    """A program taken apart: each step on its own band, coloured by its score in [0, 1] if `scores` is given."""
    lines = [text.rstrip("\n").count("\n") + 1 for text in texts]
    labels = [f"step {number}: {name}" for number, name in enumerate(names, 1)]
    figure, axes = draw.panel(0.2 * sum(lines) + 0.8)
    if scores is None:
        tints = [sns.light_palette(draw.HUES[k % len(draw.HUES)], 6)[1] for k in range(len(names))]
        finding = f"{counted(len(names), 'function')}, {counted(len(names), 'step')}"
    else:
        tints = [(*mpl.colormaps["RdYlBu"](score)[:3], 0.55) for score in scores]
        labels = [f"{label}  score {score:.2f}" for label, score in zip(labels, scores, strict=True)]
        low = int(np.argmin(scores))
        finding = f"Lowest score: {scores[low]:.2f}, for step {low + 1}, {names[low]}"
    draw.listing(axes, texts, tints, width=80)
    for label, row in zip(labels, np.cumsum([0, *lines]), strict=False):
        axes.text(0.995, row + 0.55, label, ha="right", va="center", fontsize=10, weight="bold")
    return draw.finished(figure, finding)


def prompt_comparison_figure(table: pd.DataFrame) -> Figure:
    """Steps a program and pass rate by prompt.  `table`: a row a program, with prompt, steps, passed."""
    prompts = table.groupby("prompt", sort=False)
    figure, grid = draw.panels(1, 2, 1.3 + 0.6 * len(prompts), sharey=True, width_ratios=(1.5, 1))
    left, right = grid[0]
    shares = pd.crosstab(table.prompt, table.steps.clip(upper=4), normalize="index").loc[table.prompt.unique()]
    said = []
    for y, (prompt, part) in enumerate(prompts):
        low, high = wilson_interval(part.passed.sum(), len(part))
        draw.dot(right, y, part.passed.mean(), float(low), float(high), draw.BLUE)
        chains, passing = (draw.percentage(share) for share in ((part.steps > 1).mean(), part.passed.mean()))
        said.append(f"{prompt}: {chains} chains, {passing} pass")
    names = [f"{prompt}\n({counted(len(part), 'program')})" for prompt, part in prompts]
    colors = {number: sns.light_palette(draw.BLUE, 6)[number] for number in shares}
    kinds = {1: "1", 2: "2", 3: "3", 4: "4+"}
    draw.stacked(left, shares.set_axis(names), colors, lambda number, share: kinds[number] if share > 0.06 else "")
    left.set(xlabel="programs, by their number of steps", xlim=(0, 1))
    right.set(xlabel="programs that pass (95 %)", xlim=(0, 1))
    for axes in (left, right):
        draw.in_percent(axes.xaxis)
    return draw.finished(figure, "; ".join(said))
