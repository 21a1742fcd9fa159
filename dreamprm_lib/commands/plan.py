"""What a run of a profile takes, before it is begun: requests, tokens, money, GPU hours, disk; what is missing here.

What is asked of a policy is what the chapters' `requests` list, for the problems or, where these cannot be read without
fetching, for as many stand-ins.  All else is an assumption with a name (`Assumptions`), which a profile may set in its
section `plan`.  Every completion counts as not yet stored, and the weights of a served model lie with its server.  The
plan is arithmetic; nothing is asked, fetched or run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import math
import os
import re
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import torch

from dreamprm_lib import candidate_solutions, chain_of_functions, monte_carlo_labels
from dreamprm_lib.chain_of_functions import Batch
from dreamprm_lib.commands.run import LIMITS, Profile, split_problems, stage_parameters
from dreamprm_lib.engine.files import cache_dir
from dreamprm_lib.engine.fine_tuning import CORRECTING, recipe_of
from dreamprm_lib.engine.policy.endpoint import PER_REQUEST, WEAKER, Endpoint, endpoint_from
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.engine.schema import row_of
from dreamprm_lib.engine.weights import WEIGHTS, listing
from dreamprm_lib.evidence.costs import CORE, CORRECTION, GPU, ROLLOUT_SHARE, TRAINING, Scale
from dreamprm_lib.paper_scale import PAPER
from dreamprm_lib.study.folder import STAGES
from dreamprm_lib.study.rows import Program

WIDTH = 2048  # of a state, for its disk space
COUNTS = ("requests", "completions", "tokens in", "tokens out")


@dataclass(frozen=True)
class Assumptions:
    """What no profile says: sizes and speeds, by default those of `evidence.costs`.  Tokens are those of one text.

    - `early`, `late`: LiveCodeBench's problems before `train_before` (a fifth of them is meta) and from `test_from`,
      for release v6 and the paper's dates; used only where the data are not on this machine.
    - `prompt_tokens`: what a policy reads: the statement, instructions and an example.
    - `reasoning_tokens`: what a reasoning model thinks before it answers.
    - `tests` of a program, at `test_seconds` of a core; `written_a_second`, `flops`, `gpu_price`: of a GPU.
    """

    early: int = PAPER.problems
    late: int = PAPER.test_problems
    statement_tokens: int = Scale.statement_tokens
    prompt_tokens: int = 900
    program_tokens: int = Scale.program_tokens
    steps: float = Scale.steps
    reasoning_tokens: int = 10_000
    tests: int = 30
    test_seconds: float = CORE.run
    written_a_second: float = GPU.written
    flops: float = GPU.reads
    gpu_price: float = GPU.price


@dataclass(frozen=True)
class Plan:
    """`asked`: a row a stage and kind of completion (requests, completions, tokens in and out, dollars, GPU hours);
    `computed`: a row a stage of own computation (GPU hours, core hours); `disk`: gigabytes by what takes them;
    `problems`: how many of each split, and whether they were counted or assumed; `missing`: sentences."""

    asked: pd.DataFrame
    computed: pd.DataFrame
    disk: dict[str, float]
    problems: dict[str, int]
    counted: bool
    missing: list[str]
    assumptions: Assumptions

    @property
    def dollars(self) -> float:
        """Of priced endpoints and of GPU hours."""
        return self.asked.dollars.sum() + self.gpu_hours * self.assumptions.gpu_price

    @property
    def gpu_hours(self) -> float:
        return self.asked["GPU hours"].sum() + self.computed["GPU hours"].sum()

    def __str__(self) -> str:
        splits = ", ".join(f"{n:,} {split}" for split, n in self.problems.items())
        assumed = ", ".join(f"{name} {value:.6g}" for name, value in vars(self.assumptions).items())
        disk = ", ".join(f"{what} {size:.1f}" for what, size in self.disk.items())
        form = {"dollars": "{:,.0f}".format, "GPU hours": "{:,.2f}".format, "core hours": "{:,.2f}".format}
        form |= dict.fromkeys(COUNTS, "{:,}".format)
        asked, computed = (t.to_string(index=False, formatters=form) for t in (self.asked, self.computed))
        lines = [
            f"Problems ({'counted' if self.counted else 'assumed: the data are not here'}): {splits}\n",
            f"{asked if len(self.asked) else 'No model is asked: completions are replayed.'}\n",
            f"{computed}\n",
            f"Together: {self.asked.requests.sum():,} requests, {self.asked['tokens out'].sum():,} tokens written, "
            f"${self.asked.dollars.sum():,.0f} for priced models, {self.gpu_hours:,.2f} GPU hours "
            f"(${self.gpu_hours * self.assumptions.gpu_price:,.0f}), {sum(self.disk.values()):.1f} GB of disk.",
            f"Disk in GB: {disk}.",
            f"Assumed (section `plan` of the profile changes it): {assumed}.\n",
            *([f"Missing: {what}" for what in self.missing] or ["Nothing is missing on this machine."]),
        ]
        return "\n".join(lines)


def plan(profile: Profile, overrides: Mapping[str, dict] | None = None) -> Plan:
    """The plan of a profile.  Raises `InputError` for a profile that does not fit the notebooks."""
    known = row_of(Assumptions, profile.plan, "The section `plan`")
    wanted = {s.notebook[:2]: stage_parameters(s, profile, overrides or {}, {}) for s in STAGES}
    counted = not _from_livecodebench(wanted) or _in_hub_cache("livecodebench/code_generation_lite", "dataset")
    splits = split_problems(wanted) if counted else _stand_ins(wanted, known)
    problems = {split: len(of) for split, of in splits.items()}
    batches = _batches(wanted, splits, known)
    graded = {
        stage: sum(len(b.prompts) * b.samples for b in some if b.what != "plain prompt")
        for stage, some in batches.items()
    }
    rows = [row for stage, some in batches.items() for b in some if (row := _asked(stage, b, wanted[stage], known))]
    asked = pd.DataFrame(rows, columns=["stage", "what", "model", *COUNTS, "dollars", "GPU hours"])
    rows = _computed(wanted, problems, graded, known)
    computed = pd.DataFrame(rows, columns=["stage", "what", "GPU hours", "core hours"])
    disk = _disk(wanted, graded, known, asked)
    return Plan(asked, computed, disk, problems, counted, _missing(wanted, counted, disk), known)


def _from_livecodebench(wanted: Mapping[str, dict]) -> bool:
    return wanted["01"]["problems"].startswith("livecodebench")


def _stand_ins(wanted: Mapping[str, dict], known: Assumptions) -> dict[str, list[Problem]]:
    """As many problems of each split as are assumed, within the limits; those to be compared come first."""
    train = round(0.8 * known.early)
    counts = {"train": train, "meta": known.early - train, "test": known.late}
    names = [*wanted["01"]["compared"], *map(str, range(max(counts.values())))]
    return {
        split: [Problem(name, "", "", "easy", split, (), ()) for name in names[:count]][: wanted[notebook][limit]]
        for (split, count), (notebook, limit) in zip(counts.items(), LIMITS.values(), strict=True)
    }


def _batches(
    wanted: Mapping[str, dict], splits: Mapping[str, list[Problem]], known: Assumptions
) -> dict[str, list[Batch]]:
    """What each stage asks of its policies; programs that are not yet written are thought to have `steps` steps."""
    one, two, three, six = (wanted[stage] for stage in ("01", "02", "03", "06"))
    train, test = splits["train"], splits["test"]
    ends = [round(k * known.steps) for k in range(len(train) * one["train_samples"] + 1)]
    lengths = iter(later - earlier for earlier, later in itertools.pairwise(ends))
    programs = [
        Program(p.id, k, "", ["x"] * next(lengths), True, "passed", 0)
        for p in train
        for k in range(one["train_samples"])
    ]
    searched = round(len(test[: six["search_problems"]]) * known.steps)  # prefixes that are continued
    prompts = [chain_of_functions.plain_prompt(p) for p in test[:1]] * searched
    width = six["search_width"] * six["search_branches"]
    return {
        "01": chain_of_functions.requests(train, splits["meta"], **one),
        "02": monte_carlo_labels.requests(train, programs, **two),
        "03": candidate_solutions.requests(test, **three),
        "06": [Batch("beam search", test[:1] * searched, prompts, width, six["temperature"])],
    }


def _asked(stage: str, batch: Batch, parameters: Mapping, known: Assumptions) -> tuple | None:
    """A row of `Plan.asked`; None for what is replayed, or nothing."""
    prompts, n = len(batch.prompts), batch.samples - batch.known
    if parameters["replay"] or not prompts or n <= 0:
        return None
    endpoint = _endpoint(parameters, batch.policy)
    shares = {"rollouts": ROLLOUT_SHARE, "oracle": ROLLOUT_SHARE, "beam search": 1 / known.steps}  # of a program
    written = known.program_tokens * shares.get(batch.what.split(",")[0], 1)
    thought = known.reasoning_tokens if endpoint.api.reasoning else 0
    requests = prompts * (math.ceil(n / PER_REQUEST) if endpoint.api.n else n)
    into, out = requests * known.prompt_tokens, round(prompts * n * (written + thought))
    dollars = endpoint.cost(into, out, prompts * n).dollars or 0.0
    hours = 0.0 if dollars else out / known.written_a_second / 3600
    return stage, batch.what, endpoint.model, requests, prompts * n, into, out, dollars, hours


def _endpoint(parameters: Mapping, name: str) -> Endpoint:
    return endpoint_from(parameters[name] or (WEAKER if name == "weak_policy" else {}))


def _computed(
    wanted: Mapping[str, dict], problems: Mapping[str, int], graded: Mapping[str, int], known: Assumptions
) -> list[tuple]:
    """The rows of `Plan.computed`: grading on cores, training and scoring on a GPU (on cores where there is none)."""
    seconds = known.tests * known.test_seconds
    rows = [(stage, "grading", 0.0, graded[stage] * seconds / 3600) for stage in ("01", "02", "03")]
    four, five = wanted["04"], wanted["05"]
    sizes = [parameters_of(name) for name in four["backbones"]]
    chosen = max(sizes)  # at most: chapter 4 chooses one of them by the evidence
    lessons = problems["train"] + problems["meta"]
    for stage, settings, what, passes, read in (
        ("04", four, "ORM and PRM-CoF", 2, sum(sizes)),
        ("05", five, "correction", 1, chosen),
    ):
        texts: float = graded["01"] * known.program_tokens + lessons * known.statement_tokens
        if settings["training"] != "head":
            correcting = {name: settings[name] for name in CORRECTING if name in settings}
            recipe = recipe_of(settings["training"], settings["recipe"], settings["seed"], **correcting)
            iterated = recipe.iterations * recipe.iteration_accumulation / max(lessons, 1)  # rounds of all packs
            texts *= recipe.epochs * TRAINING + iterated * CORRECTION
            texts *= 1 if stage == "04" else settings["folds"] + 1
        rows.append((stage, what, 2 * read * texts * passes / known.flops / 3600, 0.0))
    texts = graded["03"] * known.program_tokens + problems["test"] * known.statement_tokens
    rows.append(("06", "scoring", 2 * chosen * texts * _readings(wanted) / known.flops / 3600, 0.0))
    return rows


def _readings(wanted: Mapping[str, dict]) -> int:
    """How many different backbones read a text: one that is frozen, or each as it was tuned for its method."""
    return 1 if wanted["04"]["training"] == "head" else 3


def parameters_of(name: str) -> float:
    """The parameters of a model that work on a token, by its name: `30B-A3B` has three billion."""
    if name in WEIGHTS:
        return WEIGHTS[name].parameters
    found = re.findall(r"(?<![\d.])(\d+(?:\.\d+)?)([BM])(?![a-z])", Path(name).name, re.IGNORECASE)
    return float(found[-1][0]) * {"B": 1e9, "M": 1e6}[found[-1][1].upper()] if found else 0.0


def _disk(
    wanted: Mapping[str, dict], graded: Mapping[str, int], known: Assumptions, asked: pd.DataFrame
) -> dict[str, float]:
    """Gigabytes by what takes them; weights in bfloat16."""
    four = wanted["04"]
    states = (graded["01"] + graded["03"]) * known.steps * len(four["layers"]) * len(four["backbones"])
    disk = {
        "backbones": sum(map(parameters_of, four["backbones"])) * 2 / 1e9,
        "completions": asked["tokens out"].sum() * 5 / 1e9,
        "states of steps": states * 4 * WIDTH * _readings(wanted) / 1e9,
    }
    return disk | ({"LiveCodeBench": 4.5} if _from_livecodebench(wanted) else {})


def _missing(wanted: Mapping[str, dict], counted: bool, disk: dict[str, float]) -> list[str]:
    """What a run would lack on this machine."""
    missing = [*_missing_weights(wanted["04"]["backbones"])]
    if not counted:
        missing.append("LiveCodeBench's data: the first run fetches them from the Hugging Face hub.")
    if not torch.cuda.is_available() and max(map(parameters_of, wanted["04"]["backbones"])) > 1e9:
        missing.append("a GPU: a backbone of this size trains too slowly without one.")
    asking = {
        (endpoint.model, endpoint.base_url, endpoint.key_variable)
        for stage, name in (("01", "policy"), ("02", "policy"), ("02", "weak_policy"), ("03", "policy"))
        for endpoint in [_endpoint(wanted[stage], name)]
        if not wanted[stage]["replay"]
    }
    for model, url, key in sorted(asking, key=str):
        if url == "openai" and not os.environ.get(key):
            missing.append(f"a key for {model}: set the environment variable {key}.")
        elif url not in (None, "openai") and not _listens(url):
            missing.append(f"a server for {model}: nothing answers at {url}.")
    for backend in sorted({wanted[k]["backend"] for k in ("01", "02", "03", "06")} & {"dask", "ray"}):
        if importlib.util.find_spec({"dask": "distributed"}.get(backend, backend)) is None:
            missing.append(f'the package of the backend {backend}: pip install -e ".[{backend}]".')
    free = shutil.disk_usage(cache_dir().parent if cache_dir().parent.exists() else Path.home()).free / 1e9
    if sum(disk.values()) > free:
        missing.append(f"disk: {sum(disk.values()):.0f} GB are needed, {free:.0f} are free.")
    return missing


def _missing_weights(backbones: list[str]) -> list[str]:
    here = {name for name, _size, present, _where in listing() if present}
    missing = []
    for name in backbones:
        if name in WEIGHTS and name not in here:
            missing.append(f"the weights {name}: `python -m dreamprm_lib weights fetch {name}`.")
        elif name not in WEIGHTS and not Path(name).exists() and not _in_hub_cache(name, "model"):
            missing.append(f"the weights {name}: the first run fetches them from the Hugging Face hub.")
    return missing


def _listens(url: str) -> bool:
    where = urlsplit(url)
    port = where.port or (443 if where.scheme == "https" else 80)
    with contextlib.suppress(OSError), socket.create_connection((where.hostname, port), 1):
        return True
    return False


def _in_hub_cache(name: str, kind: str) -> bool:
    from huggingface_hub import snapshot_download

    with contextlib.suppress(OSError, ValueError):  # the hub's own errors are of these kinds
        return bool(snapshot_download(name, repo_type=kind, local_files_only=True))
    return False
