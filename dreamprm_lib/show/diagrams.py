"""Schematic drawings of the course: each shows one mechanism, and its title says what to see in it.

All of them are made of the few pieces at the top, on a white canvas ten units wide; what is the same whatever the data
stands in `data/drawings.yaml`.  At the width of a phone (390 pixels) their letters are still eight pixels high.  A
drawing takes real data where there are any.  Charts with axes are in `show.figures`.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from dreamprm_lib.engine.files import from_yaml, read_text
from dreamprm_lib.evidence.statistics import mcnemar

INK, GREY, BLUE, ORANGE, GREEN, RED = "#222222", "#707070", "#0072b2", "#e69f00", "#009e73", "#d55e00"  # Okabe and Ito
STEP_COLORS = (BLUE, ORANGE, GREEN, "#cc79a7", "#56b4e9", GREY)
WIDTH, INCHES, LETTERS = 10.0, 6.4, 11  # of a canvas: units, inches, points
PALE, FULL = 0.16, 0.42  # how much of its colour fills a box
CODE: dict[str, Any] = {"family": "DejaVu Sans Mono"}
SMALL: dict[str, Any] = {"fontsize": LETTERS - 1}
FIXED = Path(__file__).parents[1] / "data" / "drawings.yaml"

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
    letters: dict[str, Any] = {"family": "DejaVu Sans", "fontsize": LETTERS, "color": INK, "linespacing": 1.15}
    axes.text(x, y, text, **letters | {"ha": "center", "va": "center", "zorder": 2} | font)


def box(
    axes: Axes, corner: Point, size: Point, text: str = "", color: str = GREY, fill: float = PALE, **font: Any
) -> None:
    """A rounded box with text in it; `fill` is the share of its colour in it, and a FULL one has a thick edge."""
    tint = tuple(1 - fill * (1 - part) for part in to_rgb(color))
    look: dict[str, Any] = {"edgecolor": color, "facecolor": tint, "lw": 2.6 if fill == FULL else 1.3, "zorder": 2}
    axes.add_patch(FancyBboxPatch(corner, *size, boxstyle="round,pad=0,rounding_size=0.09", **look))
    write(axes, corner[0] + size[0] / 2, corner[1] + size[1] / 2, text, **font)


def tile(axes: Axes, x: float, y: float, passed: bool, side: float = 0.44, fill: float = PALE) -> None:
    """A small square around (x, y): a program that passes or fails."""
    mark, color = ("✓", BLUE) if passed else ("✗", RED)
    box(axes, (x - side / 2, y - side / 2), (side, side), "", color, fill)
    write(axes, x, y, mark, color=color, weight="bold")


def arrow(
    axes: Axes, *ways: Sequence[float], color: str = INK, bend: float = 0, dash: str = "-", head: str = "-|>"
) -> None:
    """Arrows, each from its first point (x, y) to its second; `bend` curves them to the right."""
    style: dict[str, Any] = {"arrowstyle": head, "mutation_scale": 13, "shrinkA": 1, "shrinkB": 1, "linestyle": dash}
    style |= {"color": color, "lw": 1.5, "zorder": 2, "connectionstyle": f"arc3,rad={bend}"}
    for x0, y0, x1, y1 in ways:
        axes.add_patch(FancyArrowPatch((x0, y0), (x1, y1), **style))


def bar(axes: Axes, *ways: Sequence[float]) -> None:
    """Lines with an end mark on either side, which say what belongs together."""
    arrow(axes, *ways, head="|-|,widthA=0.35,widthB=0.35")


def strip(axes: Axes, x: float, top: float, width: float, names: Sequence[str], heights: Sequence[float]) -> None:
    """A program as a strip of its functions, from the top down."""
    for k, (name, height) in enumerate(zip(names, heights, strict=True)):
        top -= height
        text = textwrap.shorten(name, 26, placeholder="…")
        box(axes, (x, top + 0.03), (width, height - 0.06), text, STEP_COLORS[k % len(STEP_COLORS)], **CODE)


def fixed(name: str) -> dict[str, Any]:
    """What `data/drawings.yaml` says of a drawing."""
    return from_yaml(read_text(FIXED), FIXED)[name]


def drawn(plan: Mapping[str, Any], **words: Any) -> tuple[Figure, Axes]:
    """A drawing as its plan says, `words` filled in."""
    figure, axes = canvas(plan["title"].format(**words), plan["height"])
    for one in plan["boxes"]:
        box(axes, **one | {"text": one.get("text", "").format(**words)})
    arrow(axes, *plan.get("arrows", ()))
    bar(axes, *plan.get("bars", ()))
    for one in plan["texts"]:
        write(axes, **one | {"text": one["text"].format(**words)})
    return figure, axes


# ------------------------------------------------------------------------------------------------- the drawings


def pipeline(chapter: int) -> Figure:
    """The stations of the course, with the one of `chapter` marked; 0 marks none."""
    plan = fixed("pipeline")
    if chapter:
        plan["boxes"][chapter - 1] |= {"color": ORANGE, "fill": FULL}
    return drawn(plan, title=plan["titles"][chapter])[0]


def chat_prompt(roles: Sequence[str], texts: Sequence[str]) -> Figure:
    """The messages of a prompt, from the first to the prefill, each with the beginning of its text."""
    figure, axes = canvas("The model goes on where the prompt ends, so we write its first words", 0.78 * len(roles))
    for k, (role, text) in enumerate(zip(roles, texts, strict=True)):
        y, last = 0.78 * (len(roles) - 1 - k), k == len(roles) - 1
        color, fill, letters = (ORANGE, FULL, SMALL | CODE) if last else (GREY, PALE, SMALL)
        box(axes, (0.1, y + 0.08), (2.1, 0.62), role, color, fill)
        box(axes, (2.35, y + 0.08), (7.5, 0.62), "", color)
        write(axes, 2.5, y + 0.39, textwrap.shorten(text, 54, placeholder=" …"), ha="left", **letters)
    return figure


def prefixes(names: Sequence[str], lines: Sequence[int]) -> Figure:
    """A program cut into its functions, with the prefix that ends after each; `lines` are the functions' lengths."""
    heights = [max(0.55, 0.16 * n) for n in lines]
    top = sum(heights) + 0.1
    title = f"Each function is a step, and a prefix ends after each; prefix {len(names)} is the whole program"
    figure, axes = canvas(title, top + 0.5)
    strip(axes, 0.1, top, 4.2, names, heights)
    write(axes, 2.2, top + 0.25, "the program")
    room = min(5.3 / len(names), 1.75)
    for k in range(1, len(names) + 1):
        x = 4.7 + room * (k - 1)
        strip(axes, x, top, room - 0.35, [""] * k, heights[:k])
        write(axes, x + room / 2 - 0.17, top + 0.25, f"prefix {k}" if len(names) < 5 else f"{k}")
    return figure


def rollouts(names: Sequence[str], passed: Sequence[bool]) -> Figure:
    """A prefix (its functions' names) that the policy finishes several times; whether each rollout passes."""
    count, total, block = sum(map(bool, passed)), len(passed), 0.6 * len(names)
    height = max(0.62 * total, block + 1.2)
    title = f"The policy finishes one prefix {total} times; {count} of them pass, so its label is {count}/{total}"
    figure, axes = canvas(title, height)
    strip(axes, 0.1, (height + block) / 2, 2.9, names, [0.6] * len(names))
    write(axes, 1.55, (height - block) / 2 - 0.3, "the prefix, kept as it is", color=GREY)
    for k, ok in enumerate(passed):
        y = height - height * (k + 0.5) / total
        arrow(axes, (3.05, height / 2, 4.3, y), (6.7, y, 7.15, y), color=GREY)
        box(axes, (4.35, y - 0.23), (2.3, 0.46), f"ending {k + 1}", **SMALL)
        tile(axes, 7.45, y, ok)
    bar(axes, (7.95, 0.1, 7.95, height - 0.1))
    write(axes, 8.15, height / 2, f"c = {count}\nn = {total}\nc/n = {count / total:.2f}", ha="left")
    return figure


def pooled_draws(prior: tuple[int, int], passes: int, rollouts: int, verdict: bool) -> Figure:
    """The posterior label as a share of draws: those that the prior is worth, the rollouts, and the own verdict."""
    groups = {
        "prior belief": [True] * prior[0] + [False] * prior[1],
        "rollouts": [True] * passes + [False] * (rollouts - passes),
        "own verdict": [verdict],
    }
    draws = list(itertools.chain(*groups.values()))
    title = f"The posterior label counts all draws: {sum(draws)} of {len(draws)} pass, where rollouts alone say "
    figure, axes = canvas(title + f"{passes} of {rollouts}", 1.9)
    room = 8.4 / max(len(draws), 9)
    x = 0.1
    for name, group in groups.items():
        for j, ok in enumerate(group):
            tile(axes, x + room * (j + 0.5), 1.35, ok, 0.5, PALE if len(group) > 1 else FULL)
        end = x + room * len(group)
        bar(axes, (x + 0.1, 0.9, end - 0.1, 0.9))
        write(axes, (x + end) / 2, 0.7, textwrap.fill(name, max(12, 4 * len(group))), va="top")
        write(axes, end + 0.35, 1.35, "" if name == "own verdict" else "+", fontsize=15)
        x = end + 0.7
    return figure


def verdict_path() -> Figure:
    """What a verdict passes through: the judge keeps the expected output, a fresh process gets program and input."""
    return drawn(fixed("verdict_path"))[0]


def counting_subsets(passed: Sequence[bool], k: int) -> Figure:
    """All ways to draw `k` of a few candidates, and how many of these ways contain one that passes."""
    ways = list(itertools.combinations(passed, k))
    good, rows = sum(map(any, ways)), -(-len(ways) // 5)
    title = f"{good} of the {len(ways)} ways to draw {k} contain a program that passes: pass@{k} = {good}/{len(ways)}"
    figure, axes = canvas(title, 1.35 + 0.85 * rows)
    write(axes, 0.1, 0.85 + 0.85 * rows, "the pool", ha="left")
    for i, ok in enumerate(passed):
        tile(axes, 2.1 + 0.62 * i, 0.85 + 0.85 * rows, ok)
    for number, way in enumerate(ways):
        x, y = 0.15 + 1.96 * (number % 5), 0.85 * (rows - 1 - number // 5)
        box(axes, (x, y + 0.08), (1.76, 0.7), "", BLUE if any(way) else GREY)
        for j, ok in enumerate(way):
            tile(axes, x + 0.4 + 0.56 * j, y + 0.43, ok, 0.4)
    return figure


def tree_and_mask(steps: Sequence[int]) -> Figure:
    """Candidates (their numbers of steps) as branches of one statement, and the mask that lets one pass read them."""
    nodes = [("S", GREY, -1, 0)]
    for branch, count in enumerate(steps):
        color = STEP_COLORS[branch % len(STEP_COLORS)]
        nodes += [(f"{chr(65 + branch)}{step + 1}", color, branch, step) for step in range(count)]
    title = f"One pass reads {len(steps)} candidates: a step sees the statement (S) and its own program, nothing else"
    figure, axes = canvas(title, 4.9)
    box(axes, (0.1, 2.1), (1.75, 0.8), "S: statement", GREY, FULL)
    side = 3.6 / len(nodes)
    for row, (name, color, branch, step) in enumerate(nodes):
        x, y, low = 2.35 + 0.95 * step, 4.6 - 4.2 * (branch + 0.5) / len(steps), 1.0 + side * (len(nodes) - 1 - row)
        if branch >= 0:
            arrow(axes, (x - 0.29, y, x, y) if step else (1.88, 2.5, x, y), color=GREY)
            box(axes, (x, y - 0.3), (0.66, 0.6), name, color)
        for column, (_, seen, other, before) in enumerate(nodes):
            sees = other < 0 or (other == branch and before <= step)
            cell = (6.3 + side * column, low), (side * 0.86, side * 0.86), ""
            box(axes, *cell, *((seen, FULL) if sees else ("#dddddd", PALE)))
        write(axes, 6.05, low + side * 0.43, name, ha="right", **SMALL)
        write(axes, 6.3 + side * (row + 0.43), 0.75, name, **SMALL)
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
        axes.hlines(y, 2.2, 9.8, color=GREY, lw=1)
        write(axes, 0.1, y, textwrap.fill(name, 14), ha="left")
        good, bad = ([2.4 + 7.2 * score for score, ok in candidates if ok == want] for want in (True, False))
        places.append((y, good, bad))
        for a, b in itertools.product(good, bad):
            color, bend = (BLUE, -0.35) if a > b else (RED, 0.35)
            arrow(axes, (b, y + 0.25, a, y + 0.25), color=color, bend=bend)
        for x, ok in (*((x, True) for x in good), *((x, False) for x in bad)):
            tile(axes, x, y, ok)
    (upper, _, bad), (lower, good, _) = places[:2]
    arrow(axes, (bad[0], upper - 0.25, good[0], lower + 0.25), color=GREY, dash=":")
    for x, side, text in ((2.2, "left", "low score"), (9.8, "right", "high score")):
        write(axes, x, 0.2, text, ha=side, color=GREY)
    write(axes, 6.0, 0.2, "dotted: across problems, ignored", color=GREY)
    return figure


def two_levels(before: Sequence[float], after: Sequence[float]) -> Figure:
    """The two levels of label correction: labels before and after the clean outcomes have pulled at them."""
    figure, axes = drawn(fixed("two_levels"))
    for k, (old, new) in enumerate(zip(before, after, strict=True)):
        x = 0.6 + 0.62 * k
        axes.vlines(x, 0.85, 1.85, color="#c4c4c4", lw=6)
        axes.hlines(0.85 + old, x - 0.15, x + 0.15, color=INK, lw=2.5)
        if abs(new - old) > 0.06:
            arrow(axes, (x, 0.85 + old, x, 0.85 + new), color=RED)
    end = 0.6 + 0.62 * len(before)
    arrow(axes, (end, 1.35, 6.35, 1.35))
    write(axes, (end + 6.35) / 2, 1.6, "train")
    for k, ok in enumerate((True, False, False, True, False)):
        tile(axes, 0.75 + 0.62 * k, 3.95, ok)
    arrow(axes, (6.4, 3.6, 2.2, 2.0), color=RED, bend=-0.12)
    return figure


def best_of(scores: Sequence[Sequence[float]], passed: Sequence[bool]) -> Figure:
    """Candidates as chains of step scores, their means, and the pick; verdicts are shown only at the end."""
    means = [float(np.mean(row)) for row in scores]
    pick = int(np.argmax(means))
    said = f"candidate {pick}; when it is run, it {'passes' if passed[pick] else 'fails'}"
    figure, axes = canvas(f"The selector takes the highest mean score, {said}", 0.72 * len(scores) + 0.6)
    for x, text in ((3.6, "score of each step"), (7.6, "mean"), (9.3, "verdict")):
        write(axes, x, 0.72 * len(scores) + 0.3, text, color=GREY)
    width = min(0.95, 5.0 / max(map(len, scores)))
    for k, row in enumerate(scores):
        y = 0.72 * (len(scores) - 1 - k)
        if k == pick:
            box(axes, (0.05, y + 0.02), (9.9, 0.68), "", ORANGE)
        write(axes, 0.25, y + 0.36, f"#{k}", ha="left", weight="bold")
        for step, score in enumerate(row):
            corner, size = (1.1 + width * step, y + 0.1), (width - 0.08, 0.52)
            box(axes, corner, size, f"{score:.2f}", BLUE, 0.05 + 0.6 * score, **SMALL)
        write(axes, 7.6, y + 0.36, f"{means[k]:.2f}", weight="bold" if k == pick else "normal")
        tile(axes, 9.3, y + 0.36, passed[k], fill=FULL if k == pick else PALE)
    return figure


def bootstrap(gains: Sequence[float]) -> Figure:
    """Differences of a dozen problems or fewer, and sets of problems drawn from them with replacement, whose means make
    the interval."""
    gain, count = np.asarray(gains, float), len(gains)
    draws = np.random.default_rng(0).integers(count, size=(2000, count))
    low, high = np.quantile(gain[draws].mean(axis=1), [0.025, 0.975])
    spread = f"{gain.mean():+.2f}, varies from {low:+.2f} to {high:+.2f}"
    figure, axes = canvas(f"Draw the problems again and again: the mean gain, {spread}", 4.55)
    for row, chosen in enumerate([np.arange(count), *np.sort(draws[:4])]):
        y = 0.75 * (4 - row) + (0.5 if row else 0.8)
        write(axes, 0.1, y + 0.28, f"draw {row}" if row else "the study", ha="left")
        for column, problem in enumerate(chosen):
            color = BLUE if gain[problem] > 0 else RED if gain[problem] < 0 else GREY
            corner, size = (1.9 + 6.0 / count * column, y), (6.0 / count - 0.08, 0.55)
            box(axes, corner, size, f"{problem + 1}", color, PALE if row else FULL)
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
            arrow(axes, (*beginnings[i * len(beginnings) // len(level)], x, places[i]), color=color)
            box(axes, (x, places[i] - 0.24), (1.2, 0.48), f"{score:.2f}", color, fill)
        write(axes, x + 0.6, 0.15, f"function {k + 1}", color=GREY)
        beginnings = [(x + 1.2, places[i]) for i in sorted(kept)]
    return figure


def problem_grid(problems: int, solved: Mapping[str, int]) -> Figure:
    """All test problems as squares, and the number that each of two methods solves, the better one last; drawn is the
    best case for it, in which it solves all that the other does."""
    (worse, few), (better, many) = solved.items()
    rows = -(-problems // 22)
    verb = "separates" if many - few == 1 else "separate"
    figure, axes = canvas(f"{many - few} of {problems} problems {verb} {better} from {worse}", 0.44 * rows + 0.7)
    kinds = (("both solve", 0.3, BLUE, FULL), (f"{better} alone", 3.0, ORANGE, FULL), ("neither", 7.4, GREY, PALE))
    for number in range(problems):
        corner = (0.15 + 0.44 * (number % 22), 0.6 + 0.44 * (rows - 1 - number // 22))
        *_, color, fill = kinds[(number >= few) + (number >= many)]
        box(axes, corner, (0.36, 0.36), "", color, fill)
    for name, x, color, fill in kinds:
        box(axes, (x, 0.1), (0.3, 0.3), "", color, fill)
        write(axes, x + 0.45, 0.25, name, ha="left")
    return figure


def paired_table(wins: int, losses: int, agree: int) -> Figure:
    """Two methods on the same problems: the exact McNemar test looks at those that only one of them solves."""
    p = mcnemar(wins, losses)
    return drawn(fixed("paired_table"), wins=wins, losses=losses, agree=agree, differ=wins + losses, p=p)[0]
