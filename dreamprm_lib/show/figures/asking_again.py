"""Chapter 12: what becomes of programs that a policy repairs."""

import pandas as pd
from matplotlib.figure import Figure

import dreamprm_lib.show.figures.primitives as draw
from dreamprm_lib.evidence.statistics import counted

FATES = {  # of a repaired program
    "right": draw.BLUE,
    "passes the samples alone": draw.SKY,
    "still fails a sample": draw.ORANGE,
    "the same program again": draw.PALE,
}


def repairs_figure(table: pd.DataFrame) -> Figure:
    """What became of repaired programs, a bar for each way in which they failed, the first row for all of them.

    `table`: a row a way of failing, a column for each of `FATES`, numbers of programs.
    """
    counts = table[list(FATES)]
    total = counts.sum(axis=1)
    shares = counts.div(total, axis=0)
    shares.index = [f"{name}\n({counted(total[name], 'program')})" for name in counts.index]
    figure, axes = draw.panel(1.3 + 0.75 * len(counts))
    draw.stacked(axes, shares, FATES, lambda _, share: draw.percentage(share) if share > 0.06 else "")
    draw.in_percent(axes.xaxis)
    axes.set(xlim=(0, 1), xlabel="repaired programs", ylabel="")
    draw.key(figure, FATES, columns=2)
    every = counts.iloc[0]
    said = f"Of {counted(total.iloc[0], 'failing program')}, {every['right']} became right, and"
    return draw.finished(figure, f"{said} {every['the same program again']} came back unchanged")
