"""The client against a real server with planted faults."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Coroutine
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from raycap.config import EndpointConfig, GenerationConfig, SamplingConfig
from raycap.errors import ErrorCode, ImageError, ModelError, RaycapError, RunStopped
from raycap.models.base import Caption, Question
from raycap.models.endpoint.client import EndpointClient
from raycap.models.endpoint.messages import Asking, Picture
from raycap.models.endpoint.pool import Patience
from raycap.models.endpoint.secrets import Secrets
from tests.conftest import free_port
from tests.support.endpoint_server import EndpointServer, digest_of, endpoint_server

JPEG = b"\xff\xd8\xff"
PICTURES = [Picture(file=JPEG + number.to_bytes(2)) for number in range(500)]
DIGESTS = [digest_of(picture.file) for picture in PICTURES]
TAGS = '{"type": "array", "items": {"type": "string"}}'
GREEDY = GenerationConfig(num_beams=1)


def ask(
    *urls: str,
    num_images: int = 20,
    secrets: Secrets | None = None,
    generation: GenerationConfig = GREEDY,
    patience_s: float = 10.0,
    start_patience_s: float = 10.0,
    **settings: Any,
) -> list[Caption | ImageError]:
    """Ask about images at the same time."""

    async def run() -> list[Caption | ImageError]:
        config = EndpointConfig(urls=urls, **settings)
        asking = Asking(model="tiny", generation=generation, extra_body=config.extra_body)
        client = EndpointClient(
            asking,
            config,
            secrets or Secrets(),
            Patience(start_s=start_patience_s, later_s=patience_s),
        )
        try:
            return await gather(
                client.answer(picture, Question(text="what?")) for picture in PICTURES[:num_images]
            )
        finally:
            await client.close()

    return asyncio.run(run())


async def gather(calls: Any) -> list[Any]:
    """Await all, and end the others if one raises."""
    waiting: list[Coroutine[Any, Any, Any]] = list(calls)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in waiting]
    return [task.result() for task in tasks]


def error_of(*urls: str, **arguments: Any) -> RaycapError:
    """Return the error of a run that ends with one."""
    with pytest.raises(BaseExceptionGroup) as raised:
        ask(*urls, **arguments)
    found = raised.value.exceptions[0]
    assert isinstance(found, RaycapError)
    return found


def assert_answered(answers: list[Caption | ImageError]) -> None:
    """Check that every image has its own caption."""
    for digest, answer in zip(DIGESTS, answers, strict=False):
        assert isinstance(answer, Caption)
        assert answer.text == f"image {digest} on what?"


def test_an_answer_has_text_tokens_score_and_end() -> None:
    with endpoint_server() as (server, url):
        (answer,) = ask(url, num_images=1)
    assert answer == Caption(
        text=f"image {DIGESTS[0]} on what?",
        logprob=-0.25,
        finish="stop",
        num_tokens=4,
        num_prompt_tokens=100,
    )
    (body,) = server.asked
    assert (body["temperature"], body["max_tokens"]) == (0.0, 20)


def test_every_image_is_paid_once() -> None:
    with endpoint_server(latency_s=0.01) as (server, url):
        assert_answered(ask(url, num_images=100))
    assert Counter(server.paid_images) == Counter(DIGESTS[:100])


@pytest.mark.parametrize("fault", ["drop", "garbage", "no_choices", "500"])
def test_a_server_that_fails_is_left_out(fault: str) -> None:
    with ExitStack() as stack:
        _, good = stack.enter_context(endpoint_server(latency_s=0.01))
        bad, url = stack.enter_context(endpoint_server(fault=fault))
        assert_answered(ask(url, good, num_images=60))
    assert len(bad.headers) < 12


def test_a_server_that_hangs_is_left_out_and_tried_again() -> None:
    with ExitStack() as stack:
        _, good = stack.enter_context(endpoint_server(latency_s=0.2, slots=8))
        bad, url = stack.enter_context(endpoint_server(fault="hang", last=6))
        assert_answered(ask(url, good, num_images=120, timeout_s=0.5, max_in_flight=6))
    assert len(bad.paid_images) > 10


def test_a_fault_of_one_request_costs_one_more() -> None:
    with endpoint_server(fault="500", first=5, last=6) as (server, url):
        assert_answered(ask(url))
    assert len(server.paid_images) == 20


def in_two_seconds() -> str:
    # The date has no fractions: it is between one and two seconds from now.
    return format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)


@pytest.mark.parametrize("status", ["429", "503"])
@pytest.mark.parametrize("kind", ["seconds", "date"])
def test_retry_after_is_obeyed(status: str, kind: str) -> None:
    wait = "1" if kind == "seconds" else in_two_seconds()
    with endpoint_server(fault=status, last=4, retry_after=wait) as (server, url):
        started = time.monotonic()
        assert_answered(ask(url))
        assert time.monotonic() - started > 0.9
    assert len(server.headers) == 24


def test_refusals_lower_the_number_in_flight_and_no_image_fails() -> None:
    with endpoint_server(latency_s=0.02, refuses_above=4) as (server, url):
        assert_answered(ask(url, num_images=150))
    assert len(server.paid_images) == 150
    assert len(server.headers) < 300


def test_an_image_that_is_rejected_is_a_row_and_others_are_not() -> None:
    with endpoint_server(rejected=(DIGESTS[3], DIGESTS[7])) as (server, url):
        answers = ask(url)
    failed = [index for index, answer in enumerate(answers) if isinstance(answer, ImageError)]
    assert failed == [3, 7]
    assert isinstance(answers[3], ImageError)
    assert answers[3].code == ErrorCode.MODEL_REJECTED
    assert len(server.paid_images) in (18, 19)  # a grey image, if no other was captioned yet


def test_the_first_image_may_be_the_one_that_is_rejected() -> None:
    with endpoint_server(rejected=(DIGESTS[0],)) as (server, url):
        (answer,) = ask(url, num_images=1)
    assert isinstance(answer, ImageError)
    assert len(server.paid_images) == 1


def test_an_image_on_which_servers_fail_is_a_row_if_others_work() -> None:
    async def run(url: str) -> Caption | ImageError:
        config = EndpointConfig(urls=(url,), timeout_s=0.5)
        asking = Asking(model="tiny", generation=GREEDY)
        client = EndpointClient(asking, config, Secrets(), Patience(later_s=60.0))
        good = [client.answer(picture, Question(text="what?")) for picture in PICTURES[1:60]]
        bad = client.answer(PICTURES[0], Question(text="hang"))
        try:
            found = await gather([bad, *good])
        finally:
            await client.close()
        assert all(isinstance(one, Caption) for one in found[1:])
        return found[0]  # type: ignore[no-any-return]

    with endpoint_server(hangs_on="hang", latency_s=0.02) as (_, url):
        answer = asyncio.run(run(url))
    assert isinstance(answer, ImageError)
    assert answer.code == ErrorCode.TIMEOUT


@pytest.mark.parametrize(
    ("plan", "setting"),
    [
        ({"key": "right"}, "endpoint.api_key_env"),
        ({"model": "another"}, "model.name"),
        ({"supports": ()}, "model.name"),
        ({"fault": "429", "message": "insufficient_quota"}, "endpoint.api_key_env"),
        ({"fault": "308"}, "endpoint.urls"),
    ],
    ids=["key", "model", "no vision", "no money", "redirect"],
)
def test_what_is_wrong_for_every_image_stops_the_run(plan: dict[str, Any], setting: str) -> None:
    with endpoint_server(**plan) as (_, url):
        error = error_of(url, secrets=Secrets(key="wrong-key"))
    assert isinstance(error, ModelError)
    assert error.setting == setting
    assert "wrong-key" not in str(error)
    assert "\n" not in str(error)


def test_key_and_headers_are_sent_and_never_shown() -> None:
    secrets = Secrets(key="sk-secret", headers={"X-Team": "cats"})
    with endpoint_server(key="sk-secret") as (server, url):
        assert_answered(ask(url, num_images=1, secrets=secrets))
    assert server.headers[0]["X-Team"] == "cats"
    assert "sk-secret" not in repr(secrets)


def test_a_server_that_never_answers_stops_the_run_early() -> None:
    error = error_of(f"http://127.0.0.1:{free_port()}", num_images=3, start_patience_s=0.3)
    assert isinstance(error, ModelError)
    assert error.setting == "endpoint.urls"


def test_a_server_that_stops_answering_stops_the_run_later() -> None:
    with endpoint_server(fault="500", first=10) as (_, url):
        error = error_of(url, num_images=40, patience_s=1.0)
    assert isinstance(error, RunStopped)


def test_a_server_that_asks_to_wait_for_a_day_stops_the_run_at_once() -> None:
    with endpoint_server(fault="429", first=10, retry_after="86400") as (_, url):
        started = time.monotonic()
        error = error_of(url, num_images=40, patience_s=600.0)
    assert isinstance(error, RunStopped)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("status", [400, 403, 500])
@pytest.mark.parametrize("lacks", ["logprobs", "max_tokens", "temperature"])
def test_what_a_server_does_not_support_is_left_out(lacks: str, status: int) -> None:
    supports = tuple({"image", "logprobs", "max_tokens", "temperature"} - {lacks})
    with endpoint_server(supports=supports, unsupported_status=status) as (server, url):
        answers = ask(url)
    assert_answered(answers)
    scores = {
        None if math.isnan(answer.logprob) else answer.logprob
        for answer in answers
        if isinstance(answer, Caption)
    }
    assert scores == {None if lacks == "logprobs" else -0.25}
    assert ("max_completion_tokens" in server.asked[-1]) == (lacks == "max_tokens")
    assert ("temperature" in server.asked[-1]) == (lacks != "temperature")


def test_a_server_may_support_almost_nothing() -> None:
    with endpoint_server(supports=("image",)) as (server, url):
        assert_answered(ask(url))
    assert set(server.asked[-1]) == {"model", "messages", "max_completion_tokens"}


def test_a_temperature_that_is_set_is_not_left_out() -> None:
    sampled = GenerationConfig(num_beams=1, sampling=SamplingConfig(enabled=True))
    with endpoint_server(supports=("image", "logprobs", "max_tokens")) as (_, url):
        assert isinstance(error_of(url, generation=sampled), ModelError)


def test_a_server_without_json_schemas_is_asked_without() -> None:
    async def run(url: str) -> Caption | ImageError:
        asking = Asking(model="tiny", generation=GREEDY)
        config = EndpointConfig(urls=(url,))
        client = EndpointClient(asking, config, Secrets(), Patience(later_s=60.0))
        try:
            question = Question(text="tags?", json_schema=TAGS)
            return await client.answer(PICTURES[0], question)
        finally:
            await client.close()

    supports = ("image", "logprobs", "max_tokens")
    with endpoint_server(supports=supports) as (server, url):
        assert isinstance(asyncio.run(run(url)), Caption)
    assert "response_format" not in server.asked[-1]


def answer_one(url: str, question: Question, **settings: Any) -> Caption | ImageError:
    """Ask about a single image."""

    async def run() -> Caption | ImageError:
        asking = Asking(model="tiny", generation=GREEDY)
        config = EndpointConfig(urls=(url,), **settings)
        client = EndpointClient(asking, config, Secrets(), Patience(later_s=3.0))
        try:
            return await client.answer(PICTURES[0], question)
        finally:
            await client.close()

    return asyncio.run(run())


def test_a_server_that_fails_on_every_json_schema_is_asked_without() -> None:
    with endpoint_server(fails_on="response_format") as (server, url):
        answer = answer_one(url, Question(text="tags?", json_schema=TAGS))
    assert isinstance(answer, Caption)
    assert "response_format" not in server.asked[-1]


def test_the_only_image_may_be_the_one_on_which_a_server_fails() -> None:
    with endpoint_server(hangs_on="hang") as (server, url):
        answer = answer_one(url, Question(text="hang"), timeout_s=0.3)
    assert isinstance(answer, ImageError)
    assert answer.code == ErrorCode.TIMEOUT
    assert len(server.paid_images) <= 4  # grey ones


def test_a_server_that_begins_to_reject_everything_stops_the_run() -> None:
    with endpoint_server(rejects_from=30) as (server, url):
        error = error_of(url, num_images=100, max_in_flight=4)
    assert isinstance(error, ModelError)
    assert len(server.headers) < 60


def test_an_image_that_is_too_large_is_a_row_that_says_what_to_do() -> None:
    with endpoint_server(fault="413", first=5, last=6) as (_, url):
        answers = ask(url)
    (failed,) = [one for one in answers if isinstance(one, ImageError)]
    assert failed.code == ErrorCode.MODEL_REJECTED
    assert "image.max_pixels_model" in str(failed)


def test_many_images_may_be_rejected_one_after_the_other() -> None:
    with endpoint_server(rejected=tuple(DIGESTS[20:80])) as (server, url):
        answers = ask(url, num_images=100)
    assert [isinstance(one, ImageError) for one in answers[20:80]] == [True] * 60
    assert len(server.paid_images) <= 40 + 60 // 16 + 2


def test_logprobs_that_are_asked_for_are_required() -> None:
    with endpoint_server(supports=("image", "max_tokens")) as (_, url):
        assert isinstance(error_of(url, logprobs=True), ModelError)


def test_the_throughput_is_near_that_of_the_best_fixed_number() -> None:
    def seconds(url: str, **settings: Any) -> float:
        started = time.monotonic()
        ask(url, num_images=200, **settings)
        return time.monotonic() - started

    with endpoint_server(latency_s=0.05, slots=6) as (_, url):
        best = seconds(url, min_in_flight=6, max_in_flight=6)
        assert seconds(url) < best / 0.9


def test_endpoints_get_as_much_as_they_achieve() -> None:
    with ExitStack() as stack:
        servers: list[tuple[EndpointServer, str]] = [
            stack.enter_context(endpoint_server(latency_s=0.05, slots=slots)) for slots in (2, 8)
        ]
        ask(*(url for _, url in servers), num_images=500)
    slow, fast = (len(server.paid_images) for server, _ in servers)
    assert fast > 2 * slow
