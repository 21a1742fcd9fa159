"""What endpoints answer: forms that are read, forms that are refused, and bills that are not believed."""

import json

import pytest

from dreamprm_lib.engine.policy.completions import Completion
from dreamprm_lib.engine.policy.replies import about_tokens, read_reply, words


def chat(content, finish="stop", **message):
    return {"choices": [{"message": {"content": content, **message}, "finish_reason": finish}]}


def read(reply, **usage):
    return read_reply(json.dumps({**reply, **({"usage": usage} if usage else {})}))


@pytest.mark.parametrize(
    "content, text",
    [
        ("ab", "ab"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        (["a", "b"], "ab"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "ab"}], "ab"),
        ([{"type": "output_text", "text": "ab", "annotations": []}], "ab"),
        ([{"type": "text", "text": ""}], ""),
        ([], ""),
        (None, ""),
    ],
)
def test_the_parts_of_a_content_are_joined(content, text):
    (completion,) = read(chat(content)).completions
    assert (completion.text, completion.finish) == (text, "stop" if text else "empty")


@pytest.mark.parametrize(
    "choice",
    [
        {"text": 5},
        {"text": ["a"]},
        {"text": None},
        {"text": "a", "finish_reason": {"type": "stop"}},
        {"message": None},
        {"message": "a"},
        {"message": {"content": 1.5}},
        {"message": {"content": {"type": "text", "text": "a"}}},
        {"message": {"content": [{"type": "image_url", "image_url": {}}]}},
        {"message": {"content": [{"type": "text", "text": 5}]}},
        {"message": {"content": "a", "refusal": {"reason": "no"}}},
        {"message": {"content": "a", "tool_calls": "f"}},
        7,
    ],
)
def test_a_choice_of_another_form_is_no_completion_but_a_bill(choice):
    reply = read({"choices": [choice]}, prompt_tokens=3, completion_tokens=4)
    assert reply.completions == [] and "another form" in reply.fault
    assert (reply.prompt_tokens, reply.tokens) == (3, 4)


@pytest.mark.parametrize(
    "finish, known",
    [
        *[(end, "stop") for end in (None, "stop", "STOP", "eos", "end_turn", "COMPLETE")],
        *[(end, "length") for end in ("length", "max_tokens", "MAX_TOKENS", "model_length")],
        *[(end, "tool_calls") for end in ("tool_calls", "function_call")],
        *[(end, end) for end in ("error", "content_filter", "abort", "safety")],
    ],
)
def test_every_provider_s_way_to_end_has_one_name(finish, known):
    assert read(chat("a", finish)).completions[0].finish == known


def test_calls_of_tools_refusals_and_empty_replies_are_told_apart():
    assert read(chat(None, "stop", tool_calls=[{"id": "x"}])).completions == [Completion("", 0, "tool_calls")]
    assert read(chat(None, "end_turn")).completions == [Completion("", 0, "empty")]
    assert read(chat("  \n", "eos")).completions[0].finish == "empty"
    assert read(chat("", "max_tokens")).completions[0].finish == "length"
    assert read(chat(None, refusal="I can't.")).completions == [Completion("I can't.", 2, "refusal")]
    assert read(chat([{"type": "refusal", "refusal": "No."}])).completions == [Completion("No.", 1, "refusal")]


@pytest.mark.parametrize("told", [-5, 0, 12.5, float("inf"), float("nan"), "12", True, None, [3], 10**30])
def test_a_number_of_tokens_that_cannot_be_is_not_believed(told):
    reply = read(chat("four words of text"), prompt_tokens=told, completion_tokens=told)
    assert (reply.prompt_tokens, reply.tokens) == (None, None)
    assert reply.completions == [Completion("four words of text", 5, "stop")]
    assert read({**chat("a"), "usage": told}).tokens is None


def test_tokens_are_those_of_the_logprobs_then_of_the_bill():
    raw = {"text": "a b", "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -1}]}, "finish_reason": "stop"}
    assert read({"choices": [raw]}).completions == [Completion("a b", 2, "stop", -1.5)]
    assert read({"choices": [raw]}).tokens == 2
    assert read({"choices": [raw, raw]}, completion_tokens=2).tokens == 4
    classic = {**raw, "logprobs": {"token_logprobs": [None, -0.5, -1.0]}}
    assert read({"choices": [classic]}).completions == [Completion("a b", 2, "stop", -1.5)]
    broken = {**raw, "logprobs": {"content": [{"logprob": float("-inf")}]}}
    assert read({"choices": [broken]}, completion_tokens=7).completions == [Completion("a b", 7, "stop")]
    assert [c.tokens for c in read({"choices": [{"text": "a"}, {"text": "b"}]}, completion_tokens=9).completions] == [
        4,
        4,
    ]


@pytest.mark.parametrize(
    "text, tokens", [("", 0), ("word", 1), ("words", 2), ("漢字" * 50, 100), ("né à", 3), ("def f(x):" * 4, 9)]
)
def test_tokens_are_estimated_by_script(text, tokens):
    assert about_tokens(text) == tokens
    assert read(chat(text)).completions[0].tokens == tokens


LOGIN = "<html><head><style>p {color: red}</style><title>Sign in</title></head><body><p>Your&nbsp;session <b>ended</b>"


@pytest.mark.parametrize(
    "body, said",
    [
        (LOGIN, "Sign in Your session ended"),
        ('{"error": {"message": "The model is loading", "code": 503}}', "The model is loading"),
        ('{"error": "model \\"m\\" not found"}', 'model "m" not found'),
        ('{"detail": "Not authenticated"}', "Not authenticated"),
        ('{"object": "error", "message": "too long"}', "too long"),
        ("upstream connect error", "upstream connect error"),
        ("", "nothing"),
        ("null", "None"),
    ],
)
def test_what_is_no_answer_is_told_in_the_server_s_words(body, said):
    with pytest.raises(ValueError) as error:
        read_reply(body)
    assert said in str(error.value)


def test_long_words_are_cut():
    assert len(words("x" * 9000)) < 400
