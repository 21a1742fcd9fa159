"""Grading at scale: the programs go in batches to joblib's workers, each of which has a sandbox of its own.

The same call grades on the processes of this machine (`loky`), or on a cluster by naming another backend.  Verdicts
are those of `Sandbox.grade`: they don't depend on the backend, the number of workers or the batch.

Not covered: a worker's machine without the layers of isolation grades all the same, and says so in its own log.
"""

from __future__ import annotations

import atexit
import subprocess
import sys
from collections.abc import Sequence
from functools import cache

from joblib import Parallel, delayed, parallel_config
from tqdm.auto import tqdm

from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.engine.sandbox import Sandbox, Verdict
from dreamprm_lib.errors import InputError

BACKENDS = ("loky", "dask", "ray")
BATCH = 16  # programs a task: a worker's first one also starts its sandbox


def grade(
    pairs: Sequence[tuple[Problem, str]],
    backend: str = "loky",
    jobs: int = -1,
    progress: bool = False,
    **limits,
) -> list[Verdict]:
    """The verdicts of (problem, program) pairs, in their order; a pair that stands there twice is graded once.

    `backend` is `loky` (processes of this machine), `dask` (the cluster of the `dask.distributed.Client` that is open)
    or `ray` (the cluster that `ray` is connected to); `jobs` is the number of programs at once (-1: a core each);
    `limits` are the limits of `Sandbox`.  Raises `InputError` for an unknown backend or one that is not installed.
    """
    unique = list({(problem.id, code): (problem, code) for problem, code in pairs}.values())
    batches = [unique[k : k + BATCH] for k in range(0, len(unique), BATCH)]
    settings = tuple(sorted(limits.items()))
    verdicts: dict[tuple[str, str], Verdict] = {}
    with parallel_config(backend=_registered(backend), n_jobs=jobs):
        graded = Parallel(return_as="list" if backend == "ray" else "generator", batch_size=1)(
            delayed(_grade_batch)(batch, settings) for batch in batches
        )
        with tqdm(total=len(unique), desc="grading", unit="program", disable=not progress) as bar:
            for batch, found in zip(batches, graded, strict=True):
                verdicts |= {(problem.id, code): v for (problem, code), v in zip(batch, found, strict=True)}
                bar.update(len(batch))
    return [verdicts[problem.id, code] for problem, code in pairs]


def regrade(sandbox: Sandbox, pairs: Sequence[tuple[Problem, str]], runs: int, load: int = 0) -> int:
    """How many of `runs` further verdicts of each program differ in kind from its first one.

    Meanwhile `load` processes keep the machine busy: a verdict must not depend on that.
    """
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(load)]
    try:
        first = [verdict.kind for verdict in sandbox.grade(pairs)]
        again = [sandbox.grade(pairs) for _ in range(runs)]
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    return sum(verdict.kind != kind for run in again for verdict, kind in zip(run, first, strict=True))


def _registered(backend: str) -> str:
    """The backend's name for joblib, once the package that brings it is there."""
    try:
        if backend == "dask":
            from distributed import get_client

            get_client()
        elif backend == "ray":
            from ray.util.joblib import register_ray

            register_ray()
        elif backend not in BACKENDS:
            raise InputError(f"There is no grading backend {backend!r}: choose one of {', '.join(BACKENDS)}.")
    except ImportError as error:
        package = {"dask": "distributed", "ray": "ray"}[backend]
        raise InputError(f"The backend {backend} needs the package {package}: pip install {package}.") from error
    except ValueError as error:
        raise InputError("The backend dask needs an open `dask.distributed.Client` in this process.") from error
    return backend


@cache
def _own_sandbox(settings: tuple) -> Sandbox:
    """The sandbox of this worker process; it ends with the process."""
    sandbox = Sandbox(workers=1, **dict(settings))
    atexit.register(sandbox.close)
    return sandbox


def _grade_batch(batch: list[tuple[Problem, str]], settings: tuple) -> list[Verdict]:
    return _own_sandbox(settings).grade(batch)
