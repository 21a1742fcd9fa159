"""The course in JupyterLab, as a newcomer runs it: every notebook from top to bottom, every explorer moved."""

import json
import re
import time

import pytest
from safetensors import safe_open

from dreamprm_lib.commands.run import load_profile, run
from dreamprm_lib.study.folder import STAGES, Study

from .conftest import ARTIFACTS, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.weights]

FIRST_FIGURE, TOUR, CHAPTER = 30, 120, 300  # seconds
EXPLORER = ".jp-OutputArea .widget-vbox:has(> img.widget-image)"
SESSION = "globalThis.jupyterapp?.shell.currentWidget?.sessionContext"
TROUBLE = '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]'  # errors, too


@pytest.fixture(scope="module")
def seconds():
    """How long each notebook took, by name; kept beside the screenshots."""
    measured = {}
    yield measured
    (ARTIFACTS / "seconds.json").write_text(json.dumps(measured, indent=1))


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.notebook)
def test_a_notebook_runs_from_top_to_bottom_and_its_explorers_answer(stage, lab, open_page, seconds):
    page = open_page(f"{lab.url}/lab/tree/{stage.notebook}.ipynb?reset&token={lab.token}")
    seconds[stage.notebook] = run_all_cells(page)
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
    for theme in ("Light", "Dark"):
        keep_screenshot(page, f"{stage.notebook}-{theme.lower()}", f"JupyterLab {theme}")
    page.evaluate("jupyterapp.serviceManager.sessions.shutdownAll()")
    assert page.outside == [] and page.faults == []


def test_the_first_figure_comes_soon_and_the_tour_is_short(seconds):
    tour = seconds["00_start_here"]
    assert tour["first figure"] < FIRST_FIGURE and tour["all cells"] < TOUR


def test_the_tables_are_those_of_a_papermill_run(lab, tmp_path):
    batch = run(load_profile("smoke"), "smoke", outputs=tmp_path)
    interactive = Study(lab.folder / "outputs", "smoke")
    names = [p.name for p in batch.folder.iterdir() if p.suffix in (".jsonl", ".csv", ".safetensors")]
    assert {file for stage in STAGES for file in stage.writes} <= set(names)
    assert [n for n in names if contents(batch.folder / n) != contents(interactive.folder / n)] == []


def contents(path):
    """A table as it is; of safetensors what is in them, for the order of their metadata is left to chance."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(path, "np") as file:
        return file.metadata(), {name: file.get_tensor(name).tobytes() for name in file.keys()}


def run_all_cells(page):
    """What Run > Run All Cells does; seconds to the first figure and to the end, from when the kernel was ready."""
    page.wait_for_function(f"{SESSION}?.session?.kernel?.status === 'idle'", timeout=120_000)
    started, first = time.monotonic(), None
    command(page, "notebook:run-all-cells")
    prompts, figures = page.locator(".jp-CodeCell .jp-InputArea-prompt"), page.locator(".jp-OutputArea-output img")

    def done():
        nonlocal first
        first = first or (time.monotonic() - started if figures.count() else None)
        ended = all(re.fullmatch(r"\[\d+\]:", text.strip()) for text in prompts.all_inner_texts())
        return ended or page.locator(TROUBLE).count()

    wait_for(done, CHAPTER)
    return {"first figure": first and round(first, 1), "all cells": round(time.monotonic() - started, 1)}


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
    at_end = control.evaluate(
        "e => e.options ? e.selectedIndex + 1 == e.options.length : e.ariaValueNow == e.ariaValueMax"
    )
    if control.get_attribute("role") == "slider":
        page.keyboard.press("ArrowLeft" if at_end else "ArrowRight")
    else:
        for key in ("Space", "ArrowUp" if at_end else "ArrowDown", "Enter"):
            page.keyboard.press(key)


def changes(picture, before, seconds=4):
    try:
        wait_for(lambda: picture.get_attribute("src") != before, seconds)
    except TimeoutError:
        return False
    return True


def keep_screenshot(page, name, theme):
    """The whole notebook as one picture in the artefacts."""
    command(page, "apputils:change-theme", theme=theme)
    page.wait_for_function(f"document.body.dataset.jpThemeName === '{theme}'")
    size, notebook = page.viewport_size, page.locator(".jp-NotebookPanel-notebook")
    outer = notebook.locator(".jp-WindowedPanel-outer")
    page.set_viewport_size({"width": 1280, "height": min(outer.evaluate("e => e.scrollHeight") + 120, 16_000)})
    outer.evaluate("e => { e.scrollTop = 0 }")
    page.wait_for_timeout(500)
    notebook.screenshot(path=ARTIFACTS / f"{name}.png")
    page.set_viewport_size(size)
