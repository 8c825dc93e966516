"""Caption datasets on the page, and as where an evaluation's images come from."""

from pathlib import Path

import pytest

from raycap import schema
from raycap.config import ReportConfig
from raycap.errors import DatasetError
from raycap.reporting.report import report
from raycap.results.dataset import Leakage
from tests.support.dataset_samples import dataset_row, rejected_row, scene_dataset, write_dataset
from tests.support.report_samples import pillow_as_it_was, score_row, write_sample
from tests.support.taken_apart import HOSTILE, Page, assert_nothing_is_markup

__all__ = ["pillow_as_it_was"]

pytestmark = pytest.mark.usefixtures("pillow_as_it_was")


def test_a_dataset_shows_its_splits_and_what_was_left_out(tmp_path: Path) -> None:
    report([scene_dataset(tmp_path)], tmp_path / "page.html")
    text = Page(tmp_path / "page.html").text
    for shown in ("images 40", "captions 200", "train 32 160", "test 4 20", "validation 4 20"):
        assert shown in text
    assert "x-half.jpg JPEG: image file is truncated" in text
    assert "no_caption 1" in text
    assert "y.jpg ..." in text
    assert "2 in 1 groups, 1 moved" in text
    assert "The splits leak" not in text


def test_leaking_splits_are_told(tmp_path: Path) -> None:
    rows = [dataset_row("a.jpg", "test", ["a cat"]), dataset_row("b.jpg", "train", ["a cat"])]
    leakage = Leakage(num_groups=1, num_images=2, examples=[{"test": "a.jpg", "train": "b.jpg"}])
    write_dataset(tmp_path / "d", rows, [], embedded=False, leakage=leakage)
    report([tmp_path / "d"], tmp_path / "page.html")
    assert "The splits leak. 2 images, in 1 groups" in Page(tmp_path / "page.html").text


@pytest.mark.parametrize("embedded", [True, False])
def test_images_are_shown_whether_the_dataset_holds_or_names_them(
    tmp_path: Path, embedded: bool
) -> None:
    summary = report([scene_dataset(tmp_path, embedded=embedded)], tmp_path / "page.html")
    assert (summary.num_examples, summary.num_unreadable) == (40, 0)


def test_small_splits_are_shown_as_well_as_large_ones(tmp_path: Path) -> None:
    rows = [
        dataset_row(f"{number:04}", "test" if number < 5 else "train", ["a cat"])
        for number in range(500)
    ]
    write_dataset(tmp_path / "d", rows, [], embedded=False)
    config = ReportConfig(num_examples=20)
    report([tmp_path / "d"], tmp_path / "page.html", config=config)
    page = Page(tmp_path / "page.html")
    assert page.text.count("split test") == 5
    assert page.text.count("split train") == 15


def test_an_evaluation_shows_the_images_that_its_dataset_holds(tmp_path: Path) -> None:
    dataset = scene_dataset(tmp_path, 12)
    names = [f"scene-{n:06}.{'png' if n % 5 == 4 else 'jpg'}" for n in range(12)]
    rows = [score_row(name, f"/gone/{name}", "a cat", ["a cat on a mat"]) for name in names]
    write_sample(tmp_path / "e", ["one"], [rows], references=dataset)
    summary = report([tmp_path / "e"], tmp_path / "page.html")
    assert (summary.num_examples, summary.num_unreadable) == (12, 0)
    (tmp_path / "dataset/dataset.json").unlink()
    summary = report([tmp_path / "e"], tmp_path / "page.html")
    assert (summary.num_examples, summary.num_unreadable) == (12, 12)
    assert "/gone/scene-000000.jpg: no such file" in Page(tmp_path / "page.html").text


def test_an_unfinished_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d/_work").mkdir(parents=True)
    (tmp_path / "d/_work/plan.json").write_text("{}")
    with pytest.raises(DatasetError, match="raycap prepare") as caught:
        report([tmp_path / "d"], tmp_path / "page.html")
    assert caught.value.uri == str(tmp_path / "d")


def test_whatever_a_dataset_holds_stays_text(tmp_path: Path) -> None:
    rows = [dataset_row(HOSTILE, "train", [HOSTILE, HOSTILE], **{schema.URI: HOSTILE})]
    rejected = [
        rejected_row(HOSTILE, HOSTILE, message=HOSTILE),
        rejected_row(HOSTILE, HOSTILE, caption=HOSTILE),
    ]
    write_dataset(
        tmp_path / "d",
        rows,
        rejected,
        embedded=False,
        source=HOSTILE,
        tokenizer=HOSTILE,
        leakage=Leakage(num_groups=1, num_images=1, examples=[{HOSTILE: HOSTILE}]),
        megapixels={HOSTILE: 1},
        versions={HOSTILE: HOSTILE},
    )
    report([tmp_path / "d"], tmp_path / "page.html")
    assert_nothing_is_markup(tmp_path / "page.html")
