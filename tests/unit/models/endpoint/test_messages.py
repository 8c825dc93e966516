"""Requests and answers of chat completions."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycap.answers.typed import answer_type
from raycap.config import GenerationConfig, SamplingConfig
from raycap.models.base import Caption, Question
from raycap.models.endpoint.messages import (
    Asking,
    Dialect,
    Fault,
    Picture,
    Refusal,
    completions_url,
    read_answer,
)

PICTURE = Picture(file=b"\xff\xd8\xff\xe0")


def body_of(
    generation: GenerationConfig | None = None,
    question: Question | None = None,
    picture: Picture = PICTURE,
    **extra_body: Any,
) -> dict[str, Any]:
    asking = Asking(
        model="tiny",
        generation=generation or GenerationConfig(num_beams=1),
        extra_body=extra_body,
    )
    found: dict[str, Any] = json.loads(
        asking.body(picture, question or Question(text="what?"), Dialect())
    )
    return found


def answer_of(message: dict[str, Any], **choice: Any) -> Caption:
    return read_answer(200, {}, json.dumps({"choices": [{"message": message, **choice}]}).encode())


@pytest.mark.parametrize(
    ("url", "complete"),
    [
        ("http://host:8000", "http://host:8000/v1/chat/completions"),
        ("http://host:8000/", "http://host:8000/v1/chat/completions"),
        ("https://host/v1", "https://host/v1/chat/completions"),
        ("https://host/v1/", "https://host/v1/chat/completions"),
        ("https://host/v1beta/openai/", "https://host/v1beta/openai/chat/completions"),
        ("https://host/x/chat/completions", "https://host/x/chat/completions"),
        ("https://host/d/m?api-version=1", "https://host/d/m/chat/completions?api-version=1"),
    ],
)
def test_an_address_is_completed(url: str, complete: str) -> None:
    assert completions_url(url) == complete


def test_the_image_comes_before_the_question() -> None:
    (message,) = body_of()["messages"]
    image, text = message["content"]
    assert image["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")
    assert text == {"type": "text", "text": "what?"}


def test_an_address_is_sent_as_it_is() -> None:
    picture = Picture(uri="https://host/a.jpg?signature=1")
    (message,) = body_of(picture=picture)["messages"]
    assert message["content"][0]["image_url"]["url"] == "https://host/a.jpg?signature=1"


def test_a_further_field_replaces_or_removes_one() -> None:
    body = body_of(temperature=None, max_tokens=7, reasoning_effort="low")
    assert "temperature" not in body
    assert (body["max_tokens"], body["reasoning_effort"]) == (7, "low")


def test_sampling_has_a_seed_of_the_image() -> None:
    sampling = SamplingConfig(enabled=True, temperature=0.7, top_p=0.9, seed=3)
    sampled = GenerationConfig(num_beams=1, sampling=sampling)
    body, same = body_of(sampled), body_of(sampled)
    other = body_of(sampled, picture=Picture(file=b"\xff\xd8\xff\xe1"))
    again = body_of(sampled, Question(text="what?", seed=4))
    assert (body["temperature"], body["top_p"]) == (0.7, 0.9)
    assert body["seed"] == same["seed"] < 2**31
    assert len({body["seed"], other["seed"], again["seed"]}) == 3


def test_a_question_may_have_its_own_length_and_schema() -> None:
    schema = '{"type": "array", "items": {"type": "string"}}'
    question = Question(text="tags?", max_new_tokens=99, json_schema=schema)
    body = body_of(question=question)
    assert body["max_tokens"] == 99
    assert body["response_format"] == answer_type(schema).response_format()


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": " a cat\n"}, "a cat"),
        ({"content": [{"type": "text", "text": "a "}, {"type": "text", "text": "cat"}]}, "a cat"),
        ({"content": "a cat", "reasoning_content": "it is"}, "a cat"),
        ({"content": None, "reasoning_content": "it is"}, "<think>it is</think>"),
        ({"content": None, "refusal": "I cannot"}, "I cannot"),
        ({"content": [{"type": "refusal", "refusal": "I cannot"}]}, "I cannot"),
        ({"content": None}, ""),
    ],
)
def test_the_text_of_an_answer(message: dict[str, Any], text: str) -> None:
    assert answer_of(message).text == text


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("stop", "stop"),
        ("eos", "stop"),
        ("length", "length"),
        ("MAX_TOKENS", "length"),
        ("content_filter", "content_filter"),
        ("content_filter: SAFETY", "content_filter"),
        ("other", None),
        (None, None),
    ],
)
def test_how_an_answer_ended(reason: str | None, finish: str | None) -> None:
    assert answer_of({"content": "a"}, finish_reason=reason).finish == finish


def test_an_answer_that_was_withheld_may_have_no_message() -> None:
    refusal = {"content": None, "refusal": "This is not something to describe."}
    assert answer_of(refusal, finish_reason="stop").finish == "content_filter"
    body = json.dumps({"choices": [{"finish_reason": "content_filter"}]}).encode()
    withheld = read_answer(200, {}, body)
    assert (withheld.text, withheld.finish) == ("", "content_filter")


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        ({"message": "Provider returned error", "code": 502}, Fault.SERVER),
        ({"message": "Rate limit exceeded", "code": 429}, Fault.BUSY),
        ({"message": "No cookie auth credentials", "code": 401}, Fault.SETTINGS),
        ({"message": "The image is too small", "code": 400}, Fault.REQUEST),
        ("model runner has unexpectedly stopped", Fault.SERVER),
    ],
)
def test_an_error_may_come_with_status_200(error: Any, fault: Fault) -> None:
    choice = {"finish_reason": "error", "error": error, "message": {"content": "a ca"}}
    for answer in ({"error": error}, {"choices": [choice]}):
        found = outcome(200, {}, json.dumps(answer).encode())
        assert isinstance(found, Refusal)
        assert found.fault is fault
        assert (error if isinstance(error, str) else error["message"]) in found.reason


@pytest.mark.parametrize(
    ("status", "message", "fault"),
    [
        (400, "Your credit balance is too low", Fault.SETTINGS),
        (400, "API key not valid. Please pass a valid API key.", Fault.SETTINGS),
        (400, "The image is too small", Fault.REQUEST),
        (429, "You exceeded your current quota", Fault.BUSY),
        (529, "Overloaded", Fault.BUSY),
    ],
)
def test_whom_an_error_is_about(status: int, message: str, fault: Fault) -> None:
    found = outcome(status, {}, json.dumps([{"error": {"message": message}}]).encode())
    assert isinstance(found, Refusal)
    assert found.fault is fault


def test_a_page_is_quoted_without_its_markup() -> None:
    page = b"<html><style>h1 {}</style><h1>413 Request Entity Too Large</h1></html>"
    found = outcome(413, {}, page)
    assert isinstance(found, Refusal)
    assert "Too Large" in found.reason
    assert "<" not in found.reason


@pytest.mark.parametrize(
    ("refusal", "change"),
    [
        ("Use 'max_completion_tokens' instead.", {"length_field": "max_completion_tokens"}),
        ("'max_tokens' or 'max_completion_tokens' is too large: 800.", None),
        ("You are not allowed to request logprobs from this model", {"logprobs": False}),
        ("Failed to parse grammar", {"schemas": False}),
        ("Unsupported value: 'temperature' does not support 0", {"temperature": False}),
        ("`temperature` is deprecated for this model.", {"temperature": False}),
        ("Unrecognized request argument supplied: seed", {"seed": False}),
        ("cannot answer: which seed is this, at which temperature?", None),
    ],
)
def test_what_a_refusal_says_about_the_server(refusal: str, change: dict[str, Any] | None) -> None:
    assert Dialect().understood(refusal) == (None if change is None else Dialect(**change))


def test_the_temperature_of_sampling_is_never_left_out() -> None:
    sampled = GenerationConfig(num_beams=1, sampling=SamplingConfig(enabled=True))
    dialect = Dialect(temperature=False, seed=False)
    assert not Asking(model="tiny", generation=sampled).allows(dialect)
    greedy = Asking(model="tiny", generation=GenerationConfig(num_beams=1))
    assert greedy.allows(dialect)
    body = json.loads(greedy.body(PICTURE, Question(text="what?"), dialect))
    assert not {"temperature", "seed"} & set(body)


def test_a_score_is_the_mean_over_tokens_or_missing() -> None:
    tokens = [{"logprob": -1.0}, {"logprob": -3.0}]
    assert answer_of({"content": "a"}, logprobs={"content": tokens}).logprob == -2.0
    empty: list[Any] = [
        None,
        {},
        {"content": None},
        {"content": []},
        {"content": [{"logprob": None}]},
    ]
    for missing in empty:
        assert math.isnan(answer_of({"content": "a"}, logprobs=missing).logprob)


def outcome(status: int, headers: dict[str, str], body: bytes) -> Caption | Refusal:
    try:
        return read_answer(status, headers, body)
    except Refusal as refusal:
        return refusal


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("choices", "message", "content", "error", "usage", "logprobs"),
                    *("text", "logprob", "finish_reason", "refusal", "code"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(
    status=st.sampled_from([200, 301, 400, 401, 404, 413, 418, 429, 500, 503]),
    body=st.binary(max_size=50) | json_values.map(lambda value: json.dumps(value).encode()),
    wait=st.none() | st.text(max_size=10),
)
def test_whatever_a_server_sends_is_a_caption_or_a_refusal(
    status: int, body: bytes, wait: str | None
) -> None:
    headers = {} if wait is None else {"Retry-After": wait}
    found = outcome(status, headers, body)
    if isinstance(found, Refusal):
        assert "\n" not in found.reason
        assert len(found.reason) < 500
    else:
        assert status == 200
        assert not math.isinf(found.logprob)


@settings(deadline=None)
@given(message=json_values, usage=json_values, logprobs=json_values, finish=json_values)
def test_odd_parts_of_an_answer_are_no_bug(
    message: Any, usage: Any, logprobs: Any, finish: Any
) -> None:
    choice = {"message": message, "logprobs": logprobs, "finish_reason": finish}
    body = json.dumps({"choices": [choice], "usage": usage}).encode()
    found = outcome(200, {}, body)
    assert isinstance(found, Caption) or found.fault is Fault.SERVER
