"""Preflights on a local Ray: folders, buckets, datasets; nothing that a run reads is written."""

import json
from pathlib import Path
from typing import Any

import pytest

import raycap
from raycap.config import CaptionConfig, PrepareConfig
from raycap.config.loading import validate_config
from raycap.errors import ConfigError, RunConflict, RunStopped
from raycap.preflights.run import preflight
from raycap.progress import Progress
from raycap.results.preflight import FETCH, MODEL
from tests.conftest import S3, MakeJpeg, RequestLog
from tests.support.caption_sets import folder_rows, make_dataset
from tests.support.commandline import write_images
from tests.support.taken_apart import Page

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]


def config(**sections: Any) -> CaptionConfig:
    sections.setdefault("model", {"name": "stub"})
    sections.setdefault("storage", {"timeout_s": 5, "num_retries": 1})
    return validate_config(CaptionConfig, sections)


def slow(**sections: Any) -> CaptionConfig:
    """0.05 s an image, in batches of four."""
    return config(
        model={"name": "stub", "stub_latency_s": 0.2}, engine={"batch_size": 4}, **sections
    )


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_sample_of_a_bucket_is_read_once_and_the_run_starts_clean(
    s3: S3, s3_log: RequestLog, make_jpeg: MakeJpeg
) -> None:
    for number in range(150):
        s3.put(f"photos/{number:04d}.jpg", make_jpeg(seed=number) if number % 10 else b"broken")
    source, output = f"{s3.uri}/photos", f"{s3.uri}/out"
    found = preflight(source, output, 40, config=config())
    assert (found.num_images, found.num_pending, found.num_wanted) == (150, 150, 40)
    assert found.sample.num_images == 40
    assert set(found.sample.failed) == {"unsupported_format"}
    assert 0 < found.sample.num_failed < 15
    assert found.estimate is not None
    assert found.estimate.images_per_s > 0
    assert found.estimate.stages[0].seconds_per_image > 0
    reads = s3_log.image_reads(s3.bucket)
    assert (len(reads), set(reads.values())) == (40, {1})
    # Over the whole source, not its beginning.
    numbers = sorted(int(key[-8:-4]) for key in reads)
    assert numbers[0] < 40
    assert numbers[-1] >= 110
    listed = s3.client.list_objects_v2(Bucket=s3.bucket, Prefix="out/")["Contents"]
    assert sorted(item["Key"] for item in listed) == [
        "out/preflight/contact-sheet.html",
        "out/preflight/preflight.json",
    ]
    record = json.loads(
        s3.client.get_object(Bucket=s3.bucket, Key="out/preflight/preflight.json")["Body"].read()
    )
    assert record["sample"]["num_images"] == 40
    assert record["estimate"]["bottleneck"] in ("fetch", "decode", "model")


def test_a_known_model_is_measured_and_its_run_foretold(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 60)
    told: list[Progress] = []
    settings = slow(preflight={"price_per_hour": 2.0})
    found = preflight(
        tmp_path / "photos", tmp_path / "out", 24, config=settings, on_progress=told.append
    )
    assert found.estimate is not None
    assert found.estimate.bottleneck == MODEL
    model = found.estimate.stages[2]
    assert 0.05 <= model.seconds_per_image < 1
    assert 1 < found.estimate.images_per_s <= 20
    assert found.estimate.run_s > 60 / found.estimate.images_per_s  # with the start
    assert found.estimate.cost == pytest.approx(2.0 * found.estimate.run_s / 3600)
    assert found.ends_at is not None
    assert (told[-1].num_done, told[-1].num_total) == (24, 24)
    assert files_of(tmp_path / "out") == [
        "preflight/contact-sheet.html",
        "preflight/preflight.json",
    ]
    page = Page(tmp_path / "out/preflight/contact-sheet.html")
    pictures = list(page.attributes("img"))
    assert len(pictures) == 24
    assert all(str(one["src"]).startswith("data:image/webp;base64,") for one in pictures)
    assert "edges, called" in page.text


def test_more_images_than_there_are_means_all_of_them(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 7)
    found = preflight(tmp_path / "photos", tmp_path / "out", 500, config=config(), limit=3)
    assert (found.num_wanted, found.num_images, found.sample.num_images) == (3, 3, 3)
    page = Page(tmp_path / "out/preflight/contact-sheet.html").text
    assert "000000.jpg" in page
    assert "000003.jpg" not in page


def test_where_every_image_fails_there_is_a_report_and_no_estimate(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(5):
        (tmp_path / f"photos/{number}.jpg").write_bytes(b"not an image")
    found = preflight(tmp_path / "photos", tmp_path / "out", 5, config=config())
    assert (found.estimate, found.ends_at, found.sample.failed_share) == (None, None, 1.0)
    assert "No image reached the model" in Page(tmp_path / found.contact_sheet).text


def test_images_already_captioned_do_not_count_and_another_run_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 20)
    raycap.caption(tmp_path / "photos", tmp_path / "out", config=config())
    nothing_left = preflight(tmp_path / "photos", tmp_path / "out", 8, config=config())
    assert nothing_left.num_pending == 0
    before = {name: (tmp_path / "out" / name).read_bytes() for name in files_of(tmp_path / "out")}
    write_images(tmp_path / "photos", 10, start=20)
    found = preflight(tmp_path / "photos", tmp_path / "out", 8, config=config())
    assert (found.num_images, found.num_pending) == (30, 10)
    changed = {name for name in before if (tmp_path / "out" / name).read_bytes() != before[name]}
    assert all(name.startswith("preflight/") for name in changed)
    other = config(generation={"prompt": "a picture of"})
    with pytest.raises(RunConflict, match=r"generation\.prompt"):
        preflight(tmp_path / "photos", tmp_path / "out", 8, config=other)


def test_a_dataset_that_holds_its_images_is_sampled_and_fetches_do_not_count(
    tmp_path: Path,
) -> None:
    write_images(tmp_path / "photos", 24)
    make_dataset(tmp_path / "dataset", folder_rows(tmp_path / "photos"), PrepareConfig())
    found = preflight(tmp_path / "dataset", tmp_path / "out", 10, config=config())
    assert (found.num_images, found.sample.num_ok) == (24, 10)
    assert found.estimate is not None
    fetch = found.estimate.stages[0]
    assert (fetch.name, fetch.images_per_s) == (FETCH, None)
    assert fetch.seconds_per_image > 0


def test_a_slow_model_is_cut_short_and_what_came_by_then_is_the_sample(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 48)
    settings = slow(preflight={"max_time_s": 0.01})
    found = preflight(tmp_path / "photos", tmp_path / "out", 48, config=settings)
    assert found.num_wanted == 48
    assert 0 < found.sample.num_images < 48
    assert found.estimate is not None
    # The stream that was left does not hold the cluster: the next one has its captioner.
    assert preflight(tmp_path / "photos", tmp_path / "out", 4, config=config()).sample.num_ok == 4


def test_an_interrupted_preflight_writes_nothing(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 24)

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(RunStopped):
        preflight(tmp_path / "photos", tmp_path / "out", 24, config=slow(), on_progress=interrupt)
    assert not (tmp_path / "out").exists()


def test_a_source_without_images_is_told(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(ConfigError, match=f"{tmp_path}/photos"):
        preflight(tmp_path / "photos", tmp_path / "out", 5, config=config())
