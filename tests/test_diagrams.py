"""Schematic drawings: they say what their data say, and nothing on them is cut off, covered or too small to read."""

import itertools

import pytest

from dreamprm_lib.show import diagrams

POOL = [True, False, False, True, False]
DRAWINGS = {  # how each drawing is made, and what must be written on it
    "map": (lambda: diagrams.pipeline(0), "6  the best\nof N"),
    **{f"map {k}": (lambda k=k: diagrams.pipeline(k), f"You are here: chapter {k}") for k in range(1, 8)},
    "prompt": (lambda: diagrams.chat_prompt(["system", "user", "prefill"], ["Write.", "Add " * 40, "x"]), "prefill"),
    "prefixes": (lambda: diagrams.prefixes(["main", "read_input", "solve"], [4, 3, 9]), "prefix 3 is the whole"),
    "long program": (lambda: diagrams.prefixes([f"function_with_a_long_name_{k}" for k in range(8)], [3] * 8), "8"),
    "rollouts": (lambda: diagrams.rollouts(["main", "solve"], [True, False, True, True]), "its label is 3/4"),
    "one rollout": (lambda: diagrams.rollouts(["main"] * 4, [False]), "its label is 0/1"),
    "pooled": (lambda: diagrams.pooled_draws((1, 2), 3, 4, False), "4 of 8 pass, where rollouts alone say 3 of 4"),
    "verdict": (diagrams.verdict_path, "expected\noutput"),
    "subsets": (lambda: diagrams.counting_subsets(POOL, 2), "pass@2 = 7/10"),
    "all of them": (lambda: diagrams.counting_subsets(POOL, 5), "1 of the 1 ways"),
    "tree": (lambda: diagrams.tree_and_mask([2, 3, 1]), "One pass reads 3 candidates"),
    "pairs": (
        lambda: diagrams.pairs_within({"easy": [(0.6, 1), (0.75, 0), (0.9, 1)], "hard": [(0.1, 0), (0.4, 1)]}),
        "here 2 of 3 are in the right order",
    ),
    "levels": (lambda: diagrams.two_levels([0.9, 0.1, 0], [0.9, 0.4, 0.7]), "upper level"),
    "failing pick": (lambda: diagrams.best_of([[0.4, 0.3], [0.7], [0.2, 0.9]], [True, False, True]), "it fails"),
    "passing pick": (lambda: diagrams.best_of([[0.4, 0.9], [0.2]], [True, False]), "candidate 0; when it is run, it"),
    "bootstrap": (lambda: diagrams.bootstrap([1, 0, -1, 1, 0, 0.5]), "the mean gain, +0.25, varies from"),
    "beam": (lambda: diagrams.beam_search([[0.3, 0.6, 0.5, 0.2], [0.7, 0.4, 0.5, 0.8]], 2), "the 2 best beginnings"),
    "grid": (lambda: diagrams.problem_grid(131, {"PRM": 105, "ours": 106}), "1 of 131 problems separates ours"),
    "paired": (lambda: diagrams.paired_table(5, 0, 126), "p = 0.062"),
}  # fmt: skip


@pytest.fixture(params=DRAWINGS, scope="module")
def drawing(request):
    make, said = DRAWINGS[request.param]
    figure = make()
    figure.canvas.draw()
    return figure, said


def texts(figure):
    return [text for text in figure.axes[0].texts if text.get_text()]


def test_it_says_what_its_data_say(drawing):
    figure, said = drawing
    written = " | ".join(text.get_text() for text in texts(figure))
    assert said in written or said in " ".join(written.replace("\N{NO-BREAK SPACE}", " ").split())


def test_no_text_is_cut_off_and_none_covers_another(drawing):
    figure, _ = drawing
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
    for text, place in boxes:
        assert figure.bbox.x0 <= place.x0 and place.x1 <= figure.bbox.x1 + 1, text
        assert figure.bbox.y0 - 1 <= place.y0 and place.y1 <= figure.bbox.y1 + 1, text
    for (one, here), (other, there) in itertools.combinations(boxes, 2):
        assert not here.padded(-1).overlaps(there.padded(-1)), (one, other)


def test_its_letters_can_be_read_on_a_phone(drawing):
    """At a width of 390 pixels the font is at least eight pixels high."""
    figure, _ = drawing
    pixels_a_point = 390 / (72 * figure.get_size_inches()[0])
    assert min(text.get_fontsize() for text in texts(figure)) * pixels_a_point >= 8


def test_a_tree_s_step_sees_what_comes_before_it_in_its_own_program():
    """Two candidates of one and two steps: three rows see S, and three more cells of the mask are filled."""
    figure = diagrams.tree_and_mask([1, 2])
    full = [p for p in figure.axes[0].patches if p.get_linewidth() > 2]
    assert len(full) == 1 + (4 + 4)  # the statement's box; S, A1 and B1 see themselves and S, B2 sees three
