"""What a run spends at endpoints, and the bounds that stop it."""

from typing import Any

import pytest

from raycap.captioning.spending import Spending
from raycap.config import EndpointConfig
from raycap.errors import ModelError, RunStopped
from raycap.models.base import Caption
from raycap.progress import Spent

PRICES = {"price_per_million_input_tokens": 1.0, "price_per_million_output_tokens": 2.0}
UNCOUNTED = Caption(text="a dog", logprob=-1.0)
COUNTED = Caption(text="a dog", logprob=-1.0, num_tokens=3)


def spending(**settings: Any) -> Spending:
    return Spending(EndpointConfig(urls=("http://host",), **settings), Spent())


@pytest.mark.parametrize("bound", [{"max_cost": 0.1, **PRICES}, {"max_tokens_total": 90_000}])
def test_a_bound_stops_the_run(bound: dict[str, Any]) -> None:
    found = spending(**bound)
    found.check()
    found.add(80_000, 10_000)
    with pytest.raises(RunStopped) as raised:
        found.check()
    assert raised.value.setting == f"endpoint.{next(iter(bound))}"


@pytest.mark.parametrize("bound", [{"max_cost": 0.1, **PRICES}, {"max_tokens_total": 90_000}])
def test_a_bound_needs_a_server_that_counts_tokens(bound: dict[str, Any]) -> None:
    spending(**bound).count(COUNTED)
    with pytest.raises(ModelError) as raised:
        spending(**bound).count(UNCOUNTED)
    assert raised.value.setting == f"endpoint.{next(iter(bound))}"
    spending(**PRICES).count(UNCOUNTED)
