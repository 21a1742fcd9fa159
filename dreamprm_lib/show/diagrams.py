"""Schematic drawings of the course: each shows one mechanism, and its title says what to see in it.

All of them are made of the few pieces at the top: boxes, tiles, arrows and brackets on a white canvas ten units wide.
At the width of a phone (390 pixels) their letters are still eight pixels high.  A drawing takes real data where there
are any, so what it shows is what the cells beside it compute.  Charts with axes are in `show.figures`.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from scipy import stats

from dreamprm_lib.evidence.statistics import mcnemar

INK, GREY, BLUE, ORANGE, GREEN, RED = "#222222", "#707070", "#0072b2", "#e69f00", "#009e73", "#d55e00"  # Okabe and Ito
STEP_COLORS = (BLUE, ORANGE, GREEN, "#cc79a7", "#56b4e9", GREY)
WIDTH, INCHES, LETTERS = 10.0, 6.4, 11  # of a canvas: units, inches, points
PALE, FULL = 0.16, 0.42  # how much of its colour fills a box
FONT: dict[str, Any] = {"family": "DejaVu Sans", "fontsize": LETTERS, "color": INK, "linespacing": 1.15, "zorder": 2}
FONT |= {"ha": "center", "va": "center"}
CODE: dict[str, Any] = {"family": "DejaVu Sans Mono"}
SMALL: dict[str, Any] = {"fontsize": LETTERS - 1}

Point = tuple[float, float]


# ------------------------------------------------------------------------------------------------- pieces


def canvas(title: str, height: float) -> tuple[Figure, Axes]:
    """White paper, `WIDTH` units wide and `height` units high under its title; (0, 0) is the lower left corner."""
    lines = textwrap.wrap(title.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"), 60)
    total = height + 0.36 * len(lines) + 0.2
    figure = plt.figure(figsize=(INCHES, INCHES * total / WIDTH), facecolor="white")
    plt.close(figure)  # a notebook shows it once: where it is the value of a cell
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, total))
    axes.axis("off")
    write(axes, 0.1, total - 0.05, "\n".join(lines), ha="left", va="top", weight="bold", fontsize=LETTERS + 1)
    return figure, axes


def write(axes: Axes, x: float, y: float, text: str, **font: Any) -> None:
    """Text in the drawings' letters, around (x, y) unless it is said otherwise."""
    axes.text(x, y, text, **FONT | font)


def line(axes: Axes, x: Sequence[float], y: Sequence[float], color: str = INK, width: float = 1.6) -> None:
    """A line through points."""
    axes.plot(x, y, color=color, lw=width, solid_capstyle="butt", zorder=2)


def tint(color: str, share: float) -> tuple[float, ...]:
    """A colour mixed with white: `share` of it is left."""
    return tuple(1 - share * (1 - part) for part in to_rgb(color))


def box(
    axes: Axes, corner: Point, size: Point, text: str = "", color: str = GREY, fill: float = PALE, **font: Any
) -> None:
    """A rounded box with text in it; `fill` is the share of its colour in it, and a FULL one has a thick edge."""
    axes.add_patch(
        FancyBboxPatch(
            corner, *size, edgecolor=color, facecolor=tint(color, fill), lw=2.6 if fill == FULL else 1.3, zorder=2,
            boxstyle="round,pad=0,rounding_size=0.09",
        )
    )  # fmt: skip
    write(axes, corner[0] + size[0] / 2, corner[1] + size[1] / 2, text, **font)


def tile(axes: Axes, x: float, y: float, passed: bool, side: float = 0.44, fill: float = PALE) -> None:
    """A small square around (x, y): a program that passes or fails."""
    mark, color = ("✓", BLUE) if passed else ("✗", RED)
    box(axes, (x - side / 2, y - side / 2), (side, side), "", color, fill)
    write(axes, x, y, mark, color=color, weight="bold")


def arrow(axes: Axes, start: Point, end: Point, color: str = INK, bend: float = 0, dash: str = "-") -> None:
    """An arrow from start to end; `bend` curves it to the right."""
    style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 13, "shrinkA": 1, "shrinkB": 1, "linestyle": dash}
    axes.add_patch(
        FancyArrowPatch(start, end, color=color, lw=1.5, zorder=2, connectionstyle=f"arc3,rad={bend}", **style)
    )


def arrows(axes: Axes, *ways: tuple[float, float, float, float]) -> None:
    """Arrows, each from its first point (x, y) to its second."""
    for x0, y0, x1, y1 in ways:
        arrow(axes, (x0, y0), (x1, y1))


def bracket(axes: Axes, start: Point, end: Point, text: str, color: str = INK, tick: float = 0.14) -> None:
    """A bracket along a vertical line, its text to the right, or along a horizontal one, its text below."""
    (x0, y0), (x1, y1) = start, end
    upright = x0 == x1
    dx, dy = (-tick, 0) if upright else (0, tick)
    line(axes, [x0 + dx, x0, x1, x1 + dx], [y0 + dy, y0, y1, y1 + dy], color)
    if upright:
        write(axes, x0 + 0.12, (y0 + y1) / 2, text, ha="left", color=color)
    else:
        write(axes, (x0 + x1) / 2, y0 - 0.1, text, va="top", color=color)


def strip(axes: Axes, x: float, top: float, width: float, names: Sequence[str], heights: Sequence[float]) -> None:
    """A program as a strip of its functions, from the top down."""
    for k, (name, height) in enumerate(zip(names, heights, strict=True)):
        top -= height
        text = textwrap.shorten(name, 26, placeholder="…")
        box(axes, (x, top + 0.03), (width, height - 0.06), text, STEP_COLORS[k % len(STEP_COLORS)], **CODE)


# ------------------------------------------------------------------------------------------------- the whole

STATIONS = {  # chapter: its box, where that lies, and what the chapter does
    1: ("programs\nas steps", 0.1, 2.0, "cuts programs into steps"),
    2: ("labels by\nrollouts", 2.1, 2.0, "gives each step a label"),
    3: ("candidate\nprograms", 2.1, 0.2, "makes the pool to choose from"),
    4: ("reward\nmodel", 4.1, 2.0, "learns to score steps"),
    5: ("label\ncorrection", 6.1, 2.0, "repairs labels with clean outcomes"),
    6: ("the best\nof N", 4.1, 0.2, "picks one of N candidates"),
    7: ("choosing\nby running", 6.1, 0.2, "runs the candidates and compares their answers"),
    8: ("cost and\nsearch", 8.1, 0.2, "counts the cost, and lets the model search"),
    9: ("what it\nproves", 8.1, 2.0, "asks what published numbers prove"),
}


def pipeline(chapter: int) -> Figure:
    """The stations of the course, with the one of `chapter` marked; 0 marks none."""
    here = f"You are here: chapter {chapter} {STATIONS[chapter][-1]}" if chapter else "The whole course on one map"
    figure, axes = canvas(here, 3.6)
    for number, (text, x, y, _) in STATIONS.items():
        color, fill = (ORANGE, FULL) if number == chapter else (BLUE, PALE)
        box(axes, (x, y), (1.7, 1.2), f"{number}  {text}", color, fill)
    arrows(axes, (1.8, 2.6, 2.1, 2.6), (3.8, 2.6, 4.1, 2.6), (6.1, 2.9, 5.8, 2.9), (5.8, 2.3, 6.1, 2.3))
    arrows(axes, (3.8, 0.8, 4.1, 0.8), (5.8, 0.8, 6.1, 0.8), (7.8, 0.8, 8.1, 0.8), (4.95, 2.0, 4.95, 1.4))
    arrow(axes, (8.95, 1.4), (8.95, 2.0))
    write(axes, 0.1, 3.4, "training problems", ha="left", style="italic", color=GREY)
    write(axes, 0.1, 0.8, "test problems,\nnever trained on", ha="left", style="italic", color=GREY)
    return figure


# ------------------------------------------------------------------------------------------------- chapters 0 to 3


def chat_prompt(roles: Sequence[str], texts: Sequence[str]) -> Figure:
    """The messages of a prompt, from the first to the prefill, each with the beginning of its text."""
    figure, axes = canvas("The model goes on where the prompt ends, so we write its first words", 0.78 * len(roles))
    for k, (role, text) in enumerate(zip(roles, texts, strict=True)):
        y, last = 0.78 * (len(roles) - 1 - k), k == len(roles) - 1
        color, fill = (ORANGE, FULL) if last else (GREY, PALE)
        box(axes, (0.1, y + 0.08), (2.1, 0.62), role, color, fill)
        box(axes, (2.35, y + 0.08), (7.5, 0.62), "", color)
        said = textwrap.shorten(text, 54, placeholder=" …")
        write(axes, 2.5, y + 0.39, said, ha="left", **SMALL | (CODE if last else {}))
    return figure


def prefixes(names: Sequence[str], lines: Sequence[int]) -> Figure:
    """A program cut into its functions, with the prefix that ends after each; `lines` are the functions' lengths."""
    heights = [max(0.55, 0.16 * n) for n in lines]
    top = sum(heights) + 0.1
    figure, axes = canvas(
        f"Each function is a step, and a prefix ends after each; prefix {len(names)} is the whole program", top + 0.5
    )
    strip(axes, 0.1, top, 4.2, names, heights)
    write(axes, 2.2, top + 0.25, "the program")
    room = min(5.3 / len(names), 1.75)
    for k in range(len(names)):
        x = 4.7 + room * k
        strip(axes, x, top, room - 0.35, [""] * (k + 1), heights[: k + 1])
        write(axes, x + room / 2 - 0.17, top + 0.25, f"prefix {k + 1}" if len(names) < 5 else f"{k + 1}")
    return figure


def rollouts(names: Sequence[str], passed: Sequence[bool]) -> Figure:
    """A prefix (its functions' names) that the policy finishes several times; whether each rollout passes."""
    count, total = sum(map(bool, passed)), len(passed)
    height = max(0.62 * total, 0.6 * len(names) + 1.2)
    title = f"The policy finishes one prefix {total} times; {count} of them pass, so its label is {count}/{total}"
    figure, axes = canvas(title, height)
    middle, block = height / 2, 0.6 * len(names)
    strip(axes, 0.1, middle + block / 2, 2.9, names, [0.6] * len(names))
    write(axes, 1.55, middle - block / 2 - 0.3, "the prefix, kept as it is", color=GREY)
    for k, ok in enumerate(passed):
        y = height - height * (k + 0.5) / total
        arrow(axes, (3.05, middle), (4.3, y), GREY)
        box(axes, (4.35, y - 0.23), (2.3, 0.46), f"ending {k + 1}", GREY, **SMALL)
        arrow(axes, (6.7, y), (7.15, y), GREY)
        tile(axes, 7.45, y, ok)
    bracket(axes, (7.95, 0.1), (7.95, height - 0.1), f"c = {count}\nn = {total}\nc/n = {count / total:.2f}")
    return figure


def binomial_noise(value: float, rollouts: Sequence[int] = (1, 4, 16)) -> Figure:
    """Where labels c/n of a prefix of known value fall, for several n: the exact binomial chances."""
    spread = [(value * (1 - value) / n) ** 0.5 for n in rollouts]
    errors = f"by {spread[0]:.2f} if n = {rollouts[0]}, and by {spread[-1]:.2f} if n = {rollouts[-1]}"
    title = f"A label c/n of a prefix of value {value:g} is typically off {errors}"
    figure, axes = canvas(title, 1.55 * len(rollouts) + 0.5)
    left, span = 1.6, 8.0
    for k, (n, deviation) in enumerate(zip(rollouts, spread, strict=True)):
        base = 1.55 * (len(rollouts) - 1 - k) + 0.55
        low, high = max(value - deviation, 0), min(value + deviation, 1)
        axes.fill_between([left + span * low, left + span * high], base, base + 1.2, color=tint(ORANGE, 0.35), lw=0)
        line(axes, [left, left + span], [base, base], GREY, 1)
        chances = stats.binom(n, value).pmf(np.arange(n + 1))
        x = left + span * np.arange(n + 1) / n
        axes.vlines(x, base, base + 1.15 * chances / chances.max(), color=BLUE, lw=7 if n < 10 else 4)
        write(axes, 0.1, base + 0.5, f"n = {n}", ha="left")
    axes.vlines(left + span * value, 0.45, 1.55 * len(rollouts) + 0.4, color=RED, lw=1.6, linestyle="--")
    for share, text in ((0.0, "label 0"), (value, "value"), (1.0, "1")):
        write(axes, left + span * share, 0.2, text, color=RED if text == "value" else INK)
    return figure


def pooled_draws(prior: tuple[int, int], passes: int, rollouts: int, verdict: bool) -> Figure:
    """The posterior label as a share of draws: those that the prior is worth, the rollouts, and the own verdict."""
    groups = (
        ("prior belief", [True] * prior[0] + [False] * prior[1]),
        ("rollouts", [True] * passes + [False] * (rollouts - passes)),
        ("own verdict", [verdict]),
    )
    drawn = [ok for _, group in groups for ok in group]
    title = f"The posterior label counts all draws: {sum(drawn)} of {len(drawn)} pass, where rollouts alone say "
    figure, axes = canvas(title + f"{passes} of {rollouts}", 1.9)
    room = (WIDTH - 0.2 - 2 * 0.7) / max(len(drawn), 9)
    x = 0.1
    for k, (name, group) in enumerate(groups):
        for j, ok in enumerate(group):
            tile(axes, x + room * (j + 0.5), 1.35, ok, 0.5, FULL if k == 2 else PALE)
        end = x + room * len(group)
        bracket(axes, (x + 0.1, 0.9), (end - 0.1, 0.9), textwrap.fill(name, max(12, 4 * len(group))))
        if k < 2:
            write(axes, end + 0.35, 1.35, "+", fontsize=15)
        x = end + 0.7
    return figure


def verdict_path() -> Figure:
    """What a verdict passes through: the judge keeps the expected output, a fresh process gets program and input."""
    figure, axes = canvas("The program never meets the answer that it is compared with", 4.0)
    for x, width, color, text in ((0.1, 4.5, BLUE, "the judge"), (5.6, 4.3, RED, "a fresh process, walled off")):
        box(axes, (x, 0.1), (width, 3.8), "", color)
        write(axes, x + width / 2, 3.6, text, weight="bold", color=color)
    box(axes, (0.4, 2.25), (1.3, 0.8), "tests")
    box(axes, (2.5, 2.75), (1.8, 0.6), "program")
    box(axes, (2.5, 1.95), (1.8, 0.6), "input")
    box(axes, (0.4, 0.45), (1.7, 1.2), "expected\noutput", BLUE, FULL)
    box(axes, (2.8, 0.6), (1.5, 0.9), "compare")
    box(axes, (6.0, 2.05), (3.5, 1.1), "runs, with limits on\ntime and memory", RED)
    box(axes, (6.0, 0.6), (3.5, 0.9), "what it printed", RED)
    arrows(axes, (1.7, 2.5, 2.45, 2.3), (1.05, 2.2, 1.05, 1.7), (2.15, 1.05, 2.75, 1.05))
    arrows(axes, (4.35, 3.0, 5.95, 2.8), (4.35, 2.25, 5.95, 2.45), (7.75, 2.0, 7.75, 1.55), (5.95, 1.05, 4.35, 1.05))
    return figure


def counting_subsets(passed: Sequence[bool], k: int) -> Figure:
    """All ways to draw `k` of a few candidates, and how many of these ways contain one that passes."""
    ways = list(itertools.combinations(range(len(passed)), k))
    good = sum(any(passed[i] for i in way) for way in ways)
    rows = -(-len(ways) // 5)
    title = f"{good} of the {len(ways)} ways to draw {k} contain a program that passes: pass@{k} = {good}/{len(ways)}"
    figure, axes = canvas(title, 1.35 + 0.85 * rows)
    top = 0.85 + 0.85 * rows
    write(axes, 0.1, top, "the pool", ha="left")
    for i, ok in enumerate(passed):
        tile(axes, 2.1 + 0.62 * i, top, ok)
    for number, way in enumerate(ways):
        x, y = 0.15 + 1.96 * (number % 5), 0.85 * (rows - 1 - number // 5)
        hit = any(passed[i] for i in way)
        box(axes, (x, y + 0.08), (1.76, 0.7), "", BLUE if hit else GREY)
        for j, i in enumerate(way):
            tile(axes, x + 0.4 + 0.56 * j, y + 0.43, passed[i], 0.4)
    return figure


# ------------------------------------------------------------------------------------------------- chapters 4 to 6


def tree_and_mask(steps: Sequence[int]) -> Figure:
    """Candidates (their numbers of steps) as branches of one statement, and the mask that lets one pass read them."""
    nodes = [(-1, 0), *((branch, step) for branch, count in enumerate(steps) for step in range(count))]
    names = ["S", *(f"{chr(65 + branch)}{step + 1}" for branch, step in nodes[1:])]
    title = f"One pass reads {len(steps)} candidates: a step sees the statement (S) and its own program, nothing else"
    figure, axes = canvas(title, 4.9)
    box(axes, (0.1, 2.1), (1.75, 0.8), "S: statement", GREY, FULL)
    side = 3.6 / len(nodes)
    for row, (branch, step) in enumerate(nodes):
        x, y, low = 2.35 + 0.95 * step, 4.6 - 4.2 * (branch + 0.5) / len(steps), 1.0 + side * (len(nodes) - 1 - row)
        if branch >= 0:
            arrow(axes, (x - 0.29, y) if step else (1.88, 2.5), (x, y), GREY)
            box(axes, (x, y - 0.3), (0.66, 0.6), names[row], STEP_COLORS[branch % len(STEP_COLORS)])
        for column, (other, before) in enumerate(nodes):
            sees = other < 0 or (other == branch and before <= step)
            color = (STEP_COLORS[other % len(STEP_COLORS)] if other >= 0 else GREY) if sees else "#dddddd"
            box(axes, (6.3 + side * column, low), (side * 0.86,) * 2, "", color, FULL if sees else PALE)
        write(axes, 6.05, low + side * 0.43, names[row], ha="right", **SMALL)
        write(axes, 6.3 + side * (row + 0.43), 0.75, names[row], **SMALL)
    write(axes, 9.9, 0.25, "a row sees its coloured columns", ha="right", color=GREY)
    return figure


def pairs_within(problems: Mapping[str, Sequence[tuple[float, bool]]]) -> Figure:
    """Scores and verdicts of candidates by problem: pairs within a problem are compared, pairs across are not."""
    right = [a > b for rows in problems.values() for a, ok in rows if ok for b, other in rows if not other]
    title = f"Only pairs within one problem count: here {sum(right)} of {len(right)} are in the right order"
    figure, axes = canvas(title, 1.9 * len(problems) + 0.2)
    places = []
    for number, (name, candidates) in enumerate(problems.items()):
        y = 1.9 * (len(problems) - 1 - number) + 1.05
        line(axes, [2.2, 9.8], [y, y], GREY, 1)
        write(axes, 0.1, y, textwrap.fill(name, 14), ha="left")
        spots = [(2.4 + 7.2 * score, bool(ok)) for score, ok in candidates]
        places.append((y, spots))
        for good, bad in itertools.product(*([x for x, ok in spots if ok is want] for want in (True, False))):
            color, bend = (BLUE, -0.35) if good > bad else (RED, 0.35)
            arrow(axes, (bad, y + 0.25), (good, y + 0.25), color, bend)
        for x, ok in spots:
            tile(axes, x, y, ok)
    (upper, first), (lower, second) = places[:2]
    start = next(x for x, ok in first if not ok)
    arrow(axes, (start, upper - 0.25), (next(x for x, ok in second if ok), lower + 0.25), GREY, 0, ":")
    write(axes, 2.2, 0.2, "low score", ha="left", color=GREY)
    write(axes, 9.8, 0.2, "high score", ha="right", color=GREY)
    write(axes, 6.0, 0.2, "dotted: across problems, ignored", color=GREY)
    return figure


def two_levels(before: Sequence[float], after: Sequence[float]) -> Figure:
    """The two levels of label correction: labels before and after the clean outcomes have pulled at them."""
    title = "Clean outcomes show how the model should change; the gradient shows which labels to move"
    figure, axes = canvas(title, 5.1)
    box(axes, (0.1, 0.1), (9.8, 2.05), "", GREY)
    write(axes, 0.35, 0.4, "lower level: fit the model to the labels", ha="left", weight="bold")
    for k, (old, new) in enumerate(zip(before, after, strict=True)):
        x = 0.6 + 0.62 * k
        line(axes, [x, x], [0.85, 1.85], "#c4c4c4", 6)
        line(axes, [x - 0.15, x + 0.15], [0.85 + old] * 2, INK, 2.5)
        if abs(new - old) > 0.06:
            arrow(axes, (x, 0.85 + old), (x, 0.85 + new), RED)
    arrow(axes, (0.6 + 0.62 * len(before), 1.35), (6.35, 1.35))
    write(axes, (6.95 + 0.62 * len(before)) / 2, 1.6, "train")
    box(axes, (6.4, 0.9), (3.2, 0.9), "model  $\\varphi'(y)$", BLUE)
    box(axes, (0.1, 3.3), (9.8, 1.75), "", GREY)
    write(axes, 0.35, 4.75, "upper level: judge it on programs that were run", ha="left", weight="bold")
    for k, ok in enumerate((True, False, False, True, False)):
        tile(axes, 0.75 + 0.62 * k, 3.95, ok)
    box(axes, (6.4, 3.5), (3.2, 0.9), "$L_\\mathrm{meta}(\\varphi')$", BLUE)
    arrows(axes, (3.6, 3.95, 6.35, 3.95), (8.0, 1.85, 8.0, 3.45))
    arrow(axes, (6.4, 3.6), (2.2, 2.0), RED, -0.12)
    write(axes, 0.3, 2.85, "move labels by $-\\partial L_\\mathrm{meta}/\\partial y$", ha="left", color=RED)
    return figure


def best_of(scores: Sequence[Sequence[float]], passed: Sequence[bool]) -> Figure:
    """Candidates as chains of step scores, their means, and the pick; verdicts are shown only at the end."""
    means = [float(np.mean(row)) for row in scores]
    pick = int(np.argmax(means))
    said = "passes" if passed[pick] else "fails"
    title = f"The selector takes the highest mean score, candidate {pick}; when it is run, it {said}"
    figure, axes = canvas(title, 0.72 * len(scores) + 0.6)
    top = 0.72 * len(scores) + 0.3
    width = min(0.95, 5.0 / max(map(len, scores)))
    for x, text in ((3.6, "score of each step"), (7.6, "mean"), (9.3, "verdict")):
        write(axes, x, top, text, color=GREY)
    for k, row in enumerate(scores):
        y = 0.72 * (len(scores) - 1 - k)
        if k == pick:
            box(axes, (0.05, y + 0.02), (9.9, 0.68), "", ORANGE)
        write(axes, 0.25, y + 0.36, f"#{k}", ha="left", weight="bold")
        for step, score in enumerate(row):
            fill = 0.05 + 0.6 * score
            box(axes, (1.1 + width * step, y + 0.1), (width - 0.08, 0.52), f"{score:.2f}", BLUE, fill, **SMALL)
        write(axes, 7.6, y + 0.36, f"{means[k]:.2f}", weight="bold" if k == pick else "normal")
        tile(axes, 9.3, y + 0.36, passed[k], fill=FULL if k == pick else PALE)
    return figure


def bootstrap(gains: Sequence[float], resamples: int = 4, seed: int = 0) -> Figure:
    """Differences of a dozen problems or fewer, and sets of problems drawn from them with replacement, whose means make
    the interval."""
    rng = np.random.default_rng(seed)
    gain = np.asarray(gains, float)
    drawn = rng.integers(len(gain), size=(2000, len(gain)))
    low, high = np.quantile(gain[drawn].mean(axis=1), [0.025, 0.975])
    spread = f"{gain.mean():+.2f}, varies from {low:+.2f} to {high:+.2f}"
    figure, axes = canvas(f"Draw the problems again and again: the mean gain, {spread}", 0.75 * (resamples + 1) + 0.8)
    width = 6.0 / len(gain)
    for row in range(resamples + 1):
        y = 0.75 * (resamples - row) + (0.5 if row else 0.8)
        chosen = np.sort(drawn[row - 1]) if row else np.arange(len(gain))
        write(axes, 0.1, y + 0.28, f"draw {row}" if row else "the study", ha="left")
        for column, problem in enumerate(chosen):
            color = BLUE if gain[problem] > 0 else RED if gain[problem] < 0 else GREY
            box(axes, (1.9 + width * column, y), (width - 0.08, 0.55), f"{problem + 1}", color, PALE if row else FULL)
        write(axes, 8.1, y + 0.28, f"{gain[chosen].mean():+.2f}", ha="left")
    write(axes, 1.9, 0.2, "squares: problems (blue: won, red: lost, grey: equal)", ha="left", color=GREY)
    return figure


def beam_search(levels: Sequence[Sequence[float]], width: int) -> Figure:
    """Scores of the partial programs at each level: the best `width` go on, each into equally many of the next."""
    figure, axes = canvas(f"After each function the {width} best beginnings go on, and the others are dropped", 4.6)
    box(axes, (0.1, 2.0), (1.3, 0.8), "prompt")
    beginnings: list[Point] = [(1.4, 2.4)]
    for k, level in enumerate(levels):
        x = 2.4 + k * 7.6 / len(levels)
        kept = np.argsort(level)[::-1][:width]
        places = [4.3 - 4.0 * (i + 0.5) / len(level) for i in range(len(level))]
        for i, score in enumerate(level):
            color, fill = (BLUE, FULL) if i in kept else (GREY, PALE)
            arrow(axes, beginnings[i * len(beginnings) // len(level)], (x, places[i]), color)
            box(axes, (x, places[i] - 0.24), (1.2, 0.48), f"{score:.2f}", color, fill)
        write(axes, x + 0.6, 0.15, f"function {k + 1}", color=GREY)
        beginnings = [(x + 1.2, places[i]) for i in sorted(kept)]
    return figure


# ------------------------------------------------------------------------------------------------- chapter 7


def problem_grid(problems: int, solved: Mapping[str, int]) -> Figure:
    """All test problems as squares, and the number that each of two methods solves, the better one last; drawn is the
    best case for it, in which it solves all that the other does."""
    (worse, few), (better, many) = solved.items()
    lead = f"{many - few} of {problems} problems {'separates' if many - few == 1 else 'separate'}"
    rows = -(-problems // 22)
    figure, axes = canvas(f"{lead} {better} from {worse}", 0.44 * rows + 0.7)
    kinds = (("both solve", 0.3, BLUE, FULL), (f"{better} alone", 3.0, ORANGE, FULL), ("neither", 7.4, GREY, PALE))
    for number in range(problems):
        *_, color, fill = kinds[0 if number < few else 1 if number < many else 2]
        box(axes, (0.15 + 0.44 * (number % 22), 0.6 + 0.44 * (rows - 1 - number // 22)), (0.36, 0.36), "", color, fill)
    for name, x, color, fill in kinds:
        box(axes, (x, 0.1), (0.3, 0.3), "", color, fill)
        write(axes, x + 0.45, 0.25, name, ha="left")
    return figure


def paired_table(wins: int, losses: int, agree: int) -> Figure:
    """Two methods on the same problems: the exact McNemar test looks at those that only one of them solves."""
    title = f"Only the {wins + losses} problems where the methods differ are evidence: p = {mcnemar(wins, losses):.2g}"
    figure, axes = canvas(title, 2.75)
    box(axes, (0.1, 1.25), (4.4, 1.4), f"{agree} problems:\nboth solve it, or neither", GREY)
    box(axes, (4.8, 1.25), (2.4, 1.4), f"{wins} wins\nof the new one", BLUE, FULL)
    box(axes, (7.5, 1.25), (2.4, 1.4), f"{losses} losses\nof the new one", RED, FULL)
    bracket(axes, (0.1, 1.0), (4.5, 1.0), "say nothing about\nthe difference")
    bracket(axes, (4.8, 1.0), (9.9, 1.0), "fall like a fair coin\nif the methods are equal")
    return figure
