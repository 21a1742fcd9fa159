"""The rooms: imports point down only, and the three lists of packages agree."""

import ast
import itertools
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from dreamprm_lib.engine.files import from_yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dreamprm_lib"
CHAPTERS = [
    "chain_of_functions",
    "monte_carlo_labels",
    "candidate_solutions",
    "reward_model",
    "label_correction",
    "known_truth",
    "step_search",
    "test_time_scaling",
    "paper_scale",
]
WITHOUT_A_NOTEBOOK = {"known_truth", "step_search"}  # chapters 5 and 6 have them
ANNEXES = {"compute": "test_time_scaling"}  # a module without a notebook of its own, and the chapter it stands on
RUNNERS = ["run", "plan", "train", "record", "evaluate", "course", "__main__"]


def floor(module):
    """The floor a module stands on; it may import its own floor's earlier rooms and all below."""
    parts = module.split(".")[1:]
    if not parts or parts[0] in ("errors", "__init__"):
        return 0
    if parts[0] == "engine":
        return 1
    if parts[0] == "artifacts":
        return 2
    if parts[0] in CHAPTERS:
        return 3 + CHAPTERS.index(parts[0])
    if parts[0] in ANNEXES:
        return 3.5 + CHAPTERS.index(ANNEXES[parts[0]])
    if parts[0] == "show":
        return 20
    assert parts[0] in RUNNERS, f"{module} has no room"
    return 30


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dreamprm_lib"):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (n.name for n in node.names if n.name.startswith("dreamprm_lib"))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    module = ".".join(["dreamprm_lib", *path.relative_to(PACKAGE).with_suffix("").parts])
    for other in imports(path):
        same_room = floor(other) == floor(module) and floor(module) in (0, 1, 20, 30)
        assert floor(other) < floor(module) or same_room, f"{module} imports {other}"


def test_each_chapter_has_its_notebook():
    notebooks = {p.stem[3:] for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert notebooks == {"start_here", *CHAPTERS} - WITHOUT_A_NOTEBOOK


def name_of(requirement):
    return re.split(r"[<>=!\[ ;]", requirement)[0].lower().replace("_", "-")


def test_the_three_lists_of_packages_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and line[0] != "#"
    )
    pinned = {name_of(name): version for name, version in pinned.items()}
    assert pinned["torch"] == "2.13.0"
    for requirement in wanted:
        assert name_of(requirement) in pinned, requirement
        lowest = requirement.split(">=")[1]
        assert tuple(map(int, lowest.split("."))) <= tuple(
            int(part) for part in re.findall(r"\d+", pinned[name_of(requirement)])
        )
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
