"""Schematic drawings: they say what their data say, and nothing on them is cut off, covered or too small to read."""

import itertools

import numpy as np
import pytest

from dreamprm_lib.engine.files import from_yaml
from dreamprm_lib.show import diagrams

PLANS = from_yaml(diagrams.FILE.read_text(), diagrams.FILE)
WORDS = {  # of the drawings that take some
    "four_counts": {"programs": "6 of 16", "answers": "14 of 30", "lucky": "66 of 140", "shared": "18 of 160"},
    "threshold": {
        "risk": 20,
        "few": 11,
        "tested": 11,
        "wrong": 1,
        "are": "is",
        "method": "majority",
        "row": "Y" * 10 + "N" + "yn" * 5 + "n",
    },
    "bill": {"worth": 1593, "study": 652.1, "problem": 1.6, "candidate": 0.44},
    "three_replies": {"candidates": 8, "candidate": 165.4, "tests": 118.2, "repair": 171.0},
    "after_failure": {"first": 17.2, "second": 12.1},
    "paired_table": {"wins": 5, "losses": 0, "agree": 126, "differ": 5, "p": 0.0625},
    "planted_label": {"value": 0.8, "chance": 0.4, "passes": 1, "rollouts": 4, "label": 0.25},
}
FIXED = [name for name in PLANS if name not in ("colors", "full", "pipeline", "clusters")]
ANSWERS = np.array([[1, 1]] * 3 + [[2, 1]] * 2 + [[-1, -1]])


def said_of(name):
    """The title of a drawing with its words."""
    return PLANS[name]["title"].format(**WORDS.get(name, {}))


POOL = [True, False, False, True, False]
DRAWINGS = {  # how each drawing is made, and what must be written on it
    **{f"map {k}": (lambda k=k: diagrams.pipeline(k), said) for k, said in enumerate(PLANS["pipeline"]["titles"])},
    **{name: (lambda name=name: diagrams.drawing(name, **WORDS.get(name, {})), said_of(name)) for name in FIXED},
    "outvoted": (
        lambda: diagrams.clusters(ANSWERS, np.array([False] * 3 + [True] * 3)),
        "One mistake gets 3 votes, the right answers get 2",
    ),
    "many clusters": (lambda: diagrams.clusters(np.arange(32).reshape(16, 2), np.ones(16, bool)), "get 1 vote, and no"),
    "one cluster": (lambda: diagrams.clusters(np.ones((16, 2)), np.ones(16, bool)), "get 16 votes, and no"),
    "prompt": (lambda: diagrams.chat_prompt(["system", "user", "prefill"], ["Write.", "Add " * 40, "x"]), "prefill"),
    "prefixes": (lambda: diagrams.prefixes(["main", "read_input", "solve"], [4, 3, 9]), "prefix 3 is the whole"),
    "long program": (lambda: diagrams.prefixes([f"function_with_a_long_name_{k}" for k in range(8)], [3] * 8), "8"),
    "rollouts": (lambda: diagrams.rollouts(["main", "solve"], [True, False, True, True]), "its label is 3/4"),
    "one rollout": (lambda: diagrams.rollouts(["main"] * 4, [False]), "its label is 0/1"),
    "subsets": (lambda: diagrams.counting_subsets(POOL, 2), "pass@2 = 7/10"),
    "all of them": (lambda: diagrams.counting_subsets(POOL, 5), "1 of the 1 ways"),
    "failing pick": (lambda: diagrams.best_of([[0.4, 0.3], [0.7], [0.2, 0.9]], [True, False, True]), "it fails"),
    "passing pick": (lambda: diagrams.best_of([[0.4, 0.9], [0.2]], [True, False]), "candidate 0; when it is run, it"),
    "bootstrap": (lambda: diagrams.bootstrap([1, 0, -1, 1, 0, 0.5]), "the mean gain, +0.25, varies from"),
    "written tests": (
        lambda: diagrams.written_tests(np.eye(3, 5, dtype=bool), [True, False, False, True, True], POOL[:3]),
        "2 of 5 tests are wrong, and 2 programs pass such a test",
    ),
    "no wrong test": (
        lambda: diagrams.written_tests(np.ones((8, 1), bool), [True], [True] * 8),
        "None of the tests is wrong",
    ),
    "beam": (lambda: diagrams.beam_search([[0.3, 0.6, 0.5, 0.2], [0.7, 0.4, 0.5, 0.8]], 2), "the 2 best beginnings"),
    "grid": (
        lambda: diagrams.problem_grid(131, {"PRM": np.int64(105), "ours": np.int64(106)}),
        "1 of 131 problems separates ours",
    ),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_says_what_its_data_say_and_can_be_read(name):
    """No text is cut off or covers another, and at a width of 390 pixels letters are at least eight pixels high."""
    make, said = DRAWINGS[name]
    figure = make()
    figure.canvas.draw()
    texts = [text for text in figure.axes[0].texts if text.get_text()]
    assert said in " ".join(" | ".join(text.get_text() for text in texts).replace("\N{NO-BREAK SPACE}", " ").split())
    places = [(text.get_text(), text.get_window_extent()) for text in texts]
    for text, place in places:
        assert figure.bbox.x0 <= place.x0 and place.x1 <= figure.bbox.x1 + 1, text
        assert figure.bbox.y0 - 1 <= place.y0 and place.y1 <= figure.bbox.y1 + 1, text
    for (one, here), (other, there) in itertools.combinations(places, 2):
        assert not here.padded(-1).overlaps(there.padded(-1)), (one, other)
    assert min(text.get_fontsize() for text in texts) * 390 / (72 * figure.get_size_inches()[0]) >= 8
