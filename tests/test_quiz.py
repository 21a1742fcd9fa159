"""The questions of each quiz have one right answer and an explanation for each choice.

That every notebook has its quiz and asks it is seen in `test_course.py`, where the answers are added to it.
"""

import pytest

from dreamprm_lib.course.exercises import chapters
from dreamprm_lib.course.quiz import answers_markdown, questions_of, quiz
from dreamprm_lib.errors import InputError


@pytest.mark.parametrize("notebook", chapters())
def test_a_question_has_one_right_answer_and_all_choices_are_explained(notebook):
    questions = questions_of(notebook)
    assert 3 <= len(questions) <= 5
    for q in questions:
        assert q.text.endswith(("?", ".")) and 2 <= len(q.choices) <= 5
        assert sum(c.right is True for c in q.choices) == 1, q.text
        assert len({c.text for c in q.choices}) == len(q.choices)
        assert all(c.why.strip() and 0 < len(c.text) <= 100 for c in q.choices), q.text
    assert len({q.choices.index(q.answer) for q in questions}) > 1, "the right answers stand in one place"


def test_the_button_answers_each_choice_and_counts():
    questions = questions_of("01_chain_of_functions")
    *asked, button, score = quiz("01_chain_of_functions").children
    radios, said = asked[1::3], asked[2::3]
    assert not any(text.value for text in said)
    radios[0].value = questions[0].answer
    radios[1].value = next(c for c in questions[1].choices if not c.right)
    button.click()
    assert said[0].value.startswith("✔") and questions[0].answer.why in said[0].value
    assert said[1].value.startswith("✘") and radios[1].value.why in said[1].value
    assert said[2].value == "Choose an answer first."
    assert f"1 of {len(questions)} right" in score.value


def test_without_widgets_the_questions_are_shown_and_no_answer_is():
    shown = quiz("05_label_correction")._repr_mimebundle_()["text/html"]
    for q in questions_of("05_label_correction"):
        assert q.text in shown and all(c.why not in shown for c in q.choices)
    assert "<code>main</code>" in quiz("01_chain_of_functions").still
    assert "p &lt; 0.05" in quiz("09_paper_scale").still


def test_who_teaches_gets_letter_answer_and_explanation():
    text = answers_markdown("00_start_here")
    assert text.startswith("1. ") and "\n2. " in text
    assert "**a) To every step of a program, without running it.** It reads" in text


def test_an_unknown_quiz_is_named():
    with pytest.raises(InputError, match="no quiz '99_x': known are 00_start_here"):
        quiz("99_x")
