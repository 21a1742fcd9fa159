"""The course in JupyterLab, as a newcomer runs it: every notebook from top to bottom, every explorer moved."""

import re

import pytest
from safetensors import safe_open

from dreamprm_lib.commands.run import load_profile, run
from dreamprm_lib.study.folder import STAGES, Study

from .conftest import wait_for

pytestmark = [pytest.mark.browser, pytest.mark.weights]

TOUR, CHAPTER = 120, 300  # seconds
EXPLORER = ".jp-OutputArea .widget-vbox:has(> img.widget-image)"
SESSION = "globalThis.jupyterapp?.shell.currentWidget?.sessionContext"
TROUBLE = '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]'  # errors, too


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.notebook)
def test_a_notebook_runs_from_top_to_bottom_and_its_explorers_answer(stage, lab, open_page):
    page = open_page(f"{lab.url}/lab/tree/{stage.notebook}.ipynb?reset&token={lab.token}")
    run_all_cells(page, TOUR if stage.notebook.startswith("00") else CHAPTER)
    command(page, "docmanager:save")
    assert page.locator(TROUBLE).all_inner_texts() == []
    study = Study(lab.folder / "outputs", "smoke")
    assert all((study.folder / file).exists() for file in stage.writes)
    kept = list((study.folder / "figures").glob(f"{stage.notebook[:2]}_*.png"))
    shown = page.locator(".jp-OutputArea-output img").count()
    assert shown >= len(kept) > 0
    explorers = page.locator(EXPLORER)
    assert explorers.count() > 0
    for number in range(explorers.count()):
        move_each_control(page, explorers.nth(number))
    page.evaluate("jupyterapp.serviceManager.sessions.shutdownAll()")
    assert page.outside == [] and page.faults == []


def test_the_tables_are_those_of_a_papermill_run(lab, tmp_path):
    batch = run(load_profile("smoke"), "smoke", outputs=tmp_path)
    interactive = Study(lab.folder / "outputs", "smoke")
    names = [p.name for p in batch.folder.iterdir() if p.suffix in (".jsonl", ".csv", ".safetensors")]
    assert {file for stage in STAGES for file in stage.writes} <= set(names)
    assert [n for n in names if contents(batch.folder / n) != contents(interactive.folder / n)] == []


def contents(path):
    """A table as it is; of safetensors what is in them, for their metadata have no order."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(path, "np") as file:
        return file.metadata(), {name: file.get_tensor(name).tobytes() for name in file.keys()}


def run_all_cells(page, seconds):
    """What Run > Run All Cells does, until each cell has run or one has failed."""
    page.wait_for_function(f"{SESSION}?.session?.kernel?.status === 'idle'", timeout=120_000)
    command(page, "notebook:run-all-cells")
    prompts, trouble = page.locator(".jp-CodeCell .jp-InputArea-prompt"), page.locator(TROUBLE)
    ran = re.compile(r"\[\d+\]:").fullmatch
    wait_for(lambda: all(ran(text.strip()) for text in prompts.all_inner_texts()) or trouble.count(), seconds)


def command(page, name, **arguments):
    page.evaluate("([name, given]) => { jupyterapp.commands.execute(name, given) }", [name, arguments])


def move_each_control(page, explorer):
    """By keyboard: every control takes another value, and the picture follows at least one of them.

    Not each of them: in so small a study two settings may well give one picture.
    """
    controls, picture = explorer.locator("select, [role=slider]"), explorer.locator("img.widget-image")
    followed = []
    for number in range(controls.count()):
        control, shown = controls.nth(number), picture.get_attribute("src")
        value = value_of(control)
        control.focus()
        move(page, control)
        assert value_of(control) != value, f"control {number + 1} of {explorer.inner_text()!r}"
        followed.append(changes(picture, shown))
    assert any(followed), explorer.inner_text()


def value_of(control):
    return control.evaluate("e => e.value ?? e.getAttribute('aria-valuenow')")


def move(page, control):
    """One step, back from the end.  A list has to be opened: JupyterLab takes the arrow keys of a closed one."""
    at_end = "e => e.options ? e.selectedIndex + 1 == e.options.length : e.ariaValueNow == e.ariaValueMax"
    back = control.evaluate(at_end)
    if control.get_attribute("role") == "slider":
        page.keyboard.press("ArrowLeft" if back else "ArrowRight")
    else:
        for key in ("Space", "ArrowUp" if back else "ArrowDown", "Enter"):
            page.keyboard.press(key)


def changes(picture, before, seconds=4):
    try:
        wait_for(lambda: picture.get_attribute("src") != before, seconds)
    except TimeoutError:
        return False
    return True
