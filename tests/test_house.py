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
CHAPTERS += ["known_truth", "step_search", "test_time_scaling", "paper_scale"]
WITHOUT_A_NOTEBOOK = {"known_truth", "step_search"}  # chapters 5 and 6 have them
FLOORS = {"__init__": 0, "errors": 0, "engine": 1, "evidence": 2, "study": 3, "steps": 4}
FLOORS |= {name: 5 + number for number, name in enumerate(CHAPTERS)}
FLOORS |= {"show": 20, "commands": 21, "course": 22, "__main__": 23}


def room(module):
    """The room that a module is, or that its package is, however deep it lies there."""
    return [*module.split("."), "__init__"][1]


def imports(path, module):
    """The modules that a file imports from the library, by `from . import x` and inside functions too."""
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{base}.{name.name}" for name in node.names if base.split(".")[0] == "dreamprm_lib")
        elif isinstance(node, ast.Import):
            yield from (n.name for n in node.names if n.name.split(".")[0] == "dreamprm_lib")


def test_imports_point_down_and_no_module_stands_on_itself():
    """Nor on one that stands on it, through any number of others; imports for types alone count too."""
    parts = {path: path.relative_to(PACKAGE).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    paths = {".".join(["dreamprm_lib", *own]): path for path, own in parts.items()}
    graph = {}
    for module, path in paths.items():
        assert room(module) in FLOORS, f"{module} has no room"
        found = list(imports(path, module))
        for other in found:
            below = FLOORS[room(other)] < FLOORS[room(module)]
            assert below or room(other) == room(module), f"{module} imports {other}"
        graph[module] = {name if name in paths else name.rpartition(".")[0] for name in found} & paths.keys() - {module}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_two_public_classes_share_a_name():
    classes = [
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert [name for name, count in Counter(classes).items() if count > 1] == []


@pytest.mark.parametrize(
    "line, found",
    [
        ("from dreamprm_lib.commands import run", ["dreamprm_lib.commands.run"]),
        ("from dreamprm_lib.engine import losses as x", ["dreamprm_lib.engine.losses"]),
        ("from ..show import figures", ["dreamprm_lib.show.figures"]),
        ("from . import costs", ["dreamprm_lib.evidence.costs"]),
        ("def f():\n    import dreamprm_lib.commands.plan", ["dreamprm_lib.commands.plan"]),
        ("import numpy\nfrom pathlib import Path", []),
    ],
)
def test_an_import_is_seen_in_each_form(tmp_path, line, found):
    path = tmp_path / "x.py"
    path.write_text(line)
    assert list(imports(path, "dreamprm_lib.evidence.x")) == found


def test_each_chapter_has_its_notebook():
    notebooks = {p.stem[3:] for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert notebooks == {"start_here", *CHAPTERS} - WITHOUT_A_NOTEBOOK


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
