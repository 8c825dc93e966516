"""The autoscaler starts spot machines first, and on-demand ones where spot has none."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.loader import load_function_or_class
from ray.autoscaler._private.node_provider_availability_tracker import (
    NodeProviderAvailabilityTracker,
)
from ray.autoscaler._private.resource_demand_scheduler import get_nodes_for
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.node_launch_exception import NodeLaunchException

CLUSTER = Path(__file__).parents[3] / "cluster.yaml"
RESOURCES = {
    "head": {"CPU": 0},
    "gpu-spot": {"CPU": 8, "GPU": 1},
    "gpu-on-demand": {"CPU": 8, "GPU": 1},
    "cpu-spot": {"CPU": 16},
}
REFUSED = NodeLaunchException("InsufficientInstanceCapacity", "no spot capacity", None)


@pytest.fixture
def cluster() -> dict[str, Any]:
    """The cluster that ships, with what AWS says its instances have."""
    config: dict[str, Any] = prepare_config(yaml.safe_load(CLUSTER.read_text()))
    for name, kind in config["available_node_types"].items():
        kind["resources"] = RESOURCES[name]
    return config


def named_scorer() -> Any:
    """The scorer that cluster.yaml names, found as Ray finds it."""
    found = re.search(r"RAY_AUTOSCALER_UTILIZATION_SCORER=([\w.]+);", CLUSTER.read_text())
    assert found
    return load_function_or_class(found[1])  # type: ignore[no-untyped-call]


def started(
    cluster: dict[str, Any], demands: list[Any], refused: dict[str, int], now: int
) -> dict[str, int]:
    """What Ray's autoscaler starts for a demand, after refusals at some seconds."""
    tracker = NodeProviderAvailabilityTracker(timer=lambda: now)
    for name, at in refused.items():
        tracker.update_node_availability(name, at, REFUSED)
    nodes, _ = get_nodes_for(
        cluster["available_node_types"],
        {"head": 1},
        cluster["head_node_type"],
        cluster["max_workers"],
        demands,
        utilization_scorer=partial(named_scorer(), node_availability_summary=tracker.summary()),
    )
    return dict(nodes)


ACTORS = [{"GPU": 1.0, "CPU": 1.0}] * 3


def test_spot_comes_first(cluster: dict[str, Any]) -> None:
    assert started(cluster, ACTORS, {}, now=0) == {"gpu-spot": 3}


def test_where_spot_was_refused_machines_come_on_demand(cluster: dict[str, Any]) -> None:
    assert started(cluster, ACTORS, {"gpu-spot": 1_000}, now=1_060) == {"gpu-on-demand": 3}


def test_spot_is_tried_again_after_half_an_hour(cluster: dict[str, Any]) -> None:
    assert started(cluster, ACTORS, {"gpu-spot": 1_000}, now=2_900) == {"gpu-spot": 3}


def test_where_both_were_refused_spot_is_asked_again(cluster: dict[str, Any]) -> None:
    refused = {"gpu-spot": 1_000, "gpu-on-demand": 1_010}
    assert started(cluster, ACTORS, refused, now=1_060) == {"gpu-spot": 3}


def test_what_spot_cannot_hold_comes_on_demand(cluster: dict[str, Any]) -> None:
    assert started(cluster, ACTORS * 3, {}, now=0) == {"gpu-spot": 8, "gpu-on-demand": 1}


def test_decoding_starts_no_gpu(cluster: dict[str, Any]) -> None:
    load_tasks = [{"CPU": 1.0}] * 20
    assert started(cluster, load_tasks, {}, now=0) == {"cpu-spot": 2}
    refused = {"cpu-spot": 1_000}
    assert "gpu-spot" not in started(cluster, load_tasks, refused, now=1_060)


def test_what_no_machine_has_starts_none(cluster: dict[str, Any]) -> None:
    assert started(cluster, [{"TPU": 1.0}], {}, now=0) == {}
