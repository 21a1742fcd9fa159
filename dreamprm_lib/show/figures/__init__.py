"""Figures: each function takes results and returns a `Figure` whose title says what was found; a module a chapter."""

# ruff: noqa: F401

from dreamprm_lib.show.figures.asking_again import FATES, repairs_figure
from dreamprm_lib.show.figures.candidates import headroom_figure
from dreamprm_lib.show.figures.chain_of_functions import prompt_comparison_figure, steps_figure
from dreamprm_lib.show.figures.correction import correction_figure, formula_figure, reasons_figure, worth_figure
from dreamprm_lib.show.figures.cost_and_search import beam_figure, cost_figure, search_figure, spread_figure
from dreamprm_lib.show.figures.known_truth import ablation_figure, bias_figure, planted_figure, planted_map
from dreamprm_lib.show.figures.labels import allocation_figure, distribution_grid, labels_figure, noise_figure
from dreamprm_lib.show.figures.paper_scale import (
    costs_figure,
    cuts_figure,
    places_figure,
    power_figure,
    published_figure,
    pulls_figure,
)
from dreamprm_lib.show.figures.primitives import METHOD_STYLE, method_style, use_style
from dreamprm_lib.show.figures.reward_model import (
    calibration_figure,
    choice_figure,
    pairs_figure,
    ranking_figure,
)
from dreamprm_lib.show.figures.scaling import curve_figure, difficulty_figure, forest_figure, sets_figure
from dreamprm_lib.show.figures.selection import agreement_figure, answers_figure, frontier_figure, risk_figure
from dreamprm_lib.show.figures.what_it_reads import explained_figure, learning_figure, transfer_figure
