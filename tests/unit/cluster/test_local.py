"""What a local Ray starts."""

import pytest
from ray._private.node import Node

from raycap.cluster.local import _HELPERS, _helpers, _helpers_of


@pytest.mark.parametrize(
    ("options", "with_dashboard", "needed"),
    [
        ({"log_to_driver": False}, False, set()),
        ({"log_to_driver": True}, False, {"start_log_monitor"}),
        ({"log_to_driver": False}, True, set(_HELPERS)),
    ],
)
def test_only_the_helpers_that_are_needed_start(
    options: dict[str, bool], with_dashboard: bool, needed: set[str]
) -> None:
    found = _helpers_of(options, with_dashboard=with_dashboard)
    assert found == needed
    before = {name: vars(Node)[name] for name in _HELPERS}
    with _helpers(found):
        assert {name for name in _HELPERS if vars(Node)[name] is before[name]} == needed
        assert all(vars(Node)[name](None) is None for name in set(_HELPERS) - needed)
    assert {name: vars(Node)[name] for name in _HELPERS} == before
