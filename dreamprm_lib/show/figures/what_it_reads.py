"""Chapter 11: what the heads learn from, what they need, and which lines of a statement a program explains."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import dreamprm_lib.show.figures.primitives as draw


def explained_figure(lines: Sequence[str], gains: Sequence[float]) -> Figure:
    """The lines of a statement, tinted by how much likelier a passing program makes them than a failing one (blue), or
    less likely (orange); gains in nats."""
    most = max(np.abs(gains).max(), 1e-9)
    tints = [((0.0, 0.45, 0.7) if gain > 0 else (0.9, 0.62, 0.0)) + (0.7 * abs(gain) / most,) for gain in gains]
    figure, axes = draw.panel(0.9 + 0.19 * len(lines))
    draw.listing(axes, lines, tints, 84)
    total, clearest = sum(gains), int(np.argmax(np.abs(gains)))
    side = "passes" if total > 0 else "fails"
    figure.supxlabel("blue: likelier behind the program that passes; orange: less likely", fontsize=10)
    said = f"The program that {side} explains the statement better, by {abs(total):.1f} nats"
    part = textwrap.shorten(lines[clearest], 50, placeholder=" …")
    return draw.finished(figure, f"{said}; most of all “{part}” ({gains[clearest]:+.1f})")


def learning_figure(table: pd.DataFrame) -> Figure:
    """Held-out ranking over the number of problems that heads learn from, a panel for the programs of each.

    `table`: columns method, programs, problems, ranking, ci_low, ci_high, and `gain`, `gain_low`, `gain_high` on heads
    that learn from `half` as many problems.  The interval of the first method is drawn; one that learns from 0 problems
    is a level.
    """
    figure, grid = draw.panels(1, table.programs.nunique(), 3.8, sharey=True)
    levels = table[table.problems == 0]
    for (programs, part), axes in zip(table[table.problems > 0].groupby("programs", sort=False), grid[0], strict=True):
        for method, line in part.groupby("method", sort=False):
            color, marker = draw.method_style(method)
            axes.plot(line.problems, line.ranking, color=color, marker=marker, lw=2, ms=6)
            if method == table.method.iloc[0]:
                axes.fill_between(line.problems, line.ci_low, line.ci_high, color=color, alpha=0.12, lw=0)
        for level in levels.itertuples():
            axes.axhline(level.ranking, color=draw.method_style(level.method)[0], lw=1.5, ls="--")
        axes.set_xscale("log", base=2)
        axes.set_xticks(part.problems.unique(), part.problems.unique())
        axes.minorticks_off()
        axes.set(xlabel="problems that a head learns from", title=f"{programs} programs a problem")
    grid[0, 0].set_ylabel("within-problem ranking")
    looks = {method: draw.method_style(method) for method in table.method.unique()}
    draw.key(figure, {m: color for m, (color, _) in looks.items()}, {m: marker for m, (_, marker) in looks.items()})
    last = table[table.problems > 0].groupby("method", sort=False).tail(1)
    gains = ", ".join(f"{row.method} {row.gain:+.3f}" for row in last.itertuples())
    rising = ", ".join(last.method[last.gain_low > 0]) or "none"
    half, most = last.iloc[0][["half", "problems"]]
    return draw.finished(figure, f"From {half} to {most} problems: {gains}; still rising, clear of noise: {rising}")


def transfer_figure(table: pd.DataFrame) -> Figure:
    """Held-out ranking by kind of problem and by what the heads learned from, with 95 % intervals.

    `table`: columns kind, problems, heads, ranking, ci_low, ci_high, and `gain`, `gain_low`, `gain_high` on the first
    `heads`, which never saw the kind; the second ones did.  The last kind is all of them.
    """
    colors = dict(zip(table["heads"].unique(), (draw.BLUE, draw.GREEN, draw.ORANGE), strict=False))
    place = table["heads"].map(list(colors).index) - (len(colors) - 1) / 2
    rows = table.rename(columns={"ranking": "middle", "ci_low": "low", "ci_high": "high"}).assign(
        group="", panel="ranking", color=table["heads"].map(colors), shift=0.22 * place,
        label=[f"{row.kind} ({row.problems} mixed)" for row in table.itertuples()],
    )  # fmt: skip
    figure, (axes,) = draw.dot_figure(rows, {"ranking": "within-problem ranking on held-out problems (95 %)"}, 0.5)
    axes.axvline(0.5, color=draw.INK, lw=1, ls=":")
    draw.key(figure, colors)
    last = table[table["heads"] == list(colors)[1]].iloc[-1]
    said = "not told apart" if last.gain_low <= 0 <= last.gain_high else "a clear difference"
    gain = f"{last.gain:+.3f} ({last.gain_low:+.3f} to {last.gain_high:+.3f})"
    return draw.finished(figure, f"Heads that saw the kind gain {gain} on heads that never did: {said}")
