"""The report and the results page: sentences that fit their numbers, figures in the order of the chapters."""

import json
import re

import nbformat
import pandas as pd
import pytest
from matplotlib.figure import Figure

from dreamprm_lib.show import report
from dreamprm_lib.show.findings import NO_SAMPLES, STACK, answer_of, grouped_verdicts, reading_in_words, worth_in_words
from dreamprm_lib.show.methods import METHODS
from dreamprm_lib.study.folder import Stage, Study
from dreamprm_lib.test_time_scaling import verdict

FIGURES = ["02_noise", "02_labels", "02_a"]
ASKED = {"answers": 2, "completions": 4, "prompt_tokens": 30, "tokens": 9, "dollars": 0.25}


def rates(method, samples, rate):
    row = {"method": method, "samples": samples, "difficulty": "overall", "n": 16, "pass_rate": rate}
    return row | {"ci_low": rate - 0.05, "ci_high": rate + 0.05, "problems": 40}


def compared(method, baseline, samples, difference, low, high, p_holm=1.0):
    row = {"method": method, "baseline": baseline, "samples": samples, "difference": difference, "ci_low": low}
    return row | {"ci_high": high, "wins": 3, "losses": 1, "p_value": p_holm, "p_holm": p_holm}


def worth(method, gain, held_out_gain):
    """A row of `label_worth.csv`: intervals reach from 1 below to 1 above a gain, and 0.01 about one in ranking."""
    row = {"method": method, "mse": 0.02 * (1 - gain), "held_out": 0.8 + held_out_gain}
    row |= {"gain": gain, "gain_low": gain - 1, "gain_high": gain + 1}
    row |= {"held_out_gain": held_out_gain, "held_out_gain_low": held_out_gain - 0.01}
    row |= {"held_out_gain_high": held_out_gain + 0.01}
    return row | {f"{what}{end}": row[what] for what in ("mse", "held_out") for end in ("_low", "_high")}


def reading(method, gain):
    """A row of `reading.csv`: intervals reach 0.02 to both sides."""
    row = {"method": method, "ranking": 0.75 + gain, "ci_low": 0.73 + gain, "ci_high": 0.77 + gain}
    return row | {"gain": gain, "gain_low": gain - 0.02, "gain_high": gain + 0.02}


QUALITY = pd.DataFrame(
    [{"difficulty": "all", "problems": 4, "tests": 1234, "right": 0.6, "ci_low": 0.5, "ci_high": 0.7}]
)
DIFFERENCES = [
    compared("prm_cof", "random", 0, 0.1, 0.02, 0.2, 0.01),
    compared("mean_logprob", "random", 0, -0.01, -0.1, 0.1),
    compared("dreamprm_code", "prm_cof", 0, -0.03, -0.05, -0.01),
    compared("prm_weak", "prm_cof", 0, 0.0, -0.1, 0.1),
    compared("prm_cof + consensus", "consensus", 0, 0.0, -0.1, 0.1),
    compared("random", NO_SAMPLES, 2, 0.4, 0.3, 0.5, 0.001),
    compared("prm_cof", "random", 2, 0.0, -0.1, 0.1),
]


READ = pd.DataFrame(
    [("ranking", "prm_cof", "blind", 0.1), ("ranking", "prm_cof", "random", 0.2), ("ranking", "blind", "random", 0.1),
     ("ranking", "prm_cof, half", "prm_cof", -0.1), ("ranking", "prm_cof, half", "blind", 0.0),
     ("best of 4", "prm_cof", "random", 0.3), ("best of 4", "random", "prm_cof", -0.3)],
    columns=["measure", "method", "on", "gain"],
)  # fmt: skip
READ = READ.assign(gain_low=READ.gain, gain_high=READ.gain, set="codeio", problems=9, value=0.5, low=0.4, high=0.6)


def priced(method, samples, n, rate):
    return {"method": method, "samples": samples, "n": n, "pass_rate": rate, "tokens": 1000.4 * n, "seconds": 2.0 * n}


def write_confirmed(study, which):
    rows = pd.DataFrame([compared("prm_cof", "random", 0, 0.1, 0.02, 0.2, 0.01)])
    study.write_table("confirmed.csv", rows.assign(set=which, problems=7, verdict=verdict(rows)))


def complete(study, differences):
    """A study whose tables hold what the report needs."""
    overall = [rates("random", 0, 0.3), rates("prm_cof", 0, 0.4), rates("oracle", 0, 0.8), rates("random", 2, 0.7)]
    study.write_table("table.csv", pd.DataFrame(overall))
    table = pd.DataFrame(differences)
    study.write_table("differences.csv", table.assign(verdict=verdict(table)))
    write_confirmed(study, "seen")
    by_running = {"samples": [0, 1], "verdict": ["`b4` may be better.", "After 1 sample it is worse."]}
    study.write_table("selection_differences.csv", pd.DataFrame(by_running))
    study.write_table("label_worth.csv", pd.DataFrame([worth("raw", 0.0, 0.0), worth("dreamprm_code", -3.0, 0.02)]))
    study.write_table("cost_curve.csv", pd.DataFrame([priced("random", 0, 1, 0.3), priced("random", 2, 8, 0.7)]))
    study.write_table("asking_curve.csv", pd.DataFrame([priced("codet", 0, 8, 0.4), priced("repaired", 2, 8, 0.6)]))
    study.write_table("reading_test.csv", READ)
    study.write_table("reading.csv", pd.DataFrame([reading("prm_cof", 0.0), reading("length", -0.25)]))
    study.write_table("written_tests.csv", QUALITY)
    for file, name in (("asking.csv", "codet"), ("repair.csv", "repair")):
        told = {"samples": [0, 1], "verdict": [f"`{name}` may be better.", f"After 1 sample `{name}` is worse."]}
        tokens = {"candidate_tokens": 120, "tests_tokens": 240, "tokens": 60}
        study.write_table(file, pd.DataFrame(told | tokens)[: 2 if name == "codet" else 1])
    world = {"bias": "none", "rollouts": 4, "meta": 320, "seed": 0, "method": "raw labels", "ranking": 0.9}
    worlds = [world | {"label_mse": 0.1}, world | {"method": "corrected", "ranking": 0.95, "label_mse": 0.05}]
    study.write_table("planted.csv", pd.DataFrame(worlds))
    study.path("manifest.json").write_text(json.dumps(MANIFEST))
    return study


MANIFEST = {"profile": "p", "versions": {}, "stages": {"02": {"seconds": 1.5, "tokens": 7, "asked": ASKED}}}


@pytest.fixture
def study(tmp_path):
    return complete(Study(tmp_path, "s"), DIFFERENCES)


@pytest.fixture
def html(study, monkeypatch):
    monkeypatch.setattr(report, "STAGES", (Stage("02_monte_carlo_labels"), Stage("09_paper_scale")))
    cells = {"02_monte_carlo_labels": ["# 2 · Monte-Carlo labels"], "09_paper_scale": ["# 9 · Paper scale"]}
    cells["02_monte_carlo_labels"] += [f'results.save_figure(\n    f, "{name}", "C.")' for name in FIGURES]
    for name, texts in cells.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text) for text in texts])
        nbformat.write(notebook, study.path(f"notebooks/{name}.ipynb"))
    for name in (*sorted(FIGURES), "06_curve"):
        study.save_figure(Figure(), name, f"Caption of {name}.")

    def written(manifest=MANIFEST):
        return report.write_report(study, manifest).read_text(encoding="utf-8")

    return written


def test_the_report_is_one_file_with_its_figures_in_order_and_its_tables_and_sentences_marked_up(html):
    text = html()
    assert "<h2>2 · Monte-Carlo labels</h2>" in text and "7 ·" not in text
    assert re.findall(r"<figcaption>Caption of (\w+)\.", text) == ["06_curve", *FIGURES]
    assert text.index("In short") < text.index("Caption of 06_curve") < text.index("What may be concluded")
    assert not re.search(r'(src|href)="(?!data:)', text) and "<script" not in text
    assert "Without running any public sample, best of 16" in text and "After 2 public samples" in text
    assert "<th>prm_<wbr>cof</th>" in text and "40.0 (35&#8288;–&#8288;45)" in text
    assert "<code>prm_<wbr>cof</code> is better than <code>random</code>" in text
    assert "&lt;i&gt;" in html(MANIFEST | {"note": "<i>"})


def test_the_report_tells_costs_where_there_are_any(html):
    free = MANIFEST["stages"]["02"] | {"asked": ASKED | {"answers": 0, "completions": 0}}
    assert "dollars" not in html(MANIFEST | {"stages": {"02": free}})
    paid = {"02": MANIFEST["stages"]["02"], "03": {"seconds": 1.5, "tokens": 7}}
    cells = re.findall(r"<td>([^<]*)</td>", html(MANIFEST | {"stages": paid}).partition("How it was run")[2])
    assert cells[:7] == ["02", "1.5", "7", "4", "30", "9", "0.2500"]
    assert cells[7:] == ["03", "1.5", "7", "0", "0", "0", "", "all", "3.0", "14", "4", "30", "9", "0.2500"]


def test_findings_say_what_the_verdicts_say_with_their_numbers(study):
    answer = answer_of(study)
    first, prm, correction = answer.headline
    assert "16 programs" in first and "30 %" in first and "80 %" in first
    assert "is better than a random choice, while running up to 2 public samples" in prm and "gains 40.0 points" in prm
    assert "may be worse than leaving them as they are" in correction
    room, early, samples, labels = answer.findings
    assert "30 % of the problems (25 % to 35 %)" in room and "50.0 points" in room
    assert "`prm_cof` is better than a random choice: +10.0 points (+2.0 to +20.0)" in early and "-1.0 points" in early
    assert "gains 40.0 points (+30.0 to +50.0)" in samples
    assert "Among those programs, `prm_cof` cannot be told apart from a random choice: +0.0 points" in samples
    assert "may be worse than training on raw ones" in labels
    assert "the corrected labels have 4.00 times the squared error of the raw ones (3.00 to 5.00)." in labels


def test_a_correction_that_was_not_chosen_is_said_to_move_no_label(study):
    unmoved = dict.fromkeys(("gain", "gain_low", "gain_high"), 0.0)
    study.write_table("label_worth.csv", pd.DataFrame([worth("dreamprm_code", 0.0, 0.02) | unmoved]))
    answer = answer_of(study)
    assert answer.headline[-1].endswith("was not chosen: held-out problems ask for no correction of any label.")
    (finding,) = (f for f in answer.findings if "was tried and not taken" in f)
    assert "differs by smoothing and calibration alone; best of 16 changes by -3.0 points (-5.0 to -1.0)" in finding


@pytest.mark.parametrize(
    "gain, ranking, said",
    [
        (1.5, -0.02, ["-0.50 times", "(-1.50 to 0.50): a clear gain", "-0.020 (-0.030 to -0.010): a clear loss"]),
        (0.5, 0.005, ["0.50 times", "(-0.50 to 1.50): no clear change", "+0.005 (-0.005 to +0.015): no clear change"]),
        (-2.0, 0.02, ["3.00 times", "(2.00 to 4.00): a clear loss", "+0.020 (+0.010 to +0.030): a clear gain"]),
    ],
)
def test_what_labels_are_worth_is_said_of_error_and_ranking_each_by_its_own_interval(gain, ranking, said):
    table = pd.DataFrame([worth("raw", 0.0, 0.0), worth("posterior", gain, ranking)])
    words = worth_in_words(table, "posterior")
    assert "the labels `posterior` have" in words and all(part in words for part in said)


@pytest.mark.parametrize(
    "gain, change, needed",
    [(0.0, "no clear change", "nothing that can be shown"), (-0.05, "a clear loss", "0.050 (0.030 to")],
)
def test_what_is_read_is_said_of_each_reader_and_what_the_statement_gives_at_the_end(gain, change, needed):
    first, length, *rest = reading_in_words(pd.DataFrame([reading("prm_cof", 0.0), reading("length", -0.25)]), READ)
    assert first == "`prm_cof` ranks 0.750 (0.730 to 0.770)." and not rest
    assert length == "`length` ranks 0.500, -0.250 (-0.270 to -0.230): a clear loss."
    *_, blind, statement = reading_in_words(pd.DataFrame([reading("prm_cof", 0.0), reading("blind", gain)]), READ)
    assert f"`blind` ranks {0.75 + gain:.3f}" in blind and blind.endswith(f": {change}.") and needed in statement
    assert statement.endswith("; 0.100 (0.100 to 0.100) on the test problems (codeio).")


def test_the_table_of_labels_is_read_with_intervals_and_signs():
    table = report.worth_table(pd.DataFrame([worth("raw", 0.0, 0.0), worth("posterior", 0.5, 0.02)]))
    assert table.columns.tolist() == ["squared label error", "held-out ranking", "its change"]
    assert table.loc["posterior"].tolist() == [
        "0.010 (0.010 to 0.010)", "0.820 (0.820 to 0.820)", "+0.020 (+0.010 to +0.030)",
    ]  # fmt: skip


def test_readers_are_shown_by_set_with_their_gain_on_one_of_them():
    ranking, best = (report.reading_table(READ, measure) for measure in ("ranking", "best"))
    assert ranking["codeio (9)"].to_dict() == {
        "prm_cof": "0.500 (+0.100: +0.100 to +0.100)", "blind": "0.500",
        "prm_cof, half": "0.500 (-0.100: -0.100 to -0.100)",
    }  # fmt: skip
    assert best["codeio (9)"].to_dict() == {"prm_cof": "0.500 (+0.300: +0.300 to +0.300)", "random": "0.500"}
    assert best.columns.name == "best of 4 (gain on random)"


def test_selectors_are_shown_with_all_candidates_and_their_price_without_samples():
    curve = [priced("b4", 0, 1, 0.3), priced("b4", 0, 8, 0.5), priced("random", 0, 1, 0.3), priced("random", 1, 8, 0.6)]
    curve.append(priced("repaired", 1, 8, 0.7))  # which needs a sample
    table = report.cost_table(pd.DataFrame(curve))
    assert table.columns.tolist() == ["no sample", "after 1 sample", "tokens", "seconds"]
    assert table.loc["random"].tolist() == ["30.0", "60.0", "1,000", "2"]
    assert table.loc["b4", ["no sample", "tokens", "seconds"]].tolist() == ["50.0", "8,003", "16"]
    assert table.loc["repaired", ["no sample", "after 1 sample", "tokens"]].tolist() == ["", "70.0", "8,003"]


def test_more_is_told_of_a_study_with_the_stack_and_less_of_one_without_samples_and_log_probabilities(tmp_path):
    stack = [compared(STACK, "random", 0, 0.3, 0.2, 0.4, 0.001), compared(STACK, "mean_logprob", 0, 0.15, -0.02, 0.3)]
    more = answer_of(complete(Study(tmp_path, "more"), DIFFERENCES + stack))
    said = "is better than a random choice (gains 30.0 points), and cannot be told apart from the log-probability alone"
    assert said in " ".join(more.headline)
    assert f"`{STACK}`, is better than a random choice (+30.0 points (+20.0 to" in more.findings[1]
    rows = [row for row in DIFFERENCES if row["samples"] == 0 and row["method"] != "mean_logprob"]
    less = answer_of(complete(Study(tmp_path, "less"), rows))
    assert len(less.findings) == 3 and "sample" not in " ".join([*less.headline, *less.findings])


def test_new_problems_have_a_finding_and_a_question_of_their_own(study):
    write_confirmed(study, "new")
    said = "whose programs were written after the claims, the gain on a random choice is "
    assert f"On 7 new problems alone, {said}+10.0 points (+2.0 to +20.0) for `prm_cof`." in answer_of(study).findings
    groups = grouped_verdicts(*(study.read_table(f"{name}.csv") for name in ("differences", "confirmed")))
    question, first, later = groups[-1]
    assert "new problems" in question and "is better than" in first[0] and not later


def test_every_verdict_is_said_once_under_its_question(study):
    verdicts = study.read_table("differences.csv").verdict
    groups = grouped_verdicts(*(study.read_table(f"{name}.csv") for name in ("differences", "confirmed")))
    assert sorted(v for _, first, later in groups for v in first + later) == sorted(verdicts)
    counts = {question.split()[-1]: (len(first), len(later)) for question, first, later in groups}
    assert counts == {
        "give?": (1, 0),
        "chance?": (1, 1),
        "training?": (1, 0),
        "labels?": (1, 0),
        "combinations?": (2, 0),
    }


def test_the_results_page_has_the_tables_and_explains_every_method(study):
    text = report.results_markdown(study)
    assert "| `prm_cof` | 40.0 (35–45) |" in text and "| `random` | 70.0 (65–75) |" in text
    assert "| `none` | 0.900 (+0%) | 0.950 (-50%) |" in text
    assert "| `dreamprm_code` | 0.080 (0.080 to 0.080) | 0.820 (0.820 to 0.820) | +0.020 (" in text
    assert all(f"- `{name}`: {METHODS[name]['takes']}." in text for name in ("random", "prm_cof", "oracle"))
    assert "\n- `length` ranks 0.500," in text
    assert (
        "\n- The 1,234 tests that the policy wrote expect the right output 60 % of the time (50 % to 70 %).\n" in text
    )
    assert "\n- `codet` may be better.\n- `repair` may be better.\n\n" in text
    assert "a candidate takes 120 tokens and 10 seconds of one core, a reply with tests takes 240 tokens and 20" in text
    assert "\n- `b4` may be better.\n\n" in text and "it is worse" not in text
    assert "\n\n\n" not in text and text.endswith("\n") and not text.endswith("\n\n")
