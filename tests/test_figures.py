"""Every figure draws from small results, has labelled axes, and is shown once; explorers redraw from their controls."""

import re
from itertools import combinations, product

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.errors import InputError
from dreamprm_lib.evidence.costs import Scale, growth
from dreamprm_lib.paper_scale import power_curves, published_counts
from dreamprm_lib.reward_model import reliability
from dreamprm_lib.show import figures, game, widgets
from dreamprm_lib.step_search import Search, State
from dreamprm_lib.study.folder import Study
from dreamprm_lib.study.rows import CorrectedLabel, Program, StepLabel

PROBLEMS = [Problem(n, n, "S", d, "test", (), ()) for n, d in (("p", "easy"), ("q", "hard"))]
PROGRAMS = [Program(n, i, "x\n", ["x\n"], i == 0, "passed", 1) for n in "pq" for i in range(2)]
LABELS = [StepLabel("p", 0, k, "x", 4, k, k / 4, False) for k in range(3)] + [
    StepLabel("p", 0, 3, "x", 1, 1, 1.0, True)
]
MOVED = [CorrectedLabel("p", 0, k, k / 4, 0.5, 1.0) for k in range(4)]
METHODS = ("random", "prm_cof", "dreamprm_code", "something_new")


def rates(samples=(0,), **columns):
    rows = [
        dict(
            method=m,
            samples=s,
            pass_rate=0.5,
            ci_low=0.4,
            ci_high=0.7,
            **{k: v for k, v in zip(columns, values, strict=True)},
        )
        for m in METHODS
        for s in samples
        for values in zip(*columns.values(), strict=True)
    ]
    return pd.DataFrame(rows)


PLANTED = pd.DataFrame(
    [
        dict(bias=b, rollouts=4, meta=80, method=m, ranking=0.8, label_mse=0.1)
        for b in ("none", "by state")
        for m in ("raw labels", "corrected")
        for _ in range(2)
    ]
)
COSTS = growth(Scale(problems=10, programs=1, test_problems=5, candidates=8))[:3].assign(profile="quick")
PUBLISHED = published_counts().query("difficulty == 'overall'")
SEARCHED = pd.DataFrame(
    [dict(method=m, tokens=150, pass_rate=0.5, ci_low=0.4, ci_high=0.6) for m in ("beam search", "beam search, any")]
)
FINISHED, DROPPED = (
    State(f"def main():\n    x()\n\n\ndef x():\n    print({k})\n\n\nmain()\n", True, [0.4, 0.6 - k], 0.5 - k / 2)
    for k in range(2)
)

ORACLE = pd.DataFrame(
    [
        {"rollouts": n, "method": m}
        | {f"{what}{end}": 0.1 for what in ("mse", "ranking") for end in ("", "_low", "_high")}
        for n in (1, 4)
        for m in ("raw labels", "corrected")
    ]
)
ABLATED = pd.DataFrame(
    [
        dict(ablation=a, value=v, method=m, seed=s, ranking=0.7, label_mse=0.1)
        for a, v, m, s in product(("λ", "warm start"), ("0", "1"), ("raw labels", "corrected"), range(2))
    ]
)

DRAWINGS = {
    "formula": lambda: figures.formula_figure([0.1, -0.2], [0.1, -0.2]),
    "ablation": lambda: figures.ablation_figure(ABLATED),
    "oracle": lambda: figures.oracle_figure(ORACLE, ORACLE[ORACLE.rollouts == 4]),
    "movement": lambda: figures.movement_figure({"corrected": (np.zeros(3), np.ones(3))}, np.array([0.2, 0.5, 0.9])),
    "bias": lambda: figures.bias_figure(
        pd.DataFrame([dict(trait="step", group=g, states=2, bias=-0.1, bias_low=-0.2, bias_high=0.0) for g in "12"])
    ),
    "tree": lambda: figures.tree_mask_figure(np.tril(np.ones((3, 3), bool)), ["statement", "A", "A"]),
    "prompts": lambda: figures.prompt_comparison_figure(
        pd.DataFrame({"prompt": ["a", "a", "b"], "steps": [1, 2, 3], "passed": [True, False, True]})
    ),
    "labels": lambda: figures.labels_figure(LABELS),
    "noise": lambda: figures.noise_figure(np.array([0.25, 0.5]), np.array([0.3, 0.4]), 4, 16),
    "headroom": lambda: figures.headroom_figure(PROBLEMS, PROGRAMS),
    "choice": lambda: figures.choice_figure(
        pd.DataFrame({"layer": [1, 2], "ridge": [0.1, 0.1], "ranking": [0.5, 0.6], "ci_low": 0.4, "ci_high": 0.8}),
        "layer",
        "ridge",
        {"layer": 2, "ridge": 0.1},
    ),
    "correction": lambda: figures.correction_figure(pd.Series([0.7, 0.6, 0.65]), 1, MOVED, [True] * 4),
    "ranking": lambda: figures.ranking_figure(
        pd.DataFrame({"method": ["orm", "prm_cof, mse", "shortest"], "ranking": 0.6, "ci_low": 0.5, "ci_high": 0.7})
    ),
    "calibration": lambda: figures.calibration_figure(
        {when: reliability([0.1, 0.9], [0, 1]) for when in ("before", "after")},
        pd.DataFrame({"group": ["all", "all"], "steps": 2, "when": ["before", "after"], "error": [0.2, 0.1]}),
    ),
    "planted map": lambda: figures.planted_map(PLANTED),
    "planted": lambda: figures.planted_figure(PLANTED),
    "curve": lambda: figures.curve_figure(rates(n=[1, 2, 4])),
    "curves after samples": lambda: figures.curve_figure(rates((0, 1, 2), n=[1, 2, 4])),
    "search": lambda: figures.search_figure(
        pd.concat([rates(n=[1, 2]).assign(tokens=[100, 200] * len(METHODS)), SEARCHED], ignore_index=True)
    ),
    "beam": lambda: figures.beam_figure(
        Search("p", 1, [[State("def main():\n    x()\n\n\n", False, [0.4], 0.4)], [FINISHED, DROPPED]], 90),
        {FINISHED.text: True, DROPPED.text: False},
    ),
    "difficulty": lambda: figures.difficulty_figure(
        rates((0, 1, 2), difficulty=["easy", "overall"], n=[4, 4], problems=[1, 2])
    ),
    "forest": lambda: figures.forest_figure(
        pd.DataFrame(
            [
                dict(method="prm_cof", baseline="random", samples=s, difference=0.1, ci_low=-0.1, ci_high=0.3)
                for s in (0, 2)
            ]
        )
    ),
    "cost": lambda: figures.cost_figure(
        rates((0, 1, 2), n=[1, 2], tokens=[100, 200], flops=[1e12, 2e12], seconds=[10.0, 20.0])[1:]  # one point first
    ),
    "spread": lambda: figures.spread_figure(
        pd.DataFrame({"training": ["a", "b"], "pass_rate": 0.5, "ci_low": 0.4, "ci_high": 0.7}),
        pd.DataFrame({"training": ["a", "b", "b"], "pass_rate": [0.5, 0.4, 0.6]}),
    ),
    "agreement": lambda: figures.agreement_figure(
        pd.DataFrame([dict(method=m, other=o, tau=1.0 if m == o else -0.001) for m in "abc" for o in "abc"])
    ),
    "calibration of methods": lambda: figures.calibration_figure(
        {"a": reliability([0.1, 0.9], [0, 1])},
        pd.DataFrame({"group": ["step 1"], "steps": 2, "when": ["a"], "error": [0.0]}),
    ),
    "published": lambda: figures.published_figure(PUBLISHED),
    "costs": lambda: figures.costs_figure(COSTS),
    "places": lambda: figures.places_figure(
        pd.DataFrame({"splitter": ["a", "b"], "program": 0, "place": ["in a body", "whole program"]})
    ),
    "rounds": lambda: game.rounds_figure([game.Round(PROBLEMS[0], tuple(PROGRAMS[:2]), (0.3, 0.6))] * 2),
    "pulls": lambda: figures.pulls_figure(0.9, 0.0, (0, 1), (0.5, 0.9)),
    "power": lambda: figures.power_figure(power_curves([0.01, 0.05], [0.05, 0.1], [50, 100]), 131),
    "distributions": lambda: figures.distribution_grid([2, 4], 0.3),
}


def finding(figure):
    """The title of a figure, on one line."""
    return " ".join(figure.get_suptitle().split("\n")).replace("\xa0", " ")


def words(figure):
    return [t for t in figure.findobj(mpl.text.Text) if t.get_visible() and t.get_text().strip()]


@pytest.mark.parametrize("name", DRAWINGS)
class TestEveryFigure:
    def test_it_has_labelled_axes_and_is_shown_once(self, name):
        figure = DRAWINGS[name]()
        assert figure.get_supxlabel() or any(axes.get_xlabel() or axes.get_ylabel() for axes in figure.axes)
        assert not plt.get_fignums()

    def test_a_key_hides_no_panel_and_names_of_lines_hide_no_other(self, name):
        figure = DRAWINGS[name]()
        figure.draw_without_rendering()
        for legend in figure.legends:
            assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes)
        assert not any(axes.get_legend() for axes in figure.axes)
        for axes in figure.axes:
            names = [t for t in axes.texts if getattr(t, "anncoords", None) == "axes fraction"]
            boxes = [mpl.text.Text.get_window_extent(t) for t in names]
            assert not any(a.overlaps(b) for a, b in combinations(boxes, 2)), [t.get_text() for t in names]

    def test_it_can_be_read_on_a_phone_and_in_print(self, name):
        """At 390 pixels letters are at least half as large as on paper: the figure is narrow, and none are small."""
        figure = DRAWINGS[name]()
        assert figure.get_figwidth() <= 7.5
        assert {t.get_text(): t.get_fontsize() for t in words(figure) if t.get_fontsize() < 9} == {}


FINDINGS = {
    "curve": "Best of 4: selectors 50 to 50 %, random 50 %",
    "curves after samples": "no sample run, selectors 50 to 50 %, random 50 %; after 2 samples",
    "movement": "corrected: 1 nearer, 2 farther",
    "forest": "clear of 0: no sample run, 0 of 1; after 2 samples, 0 of 1",
    "headroom": "Selection matters for 2 of 2 problems",
    "published": "DreamPRM-Code is 1 problem of 131 ahead of PRM-CoF",
    "ranking": "ranks best, 0.60; 2 of 2 others lie in its interval",
    "search": "For 150 tokens a problem beam search solves 50 %, best-of-N by prm_cof about 50 %",
    "power": "With 131 problems a true gain of 1 points",
    "planted": "Clean outcomes gain +0.00 in ranking with bias `none`, at most +0.00 elsewhere",
    "calibration": "Calibration error of all: before 0.20, after 0.10",
    "prompts": "a: 50 % chains, 50 % pass; b: 100 % chains, 100 % pass",
    "noise": "2 prefixes: the label from 4 rollouts is off by 0.07 on average (against 16)",
}


@pytest.mark.parametrize("name, said", FINDINGS.items(), ids=FINDINGS)
def test_a_title_says_what_was_found(name, said):
    assert said in finding(DRAWINGS[name]())


def test_no_two_methods_that_stand_out_look_alike():
    """In lines and without them: neither colour nor marker is shared, nor is the grey of all others."""
    assert "mean_logprob" in figures.METHOD_STYLE
    for looks in zip(*figures.METHOD_STYLE.values(), figures.method_style("something_new"), strict=True):
        assert len(set(looks)) == len(figures.METHOD_STYLE) + 1


def colors_of(figure):
    """The colour of each line that a figure of methods draws, by its label."""
    lines = [line for axes in figure.axes for line in axes.lines if not line.get_label().startswith("_")]
    return {line.get_label().split(",")[0]: mpl.colors.to_hex(line.get_color()) for line in lines}


@pytest.mark.parametrize("method", ["prm_cof", "oracle", "consensus", "mean_logprob", "prm_weights"])
def test_a_method_has_one_colour_in_every_figure(method):
    color = mpl.colors.to_hex(figures.method_style(method)[0])
    table = rates(n=[1, 2]).query("method == 'random'").assign(method=method)
    priced = pd.concat([table, table.assign(method="random")]).assign(tokens=[100, 200] * 2, flops=1e12, seconds=1.0)
    assert colors_of(figures.curve_figure(table))[method] == color
    assert colors_of(figures.cost_figure(priced))[method] == color
    ranked = pd.DataFrame({"method": [f"{method}, mse"], "ranking": 0.6, "ci_low": 0.5, "ci_high": 0.7})
    level = rates(difficulty=["easy"], n=[4], problems=[2]).iloc[:1].assign(method=method)
    searched = table.assign(tokens=[100, 200])
    searched = pd.concat([searched, SEARCHED], ignore_index=True)
    for figure in (figures.ranking_figure(ranked), figures.difficulty_figure(level), figures.search_figure(searched)):
        assert color in {mpl.colors.to_hex(line.get_color()) for line in figure.axes[0].lines}


@pytest.mark.parametrize(
    "after, said, counts",
    [
        ([0.2, 0.5, 0.9], "no label moved", {"3"}),
        ([0.2, 0.5004, 0.9], "no label moved", {"3"}),
        ([0.3, 0.5, 0.9], "0 nearer, 1 farther", {"1", "2"}),
        ([0.3, 0.1, 0.95], "1 nearer, 2 farther", {"1", "2"}),
    ],
)
def test_labels_that_moved_are_counted_by_whether_they_came_nearer(after, said, counts):
    before = np.array([0.2, 0.5, 0.9])
    figure = figures.movement_figure({"corrected": (before, np.array(after))}, np.array([0.0, 0.4, 1.0]))
    assert finding(figure) == f"corrected: {said}"
    assert {t.get_text() for t in figure.axes[0].texts} - {""} == counts


ONE_OF_A_THING = {
    "headroom": lambda: figures.headroom_figure(PROBLEMS[:1], PROGRAMS[:1]),
    "difficulty": lambda: figures.difficulty_figure(rates(difficulty=["easy"], n=[4], problems=[1])),
    "labels": lambda: figures.labels_figure(LABELS[3:]),
    "distribution": lambda: figures.distribution_grid([1], 0.6),
    "noise": lambda: figures.noise_figure(np.array([0.25]), np.array([0.3]), 4, 16),
}


@pytest.mark.parametrize("name", ONE_OF_A_THING)
def test_one_of_a_thing_is_no_plural(name):
    said = " ".join(t.get_text() for t in words(ONE_OF_A_THING[name]()))
    assert not re.search(r"\b1 (candidates|problems|test problems|labels|rollouts|prefixes)\b", said), said
    assert re.search(r"\b1 (candidate|problem|label|rollout|prefix)\b", said)


def test_costs_are_labelled_by_their_units_and_dashed_after_samples():
    axes = DRAWINGS["cost"]().axes
    assert [panel.get_xlabel().split(" a problem")[0] for panel in axes] == ["tokens", "TFLOPs", "seconds"]
    drawn = {line.get_label(): line.get_linestyle() for line in axes[0].lines}
    assert (
        drawn["prm_cof"] == "-" and drawn["prm_cof, after 2 samples"] == "--" and "prm_cof, after 1 sample" not in drawn
    )


def test_steps_show_names_and_scores():
    figure = figures.steps_figure(["main", "add"], ["def main():\n    pass\n\n", "def add(): pass\n"], [0.25, 0.75])
    shown = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "step 1: main" in shown and "score 0.75" in shown and "def add(): pass" in shown


def test_a_listing_marks_every_cut_and_which_prefix_does_not_parse():
    figure = figures.cuts_figure(["def main():\n    pass\n\n", "def add(): pass\n"], [1, 4], [False, True])
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert {"prefix 1 ends here, does not parse", "prefix 2 ends here", "    pass"} <= set(shown)


def test_a_saved_figure_carries_its_caption_and_is_the_same_twice(tmp_path):
    from PIL import Image

    study = Study(tmp_path, "s")
    paths = [study.folder / "figures" / f"01_x.{kind}" for kind in ("png", "svg", "pdf")]
    study.save_figure(DRAWINGS["costs"](), "01_x", "What it costs.")
    first = [p.read_bytes() for p in paths]
    study.save_figure(DRAWINGS["costs"](), "01_x", "What it costs.")
    assert [p.read_bytes() for p in paths] == first
    assert Image.open(paths[0]).info["Description"] == "What it costs."
    assert b"What it costs." in first[1] and first[2].startswith(b"%PDF") and b"(What it costs.)" in first[2]


def test_an_explorer_is_drawn_again_when_a_control_moves():
    drawn = []

    def render(n, name):
        drawn.append((n, name))
        return figures.distribution_grid([n], 0.5)

    control = widgets.slider(1, 8, "n", 3)
    box = widgets.explorer(render, n=control, name=widgets.choice(["a", "b"], "name", "b"))
    picture = box.children[-1]
    first = bytes(picture.value)
    control.value = 5
    assert drawn == [(3, "b"), (5, "b")]
    assert first.startswith(b"\x89PNG") and bytes(picture.value) != first


def test_an_explorer_says_what_is_wrong_and_goes_on():
    def render(n):
        if n > 3:
            raise InputError("n <= 3, please.")
        return DRAWINGS["costs"]()

    control = widgets.slider(1, 8, "n", 5)
    _, trouble, picture = widgets.explorer(render, n=control).children
    assert "n &lt;= 3, please." in trouble.value and not picture.value
    control.value = 2
    assert not trouble.value and picture.value
