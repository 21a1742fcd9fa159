"""The gateway, asked by the real client over loopback: the best program wins, limits hold, nothing is lost."""

import asyncio
import contextlib
import io
import itertools
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import uvicorn
from faults import IN_A_REPLY, NONSENSE, PASSING, at_random

from dreamprm_lib.__main__ import main
from dreamprm_lib.commands import gateway as serving
from dreamprm_lib.commands.gateway import Gateway, ServeSettings
from dreamprm_lib.engine import backbone as backbones
from dreamprm_lib.engine.backbone import Backbone
from dreamprm_lib.engine.policy import policy as policies
from dreamprm_lib.engine.policy.completions import Completion
from dreamprm_lib.engine.policy.endpoint import endpoint_from
from dreamprm_lib.reward_model import Head, RewardModel

ROOT = Path(__file__).resolve().parent.parent
KEYS = {"OPENAI_API_KEY": "sk-upstream-never-seen", "GATEWAY_KEY": "sk-gateway-never-seen"}
DOUBLE = {"samples": [{"input": "4\n", "output": "8\n"}]}
IN_PROMPT = "Double it.\n\nSample input:\n4\n\nSample output:\n8\n\nNumbers are small."


class Judge:
    """Scores each program by the number that it says of itself."""

    def score(self, problem, programs):
        return [[float(re.search(r"# (\S+)|$", code)[1] or 0)] for code in programs]


def program(score, answer="2 * int(input())"):
    return f"```python\nprint({answer})  # {score}\n```"


def replies(*texts):
    """A `reply` of the fake server: these texts again and again."""
    turn = itertools.cycle(texts)
    return lambda body: [next(turn) for _ in range(body.get("n", 1))]


@pytest.fixture
def gateway(fake_server, monkeypatch, tmp_path):
    """Starts a gateway over a fake server; gives its address and that server."""
    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)  # slow, and not needed here
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)
    for counter in (serving.ANSWERS, serving.TOKENS):
        counter.clear()

    with contextlib.ExitStack() as ends:

        def start(reply, fault=lambda body, number: None, policy=(), **settings):
            upstream = fake_server(reply, fault)
            fields = {"model": "m", "base_url": upstream.base_url, "prefill": False}
            served = Gateway(endpoint_from(fields | dict(policy)), Judge(), ServeSettings(**settings))
            served.load()
            listening = socket.create_server(("127.0.0.1", 0), backlog=256)
            server = uvicorn.Server(uvicorn.Config(served.app, log_config=None, lifespan="off"))
            thread = threading.Thread(target=server.run, args=([listening],))
            thread.start()
            ends.callback(served.close)
            ends.callback(thread.join)
            ends.callback(setattr, server, "should_exit", True)
            return f"http://127.0.0.1:{listening.getsockname()[1]}", upstream

        yield start


def client_of(url, key="none", **settings):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, **settings)


def ask(client, content="Double it.", **fields):
    return client.chat.completions.create(model="dreamprm", messages=[{"role": "user", "content": content}], **fields)


# ------------------------------------------------------------------------------------------------- answers


def test_the_best_is_chosen_and_the_rest_is_told_with_what_all_cost(gateway):
    url, upstream = gateway(replies(*map(program, (0.25, 0.75, 0.5))), n=3)
    client = client_of(url)
    answer = ask(client)
    assert answer.choices[0].message.content == program(0.75) and answer.choices[0].finish_reason == "stop"
    told = answer.dreamprm
    assert (told["score"], told["step_scores"], told["passes_samples"], told["policy"]) == (0.75, [0.75], None, "m")
    assert [other["score"] for other in told["runners_up"]] == [0.5, 0.25]
    assert told["cost"]["completions"] == 3 and told["cost"]["seconds"] > 0 and told["cost"]["dollars"] is None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + told["cost"]["completion_tokens"] > 0
    assert [model.id for model in client.models.list()] == ["dreamprm"]
    again = ask(client)  # from the store
    assert again.choices == answer.choices and again.usage.total_tokens == 0 and len(upstream.bodies) == 1
    ask(client, seed=1)
    assert len(upstream.bodies) == 2


def test_a_stream_gives_the_same_text_and_the_same_scores(gateway):
    long = "```python\ndef main():\n    print(1)  # 0.9\n\n\nmain()\n```"
    url, _ = gateway(replies(program(0.5), long), n=2)
    chunks = list(ask(client_of(url), stream=True))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    whole = ask(client_of(url))
    assert "".join(pieces) == whole.choices[0].message.content == long and len(pieces) > 5
    assert chunks[-1].dreamprm["score"] == whole.dreamprm["score"] == 0.9
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "stop"]


@pytest.mark.parametrize(
    "content, extra",
    [
        ("Double it.", DOUBLE),
        (IN_PROMPT, {}),
        (IN_PROMPT.replace(":\n4\n", " 1\n\n```\n4\n```\n").replace(":\n8\n", " 1\n```\n8\n```\n"), {}),
        ([{"type": "text", "text": IN_PROMPT.replace("Sample", "### Example").replace(":\n", ":\n\n")}], {}),
    ],
)
def test_programs_that_fail_the_samples_are_out(gateway, content, extra):
    url, upstream = gateway(replies(program(0.9, "7"), program(0.2), program(0.1)), n=3, samples_in_prompt=True)
    told = ask(client_of(url), content, extra_body={"dreamprm": extra}).dreamprm
    assert (told["score"], told["passes_samples"]) == (0.2, True)
    assert [(r["score"], r["passes_samples"]) for r in told["runners_up"]] == [(0.1, True), (None, False)]
    asked = upstream.bodies[0][1]["messages"][-1]["content"]
    assert asked.count("ample input") == 1 and "Sample input:\n4\nSample output:\n8" in asked


def test_where_no_program_passes_the_best_of_all_is_answered_and_a_function_is_called(gateway):
    url, _ = gateway(replies(*(f"```python\ndef f(x):  # {s}\n    return x + 1\n```" for s in (0.3, 0.6))), n=2)
    extra = {"samples": [{"input": "[1]", "output": "[2]"}], "entry_point": "f", "starter_code": "def f(x):"}
    told = ask(client_of(url), extra_body={"dreamprm": extra}).dreamprm
    assert (told["score"], told["passes_samples"]) == (0.6, False)
    extra["samples"] = [{"input": "1", "output": "2"}]
    assert ask(client_of(url), extra_body={"dreamprm": extra}).dreamprm["passes_samples"] is True


# ------------------------------------------------------------------------------------------------- the start


def test_the_embedded_engine_is_loaded_and_has_read_a_prompt_before_the_first_request(gateway, monkeypatch):
    loaded, asked = [], []

    class Writes:
        """An engine whose first sample is cut off."""

        def __init__(self, model, *_):
            loaded.append(model)

        def ask(self, wanted):
            for request, samples in wanted:
                asked.append(request)
                for i in samples:
                    yield request, i, Completion(program(0.5 - i / 4), 9, "stop" if i else "length")

        def prompt_tokens(self, request):
            return 1

    monkeypatch.setattr(policies, "Engine", Writes)
    url, _ = gateway(replies(), policy={"base_url": None}, n=2, max_tokens=300)
    assert loaded == ["m"] and [request.max_tokens for request in asked] == [1]
    answer = ask(client_of(url))
    told = answer.dreamprm
    assert answer.choices[0].finish_reason == told["finish"] == "length" and told["runners_up"][0]["finish"] == "stop"
    assert told["cost"]["completions"] == 2  # what the start wrote is nobody's
    ask(client_of(url), max_tokens=40)
    ask(client_of(url), max_completion_tokens=900, seed=1)
    assert loaded == ["m"] and [request.max_tokens for request in asked] == [1, 300, 40, 300]


def test_every_start_opens_the_backbone_and_asks_no_endpoint(fake_server, tiny_backbone, monkeypatch, tmp_path):
    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path / "cache"))
    upstream, opened, open_model = fake_server(replies()), [], backbones.open_model
    monkeypatch.setattr(backbones, "open_model", lambda *what: (opened.append(what), open_model(*what))[1])
    model = RewardModel(Backbone(tiny_backbone, (2,)), Head.bare(np.ones(32), 0.0))
    for starts in (1, 2):  # the states of the first start lie on disk
        served = Gateway(endpoint_from({"model": "m", "base_url": upstream.base_url}), model, ServeSettings())
        served.load()
        served.close()
        assert len(opened) == starts
    assert upstream.bodies == []


# ------------------------------------------------------------------------------------------------- limits


def test_what_is_no_request_is_refused_with_the_reason(gateway):
    url, upstream = gateway(replies(program(0.5)), n=1, most_bytes=2000, key="right")
    with pytest.raises(openai.AuthenticationError, match="key is missing or wrong"):
        ask(client_of(url, "wrong"))
    client = client_of(url, "right")
    with pytest.raises(openai.APIStatusError, match="more than 2,000 bytes") as error:
        ask(client, "x" * 3000)
    assert error.value.status_code == 413
    for fields, said in [
        ({"n": 2}, "`n` is 2"),
        ({"temperature": 3}, "`temperature`"),
        ({"extra_body": {"dreamprm": {"sample": []}}}, "no field"),
        ({"extra_body": {"dreamprm": {"samples": [{"input": "1", "output": "no"}], "entry_point": "f"}}}, "not JSON"),
    ]:
        with pytest.raises(openai.BadRequestError, match=said):
            ask(client, **fields)
    assert httpx.post(f"{url}/v1/chat/completions", headers={"Authorization": "Bearer right"}).status_code == 415
    assert httpx.get(f"{url}/metrics").status_code == 401 and httpx.get(f"{url}/healthz").json() == {"status": "ok"}
    assert upstream.bodies == []


def test_without_a_key_no_other_name_of_this_machine_is_answered(gateway):
    url, _ = gateway(replies(program(0.5)))
    assert httpx.get(f"{url}/v1/models", headers={"Host": "evil.example"}).status_code == 400


def answers_timed(url):
    """How many answers this process has timed, by whatever gateway."""
    return float(re.search(r"^dreamprm_answer_seconds_count (\S+)", httpx.get(f"{url}/metrics").text, re.MULTILINE)[1])


def test_a_budget_ends_in_a_clear_error_and_metrics_count(gateway):
    long = program(0.5).replace("\n```", " word" * 1000 + "\n```")
    policy = {"models": {"m": {"price": [0, 1000]}}, "budget": 8}
    url, _ = gateway(replies(long), policy=policy, n=1, max_tokens=1024)
    before = answers_timed(url)
    with pytest.raises(openai.RateLimitError, match=r"budget of \$8"):
        for k in range(8):
            ask(client_of(url), f"Double {k}.")
    said = httpx.get(f"{url}/metrics").text
    assert 'dreamprm_requests_total{status="429"} 1.0' in said and k > 0
    assert answers_timed(url) == before + k and f'dreamprm_tokens_total{{kind="prompt"}} {k}.0' in said


def test_too_many_and_too_slow_requests_are_sent_away(gateway):
    def slow(body):
        time.sleep(1)
        return [program(0.5)]

    url, upstream = gateway(slow, n=1, in_flight=1, timeout=0.3)
    client = client_of(url)
    with pytest.raises(openai.InternalServerError, match="There was no answer") as late:
        ask(client)
    with pytest.raises(openai.InternalServerError, match="1 requests under way") as full:
        ask(client, "Another.")
    assert (late.value.status_code, full.value.status_code) == (504, 503)
    assert full.value.response.headers["retry-after"] == "1"
    answer = ask(client_of(url).with_options(max_retries=5))  # what was written meanwhile is kept
    assert answer.choices[0].message.content == program(0.5) and len(upstream.bodies) == 1


def test_200_requests_at_once_over_a_failing_server_lose_nothing_and_tell_no_key(gateway, caplog):
    faults = [*IN_A_REPLY, *NONSENSE, *PASSING]
    faults.remove("slow")  # a busy machine has slow replies of its own
    planted = at_random(0.2, faults)

    def fault(body, number):  # one of the two candidates holds a program, however often a busy machine asks again
        name = planted(body, number)
        return None if number and name in IN_A_REPLY else name

    policy = {"takes_n": False, "retries": 1}
    caplog.set_level(logging.INFO)
    url, upstream = gateway(replies(program(0.5)), fault, policy, n=2, in_flight=50, key="sk-g-secret")

    async def all_answers():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-g-secret", max_retries=60) as client:
            return await asyncio.gather(*(ask(client, f"Double {k}.") for k in range(200)))

    answers = asyncio.run(all_answers())
    assert len(answers) == 200 and all(a.choices[0].message.content == program(0.5) for a in answers)
    said = httpx.get(f"{url}/metrics", headers={"Authorization": "Bearer sk-g-secret"}).text
    assert 'dreamprm_requests_total{status="200"} 200.0' in said and 'status="502"' in said
    good = [text for _, text in upstream.delivered if text == program(0.5)]
    assert len(good) == sum(1 + len(answer.dreamprm["runners_up"]) for answer in answers)
    assert len(upstream.delivered) == 2 * len(answers) > len(good)  # none is paid twice; a refusal is an answer
    assert upstream.keys == {KEYS["OPENAI_API_KEY"]}
    assert "best of 2" in caplog.text and "secret" not in caplog.text and "never-seen" not in caplog.text


# ------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--key-variable", "NO_SUCH_KEY"], "--host 127.0.0.1 needs a key"),
        (["--host", "0.0.0.0"], "--host 0.0.0.0 needs a key"),
        (["--n", "0"], "the option `n` is 0"),
        (["--max-tokens", "1025"], "the option `max_tokens` is 1025"),
        (["--policy", "{modell: x}"], "did you mean `model`?"),
        (["--port", "TAKEN"], "Address already in use"),
    ],
)
def test_options_that_cannot_be_end_the_command_at_once(arguments, said, monkeypatch, capsys):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", *(port if word == "TAKEN" else word for word in arguments)]) == 2
    assert said in capsys.readouterr().err


def test_the_recipe_of_the_page_works_and_sigterm_waits_for_the_answer(fake_server, tiny_backbone, tmp_path):
    page = (
        (ROOT / "docs" / "use.md")
        .read_text(encoding="utf-8")
        .partition("## Serve the best of N")[2]
        .partition("\n## ")[0]
    )
    command, question = (re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL)[1] for kind in ("sh", "python"))

    def reply(body):
        time.sleep(2 if "Slowly" in str(body) else 0)
        return [program(0.5)]

    upstream = fake_server(reply)
    checkpoint = tmp_path / "prm.safetensors"
    head = Head(np.ones(32), 0.0, np.zeros(32), np.ones(32))
    RewardModel(Backbone(tiny_backbone, (2,), dtype="float32"), head).save(checkpoint)
    for old, new in [
        ("python -m", f"exec {sys.executable} -m"),
        ("outputs/quick/prm_cof.safetensors", str(checkpoint)),
        ("http://127.0.0.1:11434/v1", upstream.base_url),
        ("--port 8080", "--port 0"),
    ]:
        assert old in command
        command = command.replace(old, new)
    environment = os.environ | KEYS | {"DREAMPRM_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        ["bash", "-c", command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            url = re.search(r"http://127.0.0.1:\d+", server.stdout.readline())[0]
            os.environ["GATEWAY_KEY"] = "choose-a-key"
            with contextlib.redirect_stdout(io.StringIO()) as said:
                exec(question.replace("http://127.0.0.1:8080", url), {})
            assert said.getvalue().startswith(program(0.5)) and " True {'completions': 8" in said.getvalue()
            late = threading.Thread(target=lambda: answers.append(ask(client_of(url, "choose-a-key"), "Slowly.")))
            answers = []
            late.start()
            while len(upstream.bodies) < 16:
                time.sleep(0.02)
            server.send_signal(signal.SIGTERM)
            late.join()
            assert answers[0].choices[0].message.content == program(0.5)
            _, log = server.communicate(timeout=30)
        finally:
            server.kill()
    assert server.returncode == 0, log
    assert "best of 8" in log and "Traceback" not in log
    assert not [key for key in (*KEYS.values(), "choose-a-key") if key in log]
