"""The notebooks keep their rules, and all of them run in sequence on the smoke profile."""

import ast
import itertools
import json
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from nbclient import NotebookClient

from dreamprm_lib.commands.run import load_profile, notebook_path, run, stage_parameters
from dreamprm_lib.engine import hypergradient as hg
from dreamprm_lib.engine.losses import LOSSES
from dreamprm_lib.engine.problems import load_problems
from dreamprm_lib.reward_model import RewardModel
from dreamprm_lib.study.folder import STAGES, Study
from dreamprm_lib.study.rows import CandidateScores, Program

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TAGS = {"parameters", "hide-input", "from-scratch", "exercise", "solution", "raises-exception"}
LONGER = {"again03"}  # ids of cells of more than 20 lines that would be harder to read in two
CONTINUES = {
    "bb80f4b2",
    "half04c",
    "learn04d",
    "learn04f",
    "move04d",
    "pairs04c",
}  # cells that go on where the last ended
NOT_OURS = re.compile(r"\b(rolled|open step|regrets?|dear|tells|stands|alike|anew|two forwards)\b", re.IGNORECASE)


def cells_of(path, kind=None):
    return [c for c in nbformat.read(path, 4).cells if kind in (None, c.cell_type)]


def tagged(path, tag):
    return [c for c in cells_of(path) if tag in c.metadata.get("tags", [])]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
class TestRules:
    def test_it_is_valid_and_its_outputs_are_stripped(self, path):
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        assert all(not c.outputs and c.execution_count is None for c in notebook.cells if c.cell_type == "code")

    def test_one_parameters_cell_of_commented_literals(self, path):
        (cell,) = tagged(path, "parameters")
        lines = cell.source.splitlines()
        for node in ast.parse(cell.source).body:
            assert "#" in lines[node.end_lineno - 1], ast.unparse(node)
            ast.literal_eval(node.value)

    def test_cells_are_small_and_each_is_introduced(self, path):
        cells = cells_of(path)
        assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ") and len(cells) <= 55
        for before, cell in itertools.pairwise(cells):
            if cell.cell_type == "code":
                lines, tags = cell.source.splitlines(), cell.metadata.get("tags", [])
                assert max(map(len, lines)) <= 79, cell.source
                assert len(lines) <= 20 or "parameters" in tags or cell.id in LONGER, cell.source
                assert before.cell_type == "markdown" or cell.id in CONTINUES, cell.source

    def test_its_words_are_those_of_the_field(self, path):
        said = [c.source for c in cells_of(path, "markdown")]
        assert any("](../docs/glossary.md)" in text for text in said)
        for cell in cells_of(path, "code"):
            nodes = ast.walk(ast.parse(cell.source))
            said += [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        assert [word for text in said for word in NOT_OURS.findall(text)] == []

    def test_it_opens_with_the_map_and_has_two_more_drawings(self, path):
        code = [c.source for c in cells_of(path, "code")]
        assert code[0].endswith(f"\nfigures.use_style()\ndiagrams.pipeline({int(path.stem[:2])})")
        drawn = re.findall(r"\bdiagrams\.(?!verdicts)\w+\(", "\n".join(code))
        assert len(drawn) >= 3

    def test_tags_are_known(self, path):
        assert {t for c in cells_of(path) for t in c.metadata.get("tags", [])} <= TAGS

    def test_nothing_that_belongs_elsewhere(self, path):
        for cell in cells_of(path, "code"):
            tree = ast.parse(cell.source)
            assert not any(isinstance(n, ast.ClassDef | ast.Global) for n in ast.walk(tree))
            assert not re.search(r"^\s*[!%]|sys\.path|import \*|input\(\)", cell.source, re.MULTILINE)

    def test_it_has_a_figure_an_explorer_and_two_checked_exercises(self, path):
        code = "\n".join(c.source for c in cells_of(path, "code"))
        assert "save_figure(" in code and "widgets.explorer(" in code
        checked = re.findall(r'^check\("(\w+)"', code, re.MULTILINE)
        assert len(set(checked)) >= 2
        assert len(tagged(path, "solution")) == len(checked)
        prose = "\n".join(c.source for c in cells_of(path, "markdown"))
        assert "You will" in prose and "## Exercises" in prose and "## References" in prose


def cells_until(name, marker):
    """The code cells of a chapter before the one markdown cell that holds the marker."""
    (path,) = (path for path in NOTEBOOKS if path.stem == name)
    before = itertools.takewhile(lambda cell: marker not in cell.source, cells_of(path))
    return [cell.source for cell in before if cell.cell_type == "code"]


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_formula_of_chapter_5_is_the_derivative_for_either_loss(seed, loss, capsys):
    """Its cells on toys of other seeds, against nudging by the library."""
    scope = {}
    for source in cells_until("05_label_correction", "Other labels, other meta sets"):
        exec(source, scope)
        if "seed = 0" in source:
            scope["seed"] = seed
    lower = hg.Lower(scope["linear"], scope["y"], 0.5, loss)
    expected = hg.nudged(lower, scope["phi"], scope["meta_loss"]).numpy()
    np.testing.assert_allclose(scope["formula"](loss).numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(scope["nudging"](loss).numpy(), expected, atol=1e-9)
    said = capsys.readouterr().out
    assert loss in said and float(re.search(r"largest gap (\S+)", said)[1]) < 1e-8


def test_what_is_claimed_of_correction_is_computed():
    for path in (path for path in NOTEBOOKS if path.stem[:2] in ("05", "10")):
        text = "\n".join(c.source for c in cells_of(path))
        assert "findings.worth_in_words(" in text and not re.search(r"correction (mends it|pays)", text)


def alt_texts(executed):
    """What is said of each figure of an executed notebook to those who cannot see it."""
    outputs = [o for c in executed.cells if c.cell_type == "code" for o in c.outputs]
    return [o.metadata.get("image/png", {}).get("alt", "") for o in outputs if "image/png" in o.get("data", {})]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_figure_of_the_reference_study_has_an_alt_text(path):
    executed = nbformat.read(ROOT / "outputs" / "reference" / "notebooks" / path.name, 4)
    assert all(alt_texts(executed))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """One smoke study, run from nothing."""
    outputs = tmp_path_factory.mktemp("outputs")
    return run(load_profile("smoke"), outputs=outputs)


@pytest.mark.weights
class TestSmoke:
    def test_every_stage_leaves_its_tables_and_its_executed_notebook(self, smoke):
        for stage in STAGES:
            for file in stage.writes:
                searched = file != "search.jsonl"  # smoke searches no problem
                assert ((smoke.folder / file).stat().st_size > 0) == searched, file
            executed = nbformat.read(smoke.folder / "notebooks" / f"{stage.notebook}.ipynb", 4)
            said = alt_texts(executed)
            told = all(len(text) > 20 for text in said)
            assert said and told, stage.notebook

    def test_every_exercise_of_the_solved_edition_is_right(self, smoke):
        for stage in STAGES:
            executed = nbformat.read(smoke.folder / "notebooks" / f"{stage.notebook}.ipynb", 4)
            answers = [
                o.data["text/plain"]
                for c in executed.cells
                if "exercise" in c.metadata.get("tags", [])
                for o in c.outputs
                if o.output_type == "execute_result"
            ]
            assert len(answers) >= 2 and all(a.startswith("✔") for a in answers), (stage.notebook, answers)

    def test_from_scratch_equals_the_library(self, smoke):
        text = (smoke.folder / "notebooks" / "01_chain_of_functions.ipynb").read_text()
        assert "same steps: True" in text and "lossless:   True" in text
        gap = r"largest (?:gap|difference(?: to the closed form)?):? ([\d.e+-]+)"
        for name, limit in (("03", 1e-12), ("05", 1e-8), ("06", 1e-12), ("07", 1e-9), ("08", 1e-12), ("12", 1e-12)):
            (path,) = (smoke.folder / "notebooks").glob(f"{name}_*.ipynb")
            assert float(re.search(gap, path.read_text()).group(1)) < limit, name
        again = (smoke.folder / "notebooks" / "12_asking_again.ipynb").read_text()
        assert re.search(r"[1-9]\d* tests for \d problems; 0 replies read differently", again)
        assert re.search(r"([1-9]) of \1 repairs are the same", again)

    def test_the_tables_keep_the_contract(self, smoke):
        table, curve = pd.read_csv(smoke.folder / "table.csv"), pd.read_csv(smoke.folder / "curve.csv")
        rates = ["n", "pass_rate", "ci_low", "ci_high"]
        assert list(table.columns) == ["method", "samples", "difficulty", *rates, "problems"]
        assert list(curve.columns) == ["method", "samples", *rates]
        assert set(table.samples) == set(curve.samples) == {0, 1, 2}
        methods = {
            "random",
            "orm",
            "prm_cof",
            "prm_weights",
            "prm_recalibrated",
            "prm_likelihood",
            "prm_posterior",
            "dreamprm_code",
            "oracle",
        }
        methods |= {"first", "mean_logprob", "shortest", "longest", "consensus"}
        methods |= {
            "prm_cof + mean_logprob",
            "prm_weak",
            "prm_weak_corrected",
            "prm_weak_recalibrated",
        }
        methods |= {"reviewer", "yes_or_no", "mean_logprob + reviewer"}  # who reads without training
        assert set(table.method) == set(curve.method) == methods
        assert (table.ci_low <= table.pass_rate).all() and (table.pass_rate <= table.ci_high).all()
        overall = table.query("difficulty == 'overall' and samples == 0").set_index("method").pass_rate
        assert overall["oracle"] == overall.max()
        # At N = 1 without samples there is nothing to choose: every method is the base model.
        assert curve[curve.n == 1].pass_rate.nunique() == 1

    def test_a_judge_reads_the_mixed_problems_and_is_priced(self, smoke):
        scores = pd.read_json(smoke.folder / "scores.jsonl", lines=True).set_index("method")
        passed = pd.read_json(smoke.folder / "candidates.jsonl", lines=True).groupby("problem").passed.nunique()
        for judge in ("reviewer", "yes_or_no"):
            read = scores.loc[judge].assign(value=lambda t: t.scores.str[0]).groupby("problem").value.nunique()
            assert ((read > 1) == (passed > 1)).all() and (passed > 1).any()
        cost = pd.read_csv(smoke.folder / "cost_curve.csv").set_index(["method", "samples", "n"]).seconds
        assert cost["reviewer", 0, 4] == cost["mean_logprob + reviewer", 0, 4] > cost["mean_logprob", 0, 4]

    def test_the_report_is_one_file_with_its_figures(self, smoke):
        text = (smoke.folder / "report.html").read_text()
        assert text.count("data:image/png;base64") >= 10 and "<script" not in text
        assert not re.search(r"(src|href)=\"(?!data:)", text)
        assert "interval" in text and "smoke" in text

    def test_nothing_of_this_machine_is_in_the_results(self, smoke):
        for path in smoke.folder.rglob("*"):
            if path.suffix in (".json", ".jsonl", ".csv", ".html", ".ipynb"):
                assert str(ROOT) not in path.read_text(), path

    def test_a_second_run_skips_all_and_a_damaged_table_is_made_again(self, smoke):
        manifest = (smoke.folder / "manifest.json").read_text()
        outputs = smoke.folder.parent
        run(load_profile("smoke"), outputs=outputs)
        assert (smoke.folder / "manifest.json").read_text() == manifest
        before = (smoke.folder / "candidates.jsonl").read_bytes()
        (smoke.folder / "candidates.jsonl").write_bytes(before[: len(before) // 2])
        run(load_profile("smoke"), outputs=outputs)
        assert (smoke.folder / "candidates.jsonl").read_bytes() == before
        after = json.loads((smoke.folder / "manifest.json").read_text())["stages"]
        known = json.loads(manifest)["stages"]
        again = [name for name in known if after[name]["finished"] != known[name]["finished"]]
        assert again == ["03_candidate_solutions"]

    def test_by_hand_it_gives_the_tables_of_the_papermill_run(self, smoke, tmp_path):
        """As a reader does it: other literals in the parameters cell itself, then all cells in a kernel."""
        (stage,) = (s for s in STAGES if s.notebook.startswith("03"))
        notebook = nbformat.read(notebook_path(stage), 4)
        (cell,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
        given = stage_parameters(stage, load_profile("smoke"), {}, {"study": "by hand", "outputs": str(tmp_path)})
        cell.source = "\n".join(f"{name} = {value!r}" for name, value in given.items())
        NotebookClient(notebook, resources={"metadata": {"path": ROOT / "notebooks"}}).execute()
        for file in stage.writes:
            assert (tmp_path / "by hand" / file).read_bytes() == (smoke.folder / file).read_bytes(), file

    def test_the_paper_s_way_of_training_runs_on_a_small_backbone(self, smoke, tiny_backbone, tmp_path):
        (tmp_path / "paper").mkdir()
        for file in ("solutions.jsonl", "labels.jsonl", "oracle.jsonl"):
            shutil.copy(smoke.folder / file, tmp_path / "paper")
        parameters = dict(load_profile("paper").sections["04_reward_model"])
        parameters |= {"study": "paper", "outputs": str(tmp_path), "backbones": [tiny_backbone], "layers": [3]}
        parameters["dtype"] = "float32"
        parameters["recipe"] = parameters["recipe"] | {"epochs": 1}
        path = ROOT / "notebooks" / "04_reward_model.ipynb"
        papermill.execute_notebook(path, tmp_path / "04.ipynb", parameters, cwd=path.parent, progress_bar=False)
        for method in ("orm", "prm_cof"):
            model = RewardModel.load(tmp_path / "paper" / f"{method}.safetensors")
            assert model.about["method"] == method and len(model.about["losses"]) == 1
            assert len(model.backbone.tuning.lora) == 4 * 3 and model.backbone.tuning.alpha == 16


def test_a_study_in_which_nothing_needs_repair_is_whole(tmp_path):
    """Chapter 12 on two problems whose first candidate passes its samples."""
    reference, study = Study(ROOT / "outputs", "reference"), Study(tmp_path, "whole")
    candidates = reference.read("candidates.jsonl", Program)
    free = reference.read("free_scores.jsonl", CandidateScores)
    fine = [
        r.problem for r in free if (r.method, r.sample) == ("public_samples", 0) and r.scores and min(r.scores) == 1
    ]
    own = {p.id for p in load_problems("starter", "test")}
    two = [name for name in fine if name in own][:2]
    study.write("candidates.jsonl", [c for c in candidates if c.problem in two])
    study.write("free_scores.jsonl", [r for r in free if r.problem in two])
    study.write_table("costs.csv", reference.read_table("costs.csv"))
    path = ROOT / "notebooks" / "12_asking_again.ipynb"
    parameters = {"study": "whole", "outputs": str(tmp_path), "draws": 100}
    papermill.execute_notebook(path, tmp_path / "12.ipynb", parameters, cwd=path.parent, progress_bar=False)
    assert (study.folder / "repairs.jsonl").read_text() == ""
    assert all((study.folder / file).exists() for file in STAGES[12].writes)
