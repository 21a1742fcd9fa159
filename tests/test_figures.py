"""Every figure draws from small results, has labelled axes, and is shown once; explorers redraw from their controls."""

import re
from itertools import product

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.transforms import Bbox

from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.errors import InputError
from dreamprm_lib.evidence.costs import Scale, growth
from dreamprm_lib.paper_scale import power_curves, published_counts
from dreamprm_lib.reward_model import reliability
from dreamprm_lib.show import figures, widgets
from dreamprm_lib.show.game import Round
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
        1.3,
    ),
    "planted map": lambda: figures.planted_map(PLANTED),
    "planted": lambda: figures.planted_figure(PLANTED),
    "planted bars": lambda: figures.planted_bars(PLANTED[PLANTED.bias == "none"]),
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
    "rounds": lambda: figures.rounds_figure([Round(PROBLEMS[0], tuple(PROGRAMS[:2]), (0.3, 0.6))] * 2),
    "pulls": lambda: figures.pulls_figure(0.9, 0.0, (0, 1), (0.5, 0.9)),
    "power": lambda: figures.power_figure(power_curves([0.01, 0.05], [0.05, 0.1], [50, 100]), 131),
    "distribution": lambda: figures.distribution_figure(np.array([0, 0.5, 1]), np.array([0.2, 0.5, 0.3]), 0.4),
    "distributions": lambda: figures.distribution_grid([2, 4], 0.3),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_figure_has_labelled_axes_and_is_shown_once(name):
    figure = DRAWINGS[name]()
    assert all(axes.get_xlabel() or axes.get_xticklabels() for axes in figure.axes)
    assert any(axes.get_xlabel() or axes.get_ylabel() for axes in figure.axes)
    assert not plt.get_fignums()
    figure.canvas.draw()


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_key_hides_nothing(name):
    """It lies outside of every panel."""
    figure = DRAWINGS[name]()
    figure.canvas.draw()
    for legend in [*figure.legends, *(axes.get_legend() for axes in figure.axes)]:
        if legend is not None:
            box = legend.get_window_extent()
            for axes in figure.axes:
                inner = Bbox.intersection(box, axes.get_window_extent())
                assert inner is None or min(inner.width, inner.height) < 1, name


SHOWN = {
    "6.13": ["random", "orm", "prm_cof", "prm_weights", "prm_recalibrated", "prm_likelihood", "dreamprm_code",
             "prm_weak", "prm_weak_corrected", "prm_weak_recalibrated", "oracle"],
    "06_free": ["random", "prm_cof", "first", "mean_logprob", "shortest", "longest", "consensus", "public_samples",
                "prm_cof x consensus", "oracle"],
    "evaluate": ["random", "first", "shortest", "longest", "prm", "oracle"],
    "others": ["random", "prm_cof", "prm_pairwise", "prm_contrastive", "mean_logprob", "blind", "oracle"],
}  # fmt: skip


@pytest.mark.parametrize("methods", [*SHOWN.values(), list(figures.METHOD_STYLE)], ids=[*SHOWN, "all"])
def test_no_two_methods_look_alike(methods):
    """In lines, and without them: neither colour nor marker is shared."""
    table = pd.concat([rates(n=[1, 2])[:2].assign(method=m, difficulty="easy", problems=1) for m in methods])
    for axes in (figures.curve_figure(table).axes[0], figures.difficulty_figure(table[table.n == 2]).axes[0]):
        labelled = [h for h in axes.get_legend_handles_labels()[0]]
        lines = [getattr(h, "lines", [h])[0] for h in labelled]
        assert len(lines) == len(methods)
        assert len({mpl.colors.to_hex(line.get_color()) for line in lines}) == len(methods)
        assert len({str(line.get_marker()) for line in lines}) == len(methods)


@pytest.mark.parametrize("method", ["prm_cof", "oracle", "consensus", "prm_weak"])
def test_a_method_looks_the_same_whoever_stands_beside_it(method):
    alone, among = (figures.method_styles(beside)[method] for beside in ([method], ["new", "newer", *METHODS, method]))
    assert alone == among


@pytest.mark.parametrize(
    "methods", [["raw labels", "meta only", "recalibrated", "corrected"], ["corrected", "weights"]]
)
@pytest.mark.parametrize("order", [1, -1])
def test_a_colour_of_known_truth_means_the_same_in_both_figures(methods, order):
    rows = PLANTED.iloc[:1]
    table = pd.concat([rows.assign(method=m, ranking=0.9) for m in methods[::order]])
    bars = figures.planted_bars(table).axes[0]
    points = figures.planted_figure(table).axes[0]
    drawn = {
        m: mpl.colors.to_rgb(line.get_color()) for m, line in zip(methods[::order], points.lines[1::2], strict=False)
    }
    names = [text.get_text() for text in bars.get_yticklabels()]
    for name, patch in zip(names, [c.patches[0] for c in bars.containers], strict=True):
        wanted = mpl.colors.to_rgb(drawn[name])
        hue, wanted_hue = (mpl.colors.rgb_to_hsv(color)[0] for color in (patch.get_facecolor()[:3], wanted))
        assert hue == pytest.approx(wanted_hue, abs=0.05), name  # seaborn makes areas a little paler


@pytest.mark.parametrize(
    "after, said",
    [
        ([0.2, 0.5, 0.9], "no label moved"),
        ([0.2, 0.5004, 0.9], "no label moved"),
        ([0.3, 0.5, 0.9], "1 of 3 labels moved"),
        ([0.3, 0.1, 0.4], "3 of 3 labels moved"),
    ],
)
def test_what_did_not_move_is_said(after, said):
    before = np.array([0.2, 0.5, 0.9])
    axes = figures.movement_figure({"corrected": (before, np.array(after))}, np.array([0.0, 0.4, 1.0])).axes[0]
    assert (axes.get_title() or axes.get_title(loc="left")) == f"corrected:\n{said}"
    by_name = {line.get_label(): len(line.get_xdata()) for line in axes.lines}
    moved = int(np.sum(np.abs(before - after) > 1e-3))
    assert by_name["not moved"] == 3 - moved and by_name["nearer to the oracle"] + by_name["farther from it"] == moved


@pytest.mark.parametrize("name", ["headroom", "difficulty", "labels", "distribution", "noise"])
def test_one_of_a_thing_is_no_plural(name):
    one = {
        "headroom": lambda: figures.headroom_figure(PROBLEMS[:1], PROGRAMS[:1]),
        "difficulty": lambda: figures.difficulty_figure(rates(difficulty=["easy"], n=[4], problems=[1])),
        "labels": lambda: figures.labels_figure(LABELS[3:]),
        "distribution": lambda: figures.distribution_figure(np.array([0, 1]), np.array([0.4, 0.6]), 0.6),
        "noise": lambda: figures.noise_figure(np.array([0.25]), np.array([0.3]), 4, 16),
    }[name]()
    words = " ".join(t.get_text() for t in one.findobj(mpl.text.Text))
    assert not re.search(r"\b1 (candidates|problems|test problems|labels|rollouts|prefixes)\b", words), words
    assert re.search(r"\b1 (candidate|problem|label|rollout|prefix)\b", words)


def test_costs_are_labelled_by_their_units_and_dashed_after_samples():
    axes = DRAWINGS["cost"]().axes
    assert [panel.get_xlabel().split(" a problem")[0] for panel in axes] == ["tokens", "TFLOPs", "seconds"]
    drawn = {line.get_label(): line.get_linestyle() for line in axes[0].lines}
    assert (
        drawn["prm_cof"] == "-" and drawn["prm_cof, after 2 samples"] == "--" and "prm_cof, after 1 sample" not in drawn
    )


def test_steps_show_names_and_scores():
    figure = figures.steps_figure(["main", "add"], ["def main():\n    pass\n\n", "def add(): pass\n"], [0.25, 0.75])
    words = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "step 1: main" in words and "score 0.75" in words and "def add(): pass" in words


def test_a_listing_marks_every_cut_and_which_prefix_does_not_parse():
    figure = figures.cuts_figure(["def main():\n    pass\n\n", "def add(): pass\n"], [1, 4], [False, True])
    words = [text.get_text() for text in figure.axes[0].texts]
    assert "prefix 1 ends here, does not parse" in words and "prefix 2 ends here" in words and "    pass" in words


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


def test_an_explorer_draws_anew_when_a_control_moves():
    drawn = []

    def render(n, name):
        drawn.append((n, name))
        return figures.distribution_figure(np.array([0, 1]), np.array([0.5, 0.5]), n / 10)

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
