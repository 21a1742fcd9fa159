"""Grading at scale: the programs go in batches to the workers of `clusters`, each of which has a sandbox of its own.

The same call grades on the processes of this machine (`loky`), or on a cluster by naming another backend.  Verdicts
are those of `Sandbox.grade`: they don't depend on the backend, the number of workers or the batch.

Not covered: a worker's machine without the layers of isolation grades all the same, and says so in its own log.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache, partial
from typing import Any

from tqdm.auto import tqdm

from dreamprm_lib.engine.clusters import spread
from dreamprm_lib.engine.problem import Problem
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.engine.sandbox.verdicts import Limits, Verdict

BATCH = 16  # programs a task: a worker's first one also starts its sandbox


def grade(
    pairs: Sequence[tuple[Problem, str]], backend: str = "loky", jobs: int = -1, progress: bool = False, **limits: Any
) -> list[Verdict]:
    """The verdicts of (problem, program) pairs, in their order; a pair that appears twice is graded once.

    `backend` and `jobs` (programs at once) are those of `clusters.spread`; `limits` are, by name, the `Limits` that are
    to be other than those of the problem set.
    """
    Limits.of(None, **limits)  # raises here, not in a worker, for what is no limit
    unique = list(dict.fromkeys((problem, code) for problem, code in pairs))
    batches = [unique[k : k + BATCH] for k in range(0, len(unique), BATCH)]
    verdicts: dict[tuple[Problem, str], Verdict] = {}
    graded = spread(partial(_grade_batch, settings=json.dumps(limits, sort_keys=True)), batches, backend, jobs)
    with tqdm(total=len(unique), desc="grading", unit="program", disable=not progress) as bar:
        for batch, found in zip(batches, graded, strict=True):
            verdicts |= zip(batch, found, strict=True)
            bar.update(len(batch))
    return [verdicts[problem, code] for problem, code in pairs]


class Grader(AbstractContextManager):
    """Grades like a `Sandbox`, by the workers of a backend of `clusters`, each with a sandbox of its own."""

    def __init__(self, backend: str, **limits: Any):
        self.backend, self.limits = backend, limits

    def grade(self, items: Sequence[tuple[Problem, str]], progress: bool = False) -> list[Verdict]:
        """The verdicts of (problem, program) pairs, in their order."""
        return grade(items, self.backend, progress=progress, **self.limits)

    def __exit__(self, *_exc: object) -> None:
        pass


def open_grader(backend: str = "local", **limits: Any) -> Sandbox | Grader:
    """Who grades for a chapter: `local`, one `Sandbox` of this process; or a backend of `clusters`, by its name.

    `limits` are those of a test that are to be other than the problem set's own, by the names in `Limits`.
    """
    return Sandbox(**limits) if backend == "local" else Grader(backend, **limits)


def regrade(sandbox: Sandbox, pairs: Sequence[tuple[Problem, str]], runs: int, load: int = 0) -> int:
    """How many of `runs` further verdicts of each program differ in kind from its first one.

    Meanwhile `load` processes keep the machine busy: a verdict must not depend on that.  They end with this process,
    however it ends, because that closes their standard input.
    """
    busy = "import select\nwhile not select.select([0], [], [], 0)[0]: sum(range(100_000))"
    burners = [subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE) for _ in range(load)]
    try:
        first = [verdict.kind for verdict in sandbox.grade(pairs)]
        again = [sandbox.grade(pairs) for _ in range(runs)]
    finally:
        for burner in burners:
            burner.communicate()
    return sum(verdict.kind != kind for run in again for verdict, kind in zip(run, first, strict=True))


@cache
def _own_sandbox(settings: str) -> Sandbox:
    """The sandbox of this worker process, with limits as JSON; it ends with the process."""
    sandbox = Sandbox(workers=1, **json.loads(settings))
    atexit.register(sandbox.close)
    return sandbox


def _grade_batch(batch: list[tuple[Problem, str]], settings: str) -> list[Verdict]:
    return _own_sandbox(settings).grade(batch)
