"""The number of requests in flight at an endpoint, found from its throughput and refusals.

Nobody knows the best number in advance: a server on a GPU computes requests in batches, so that its
throughput grows with them, until it no longer does or falls; a rented one refuses beyond a rate. So
the number doubles while the throughput rises, and then a step up or down is tried from time to
time, and kept if it pays. A refusal ends a step at once.

Throughput is measured by Little's law, as mean requests in flight per mean latency. Counting
answers per second would need far longer windows, because answers come in bursts.
"""

from dataclasses import dataclass

_FIRST = 4
_GAIN_OF_DOUBLING = 1.1  # a doubling is kept if throughput rises at least this much
_STEP = 1.5  # the first one, between a number that was good and its double
_LEAST_STEP = 1.06
_GAIN_SHARE = 0.15  # a step up is kept if it gains this share of what it adds
_LOSS = 0.98  # a step down is kept if it loses no more
_ON_REFUSAL = 0.85
_FULL_SHARE = 0.7  # below this use of the limit, a window says nothing about it
_QUICK_WINDOW = 16  # answers, at least
_STEADY_WINDOW = 32
_MAX_WAIT = 16  # windows between steps that were in vain
_CEILING_WINDOWS = 24


@dataclass(slots=True)
class _Window:
    """Answers to requests that were sent after the last change of the limit, and one round."""

    begun_s: float
    num_to_skip: int
    num_answers: int = 0
    latency_s: float = 0.0
    measured_from_s: float = 0.0
    area: float = 0.0
    """Requests in flight, integrated over the time measured."""


class InFlightLimit:
    """Finds the best number of requests in flight. Times are those of one monotonic clock."""

    def __init__(self, least: int, most: int, now_s: float) -> None:
        """Begin with few requests.

        Args:
            least: The least number.
            most: The greatest number.
            now_s: The time.
        """
        self._least, self._most = least, most
        self.current = min(most, max(least, _FIRST))
        """Requests that may be in flight now."""
        self.num_in_flight = 0
        self.throughput = 0.0
        """Answers per second when last measured; 0 if not yet."""
        self._is_doubling = True
        self._base = self.current
        self._base_throughput = 0.0
        self._direction = 1
        self._step = _STEP
        self._wait = self._wait_next = 1
        self._ceiling: int | None = None
        self._ceiling_age = 0
        self._at_s = now_s
        self._window = _Window(now_s, self.current)

    def sent(self, now_s: float) -> None:
        """Note that a request is sent."""
        self._integrate(now_s)
        self.num_in_flight += 1

    def ended(self, now_s: float) -> None:
        """Note that a request has ended, in whatever way; then say how."""
        self._integrate(now_s)
        self.num_in_flight -= 1

    def answered(self, sent_s: float, now_s: float) -> None:
        """Note an answer to a request that was sent at a time."""
        window = self._window
        if sent_s < window.begun_s:
            return
        if window.num_to_skip > 0:  # queues are still filling or emptying
            window.num_to_skip -= 1
            window.measured_from_s, window.area = now_s, 0.0
            return
        window.num_answers += 1
        window.latency_s += now_s - sent_s
        if window.num_answers >= self._window_size():
            self._conclude(window, now_s)

    def refused(self, sent_s: float, now_s: float) -> None:
        """Note that the server asked for fewer requests; once per round, the limit falls."""
        if sent_s < self._window.begun_s:
            return
        self._ceiling, self._ceiling_age = max(self._least, self.current - 1), 0
        if self.current > self._base:
            lower = self._base  # that many were not refused
            self._step = max(_LEAST_STEP, self._step**0.5)
        else:
            lower = int(self.current * _ON_REFUSAL)
            self._wait = self._wait_next = _MAX_WAIT
            self._base_throughput = 0.0
            self.throughput *= _ON_REFUSAL
        self._is_doubling = False
        self._base = min(self._base, self._bounded(lower))
        self._set(self._base, now_s)

    def _integrate(self, now_s: float) -> None:
        self._window.area += self.num_in_flight * (now_s - self._at_s)
        self._at_s = now_s

    def _window_size(self) -> int:
        if self._is_doubling:
            return max(_QUICK_WINDOW, self.current)
        return max(_STEADY_WINDOW, 3 * self.current)

    def _conclude(self, window: _Window, now_s: float) -> None:
        in_flight = window.area / max(1e-9, now_s - window.measured_from_s)
        throughput = in_flight * window.num_answers / max(1e-9, window.latency_s)
        if in_flight < _FULL_SHARE * self.current:
            self._set(self.current, now_s)  # there was too little work to tell
            return
        self.throughput = throughput
        if self._is_doubling:
            self._double(throughput, now_s)
        elif self.current == self._base:
            self._continue(throughput, now_s)
        else:
            self._judge(throughput, now_s)

    def _double(self, throughput: float, now_s: float) -> None:
        is_better = throughput >= _GAIN_OF_DOUBLING * self._base_throughput
        if is_better:
            self._base, self._base_throughput = self.current, throughput
        if is_better and self.current < self._most:
            self._set(self._bounded(2 * self.current), now_s)
        else:
            self._is_doubling = False
            self._set(self._base if is_better else self._next(), now_s)

    def _continue(self, throughput: float, now_s: float) -> None:
        """Take the throughput at the base as the new reference, and try a step if it is time."""
        self._base_throughput = throughput
        if self._ceiling is not None:
            self._ceiling_age += 1
            if self._ceiling_age > _CEILING_WINDOWS:
                self._ceiling = None
        self._wait -= 1
        self._set(self._base if self._wait > 0 else self._next(), now_s)

    def _judge(self, throughput: float, now_s: float) -> None:
        """Keep a step that paid; otherwise return, and try the other direction later."""
        if self.current > self._base:
            added = self.current / self._base - 1.0
            is_better = throughput >= (1.0 + _GAIN_SHARE * added) * self._base_throughput
        else:
            is_better = throughput >= _LOSS * self._base_throughput
        if is_better:
            self._base, self._base_throughput = self.current, throughput
            self._wait = self._wait_next = 1
            self._set(self._next(), now_s)
            return
        self._direction = -self._direction
        self._step = max(_LEAST_STEP, self._step**0.5) if self._direction > 0 else self._step
        self._wait_next = min(_MAX_WAIT, 2 * self._wait_next)
        self._wait = self._wait_next
        self._set(self._base, now_s)

    def _next(self) -> int:
        """Return the next number to try, or the base if there is none in this direction."""
        if self._direction < 0:
            return self._bounded(min(self._base - 1, int(self._base / self._step)))
        higher = self._bounded(max(self._base + 1, int(self._base * self._step)))
        if self._ceiling is not None:
            higher = min(higher, (self._base + self._ceiling + 1) // 2)
        if higher <= self._base:
            self._direction = -1
            return self._base
        return higher

    def _bounded(self, number: int) -> int:
        return min(self._most, max(self._least, number))

    def _set(self, number: int, now_s: float) -> None:
        """Begin a window with this limit."""
        self.current = number
        self._window = _Window(now_s, num_to_skip=number, measured_from_s=now_s)
