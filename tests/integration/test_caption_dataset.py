"""Captioning what `prepare` wrote: splits, images held or named, resume, damage, buckets."""

import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raycap
from raycap import schema
from raycap.captioning.parts import encode_captions
from raycap.captioning.run import forecast
from raycap.captioning.source import held_files, open_source
from raycap.captioning.verify import verify
from raycap.config import CaptionConfig, ExportFormat, PrepareConfig, ReportConfig, StorageConfig
from raycap.config.loading import validate_config
from raycap.datasets.dataset import CaptionDataset, open_dataset
from raycap.errors import (
    ConfigError,
    DatasetError,
    ErrorCode,
    ImageError,
    RunConflict,
    RunStopped,
    TransientError,
)
from raycap.evaluation.evaluate import evaluate
from raycap.exporting.export import export
from raycap.progress import Progress
from raycap.reporting.pictures import reference_pictures
from raycap.results.dataset import DATASET, INDEX, PLAN
from raycap.storage.local import LocalStore
from tests.conftest import S3, RequestLog
from tests.support.caption_sets import folder_rows, make_dataset, picture
from tests.support.dataset_samples import dataset_row, write_dataset

pytestmark = pytest.mark.slow

NUM_IMAGES = 36
STORAGE = StorageConfig(num_retries=0)


def config(**sections: Any) -> CaptionConfig:
    sections.setdefault("model", {"name": "stub"})
    sections.setdefault("storage", {"timeout_s": 5, "num_retries": 1})
    return validate_config(CaptionConfig, sections)


def of_test(**sections: Any) -> CaptionConfig:
    return config(source={"split": "test"}, **sections)


def prepared(folder: Path, output: Path, **sections: Any) -> str:
    """Make a dataset of a folder, in parts of 16 images and row groups of a few."""
    sections.setdefault("engine", {"part_size": 16})
    sections.setdefault("split", {"validation": 0.25, "test": 0.25})
    make_dataset(output, folder_rows(folder), validate_config(PrepareConfig, sections))
    return str(output)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "photos"
    for number in range(NUM_IMAGES):
        picture(folder / f"{number % 3}" / f"{number:03d}.jpg", seed=number)
    return folder


@pytest.fixture(scope="module")
def embedded(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return prepared(photos, tmp_path_factory.mktemp("embedded") / "dataset")


def rows_of(output: Path) -> list[dict[str, Any]]:
    """All rows of an output, in part order."""
    rows: list[dict[str, Any]] = []
    for part in sorted((output / "captions").iterdir()):
        rows += pq.read_table(part).to_pylist()
    return rows


def without(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in names} for row in rows]


def ids_of(dataset: str, *splits: str) -> list[str]:
    tables = open_dataset(dataset, STORAGE).references(splits or None)
    return sorted(name for table in tables for name in table[schema.IMAGE_ID].to_pylist())


@pytest.fixture(scope="module")
def captioned(ray_session: None, embedded: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Caption the whole dataset; no test writes to this output."""
    del ray_session
    output = tmp_path_factory.mktemp("captioned") / "out"
    raycap.caption(embedded, output, config=config(engine={"part_size": 6, "batch_size": 3}))
    return output


@pytest.mark.usefixtures("ray_session")
def test_a_dataset_gives_the_captions_that_its_files_give(
    photos: Path, embedded: str, captioned: Path, tmp_path: Path
) -> None:
    referenced = prepared(photos, tmp_path / "referenced", embed={"enabled": False})
    settings = config(engine={"part_size": 20})
    for source in (str(photos), referenced):
        summary = raycap.caption(source, tmp_path / f"of-{Path(source).name}", config=settings)
        assert (summary.num_images, summary.num_ok) == (NUM_IMAGES, NUM_IMAGES)
        assert summary.source == source
    by_file, named, held = map(
        rows_of, (tmp_path / "of-photos", tmp_path / "of-referenced", captioned)
    )
    assert verify(captioned).is_complete
    assert len({row["caption"] for row in by_file}) > NUM_IMAGES // 2
    assert without(held, "uri", "etag") == without(by_file, "uri", "etag")
    assert without(named, "etag") == without(by_file, "etag")
    assert [row["uri"] for row in held] == [f"{embedded}#{row['image_id']}" for row in held]
    digests = pa.concat_tables(open_dataset(embedded, STORAGE).pages()).sort_by(schema.IMAGE_ID)
    assert [row["etag"] for row in held] == digests[schema.DIGEST].to_pylist()

    # Referenced images are compared with the digests of the dataset when they are read again.
    output, replaced = tmp_path / "of-referenced", Path(named[3]["uri"])
    everything = export(output, tmp_path / "tars", to=ExportFormat.WEBDATASET)
    assert (everything.num_exported, everything.num_unreadable) == (NUM_IMAGES, 0)
    before = replaced.read_bytes()
    replaced.write_bytes(Path(named[4]["uri"]).read_bytes())
    try:
        rest = export(output, tmp_path / "fewer", to=ExportFormat.WEBDATASET)
        wanted = [(row["image_id"], row["uri"]) for row in named[3:5]]
        pictures = reference_pictures(referenced, wanted, ReportConfig())
    finally:
        replaced.write_bytes(before)
    assert (rest.num_exported, rest.num_unreadable) == (NUM_IMAGES - 1, 1)
    assert [picture.data == "" for picture in pictures] == [True, False]


@pytest.mark.usefixtures("ray_session")
def test_one_split_is_captioned_evaluated_and_exported_and_another_is_refused(
    embedded: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    num_images = len(ids_of(embedded, "test"))
    assert forecast(embedded, output, config=of_test()).num_images == num_images
    raycap.caption(embedded, output, config=of_test(engine={"part_size": 4}))
    rows = rows_of(output)
    assert [row["image_id"] for row in rows] == ids_of(embedded, "test")
    evaluation = evaluate([output], embedded, split="test", output=tmp_path / "scores")
    (system,) = evaluation.systems
    assert system.matched_by == "image_id"
    assert (system.num_missing, evaluation.num_images) == (0, len(rows))
    wanted = [(row["image_id"], row["uri"]) for row in rows]
    pictures = reference_pictures(evaluation.references, wanted, ReportConfig())
    assert all(found.data for found in pictures)
    counts = export(output, tmp_path / "tars", to=ExportFormat.WEBDATASET)
    assert (counts.num_exported, counts.num_unreadable) == (len(rows), 0)
    with pytest.raises(RunConflict, match=r"\+ split = 'validation'"):
        raycap.caption(embedded, output, config=config(source={"split": "val"}))
    with pytest.raises(RunConflict, match=r"\+ split = None"):
        raycap.caption(embedded, output, config=config())


@pytest.mark.usefixtures("ray_session")
def test_an_interrupted_run_continues_and_retries_what_failed_for_a_passing_reason(
    embedded: str, captioned: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    settings = config(engine={"part_size": 6, "batch_size": 3})

    def interrupt(progress: Progress) -> None:
        if progress.num_done >= 12:
            raise KeyboardInterrupt

    with pytest.raises(RunStopped):
        raycap.caption(embedded, output, config=settings, on_progress=interrupt)
    assert not (output / "summary.json").exists()
    committed = min((output / "captions").glob("part-*.parquet"))  # not always the first part
    rows = pq.read_table(committed).to_pylist()
    rows[3] |= {"status": "failed", "error_code": "timeout", "caption": None, "num_words": None}
    table = pa.Table.from_pylist(rows, schema=schema.CAPTIONS)
    committed.write_bytes(encode_captions(table, 1, 0)[0])
    num_left = verify(output).num_pending
    assert 0 < num_left < NUM_IMAGES
    summary = raycap.caption(embedded, output, config=settings, retry_failed=True)
    assert (summary.num_captioned, summary.num_failed) == (num_left + 1, 0)
    assert without(rows_of(output), "attempts") == without(rows_of(captioned), "attempts")
    assert verify(output).is_complete


def test_an_image_that_changed_in_the_dataset_alone_has_another_version(
    photos: Path, tmp_path: Path
) -> None:
    """And an image of another version is captioned again, as of test_caption.py."""
    folder = tmp_path / "photos"
    shutil.copytree(photos / "0", folder)

    def versions() -> dict[str, str]:
        dataset = prepared(folder, tmp_path / "dataset")
        table = pa.concat_tables(open_source(dataset, STORAGE).tables)
        ids, etags = (table[name].to_pylist() for name in (schema.IMAGE_ID, schema.ETAG))
        return dict(zip(ids, etags, strict=True))

    before = versions()
    picture(folder / "003.jpg", seed=999, size=(50, 40))
    shutil.rmtree(tmp_path / "dataset")
    after = versions()
    assert {name for name in after if after[name] != before[name]} == {"003.jpg"}


@pytest.mark.usefixtures("ray_session")
def test_a_damaged_embedded_image_is_a_failed_row(photos: Path, tmp_path: Path) -> None:
    whole = (photos / "0/000.jpg").read_bytes()
    files = {"a.jpg": whole, "cut.jpg": whole[: len(whole) // 2], "empty.jpg": b""}
    rows = [
        dataset_row(name, "test", ["a picture"], **{schema.BYTES: data})
        for name, data in files.items()
    ]
    dataset = write_dataset(tmp_path / "dataset", rows, [], embedded=True)
    raycap.caption(dataset, tmp_path / "out", config=config())
    codes = {row["image_id"]: row["error_code"] for row in rows_of(tmp_path / "out")}
    assert codes == {"a.jpg": None, "cut.jpg": "decode_failed", "empty.jpg": "empty"}
    assert verify(tmp_path / "out").is_complete


@pytest.mark.usefixtures("ray_session")
def test_a_damaged_part_stops_the_run_and_is_named(photos: Path, tmp_path: Path) -> None:
    dataset = prepared(photos, tmp_path / "dataset")
    key = open_dataset(dataset, STORAGE).parts("test")[0]
    part = Path(dataset) / key
    part.write_bytes(part.read_bytes().replace(b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe1"))
    with pytest.raises(DatasetError, match=f"{key}: "):
        raycap.caption(dataset, tmp_path / "out", config=of_test())
    assert not (tmp_path / "out" / "summary.json").exists()


@pytest.mark.usefixtures("ray_session")
def test_a_dataset_in_a_bucket_is_captioned_without_listing_it(
    s3: S3, s3_log: RequestLog, embedded: str
) -> None:
    for path in Path(embedded).rglob("*.*"):
        s3.put(f"dataset/{path.relative_to(embedded).as_posix()}", path.read_bytes())
    before = len(s3_log.file.read_text(errors="replace"))
    settings = of_test(engine={"part_size": 4})
    raycap.caption(f"{s3.uri}/dataset", f"{s3.uri}/out", config=settings)
    asked = [
        line
        for line in s3_log.file.read_text(errors="replace")[before:].splitlines()
        if "GET" in line and "out" not in line
    ]
    assert not [line for line in asked if "list-type" in line]
    assert not [line for line in asked if "/part-" in line and " 206 " not in line]
    rows: list[dict[str, Any]] = []
    for item in s3.client.list_objects_v2(Bucket=s3.bucket, Prefix="out/captions/")["Contents"]:
        body = s3.client.get_object(Bucket=s3.bucket, Key=item["Key"])["Body"].read()
        rows += pq.read_table(BytesIO(body)).to_pylist()
    assert [row["image_id"] for row in rows] == ids_of(embedded, "test")
    assert {row["status"] for row in rows} == {"ok"}
    assert rows[0]["uri"] == f"{s3.uri}/dataset#{rows[0]['image_id']}"


def test_a_split_that_means_nothing_is_told_in_one_line(
    photos: Path, embedded: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=r"'other'.* train, validation, test"):
        open_source(embedded, STORAGE, "other")
    (tmp_path / "list.txt").write_text("a.jpg\n")
    for source in (photos, photos / "0/000.jpg", f"{photos}/*", tmp_path / "list.txt"):
        with pytest.raises(ConfigError, match=r"source\.split=test"):
            open_source(str(source), STORAGE, "test")


def test_what_only_looks_like_a_dataset_is_a_folder(
    photos: Path, embedded: str, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos / "1", folder)
    (folder / DATASET).write_text('{"images": []}')
    listing = open_source(str(folder), STORAGE)
    assert sum(map(len, listing.tables)) == len(list((photos / "1").iterdir()))
    assert listing.identity == {"source": str(folder)}
    (folder / INDEX).write_bytes((Path(embedded) / INDEX).read_bytes())
    with pytest.raises(DatasetError, match=r"dataset\.json: "):
        open_source(str(folder), STORAGE)


def test_an_unfinished_dataset_is_told(photos: Path, tmp_path: Path) -> None:
    dataset = Path(prepared(photos, tmp_path / "dataset"))
    (dataset / DATASET).unlink()
    LocalStore(dataset).write(PLAN, b"{}")
    with pytest.raises(DatasetError, match="raycap prepare"):
        list(open_source(str(dataset), STORAGE).tables)


def test_a_shrunk_image_has_another_version_than_its_file(photos: Path, tmp_path: Path) -> None:
    versions = set()
    for side_px in (None, 16, 24):
        dataset = prepared(photos, tmp_path / f"{side_px}", embed={"max_side_px": side_px})
        table = pa.concat_tables(open_source(dataset, STORAGE).tables)
        assert table[schema.SIZE_BYTES].null_count == NUM_IMAGES
        versions.add(table[schema.ETAG][0].as_py())
    assert len(versions) == 3


class _Flaky(LocalStore):
    """A dataset of which the last part of every split cannot be reached."""

    def read_range(self, key: str, offset_bytes: int, num_bytes: int) -> bytes:
        if "part-000002" in key:
            raise TransientError(ErrorCode.TIMEOUT, "too slow")
        return super().read_range(key, offset_bytes, num_bytes)


def test_images_that_cannot_be_reached_or_have_gone_are_rows_with_a_code(embedded: str) -> None:
    whole = open_dataset(embedded, STORAGE)
    flaky = CaptionDataset(
        store=_Flaky(Path(embedded)), config=STORAGE, record=whole.record, index=whole.index
    )
    ids = [*ids_of(embedded), "gone.jpg"]

    def codes(dataset: CaptionDataset) -> Iterator[str]:
        for _, file in held_files([{schema.IMAGE_ID: name} for name in ids], dataset):
            yield str(file.code) if isinstance(file, ImageError) else "ok"

    assert list(codes(whole)) == ["ok"] * NUM_IMAGES + ["not_found"]
    found = list(codes(flaky))
    num_read = found.count("ok")
    assert 16 <= num_read <= 32  # some were read ahead when it failed
    assert found == ["ok"] * num_read + ["timeout"] * (NUM_IMAGES + 1 - num_read)
