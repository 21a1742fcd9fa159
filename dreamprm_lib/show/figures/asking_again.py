"""Chapter 12: how good the tests of a policy are, and what becomes of programs that it repairs."""

import pandas as pd
from matplotlib.figure import Figure

import dreamprm_lib.show.figures.primitives as draw
from dreamprm_lib.evidence.statistics import counted


def right_tests_figure(table: pd.DataFrame) -> Figure:
    """The share of written tests whose output is right, by difficulty, with 95 % intervals over problems.

    `table`: columns difficulty, problems, tests, right, ci_low, ci_high; the last row is all problems.
    """
    rows = table.rename(columns={"right": "middle", "ci_low": "low", "ci_high": "high"}).assign(
        group="", panel="right", color=draw.BLUE,
        label=[f"{row.difficulty} ({counted(row.tests, 'test')})" for row in table.itertuples()],
    )  # fmt: skip
    figure, (axes,) = draw.dot_figure(rows, {"right": "tests whose expected output is right (95 %)"}, 0.45)
    axes.set_xlim(0, 1)
    draw.in_percent(axes.xaxis)
    every = table.iloc[-1]
    interval = f"({100 * every.ci_low:.0f} to {draw.percentage(every.ci_high)})"
    return draw.finished(figure, f"The policy knows the right output of {draw.percentage(every.right)} {interval} "
                                 "of its own tests")  # fmt: skip


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
