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
        *[{"text": text} for text in (5, ["a"], None)],
        *[{"message": message} for message in (None, "a")],
        *[{"message": {"content": content}} for content in (1.5, {"type": "text", "text": "a"})],
        {"message": {"content": [{"type": "image_url", "image_url": {}}]}},
        {"message": {"content": [{"type": "text", "text": 5}]}},
        {"message": {"content": "a", "refusal": {"reason": "no"}}},
        {"message": {"content": "a", "tool_calls": "f"}},
        {"text": "a", "finish_reason": {"type": "stop"}},
        7,
    ],
)
def test_a_choice_of_another_form_is_no_completion_but_a_bill(choice):
    reply = read({"choices": [choice]}, prompt_tokens=3, completion_tokens=4)
    assert reply.completions == [] and "another form" in reply.fault
    assert (reply.prompt_tokens, reply.tokens) == (3, 4)


@pytest.mark.parametrize(
    "known, ends",
    [
        ("stop", (None, "stop", "STOP", "eos", "end_turn", "COMPLETE")),
        ("length", ("length", "max_tokens", "MAX_TOKENS", "model_length")),
        ("tool_calls", ("tool_calls", "function_call")),
        *[(end, (end,)) for end in ("error", "content_filter", "abort", "safety")],
    ],
)
def test_every_provider_s_way_to_end_has_one_name(known, ends):
    assert {read(chat("a", end)).completions[0].finish for end in ends} == {known}


@pytest.mark.parametrize(
    "reply, completion",
    [
        (chat(None, "stop", tool_calls=[{"id": "x"}]), Completion("", 0, "tool_calls")),
        (chat(None, "end_turn"), Completion("", 0, "empty")),
        (chat("  \n", "eos"), Completion("  \n", 1, "empty")),
        (chat("", "max_tokens"), Completion("", 0, "length")),
        (chat(None, refusal="I can't."), Completion("I can't.", 2, "refusal")),
        (chat([{"type": "refusal", "refusal": "No."}]), Completion("No.", 1, "refusal")),
    ],
)
def test_calls_of_tools_refusals_and_empty_replies_are_told_apart(reply, completion):
    assert read(reply).completions == [completion]


@pytest.mark.parametrize("count", [-5, 0, 12.5, float("inf"), float("nan"), "12", True, None, [3], 10**30])
def test_a_number_of_tokens_that_cannot_be_is_not_believed(count):
    reply = read(chat("four words of text"), prompt_tokens=count, completion_tokens=count)
    assert (reply.prompt_tokens, reply.tokens) == (None, None)
    assert reply.completions == [Completion("four words of text", 5, "stop")]
    assert read({**chat("a"), "usage": count}).tokens is None


def test_tokens_are_those_of_the_logprobs_then_of_the_bill():
    raw = {"text": "a b", "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -1}]}, "finish_reason": "stop"}
    assert read({"choices": [raw]}).completions == [Completion("a b", 2, "stop", -1.5)]
    assert read({"choices": [raw]}).tokens == 2
    assert read({"choices": [raw, raw]}, completion_tokens=2).tokens == 4
    classic = {**raw, "logprobs": {"token_logprobs": [None, -0.5, -1.0]}}
    assert read({"choices": [classic]}).completions == [Completion("a b", 2, "stop", -1.5)]
    broken = {**raw, "logprobs": {"content": [{"logprob": float("-inf")}]}}
    assert read({"choices": [broken]}, completion_tokens=7).completions == [Completion("a b", 7, "stop")]
    two = {"choices": [{"text": "a"}, {"text": "b"}]}
    assert [c.tokens for c in read(two, completion_tokens=9).completions] == [4, 4]


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
def test_what_is_no_answer_is_reported_in_the_server_s_words(body, said):
    with pytest.raises(ValueError) as error:
        read_reply(body)
    assert said in str(error.value) and len(words("x" * 9000)) < 400
