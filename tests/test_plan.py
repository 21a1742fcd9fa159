"""The plan of a run: counts that can be checked by hand, and what is missing by name."""

import pytest

from dreamprm_lib.__main__ import main
from dreamprm_lib.commands.plan import parameters_of, plan
from dreamprm_lib.commands.run import load_profile


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path))

    def nothing(*_args, **_options):
        raise OSError

    monkeypatch.setattr("dreamprm_lib.commands.plan.try_to_load_from_cache", lambda *_args, **_options: None)
    monkeypatch.setattr("socket.create_connection", nothing)


def test_the_paper_s_plan_by_hand():
    found = plan(load_profile("paper"))
    assert found.problems == {"train": 490, "meta": 122, "test": 131} and not found.counted
    rows = found.work.set_index("what")
    asked = rows[rows.requests > 0]
    assert asked.completions.to_dict() == {
        "programs, train": 490, "programs, meta": 122 * 8, "plain prompt": 3, "rollouts": 490 * 2 * 16,
        "oracle": 100 * 16, "oracle, weaker": 400, "candidates": 131 * 8, "tests": 131,
    }  # fmt: skip
    assert rows.requests["rollouts"] == 490 * 2 * 2  # eight samples a request
    candidates = rows.loc["candidates"]
    assert candidates["tokens out"] == 131 * 8 * 10_300 and candidates.requests == 131 * 8
    assert candidates.dollars == pytest.approx((131 * 8 * 900 * 1.10 + 131 * 8 * 10_300 * 4.40) / 1e6)
    assert candidates["core hours"] == pytest.approx(131 * 8 * 10 * 0.0049 / 3600)
    assert rows.dollars.drop(["candidates", "tests"]).sum() == 0 and candidates["GPU hours"] == 0
    assert rows["GPU hours"]["rollouts"] == pytest.approx(490 * 2 * 16 * 150 / 2500 / 3600)
    texts = (490 + 122 * 8) * 300 + 612 * 500
    assert rows["GPU hours"]["ORM and PRM-CoF"] == pytest.approx(2 * 2.25 * 2 * 3e9 * texts * 5 / 3e14 / 3600)
    assert rows["GPU hours"]["correction"] == pytest.approx(  # six trainings: five epochs, then 10,000 iterations of 8
        2 * 3e9 * texts * (5 * 2.25 + 10_000 * 8 / 612 * 7.5) * 6 / 3e14 / 3600
    )
    assert found.gigabytes == 6 + 4.5
    missing = ("Qwen/Qwen2.5-Coder-3B", "LiveCodeBench", "OPENAI_API_KEY", "127.0.0.1:8000", "127.0.0.1:8001")
    assert all(what in "\n".join(found.missing) for what in missing)


def test_problems_that_are_here_are_counted_and_limits_hold():
    overrides = {"01_chain_of_functions": {"train_limit": 4, "meta_limit": 2}, "03_candidate_solutions": {"limit": 3}}
    found = plan(load_profile("live"), overrides)
    assert found.counted and found.problems == {"train": 4, "meta": 2, "test": 3}
    assert found.work.set_index("what").completions["candidates"] == 12 and found.work.dollars.sum() == 0


def test_a_replay_asks_nobody():
    found = plan(load_profile("quick"))
    assert found.work.requests.sum() == found.work["tokens out"].sum() == 0
    assert found.problems == {"train": 62, "meta": 23, "test": 100} and "completions are replayed" in str(found)


def test_every_candidate_is_trained_and_the_chosen_one_alone_scores():
    backbones = ["Qwen/Qwen2.5-Coder-3B", "a/b-0.5b", "c-7B"]
    found = plan(load_profile("paper"), {"04_reward_model": {"backbones": backbones}})
    hours = found.work.set_index("what")["GPU hours"]
    texts = (490 + 122 * 8) * 300 + 612 * 500
    assert hours["ORM and PRM-CoF"] == pytest.approx(2 * 2.25 * 2 * 10.5e9 * texts * 5 / 3e14 / 3600)
    assert hours["scoring"] == pytest.approx(2 * 7e9 * 131 * (8 * 300 + 500) * 3 / 3e14 / 3600)


@pytest.mark.parametrize(
    "name, billions",
    [("Qwen/Qwen3-Coder-30B-A3B-Instruct", 3), ("Qwen/Qwen2.5-Coder-3B", 3), ("a/b-0.5b-x", 0.5), ("folder/tiny", 0)],
)
def test_parameters_that_work_on_a_token(name, billions):
    assert parameters_of(name) == billions * 1e9


def test_the_command_prints_the_plan_and_runs_nothing(capsys, monkeypatch):
    monkeypatch.setattr("dreamprm_lib.commands.run.run", lambda *_: pytest.fail("it ran"))
    assert main(["run", "--profile", "paper", "--dry-run", "--fresh"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("rollouts", "15,680", "GPU hours", "GB of disk", "Missing: a key for o4-mini"))
