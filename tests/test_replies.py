"""What endpoints answer: forms that are read, forms that are refused, and bills that are not believed."""

import json

import pytest

from dreamprm_lib.engine.policy.completions import Completion
from dreamprm_lib.engine.policy.replies import Reply, read_reply


def chat(content, finish="stop", **message):
    return {"choices": [{"message": {"content": content, **message}, "finish_reason": finish}]}


def read(reply, **usage):
    return read_reply(json.dumps({**reply, **({"usage": usage} if usage else {})}))


PARTS = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}]


@pytest.mark.parametrize(
    "reply, completion",
    [
        (chat("word and word"), Completion("word and word", 4, "stop")),
        (chat([*PARTS, {"type": "output_text", "text": "b"}]), Completion("ab", 1, "stop")),
        (chat(None, "stop", tool_calls=[{"id": "x"}]), Completion("", 0, "tool_calls")),
        (chat(None, "end_turn"), Completion("", 0, "empty")),
        (chat("  \n", "eos"), Completion("  \n", 1, "empty")),
        (chat("", "MAX_TOKENS"), Completion("", 0, "length")),
        (chat(None, refusal="I can't."), Completion("I can't.", 2, "refusal")),
        (chat("a", "content_filter"), Completion("a", 1, "content_filter")),
        ({"choices": [{"text": ""}]}, Completion("", 0, "stop")),
    ],
)
def test_a_reply_is_read_and_every_way_to_end_has_one_name(reply, completion):
    assert read(reply).completions == [completion]


@pytest.mark.parametrize(
    "choice",
    [
        {"text": 5},
        {"message": "a"},
        {"message": {"content": {"type": "text", "text": "a"}}},
        {"message": {"content": [{"type": "text", "text": 5}]}},
        {"message": {"content": "a", "refusal": {"reason": "no"}}},
        {"text": "a", "finish_reason": {"type": "stop"}},
        7,
    ],
)
def test_a_choice_of_another_form_is_no_completion_but_a_bill(choice):
    assert read({"choices": [choice]}, prompt_tokens=3, completion_tokens=4) == Reply([], 3, 4)
    assert read({"choices": [choice]}) == Reply([], None, None)


@pytest.mark.parametrize("count", [-5, 0, 12.5, float("inf"), "12", True, None, [3], 10**30])
def test_a_number_of_tokens_that_cannot_be_is_not_believed(count):
    reply = read(chat("four words of text"), prompt_tokens=count, completion_tokens=count)
    assert reply == Reply([Completion("four words of text", 5, "stop")], None, None)
    assert read({**chat("a"), "usage": count}).tokens is None


def test_tokens_are_those_of_the_logprobs_then_of_the_bill():
    raw = {"text": "a b", "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -1}]}, "finish_reason": "stop"}
    assert read({"choices": [raw]}).completions == [Completion("a b", 2, "stop", -1.5)]
    assert read({"choices": [raw, raw]}, completion_tokens=2).tokens == 4  # the bill of one of them
    classic = {**raw, "logprobs": {"token_logprobs": [None, -0.5, -1.0]}}
    assert read({"choices": [classic]}).completions == [Completion("a b", 2, "stop", -1.5)]
    broken = {**raw, "logprobs": {"content": [{"logprob": float("-inf")}]}}
    assert read({"choices": [broken]}, completion_tokens=7).completions == [Completion("a b", 7, "stop")]
    two = {"choices": [{"text": "a"}, {"text": "b"}]}
    assert [c.tokens for c in read(two, completion_tokens=9).completions] == [4, 4]


@pytest.mark.parametrize(
    "body", ["<html><p>Sign in", '{"error": {"message": "loading"}}', "upstream error", "", "[" * 10**5]
)
def test_what_is_no_answer_costs_nothing(body):
    assert read_reply(body) == Reply([], 0, 0)
