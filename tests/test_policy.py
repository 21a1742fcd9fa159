"""The policy asks once for each completion, resumes where it was, and never asks when it is offline."""

import pytest

from dreamprm_lib.engine.policy.completions import Completion, Cost, Recording
from dreamprm_lib.engine.policy.endpoint import Endpoint
from dreamprm_lib.engine.policy.policy import Policy, Prompt, open_policy, render_chatml
from dreamprm_lib.errors import MissingCompletion

PROMPT = Prompt((("system", "Be brief."), ("user", "Count.")), prefill="```python\nx = ")


def counting(body):
    """Texts `1 of n`, `2 of n`, …"""
    return [f"{i + 1} of {body['n']}" for i in range(body["n"])]


def test_raw_completions_are_prefilled_counted_and_asked_once(fake_server, store):
    server = fake_server(counting)
    policy = Policy(Endpoint("m", server.base_url), store)
    first = policy.sample([PROMPT], 3)[0]
    assert [c.text for c in first] == [f"```python\nx = {i} of 3" for i in (1, 2, 3)]
    assert [c.tokens for c in first] == [3, 3, 3] and first[0].logprob == -0.75
    assert policy.sample([PROMPT], 5)[0][:3] == first and policy.asked == 5
    path, body = server.bodies[0]
    assert path == "/v1/completions" and body["prompt"] == render_chatml(PROMPT) and body["n"] == 3
    assert body["prompt"] == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nCount.<|im_end|>\n"
        "<|im_start|>assistant\n```python\nx = "
    )
    assert server.bodies[1][1]["n"] == 2 and len(server.bodies) == 2


def test_chat_endpoints_get_the_prefill_as_an_instruction(fake_server, store):
    server = fake_server(counting)
    endpoint = Endpoint("o", server.base_url, prefill=False, extra={"reasoning_effort": "high"})
    assert Policy(endpoint, store).sample([PROMPT], 2)[0][1].text == "2 of 2"
    path, body = server.bodies[0]
    assert path == "/v1/chat/completions" and body["messages"][-1]["content"].endswith("```python\nx = ")
    assert "stop" not in body and body["reasoning_effort"] == "high"


def test_recordings_answer_first_and_offline_never_asks(store):
    request = Policy(Endpoint("m"), store, offline=True).request(PROMPT, 0.8, 0.95, 400)
    stored = {0: Completion("stored", 1, "stop"), 1: Completion("stored too", 1, "stop")}
    store.pay(request, stored, Cost(), "")
    recording = Recording({request.digest: (request, {0: Completion("recorded", 1, "stop")})}, {})
    offline = Policy(Endpoint("m"), store, [recording], offline=True)
    texts = [c.text.removeprefix(PROMPT.prefill) for c in offline.sample([PROMPT], 2)[0]]
    assert texts == ["recorded", "stored too"]
    said = r"^2 completions of 1 requests .* sample 2 of request .* record --profile .*set `replay` to false"
    with pytest.raises(MissingCompletion, match=said):
        offline.sample([PROMPT], 4)


def test_the_server_of_the_environment_is_asked_unless_settings_name_another(fake_server, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path))
    for name in ("DREAMPRM_BASE_URL", "DREAMPRM_MODEL", "DREAMPRM_WEAK_MODEL"):
        monkeypatch.delenv(name, raising=False)
    with open_policy({}, weaker=True) as policy:
        assert policy.endpoint.model == "qwen2.5-coder-0.5b-instruct-q4_k_m" and policy.endpoint.base_url is None
    server = fake_server(counting)
    monkeypatch.setenv("DREAMPRM_BASE_URL", server.base_url)
    monkeypatch.setenv("DREAMPRM_MODEL", "large")
    for weak, weaker, asked in (("", False, "large"), ("", True, "large"), ("small", True, "small")):
        monkeypatch.setenv("DREAMPRM_WEAK_MODEL", weak)
        with open_policy({}, weaker=weaker) as policy:
            policy.sample([PROMPT], 1, first=len(server.bodies))
        assert server.bodies[-1][1]["model"] == asked
    with open_policy({"model": "named"}, weaker=True) as policy:
        assert policy.endpoint.model == "named" and policy.offline
