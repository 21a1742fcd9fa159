"""The policy asks once for each completion, resumes where it was, and never asks when it is offline."""

import pytest

from dreamprm_lib.engine.policy.completions import Completion, CompletionStore, Recording
from dreamprm_lib.engine.policy.endpoint import Endpoint
from dreamprm_lib.engine.policy.policy import Policy, Prompt, open_policy, render_chatml
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


@pytest.mark.parametrize("n, missing", [(1, 1), (3, 3), (5, 5)])
def test_what_is_missing_in_a_replay_is_advised_by_the_parameter_s_name(store, n, missing):
    with pytest.raises(MissingCompletion, match=f"{missing} completions.*set `replay` to false") as error:
        Policy(Endpoint("m"), store, offline=True).sample([PROMPT], n)
    assert "offline" not in str(error.value)


def test_the_weaker_policy_is_where_the_policy_is(fake_server, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path))
    for name in ("DREAMPRM_BASE_URL", "DREAMPRM_MODEL", "DREAMPRM_WEAK_MODEL"):
        monkeypatch.delenv(name, raising=False)
    with open_policy({}, weaker=True) as policy:
        assert policy.endpoint.model == "qwen2.5-coder-0.5b-instruct-q4_k_m" and policy.endpoint.base_url is None
    server = fake_server(counting)
    monkeypatch.setenv("DREAMPRM_BASE_URL", server.base_url)
    monkeypatch.setenv("DREAMPRM_MODEL", "large")
    with open_policy({}, weaker=True) as policy:
        policy.sample([PROMPT], 1)
    monkeypatch.setenv("DREAMPRM_WEAK_MODEL", "small")
    with open_policy({}, weaker=True) as policy:
        policy.sample([PROMPT], 1)
    with open_policy({"model": "named"}, weaker=True) as policy:
        assert policy.endpoint.model == "named"
    assert [body["model"] for _, body in server.bodies] == ["large", "small"]


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(InputError, match="colour"):
        open_policy({"colour": "red"})


def test_the_key_comes_from_the_environment_alone(store, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Policy(Endpoint("m", "openai"), store) as policy, pytest.raises(InputError, match="OPENAI_API_KEY"):
        policy.sample([PROMPT], 1)
