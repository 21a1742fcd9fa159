"""The `paper` profile in full, offline, for `make rehearsal`.

All is as in the profile but the size: a server on this machine plays the models by a script, and fails one request in
eight; the backbone is a tiny one with random weights; a few starter problems replace LiveCodeBench, in its own
JSON Lines format and split by its dates.  What comes out is no result, and says so.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pickle
import random
import re
import shutil
import sys
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from dreamprm_lib.engine.files import from_yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import random_backbone  # noqa: E402
from faults import FaultyServer, at_random  # noqa: E402

from dreamprm_lib.chain_of_functions import PREFILL, split_steps  # noqa: E402
from dreamprm_lib.commands.run import load_profile, run  # noqa: E402
from dreamprm_lib.engine.problem import Problem, hash_share  # noqa: E402
from dreamprm_lib.engine.problems import load_problems  # noqa: E402
from dreamprm_lib.reward_model import Backbone, Head, RewardModel  # noqa: E402
from dreamprm_lib.study.folder import STAGES  # noqa: E402

NOTE = "A rehearsal: scripted replies, random weights, a few problems. It shows that all parts run; it is no result."
OPENING = PREFILL.removeprefix("```python\n") + ' solve, print the answer."""\n'
SIZES = {"train": 8, "meta": 4, "test": 6}
FAULTS = at_random(1 / 8, ("429 wait", "500", "cut", "half", "not json"))  # of all requests


# ------------------------------------------------------------------------------------------------- problems


def chosen_problems() -> dict[str, list[Problem]]:
    """Starter problems by the split that their date and id will give them: of the early ones, those whose id has a hash
    below a fifth of the greatest are meta."""
    starter = [p for p in load_problems("starter") if len(split_steps(p.reference)) >= 3 and not p.checker]
    meta = [p for p in starter if hash_share(p.id) < 0.2]
    others = [p for p in starter if p not in meta]
    train, test = others[: SIZES["train"]], others[-SIZES["test"] :]
    return {"train": train, "meta": meta[: SIZES["meta"]], "test": test, "left out": others[20:21]}


def write_livecodebench(path: Path, chosen: dict[str, list[Problem]]) -> None:
    """The problems as LiveCodeBench's `test*.jsonl` has them, private tests packed as there."""
    dates = {"train": "2024-05-04", "meta": "2024-06-01", "left out": "2024-11-02", "test": "2025-02-15"}
    lines = []
    for split, problems in chosen.items():
        for p in problems:
            public, private = (
                json.dumps([{"input": t.input, "output": t.output, "testtype": "stdin"} for t in tests])
                for tests in (p.samples, p.tests)
            )
            row = {"question_title": p.title, "question_content": p.statement, "question_id": p.id}
            row |= {"platform": "atcoder", "contest_id": "rehearsal", "contest_date": f"{dates[split]}T00:00:00"}
            row |= {"starter_code": "", "difficulty": p.difficulty, "public_test_cases": public, "metadata": "{}"}
            row["private_test_cases"] = base64.b64encode(zlib.compress(pickle.dumps(private))).decode()
            lines.append(json.dumps(row))
    path.write_text("\n".join(lines) + "\n")


# ------------------------------------------------------------------------------------------------- the models' part


def variants(problem: Problem) -> list[str]:
    """A right program in chain form, and wrong ones: in the last function, in the first, and one that fails."""
    right = problem.reference.replace("def main():\n", OPENING, 1)
    last = max(m.end() for m in re.finditer(r"^def .*:\n", right, re.MULTILINE))
    late = f"{right[:last]}    return 0\n{right[last:]}"
    early = right.replace("print(", 'print("?", ', 1)
    return [right, late, early, f"{right[:last]}    raise ValueError\n{right[last:]}"]


class Script:
    """Replies to each request as a model might: right or wrong by chance, a little better for the stronger model."""

    def __init__(self, problems: list[Problem]):
        self.problems, self.asked = problems, Counter()

    def __call__(self, body: dict) -> list[str]:
        """Texts for the choices that are asked for."""
        chat = "messages" in body
        prompt = "".join(m["content"] for m in body["messages"]) if chat else body["prompt"]
        problem = next(p for p in self.problems if p.statement.strip() in prompt)
        self.asked[prompt] += 1
        rng = random.Random(hashlib.sha256(f"{body['model']} {self.asked[prompt]} {prompt}".encode()).hexdigest())
        prefix = "" if chat else prompt.rpartition("```python\n")[2]
        skill = {"easy": 0.7, "medium": 0.5, "hard": 0.3}[problem.difficulty]
        skill *= 0.6 if "3B-Instruct" in body["model"] else 1
        return [self._reply(problem, prefix, skill, rng, chat) for _ in range(body.get("n") or 1)]

    @staticmethod
    def _reply(problem: Problem, prefix: str, skill: float, rng: random.Random, chat: bool) -> str:
        known = [code for code in variants(problem) if code.startswith(prefix)] or [prefix]
        code = known[0] if rng.random() < skill else rng.choice(known)
        return f"Here it is.\n\n```python\n{code}```\n" if chat else code[len(prefix) :].rstrip()


# ------------------------------------------------------------------------------------------------- the rehearsal


def rehearse(outputs: Path):
    """Run the profile from nothing, with a cache of its own; returns the study and the server that was asked."""
    folder = outputs / "rehearsal"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["DREAMPRM_CACHE"] = str(folder / "cache")
    os.environ["HF_HUB_OFFLINE"] = "1"
    chosen = chosen_problems()
    write_livecodebench(folder / "problems.jsonl", chosen)
    backbone = random_backbone(folder / "backbone")
    blank = Head(np.zeros(32), 0.0, np.zeros(32), np.ones(32))
    RewardModel(Backbone(backbone, (3,), dtype="float32"), blank).save(folder / "start.safetensors")
    (folder / "REHEARSAL.txt").write_text(f"{NOTE}\n")
    server = FaultyServer(Script([p for problems in chosen.values() for p in problems]), FAULTS)
    try:
        profile = load_profile("paper")
        changes = smaller(profile, folder, server.base_url)
        return run(replace(profile, note=NOTE), folder.name, False, changes, outputs), server
    finally:
        server.stop()


def smaller(profile, folder: Path, base_url: str) -> dict[str, dict]:
    """What the rehearsal changes: where models, problems and weights are, and how much is done."""
    source = profile.common["problems"].replace("livecodebench", str(folder / "problems.jsonl"))
    changes = from_yaml((ROOT / "tests" / "rehearsal.yaml").read_text(), "x")
    for notebook in (stage.notebook for stage in STAGES[1:]):
        mine, section = changes.setdefault(notebook, {}), profile.sections.get(notebook, {})
        mine["problems"] = source
        for name in ("policy", "weak_policy"):
            if name in section:
                mine[name] = section[name] | {"base_url": base_url}
    changes["00_start_here"]["checkpoint"] = str(folder / "start.safetensors")
    changes["04_reward_model"] |= {"backbones": [str(folder / "backbone")]}
    changes["11_what_it_reads"] |= {"reader": "smollm2-135m-instruct-q4_1"}
    return changes
