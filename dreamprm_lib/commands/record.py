"""Recordings: ask a live model for all that a profile's study needs, and export it for replay."""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from dreamprm_lib import asking_again, candidate_solutions, chain_of_functions, monte_carlo_labels
from dreamprm_lib.asking_again import repair
from dreamprm_lib.chain_of_functions import sample_well_specified
from dreamprm_lib.commands import run as runner
from dreamprm_lib.cost_and_search import search
from dreamprm_lib.engine.policy.completions import CompletionStore, export_recording, load_recording
from dreamprm_lib.engine.policy.endpoint import WEAKER, endpoint_from
from dreamprm_lib.engine.policy.policy import RECORDINGS, Policy, recording_path, store_path
from dreamprm_lib.engine.problems import Problem, load_problems
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.engine.weights import WEIGHTS
from dreamprm_lib.monte_carlo_labels import label_steps
from dreamprm_lib.reward_model import SMALL_PRM, RewardModel
from dreamprm_lib.study.folder import STAGES

log = logging.getLogger(__name__)

KINDS = ("candidates", "again", "solutions", "rollouts", "oracle")


def record_command(profile: str, only: str | None, prm: Path | None, into: Path | None, overrides: list[str]) -> str:
    """`record` for the command line: a profile by its name, options as text; the recordings' paths."""
    live = runner.elsewhere(runner.load_profile(profile))
    given = runner.parse_overrides(overrides)
    return "\n".join(map(str, record(live, only, prm or SMALL_PRM, into or RECORDINGS, given)))


def record(
    profile: runner.Profile,
    only: str | None = None,
    prm: Path = SMALL_PRM,
    into: Path = RECORDINGS,
    overrides: runner.Overrides | None = None,
) -> list[Path]:
    """Ask for the profile's solutions, rollouts, oracle and candidates, and, `again`, for tests and repairs (or for one
    kind of these), as far as they are not recorded yet.

    `only="search"` asks for what the beam search of chapter 8 needs, steered by the reward model of the checkpoint
    `prm`; it is asked for only if it is named, since the rest is what a reward model is made from.

    Resumable: completions go to the store as they arrive.  At the end, and where an error or an interrupt ends it
    early, all that was used is merged into the recordings of the models in the folder `into`.  Their paths are
    returned; the oracle needs a weaker model beside the policy.
    """
    parameters = {k: runner.stage_parameters(STAGES[k], profile, overrides or {}, {}) for k in (1, 2, 3, 8, 12)}
    one, two, three, eight, twelve = parameters.values()
    wanted = set(KINDS if only is None else (only,))
    paths: list[Path] = []
    with contextlib.ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox())
        policy = stack.enter_context(_recorder(one["policy"], into, paths))
        if "search" in wanted:
            test = _problems(three, "test", "limit")[: eight["search_problems"]]
            how = [eight[name] for name in ("search_width", "search_branches", "temperature", "aggregation")]
            search(policy, RewardModel.load(prm), test, *how)
        if wanted & {"candidates", "again"}:
            (batch,) = candidate_solutions.requests(_problems(three, "test", "limit"), **three)
            candidates = sample_well_specified(policy, sandbox, batch)
        if "again" in wanted:
            written = {c.problem for c in candidates}
            chosen = [p for p in batch.problems if p.id in written]
            for tests in asking_again.requests(chosen, **twelve):
                tests.ask(policy)
            first = [c for c in candidates if c.sample < twelve["mended"]]
            repair(policy, sandbox, chosen, first, twelve["rounds"], twelve["temperature"])
        if wanted & {"solutions", "rollouts", "oracle"}:
            train, meta = (_problems(one, split, f"{split}_limit") for split in ("train", "meta"))
            solutions, meta_solutions, plain = chain_of_functions.requests(train, meta, **one)
            programs = sample_well_specified(policy, sandbox, solutions)
        if "solutions" in wanted:
            sample_well_specified(policy, sandbox, meta_solutions)
            plain.ask(policy)
        if wanted & {"rollouts", "oracle"}:
            labels = label_steps(policy, sandbox, train, programs, two["rollouts"], two["temperature"], two["rolled"])
        if "oracle" in wanted:
            weaker = stack.enter_context(_recorder(two["weak_policy"] or WEAKER, into, paths))
            for batch in monte_carlo_labels.requests(train, programs, labels=labels, **two)[1:]:
                batch.ask(weaker if batch.policy == "weak_policy" else policy)
    return paths


def _problems(parameters: Mapping, split: str, limit: str) -> list[Problem]:
    return load_problems(parameters["problems"], split)[: parameters[limit]]


@contextlib.contextmanager
def _recorder(settings: dict, into: Path, paths: list[Path]) -> Iterator[Policy]:
    """A live policy that starts from what is recorded; at its end the recording is extended, and its path noted."""
    endpoint = endpoint_from(settings)
    path = recording_path(endpoint.model, into)
    recorded = [load_recording(path, repair=True)] if path.exists() else []
    with Policy(endpoint, CompletionStore(store_path()), recorded) as policy:
        try:
            yield policy
        finally:
            if any(known for _, known in policy.served.values()):
                paths.insert(0, _extend_recording(policy, path))


def _extend_recording(policy: Policy, path: Path) -> Path:
    """Merge what the policy has handed out into the recording at `path`, as it is now."""
    endpoint, recorded = policy.endpoint, [load_recording(path, repair=True)] if path.exists() else []
    rows = {digest: (request, dict(known)) for old in recorded for digest, (request, known) in old.rows.items()}
    for digest, (request, completions) in policy.served.items():
        rows[digest] = (request, {**rows.get(digest, (request, {}))[1], **completions})
    engines = [engine for recording in recorded for engine in recording.manifest["engine"].split("; ")]
    if policy.asked:
        embedded = f"OpenVINO GenAI {version('openvino-genai')}"
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
