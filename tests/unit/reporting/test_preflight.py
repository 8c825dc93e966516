"""A preflight on its page and on the terminal."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from raycap.captioning.forecast import Round, RunAhead, Workers, count, estimate
from raycap.config import CaptionConfig, ImageConfig
from raycap.console.caption import preflight_notes, preflight_rows, preflight_sentence
from raycap.preflights.clocks import picture_size, shrink
from raycap.reporting.page import render
from raycap.reporting.preflight import preflight_section
from raycap.results.preflight import MAX_PICTURES, Preflight
from tests.conftest import MakeJpeg
from tests.support.sampled import sampled, table_of
from tests.support.taken_apart import HOSTILE, Page, assert_nothing_is_markup

WARM = [Round(captioner="a", batch_size=4, num_images=4, seconds=seconds) for seconds in (9.0, 0.8)]


def preflight_of(answered: pa.Table, **changes: Any) -> Preflight:
    """Sum rows up as of a source of 72,000 images, half of which stand already."""
    run = RunAhead(
        num_images=36_000,
        workers=Workers(captioners=2, load_tasks=3, cores=4),
        max_batch=4,
        gpus_per_captioner=1.0,
        fetch_threads=10,
        fetches_tell=True,
        price_per_hour=3.0,
        start_s=0.0,
    )
    found = Preflight(
        source="s3://bucket/photos",
        output="s3://bucket/captions",
        contact_sheet="s3://bucket/captions/preflight/contact-sheet.html",
        num_images=72_000,
        num_pending=36_000,
        num_wanted=len(answered),
        sample=count(answered),
        sample_s=12.5,
        estimate=estimate(answered, run),
        ends_at="2026-12-01T10:30:00+00:00",
        price_per_hour=3.0,
        model={"name": "demo", "digest": "d1d1"},
        made_at="2026-12-01T09:30:00+00:00",
    )
    return replace(found, **changes)


def page_of(found: Preflight, answered: pa.Table, path: Path) -> Page:
    path.write_text(render([preflight_section(found, answered, "preflight", CaptionConfig())]))
    return Page(path)


def test_the_page_shows_the_forecast_the_stages_and_the_images(
    make_jpeg: MakeJpeg, tmp_path: Path
) -> None:
    size = 640, 480
    picture = shrink(make_jpeg(size=size), size, ImageConfig())
    shown: dict[str, Any] = {"picture": picture, "width_px": 640, "height_px": 480}
    answered = table_of([sampled("a.jpg", *WARM, **shown), sampled("b.jpg", is_ok=False)])
    page = page_of(preflight_of(answered), answered, tmp_path / "page.html")
    for text in (
        "photos, to be captioned by demo",
        "2 of 72,000 images of s3://bucket/photos, drawn at random",
        "images to caption 36,000",
        "images/s 20.0 on 2 captioners",
        "estimated time 30.0 min ends 1 Dec 2026, 10:30 UTC",
        "GPU-hours 1.00",
        "cost 3.00 at 3 per hour",
        "failed in the sample 50.0 % 1 of 2",
        "fetch 500.0 ms 30 threads 60.0",
        "model 100.0 ms 2 captioners 20.0",
        "The bottleneck is model .",
        "decode_failed 1",
        "decode_failed: broken",
        "a cat on a mat",
    ):
        assert text in page.text, text
    (image,) = page.attributes("img")
    assert (image["width"], image["height"]) == ("288", "216")
    assert image["alt"] == "a cat on a mat"


def test_nothing_of_an_image_is_markup(tmp_path: Path) -> None:
    hostile = sampled(HOSTILE, *WARM, caption=HOSTILE)
    broken = sampled(f"{HOSTILE}2", is_ok=False, error_message=HOSTILE)
    answered = table_of([hostile, broken])
    found = preflight_of(answered, source=HOSTILE, model={"name": HOSTILE})
    page_of(found, answered, tmp_path / "page.html")
    assert_nothing_is_markup(tmp_path / "page.html")


def test_a_page_of_failures_alone_tells_that_there_is_no_estimate(tmp_path: Path) -> None:
    answered = table_of([sampled(f"{n}.jpg", is_ok=False) for n in range(3)])
    found = preflight_of(answered, ends_at=None)
    page = page_of(found, answered, tmp_path / "page.html")
    assert "No image reached the model." in page.text
    assert "Caption lengths" not in page.text
    assert preflight_sentence(found) == (
        "36,000 images: no estimate, as no sampled image reached the model"
    )
    assert len(preflight_notes(found)) == 1


def test_a_large_sample_is_counted_whole_and_shown_in_part(tmp_path: Path) -> None:
    rows = [sampled(f"{n:04d}.jpg", *(WARM if n == 0 else ())) for n in range(MAX_PICTURES + 5)]
    answered = table_of(rows)
    page = page_of(preflight_of(answered), answered, tmp_path / "page.html")
    assert "5 further sampled images" in page.text
    assert f"{MAX_PICTURES - 1:04d}.jpg" in page.text
    assert f"{MAX_PICTURES:04d}.jpg" not in page.text


def test_the_terminal_tells_the_same_in_rows_and_a_sentence() -> None:
    answered = table_of([sampled("a.jpg", *WARM), sampled("b.jpg", is_ok=False)])
    found = preflight_of(answered)
    rows = dict(preflight_rows(found))
    assert rows["sampled"] == "2 of 72,000 images"
    assert rows["failed"] == "1 (50.0 %)"
    assert rows["  decode_failed"] == "1"
    assert rows["model"] == "100.0 ms per image, 2 captioners: 20.0 images/s   <- the bottleneck"
    assert rows["decode"] == "10.0 ms per image, 4 cores: 400.0 images/s"
    assert rows["GPU-hours"] == "1.00"
    assert rows["cost"].startswith("3.00")
    assert preflight_sentence(found) == (
        "36,000 images at 20.0 images/s on 2 captioners: about 30.0 min "
        "(ends about 1 Dec 2026, 10:30 UTC)"
    )
    assert preflight_notes(found) == []
    cut = preflight_of(answered, num_wanted=200)
    (note,) = preflight_notes(cut)
    assert "2 of 200 images" in note
    assert "preflight.max_time_s" in note
    assert "nothing to caption" in preflight_sentence(preflight_of(answered, num_pending=0))


def test_pictures_are_small_upright_and_never_enlarged(make_jpeg: MakeJpeg) -> None:
    assert picture_size(4000, 3000) == (288, 216)
    assert picture_size(20, 10) == (20, 10)
    assert picture_size(100_000, 1) == (288, 1)
    turned = Image.Exif()
    turned[0x0112] = 6
    sink = BytesIO()
    with Image.open(BytesIO(make_jpeg(size=(640, 320)))) as image:
        image.save(sink, "JPEG", exif=turned)
    with Image.open(BytesIO(shrink(sink.getvalue(), (320, 640), ImageConfig()))) as picture:
        assert picture.format == "WEBP"
        assert picture.size == (144, 288)
