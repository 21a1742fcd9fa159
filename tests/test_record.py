"""`record` asks for all that a profile needs, exports it, and the export replays without a model."""

import pytest

from dreamprm_lib import record as recorder
from dreamprm_lib.artifacts import STAGES
from dreamprm_lib.chain_of_functions import sample_programs
from dreamprm_lib.engine.completions import load_recording
from dreamprm_lib.engine.policy import open_policy
from dreamprm_lib.engine.problems import load_problems
from dreamprm_lib.engine.sandbox import Sandbox
from dreamprm_lib.errors import MissingCompletion
from dreamprm_lib.run import Profile

BODY = ' do it."""\n    print(solve())\n\n\ndef solve():\n    """Strategy: guess."""\n    return 1\n\n\nmain()\n'


@pytest.fixture
def setting(fake_server, tmp_path, monkeypatch):
    """A profile that points at a scripted server, with the recording and the store in a temporary folder."""
    server = fake_server(lambda body: [BODY] * body["n"])
    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path))
    path = tmp_path / "m.jsonl.gz"
    monkeypatch.setattr(recorder, "recording_path", lambda model: path)
    monkeypatch.setattr("dreamprm_lib.engine.policy.recording_path", lambda model: path)
    policy = {"model": "m", "base_url": server.base_url}
    sections = {
        STAGES[1].notebook: {"policy": policy, "train_limit": 1, "meta_limit": 1, "train_samples": 2},
        STAGES[2].notebook: {"policy": policy, "train_limit": 1, "rollouts": 2, "many_rollouts": 3, "rolled": 1},
        STAGES[3].notebook: {"policy": policy, "limit": 1, "samples": 2},
    }
    return Profile("t", (), {}, sections), server, path, policy


def test_a_recording_is_made_once_extended_and_replayed(setting, tmp_path):
    profile, server, path, policy = setting
    assert recorder.record(profile) == path
    first = load_recording(path)
    asked = len(server.bodies)
    assert first.manifest["model"] == "m" and len(first) > 10
    recorder.record(profile)
    assert len(server.bodies) == asked  # nothing is asked twice
    profile.sections[STAGES[3].notebook]["samples"] = 3
    recorder.record(profile, only="candidates")
    assert server.bodies[asked][1]["n"] == 1 and len(load_recording(path)) == len(first) + 1
    test = load_problems("starter", "test")[:1]
    (tmp_path / "completions.sqlite").unlink()
    with open_policy(policy) as replayed, Sandbox(workers=1) as sandbox:
        assert [p.sample for p in sample_programs(replayed, sandbox, test, 3)] == [0, 1, 2]
        with pytest.raises(MissingCompletion):
            sample_programs(replayed, sandbox, test, 4)
