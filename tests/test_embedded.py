"""The embedded engine: the smallest pinned model writes in this process, and nothing is lost or paid twice."""

import json
import multiprocessing
import random
import time
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

from dreamprm_lib.engine.policy import policy as policies
from dreamprm_lib.engine.policy.completions import Completion, CompletionStore, Request
from dreamprm_lib.engine.policy.embedded import Engine, readable_file
from dreamprm_lib.engine.policy.endpoint import Endpoint
from dreamprm_lib.engine.policy.policy import Policy, Prompt
from dreamprm_lib.engine.weights import fetch
from dreamprm_lib.errors import InputError

MODEL = "smollm2-135m-instruct-q4_1"
PROMPTS = [Prompt((("user", f"Write a Python function that returns {x}."),), "```python\ndef ") for x in ("1", "x + 1")]


@pytest.fixture(scope="module")
def engine():
    fetch(MODEL)
    return Engine(MODEL, slots=4)


def requests(max_tokens=12, stop=("\n```",)):
    with_stop = Policy(Endpoint(MODEL), None)
    return [with_stop.request(prompt, 0.8, 0.95, max_tokens, stop) for prompt in PROMPTS]


def answers(engine, wanted):
    return {(request.digest, sample): completion for request, sample, completion in engine.ask(wanted)}


@pytest.mark.weights
def test_the_same_work_gives_the_same_samples(engine):
    first, second = requests()
    work = [(second, [0, 1, 2]), (first, [0, 1, 2, 3])]
    once, again = answers(engine, work), answers(engine, work)
    assert once == again and len(once) == 7 and len({c.text for c in once.values()}) > 2


@pytest.mark.weights
def test_no_prompt_is_started_before_the_first_is_read_whose_beginning_they_share(engine, monkeypatch):
    events, start, pipeline = [], engine._start, engine._pipeline

    class Watched:
        def __getattr__(self, name):
            events.append(name)
            return getattr(pipeline, name)

    def started(*what):
        events.append("start")
        return start(*what)

    monkeypatch.setattr(engine, "_pipeline", Watched())
    monkeypatch.setattr(engine, "_start", started)
    assert len(answers(engine, [(request, [0]) for request in requests(6)])) == 2
    assert events.index("step") < [k for k, event in enumerate(events) if event == "start"][1]


@pytest.mark.weights
def test_the_policy_writes_here_once_and_the_prefill_opens_the_reply(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(policies, "Engine", lambda *_: engine)
    with CompletionStore(tmp_path / "s.sqlite") as store, Policy(Endpoint(MODEL), store) as policy:
        reply = policy.sample(PROMPTS[:1], 1, max_tokens=6)[0][0]
        again = policy.sample(PROMPTS[:1], 1, max_tokens=6)[0][0]
        assert store.spent(model=MODEL).completions == 1
    assert again == reply and reply.text.startswith("```python\ndef ") and reply.tokens <= 6 and reply.logprob < 0


@pytest.mark.weights
def test_a_reply_ends_before_a_stop_or_at_its_limit(engine):
    (stopped,) = answers(engine, [(requests(200, ("(",))[0], [0])]).values()
    assert stopped.finish == "stop" and "(" not in stopped.text and stopped.tokens < 200
    (cut,) = answers(engine, [(requests(3)[0], [0])]).values()
    assert cut.finish == "length" and cut.tokens == 3


@pytest.mark.weights
def test_an_engine_that_is_stopped_half_way_goes_on_with_other_work(engine):
    first, second = requests(60)
    started = engine.ask([(first, list(range(8)))])
    next(started)
    started.close()
    assert len(answers(engine, [(second, [0])])) == 1


@pytest.mark.parametrize(("computes_in", "gigabytes"), [("f32", 2), ("bf16", 4)])
def test_keys_and_values_are_kept_in_bfloat16_where_the_engine_computes_in_it(
    monkeypatch, tmp_path, computes_in, gigabytes
):
    import openvino
    import openvino_genai

    opened = []
    precision = getattr(openvino.Type, computes_in)
    monkeypatch.setattr(openvino, "Core", lambda: SimpleNamespace(get_property=lambda *_: precision))
    monkeypatch.setattr(openvino_genai, "ContinuousBatchingPipeline", lambda *given: opened.append(given) or Mock())
    Engine(str(tmp_path), 3, threads=1)
    ((_, scheduler, device, settings, _),) = opened
    kept = {"KV_CACHE_PRECISION": openvino.Type.bf16} if computes_in == "bf16" else {}
    assert (device, settings) == ("CPU", {"INFERENCE_NUM_THREADS": 1} | kept)
    assert (scheduler.cache_size, scheduler.max_num_seqs) == (gigabytes, 3)


def test_a_model_that_is_none_is_named(tmp_path):
    broken = tmp_path / "model.gguf"
    broken.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(InputError, match=r"model\.gguf"):
        Engine(str(broken), 1)


def test_tensors_that_the_engine_cannot_read_are_rewritten_once(tmp_path, monkeypatch):
    import gguf

    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path / "cache"))
    kinds = gguf.GGMLQuantizationType
    weights = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_block_count(3)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    for name, kind in (("old", kinds.Q5_0), ("known", kinds.Q4_0)):
        writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()

    copy = readable_file(tmp_path / "m.gguf")
    assert copy != tmp_path / "m.gguf" and readable_file(tmp_path / "m.gguf") == copy
    old, new = (gguf.GGUFReader(path) for path in (tmp_path / "m.gguf", copy))
    assert {t.name: t.tensor_type.name for t in new.tensors} == {"old": "Q8_0", "known": "Q4_0"}
    before, after = (
        {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors} for reader in (old, new)
    )
    assert np.array_equal(before["known"], after["known"])
    assert np.abs(before["old"] - after["old"]).max() < np.abs(before["old"]).max() / 240
    for name, field in old.fields.items():
        if not name.startswith("GGUF."):
            assert new.fields[name].contents() == field.contents()

    unpacked = gguf.GGUFReader(readable_file(tmp_path / "m.gguf", unpacked=True))
    assert {t.name: t.tensor_type.name for t in unpacked.tensors} == {"old": "F16", "known": "F16"}
    for tensor in unpacked.tensors:
        assert np.array_equal(tensor.data, before[tensor.name].astype(np.float16))
    assert readable_file(tmp_path / "m.gguf") == copy


class SlowEngine:
    def __init__(self, *_):
        pass

    def prompt_tokens(self, request):
        return 1

    def ask(self, wanted):
        for request, samples in wanted:
            for sample in samples:
                time.sleep(0.002)
                yield request, sample, Completion(f"{sample}", 1, "stop", -1.0)


def ask_slowly(path, ready):
    policies.Engine = SlowEngine
    with CompletionStore(path) as store, Policy(Endpoint(), store) as asked:
        ready.set()
        asked.sample([Prompt((("user", str(i)),)) for i in range(20)], 20)


def test_a_recording_that_is_killed_loses_nothing_and_pays_nothing_twice(tmp_path):
    rng, path, before, context = random.Random(1), tmp_path / "s.sqlite", 0, multiprocessing.get_context("spawn")
    for kill in range(4):
        ready = context.Event()
        child = context.Process(target=ask_slowly, args=(path, ready))
        child.start()
        assert ready.wait(60)
        if kill < 3:
            time.sleep(rng.uniform(0, 0.2))
            child.kill()
        child.join()
        with CompletionStore(path) as store:
            assert before <= len(store) == store.spent().completions
            before = len(store)
    assert before == 400


@pytest.mark.weights
def test_settings_of_the_engine_are_taken_and_strange_ones_named(engine):
    greedy = Request(MODEL, "completion", "1, 2, 3,", 0.0, None, 4, (), json.dumps({"repetition_penalty": 1.1}))
    assert len(answers(engine, [(greedy, [0])])) == 1
    strange = Request(MODEL, "completion", "1, 2, 3,", 0.8, 0.95, 4, (), json.dumps({"colour": "red"}))
    with pytest.raises(InputError, match="colour"):
        answers(engine, [(strange, [0])])
