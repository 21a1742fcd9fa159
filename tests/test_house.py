"""The rooms: imports point down only, and the three lists of packages agree."""

import ast
import itertools
import re
import subprocess
import tomllib
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from dreamprm_lib.engine.files import from_yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dreamprm_lib"
CHAPTERS = ["chain_of_functions", "monte_carlo_labels", "candidate_solutions", "reward_model", "label_correction"]
CHAPTERS += ["known_truth", "test_time_scaling", "selection_by_execution", "cost_and_search", "paper_scale"]
CHAPTERS += ["what_it_reads", "asking_again"]
FLOORS = {"__init__": 0, "errors": 0, "engine": 1, "evidence": 2, "study": 3, "steps": 4}
FLOORS |= {name: 5 + number for number, name in enumerate(CHAPTERS)}
FLOORS |= {"show": 20, "commands": 21, "course": 22, "__main__": 23}


@pytest.fixture
def house(docs_module):
    """What draws the picture of the rooms, and reads the imports for it."""
    return docs_module("house")


def test_imports_point_down_and_no_module_stands_on_itself(house):
    """Nor on one that stands on it, through any number of others; imports for types and within functions count too."""
    sources = {module: text for module, text in house.modules().items() if module[0] != "notebooks"}
    stands_on = {module: house.imported(text) - {module} for module, text in sources.items()}
    for module, others in stands_on.items():
        for other in others:
            below = FLOORS[other[0]] < FLOORS[module[0]]
            assert below or other[0] == module[0], f"{'.'.join(module)} imports {'.'.join(other)}"
        assert not re.search(r"^\s*from \.", sources[module], re.MULTILINE), "not seen above"
    assert len(sources) > 50
    TopologicalSorter(stands_on).prepare()  # raises CycleError, which names the circle


def test_no_two_public_classes_share_a_name():
    classes = [
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert [name for name, count in Counter(classes).items() if count > 1] == []


def test_each_chapter_has_its_notebook():
    notebooks = {p.stem[3:] for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert notebooks == {"start_here", *CHAPTERS}


def name_of(requirement):
    return re.split(r"[<>=!\[ ;]", requirement)[0].lower().replace("_", "-")


def test_the_three_lists_of_packages_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    pins = re.findall(r"^([^#\s]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    pinned = {name_of(name): version for name, version in pins}
    assert pinned["torch"] == "2.13.0"
    for requirement in wanted:
        assert name_of(requirement) in pinned, requirement
        lowest, pin = requirement.split(">=")[1], pinned[name_of(requirement)]
        assert [int(n) for n in lowest.split(".")] <= [int(n) for n in re.findall(r"\d+", pin)]
    conda = from_yaml((ROOT / "environment.yml").read_text(), "x")["dependencies"]
    assert {"pip": ["-c constraints.txt", "-e .[test]"]} in conda
    assert any(entry.startswith("python=3.1") for entry in conda if isinstance(entry, str))


def test_no_text_of_the_project_names_this_machine_or_leaves_work_open():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in files:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".yml", ".yaml", ".ipynb", ".cff", ".txt") and path.exists():
            text = path.read_text(encoding="utf-8")
            assert str(ROOT.parent) + "/" not in text or path.name == "test_house.py", name
            assert not re.search(r"\bTO" r"DO\b|\bFIX" r"ME\b", text), name
