"""`record` asks for all that a profile needs, exports it, and the export replays without a model."""

import gzip
from dataclasses import replace

import pytest

from dreamprm_lib.chain_of_functions import sample_programs
from dreamprm_lib.commands import record as recorder
from dreamprm_lib.commands.run import Profile
from dreamprm_lib.cost_and_search import search
from dreamprm_lib.engine.policy.completions import CompletionStore, load_recording
from dreamprm_lib.engine.policy.policy import open_policy
from dreamprm_lib.engine.problems import load_problems
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.errors import InputError, MissingCompletion
from dreamprm_lib.study.folder import STAGES

BODY = ' do it."""\n    print(solve())\n\n\ndef solve():\n    """Strategy: guess."""\n    return 1\n\n\nmain()\n'


@pytest.fixture
def setting(fake_server, tmp_path, monkeypatch):
    """A profile that points at a scripted server, with the recording and the store in a temporary folder."""
    server = fake_server(lambda body: [BODY] * body["n"])
    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path))
    for module in ("dreamprm_lib.commands.record", "dreamprm_lib.engine.policy.policy"):
        monkeypatch.setattr(f"{module}.recording_path", lambda model, folder=None: tmp_path / f"{model}.jsonl.gz")
    policy, weak = ({"model": model, "base_url": server.base_url} for model in ("m", "weak"))
    oracle = {"oracle_states": 1, "oracle_rollouts": 3, "weak_policy": weak, "weak_rollouts": 1}
    sections = {
        STAGES[1].notebook: {"policy": policy, "train_limit": 1, "meta_limit": 1, "train_samples": 2, "compared": []},
        STAGES[2].notebook: {"policy": policy, "train_limit": 1, "rollouts": 2, "rolled": 1, **oracle},
        STAGES[3].notebook: {"policy": policy, "limit": 1, "samples": 2},
        STAGES[8].notebook: {"search_width": 1, "search_branches": 3},
    }
    return Profile("t", (), {}, sections), server, tmp_path / "m.jsonl.gz", policy


def test_a_recording_is_made_once_extended_and_replayed(setting, tmp_path):
    profile, server, path, policy = setting
    assert recorder.record(profile) == [path, tmp_path / "weak.jsonl.gz"]
    first = load_recording(path)
    asked = len(server.bodies)
    assert first.manifest["model"] == "m" and len(first) > 10
    recorder.record(profile)
    assert len(server.bodies) == asked  # nothing is asked twice
    (only,) = load_recording(tmp_path / "weak.jsonl.gz").rows.values()  # one rollout of the one state
    assert set(only[1]) == {0} and 3 in {len(known) for _, known in first.rows.values()}
    profile.sections[STAGES[3].notebook]["samples"] = 3
    manifest = tmp_path / "m.manifest.json"
    manifest.write_text(manifest.read_text().replace("an endpoint", "another engine; an endpoint"))
    recorder.record(profile, only="candidates")
    assert load_recording(path).manifest["engine"] == "another engine; an endpoint"  # each is named once
    assert server.bodies[asked][1]["n"] == 1 and len(load_recording(path)) == len(first) + 1
    test = load_problems("starter", "test")[:1]
    (tmp_path / "completions.sqlite").unlink()
    with open_policy(policy) as replayed, Sandbox(workers=1) as sandbox:
        assert [p.sample for p in sample_programs(replayed, sandbox, test, 3)] == [0, 1, 2]
        with pytest.raises(MissingCompletion):
            sample_programs(replayed, sandbox, test, 4)


def test_a_recording_holds_no_text_of_problems_that_are_not_ours(setting, tmp_path):
    profile, server, path, policy = setting
    for section in profile.sections.values():
        section["problems"] = "humaneval"
    recorder.record(profile)
    asked = len(server.bodies)
    recording = load_recording(path)
    (train,), (test,) = (load_problems("humaneval", split)[:1] for split in ("train", "test"))
    assert {train.id, test.id} < {request.problem for request, _ in recording.rows.values()}
    text = gzip.decompress(path.read_bytes()).decode()
    for problem in load_problems("humaneval"):
        lines = [line.strip() for line in (problem.starter_code + problem.reference).splitlines()]
        assert not any(line in text for line in lines if len(line) > 40)
    recorder.record(profile)
    assert load_recording(path).rows == recording.rows and len(server.bodies) == asked
    (tmp_path / "completions.sqlite").unlink()
    with open_policy(policy) as replayed, Sandbox(workers=1) as sandbox:
        with pytest.raises(MissingCompletion):
            sample_programs(replayed, sandbox, [replace(test, starter_code=test.starter_code + "\n# more")], 2)


def test_a_search_is_recorded_if_it_is_named_and_replays(setting, tmp_path, monkeypatch):
    profile, server, _path, policy = setting

    class Indifferent:
        def score(self, problem, programs):
            return [[0.5] for _ in programs]

    monkeypatch.setattr(recorder.RewardModel, "load", lambda path: Indifferent())
    recorder.record(profile, only="search")
    assert [(body["n"], body["stop"]) for _, body in server.bodies] == [(3, ["\n```", "\ndef "])]
    (tmp_path / "completions.sqlite").unlink()
    test = load_problems("starter", "test")
    with open_policy(policy) as replayed:
        found, left_out = search(replayed, Indifferent(), test[:2], width=1, branches=3)
    assert [one.problem for one in found] == [test[0].id] and left_out == [test[1].id]


def test_a_recording_that_ends_early_holds_what_had_arrived_in_a_folder_of_its_own(setting, tmp_path, monkeypatch):
    profile, _server, _path, _policy = setting
    monkeypatch.undo()
    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path))
    (made,) = recorder.record(profile, only="candidates", into=tmp_path / "mine")
    assert made == tmp_path / "mine" / "m.jsonl.gz" and len(load_recording(made)) == 2
    profile.sections[STAGES[3].notebook]["samples"] = 11  # eight are asked for first, then the others
    pay = CompletionStore.pay

    def once(store, *row):
        if len(store) > 2:
            raise InputError("planted")
        pay(store, *row)

    monkeypatch.setattr(CompletionStore, "pay", once)
    with pytest.raises(InputError, match="planted"):
        recorder.record(profile, only="candidates", into=tmp_path / "mine")
    assert len(load_recording(made)) == 8
