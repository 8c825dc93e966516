"""The caption stage with endpoints: an actor that asks servers about many images at a time.

Rows arrive from the load tasks with image files, and leave as ANSWERED rows, so the rest of a run
does not depend on endpoints. The actor computes nothing: one keeps many requests in flight, of
several blocks at a time, so that the end of a block does not wait for its slowest answer.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray

from raycap import schema
from raycap.captioning import telemetry
from raycap.captioning.answering import AnswerRules, Asked, Judged
from raycap.captioning.captioner import answered_table, questions_of, unfilled
from raycap.captioning.loading import RunSpec
from raycap.captioning.spending import Spending
from raycap.cluster.start import start_here
from raycap.config import CaptionConfig
from raycap.errors import ImageError
from raycap.models.base import Caption
from raycap.models.endpoint.messages import Asking, Picture
from raycap.models.endpoint.pool import Answered, Patience
from raycap.models.endpoint.secrets import Secrets, read_secrets
from raycap.models.sources import ENDPOINT
from raycap.progress import Spent

if TYPE_CHECKING:
    from raycap.models.endpoint.client import CountsAnswers

_MAX_CALLS = 64  # each is a thread of the actor
_REPORT_EVERY_S = 1.0
_PATIENCE = 0.9  # of `engine.stall_timeout_s`, after which Ray says less


class Account:
    """The secrets of a run's endpoints, and what was paid; an actor on the driver's machine.

    It gets the secrets by a call, and keeps them in memory: Ray stores the arguments of a
    constructor, so that it can restart actors.
    """

    def __init__(self) -> None:
        self._secrets: Secrets | None = None
        self._num_prompt_tokens = self._num_tokens = 0

    def keep(self, secrets: Secrets) -> None:
        """Take the secrets."""
        self._secrets = secrets

    def secrets(self) -> Secrets | None:
        """Return the secrets."""
        return self._secrets

    def pay(self, num_prompt_tokens: int, num_tokens: int) -> tuple[int, int]:
        """Add the tokens of answers; return those of all actors in this pass."""
        self._num_prompt_tokens += num_prompt_tokens
        self._num_tokens += num_tokens
        return self._num_prompt_tokens, self._num_tokens


def open_account(config: CaptionConfig) -> Any:
    """Start the account of a run; None if it asks no endpoints.

    Raises:
        ConfigError: an environment variable is not set.
    """
    if config.model.backend != ENDPOINT:
        return None
    secrets = read_secrets(config.endpoint)
    account = start_here(Account)
    ray.get(account.keep.remote(secrets))
    return account


class Meter:
    """Counts what an actor pays, and reports it to the account, from which it learns the sum."""

    def __init__(self, spec: RunSpec) -> None:
        self._account = spec.account
        self._spending = Spending(spec.config.endpoint, spec.spent or Spent())
        self._num_prompt_tokens = self._num_tokens = 0

    def check(self) -> None:
        """Raise RunStopped if a bound is reached."""
        self._spending.check()

    def count(self, answer: Caption) -> None:
        """Count an answer. Raises ModelError as `Spending.count`."""
        self._num_prompt_tokens += answer.num_prompt_tokens or 0
        self._num_tokens += answer.num_tokens or 0
        self._spending.count(answer)

    async def report(self) -> None:
        """Report what was not reported yet."""
        tokens = self._num_prompt_tokens, self._num_tokens
        self._num_prompt_tokens = self._num_tokens = 0
        of_all = await self._account.pay.remote(*tokens)
        self._spending.correct(of_all[0] + self._num_prompt_tokens, of_all[1] + self._num_tokens)

    async def report_forever(self) -> None:
        """Report every second."""
        while True:
            await asyncio.sleep(_REPORT_EVERY_S)
            await self.report()


def num_calls_per_actor(spec: RunSpec) -> int:
    """Return how many blocks an actor answers at a time: twice what can be in flight."""
    endpoint = spec.config.endpoint
    num_images = 2 * len(endpoint.urls) * endpoint.max_in_flight
    return min(_MAX_CALLS, max(2, -(-num_images // spec.block_rows)))


class TableAsker:
    """Answers LOADED tables by endpoints, and judges the answers by the rules of a run.

    Make, use and close it in one event loop.
    """

    def __init__(self, spec: RunSpec, secrets: Secrets, meter: "CountsAnswers") -> None:
        # Imports aiohttp, which takes long, and which only these runs need.
        from raycap.models.endpoint.client import EndpointClient  # noqa: PLC0415

        self._spec = spec
        self._rules = AnswerRules.of(spec)
        config = spec.config
        self._client = EndpointClient(
            Asking(
                model=spec.model.name,
                generation=config.generation,
                extra_body=config.endpoint.extra_body,
            ),
            config.endpoint,
            secrets,
            Patience(later_s=_PATIENCE * config.engine.stall_timeout_s),
            meter,
        )

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Answer for every row that has an image and pass failed rows on. Returns ANSWERED rows.

        Raises:
            RaycapError: the endpoints refuse whatever is asked, or do not answer.
        """
        calls = {row: self._judged(*one) for row, one in self._asked(batch).items()}
        return answered_table(batch, await _all(calls), self._spec)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    def _asked(self, batch: pa.Table) -> dict[int, tuple[Picture, Asked]]:
        """Return what to ask: by row, its image, and its prompts with their questions."""
        sends_uri = self._spec.config.endpoint.send == "uri"
        contents = batch[schema.PIXELS].to_pylist()
        rows = [row for row, content in enumerate(contents) if content is not None]
        asked = questions_of(batch, rows, self._spec.prompts)
        return {
            row: (
                Picture(uri=contents[row].decode()) if sends_uri else Picture(file=contents[row]),
                self._rules.only_question if asked is None else asked[place],
            )
            for place, row in enumerate(rows)
        }

    async def _judged(self, picture: Picture, asked: Asked) -> list[Judged | ImageError]:
        """Ask the questions about an image one after the other, and once more where the gate says.

        They go to one endpoint if it has room, which then reads the image only once.
        """
        last = Answered()
        found: list[Judged | ImageError] = []
        plain = unfilled(asked[0], self._spec) or asked[1]
        for prompt, question, unfilled_question in zip(*asked, plain, strict=True):
            ask = partial(self._client.answer, picture, last=last, plain=unfilled_question)
            answer = await ask(question)
            if isinstance(answer, ImageError):
                found.append(answer)
                continue
            judged = self._rules.judge(answer, prompt, question.text)
            if judged.asks_again:
                second = await ask(self._rules.again(question))
                if isinstance(second, Caption):  # an image that is rejected now keeps the first
                    judged = judged.settle(self._rules.judge(second, prompt, question.text))
            found.append(judged)
        return found


class EndpointActor:
    """Answers LOADED tables by endpoints. Ray Data creates one, unless settings ask for more."""

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        self._asker: TableAsker | None = None
        self._num_in_flight = 0
        self._meter = Meter(spec)
        self._reporting: asyncio.Task[None] | None = None
        telemetry.begin_run(spec.output)
        try:
            self._secrets: Secrets | Exception = ray.get(spec.account.secrets.remote())
        except Exception as error:  # noqa: BLE001  raised at the first call
            # Raised in a constructor, it would reach the driver as text only.
            self._secrets = error

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """Answer for every row that has an image and pass failed rows on. Yields ANSWERED rows.

        Raises:
            RaycapError: the endpoints refuse whatever is asked, or do not answer.
        """
        asker = self._connected()
        pixels = batch[schema.PIXELS]
        num_images = len(pixels) - pixels.null_count
        self._note_in_flight(num_images)
        started = time.perf_counter()
        try:
            answered = await asker(batch)
        finally:
            self._note_in_flight(-num_images)
            await self._meter.report()
        if num_images:
            telemetry.note_batch(time.perf_counter() - started)
        yield answered

    def _connected(self) -> TableAsker:
        """Return what asks, which belongs to the event loop of this call."""
        if isinstance(self._secrets, Exception):
            raise self._secrets
        if self._asker is None:
            self._reporting = asyncio.create_task(self._meter.report_forever())
            self._asker = TableAsker(self._spec, self._secrets, self._meter)
        return self._asker

    def _note_in_flight(self, num_more: int) -> None:
        self._num_in_flight += num_more
        telemetry.note_in_flight(self._num_in_flight)


async def _all(calls: dict[int, Any]) -> dict[int, list[Judged | ImageError]]:
    """Await all calls; if one raises, cancel the others, whose answers would be paid in vain."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = {row: group.create_task(call) for row, call in calls.items()}
    except BaseExceptionGroup as error:
        raise error.exceptions[0] from None
    return {row: task.result() for row, task in tasks.items()}
