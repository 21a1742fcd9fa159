"""Grading at scale: the programs go in batches to the workers of `clusters`, each of which has a sandbox of its own.

The same call grades on the processes of this machine (`loky`), or on a cluster by naming another backend.  Verdicts
are those of `Sandbox.grade`: they don't depend on the backend, the number of workers or the batch.

Not covered: a worker's machine without the layers of isolation grades all the same, and says so in its own log.
"""

import atexit
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache, partial
from itertools import chain
from typing import Any

from tqdm.auto import tqdm

from dreamprm_lib.engine.clusters import spread
from dreamprm_lib.engine.problem import Problem
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.engine.sandbox.verdicts import Limits, Verdict

BATCH = 16  # programs a task: a worker's first one also starts its sandbox


def open_grader(backend: str = "local", **limits: Any) -> "Sandbox | Grader":
    """Who grades for a chapter: `local`, one `Sandbox` of this process; or a backend of `clusters`, by its name.

    `limits` are those of a test that are to be other than the problem set's own, by the names in `Limits`.
    """
    return Sandbox(**limits) if backend == "local" else Grader(backend, **limits)


class Grader(AbstractContextManager):
    """Grades like a `Sandbox`, by the workers of a backend of `clusters`, `jobs` programs at once (-1: one a core)."""

    def __init__(self, backend: str, jobs: int = -1, **limits: Any):
        Limits.of(None, **limits)  # raises here, not in a worker, for what is no limit
        self.backend, self.jobs, self.settings = backend, jobs, json.dumps(limits, sort_keys=True)

    def grade(self, items: Sequence[tuple[Problem, str]], progress: bool = False) -> list[Verdict]:
        """The verdicts of (problem, program) pairs, in their order; a pair that appears twice is graded once."""
        unique = list(dict.fromkeys((problem, code) for problem, code in items))
        batches = [unique[k : k + BATCH] for k in range(0, len(unique), BATCH)]
        graded = spread(partial(_grade_batch, settings=self.settings), batches, self.backend, self.jobs)
        with tqdm(chain.from_iterable(graded), "grading", len(unique), unit="program", disable=not progress) as found:
            verdicts = dict(zip(unique, found, strict=True))
        return [verdicts[problem, code] for problem, code in items]

    def __exit__(self, *_exc: object) -> None:
        pass


@cache
def _own_sandbox(settings: str) -> Sandbox:
    """The sandbox of this worker process, with limits as JSON; it ends with the process."""
    sandbox = Sandbox(workers=1, **json.loads(settings))
    atexit.register(sandbox.close)
    return sandbox


def _grade_batch(batch: list[tuple[Problem, str]], settings: str) -> list[Verdict]:
    return _own_sandbox(settings).grade(batch)
