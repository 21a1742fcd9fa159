"""Every figure draws from small results, has labelled axes, and is shown once; explorers redraw from their controls."""

import re
from itertools import combinations, product

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dreamprm_lib.cost_and_search import Search, State
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.errors import InputError
from dreamprm_lib.evidence.costs import Scale, growth
from dreamprm_lib.paper_scale import power_curves, published_counts
from dreamprm_lib.reward_model import reliability
from dreamprm_lib.show import figures, game, widgets
from dreamprm_lib.study.folder import Study
from dreamprm_lib.study.rows import CorrectedLabel, Program, StepLabel

PROBLEMS = [Problem(n, n, "S", d, "test", (), ()) for n, d in (("p", "easy"), ("q", "hard"))]
PROGRAMS = [Program(n, i, "x\n", ["x\n"], i == 0, "passed", 1) for n in "pq" for i in range(2)]
LABELS = [StepLabel("p", 0, k, "x", 4, k, k / 4, False) for k in range(3)] + [
    StepLabel("p", 0, 3, "x", 1, 1, 1.0, True)
]
MOVED = [CorrectedLabel("p", 0, k, k / 4, 0.5, 1.0) for k in range(4)]
METHODS = ("random", "prm_cof", "dreamprm_code", "something_new")
BOUNDED = ("random", "prm_cof", "orm", "oracle")
RATE = {"pass_rate": 0.5, "ci_low": 0.4, "ci_high": 0.7}
RANKED = {"ranking": 0.6, "ci_low": 0.5, "ci_high": 0.7}
WORLD = {"ranking": 0.8, "label_mse": 0.1}
BOTH = ("raw labels", "corrected")


def table(fixed, **columns):
    """A row for each combination of the columns' values."""
    return pd.DataFrame([{**fixed, **dict(zip(columns, row, strict=True))} for row in product(*columns.values())])


def rates(samples=(0,), methods=METHODS, **columns):
    rows = pd.DataFrame(columns)
    return table(RATE, method=methods, samples=samples).merge(rows, how="cross")


PLANTED = table(WORLD | {"rollouts": 4, "meta": 80}, bias=("none", "by state"), method=BOTH, seed=range(2))
ABLATED = table(WORLD, ablation=("λ", "warm start"), value="01", method=BOTH, seed=range(2))
MEASURED = ("mse", "gain", "held_out", "held_out_gain")
WORTH = table({f"{what}{end}": 0.1 for what in MEASURED for end in ("", "_low", "_high")}, method=("raw", "a", "b"))
WORTH = WORTH.assign(gain_low=[0.0, 0.1, -0.1], held_out_gain_low=0.0)
SEARCHED = table(RATE | {"tokens": 150}, method=("beam search", "beam search, any"))
COSTS = growth(Scale(problems=10, programs=1, test_problems=5, candidates=8))[:3].assign(profile="quick")
FINISHED, DROPPED = (
    State(f"def main():\n    x()\n\n\ndef x():\n    print({k})\n\n\nmain()\n", True, [0.4, 0.6 - k], 0.5 - k / 2)
    for k in range(2)
)
BEGUN = State("def main():\n    x()\n\n\n", False, [0.4], 0.4)
PROMPTS = pd.DataFrame({"prompt": ["a", "a", "b"], "steps": [1, 2, 3], "passed": [True, False, True]})
LAYERS = table({"ranking": 0.6, "ci_low": 0.4, "ci_high": 0.8}, layer=[1, 2], ridge=[0.1])
GAINED = {"gain": 0.1, "gain_low": 0.01, "gain_high": 0.2}
LEARNING = pd.concat([
    table(RANKED | GAINED | {"half": 8}, method=("prm_cof", "blind"), programs=("2", "all"), problems=(8, 16)),
    table(RANKED | GAINED | {"half": 0, "programs": "all", "problems": 0}, method=["mean_logprob"]),
])  # fmt: skip
LOST = {"gain": -0.05, "gain_low": -0.1, "gain_high": 0.0}
TRANSFER = table(RANKED | LOST | {"problems": 3}, kind=("text", "all"), heads=("never saw", "saw", "mean_logprob"))
PAIRS = {"p": [(["x\n", "y\n"], [0.5, 0.9]), (["z\n"], [0.2])]}
ERRORS = pd.DataFrame({"group": ["all", "all"], "steps": 2, "when": ["before", "after"], "error": [0.2, 0.1]})
SENTENCES = ["Add all numbers. ", "Print the sum."]
TRUTH = np.array([0.2, 0.5, 0.9])

SPENT = table({"mse": 0.1, "mse_low": 0.05, "mse_high": 0.2}, method=("evenly", "where it matters"), rollouts=(2, 4))
REASONS = table({"reason": "direction", "measure": "error gone", "gain": 0.4, "high": 0.6}, intervention="ab")
BIAS = table({"trait": "step", "states": 2, "bias": -0.1, "bias_low": -0.2, "bias_high": 0.0}, group="12")
FOREST = table(
    {"method": "prm_cof", "baseline": "random", "difference": 0.1, "ci_low": -0.1, "ci_high": 0.3}, samples=(0, 2)
)
SETS = FOREST.iloc[[0, 1, 1]].assign(set=["seen", "new", "codeio"], problems=[4, 2, 1], p_holm=0.05)
CONFIRMED = FOREST.assign(set=["seen", "new"], problems=[4, 2], p_holm=0.05)
PRICED = rates((0, 1, 2), n=[1, 2], tokens=[100, 200], flops=[1e12, 2e12], seconds=[10.0, 20.0])[1:]  # a level first
SEARCHES = pd.concat([rates(n=[1, 2], tokens=[100, 200]), SEARCHED], ignore_index=True)
LEVELS = rates((0, 1, 2), difficulty=["easy", "overall"], n=[4, 4], problems=[1, 2])
BEAM = Search("p", 1, [[BEGUN], [FINISHED, DROPPED]], 90)
RETRAINED = pd.DataFrame({"training": ["a", "b", "b"], "pass_rate": [0.5, 0.4, 0.6]})
PLACES = pd.DataFrame({"splitter": ["a", "b"], "program": 0, "place": ["in a body", "whole program"]})
RELIABLE = {when: reliability([0.1, 0.9], [0, 1]) for when in ERRORS.when}
OVERALL = published_counts().query("difficulty == 'overall'")
ROUNDS = [game.Round(PROBLEMS[0], tuple(PROGRAMS[:2]), (0.3, 0.6))] * 2

ANSWERS = np.array([[0, 0], [0, 0], [1, -1]])
FRONTIER = table({"pass_rate": 0.5, "ci_low": 0.4, "ci_high": 0.6}, method=["b4", "b4"], runs=[2, 4])
RISK = pd.DataFrame({"coverage": [0.5, 1.0], "risk": [0.0, 0.5]})

FATES = pd.DataFrame([[2, 1, 4, 3], [2, 1, 4, 3]], ["all", "wrong answer"], list(figures.FATES))
DRAWINGS = [  # a part of a figure's title, and what it is drawn from
    ("Largest gap between formula and nudging", figures.formula_figure, [0.1, -0.2], [0.1, -0.2]),
    ("these clearly help: a (40 %)", figures.reasons_figure, REASONS.assign(low=[0.2, -0.1])),
    ("changes the gain most (+0.00 to +0.00)", figures.ablation_figure, ABLATED),
    ("than the raw ones: a; labels that clearly teach a better ranking: none", figures.worth_figure, WORTH),
    ("from -10 points for `step: 1`", figures.bias_figure, BIAS),
    ("a: 50 % chains, 50 % pass; b: 100 % chains, 100 % pass", figures.prompt_comparison_figure, PROMPTS),
    ("33 % of the labels from rollouts are 0 or 1", figures.labels_figure, LABELS),
    ("70 % of the rollouts (50 % to 90 %) give", figures.allocation_figure, SPENT, 4, (0.7, 0.5, 0.9)),
    ("4 rollouts is off by 0.07 on average", figures.noise_figure, TRUTH[:2], TRUTH[:2] + 0.07, 4, 16),
    ("Selection matters for 2 of 2 problems", figures.headroom_figure, PROBLEMS, PROGRAMS),
    ("with a ranking of 0.60", figures.choice_figure, LAYERS, "layer", "ridge", {"layer": 2, "ridge": 0.1}),
    ("2 go up and 1 go down", figures.correction_figure, pd.Series([0.7, 0.6, 0.65]), 1, MOVED, [True] * 4),
    ("0.60; 2 of 2 others lie in its", figures.ranking_figure, table(RANKED, method=["orm", "prm_cof, mse", "first"])),
    ("From 8 to 16 problems: prm_cof +0.100, blind +0.100; still", figures.learning_figure, LEARNING),
    ("better, by 2.5 nats; most of all “Print the sum.” (-3.0)", figures.explained_figure, SENTENCES, [0.5, -3.0]),
    ("The program that passes explains", figures.explained_figure, SENTENCES, [0.5, 3.0]),
    ("gain -0.050 (-0.100 to +0.000) on heads that never did: not", figures.transfer_figure, TRANSFER),
    ("Of 10 failing programs, 2 became right, and 3 came back unchanged", figures.repairs_figure, FATES),
    ("caught in p (0.20, the passing one 0.90)", figures.pairs_figure, PAIRS),
    ("Calibration error of all: before 0.20, after 0.10", figures.calibration_figure, RELIABLE, ERRORS),
    ("Clean outcomes gain +0.00", figures.planted_map, PLANTED),
    ("+0.00 in ranking with bias `none`, at most +0.00 elsewhere", figures.planted_figure, PLANTED),
    ("Best of 4: random solves 50 %, prm_cof solves 50 %", figures.curve_figure, rates(n=[1, 2, 4])),
    ("no sample run, random solves 50 %, prm_cof", figures.curve_figure, rates((0, 1, 2), n=[1, 2, 4])),
    ("selectors gain +0 to +0 points on random, oracle +0", figures.curve_figure, rates(methods=BOUNDED, n=[1, 2])),
    ("beam search solves 50 %, best-of-N by prm_cof about 50 %", figures.search_figure, SEARCHES),
    ("the largest cluster, of 2, passes", figures.answers_figure, ANSWERS, [True, True, False]),
    ("b4 solves most, 50 % (40 to 60 %), with 2 runs a candidate", figures.frontier_figure, FRONTIER),
    ("Answering half of the problems, b4 is wrong on 0 %", figures.risk_figure, {"b4": RISK}),
    ("the pick (0.50) passes", figures.beam_figure, BEAM, {FINISHED.text: True, DROPPED.text: False}),
    ("easy 50 % (random 50 %), overall 50 % (random 50 %)", figures.difficulty_figure, LEVELS),
    ("clear of 0: no sample run, 0 of 1; after 2 samples, 0 of 1", figures.forest_figure, FOREST),
    ("Confirmed on 2 new problems: nothing", figures.sets_figure, CONFIRMED),
    ("on 2 new problems: nothing. On 1 codeio problem: nothing", figures.sets_figure, SETS),
    ("2 new problems: prm_cof +10 points on random", figures.sets_figure, CONFIRMED.assign(ci_low=0.01)),
    ("2 new problems: nothing", figures.sets_figure, CONFIRMED.assign(ci_low=0.01, p_holm=0.125)),
    ("has no new problems", figures.sets_figure, CONFIRMED[:1]),
    ("solves 50 % with 200 tokens; after 2 samples", figures.cost_figure, PRICED),
    ("Trained on b, reward models solve 40 to 60 %", figures.spread_figure, table(RATE, training="ab"), RETRAINED),
    ("b and a (tau 0.00)", figures.agreement_figure, table({"tau": -0.001}, method="abc", other="abc")),
    ("DreamPRM-Code is 1 problem of 131 ahead of PRM-CoF", figures.published_figure, OVERALL),
    ("", figures.costs_figure, COSTS),
    ("a: 100 % of its prefixes end within a function", figures.places_figure, PLACES),
    ("passes (filled) in 0 of 2 rounds", game.rounds_figure, ROUNDS),
    ("only a label moves the score", figures.pulls_figure, 0.9, 0.0, (0, 1), (0.5, 0.9)),
    ("a true gain of 1 point", figures.power_figure, power_curves([0.01, 0.05], [0.05, 0.1], [50, 100]), 131),
    ("0.28 after 2 rollouts, 0.20 after 4 rollouts", figures.distribution_grid, [2, 4], 0.2),
]


@pytest.fixture(scope="module", params=DRAWINGS, ids=lambda case: case[1].__name__)
def drawing(request):
    said, make, *results = request.param
    figure = make(*results)
    figure.draw_without_rendering()
    return figure, said


def finding(figure):
    """The title of a figure, on one line."""
    return " ".join(figure.get_suptitle().split("\n")).replace("\xa0", " ")


def words(figure):
    return [t for t in figure.findobj(mpl.text.Text) if t.get_visible() and t.get_text().strip()]


def test_a_figure_has_a_finding_and_labelled_axes_and_is_shown_once(drawing):
    figure, said = drawing
    assert finding(figure) and said in finding(figure)
    assert figure.get_supxlabel() or any(axes.get_xlabel() or axes.get_ylabel() for axes in figure.axes)
    assert not plt.get_fignums()


def test_a_key_hides_no_panel_and_names_of_lines_hide_no_other(drawing):
    for legend in drawing[0].legends:
        assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in drawing[0].axes)
    for axes in drawing[0].axes:
        names = [t for t in axes.texts if getattr(t, "anncoords", None) == "axes fraction"]
        boxes = [mpl.text.Text.get_window_extent(t) for t in names]
        assert not axes.get_legend() and not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_a_figure_can_be_read_on_a_phone_and_in_print(drawing):
    """At 390 pixels letters are at least half as large as on paper: the figure is narrow, and none are small."""
    assert drawing[0].get_figwidth() <= 7.5
    assert {t.get_text(): t.get_fontsize() for t in words(drawing[0]) if t.get_fontsize() < 9} == {}


def test_no_two_methods_that_stand_out_look_alike():
    """In lines and without them: neither colour nor marker is shared, nor is the grey of all others."""
    for looks in zip(*figures.METHOD_STYLE.values(), figures.method_style("something_new"), strict=True):
        assert len(set(looks)) == len(figures.METHOD_STYLE) + 1


def test_one_of_a_thing_is_no_plural():
    for figure in (
        figures.headroom_figure(PROBLEMS[:1], PROGRAMS[:1]),
        figures.difficulty_figure(rates(difficulty=["easy"], n=[4], problems=[1])),
        figures.labels_figure(LABELS[3:]),
        figures.distribution_grid([1], 0.6),
        figures.noise_figure(np.array([0.25]), np.array([0.3]), 4, 16),
    ):
        said = " ".join(t.get_text() for t in words(figure))
        assert not re.search(r"\b1 (candidates|problems|test problems|labels|rollouts|prefixes)\b", said), said
        assert re.search(r"\b1 (candidate|problem|label|rollout|prefix)\b", said)


def test_a_listing_shows_names_scores_and_cuts():
    texts = ["def main():\n    pass\n\n", "def add(): pass\n"]
    scored = figures.steps_figure(["main", "add"], texts, [0.25, 0.75]).axes[0].texts
    cut = figures.cuts_figure(texts, [1, 4], [False, True]).axes[0].texts
    shown = {text.get_text() for text in [*scored, *cut]}
    assert {"step 1: main  score 0.25", "step 2: add  score 0.75", "def add(): pass", "    pass"} <= shown
    assert {"prefix 1 ends here, does not parse", "prefix 2 ends here"} <= shown


def test_a_saved_figure_carries_its_caption_and_is_the_same_twice(tmp_path):
    study, contents = Study(tmp_path, "s"), []
    paths = [study.folder / "figures" / f"01_x.{kind}" for kind in ("png", "svg", "pdf")]
    for _ in range(2):
        study.save_figure(figures.costs_figure(COSTS), "01_x", "What it costs.")
        contents.append([p.read_bytes() for p in paths])
    assert contents[0] == contents[1] and Image.open(paths[0]).info["Description"] == "What it costs."
    assert b"What it costs." in contents[0][1]
    assert contents[0][2].startswith(b"%PDF") and b"(What it costs.)" in contents[0][2]


def test_an_explorer_is_drawn_again_when_a_control_moves_and_says_what_is_wrong():
    drawn = []

    def render(n, name):
        drawn.append((n, name))
        if n > 6:
            raise InputError("n <= 6, please.")
        return figures.distribution_grid([n], 0.5)

    control = widgets.slider(1, 8, "n", 3)
    box = widgets.explorer(render, n=control, name=widgets.choice(["a", "b"], "name", "b"))
    _, trouble, picture = box.children
    first = bytes(picture.value)
    control.value = 5
    assert drawn == [(3, "b"), (5, "b")] and first.startswith(b"\x89PNG") and bytes(picture.value) != first
    control.value = 7
    assert "n &lt;= 6, please." in trouble.value
    control.value = 2
    assert not trouble.value


@pytest.mark.parametrize("method", ["prm_cof", "oracle", "consensus", "mean_logprob", "prm_weights"])
def test_a_method_has_one_colour_in_every_figure(method):
    priced = rates(methods=("random", method), n=[1, 2], tokens=[100, 200], flops=1e12, seconds=1.0)
    alone = rates(methods=(method,), n=[1, 2], tokens=[100, 200])
    for figure in (
        figures.curve_figure(alone),
        figures.cost_figure(priced),
        figures.ranking_figure(table(RANKED, method=[f"{method}, mse"])),
        figures.difficulty_figure(rates(methods=(method,), difficulty=["easy"], n=[4], problems=[2])),
        figures.search_figure(pd.concat([alone, SEARCHED], ignore_index=True)),
    ):
        color = mpl.colors.to_hex(figures.method_style(method)[0])
        assert color in {mpl.colors.to_hex(line.get_color()) for line in figure.axes[0].lines}


def test_costs_are_labelled_by_their_units_and_dashed_after_samples():
    axes = figures.cost_figure(PRICED).axes
    assert [panel.get_xlabel().split(" a problem")[0] for panel in axes] == ["tokens", "TFLOPs", "seconds"]
    drawn = {line.get_label(): line.get_linestyle() for line in axes[0].lines}
    assert drawn["prm_cof"] == "-" and drawn["prm_cof, after 2 samples"] == "--"
    assert "prm_cof, after 1 sample" not in drawn
