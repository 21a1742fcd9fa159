"""Recordings: ask a live model for all that a profile's study needs, and export it for replay."""

from __future__ import annotations

import importlib.metadata
import logging
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd

from dreamprm_lib.artifacts import STAGES
from dreamprm_lib.candidate_solutions import headroom
from dreamprm_lib.chain_of_functions import plain_prompt, sample_programs
from dreamprm_lib.engine.completions import CompletionStore, export_recording, load_recording
from dreamprm_lib.engine.policy import Endpoint, Policy, open_policy, recording_path
from dreamprm_lib.engine.problems import load_problems, named
from dreamprm_lib.engine.sandbox import Sandbox
from dreamprm_lib.engine.weights import WEIGHTS, cache_dir
from dreamprm_lib.monte_carlo_labels import label_steps
from dreamprm_lib.run import Profile, stage_parameters

log = logging.getLogger(__name__)


def recorded_headroom(profile: Profile) -> pd.DataFrame:
    """What the recorded policy can and can't do on the test problems of a profile: `candidate_solutions.headroom`."""
    wanted = stage_parameters(STAGES[3], profile, {}, {})
    problems = load_problems(wanted["problems"], "test")[: wanted["limit"]]
    with open_policy(wanted["policy"]) as policy, Sandbox() as sandbox:
        heat = wanted["temperature"]
        return headroom(problems, sample_programs(policy, sandbox, problems, wanted["samples"], temperature=heat))


def record(profile: Profile, only: str | None = None, threads: int | None = None) -> Path:
    """Ask for the profile's solutions, rollouts and candidates (or one kind of them) that are not recorded yet.

    Resumable: completions go to the store as they arrive.  At the end all that was used is merged into the
    recording of the model, whose path is returned.
    """
    solutions, rollouts, candidates = (stage_parameters(stage, profile, {}, {}) for stage in STAGES[1:4])
    endpoint = Endpoint(**solutions["policy"])
    if threads:
        endpoint = replace(endpoint, threads=threads)
    path = recording_path(endpoint.model)
    recorded = [load_recording(path)] if path.exists() else []
    store = CompletionStore(cache_dir() / "completions.sqlite")
    with Policy(endpoint, store, recorded) as policy, Sandbox() as sandbox:
        if only in (None, "candidates"):
            test = load_problems(candidates["problems"], "test")[: candidates["limit"]]
            sample_programs(policy, sandbox, test, candidates["samples"], temperature=candidates["temperature"])
        if only in (None, "solutions", "rollouts"):
            heat = solutions["temperature"]
            train, meta = (
                load_problems(solutions["problems"], split)[: solutions[f"{split}_limit"]]
                for split in ("train", "meta")
            )
            programs = sample_programs(policy, sandbox, train, solutions["train_samples"], temperature=heat)
            if only != "rollouts":
                sample_programs(policy, sandbox, meta, solutions["meta_samples"], temperature=heat)
                both = named(train, solutions["compared"])
                sample_programs(policy, sandbox, both, solutions["train_samples"], plain_prompt, heat)
            if only != "solutions":
                heat, many = rollouts["temperature"], {p.id for p in named(train, rollouts["many_problems"])}
                label_steps(policy, sandbox, train, programs, rollouts["rollouts"], heat, rollouts["rolled"])
                chosen = [p for p in programs if p.problem in many]
                label_steps(policy, sandbox, train, chosen, rollouts["many_rollouts"], heat)
        rows = {digest: (request, dict(known)) for old in recorded for digest, (request, known) in old.rows.items()}
        for digest, (request, completions) in policy.served.items():
            rows.setdefault(digest, (request, {}))[1].update(completions)
    engines = [recording.manifest["engine"] for recording in recorded]
    if policy.asked:
        embedded = f"llama.cpp in xllamacpp {importlib.metadata.version('xllamacpp')}"
        engines.append(embedded if endpoint.base_url is None else "an endpoint")
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
