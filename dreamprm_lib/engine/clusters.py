"""Work spread over processes, of this machine or of a cluster: joblib names the engine, the engine distributes.

`loky` is processes of this machine.  `dask` is the cluster of the `dask.distributed.Client` that is open in this
process; without one, that of `DASK_SCHEDULER_ADDRESS`, or one started here.  `ray` is the cluster that this process is
connected to; without one, that of `RAY_ADDRESS`, or one started here.  Results don't depend on the engine.

Machines of a cluster need this package and the weights that a task reads.  A worker of a cluster that dies takes its
task along, and others do it again, a few times: a task must be one that can be done twice.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from dreamprm_lib.errors import ClusterError, InputError

BACKENDS = ("loky", "dask", "ray")
RETRIES = 3  # of a task whose worker died

Task = TypeVar("Task")
Result = TypeVar("Result")


def spread(
    function: Callable[[Task], Result], tasks: Sequence[Task], backend: str = "loky", jobs: int = -1
) -> Iterator[Result]:
    """`function(task)` for each task, in their order, as the results arrive (with `ray`: when all are there).

    `jobs` are the tasks under way at once (-1: one a core).  Raises `InputError` for a backend that is unknown or not
    installed, `ClusterError` if workers die, and what `function` raises.
    """
    if backend not in BACKENDS:
        raise InputError(f"There is no backend {backend!r}: choose one of {', '.join(BACKENDS)}.")
    try:
        lost = {"loky": lambda: TerminatedWorkerError, "dask": _connect_to_dask, "ray": _connect_to_ray}[backend]()
    except ImportError as error:
        raise InputError(f'The backend {backend} needs a package: pip install -e ".[{backend}]".') from error
    options: dict[str, dict[str, Any]] = {
        "loky": {"initializer": _end_with, "initargs": (os.getpid(),)},
        "ray": {"ray_remote_args": {"max_restarts": -1, "max_task_retries": RETRIES}},
    }
    with parallel_config(backend, n_jobs=jobs, **options.get(backend, {})):
        pool = Parallel(return_as="list" if backend == "ray" else "generator", batch_size=1)
    try:
        yield from pool(delayed(function)(task) for task in tasks)
    except lost as error:
        raise ClusterError(
            f"Workers of {backend} died over a task ({type(error).__name__}: {error}). Often they ran out of memory: "
            "give each worker more of it, and run again: it goes on from there."
        ) from error


def _end_with(parent: int) -> None:
    """In a worker process of this machine: end it once the process that started it is gone, however that ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _connect_to_dask() -> type[Exception]:
    """Open a client if there is none; what Dask raises when workers have died."""
    from distributed import Client, KilledWorker, get_client  # few need it

    try:
        get_client()
    except ValueError:
        Client()
    return KilledWorker


def _connect_to_ray() -> type[Exception]:
    """Connect to a cluster if this process is not; what Ray raises when workers have died."""
    import ray  # few need it
    from ray.util.joblib import register_ray

    register_ray()
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    return ray.exceptions.RayActorError
