"""Each engine gives the results that this process alone gives, also if a worker is killed in mid-run."""

import os
import signal
from contextlib import contextmanager

import pytest

from dreamprm_lib.engine.clusters import BACKENDS, spread
from dreamprm_lib.engine.problems import load_problems
from dreamprm_lib.engine.sandbox import grading
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.errors import ClusterError, InputError
from dreamprm_lib.reward_model import Backbone, Head, RewardModel
from dreamprm_lib.study.rows import Program
from dreamprm_lib.test_time_scaling import score_candidates

pytestmark = pytest.mark.cluster


@contextmanager
def two_processes(backend):
    """A real cluster of two worker processes on this machine."""
    if backend == "dask":
        distributed = pytest.importorskip("distributed")
        with (
            distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            distributed.Client(cluster),
        ):
            yield
    elif backend == "ray":
        ray = pytest.importorskip("ray")
        with ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False):
            yield
    else:
        yield


@pytest.fixture(scope="module", params=BACKENDS)
def engine(request):
    with two_processes(request.param):
        yield request.param


@pytest.fixture(scope="module")
def graded():
    """Programs of several kinds, several batches of them, and their verdicts by a sandbox of this process."""
    problems = load_problems("starter")[:16]
    pairs = [(p, code) for p in problems for code in (p.reference, f"print(0)  # {p.id}", f"1 / 0  # {p.id}")]
    with Sandbox() as sandbox:
        return pairs, [(v.kind, v.test) for v in sandbox.grade(pairs)]


def test_results_and_errors_come_in_the_order_of_the_tasks_from_other_processes(engine):
    found = list(spread(lambda n: (n * n, os.getpid()), range(20), engine, jobs=2))
    assert [square for square, _ in found] == [n * n for n in range(20)]
    assert os.getpid() not in {pid for _, pid in found}

    def refuse(_task):
        raise InputError("no such thing")

    with pytest.raises(InputError, match="no such thing"):
        list(spread(refuse, [1], engine, jobs=2))


def test_grading_goes_on_when_a_worker_is_killed(engine, graded, tmp_path, monkeypatch):
    """The first worker that takes up the third batch is killed before it can hand its verdicts back; loky gives up."""
    pairs, expected = graded
    assert len(pairs) == 3 * grading.BATCH
    grade_batch, marker = grading._grade_batch, str(tmp_path / "killed")

    def mortal(batch, settings):
        verdicts = grade_batch(batch, settings)
        if batch[0] == pairs[2 * grading.BATCH] and not os.path.exists(marker):
            with open(marker, "x") as file:
                file.write(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return verdicts

    monkeypatch.setattr(grading, "_grade_batch", mortal)
    if engine == "loky":
        with pytest.raises(ClusterError, match="Workers of loky died over a task"):
            grading.Grader(engine, jobs=2).grade(pairs)
        return
    assert [(v.kind, v.test) for v in grading.Grader(engine, jobs=2).grade(pairs)] == expected
    with open(marker) as file:
        assert int(file.read()) != os.getpid()


def test_scores_are_those_of_this_process(engine, tiny_backbone):
    import numpy as np

    rng = np.random.default_rng(0)
    head = Head(rng.normal(size=32), 0.1, np.zeros(32), np.ones(32))
    model = RewardModel(Backbone(tiny_backbone, (2,), dtype="float32"), head)
    problems = load_problems("starter")[:3]
    programs = [Program(p.id, k, code, [], True, "passed", 1) for p in problems
                for k, code in enumerate((p.reference, "print(1)\n", ""))]  # fmt: skip
    here, there = (score_candidates(model, "prm", problems, programs, where) for where in ("local", engine))
    assert [(r.problem, r.sample) for r in here] == [(r.problem, r.sample) for r in there]
    for mine, theirs in zip(here, there, strict=True):
        assert mine.scores == pytest.approx(theirs.scores, abs=1e-6)


def test_a_backend_that_is_not_there_is_named():
    with pytest.raises(InputError, match="no backend 'cloud'"):
        list(spread(len, [], "cloud"))
