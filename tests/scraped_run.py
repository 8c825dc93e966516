"""Captions a folder on a local Ray of its own, and prints what Ray's metrics endpoint tells then.

Run as a program, for its Ray reports every second: `python -m tests.scraped_run SOURCE OUTPUT`.
"""

import sys
import time
import urllib.request

import ray

import raycap
from raycap.bulk import telemetry
from raycap.config import CaptionConfig
from raycap.settings import validate_config

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
        "engine": {"part_size": 8, "batch_size": 4},
    }
    summary = raycap.caption(source, output, config=validate_config(CaptionConfig, settings))
    deadline = time.monotonic() + _WAIT_S
    answered, written = 0.0, 0.0
    while time.monotonic() < deadline:
        page = scrape()
        answered = sum(
            value_of(page, name) for name in (telemetry.CAPTIONED.series + telemetry.FAILED.series)
        )
        written = value_of(page, telemetry.COMMIT_LAG.series[2])
        if answered == summary.num_images and written and value_of(page, "ray_resources"):
            sys.stdout.write(page)
            return
        time.sleep(0.5)
    raise SystemExit(f"after {_WAIT_S:g} s: answered={answered:g} parts={written:g}")


if __name__ == "__main__":
    main(*sys.argv[1:])
