"""Chapter 1, and wherever a program is shown: its steps, and what the prompt changes."""

from __future__ import annotations

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
    figure, grid = draw.panels(1, 1, 0.2 * sum(lines) + 0.8)
    if scores is None:
        tints = [sns.light_palette(draw.HUES[k % len(draw.HUES)], 6)[1] for k in range(len(names))]
        finding = f"{counted(len(names), 'function')}, {counted(len(names), 'step')}"
    else:
        tints = [(*mpl.colormaps["RdYlBu"](score)[:3], 0.55) for score in scores]
        low = int(np.argmin(scores))
        finding = f"Lowest score: {scores[low]:.2f}, for step {low + 1}, {names[low]}"
    draw.listing(grid[0, 0], texts, tints, width=80)
    row = 0
    for k, (name, height) in enumerate(zip(names, lines, strict=True)):
        value = "" if scores is None else f"  score {scores[k]:.2f}"
        grid[0, 0].text(
            0.995, row + 0.55, f"step {k + 1}: {name}{value}", ha="right", va="center", fontsize=10, weight="bold"
        )
        row += height
    return draw.finished(figure, finding)


def prompt_comparison_figure(table: pd.DataFrame) -> Figure:
    """Steps a program and pass rate by prompt.  `table`: a row a program, with prompt, steps, passed."""
    prompts = list(table.prompt.unique())
    figure, grid = draw.panels(1, 2, 1.3 + 0.6 * len(prompts), sharey=True, width_ratios=(1.5, 1))
    left, right = grid[0]
    said = []
    for y, prompt in enumerate(prompts):
        part = table[table.prompt == prompt]
        steps, start = part.steps.clip(upper=4), 0.0
        for number, share in steps.value_counts(normalize=True).sort_index().items():
            tint = sns.light_palette(draw.BLUE, 6)[int(number)]
            left.barh(y, share, left=start, height=0.6, color=tint, edgecolor="white")
            if share > 0.06:
                words = f"{number}+" if number == 4 else f"{number}"
                ink = "white" if number > 2 else draw.INK
                left.text(start + share / 2, y, words, ha="center", va="center", color=ink, fontsize=11)
            start += share
        low, high = wilson_interval(part.passed.sum(), len(part))
        draw.dot(right, y, part.passed.mean(), float(low), float(high), draw.BLUE)
        chains, passing = (draw.percentage(share) for share in ((part.steps > 1).mean(), part.passed.mean()))
        said.append(f"{prompt}: {chains} chains, {passing} pass")
    names = [f"{prompt}\n({counted(int((table.prompt == prompt).sum()), 'program')})" for prompt in prompts]
    left.set_yticks(range(len(prompts)), names)
    left.set(xlabel="programs, by their number of steps", xlim=(0, 1), ylim=(len(prompts) - 0.5, -0.5))
    right.set(xlabel="programs that pass (95 %)", xlim=(0, 1))
    for axes in (left, right):
        draw.in_percent(axes.xaxis)
    left.grid(False)
    return draw.finished(figure, "; ".join(said))
