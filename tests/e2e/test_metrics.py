"""What Ray's Prometheus endpoint tells of a run is what its output holds."""

import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from raycap.captioning import telemetry
from raycap.captioning.telemetry import Measure
from tests.conftest import MakeJpeg
from tests.support.scraped_run import RAYS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NUM_GOOD = 20


@pytest.fixture
def run(tmp_path: Path, make_jpeg: MakeJpeg) -> tuple[Path, list[Metric]]:
    """The output of a run, and the families of metrics that Ray told of it."""
    photos, output = tmp_path / "photos", tmp_path / "out"
    for number in range(NUM_GOOD):
        make_jpeg(photos / f"{number:03d}.jpg", seed=number)
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "none.jpg").write_bytes(b"")
    (photos / "page.jpg").write_bytes(b"<html>no image</html>")
    env = {
        **os.environ,
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.scraped_run", str(photos), str(output)],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-4_000:]
    return output, list(text_string_to_metric_families(done.stdout))


def rows_of(output: Path) -> list[dict[str, Any]]:
    parts = sorted((output / "captions").iterdir())
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def values(families: list[Metric], series: str) -> dict[str, float]:
    """Sums of a series by the label `code`, empty where it has none."""
    found: defaultdict[str, float] = defaultdict(float)
    for family in families:
        for sample in family.samples:
            if sample.name == series:
                found[sample.labels.get(telemetry.CODE, "")] += sample.value
    return dict(found)


def total(families: list[Metric], measure: Measure, part: int = 0) -> float:
    return sum(values(families, measure.series[part]).values())


def test_ray_tells_of_a_run_what_its_output_holds(run: tuple[Path, list[Metric]]) -> None:
    output, families = run
    rows = rows_of(output)
    captions = [row for row in rows if row["status"] == "ok"]
    failed = Counter(row["error_code"] for row in rows if row["status"] == "failed")
    assert len(captions) == NUM_GOOD
    assert failed == {"empty": 2, "unsupported_format": 1}
    assert total(families, telemetry.CAPTIONED) == len(captions)
    assert values(families, telemetry.FAILED.series[0]) == failed
    read = sum(path.stat().st_size for path in (output.parent / "photos").iterdir())
    assert total(families, telemetry.BYTES_READ) == read
    assert total(families, telemetry.WORDS) == sum(row["num_words"] for row in captions)
    num_parts = len(list((output / "captions").iterdir()))
    assert num_parts == 3
    assert total(families, telemetry.COMMITTED) == num_parts
    assert total(families, telemetry.COMMIT_LAG, part=2) == num_parts
    assert total(families, telemetry.REMAINING) == 0
    assert total(families, telemetry.UNCOMMITTED) == 0
    # Blocks of 8 images, of which 20 have pixels, in batches of 4 at most.
    assert 5 <= total(families, telemetry.BATCH_LATENCY, part=2) <= 8

    names = {sample.name for family in families for sample in family.samples}
    assert {name for measure in telemetry.MEASURES for name in measure.series} <= names
    assert {name for name in RAYS if "_g" not in name} <= names, "of Ray, in the dashboard"
    for family in families:
        for sample in family.samples:
            if "raycap" in sample.name:
                assert sample.labels[telemetry.RUN] == telemetry.run_label(str(output))
                assert not any(str(output) in value for value in sample.labels.values())
