"""Quizzes: a few questions at the end of each chapter, kept in its file in `data/course/`.

A choice brings its own explanation, so that a wrong one is answered too.
"""

from dataclasses import dataclass

import ipywidgets

from dreamprm_lib.course.exercises import chapters
from dreamprm_lib.errors import InputError
from dreamprm_lib.show.templates import code
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


def questions_of(notebook: str) -> list[Question]:
    """The questions of one notebook.  Raises `InputError` if there is no such quiz."""
    if notebook not in chapters():
        raise InputError(f"There is no quiz {notebook!r}: known are {', '.join(chapters())}.")
    return [Question(q["question"], tuple(Choice(**c) for c in q["choices"])) for q in chapters()[notebook]["quiz"]]


def quiz(notebook: str) -> Interactive:
    """The quiz of a notebook: choose, then press the button.  Where no widget lives, the questions alone are shown."""
    questions = questions_of(notebook)
    said = [ipywidgets.HTML() for _ in questions]
    radios = []
    rows: list[ipywidgets.Widget] = []
    still = ""
    for k, (q, text) in enumerate(zip(questions, said, strict=True), 1):
        options = [(choice.text.replace("`", ""), choice) for choice in q.choices]
        radios.append(
            ipywidgets.RadioButtons(options=options, value=None, description="Answer", layout={"width": "max-content"})
        )
        rows += [ipywidgets.HTML(f"<b>{k}. {code(q.text)}</b>"), radios[-1], text]
        choices = "".join(f"<li>{code(c.text)}</li>" for c in q.choices)
        still += f"<li><b>{code(q.text)}</b><ol type='a'>{choices}</ol></li>"
    button = ipywidgets.Button(description="Check my answers", layout={"width": "max-content"})
    score = ipywidgets.HTML()

    def show(_button: ipywidgets.Button) -> None:
        chosen = [radio.value for radio in radios]
        for text, choice in zip(said, chosen, strict=True):
            mark = "✔ Right. " if choice and choice.right else "✘ Not that one. "
            text.value = mark + code(choice.why) if choice else "Choose an answer first."
        score.value = f"<b>{sum(bool(c and c.right) for c in chosen)} of {len(radios)} right.</b>"

    button.on_click(show)
    return Interactive([*rows, button, score], f"<ol>{still}</ol>")


def answers_markdown(notebook: str) -> str:
    """The right answers and their explanations, for whoever teaches."""
    lines = []
    for k, q in enumerate(questions_of(notebook), 1):
        letter = "abcdefgh"[q.choices.index(q.answer)]
        lines.append(f"{k}. {q.text}  \n   **{letter}) {q.answer.text}** {q.answer.why}")
    return "\n".join(lines)
