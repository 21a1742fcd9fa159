"""What a run of a profile takes, before it is begun: requests, tokens, money, hours, disk; what is missing here.

What is asked of a policy is what the chapters' `requests` list, for the problems or, where these cannot be read without
fetching, for as many stand-ins; all else is assumed in `evidence.costs`.  Every completion counts as not yet stored,
and the weights of a served model lie with its server.  Not counted: the beam search and the repairs, which are asked
for as programs turn out.  The plan is arithmetic; nothing is asked, fetched or run.
"""

import contextlib
import math
import os
import re
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import torch
from huggingface_hub import try_to_load_from_cache

from dreamprm_lib import asking_again, candidate_solutions, chain_of_functions, monte_carlo_labels
from dreamprm_lib.chain_of_functions import Batch
from dreamprm_lib.commands import run as runner
from dreamprm_lib.engine.fine_tuning import recipe_in
from dreamprm_lib.engine.policy.endpoint import PER_REQUEST, WEAKER, Endpoint, endpoint_from
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.engine.weights import WEIGHTS
from dreamprm_lib.evidence import costs
from dreamprm_lib.paper_scale import PAPER
from dreamprm_lib.study.folder import STAGES
from dreamprm_lib.study.rows import Program

COUNTS = ["requests", "completions", "tokens in", "tokens out"]
COLUMNS = ["stage", "what", "model", *COUNTS, "dollars", "GPU hours", "core hours"]
LIVECODEBENCH = 4.5  # gigabytes of its data


@dataclass(frozen=True)
class Plan:
    """`work`: a row a stage and kind of work, with `COLUMNS`; `problems`: how many of each split, and whether they
    were `counted` or assumed; `gigabytes` of disk; `missing`: sentences."""

    work: pd.DataFrame
    problems: dict[str, int]
    counted: bool
    gigabytes: float
    missing: list[str]

    def __str__(self) -> str:
        splits = ", ".join(f"{n:,} {split}" for split, n in self.problems.items())
        form = {"dollars": "{:,.0f}".format} | dict.fromkeys(COUNTS, "{:,}".format)
        form |= dict.fromkeys(["GPU hours", "core hours"], "{:,.2f}".format)
        total = self.work[COLUMNS[3:]].sum()
        lines = [
            f"Problems ({'counted' if self.counted else 'assumed: the data are not here'}): {splits}\n",
            f"{self.work.to_string(index=False, formatters=form)}\n",
            "" if total.requests else "No model is asked: completions are replayed.",
            f"Together: {total.requests:,.0f} requests, {total['tokens out']:,.0f} tokens written, "
            f"${total.dollars:,.0f} for priced models, {total['GPU hours']:,.2f} GPU hours "
            f"(${total['GPU hours'] * costs.GPU.price:,.0f}), {total['core hours']:,.2f} core hours, "
            f"{self.gigabytes:.1f} GB of disk.\n",
            *([f"Missing: {what}" for what in self.missing] or ["Nothing is missing on this machine."]),
        ]
        return "\n".join(lines)


def plan_command(profile: str, overrides: list[str], **_others: Any) -> Plan:
    """`plan` for the command line: a profile by its name, options as text."""
    return plan(runner.elsewhere(runner.load_profile(profile)), runner.parse_overrides(overrides))


def plan(profile: runner.Profile, overrides: runner.Overrides | None = None) -> Plan:
    """The plan of a profile.  Raises `InputError` for a profile that does not fit the notebooks."""
    wanted = {s.notebook[:2]: runner.stage_parameters(s, profile, overrides or {}, {}) for s in STAGES}
    hosted = wanted["01"]["problems"].startswith("livecodebench")
    counted = not hosted or _in_hub_cache("livecodebench/code_generation_lite", "test.jsonl", "dataset")
    splits = runner.split_problems(wanted) if counted else _stand_ins(wanted)
    problems = {split: len(of) for split, of in splits.items()}
    rows = [_written(stage, batch, wanted[stage]) for stage, batch in _batches(wanted, splits)]
    work = pd.DataFrame(rows + _read(wanted, problems), columns=COLUMNS)
    sizes = sum(map(parameters_of, wanted["04"]["backbones"]))
    gigabytes = 2 * sizes / 1e9 + LIVECODEBENCH * hosted  # weights in bfloat16
    return Plan(work, problems, counted, gigabytes, _missing(wanted, counted, gigabytes))


def _stand_ins(wanted: Mapping[str, dict]) -> dict[str, list[Problem]]:
    """As many problems of each split as LiveCodeBench has, within the limits; those to be compared come first."""
    train = round(0.8 * PAPER.problems)
    counts = {"train": train, "meta": PAPER.problems - train, "test": PAPER.test_problems}
    names = [*wanted["01"]["compared"], *map(str, range(PAPER.problems))]
    most = {split: wanted[notebook][limit] for split, (notebook, limit) in runner.LIMITS.items()}
    return {
        split: [Problem(name, "", "", "easy", split, (), ()) for name in names[:count][: most[split]]]
        for split, count in counts.items()
    }


def _batches(wanted: Mapping[str, dict], splits: Mapping[str, list[Problem]]) -> list[tuple[str, Batch]]:
    """What each stage asks of its policies; programs that are not yet written are thought to have `PAPER.steps`."""
    steps, samples = ["x"] * round(PAPER.steps), range(wanted["01"]["train_samples"])
    programs = [Program(p.id, k, "", steps, True, "passed", 0) for p in splits["train"] for k in samples]
    asked = {
        "01": chain_of_functions.requests(splits["train"], splits["meta"], **wanted["01"]),
        "02": monte_carlo_labels.requests(splits["train"], programs, **wanted["02"]),
        "03": candidate_solutions.requests(splits["test"], **wanted["03"]),
        "12": asking_again.requests(splits["test"], **wanted["12"]),
    }
    return [(stage, batch) for stage, batches in asked.items() for batch in batches if batch.prompts]


def _written(stage: str, batch: Batch, parameters: Mapping) -> tuple:
    """The row of what is asked for and graded; what is replayed is only graded."""
    endpoint, n = _endpoint(parameters, batch.policy), max(batch.samples - batch.known, 0)
    completions = len(batch.prompts) * n
    graded = completions * PAPER.tests * costs.CORE.run / 3600
    if parameters["replay"]:
        return stage, batch.what, endpoint.model, 0, completions, 0, 0, 0.0, 0.0, graded
    share = costs.ROLLOUT_SHARE if batch.what.startswith(("rollouts", "oracle")) else 1  # of a program
    thought = costs.REASONING_TOKENS if endpoint.api.reasoning else 0
    requests = len(batch.prompts) * (math.ceil(n / PER_REQUEST) if endpoint.api.n else n)
    into, out = requests * costs.PROMPT_TOKENS, round(completions * (PAPER.program_tokens * share + thought))
    dollars = endpoint.cost(into, out, completions).dollars or 0.0
    hours = 0.0 if dollars else out / costs.GPU.written / 3600
    return stage, batch.what, endpoint.model, requests, completions, into, out, dollars, hours, graded


def _endpoint(parameters: Mapping, name: str) -> Endpoint:
    return endpoint_from(parameters[name] or (WEAKER if name == "weak_policy" else {}))


def _read(wanted: Mapping[str, dict], problems: Mapping[str, int]) -> list[tuple]:
    """The rows of training and scoring: tokens, times the parameters that read each, times the passes over them.

    They are hours of a GPU where a backbone is trained or large, else of a core.  A frozen backbone reads its lessons
    once, in chapter 4, and at most: chapter 4 asks only for its lower layers.
    """
    one, three, four, five = (wanted[stage] for stage in ("01", "03", "04", "05"))
    sizes = [parameters_of(name) for name in four["backbones"]]
    chosen = max(sizes)  # at most: chapter 4 chooses one of them by the evidence
    learned = problems["train"] + problems["meta"]
    programs = problems["train"] * one["train_samples"] + problems["meta"] * one["meta_samples"]
    lessons = learned * PAPER.statement_tokens + programs * PAPER.program_tokens
    tested = problems["test"] * (PAPER.statement_tokens + three["samples"] * PAPER.program_tokens)
    folds = five["folds"] + 1
    tuned = 1 if four["training"] == "head" else 3  # backbones that read a candidate: a tuned one for each method
    work = [
        ("04", "ORM and PRM-CoF", lessons * sum(sizes) * (2 if tuned > 1 else 1) * _passes(four, learned)),
        ("05", "correction", lessons * chosen * folds * _passes(five, learned) if five["training"] != "head" else 0),
        ("06", "scoring", tested * chosen * tuned),
    ]
    on_gpu = chosen > 1e9 or tuned > 1
    seconds = [(stage, what, 2 * reads / (costs.GPU if on_gpu else costs.CORE).reads) for stage, what, reads in work]
    return [
        (stage, what, "", 0, 0, 0, 0, 0.0, s / 3600 if on_gpu else 0.0, 0.0 if on_gpu else s / 3600)
        for stage, what, s in seconds
    ]


def _passes(settings: Mapping, learned: int) -> float:
    """How often a training reads its lessons, in plain readings: once where the backbone is frozen."""
    if settings["training"] == "head":
        return 1.0
    recipe = recipe_in(settings)
    rounds = recipe.iterations * recipe.iteration_accumulation / max(learned, 1)
    return recipe.epochs * costs.TRAINING + rounds * costs.CORRECTION


def parameters_of(name: str) -> float:
    """The parameters of a model that work on a token, by its name: `30B-A3B` has three billion."""
    if name in WEIGHTS:
        return WEIGHTS[name].parameters
    found = re.findall(r"(?<![\d.])(\d+(?:\.\d+)?)([BM])(?![a-z])", Path(name).name, re.IGNORECASE)
    return float(found[-1][0]) * {"B": 1e9, "M": 1e6}[found[-1][1].upper()] if found else 0.0


def _missing(wanted: Mapping[str, dict], counted: bool, gigabytes: float) -> list[str]:
    """What a run would lack on this machine."""
    backbones, missing = wanted["04"]["backbones"], []
    for name in backbones:
        if name in WEIGHTS and not WEIGHTS[name].is_here:
            missing.append(f"the weights {name}: `python -m dreamprm_lib weights fetch {name}`.")
        elif name not in WEIGHTS and not Path(name).exists() and not _in_hub_cache(name, "config.json", "model"):
            missing.append(f"the weights {name}: the first run fetches them from the Hugging Face hub.")
    if not counted:
        missing.append("LiveCodeBench's data: the first run fetches them from the Hugging Face hub.")
    if not torch.cuda.is_available() and max(map(parameters_of, backbones)) > 1e9:
        missing.append("a GPU: a backbone of this size trains too slowly without one.")
    policies = [("01", "policy"), ("02", "policy"), ("02", "weak_policy"), ("03", "policy"), ("12", "policy")]
    asked = [_endpoint(wanted[stage], name) for stage, name in policies if not wanted[stage]["replay"]]
    for model, url, key in sorted({(e.model, e.base_url or "", e.key_variable) for e in asked}):
        if url == "openai" and not os.environ.get(key):
            missing.append(f"a key for {model}: set the environment variable {key}.")
        elif url.startswith("http") and not _listens(url):
            missing.append(f"a server for {model}: nothing answers at {url}.")
    free = shutil.disk_usage(Path.home()).free / 1e9
    if gigabytes > free:
        missing.append(f"disk: {gigabytes:.0f} GB are needed, {free:.0f} are free.")
    return missing


def _listens(url: str) -> bool:
    where = urlsplit(url)
    port = where.port or (443 if where.scheme == "https" else 80)
    with contextlib.suppress(OSError), socket.create_connection((where.hostname, port), 1):
        return True
    return False


def _in_hub_cache(name: str, file: str, kind: str) -> bool:
    return isinstance(try_to_load_from_cache(name, file, repo_type=kind), str)
