"""The number of requests in flight, on simulated servers whose best number is planted."""

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from raycap.models.endpoint.limit import InFlightLimit


@dataclass
class Simulated:
    """A server in simulated time, asked as fast as a limit allows."""

    draw_s: Callable[[random.Random, int], float]
    """Seconds that a request takes, by the requests that the server works on."""
    num_slots: int = 10**9
    """Requests that it works on at the same time; further ones wait."""
    refuses_above: int = 10**9
    refusal_share: float = 0.0
    seed: int = 7

    def run(
        self, num_in_flight: Callable[[], int], num_answers: int, told: "Told | InFlightLimit"
    ) -> list[float]:
        """Return the times of so many answers, when always asked as much as allowed."""
        generator, now = random.Random(self.seed), 0.0
        events: list[tuple[float, int, float, bool]] = []
        queue: deque[float] = deque()
        num_inside = num_working = number = 0
        answered_s: list[float] = []
        while len(answered_s) < num_answers:
            while num_inside < num_in_flight():
                num_inside, number = num_inside + 1, number + 1
                told.sent(now)
                is_refused = (
                    num_inside > self.refuses_above or generator.random() < self.refusal_share
                )
                if is_refused:
                    heapq.heappush(events, (now + 0.005, number, now, True))
                elif num_working < self.num_slots:
                    num_working += 1
                    took = self.draw_s(generator, num_working)
                    heapq.heappush(events, (now + took, number, now, False))
                else:
                    queue.append(now)
            now, _, sent, is_refused = heapq.heappop(events)
            num_inside -= 1
            told.ended(now)
            if is_refused:
                told.refused(sent, now)
                continue
            answered_s.append(now)
            if queue:
                number += 1
                took = self.draw_s(generator, num_working)
                heapq.heappush(events, (now + took, number, queue.popleft(), False))
            else:
                num_working -= 1
            told.answered(sent, now)
        return answered_s


class Told:
    """Takes notes of a fixed number in flight, and does nothing with them."""

    def sent(self, now_s: float) -> None: ...
    def ended(self, now_s: float) -> None: ...
    def answered(self, sent_s: float, now_s: float) -> None: ...
    def refused(self, sent_s: float, now_s: float) -> None: ...


def steady(generator: random.Random, _: int) -> float:
    return generator.uniform(0.08, 0.12)


def spread(generator: random.Random, _: int) -> float:
    return generator.lognormvariate(-2.5, 0.6)


def batching(generator: random.Random, num_working: int) -> float:
    """Take longer the more requests share a GPU, but less than proportionally."""
    return generator.uniform(0.9, 1.1) * (0.5 + 0.01 * num_working)


def thrashing(best: int) -> Callable[[random.Random, int], float]:
    def draw(generator: random.Random, num_working: int) -> float:
        excess = max(1.0, num_working / best)
        return generator.uniform(0.08, 0.12) * excess**2

    return draw


SERVERS: dict[str, dict[str, Any]] = {
    "one slot": {"draw_s": steady, "num_slots": 1},
    "five slots": {"draw_s": steady, "num_slots": 5},
    "18 slots": {"draw_s": steady, "num_slots": 18},
    "100 slots": {"draw_s": steady, "num_slots": 100},
    "24 slots of answers of different length": {"draw_s": spread, "num_slots": 24},
    "refuses the 23rd": {"draw_s": steady, "refuses_above": 22},
    "refuses the 91st": {"draw_s": spread, "refuses_above": 90},
    "thrashes above 12": {"draw_s": thrashing(12)},
    "thrashes above 50": {"draw_s": thrashing(50)},
    "batches": {"draw_s": batching},
}
FIXED = (1, 5, 10, 12, 18, 22, 24, 32, 50, 64, 90, 100, 128, 256)
NUM_TO_FIND = 6_000
"""Answers within which the number is found; some 4,000 for 100 in flight."""
NUM_MEASURED = 6_000


@pytest.mark.parametrize("name", SERVERS)
def test_the_throughput_is_within_a_tenth_of_the_best_fixed_number(name: str) -> None:
    server = Simulated(**SERVERS[name])
    times = [
        server.run(partial(int, fixed), 1_000, Told())[-1] / 1_000
        for fixed in FIXED
        if fixed <= server.refuses_above
    ]
    limit = InFlightLimit(1, 256, 0.0)
    answered_s = server.run(lambda: limit.current, NUM_TO_FIND + NUM_MEASURED, limit)
    found = (answered_s[-1] - answered_s[NUM_TO_FIND]) / NUM_MEASURED
    assert min(times) / found > 0.9


def test_the_bounds_hold() -> None:
    limit = InFlightLimit(6, 9, 0.0)
    seen = set()

    def current() -> int:
        seen.add(limit.current)
        return limit.current

    Simulated(steady, num_slots=64, refusal_share=0.2).run(current, 3_000, limit)
    assert min(seen) >= 6
    assert max(seen) <= 9
