"""Several endpoints: which one gets the next request, and which ones are left out for a while.

Each endpoint has as many requests in flight as pay off there, so that it gets work as fast as it
answers. One that fails is left out, and then tried with a single request (a circuit breaker with
half-open trials); one that asks to wait gets nothing until then.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raycap.errors import ModelError, RunStopped
from raycap.models.endpoint.limit import InFlightLimit

_MAX_FAILURES = 3  # in a row; then an endpoint is left out
_FIRST_REST_S = 1.0
_MAX_REST_S = 60.0
_FIRST_PAUSE_S = 0.1
_MAX_PAUSE_S = 20.0

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request that is sent to an endpoint."""

    sent_s: float
    is_trial: bool


class Endpoint:
    """A server: its requests in flight, and whether it gets any."""

    def __init__(self, url: str, least: int, most: int, now_s: float) -> None:
        self.url = url
        self.limit = InFlightLimit(least, most, now_s)
        self.has_worked = False
        """Whether it has ever written a caption."""
        self.is_there = False
        """Whether it has ever answered as a server of this interface."""
        self.blocked_until_s = 0.0
        self._num_failures = 0
        self._num_rests = 0
        self._num_pauses = 0
        self._paused_s = 0.0
        self._has_trial = False

    def has_room(self, now_s: float) -> bool:
        """Whether it can get another request now."""
        if now_s < self.blocked_until_s:
            return False
        if self._num_rests:
            return not self._has_trial
        return self.limit.num_in_flight < self.limit.current

    @property
    def load(self) -> float:
        """Seconds until another request would be answered; tiny as long as that is unknown."""
        if not self.limit.throughput:
            return 1e-6 * self.limit.num_in_flight
        return (self.limit.num_in_flight + 1) / self.limit.throughput

    def send(self, now_s: float) -> Ticket:
        """Note that a request is sent to it."""
        self.limit.sent(now_s)
        is_trial = self._num_rests > 0
        self._has_trial = self._has_trial or is_trial
        return Ticket(now_s, is_trial)

    def worked(self, ticket: Ticket, now_s: float, *, is_caption: bool) -> None:
        """Note an answer: a caption, or that the request is wrong."""
        self._end(ticket, now_s)
        self._num_failures = self._num_rests = self._num_pauses = 0
        self.is_there = True
        if is_caption:
            self.has_worked = True
            self.limit.answered(ticket.sent_s, now_s)

    def busy(self, ticket: Ticket, now_s: float, wait_s: float) -> None:
        """Note that it asks for fewer requests, or for none during some seconds."""
        self._end(ticket, now_s)
        self.is_there = True
        self.limit.refused(ticket.sent_s, now_s)
        if ticket.sent_s >= self._paused_s:  # others were sent before it said so
            self._paused_s = now_s
            self._num_pauses += 1
        own_s = min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self._num_pauses, 10))
        pause_s = random.uniform(1.0, 1.1) * wait_s if wait_s else random.uniform(0.0, own_s)
        self.blocked_until_s = max(self.blocked_until_s, now_s + pause_s)

    def failed(
        self, ticket: Ticket, now_s: float, wait_s: float = 0.0, *, is_timeout: bool = False
    ) -> None:
        """Note that it did not answer, or with garbage; too slow may mean too many requests."""
        self._end(ticket, now_s)
        if is_timeout:
            self.limit.refused(ticket.sent_s, now_s)
        self._num_failures += 1
        if not ticket.is_trial and (self._num_rests or self._num_failures < _MAX_FAILURES):
            return
        self._num_rests += 1
        rest_s = min(_MAX_REST_S, _FIRST_REST_S * 2 ** min(self._num_rests - 1, 10))
        rest_s = max(wait_s, random.uniform(0.5, 1.0) * rest_s)
        self.blocked_until_s = max(self.blocked_until_s, now_s + rest_s)

    def gave_up(self, ticket: Ticket, now_s: float) -> None:
        """Note that nobody waits for the answer any more."""
        self._end(ticket, now_s)

    def _end(self, ticket: Ticket, now_s: float) -> None:
        self.limit.ended(now_s)
        if ticket.is_trial:
            self._has_trial = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds without any answer after which a run stops."""

    start_s: float = 20.0
    """Before the first answer: the address may be wrong."""
    later_s: float


_Request = tuple[asyncio.Future[tuple[Endpoint, Ticket]], Endpoint | None, Endpoint | None]


@dataclass(slots=True)
class Answered:
    """The endpoint that was asked last about an image; None before the first question."""

    endpoint: Endpoint | None = None


class Pool:
    """The endpoints of a run. Use it in one event loop."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        clock: Clock,
        patience: Patience,
    ) -> None:
        """Begin.

        Args:
            endpoints: At least one.
            clock: Of the endpoints.
            patience: When to give up.
        """
        self.endpoints = tuple(endpoints)
        self._clock = clock
        self._patience = patience
        self.worked_s = clock()
        """When an endpoint last answered."""
        self._waiting: deque[_Request] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def place(
        self,
        *,
        avoided: Endpoint | None = None,
        preferred: Endpoint | None = None,
        is_first: bool = True,
    ) -> tuple[Endpoint, Ticket]:
        """Wait for an endpoint that can get a request, and note that it is sent.

        Args:
            avoided: The endpoint that has just failed on it, taken only if no other has room.
            preferred: The endpoint to take if it has room.
            is_first: Whether it is the first request about an image: others go before those.
        """
        future: asyncio.Future[tuple[Endpoint, Ticket]]
        future = asyncio.get_running_loop().create_future()
        add = self._waiting.append if is_first else self._waiting.appendleft
        add((future, avoided, preferred))
        self.dispatch()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                endpoint, ticket = future.result()
                endpoint.gave_up(ticket, self._clock())
                self.dispatch()
            raise

    def dispatch(self) -> None:
        """Hand waiting requests to endpoints with room; call it after every change of one."""
        now = self._clock()
        while self._waiting:
            future, avoided, preferred = self._waiting[0]
            if future.done():  # its task was cancelled
                self._waiting.popleft()
                continue
            endpoint = self._pick(avoided, preferred, now)
            if endpoint is None:
                break
            self._waiting.popleft()
            future.set_result((endpoint, endpoint.send(now)))
        if self._waiting:
            self._wake_later(now)

    def note_answer(self) -> None:
        """Note that an endpoint has answered.

        Its room is given away only when the task that got the answer pauses: it may have another
        question about the same image.
        """
        self.worked_s = self._clock()
        asyncio.get_running_loop().call_soon(self.dispatch)

    def check_patience(self, reason: str) -> None:
        """Raise if nothing has answered for too long, or will not for too long.

        Args:
            reason: The failure that was just noted.

        Raises:
            ModelError: no endpoint has ever answered.
            RunStopped: none has for a long time.
        """
        is_any_there = any(endpoint.is_there for endpoint in self.endpoints)
        patience_s = self._patience.later_s if is_any_there else self._patience.start_s
        soonest_s = min(endpoint.blocked_until_s for endpoint in self.endpoints)
        silent_s = max(self._clock(), soonest_s) - self.worked_s
        if silent_s <= patience_s:
            self.dispatch()
            return
        if not is_any_there:
            raise ModelError(
                f"{reason}; check endpoint.urls, and that the server is running",
                setting="endpoint.urls",
            )
        raise RunStopped(
            f"no endpoint answers for {silent_s:,.0f} s: {reason}; run the same command later to "
            "continue"
        )

    def _pick(
        self, avoided: Endpoint | None, preferred: Endpoint | None, now: float
    ) -> Endpoint | None:
        free = [endpoint for endpoint in self.endpoints if endpoint.has_room(now)]
        return min(
            free, key=lambda one: (one is avoided, one is not preferred, one.load), default=None
        )

    def _wake_later(self, now: float) -> None:
        """Dispatch again when the next blocked endpoint may get requests."""
        times = [one.blocked_until_s for one in self.endpoints if one.blocked_until_s > now]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if times:
            delay_s = min(times) - now + 0.001
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.dispatch)
