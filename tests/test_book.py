"""What the book is made of, and the launch files; the built book is looked at in `browser/test_pages.py`."""

import ast
import os
import re
import subprocess
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from dreamprm_lib.engine.files import from_yaml

ROOT = Path(__file__).resolve().parent.parent


def view(model):
    data = {"application/vnd.jupyter.widget-view+json": {"model_id": model}, "text/plain": "VBox(...)"}
    return nbformat.v4.new_output("display_data", data)


def test_an_explorer_becomes_its_picture_and_a_progress_bar_goes(docs_module):
    picture = {"data": "iVBORw0KGgo=", "path": ["value"], "encoding": "base64"}
    models = {
        "explorer": {"model_name": "VBoxModel", "state": {"children": ["IPY_MODEL_controls", "IPY_MODEL_image"]}},
        "controls": {"model_name": "HBoxModel", "state": {"children": []}},
        "image": {"model_name": "ImageModel", "state": {"format": "png"}, "buffers": [picture]},
        "bar": {"model_name": "HBoxModel", "state": {"children": ["IPY_MODEL_controls"]}},
    }
    text = nbformat.v4.new_output("stream", text="said")
    cell = nbformat.v4.new_code_cell("f()", outputs=[view("bar"), text, view("explorer"), view("lost")])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# T"), cell])
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": models}}
    read = docs_module("still_widgets").read(nbformat.writes(notebook))
    said, explorer = read.cells[1].outputs
    assert said.text == "said"
    assert explorer.data == {"image/png": "iVBORw0KGgo=", "text/plain": "VBox(...)"}
    assert "explorer" in read.cells[1].metadata.mystnb.image.alt


def test_a_figure_keeps_its_alt_text_and_a_link_leads_to_the_docs(docs_module):
    figure = nbformat.v4.new_output("execute_result", {"image/png": "x"}, metadata={"image/png": {"alt": "A finding"}})
    cells = [nbformat.v4.new_markdown_cell("[g](../docs/g.md)"), nbformat.v4.new_code_cell("f()", outputs=[figure])]
    read = docs_module("still_widgets").read(nbformat.writes(nbformat.v4.new_notebook(cells=cells)))
    assert read.cells[0].source == "[g](/g.md)" and read.cells[1].metadata.mystnb.image.alt == "A finding"


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link.partition("#")[0]).exists()] == []


def test_the_words_of_the_glossary_are_used_in_the_docs_or_the_code():
    words = re.findall(r"^- \*\*(.+?)\*\*:", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    pages = " ".join(path.read_text() for path in PAGES if path.name != "glossary.md").lower()
    code = " ".join(path.read_text() for path in (ROOT / "dreamprm_lib").rglob("*.py"))
    assert len(words) >= 5 and [w for w in words if w not in pages and w.replace(" ", "_") not in code] == []


def test_make_student_builds_the_edition_where_there_is_none_and_opens_it():
    command = ["make", "--no-print-directory", "-n", "student"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    build, lab = said.rstrip().splitlines()[-2:]
    assert build == "test -d course/student || .venv/bin/python -m dreamprm_lib course build"
    assert lab == ".venv/bin/jupyter lab --notebook-dir=course/student"


def test_binder_has_the_python_and_the_pins_of_the_other_environments():
    binder = from_yaml((ROOT / "binder" / "environment.yml").read_text(), "x")
    conda = from_yaml((ROOT / "environment.yml").read_text(), "x")
    assert binder["channels"] == conda["channels"]
    assert [x for x in conda["dependencies"] if isinstance(x, str)] == binder["dependencies"]
    script = ROOT / "binder" / "postBuild"
    assert os.access(script, os.X_OK) and "pip install --no-cache-dir -c constraints.txt -e ." in script.read_text()
    assert re.search(r"^torch==\S+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def test_colab_s_cell_is_one_that_a_notebook_can_run():
    (cell,) = re.findall(r"```ipython3\n(.*?)```", (ROOT / "docs" / "online.md").read_text(), re.DOTALL)
    ast.parse(TransformerManager().transform_cell(cell))
    folder = re.search(r"github\.com/OWNER/REPO (\S+)", cell).group(1)
    assert f"-e {folder}\n" in cell and f"%cd {folder}/notebooks\n" in cell
