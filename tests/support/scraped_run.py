"""Caption a folder on a local Ray of its own, and print what Ray's metrics endpoint reports.

A program, since its Ray reports every second: `python -m tests.support.scraped_run SRC OUTPUT`.
"""

import math
import sys
import time
import urllib.request

import ray

import raycap
from raycap.captioning import telemetry
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config

PART_SIZE, BATCH_SIZE = 8, 4

_WAIT_S = 60.0

RAYS = {
    "ray_data_num_external_inqueue_blocks",
    "ray_node_cpu_utilization",
    "ray_node_gpus_utilization",
    "ray_node_gram_used",
    "ray_object_store_memory",
    "ray_resources",
}
"""Metrics of Ray 2.60 itself that the dashboard shows."""


def scrape() -> str:
    """Read the metrics of every node that lives, as Prometheus does."""
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    pages = []
    for node in nodes:
        address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(address, timeout=10) as answer:
            pages.append(answer.read().decode())
    return "".join(pages)


def value_of(page: str, name: str) -> float:
    """Sum a series up over its labels."""
    lines = [line for line in page.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def main(source: str, output: str) -> None:
    """Caption, wait until Ray knows of the last commit, and print its page."""
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        _system_config={"metrics_report_interval_ms": 1000},
    )
    settings = {
        "model": {"name": "stub"},
        "engine": {"part_size": PART_SIZE, "batch_size": BATCH_SIZE},
    }
    summary = raycap.caption(source, output, config=validate_config(CaptionConfig, settings))
    num_parts = math.ceil(summary.num_images / PART_SIZE)
    # Each process tells its own when it will: the driver, the captioners, Ray.
    awaited = {
        telemetry.CAPTIONED.series[0]: summary.num_ok,
        telemetry.COMMITTED.series[0]: num_parts,
        telemetry.COMMIT_LAG.series[2]: num_parts,
        telemetry.BATCH_LATENCY.series[2]: math.ceil(summary.num_ok / BATCH_SIZE),
        "ray_resources": 1,
    }
    deadline = time.monotonic() + _WAIT_S
    missing = awaited
    while time.monotonic() < deadline:
        time.sleep(0.5)
        page = scrape()
        missing = {name: least for name, least in awaited.items() if value_of(page, name) < least}
        if not missing:
            sys.stdout.write(page)
            return
    raise SystemExit(f"after {_WAIT_S:g} s Ray does not tell: {missing}")


if __name__ == "__main__":
    main(*sys.argv[1:])
