"""The policy asks once for each completion, resumes where it was, and never asks when it is offline."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from faults import forward, in_order

from dreamprm_lib import run as runner
from dreamprm_lib.artifacts import Program
from dreamprm_lib.engine.completions import Completion, CompletionStore, Recording
from dreamprm_lib.engine.endpoint import Endpoint
from dreamprm_lib.engine.policy import EmbeddedServer, Policy, Prompt, open_policy, render_chatml
from dreamprm_lib.engine.weights import fetch
from dreamprm_lib.errors import InputError, MissingCompletion, PolicyError

PROMPT = Prompt((("system", "Be brief."), ("user", "Count.")), prefill="```python\nx = ")


def counting(body):
    """Texts `1 of n`, `2 of n`, …"""
    return [f"{i + 1} of {body['n']}" for i in range(body["n"])]


@pytest.fixture
def store(tmp_path):
    with CompletionStore(tmp_path / "s.sqlite") as opened:
        yield opened


def test_chatml_ends_inside_the_assistants_turn():
    assert render_chatml(PROMPT) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nCount.<|im_end|>\n"
        "<|im_start|>assistant\n```python\nx = "
    )


def test_raw_completions_are_prefilled_counted_and_asked_once(fake_server, store):
    server = fake_server(counting)
    with Policy(Endpoint("m", server.base_url), store) as policy:
        first = policy.sample([PROMPT], 3)[0]
        assert [c.text for c in first] == [f"```python\nx = {i} of 3" for i in (1, 2, 3)]
        assert [c.tokens for c in first] == [3, 3, 3] and first[0].logprob == -0.75
        more = policy.sample([PROMPT], 5)[0]
        assert more[:3] == first and policy.asked == 5
    path, body = server.bodies[0]
    assert path == "/v1/completions" and body["prompt"] == render_chatml(PROMPT) and body["n"] == 3
    assert server.bodies[1][1]["n"] == 2 and len(server.bodies) == 2


def test_chat_endpoints_get_the_prefill_as_an_instruction(fake_server, store):
    server = fake_server(counting)
    endpoint = Endpoint("o", server.base_url, prefill=False, takes_sampling=False, extra={"reasoning_effort": "high"})
    with Policy(endpoint, store) as policy:
        assert policy.sample([PROMPT], 2)[0][1].text == "2 of 2"
    path, body = server.bodies[0]
    assert path == "/v1/chat/completions" and body["messages"][-1]["content"].endswith("```python\nx = ")
    assert "temperature" not in body and "stop" not in body and body["reasoning_effort"] == "high"


def test_an_endpoint_without_n_is_asked_sample_by_sample(fake_server, store):
    server = fake_server(counting)
    with Policy(Endpoint("m", server.base_url, takes_n=False), store) as policy:
        assert len(policy.sample([PROMPT], 3)[0]) == 3
    assert [body["n"] for _, body in server.bodies] == [1, 1, 1]


def test_what_arrived_before_a_failure_is_kept(fake_server, store):
    answers = iter([["a"], 400])
    server = fake_server(lambda body: next(answers))
    with Policy(Endpoint("m", server.base_url, takes_n=False, slots=1), store) as policy:
        with pytest.raises(PolicyError, match="planted fault"):
            policy.sample([PROMPT], 2)
        request = policy.request(PROMPT, 0.8, 0.95, 400)
    assert list(store.get(request)) == [0]


def test_a_server_that_ignores_n_is_named(fake_server, store):
    server = fake_server(lambda body: ["one"])
    with Policy(Endpoint("m", server.base_url), store) as policy, pytest.raises(PolicyError, match="takes_n"):
        policy.sample([PROMPT], 2)


def test_a_server_that_is_down_is_named(store):
    with (
        Policy(Endpoint("m", "http://127.0.0.1:9/v1", patience={"backoff": 0.01}), store) as policy,
        pytest.raises(PolicyError, match="is the server up"),
    ):
        policy.sample([PROMPT], 1)


def test_recordings_answer_first_and_offline_never_asks(store):
    offline = Policy(Endpoint("m"), store, offline=True)
    request = offline.request(PROMPT, 0.8, 0.95, 400)
    store.put(request, {0: Completion("stored", 1, "stop"), 1: Completion("stored too", 1, "stop")})
    recording = Recording({request.digest: (request, {0: Completion("recorded", 1, "stop")})}, {})
    offline = Policy(Endpoint("m"), store, [recording], offline=True)
    texts = [c.text.removeprefix(PROMPT.prefill) for c in offline.sample([PROMPT], 2)[0]]
    assert texts == ["recorded", "stored too"]
    with pytest.raises(MissingCompletion, match=r"sample 2 of request .* record --profile"):
        offline.sample([PROMPT], 3)


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(InputError, match="colour"):
        open_policy({"colour": "red"})


def test_the_key_comes_from_the_environment_alone(store, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Policy(Endpoint("m", "openai"), store) as policy, pytest.raises(InputError, match="OPENAI_API_KEY"):
        policy.sample([PROMPT], 1)


@pytest.fixture(scope="module")
def llama_server():
    """A real llama.cpp server, such as a user may have."""
    fetch("smollm2-135m-instruct-q4_1")
    server = EmbeddedServer("smollm2-135m-instruct-q4_1", slots=2, threads=1)
    yield server.base_url
    server.stop()


@pytest.mark.weights
def test_two_variables_point_a_notebook_at_a_real_server_that_fails_now_and_then(
    llama_server, fake_server, tmp_path, monkeypatch
):
    faulty = fake_server(forward(llama_server, most=40), in_order("500", "cut", "half"))
    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path))
    monkeypatch.setenv("DREAMPRM_BASE_URL", faulty.base_url)
    monkeypatch.setenv("DREAMPRM_MODEL", "smollm2-135m-instruct")
    stage = runner.STAGES[3]
    monkeypatch.setattr(runner, "STAGES", (stage,))
    monkeypatch.setattr(runner, "write_report", lambda study, manifest: None)
    profile = runner.Profile("t", (), {"replay": True}, {stage.notebook: {"limit": 1, "samples": 2}})
    study = runner.run(runner.elsewhere(profile), outputs=tmp_path / "outputs")
    programs = study.read("candidates.jsonl", Program)
    asked = json.loads((study.folder / "manifest.json").read_text())["stages"][stage.notebook]["asked"]
    assert len(programs) == 2 and all(p.code and p.tokens and p.logprob < 0 for p in programs)
    assert asked["completions"] == 2 and asked["tokens"] == sum(p.tokens for p in programs)
    assert [path for path, _ in faulty.bodies] == ["/v1/completions"] * 4


@pytest.mark.weights
def test_a_real_server_is_asked_by_chat_too(llama_server, store):
    endpoint = Endpoint("smollm2:135m", llama_server)
    with Policy(endpoint, store) as policy:
        replies = policy.sample([Prompt((("user", "Count from one to one hundred."),))], 2, max_tokens=8)[0]
    assert not endpoint.prefill and all(0 < reply.tokens <= 8 and reply.text for reply in replies)


@pytest.mark.weights
def test_the_embedded_server_answers_and_ends_with_its_parent(tmp_path):
    """A real llama.cpp server (the smallest pinned model), whose parent is killed."""
    fetch("smollm2-135m-instruct-q4_1")
    script = (
        "import sys, time\n"
        "from dreamprm_lib.engine.completions import CompletionStore\n"
        "from dreamprm_lib.engine.endpoint import Endpoint\n"
        "from dreamprm_lib.engine.policy import Policy, Prompt\n"
        "policy = Policy(Endpoint('smollm2-135m-instruct-q4_1', slots=2, threads=1), CompletionStore(sys.argv[1]))\n"
        "rows = policy.sample([Prompt((('user', 'Say hello.'),))], 2, max_tokens=8)\n"
        "import json\n"
        "print(json.dumps([[c.text, c.tokens, c.logprob] for c in rows[0]]))\n"
        "print(policy._server._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "s.sqlite")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    answers = json.loads(parent.stdout.readline())
    server = int(parent.stdout.readline())
    assert len(answers) == 2 and all(0 < tokens <= 8 and logprob < 0 for _, tokens, logprob in answers)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and os.path.exists(f"/proc/{server}"):
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{server}")
