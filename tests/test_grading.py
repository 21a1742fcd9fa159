"""Grading through joblib gives the verdicts of the sandbox itself, on processes and on a local cluster."""

import pytest

from dreamprm_lib.engine.grading import BATCH, grade
from dreamprm_lib.engine.problems import load_problems
from dreamprm_lib.engine.sandbox import Sandbox
from dreamprm_lib.errors import InputError


@pytest.fixture(scope="module")
def graded():
    """Programs of several kinds, more than two batches of them, and their verdicts."""
    problems = load_problems("starter")[:12]
    pairs = [(p, code) for p in problems for code in (p.reference, "print(0)", "1 / 0", p.reference)]
    with Sandbox() as sandbox:
        return pairs, [(v.kind, v.test) for v in sandbox.grade(pairs)]


def test_processes_of_this_machine(graded):
    pairs, expected = graded
    assert len({code for _, code in pairs}) > 2 and len(pairs) > 2 * BATCH
    assert [(v.kind, v.test) for v in grade(pairs, jobs=2)] == expected
    assert grade([]) == []


def test_a_dask_cluster(graded):
    distributed = pytest.importorskip("distributed")
    pairs, expected = graded
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        assert [(v.kind, v.test) for v in grade(pairs, backend="dask")] == expected


def test_limits_reach_the_workers():
    problem = load_problems("starter")[0]
    (verdict,) = grade([(problem, "print('x' * 5000)")], jobs=1, output_kb=1)
    assert verdict.kind == "output_limit"


def test_a_backend_that_is_not_there_is_named():
    with pytest.raises(InputError, match="no grading backend 'cloud'"):
        grade([], backend="cloud")
    pytest.importorskip("distributed")
    with pytest.raises(InputError, match=r"open `dask\.distributed\.Client`"):
        grade([], backend="dask")
