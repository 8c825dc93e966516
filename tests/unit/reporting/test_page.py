"""The page: one file without external resources, whose content is never markup."""

import json
import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from raycap import schema
from raycap.config import ReportConfig, StorageConfig
from raycap.errors import ConfigError, DatasetError
from raycap.reporting.report import report
from raycap.storage.stores import open_store
from tests.conftest import S3, MakeJpeg
from tests.support.outputs import failed, row, write_output
from tests.support.report_samples import (
    commit_at,
    pillow_as_it_was,
    scene_captions,
    scene_sample,
    score_row,
    write_captions,
    write_sample,
)
from tests.support.taken_apart import HOSTILE, Page, assert_nothing_is_markup
from tests.support.tiny_dataset import write_dataset

__all__ = ["pillow_as_it_was"]

pytestmark = pytest.mark.usefixtures("pillow_as_it_was")


@pytest.fixture(scope="module")
def evaluation_page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("evaluation")
    sample = scene_sample(folder)
    report([sample.folder], folder / "page.html")
    return Page(folder / "page.html")


def test_an_evaluation_shows_its_headline_figure_scores_and_settings(evaluation_page: Page) -> None:
    text = evaluation_page.text
    assert "blip and tuned against scenes" in text
    assert re.search(r"\N{MINUS SIGN}\d\.\d tokens shorter", text)
    assert "95 % interval:" in text
    assert "METEOR : needs a Java program: pip install 'raycap[java]'" in text
    assert "better than every other system" in text
    for shown in ("40 images", "200 references", "tokenizer raycap-1", "split test", "CIDEr-D"):
        assert shown in text
    for setting in (
        "ids matched by image_id",
        "1,000 resamples of the images, seed 0",
        "pyarrow 26.0.1",
    ):
        assert setting in text
    assert "decode_failed 2" in text
    assert "a.jpg , b.jpg" in text


def test_a_caption_output_shows_its_counts_failures_and_settings(tmp_path: Path) -> None:
    summary = report([scene_captions(tmp_path, 20)], tmp_path / "page.html")
    text = Page(tmp_path / "page.html").text
    assert "holiday, captioned by demo" in text
    for shown in ("images 23", "captioned 20", "failed 3", "13.0 %", "images/s 34.5"):
        assert shown in text
    assert "decode_failed 2" in text
    assert "z-half.jpg JPEG: image file is truncated" in text
    assert "generation.num_beams 3" in text
    assert "model.digest d1d1" in text
    assert (summary.num_examples, summary.num_unreadable) == (23, 3)


def test_a_caption_output_shows_how_fast_its_parts_came(tmp_path: Path) -> None:
    output = write_captions(tmp_path / "o", [row("a.jpg"), row("b.jpg")], [row("c.jpg")])
    commit_at(output, ["2026-11-24T07:00:00+00:00", "2026-11-24T07:10:00+00:00"])
    report([output], tmp_path / "page.html")
    text = Page(tmp_path / "page.html").text
    assert "3 images were captioned within 10.0 minutes" in text


def test_images_that_a_caption_dataset_holds_are_taken_from_there(tmp_path: Path) -> None:
    dataset = write_dataset(str(tmp_path / "set"), "train:2").uri
    rows = [
        row(name, **{schema.URI: f"{dataset}#{name}"})
        for name in ("000000.png", "000001.png", "000009.png")
    ]
    output = write_captions(tmp_path / "o", rows)
    file = tmp_path / "o" / "run.json"
    run = json.loads(file.read_text()) | {"fingerprint": {"source": dataset, "split": None}}
    file.write_text(json.dumps(run))
    report([output], tmp_path / "page.html")
    assert len(re.findall("data:image/", (tmp_path / "page.html").read_text())) == 2
    assert "it is no longer in the dataset" in (tmp_path / "page.html").read_text()


def test_several_paths_become_sections_of_one_page(tmp_path: Path) -> None:
    sample = scene_sample(tmp_path, 4)
    captions = scene_captions(tmp_path / "more", 4)
    summary = report([sample.folder, captions], tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert summary.num_sections == 2
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for attributes in page.attributes("a")]
    assert {str(link).removeprefix("#") for link in links} <= set(ids)


def test_a_page_needs_nothing_from_outside(evaluation_page: Page) -> None:
    for _, attributes in evaluation_page.tags:
        assert not attributes.keys() & {"style", "srcset", "action", "onclick", "onerror"}
        for name in ("src", "href", "xlink:href"):
            assert str(attributes.get(name) or "#").startswith(("#", "data:"))
    styles = [content for tag, content in evaluation_page.raw if tag == "style"]
    assert not re.search(r"url\(|@import", "".join(styles))


def test_the_policy_allows_the_pages_own_style_and_script_and_no_other(
    evaluation_page: Page,
) -> None:
    (policy,) = (
        str(attributes["content"])
        for attributes in evaluation_page.attributes("meta")
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    (style,) = (content for tag, content in evaluation_page.raw if tag == "style")
    own = [content for tag, content in evaluation_page.raw if tag == "script"][-1]
    for name, content in (("style-src", style), ("script-src", own)):
        digest = b64encode(sha256(content.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"


def test_whatever_an_evaluation_holds_stays_text(tmp_path: Path) -> None:
    rows = [score_row(HOSTILE, None, HOSTILE, [HOSTILE, HOSTILE])]
    rows.append(score_row("failed", HOSTILE, None, [HOSTILE]) | {schema.ERROR_CODE: HOSTILE})
    plain = write_sample(tmp_path / "e", [HOSTILE, f"{HOSTILE}2"], [rows, rows])
    first, second = plain.systems
    failed_codes = {HOSTILE: 1}
    systems = [
        replace(first, source=HOSTILE, matched_by=HOSTILE, failed=failed_codes, missing=[HOSTILE]),
        replace(second, model={HOSTILE: HOSTILE}, extra=[HOSTILE], format=HOSTILE),
    ]
    write_sample(
        tmp_path / "e",
        [HOSTILE, f"{HOSTILE}2"],
        [rows, rows],
        systems=systems,
        references=f"/{HOSTILE}",
        tokenizer=HOSTILE,
        splits=[HOSTILE],
        missing_policy=HOSTILE,
        created_at=HOSTILE,
        versions={HOSTILE: HOSTILE},
    )
    report([tmp_path / "e"], tmp_path / "page.html")
    assert_nothing_is_markup(tmp_path / "page.html")


def test_whatever_a_caption_output_holds_stays_text(tmp_path: Path) -> None:
    bad = failed(f"{HOSTILE}2") | {schema.ERROR_CODE: HOSTILE, schema.ERROR_MESSAGE: HOSTILE}
    more = [{schema.CAPTION: HOSTILE, schema.LOGPROB: -1.0}]
    good = row(HOSTILE, HOSTILE, alternatives=more, uri=HOSTILE)
    output = write_captions(
        tmp_path / "o",
        [good, bad],
        source=HOSTILE,
        model={"name": HOSTILE, HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE},
        finished_at=HOSTILE,
        skipped={HOSTILE: 1},
    )
    report([output], tmp_path / "page.html")
    assert_nothing_is_markup(tmp_path / "page.html")


def test_every_picture_has_words_instead(evaluation_page: Page) -> None:
    pictures = list(evaluation_page.attributes("img"))
    assert len(pictures) == 40
    assert all(picture["alt"] for picture in pictures)
    assert all(str(picture["src"]).startswith("data:image/webp;base64,") for picture in pictures)


def test_the_same_inputs_give_the_same_page(tmp_path: Path) -> None:
    sample = scene_sample(tmp_path, 12)
    for name in ("one", "two"):
        report([sample.folder], tmp_path / f"{name}.html", config=ReportConfig(num_examples=8))
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_200_examples_stay_under_10_megabytes(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    names = [f"{number:03}.jpg" for number in range(220)]
    files = [tmp_path / name for name in names[:20]]
    for number, file in enumerate(files):
        make_jpeg(file, size=(640, 480), seed=number)
    uris = [str(file) for file in files * 11]
    words = " ".join(["a long caption of many words"] * 4)
    rows = [
        score_row(name, uri, words, [f"{words} {number}" for number in range(5)])
        for name, uri in zip(names, uris, strict=True)
    ]
    write_sample(tmp_path / "e", ["one", "two"], [rows, rows])
    summary = report([tmp_path / "e"], tmp_path / "page.html")
    assert (summary.num_examples, summary.num_unreadable) == (200, 0)
    assert summary.num_bytes == (tmp_path / "page.html").stat().st_size < 10_000_000


def test_a_gallery_of_no_images_is_a_page_too(tmp_path: Path) -> None:
    sample = scene_sample(tmp_path, 4)
    config = ReportConfig(num_examples=0)
    summary = report(
        [sample.folder, scene_captions(tmp_path / "c", 4)], tmp_path / "p.html", config=config
    )
    assert summary.num_examples == 0
    Page(tmp_path / "p.html")


def test_an_evaluation_without_scores_of_images_has_no_gallery(tmp_path: Path) -> None:
    rows = [score_row("a", None, "a cat", ["a cat on a mat"])]
    plain = write_sample(tmp_path / "e", ["one"], [rows])
    system = plain.systems[0]
    bare = replace(system, scores="")
    write_sample(tmp_path / "e", ["one"], [rows], systems=[bare], num_resamples=0)
    summary = report([tmp_path / "e"], tmp_path / "page.html")
    assert summary.num_examples == 0
    assert "part-1-images" not in (tmp_path / "page.html").read_text()


def test_a_page_is_read_from_and_written_to_buckets(tmp_path: Path, s3: S3) -> None:
    sample = scene_sample(tmp_path, 4)
    store = open_store(f"{s3.uri}/evaluation", StorageConfig())
    for file in sample.folder.rglob("*.*"):
        store.write(str(file.relative_to(sample.folder)), file.read_bytes())
    summary = report([f"{s3.uri}/evaluation"], f"{s3.uri}/pages/page.html")
    assert summary.path == f"{s3.uri}/pages/page.html"
    page = s3.client.get_object(Bucket=s3.bucket, Key="pages/page.html")["Body"].read()
    assert len(page) == summary.num_bytes
    assert page.startswith(b"<!doctype html>")


def test_an_unfinished_output_is_refused(tmp_path: Path) -> None:
    output = write_captions(tmp_path / "o", [row("a.jpg")], [row("b.jpg")])
    (tmp_path / "o/captions/part-000001.parquet").unlink()
    with pytest.raises(DatasetError, match="1 of 2"):
        report([output], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_an_output_without_a_summary_is_refused(tmp_path: Path) -> None:
    output = write_output(open_store(str(tmp_path / "o"), StorageConfig()), [row("a.jpg")])
    with pytest.raises(DatasetError, match=r"summary\.json") as caught:
        report([output], tmp_path / "page.html")
    assert caught.value.uri == str(tmp_path / "o")
    (tmp_path / "o/summary.json").write_text('{"output": 3}')
    with pytest.raises(DatasetError) as caught:
        report([output], tmp_path / "page.html")
    assert caught.value.uri == str(tmp_path / "o/summary.json")


def test_a_folder_that_raycap_did_not_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"evaluation\.json, .*run\.json") as caught:
        report([tmp_path], tmp_path / "page.html")
    assert caught.value.uri == str(tmp_path)


def test_wrong_addresses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        report([], tmp_path / "page.html")
    with pytest.raises(ConfigError, match=rf"{tmp_path}/report.html"):
        report([tmp_path], tmp_path)
    for destination in ("s3://bucket", "https://example.org/report.html"):
        with pytest.raises(ConfigError) as caught:
            report([tmp_path], destination)
        assert caught.value.uri is not None
        assert caught.value.uri in destination
