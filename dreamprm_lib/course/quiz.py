"""Quizzes: a few questions at the end of each chapter, kept in one file, `data/quizzes.yaml`.

A choice brings its own explanation, so that a wrong one is answered too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files

import ipywidgets

from dreamprm_lib.engine.files import from_yaml, read_text
from dreamprm_lib.errors import InputError
from dreamprm_lib.show.widgets import Interactive


@dataclass(frozen=True)
class Choice:
    """A possible answer, and why it is right or wrong."""

    text: str
    why: str
    right: bool = False


@dataclass(frozen=True)
class Question:
    """A question and its choices, one of which is right."""

    text: str
    choices: tuple[Choice, ...]

    @property
    def answer(self) -> Choice:
        """The right choice."""
        return next(choice for choice in self.choices if choice.right)


@cache
def quizzes() -> dict[str, tuple[Question, ...]]:
    """All questions by notebook."""
    path = files("dreamprm_lib") / "data" / "quizzes.yaml"
    data = from_yaml(read_text(path), path)
    return {
        notebook: tuple(Question(q["question"], tuple(Choice(**c) for c in q["choices"])) for q in questions)
        for notebook, questions in data.items()
    }


def questions_of(notebook: str) -> tuple[Question, ...]:
    """The questions of one notebook.  Raises `InputError` if there is no such quiz."""
    if notebook not in quizzes():
        raise InputError(f"There is no quiz {notebook!r}: known are {', '.join(quizzes())}.")
    return quizzes()[notebook]


def quiz(notebook: str) -> Interactive:
    """The quiz of a notebook: choose, then press the button.  Where no widget lives, the questions alone are shown."""
    questions = questions_of(notebook)
    said = [ipywidgets.HTML() for _ in questions]
    radios = [
        ipywidgets.RadioButtons(
            options=[(c.text.replace("`", ""), c) for c in q.choices], value=None, description="Answer",
            layout={"width": "max-content"},
        )
        for q in questions
    ]  # fmt: skip
    button = ipywidgets.Button(description="Check my answers", layout={"width": "max-content"})
    score = ipywidgets.HTML()

    def show(_button: ipywidgets.Button) -> None:
        chosen = [radio.value for radio in radios]
        for text, choice in zip(said, chosen, strict=True):
            mark = "✔ Right. " if choice and choice.right else "✘ Not that one. "
            text.value = mark + _marked(choice.why) if choice else "Choose an answer first."
        score.value = f"<b>{sum(bool(c and c.right) for c in chosen)} of {len(radios)} right.</b>"

    button.on_click(show)
    rows: list[ipywidgets.Widget] = []
    still = ""
    for k, (q, radio, text) in enumerate(zip(questions, radios, said, strict=True), 1):
        rows += [ipywidgets.HTML(f"<b>{k}. {_marked(q.text)}</b>"), radio, text]
        choices = "".join(f"<li>{_marked(c.text)}</li>" for c in q.choices)
        still += f"<li><b>{_marked(q.text)}</b><ol type='a'>{choices}</ol></li>"
    return Interactive([*rows, button, score], f"<ol>{still}</ol>")


def answers_markdown(notebook: str) -> str:
    """The right answers and their explanations, for whoever teaches."""
    lines = []
    for k, q in enumerate(questions_of(notebook), 1):
        letter = "abcdefgh"[q.choices.index(q.answer)]
        lines.append(f"{k}. {q.text}  \n   **{letter}) {q.answer.text}** {q.answer.why}")
    return "\n".join(lines)


def _marked(text: str) -> str:
    """Back-quoted words as <code>."""
    return re.sub(r"`(.+?)`", r"<code>\1</code>", escape(text))
