"""Rows of a captioning run's summary: what was left out, and what a list repeats."""

from dataclasses import replace

import pytest

from raycap.results.captioning import Forecast, Summary
from raycap.results.shown.captioning import forecast_rows, summary_rows


def summary_of(num_images: int, skipped: dict[str, int], repeated: list[str]) -> Summary:
    return Summary(
        output="out",
        source="photos",
        num_images=num_images,
        num_ok=num_images,
        num_failed=0,
        skipped=skipped,
        repeated=repeated,
        mean_words=8.0,
        num_bytes=1,
        num_captioned=num_images,
        wall_s=1.0,
        images_per_s=1.0,
    )


def rows_of(num_images: int, skipped: dict[str, int], repeated: list[str]) -> list[tuple[str, str]]:
    return summary_rows(summary_of(num_images, skipped, repeated))


@pytest.mark.parametrize(("num_svg", "is_told"), [(19, False), (20, True), (80, True)])
def test_pictures_that_are_not_read_are_told_first_if_they_are_a_fifth(
    num_svg: int, is_told: bool
) -> None:
    rows = rows_of(100 - num_svg, {".svg": num_svg, ".txt": 500}, [])
    assert (rows[1][0] == "NOT READ") == is_told
    assert [value for name, value in rows if name == "not images"] == [f"{num_svg} .svg, 500 .txt"]
    ahead = forecast_rows(
        Forecast(
            num_images=100 - num_svg,
            num_bytes=0,
            num_parts=1,
            num_parts_done=0,
            num_images_done=0,
            num_pending=1,
            skipped={".svg": num_svg},
        )
    )
    assert (ahead[1][0] == "NOT READ") == is_told


def test_images_that_a_list_repeats_are_named_and_are_no_other_files() -> None:
    rows = dict(rows_of(9, {"duplicate": 7}, ["a.jpg", "b.jpg"]))
    assert rows["listed again"] == "7: a.jpg, b.jpg, ..."
    assert "not images" not in rows
    assert "listed again" not in dict(rows_of(9, {"duplicate": 0}, []))


def test_a_source_without_any_image_has_a_row() -> None:
    summary = summary_of(9, {}, [])
    assert "source" not in dict(summary_rows(summary))
    assert dict(summary_rows(replace(summary, is_source_empty=True)))["source"]
