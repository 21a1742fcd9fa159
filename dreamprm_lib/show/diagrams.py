"""Schematic drawings of the course: each shows one mechanism, and its title says what to see in it.

All of them are made of the few pieces at the top, on a white canvas ten units wide.  What looks the same whatever the
data stands in `data/drawings.yaml`, and `drawing` draws it.  At the width of a phone (390 pixels) their letters are
still eight pixels high.  Charts with axes are in `show.figures`.
"""

import itertools
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from dreamprm_lib.engine.files import DATA, from_yaml, read_text
from dreamprm_lib.engine.sandbox.consensus import FAILED
from dreamprm_lib.evidence.statistics import counted

INK, GREY, BLUE, ORANGE, GREEN, RED = "#222222", "#707070", "#0072b2", "#e69f00", "#009e73", "#d55e00"  # Okabe and Ito
STEP_COLORS = (BLUE, ORANGE, GREEN, "#cc79a7", "#56b4e9", GREY)
WIDTH, INCHES, LETTERS = 10.0, 6.4, 11  # of a canvas: units, inches, points
PALE, FULL = 0.16, 0.42  # how much of its colour fills a box
CODE: dict[str, Any] = {"family": "DejaVu Sans Mono"}
SMALL: dict[str, Any] = {"fontsize": LETTERS - 1}
FILE = DATA / "drawings.yaml"

TILES = {  # mark, colour and share of the colour: programs that pass and fail, the parts of a mask, an empty place
    "y": ("✓", BLUE, PALE), "n": ("✗", RED, PALE), "Y": ("✓", BLUE, FULL), "N": ("✗", RED, FULL),
    "S": ("", GREY, FULL), "A": ("", BLUE, FULL), "B": ("", ORANGE, FULL), ".": ("", "#dddddd", PALE),
}  # fmt: skip

Point = tuple[float, float]


# ------------------------------------------------------------------------------------------------- pieces


def canvas(title: str, height: float) -> tuple[Figure, Axes]:
    """White paper, `WIDTH` units wide and `height` units high under its title; (0, 0) is the lower left corner."""
    lines = textwrap.wrap(title.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"), 60)
    total = height + 0.36 * len(lines) + 0.2
    figure = plt.figure(figsize=(INCHES, INCHES * total / WIDTH), facecolor="white")
    figure.set_label(title)  # the alt text in a notebook
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


def tiles(axes: Axes, x: float, y: float, row: str, pitch: float = 0.62, side: float = 0.44) -> None:
    """Small squares, the first around (x, y), one for each letter of `row` (see `TILES`)."""
    for k, letter in enumerate(row):
        mark, color, fill = TILES[letter]
        box(axes, (x + pitch * k - side / 2, y - side / 2), (side, side), "", color, fill)
        write(axes, x + pitch * k, y, mark, color=color, weight="bold")


def verdicts(passed: Iterable[bool]) -> str:
    """The tiles of programs that pass or fail."""
    return "".join("y" if ok else "n" for ok in passed)


def arrow(
    axes: Axes, ways: Iterable[Sequence[float]], color: str = INK, bend: float = 0, dash: str = "-",
    head: str = "-|>", width: float = 1.5,
) -> None:  # fmt: skip
    """Arrows, each from its first point (x, y) to its second; `bend` curves them to the right."""
    style: dict[str, Any] = {"arrowstyle": head, "mutation_scale": 13, "shrinkA": 1, "shrinkB": 1, "linestyle": dash}
    style |= {"color": color, "lw": width, "zorder": 2, "connectionstyle": f"arc3,rad={bend}", "capstyle": "butt"}
    for x0, y0, x1, y1 in ways:
        axes.add_patch(FancyArrowPatch((x0, y0), (x1, y1), **style))


def strip(axes: Axes, x: float, top: float, width: float, names: Sequence[str], heights: Sequence[float]) -> None:
    """A program as a strip of its functions, from the top down."""
    for k, (name, height) in enumerate(zip(names, heights, strict=True)):
        top -= height
        text = textwrap.shorten(name, 26, placeholder="…")
        box(axes, (x, top + 0.03), (width, height - 0.06), text, STEP_COLORS[k % len(STEP_COLORS)], **CODE)


def drawing(name: str, **words: Any) -> Figure:
    """The drawing that `data/drawings.yaml` has under this name, with `words` filled in."""
    return drawn(fixed(name), **words)


def fixed(name: str) -> dict[str, Any]:
    """What `data/drawings.yaml` says of a drawing: title, height, and by kind the arguments of its pieces."""
    return from_yaml(read_text(FILE), FILE)[name]


def drawn(plan: Mapping[str, Any], **words: Any) -> Figure:
    """A drawing as its plan says, with `words` filled in."""
    figure, axes = canvas(plan["title"].format(**words), plan["height"])
    pieces: dict[str, Callable] = {"boxes": box, "arrows": arrow, "tiles": tiles, "texts": write}
    for kind, piece in pieces.items():
        for one in plan.get(kind, ()):
            piece(axes, **one | {key: one[key].format(**words) for key in ("text", "row") if key in one})
    return figure


# ------------------------------------------------------------------------------------------------- the drawings


def pipeline(chapter: int) -> Figure:
    """The stations of the course, with the one of `chapter` marked; 0 marks none."""
    plan = fixed("pipeline")
    if chapter:
        plan["boxes"][chapter - 1] |= {"color": ORANGE, "fill": FULL}
    return drawn(plan, title=plan["titles"][chapter])


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
        arrow(axes, [(3.05, height / 2, 4.3, y), (6.7, y, 7.15, y)], GREY)
        box(axes, (4.35, y - 0.23), (2.3, 0.46), f"ending {k + 1}", **SMALL)
        tiles(axes, 7.45, y, verdicts([ok]))
    arrow(axes, [(7.95, 0.1, 7.95, height - 0.1)], head="|-|,widthA=0.35,widthB=0.35")
    write(axes, 8.15, height / 2, f"c = {count}\nn = {total}\nc/n = {count / total:.2f}", ha="left")
    return figure


def counting_subsets(passed: Sequence[bool], k: int) -> Figure:
    """All ways to draw `k` of a few candidates, and how many of these ways contain one that passes."""
    ways = list(itertools.combinations(passed, k))
    good, rows = sum(map(any, ways)), -(-len(ways) // 5)
    title = f"{good} of the {len(ways)} ways to draw {k} contain a program that passes: pass@{k} = {good}/{len(ways)}"
    figure, axes = canvas(title, 1.35 + 0.85 * rows)
    write(axes, 0.1, 0.85 + 0.85 * rows, "the pool", ha="left")
    tiles(axes, 2.1, 0.85 + 0.85 * rows, verdicts(passed))
    for number, way in enumerate(ways):
        x, y = 0.15 + 1.96 * (number % 5), 0.85 * (rows - 1 - number // 5)
        box(axes, (x, y + 0.08), (1.76, 0.7), "", BLUE if any(way) else GREY)
        tiles(axes, x + 0.4, y + 0.43, verdicts(way), 0.56, 0.4)
    return figure


def clusters(table: np.ndarray, passed: np.ndarray) -> Figure:
    """Programs that give the same answers on all inputs, at most five clusters, the largest first, with their votes.

    `table`: answers [programs, inputs], of which `FAILED` is none; `passed`: verdicts [programs].
    """
    heard = (table != FAILED).any(axis=1)
    _, party = np.unique(table[heard], axis=0, return_inverse=True)
    rows = sorted((verdicts(passed[heard][party.ravel() == k]) for k in range(party.max() + 1)), key=len)[:-6:-1]
    title = f"The right answers get {counted(len(rows[0]), 'vote')}, and no mistake gets more"
    if "y" not in rows[0]:
        right = max((len(row) for row in rows if "y" in row), default=0)
        title = f"One mistake gets {counted(len(rows[0]), 'vote')}, the right answers get {right}"
    votes = [f"{len(row)} of {len(table)}" for row in rows]
    return drawing("clusters", title=title, rows=[*rows, *[""] * 5], votes=[*votes, *[""] * 5])


def written_tests(passes: np.ndarray, right: Sequence[bool], passed: Sequence[bool]) -> Figure:
    """Which program [programs, tests] passes which written test; whether each test is right, and each program."""
    count, total = passes.shape
    wrong = ~np.asarray(right, bool)
    misled = int(passes[:, wrong].any(axis=1).sum())
    title = f"{wrong.sum()} of {counted(total, 'test')} {'is' if wrong.sum() == 1 else 'are'} wrong"
    title += f", and {counted(misled, 'program')} {'passes' if misled == 1 else 'pass'} such a test"
    title = title if wrong.any() else "None of the tests is wrong"
    figure, axes = canvas(title, 0.62 * (count + 2) + 0.2)
    y = 0.62 * (count + 1) + 0.1
    write(axes, 0.1, y, "is the test right?", ha="left", color=GREY)
    tiles(axes, 3.4, y, verdicts(right).upper(), 0.9)
    write(axes, 8.6, y, "hidden tests", color=GREY)
    for k in range(count):
        y = 0.62 * (count - 1 - k) + 0.45
        write(axes, 0.1, y, f"program {k}", ha="left")
        tiles(axes, 3.4, y, verdicts(passes[k]), 0.9)
        tiles(axes, 8.6, y, verdicts([passed[k]]).upper())
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
        verdict = verdicts([passed[k]])
        tiles(axes, 9.3, y + 0.36, verdict.upper() if k == pick else verdict)
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
            arrow(axes, [(*beginnings[i * len(beginnings) // len(level)], x, places[i])], color)
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
        *_, color, fill = kinds[int(number >= few) + int(number >= many)]
        box(axes, corner, (0.36, 0.36), "", color, fill)
    for name, x, color, fill in kinds:
        box(axes, (x, 0.1), (0.3, 0.3), "", color, fill)
        write(axes, x + 0.45, 0.25, name, ha="left")
    return figure
