"""The dashboard and the Prometheus config that ship, and the metrics that they are about."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

from raycap.captioning import telemetry
from tests.support.scraped_run import RAYS

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
OURS = {name for measure in telemetry.MEASURES for name in measure.series}


@pytest.fixture
def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    return content


def expressions(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_the_dashboard_shows_metrics_that_there_are(dashboard: dict[str, Any]) -> None:
    used = set(re.findall(r"\bray_\w+", " ".join(expressions(dashboard))))
    assert used <= OURS | RAYS, used - OURS - RAYS
    assert used >= RAYS, "listed and not used"


def test_the_dashboard_leaves_out_nothing_that_raycap_tells(dashboard: dict[str, Any]) -> None:
    shown = " ".join(expressions(dashboard))
    for measure in telemetry.MEASURES:
        assert f"ray_{measure.name}" in shown, measure.name


def test_rates_are_of_counters_and_quantiles_of_histograms(dashboard: dict[str, Any]) -> None:
    for expression in expressions(dashboard):
        for name in re.findall(r"rate\((\w+)", expression):
            assert name.endswith(("_total", "_bucket")), expression
        for name in re.findall(r"ray_raycap_\w+_total", expression):
            assert re.search(rf"rate\({name}(\{{[^}}]*\}})?\[", expression), expression


def test_the_panels_of_the_dashboard_do_not_overlap(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(panel["description"] for panel in dashboard["panels"])


def test_the_dashboard_takes_whatever_prometheus_there_is(dashboard: dict[str, Any]) -> None:
    variable = dashboard["templating"]["list"][0]
    assert variable["type"] == "datasource"
    sources = {
        source["datasource"]["uid"]
        for panel in dashboard["panels"]
        for source in (panel, *panel["targets"])
    }
    assert sources == {f"${{{variable['name']}}}"}


def test_the_dashboard_shows_the_chosen_runs(dashboard: dict[str, Any]) -> None:
    variable = dashboard["templating"]["list"][1]
    assert variable["name"] == telemetry.RUN
    assert variable["query"] == f"label_values(ray_{telemetry.REMAINING.name}, {telemetry.RUN})"
    for expression in expressions(dashboard):
        for found in re.findall(r"ray_raycap_\w+(\{[^}]*\})?", expression):
            assert found == '{run=~"$run"}', expression


def test_a_run_has_a_label_that_two_outputs_do_not_share_and_that_tells_no_address() -> None:
    outputs = ("s3://a/captions", "s3://b/captions", "/data/captions", "s3://a/x/bad name\udcff{}/")
    labels = [telemetry.run_label(output) for output in outputs]
    assert len(set(labels)) == len(outputs)
    assert all(re.fullmatch(r"[\w.-]{1,40}-[0-9a-f]{8}", label, re.ASCII) for label in labels)
    assert labels[0].startswith("captions-")


def test_prometheus_reads_the_list_that_ray_keeps_of_its_nodes() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    (discovery,) = job["file_sd_configs"]
    folder = "/tmp/ray"  # noqa: S108  Ray's own
    assert discovery["files"] == [f"{folder}/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]


def test_the_number_of_series_grows_with_runs_but_not_with_images() -> None:
    tags = {measure.name: measure.tags for measure in telemetry.MEASURES}
    assert tags.pop("raycap_images_failed") == ("run", "code")
    assert set(tags.values()) == {("run",)}
    names = [measure.name for measure in telemetry.MEASURES]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"raycap_[a-z_]+", name) for name in names)


def test_the_documentation_tells_every_metric_and_its_kind() -> None:
    page = (ROOT / "docs/cluster.md").read_text()
    told = dict(re.findall(r"^\| `(ray_raycap_\w+)` \| (\w+)", page, re.M))
    assert told == {
        measure.series[0].removesuffix("_bucket"): measure.kind.__name__.lower()
        for measure in telemetry.MEASURES
    }


def test_what_the_documentation_names_is_there() -> None:
    page = (ROOT / "docs/cluster.md").read_text()
    named = set(re.findall(r"(?<![\w/])(?:deploy|jobs|configs|raycap)/[\w./-]+\.\w+", page))
    assert {"deploy/rayjob.yaml", "jobs/caption.py", "raycap/cluster/autoscaling.py"} <= named
    for name in named:
        assert (ROOT / name).is_file(), name
    for block in re.findall(r"```yaml\n(.*?)```", page, re.S):
        assert yaml.safe_load(block)
