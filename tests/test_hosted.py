"""Asking a hosted model: nothing is lost or paid twice, failures that pass are passed over, budgets hold, keys stay."""

import asyncio
import json
import logging
import os
import signal
import sqlite3
import threading
import time
import traceback
from collections import Counter

import pytest
from faults import NONSENSE, PASSING, at_random, in_order

from dreamprm_lib.engine.policy.completions import Cost
from dreamprm_lib.engine.policy.endpoint import Endpoint, endpoint_from, find_api
from dreamprm_lib.engine.policy.policy import Policy, Prompt, open_policy
from dreamprm_lib.errors import BudgetSpent, InputError, PolicyError

KEY = "sk-this-must-never-be-seen-anywhere-0123456789"
PROMPT = Prompt((("user", "Count."),))
PRICED = {"m": {"n": False, "prefill": False, "price": [1.0, 2.0]}}
NOWHERE = "http://127.0.0.1:9/v1"


def asker(server, store, **settings):
    """A policy that asks a server, or an address."""
    url = getattr(server, "base_url", server)
    return Policy(endpoint_from({"model": "m", "base_url": url, **settings}), store)


def prompts(n):
    return [Prompt((("user", f"Question {k}."),)) for k in range(n)]


def echo(body):
    """A text for each sample, different for every prompt."""
    asked = body.get("prompt") or body["messages"][-1]["content"]
    return [f"answer {i} to {asked}" for i in range(body.get("n", 1))]


def test_many_requests_at_a_fifth_of_faults_lose_nothing_and_pay_nothing_twice(fake_server, store, tmp_path):
    faults = ["429", "500", "429 wait", "cut", "half", "429", "500", *NONSENSE, "429", "500", "500"]
    server = fake_server(echo, at_random(0.2, faults))
    policy = asker(server, store, prefill=False, takes_n=False, slots=64)
    asked = prompts(400)
    replies = policy.sample(asked, 1)
    rows = sqlite3.connect(tmp_path / "s.sqlite").execute("SELECT digest, sample, body FROM completions")
    kept = {(digest, sample): json.loads(body)["text"] for digest, sample, body in rows}
    assert set(kept) == {(policy.request(p, 0.8, 0.95, 400).digest, 0) for p in asked}
    assert [row[0].text for row in replies] == [f"answer 0 to Question {k}." for k in range(400)]
    good = Counter(text for _, text in server.delivered if text.startswith("answer"))
    assert good == Counter(kept.values()) and set(good.values()) == {1}
    failed = server.faults.total() - server.faults[None]
    assert 0.15 < failed / len(server.bodies) < 0.25 and set(server.faults) == {None, *faults}
    assert len(server.bodies) == 400 + failed
    assert store.spent("").answers == len(server.delivered) + sum(server.faults[name] for name in NONSENSE)


# ------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("fault", PASSING)
def test_a_failure_that_passes_is_passed_over_for_as_many_tries_as_stated(fake_server, store, fault):
    server = fake_server(echo, in_order(fault, None, fault, fault), delay=2.5)
    policy = asker(server, store, timeout=1.5 if fault == "slow" else 30, retries=1)
    assert len(policy.sample([PROMPT], 1)[0]) == 1 and len(server.bodies) == 2
    with pytest.raises(PolicyError, match="status" if fault[0].isdigit() else "asked 2 times: is the server up"):
        policy.sample([PROMPT], 2)
    assert len(server.bodies) == 4 and len(store) == 1


@pytest.mark.parametrize("fault, text", [("refusal", "I can't."), ("empty", ""), ("length", "")])
def test_a_poor_chat_reply_is_kept_as_what_it_is(fake_server, store, fault, text):
    server = fake_server(echo, in_order(fault))
    (reply,) = asker(server, store, prefill=False, takes_n=False).sample([PROMPT], 1)[0]
    assert (reply.finish, reply.text) == (fault, text) and len(server.bodies) == len(store) == 1


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_failure_that_lasts_is_asked_once_and_what_is_under_way_is_kept(fake_server, store, status):
    """Of two requests under way, the slow one is waited for; no third one is sent."""
    slow = threading.Event()

    def reply(body):
        slow.wait(5)
        time.sleep(0.3)
        return echo(body)

    def fault(body, _number):
        if "Question 1" in body["prompt"]:
            return None
        slow.set()
        return str(status)

    server = fake_server(reply, fault)
    with pytest.raises(PolicyError, match="refused the request for m"):
        asker(server, store, slots=2, takes_n=False).sample([prompts(2)[1], prompts(1)[0], *prompts(9)[2:]], 1)
    assert len(server.bodies) == 2 and len(store) == 1


def test_a_server_that_ignores_n_is_asked_until_all_samples_are_there(fake_server, store):
    """Also from within a running loop, as in a notebook."""

    async def ask():
        return asker(server, store).sample([PROMPT], 5)[0]

    server = fake_server(lambda body: [f"{len(server.bodies)}"])
    assert [c.text for c in asyncio.run(ask())] == list("12345")
    assert store.spent().answers == len(server.bodies) == 5


@pytest.mark.parametrize("finish", ["error", "content_filter"])
@pytest.mark.parametrize("prefill", [True, False])
def test_a_failed_completion_is_paid_and_asked_for_again_and_never_a_sample(fake_server, store, finish, prefill):
    def reply(body):
        payload = server.payload("/chat/completions" if "messages" in body else "", echo(body))
        if len(server.bodies) != 2:
            payload["choices"][0]["finish_reason"] = finish
        return payload

    server = fake_server(reply)
    policy = asker(server, store, prefill=prefill)
    assert [c.finish for c in policy.sample(prompts(1), 2)[0]] == ["stop", "stop"]
    with pytest.raises(PolicyError, match=f"no sample of m in 3 tries: the reply ended by {finish}"):
        policy.sample(prompts(2), 2)
    assert [body["n"] for _, body in server.bodies] == [2, 1, 2, 1, 1, 1]
    assert len(store) == 3 and store.spent().answers == 6  # the second prompt's other sample is good


@pytest.mark.parametrize(
    "body, said, cost",
    [
        (b'{"choices": [{"text": 5}], "usage": {"prompt_tokens": 10, "completion_tokens": 20}}', "text", (30, 60)),
        (b"<html><title>Sign in</title><body>Please <b>sign in</b>.", r"<title>Sign in", (0, 0)),
    ],
)
def test_what_is_no_answer_is_shown_booked_as_billed_and_not_stored(fake_server, store, body, said, cost):
    server = fake_server(lambda _: body)
    with pytest.raises(PolicyError, match=f"a reply of another form: .*{said}"):
        asker(server, store).sample([PROMPT], 1)
    assert len(store) == 0 and store.spent() == Cost(3, 0, *cost, None) and len(server.bodies) == 3


# ------------------------------------------------------------------------------------------------- under way


def test_no_more_requests_are_under_way_than_there_are_slots(fake_server, store):
    under_way, most, lock = Counter(), [0], threading.Lock()

    def reply(body):
        with lock:
            under_way["now"] += 1
            most[0] = max(most[0], under_way["now"])
        time.sleep(0.02)
        with lock:
            under_way["now"] -= 1
        return echo(body)

    asker(fake_server(reply), store, takes_n=False, slots=5).sample(prompts(40), 1)
    assert 2 <= most[0] <= 5


def test_an_interrupt_ends_it_at_once_and_keeps_what_was_there(fake_server, store):
    def reply(body):
        if "Question 3" in body["prompt"]:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            time.sleep(20)
        return echo(body)

    policy = asker(fake_server(reply), store, timeout=60, slots=1, takes_n=False)
    started = time.monotonic()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            policy.sample(prompts(9), 1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(store) == 3 and time.monotonic() - started < 10
    assert sum(len(known) for _, known in policy.served.values()) == 3


# ------------------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("proxy", ["http://name:PASSWORD@127.0.0.1:9", "socks5://127.0.0.1:9", "nonsense"])
def test_a_server_on_this_machine_is_asked_past_the_proxy(fake_server, store, monkeypatch, proxy):
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, proxy)
    monkeypatch.setenv("SSL_CERT_FILE", "/does/not/exist")
    assert asker(fake_server(echo), store, retries=0).sample([PROMPT], 1)


@pytest.mark.parametrize("name, value", [("ALL_PROXY", "socks://a:PASSWORD@b:9"), ("SSL_CERT_FILE", "/PASSWORD")])
def test_network_settings_that_cannot_be_used_are_named_and_not_repeated(store, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"network settings of the environment .*{name}") as error:
        asker("https://model.invalid/v1", store, retries=0).sample([PROMPT], 1)
    assert "PASSWORD" not in str(error.value)


# ------------------------------------------------------------------------------------------------- what an API takes


def test_the_table_knows_models_by_pattern_and_a_profile_comes_first():
    mini = find_api("o4-mini-2025-04-16")
    assert not (mini.n or mini.prefill or mini.sampling) and mini.reasoning > 0 and mini.price == [1.10, 4.40]
    assert find_api("openai/gpt-4o-mini").price == [0.15, 0.60] and find_api("nobody-knows") is None
    assert find_api("Qwen/Qwen3-Coder-30B-A3B-Instruct").prefill and not find_api("qwen2.5-coder:7b").prefill
    own = Endpoint("o4-mini", "openai", models={"o4-*": {"price": [1, 2]}}, takes_n=False)
    assert own.api.prefill and own.api.price == [1, 2] and not own.api.n
    everything = Endpoint("o4-mini").api  # a file of that name for the embedded engine
    assert everything.prefill and everything.n and everything.price == (0.0, 0.0)


def test_a_reasoning_model_has_room_to_think_and_is_asked_without_what_it_refuses(fake_server, store):
    server = fake_server(echo)
    policy = asker(server, store, model="o4-mini", extra={"reasoning_effort": "high"})
    policy.sample([PROMPT], 2, max_tokens=400)
    body = server.bodies[0][1]
    assert body["max_completion_tokens"] == 32_400 and body["reasoning_effort"] == "high" and len(server.bodies) == 2
    assert not {"temperature", "top_p", "max_tokens", "stop"} & set(body) and body["n"] == 1
    low = asker(server, store, model="o4-mini", extra={"reasoning_effort": "low"})
    assert low.request(PROMPT, 0.8, 0.95, 400).digest != policy.request(PROMPT, 0.8, 0.95, 400).digest
    asker(server, store, model="llama3.2:3b").sample([PROMPT], 1, max_tokens=7)  # the name that local servers know
    assert server.bodies[2][1]["max_tokens"] == 7 and "max_completion_tokens" not in server.bodies[2][1]


# ------------------------------------------------------------------------------------------------- money


def test_a_budget_is_never_overspent_and_a_raised_one_goes_on(fake_server, store, monkeypatch):
    monkeypatch.setenv("DREAMPRM_ACCOUNT", "study/01")
    server = fake_server(lambda body: ["word " * body["max_tokens"]])  # each reply costs the most that it may
    prices = {"m": {**PRICED["m"], "price": [0.0, 20.0]}}
    with pytest.raises(BudgetSpent, match=r"goes on from here"):
        asker(server, store, models=prices, budget=0.0035).sample(prompts(50), 1, max_tokens=10)
    spent = store.spent("study")
    assert spent.dollars <= 0.0035 and 0 < spent.answers == len(store) == len(server.bodies) < 50
    with pytest.raises(BudgetSpent, match=f"{50 - len(store)} completions are"):
        asker(server, store, models=prices, budget=0.0035).sample(prompts(50), 1, max_tokens=10)
    assert len(server.bodies) == spent.answers  # the second run knew what the first had spent
    monkeypatch.setenv("DREAMPRM_ACCOUNT", "study/03")
    asker(server, store, models=prices, budget=1.0).sample(prompts(50), 1, max_tokens=10)
    assert len(server.bodies) == 50 and max(server.asked.values()) == 1
    assert store.spent("study") == store.spent() and store.spent("study/01") == spent
    assert store.spent("stud").answers == 0


@pytest.mark.parametrize("usage", [None, {"completion_tokens": -9, "prompt_tokens": 0.5}])
def test_a_bill_that_cannot_be_ends_a_budget_all_the_same(fake_server, store, usage):
    def reply(body):
        return json.dumps({"choices": [{"message": {"content": "漢" * 8}}], "usage": usage}).encode()

    with pytest.raises(BudgetSpent):
        asker(fake_server(reply), store, models=PRICED, budget=0.001).sample(prompts(50), 1, max_tokens=100)
    spent = store.spent()
    assert 0 < spent.answers == len(store) < 5 and 0 < spent.dollars <= 0.001
    assert spent.tokens == 100 * spent.answers


# ------------------------------------------------------------------------------------------------- keys and settings


def test_the_key_is_sent_and_found_in_nothing_that_is_produced(fake_server, tmp_path, monkeypatch, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path))
    server = fake_server(echo, in_order("500", None, "429", "cut", None))
    settings = {"model": "m", "base_url": server.base_url, "key_variable": "MY_KEY"}
    with open_policy(settings, replay=False) as policy:
        policy.sample(prompts(2), 1)
    answers = iter(
        [b"<p>" + b"x" * 270 + KEY.encode(), json.dumps({"choices": [{"text": f"key {KEY}"}]}).encode(), 401]
    )
    repeating = fake_server(lambda body: next(answers))
    with open_policy({**settings, "base_url": repeating.base_url}, replay=False) as policy:
        assert policy.sample(prompts(3)[2:], 1)[0][0].text == "key [key]"
        with pytest.raises(PolicyError, match=r"Bearer \[key\]") as refused:
            policy.sample(prompts(4), 1)
    shown = traceback.TracebackException.from_exception(refused.value, capture_locals=True)
    seen = "".join(shown.format()) + repr(policy.endpoint)
    assert server.keys == repeating.keys == {KEY}
    captured = capfd.readouterr()
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for text in (seen, caplog.text, captured.out, captured.err, files.decode("latin1")):
        assert KEY not in text
    assert b"answer 0" in files and "planted fault" in seen


ADDRESSES = [f"https://user:{KEY}@host/v1", f"https://:{KEY}@host/v1", f"https://{KEY}@host/v1"]
ADDRESSES += [f"https://host/v1?api-key={KEY}", f"https://host/v1#{KEY}", f"host/v1?{KEY}"]


@pytest.mark.parametrize(
    "settings, hidden",
    [
        *[({"key_variable": key}, key) for key in (KEY, KEY.replace("-", "_"), "01234567" * 8, "AKIAIOSFODNN7EXAMPLE")],
        *[({"base_url": url}, KEY) for url in [*ADDRESSES, [f"https://host/{KEY}"]]],
        ({"api_key": KEY}, KEY), ({"key_variable": [KEY]}, KEY), ({"budget": KEY}, KEY), (KEY, KEY),
    ],
)  # fmt: skip
def test_keys_do_not_belong_in_settings_and_are_not_repeated(settings, hidden):
    with pytest.raises(InputError) as error:
        endpoint_from(settings)
    assert hidden not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize("name, url", [("MY_KEY", NOWHERE), ("OPENAI_API_KEY", "openai")])
def test_the_key_comes_from_the_environment_alone(store, monkeypatch, name, url):
    monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=f"environment variable {name}"):
        asker(url, store, key_variable=name).sample([PROMPT], 1)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"budget": "20"}, "the setting `budget`"),
        ({"budget": float("nan")}, "finite"),
        ({"budget": 1.0, "base_url": NOWHERE, "model": "m"}, "No price of m"),
        ({"timeot": 5}, "did you mean `timeout`"),
        ({"slots": 0}, "`slots`"),
        ({"model": "m", "base_url": NOWHERE, "models": {"m": {"price": [1]}}}, "the model m: the setting `price`"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, said):
    with pytest.raises(InputError, match=said):
        endpoint_from(settings)
    assert endpoint_from(None) == Endpoint()


def test_retry_after_is_waited_for_and_too_long_a_wait_is_an_error(fake_server, store):
    started = time.time()
    asker(fake_server(echo, in_order("429 date")), store).sample([PROMPT], 1)
    assert time.time() >= int(started) + 1  # the date has whole seconds
    server = fake_server(echo, in_order("429 tomorrow"))
    with pytest.raises(PolicyError, match="status 429"):
        asker(server, store).sample([PROMPT], 2)
    assert len(server.bodies) == 1


def test_an_empty_continuation_is_a_sample_like_any_other(fake_server, store):
    server = fake_server(lambda body: [""])
    assert asker(server, store).sample([PROMPT], 1)[0][0].finish == "stop" and len(server.bodies) == 1


def test_it_asks_from_within_a_running_loop(fake_server, store):
    async def as_in_a_notebook():
        return asker(fake_server(echo), store).sample([PROMPT], 2)

    assert len(asyncio.run(as_in_a_notebook())[0]) == 2


def test_no_address_of_the_environment_shows_a_key(store, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", ADDRESSES[0])
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with pytest.raises(InputError) as error:
        asker("openai", store).sample([PROMPT], 1)
    assert KEY not in str(error.value)
