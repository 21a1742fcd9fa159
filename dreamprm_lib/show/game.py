"""You are the reward model: pick among candidates before the PRM does, and see whose programs pass the unit tests.

A few rounds of a game prove nothing about either player; the board says how often a random picker would do as well.
"""

import base64
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import ipywidgets
import numpy as np
from matplotlib.figure import Figure

from dreamprm_lib.engine.problems import Problem, describe
from dreamprm_lib.reward_model import aggregate
from dreamprm_lib.show.figures.primitives import BLUE, finished, panels
from dreamprm_lib.show.widgets import Interactive, png_of
from dreamprm_lib.study.rows import CandidateScores, Program

LETTERS = "ABCD"  # a hand has at most so many programs
_GRID = "display:grid;grid-template-columns:repeat(auto-fit,minmax(22em,1fr));gap:.8em"
_TEXT = "white-space:pre-wrap;line-height:1.3;margin:.3em 0"
_CODE = "border:1px solid currentColor;border-radius:4px;padding:.5em;overflow-x:auto;line-height:1.3;margin:.3em 0"


@dataclass(frozen=True)
class Round:
    """A problem, some of its candidates, at least one of which passes and one fails, and the PRM's score of each."""

    problem: Problem
    programs: tuple[Program, ...]
    scores: tuple[float, ...]

    @property
    def passed(self) -> np.ndarray:
        """The verdicts [candidates]."""
        return np.array([p.passed for p in self.programs])

    @property
    def machine(self) -> int:
        """The PRM's pick: the best-scored candidate, of equals the first."""
        return int(np.argmax(self.scores))


def deal(
    problems: Sequence[Problem],
    candidates: Sequence[Program],
    scores: Sequence[CandidateScores],
    method: str,
    rule: str,
    seed: int,
    rounds: int = 5,
) -> list[Round]:
    """At most `rounds` rounds of at most four different programs each, drawn by `seed` from the mixed problems.

    `scores` are the step scores of the candidates; those of `method` are aggregated by `rule`.
    """
    rng = np.random.default_rng(seed)
    found = {(s.problem, s.sample): s.scores for s in scores if s.method == method}
    dealt: list[Round] = []
    for k in rng.permutation(len(problems)):
        mine = list({c.code: c for c in candidates if c.problem == problems[k].id}.values())
        order = [mine[i] for i in rng.permutation(len(mine))]
        firsts = [c for ok in (True, False) for c in [c for c in order if c.passed == ok][:1]]
        if len(firsts) < 2 or len(dealt) == rounds:
            continue
        some = [*firsts, *(c for c in order if c not in firsts)][: len(LETTERS)]
        hand = tuple(some[i] for i in rng.permutation(len(some)))
        dealt.append(Round(problems[k], hand, tuple(aggregate(found[c.problem, c.sample], rule) for c in hand)))
    return dealt


def board(rounds: Sequence[Round], picks: Sequence[int]) -> str:
    """The totals after the first `len(picks)` rounds: problems solved by you, by the PRM and, in the mean, by a random
    picker, and how often a random picker does at least as well as you."""
    played = rounds[: len(picks)]
    you = sum(int(r.passed[pick]) for r, pick in zip(played, picks, strict=True))
    chances = np.ones(1)  # of a random picker's number of solved problems
    for r in played:
        chances = np.convolve(chances, [1 - r.passed.mean(), r.passed.mean()])
    prm, random = _solved(played)
    return (
        f"After {len(picks)} of the rounds: <b>you {you}</b>, PRM {prm}, a random picker {random:.1f} in the mean. It "
        f"does at least as well as you in {chances[you:].sum():.0%} of such games."
    )


def play(rounds: Sequence[Round]) -> Interactive:
    """The game: read, take a program, see the verdicts, go on.  Where no widget lives, all rounds are drawn with the
    PRM's picks."""
    if not rounds:
        nothing = "<p>No problem here has both a passing and a failing candidate, so there is nothing to choose.</p>"
        return Interactive([ipywidgets.HTML(nothing)], nothing)
    picks: list[int] = []
    table, totals = ipywidgets.HTML(), ipywidgets.HTML()
    takes = [ipywidgets.Button(description=f"Take {letter}") for letter in LETTERS]
    onward = ipywidgets.Button(description="Next problem")

    def lay(number: int) -> None:
        """Put a round on the table, with the verdicts if it was played."""
        played = number < len(picks)
        heading = f"<p><b>Round {number + 1} of {len(rounds)}</b></p>"
        table.value = heading + round_html(rounds[number], picks[number] if played else None)
        for k, take in enumerate(takes):
            take.disabled = played or k >= len(rounds[number].programs)
        onward.disabled = not played or number + 1 == len(rounds)

    def take_it(button: ipywidgets.Button) -> None:
        picks.append(takes.index(button))
        totals.value = f"<p>{board(rounds, picks)}</p>"
        lay(len(picks) - 1)

    for take in takes:
        take.on_click(take_it)
    onward.on_click(lambda _button: lay(len(picks)))
    lay(0)
    return Interactive([table, ipywidgets.HBox([*takes, onward]), totals], _still(rounds))


def round_html(on_table: Round, pick: int | None = None) -> str:
    """The statement and the programs; once there is a pick, also the verdicts, the PRM's scores and both picks."""
    programs = ""
    for k, (program, score) in enumerate(zip(on_table.programs, on_table.scores, strict=True)):
        said = [f"<b>{LETTERS[k]}</b>"]
        if pick is not None:
            said += ["<b>✔ passes</b>" if program.passed else "✘ fails", f"PRM score {score:.2f}"]
            said += [f"<b>{who}</b>" for who, its in (("← you", pick), ("← PRM", on_table.machine)) if its == k]
        programs += f"<div>{' &nbsp; '.join(said)}<pre style='{_CODE}'>{escape(program.code)}</pre></div>"
    statement = f"<pre style='{_TEXT}'>{escape(describe(on_table.problem))}</pre>"
    return f"{statement}<div style='{_GRID}'>{programs}</div>"


def rounds_figure(rounds: Sequence[Round]) -> Figure:
    """The rounds of the game: the PRM's score of each candidate, filled if it passes, and which one the PRM takes."""
    figure, grid = panels(1, len(rounds), 2.9, sharex=True)
    for axes, dealt in zip(grid[0], rounds, strict=True):
        at = np.arange(len(dealt.programs))
        axes.barh(at, dealt.scores, color=[BLUE if ok else "white" for ok in dealt.passed], edgecolor=BLUE)
        names = [f"{LETTERS[k]} {'✔' if ok else '✘'}" for k, ok in enumerate(dealt.passed)]
        axes.set(yticks=at, yticklabels=names, xlabel=f"score (takes {LETTERS[dealt.machine]})")
        axes.set_title(textwrap.fill(textwrap.shorten(dealt.problem.title, 24, placeholder="…"), 14), fontsize=10)
        axes.invert_yaxis()
    right = sum(bool(dealt.passed[dealt.machine]) for dealt in rounds)
    return finished(figure, f"The PRM takes a program that passes (filled) in {right} of {len(rounds)} rounds")


def _solved(rounds: Sequence[Round]) -> tuple[int, float]:
    """How many problems the PRM solves, and in the mean a random picker."""
    return sum(int(r.passed[r.machine]) for r in rounds), float(sum(r.passed.mean() for r in rounds))


def _still(rounds: Sequence[Round]) -> str:
    """All rounds as small multiples, with their verdicts and the PRM's picks."""
    image = base64.b64encode(png_of(rounds_figure(rounds))).decode()
    prm, random = _solved(rounds)
    said = f"{len(rounds)} rounds of the game: the PRM solves {prm}, a random picker {random:.1f} in the mean."
    picture = f"<img style='max-width:100%' alt='{said}' src='data:image/png;base64,{image}'>"
    return f"<figure>{picture}<figcaption>{said}</figcaption></figure>"
