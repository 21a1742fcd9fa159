"""Chapter 4: what was chosen, how well it ranks, and whether its scores come true."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

import dreamprm_lib.show.figures.primitives as draw
from dreamprm_lib.evidence.statistics import counted


def choice_figure(table: pd.DataFrame, x: str, hue: str, chosen: Mapping[str, Any]) -> Figure:
    """Cross-validated within-problem ranking, with the interval of the chosen line.

    `table`: columns x, hue, ranking, ci_low, ci_high.
    """
    figure, axes = draw.panel(4)
    ends = []
    for name, part in table.groupby(hue, sort=False):
        color, width, band = (draw.BLUE, 2.5, 0.12) if name == chosen[hue] else (draw.GREY, 1, 0)
        axes.plot(part[x], part.ranking, "o-", color=color, lw=width, ms=4)
        axes.fill_between(part[x], part.ci_low, part.ci_high, color=color, alpha=band, lw=0)
        ends.append((f"{hue} {name}", part[x].iloc[-1], part.ranking.iloc[-1], color))
    axes.axhline(0.5, color=draw.INK, lw=1, ls=":")
    axes.annotate("chance", (table[x].min(), 0.5), xytext=(0, 4), textcoords="offset points", fontsize=10)
    axes.axvline(chosen[x], color=draw.BLUE, lw=1, ls="--")
    axes.set(xlabel=x, xticks=table[x].unique(), ylabel="within-problem ranking")
    axes.set(ylim=axes.get_ylim(), xlim=axes.get_xlim())
    draw.end_labels(axes, ends)
    best = table[(table[x] == chosen[x]) & (table[hue] == chosen[hue])].ranking.iloc[0]
    said = ", ".join(f"{name} {value}" for name, value in chosen.items())
    return draw.finished(figure, f"Chosen without the test split: {said}, with a ranking of {best:.2f} (chance: 0.50)")


def ranking_figure(table: pd.DataFrame) -> Figure:
    """Within-problem ranking by method, with 95 % intervals.  `table`: columns method, ranking, ci_low, ci_high."""
    rows = table.rename(columns={"method": "label", "ranking": "middle", "ci_low": "low", "ci_high": "high"})
    rows = rows.assign(group="", panel="ranking", color=[draw.method_style(m)[0] for m in table.method])
    figure, (axes,) = draw.dot_figure(rows, {"ranking": "within-problem ranking on held-out problems (95 %)"}, 0.4)
    axes.axvline(0.5, color=draw.INK, lw=1, ls=":")
    axes.annotate("chance", (0.5, -0.5), xytext=(4, 0), textcoords="offset points", va="center", fontsize=10)
    best = table.sort_values("ranking").iloc[-1]
    within = int((table.ranking >= best.ci_low).sum()) - 1
    others = counted(len(table) - 1, "other")
    said = f"{best.method} ranks best, {best.ranking:.2f}"
    return draw.finished(figure, f"{said}; {within} of {others} lie in its interval")


def pairs_figure(pairs: Mapping[str, Sequence[tuple[Sequence[str], Sequence[float]]]]) -> Figure:
    """Pairs of programs, the passing one left and the failing one right; each is its steps' texts and their scores.

    `pairs`: by what is said above each.
    """
    rows = [max(sum(t.rstrip("\n").count("\n") + 1 for t in texts) for texts, _ in pair) for pair in pairs.values()]
    figure, grid = draw.panels(len(pairs), 2, 0.8 + sum(0.4 + 0.18 * n for n in rows), height_ratios=rows)
    for (said, pair), line, lines in zip(pairs.items(), grid, rows, strict=True):
        for (texts, scores), axes, verdict in zip(pair, line, ("passes", "fails"), strict=True):
            draw.listing(axes, texts, [(*mpl.colormaps["RdYlBu"](s)[:3], 0.55) for s in scores], width=46)
            axes.set_ylim(lines, 0)
            steps = ", ".join(f"{score:.2f}" for score in scores)
            axes.set_title(f"{said}: {verdict}\nscores {steps}", fontsize=10, loc="left")
    figure.supxlabel("scores of steps: red is low, blue is high", fontsize=10)
    ends = {name: (good[1][-1], bad[1][-1]) for name, (good, bad) in pairs.items()}
    findings = [
        f"{'caught' if good > bad else 'missed'} in {name} ({bad:.2f}, the passing one {good:.2f})"
        for name, (good, bad) in ends.items()
    ]
    return draw.finished(figure, f"The failing program is {'; '.join(findings)}")


def calibration_figure(curves: Mapping[str, pd.DataFrame], errors: pd.DataFrame) -> Figure:
    """Left: what scores promise and what comes of them.  Right: calibration error by group.

    `curves`: for `before` and `after` (or for methods), the table of `reward_model.reliability`; `errors`: columns
    group, steps, when, error.
    """
    spare = iter((draw.BLUE, draw.ORANGE, draw.PINK))
    colors = {
        when: draw.GREY if when.endswith("if true") else draw.METHOD_STYLE.get(when, (next(spare),))[0]
        for when in errors.when.unique()
    }
    figure, grid = draw.panels(1, 2, 4.2, width_ratios=(1.1, 1))
    left, right = grid[0]
    left.plot([0, 1], [0, 1], color=draw.INK, lw=1, ls=":")
    for when, table in curves.items():
        left.plot(table.score, table.outcome, "-", color=colors[when], lw=1)
        area = 10 + 500 * table.rows / table.rows.sum()
        left.scatter(table.score, table.outcome, s=area, color=colors[when], zorder=3, alpha=0.8)
    left.set(xlabel="mean step score (area: steps)", ylabel="programs that pass")
    left.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), title="Reliability")
    rows = errors.group + " (" + errors.steps.astype(str) + ")"
    for when, part in errors.groupby("when", sort=False):
        right.plot(part.error, rows[part.index], "o", color=colors[when], ms=8, alpha=0.85)
    right.set(xlabel="expected calibration error", title="By group (steps)", ylim=(rows.nunique() - 0.5, -0.5))
    right.set_xlim(0, 1.1 * max(errors.error.max(), 0.01))
    draw.key(figure, colors)
    first = errors[errors.group == errors.group.iloc[0]]
    said = ", ".join(f"{row.when} {row.error:.2f}" for row in first.itertuples())
    return draw.finished(figure, f"Calibration error of {errors.group.iloc[0]}: {said}")
