"""What a run of a profile takes, before it is begun: requests, tokens, money, GPU hours, disk; what is missing here.

Numbers of things come from the profile and, where they can be read without fetching, from the problems.  All else is an
assumption with a name (`Assumptions`), which a profile may set in its section `plan`.  Every completion counts as not
yet stored, and the weights of a served model lie with its server.  The plan is arithmetic; nothing is asked, fetched or
run.
"""

from __future__ import annotations

import contextlib
import importlib.util
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

from dreamprm_lib.commands.run import LIMITS, Profile, split_problems, stage_parameters
from dreamprm_lib.engine.files import cache_dir
from dreamprm_lib.engine.fine_tuning import CORRECTING, recipe_of
from dreamprm_lib.engine.policy.endpoint import PER_REQUEST, WEAKER, endpoint_from
from dreamprm_lib.engine.schema import row_of
from dreamprm_lib.engine.weights import WEIGHTS, listing
from dreamprm_lib.evidence.costs import CORE, CORRECTION, GPU, ROLLOUT_SHARE, TRAINING, Scale
from dreamprm_lib.paper_scale import PAPER
from dreamprm_lib.study.folder import STAGES

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
        return "\n".join(
            [
                f"Problems ({'counted' if self.counted else 'assumed: the data are not here'}): {splits}",
                "",
                self.asked.to_string(index=False, formatters=form)
                if len(self.asked)
                else "No model is asked: completions are replayed.",
                "",
                self.computed.to_string(index=False, formatters=form),
                "",
                f"Together: {self.asked.requests.sum():,} requests, {self.asked['tokens out'].sum():,} tokens written, "
                f"${self.asked.dollars.sum():,.0f} for priced models, {self.gpu_hours:,.2f} GPU hours "
                f"(${self.gpu_hours * self.assumptions.gpu_price:,.0f}), {sum(self.disk.values()):.1f} GB of disk.",
                f"Disk in GB: {disk}.",
                f"Assumed (section `plan` of the profile changes it): {assumed}.",
                "",
                *([f"Missing: {what}" for what in self.missing] or ["Nothing is missing on this machine."]),
            ]
        )


def plan(profile: Profile, overrides: Mapping[str, dict] | None = None) -> Plan:
    """The plan of a profile.  Raises `InputError` for a profile that does not fit the notebooks."""
    known = row_of(Assumptions, profile.plan, "The section `plan`")
    wanted = {s.notebook[:2]: stage_parameters(s, profile, overrides or {}, {}) for s in STAGES}
    problems, counted = _problems(wanted, known)
    columns = ["stage", "what", "model", *COUNTS, "dollars", "GPU hours"]
    asked = pd.DataFrame(_asked(wanted, problems, known), columns=columns)
    computed = pd.DataFrame(_computed(wanted, problems, known), columns=["stage", "what", "GPU hours", "core hours"])
    disk = _disk(wanted, problems, known, asked)
    missing = _missing(wanted, counted, disk)
    return Plan(asked, computed, disk, problems, counted, missing, known)


def _problems(wanted: dict, known: Assumptions) -> tuple[dict[str, int], bool]:
    source = wanted["01"]["problems"]
    counts = {"train": round(0.8 * known.early), "meta": known.early - round(0.8 * known.early), "test": known.late}
    counted = not source.startswith("livecodebench") or _in_hub_cache("livecodebench/code_generation_lite", "dataset")
    if counted:
        return {split: len(of) for split, of in split_problems(wanted).items()}, True
    limits = {split: wanted[notebook][limit] for split, (notebook, limit) in LIMITS.items()}
    return {s: n if limits[s] is None else min(n, limits[s]) for s, n in counts.items()}, False


def _asked(wanted: dict, problems: dict[str, int], known: Assumptions) -> list[tuple]:
    """The rows of `Plan.asked`: what is not replayed."""
    rows = []

    def ask(stage: str, what: str, policy: dict, prompts: float, n: int, share: float) -> None:
        """`n` completions of each prompt, which write `share` of a program each."""
        if wanted[stage]["replay"] or not prompts or not n:
            return
        endpoint = endpoint_from(policy)
        completions = round(prompts * n)
        requests = round(prompts * math.ceil(n / PER_REQUEST)) if endpoint.api.n else completions
        thought = known.reasoning_tokens if endpoint.api.reasoning else 0
        into, out = requests * known.prompt_tokens, round(completions * (known.program_tokens * share + thought))
        dollars = endpoint.cost(into, out, completions).dollars or 0.0
        hours = 0.0 if dollars else out / known.written_a_second / 3600
        rows.append((stage, what, endpoint.model, requests, completions, into, out, dollars, hours))

    one, two, three, six = (wanted[k] for k in ("01", "02", "03", "06"))
    ask("01", "programs, train", one["policy"], problems["train"], one["train_samples"], 1)
    ask("01", "programs, meta", one["policy"], problems["meta"], one["meta_samples"], 1)
    compared = min(len(one["compared"]) or 3, problems["train"])
    ask("01", "plain prompt", one["policy"], compared, one["train_samples"], 1)
    states = _open_steps(wanted, problems, known)
    ask("02", "rollouts", two["policy"], states, two["rollouts"], ROLLOUT_SHARE)
    many = min(states, two["oracle_states"])
    ask("02", "oracle", two["policy"], many, max(two["oracle_rollouts"] - two["rollouts"], 0), ROLLOUT_SHARE)
    ask("02", "oracle, weaker", two["weak_policy"] or WEAKER, many, two["weak_rollouts"], ROLLOUT_SHARE)
    ask("03", "candidates", three["policy"], problems["test"], three["samples"], 1)
    searched = problems["test"] if six["search_problems"] is None else min(six["search_problems"], problems["test"])
    width = six["search_width"] * six["search_branches"]
    ask("06", "beam search", six["policy"], searched * known.steps, width, 1 / known.steps)
    return rows


def _open_steps(wanted: dict, problems: dict[str, int], known: Assumptions) -> float:
    """Steps whose label takes rollouts: all but the last of each program that is rolled out."""
    written, rolled = wanted["01"]["train_samples"], wanted["02"]["rolled"]
    return problems["train"] * (written if rolled is None else min(rolled, written)) * (known.steps - 1)


def _programs(wanted: dict, problems: dict[str, int], known: Assumptions) -> dict[str, int]:
    """Programs that are graded: of stage 1, rollouts, and candidates."""
    one, two, three = (wanted[k] for k in ("01", "02", "03"))
    written = problems["train"] * one["train_samples"] + problems["meta"] * one["meta_samples"]
    states = _open_steps(wanted, problems, known)
    many = min(states, two["oracle_states"]) * (two["oracle_rollouts"] + two["weak_rollouts"])
    return {"01": written, "02": round(states * two["rollouts"] + many), "03": problems["test"] * three["samples"]}


def _computed(wanted: dict, problems: dict[str, int], known: Assumptions) -> list[tuple]:
    """The rows of `Plan.computed`: grading on cores, training and scoring on a GPU (on cores where there is none)."""
    graded = _programs(wanted, problems, known)
    seconds = known.tests * known.test_seconds
    rows = [(stage, "grading", 0.0, n * seconds / 3600) for stage, n in graded.items()]
    four, five = wanted["04"], wanted["05"]
    every = sum(map(parameters_of, four["backbones"]))
    chosen = max(map(parameters_of, four["backbones"]))  # at most: chapter 4 chooses one of them by the evidence
    lessons = problems["train"] + problems["meta"]
    for stage, settings, what, passes, read in (
        ("04", four, "ORM and PRM-CoF", 2, every),
        ("05", five, "correction", 1, chosen),
    ):
        texts = graded["01"] * known.program_tokens + lessons * known.statement_tokens
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


def _readings(wanted: dict) -> int:
    """How many different backbones read a text: one that is frozen, or each as it was tuned for its method."""
    return 1 if wanted["04"]["training"] == "head" else 3


def parameters_of(name: str) -> float:
    """The parameters of a model that work on a token, as its name tells them: `30B-A3B` has three billion."""
    if name in WEIGHTS:
        return WEIGHTS[name].parameters
    found = re.findall(r"(?<![\d.])(\d+(?:\.\d+)?)([BM])(?![a-z])", Path(name).name, re.IGNORECASE)
    return float(found[-1][0]) * {"B": 1e9, "M": 1e6}[found[-1][1].upper()] if found else 0.0


def _disk(wanted: dict, problems: dict[str, int], known: Assumptions, asked: pd.DataFrame) -> dict[str, float]:
    """Gigabytes by what takes them; weights in bfloat16."""
    graded, four = _programs(wanted, problems, known), wanted["04"]
    programs = graded["01"] + graded["03"]
    states = programs * known.steps * len(four["layers"]) * len(four["backbones"]) * 4 * WIDTH * _readings(wanted)
    disk = {
        "backbones": sum(map(parameters_of, four["backbones"])) * 2 / 1e9,
        "completions": asked["tokens out"].sum() * 5 / 1e9,
        "states of steps": states / 1e9,
    }
    if wanted["01"]["problems"].startswith("livecodebench"):
        disk["LiveCodeBench"] = 4.5
    return disk


def _missing(wanted: dict, counted: bool, disk: dict[str, float]) -> list[str]:
    """What a run would lack on this machine."""
    missing = []
    here = {name for name, _size, present, _where in listing() if present}
    for name in wanted["04"]["backbones"]:
        pinned = name in WEIGHTS
        if pinned and name not in here:
            missing.append(f"the weights {name}: `python -m dreamprm_lib weights fetch {name}`.")
        elif not pinned and not Path(name).exists() and not _in_hub_cache(name, "model"):
            missing.append(f"the weights {name}: the first run fetches them from the Hugging Face hub.")
    if not counted:
        missing.append("LiveCodeBench's data: the first run fetches them from the Hugging Face hub.")
    if not torch.cuda.is_available() and max(map(parameters_of, wanted["04"]["backbones"])) > 1e9:
        missing.append("a GPU: a backbone of this size trains too slowly without one.")
    asking = {
        (endpoint.model, endpoint.base_url, endpoint.key_variable)
        for stage, names in (("01", ["policy"]), ("02", ["policy", "weak_policy"]), ("03", ["policy"]))
        for endpoint in (endpoint_from(wanted[stage][name]) for name in names)
        if not wanted[stage]["replay"]
    }
    for model, url, key in sorted(asking, key=str):
        if url == "openai":
            if not os.environ.get(key):
                missing.append(f"a key for {model}: set the environment variable {key}.")
        elif url and not _listens(url):
            missing.append(f"a server for {model}: nothing answers at {url}.")
    backends = {wanted[k]["backend"] for k in ("01", "02", "03", "06")} & {"dask", "ray"}
    for backend in sorted(backends):
        if importlib.util.find_spec({"dask": "distributed"}.get(backend, backend)) is None:
            missing.append(f'the package of the backend {backend}: pip install -e ".[{backend}]".')
    free = shutil.disk_usage(cache_dir().parent if cache_dir().parent.exists() else Path.home()).free / 1e9
    if sum(disk.values()) > free:
        missing.append(f"disk: {sum(disk.values()):.0f} GB are needed, {free:.0f} are free.")
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
