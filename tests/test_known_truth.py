"""What is measured where the truth is known: planted worlds, ablations and the oracle."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dreamprm_lib import known_truth as kt
from dreamprm_lib.evidence.oracle import label_table, oracle_table
from dreamprm_lib.evidence.planted import planted_world
from dreamprm_lib.evidence.statistics import pair_ranking, unbiased_squares
from dreamprm_lib.label_correction import METHODS, Correction, correction_method
from dreamprm_lib.steps import StepTable


def test_a_comparison_holds_states_out_and_tells_each_method():
    planted = planted_world(np.random.default_rng(0).standard_normal((400, 3)), 4, "none", np.random.default_rng(1))
    rng = np.random.default_rng(2)
    trial = kt.split_world(planted, rng, 100)
    assert len(trial.held_out) == 100 == len(trial.meta) and len(trial.train) == 200
    methods = {name: METHODS[name] for name in ("raw labels", "meta only")}
    rows = kt.compare(trial, rng, Correction(iterations=5), methods)
    assert [row["method"] for row in rows] == ["raw labels", "meta only"]
    assert rows[0]["ranking"] > 0.9 and all(0 <= row[k] < 0.5 for row in rows for k in ("label_mse", "value_mse"))
    leaky = kt.split_world(planted, np.random.default_rng(2), 60, train_size=50, leaky=True)
    assert len(leaky.train) == 50
    np.testing.assert_array_equal(leaky.meta.states, leaky.held_out.states[:60])


def test_the_table_of_planted_worlds_is_the_same_in_any_order():
    features = np.random.default_rng(0).standard_normal((200, 3))
    settings = Correction(iterations=3)
    table = kt.planted_table(features, [1, 4], [20], 2, settings, ["raw labels", "recalibrated"])
    assert len(table) == 4 * 2 * 1 * 2 * 2 and set(table.bias) == {"none", "constant", "flips", "by state"}
    again = kt.planted_table(features, [4], [20], 2, settings, ["recalibrated"])
    same = table[(table.rollouts == 4) & (table.method == "recalibrated")]
    assert again.label_mse.tolist() == same.label_mse.tolist()


def test_what_the_chapter_says_holds_in_small_worlds():
    """A constant bias hurts values and not the ranking; one that varies hurts both; recalibration always does."""
    features = np.random.default_rng(0).standard_normal((1000, 8))
    settings = Correction(iterations=40, meta_lr=0.06, smoothing=0.0)
    methods = ["raw labels", "recalibrated", "corrected, likelihood"]
    table = kt.planted_table(features, [4], [250], 4, settings, methods)
    ranking, error = (table.groupby(["bias", "method"])[what].mean().unstack() for what in ("ranking", "label_mse"))
    learned, raw, simple = "corrected, likelihood", "raw labels", "recalibrated"
    for bias in ("constant", "by state"):
        assert error[learned][bias] < 0.5 * error[raw][bias]
    assert ranking[learned]["by state"] > ranking[raw]["by state"] + 0.05
    assert ranking[learned]["none"] > ranking[raw]["none"] - 0.02  # few worlds
    assert ranking[raw]["constant"] > ranking[raw]["none"] - 0.04
    assert (ranking[simple] > ranking.max(axis=1) - 0.01).all()


def test_an_ablation_changes_one_thing_and_names_it():
    features = np.random.default_rng(0).standard_normal((300, 3))
    names = ["unrolled steps", "leaky outcomes", "rollouts a label, 1,500 in all"]
    table = kt.ablation_table(features, 2, Correction(iterations=4, meta_lr=0.1), names)
    assert [table[table.ablation == name].value.unique().tolist() for name in names] == [
        ["1", "2", "4"], ["no", "yes"], ["1", "2", "4", "16"],
    ]  # fmt: skip
    raw = table[(table.method == "raw labels") & (table.ablation == "unrolled steps")]
    assert (raw.groupby("seed").label_mse.nunique() == 1).all()  # they do not depend on how it is corrected


# ------------------------------------------------------------------------------------------------- the oracle


def test_squares_are_without_bias_by_enumeration():
    """The mean over all outcomes of a binomial is the true squared distance."""
    value, estimate, n = 0.3, 0.55, 5
    k = np.arange(n + 1)
    chance = stats.binom(n, value).pmf(k)
    assert chance @ unbiased_squares(estimate, k, n) == pytest.approx((estimate - value) ** 2)


@pytest.fixture(scope="module")
def states():
    """120 states of 40 problems whose values the first feature tells, and a weaker policy that passes half as often."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 3))
    values = 1 / (1 + np.exp(-2 * x[:, 0]))
    outcomes, weak = rng.random((120, 32)) < values[:, None], rng.random((120, 8)) < values[:, None] / 2
    meta_x = rng.standard_normal((150, 3))
    meta = StepTable(
        meta_x, (rng.random(150) < 1 / (1 + np.exp(-2 * meta_x[:, 0]))) * 1.0, [str(i // 4) for i in range(150)]
    )
    clean = StepTable(x[:40], outcomes[:40, 0] * 1.0, [str(i) for i in range(40)])
    problems = [str(i // 3) for i in range(120)]
    table = StepTable(x, np.zeros(120), problems)
    return (table, outcomes, weak), clean, meta, values


def test_the_oracle_tells_the_error_of_raw_labels(states):
    (real, outcomes, _), _, _, values = states
    found = []
    for n, seed in product((1, 4), range(5)):
        shuffled = np.random.default_rng([seed, n]).permuted(outcomes, axis=1)
        told = {"problem": real.problem, "passes": shuffled[:, n:].sum(axis=1), "trials": 32 - n}
        label = shuffled[:, :n].mean(axis=1)
        found.append(pd.DataFrame({"rollouts": n, "seed": seed, "method": "raw labels", "label": label} | told))
    table = oracle_table(pd.concat(found), 200).set_index("rollouts")
    for n in (1, 4):
        noise = np.mean(values * (1 - values)) / n
        assert table.mse_low[n] < noise < table.mse_high[n] and table.mse[n] == pytest.approx(noise, rel=0.25)
        assert table.bias_low[n] < 0 < table.bias_high[n]
        assert table.gain[n] == table.gain_low[n] == table.gain_high[n] == 0
    assert table.ranking[1] < table.ranking[4] < 1
    of_pairs = [pair_ranking(rows.label.to_numpy(), rows.passes.to_numpy()) for rows in found if rows.rollouts[0] == 4]
    assert table.ranking[4] == pytest.approx(np.mean(of_pairs))


def test_labels_by_name_are_compared_with_the_first(states):
    (_, outcomes, _), _, _, values = states
    table = label_table({"none": np.full(120, 0.5), "values": values}, [str(i // 3) for i in range(120)], outcomes)
    assert table.method.tolist() == ["none", "values"] and table.gain[0] == 0
    assert table.mse[1] == pytest.approx(0, abs=2e-3) and table.gain_low[1] > 0.9


def test_what_a_label_is_worth_is_its_error_and_what_a_head_ranks_that_learned_from_it(states):
    """True values are near the oracle and teach to rank; labels turned around are neither, whatever is corrected."""
    (table, outcomes, _), clean, meta, values = states
    rows = np.arange(120)
    train = replace(table, label=values, movable=np.full(120, True), rollouts=np.full(120, 4)).followed_by(clean)
    turned = train.relabelled(1 - train.label)
    how = Correction(iterations=2, ridge=0.1)
    ways = {"turned": (turned, METHODS["raw labels"], how), "true": (train, METHODS["raw labels"], how)}
    ways["corrected"] = train, correction_method("labels", stopped=False), how
    table = kt.label_worth(ways, rows, outcomes, meta, 3).set_index("method")
    assert table.gain["turned"] == table.held_out_gain["turned"] == 0 and table.gain_low["true"] > 0.9
    assert table.held_out["true"] > 0.8 and table.held_out_gain_low["true"] > 0 and table.mse["corrected"] > 0
    assert (table.held_out_low <= table.held_out).all() and (table.held_out <= table.held_out_high).all()


def test_a_weak_completer_shows_its_bias_and_recalibration_mends_it(states):
    (real, outcomes, weak), clean, meta, values = states
    train = real.with_rollouts(weak[:, :4]).followed_by(clean)
    settings = Correction(iterations=30, meta_lr=0.1, smoothing=0.0)
    labels = {
        name: METHODS[name](train, meta, settings, np.random.default_rng(0)).labels_of(train)[:120]
        for name in ("raw labels", "recalibrated")
    }
    table = label_table(labels, real.problem, outcomes).set_index("method")
    assert table.bias["raw labels"] == pytest.approx(-values.mean() / 2, abs=0.05)
    assert table.gain_low["recalibrated"] > 0.3
    assert abs(table.bias["recalibrated"]) < abs(table.bias["raw labels"]) / 2


def test_no_method_sees_the_oracle(states):
    """Other verdicts of the rollouts that judge change what is said of labels, and neither labels nor heads."""
    (real, outcomes, _), clean, meta, _ = states
    train = real.with_rollouts(outcomes[:, :4]).followed_by(clean)
    how = Correction(iterations=5)
    ways = {name: (train, METHODS[name], how) for name in ("raw labels", "corrected")}
    found, again = (
        kt.label_worth(ways, np.arange(120), judge, meta, 3) for judge in (outcomes[:, 4:], ~outcomes[:, 4:])
    )
    ranked = [name for name in found if name.startswith("held_out")]
    pd.testing.assert_frame_equal(found[ranked], again[ranked])
    assert (found.mse < again.mse).all()


def test_a_share_alone_leaves_no_spread_and_a_bias_by_state_does():
    rng = np.random.default_rng(0)
    values, problems = rng.uniform(0.1, 0.9, 400), [str(i // 4) for i in range(400)]

    def spread_of(share):
        outcomes, weak = rng.random((400, 32)) < values[:, None], rng.random((400, 4)) < (share * values)[:, None]
        return kt.bias_spread(problems, outcomes, weak, 500)

    constant, varied = spread_of(np.full(400, 0.5)), spread_of(np.where(np.arange(400) % 8 < 4, 0.9, 0.1))
    for found in (constant, varied):
        assert found["share"][1] < 0.5 < found["share"][2]
    assert constant["spread"][1] == 0 and constant["spread"][0] < 0.1
    rest = np.where(np.arange(400) % 8 < 4, 0.4, -0.4) * values
    assert varied["spread"][1] < np.std(rest) < varied["spread"][2]


def test_the_bias_is_told_by_kinds_of_prefix():
    outcomes, weak = np.ones((4, 2), bool), np.array([[1, 1], [1, 0], [0, 0], [0, 0]], bool)
    table = kt.bias_table(["a", "a", "b", "c"], outcomes, weak, {"step": [1, 1, 2, 2]}, 50)
    assert table[["group", "states", "problems", "bias"]].values.tolist() == [["1", 2, 1, -0.25], ["2", 2, 2, -1.0]]
