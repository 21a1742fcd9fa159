"""The plan of a run: counts that can be checked by hand, and what is missing by name."""

from dataclasses import replace

import pytest

from dreamprm_lib.__main__ import main
from dreamprm_lib.commands.plan import Assumptions, parameters_of, plan
from dreamprm_lib.commands.run import load_profile
from dreamprm_lib.errors import InputError


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path))

    def nothing(*_args, **_options):
        raise OSError

    monkeypatch.setattr("huggingface_hub.snapshot_download", nothing)
    monkeypatch.setattr("socket.create_connection", nothing)


def test_the_paper_s_plan_by_hand():
    found = plan(load_profile("paper"))
    assert found.problems == {"train": 490, "meta": 122, "test": 131} and not found.counted
    rows = found.asked.set_index("what")
    assert rows.completions.to_dict() == {
        "programs, train": 490, "programs, meta": 122 * 8, "plain prompt": 3, "rollouts": 490 * 2 * 16,
        "oracle": 100 * 16, "oracle, weaker": 400, "candidates": 131 * 8,
    }  # fmt: skip
    assert rows.requests["rollouts"] == 490 * 2 * 2  # eight samples a request
    candidates = rows.loc["candidates"]
    assert candidates["tokens out"] == 131 * 8 * 10_300 and candidates.requests == 131 * 8
    assert candidates.dollars == pytest.approx((131 * 8 * 900 * 1.10 + 131 * 8 * 10_300 * 4.40) / 1e6)
    assert rows.dollars.drop("candidates").sum() == 0 and candidates["GPU hours"] == 0
    assert rows["GPU hours"]["rollouts"] == pytest.approx(490 * 2 * 16 * 150 / 2500 / 3600)
    training = found.computed.set_index("what")["GPU hours"]
    texts = (490 + 122 * 8) * 300 + 612 * 500
    assert training["ORM and PRM-CoF"] == pytest.approx(2 * 2.25 * 2 * 3e9 * texts * 5 / 3e14 / 3600)
    assert training["correction"] == pytest.approx(  # six trainings: five epochs, then 10,000 iterations of 8 packs
        2 * 3e9 * texts * (5 * 2.25 + 10_000 * 8 / 612 * 7.5) * 6 / 3e14 / 3600
    )
    grading = found.computed.query("what == 'grading'").set_index("stage")["core hours"]
    assert grading["03"] == pytest.approx(131 * 8 * 30 * 0.0049 / 3600)
    assert found.disk["backbones"] == 6.0


def test_what_is_missing_is_named():
    said = "\n".join(plan(load_profile("paper")).missing)
    for what in (
        "weights Qwen/Qwen2.5-Coder-3B",
        "LiveCodeBench",
        "OPENAI_API_KEY",
        "127.0.0.1:8000",
        "127.0.0.1:8001",
    ):
        assert what in said


def test_problems_that_are_here_are_counted_and_limits_hold():
    overrides = {"01_chain_of_functions": {"train_limit": 4, "meta_limit": 2}, "03_candidate_solutions": {"limit": 3}}
    found = plan(load_profile("live"), overrides)
    assert found.counted and found.problems == {"train": 4, "meta": 2, "test": 3}
    assert found.asked.set_index("what").completions["candidates"] == 12 and found.asked.dollars.sum() == 0


def test_a_replay_asks_nobody():
    found = plan(load_profile("quick"))
    assert found.asked.empty and found.problems == {"train": 62, "meta": 23, "test": 40}
    assert "completions are replayed" in str(found)


def test_a_profile_sets_the_assumptions():
    profile = replace(load_profile("paper"), plan={"late": 10, "reasoning_tokens": 0})
    assert plan(profile).asked.set_index("what")["tokens out"]["candidates"] == 10 * 8 * 300
    assert plan(profile).assumptions == Assumptions(late=10, reasoning_tokens=0)
    more_steps = replace(profile, plan={"early": 10, "steps": 2.5})
    assert plan(more_steps).asked.set_index("what").completions["rollouts"] == 8 * 1.5 * 16


@pytest.mark.parametrize("others", [[], ["a/b-7B"], ["a/b-0.5b", "c-7B"]])
def test_every_candidate_is_trained_and_the_chosen_one_alone_scores(others):
    profile = load_profile("paper")
    found = plan(profile, {"04_reward_model": {"backbones": ["Qwen/Qwen2.5-Coder-3B", *others]}})
    hours = found.computed.set_index("what")["GPU hours"]
    sizes = [3e9, *(7e9 if "7B" in name else 5e8 for name in others)]
    assert hours["ORM and PRM-CoF"] / plan(profile).computed.set_index("what")["GPU hours"]["ORM and PRM-CoF"] == (
        pytest.approx(sum(sizes) / 3e9)
    )
    texts = 131 * 8 * 300 + 131 * 500
    assert hours["scoring"] == pytest.approx(2 * max(sizes) * texts * 3 / 3e14 / 3600)


@pytest.mark.parametrize(
    "section, said",
    [
        ({"early": "many"}, "`early` is 'many'"),
        ({"flop": 1.0}, "you mean `flops"),
        ({"colour": 1}, "known are early"),
    ],
)
def test_assumptions_that_do_not_fit_are_named(section, said):
    with pytest.raises(InputError, match=said):
        plan(replace(load_profile("paper"), plan=section))


@pytest.mark.parametrize(
    "name, billions",
    [("Qwen/Qwen3-Coder-30B-A3B-Instruct", 3), ("Qwen/Qwen2.5-Coder-3B", 3), ("a/b-0.5b-x", 0.5), ("folder/tiny", 0)],
)
def test_parameters_that_work_on_a_token(name, billions):
    assert parameters_of(name) == billions * 1e9


def test_the_command_prints_the_plan_and_runs_nothing(capsys, monkeypatch):
    monkeypatch.setattr("dreamprm_lib.commands.run.run", lambda *_: pytest.fail("it ran"))
    assert main(["run", "--profile", "paper", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("rollouts", "15,680", "GPU hours", "GB of disk", "Missing: a key for o4-mini"))
