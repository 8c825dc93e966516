"""Images under names that nobody should give: captioned under those names, exported beside nothing.

Quotes, newlines, dots that lead upwards, 1,000 characters, upper and lower case, loops of links.
"""

import csv
import gzip
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import raycap
from raycap.captioning.source import open_source
from raycap.captioning.verify import verify
from raycap.config import CaptionConfig, ExportFormat, StorageConfig
from raycap.config.loading import validate_config
from raycap.exporting.export import export
from tests.conftest import S3, MakeJpeg
from tests.fuzz.seeds import encode, fits_in_gzip, scene
from tests.support.outputs import files_under

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]

LONG = "/".join(["n" * 199] * 5) + "/1.jpg"  # a path of 1,005 characters
ON_DISK = [
    "two\nlines.jpg",
    "carriage\rreturn.jpg",
    "tab\tand \x1b[31mcolour.jpg",
    'quote".jpg',
    "it's.jpg",
    "a,b;c.jpg",
    "back\\slash.jpg",
    "C:\\Windows\\x.jpg",
    "😀 写真.jpg",
    "e\u0301.jpg",
    "é.jpg",
    "\u202egpj.exe.jpg",
    "..hidden/..jpg/x.jpg",
    "%2E%2E/%2fx.jpg",
    "$(touch x)`id`.jpg",
    "-rf.jpg",
    " .jpg",
    "Cat.jpg",
    "cat.jpg",
    "CAT.JPG",
    "cat.jpeg",
    "Folder/x.jpg",
    "folder/x.jpg",
    "{0}%s%n.jpg",
    "a#b?c&d=e.jpg",
    "s3:/bucket/x.jpg",
    "n" * 251 + ".jpg",
    LONG,
]
IN_A_BUCKET = [
    "../escape.jpg",
    "../../../etc/cron.d/escape.jpg",
    "a/../../../escape.jpg",
    "./here.jpg",
    "a//b.jpg",
    "a/./b.jpg",
    "/absolute.jpg",
    "//host/share.jpg",
    "Cat.jpg",
    "cat.jpg",
    "😀.jpg",
    "n" * 1_000 + ".jpg",
    "https://host/x.jpg",
]


def settings() -> CaptionConfig:
    return validate_config(CaptionConfig, {"model": {"name": "stub"}, "engine": {"part_size": 8}})


def captions_of(output: Path) -> dict[str, str]:
    """The caption of each image, by its id; none twice."""
    rows: list[dict[str, Any]] = []
    for part in sorted((output / "captions").iterdir()):
        rows += pq.read_table(part).to_pylist()
    assert all(row["status"] == "ok" for row in rows), rows
    assert len({row["image_id"] for row in rows}) == len(rows)
    return {row["image_id"]: row["caption"] for row in rows}


def export_all(output: Path, folder: Path) -> dict[ExportFormat, Path]:
    """Export in every format, each into a folder of its own below the given one."""
    found = {}
    for to in ExportFormat:
        found[to] = folder / to / f"x.{to}"
        export(output, found[to], to=to)
    return found


def assert_exports_hold(captions: dict[str, str], exports: dict[ExportFormat, Path]) -> None:
    """Every export has every image under its own name, with its own caption."""
    with exports[ExportFormat.CSV].open(encoding="utf-8", newline="") as file:
        found = {row["image_id"]: row["caption"] for row in csv.DictReader(file)}
    run_by_spreadsheets = ("=", "+", "-", "@", "\t", "\r")
    assert found == {
        f"'{name}" if name.startswith(run_by_spreadsheets) else name: caption
        for name, caption in captions.items()
    }
    lines = exports[ExportFormat.JSONL].read_text(encoding="utf-8").split("\n")[:-1]
    rows = [json.loads(line) for line in lines]
    assert {row["image_id"]: row["caption"] for row in rows} == captions
    table = pq.read_table(exports[ExportFormat.PARQUET])
    assert dict(zip(table["image_id"].to_pylist(), table["caption"].to_pylist(), strict=True)) == (
        captions
    )
    coco = json.loads(exports[ExportFormat.COCO].read_text(encoding="utf-8"))
    assert {image["file_name"] for image in coco["images"]} == captions.keys()
    sidecars = files_under(exports[ExportFormat.SIDECAR])
    assert sorted(sidecars.values()) == sorted(f"{caption}\n" for caption in captions.values())
    metadata = (exports[ExportFormat.METADATA] / "metadata.jsonl").read_text(encoding="utf-8")
    named = [json.loads(line) for line in metadata.split("\n")[:-1]]
    assert sorted(item["text"] for item in named) == sorted(captions.values())
    assert len({item["file_name"] for item in named}) == len(captions)
    assert not any(".." in item["file_name"].split("/") for item in named)
    assert len(files_of(exports[ExportFormat.XMP])) == len(captions)
    names = [name for tar in exports[ExportFormat.WEBDATASET].iterdir() for name in members(tar)]
    assert len(names) == 3 * len(captions)
    assert all(set(name) <= set("0123456789_.abcdefghijklmnopqrstuvwxyz") for name in names)


def members(tar: Path) -> list[str]:
    with tarfile.open(tar) as opened:
        return opened.getnames()


def test_files_of_any_name_are_captioned_and_exported_under_it(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    photos, output, exported = tmp_path / "photos", tmp_path / "out", tmp_path / "exported"
    for seed, name in enumerate(ON_DISK):
        make_jpeg(photos / name, seed=seed)
    summary = raycap.caption(photos, output, config=settings())
    assert summary.num_ok == len(ON_DISK)
    captions = captions_of(output)
    assert captions.keys() == set(ON_DISK)
    assert verify(output).is_complete
    before = set(files_of(tmp_path)) - set(files_of(output))
    assert_exports_hold(captions, export_all(output, exported))
    written = set(files_of(tmp_path)) - before - set(files_of(output))
    assert all(exported in file.parents for file in written)
    assert raycap.caption(photos, output, config=settings()).num_captioned == 0


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_sidecars_of_names_that_differ_by_case_keep_their_captions(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    for seed, name in enumerate(["Cat.jpg", "cat.jpg", "cat.png", "x/CAT.jpg", "X/cat.jpg"]):
        make_jpeg(photos / name, seed=seed)
    raycap.caption(photos, output, config=settings())
    captions = captions_of(output)
    export(output, photos, to=ExportFormat.SIDECAR)  # beside the images
    assert (photos / "Cat.txt").read_text() == captions["Cat.jpg"] + "\n"
    assert (photos / "cat.jpg.txt").read_text() == captions["cat.jpg"] + "\n"
    assert (photos / "cat.png.txt").read_text() == captions["cat.png"] + "\n"
    assert (photos / "x/CAT.txt").read_text() == captions["x/CAT.jpg"] + "\n"
    assert (photos / "X/cat.txt").read_text() == captions["X/cat.jpg"] + "\n"


def test_keys_of_a_bucket_that_would_lead_out_of_a_folder_do_not(
    s3: S3, tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    for seed, key in enumerate(IN_A_BUCKET):
        s3.put(f"photos/{key}", make_jpeg(seed=seed))
    listed = s3.client.list_objects_v2(Bucket=s3.bucket, Prefix="photos/")["Contents"]
    keys = {item["Key"].removeprefix("photos/") for item in listed}
    output = tmp_path / "inner" / "out"
    raycap.caption(f"{s3.uri}/photos", output, config=settings())
    captions = captions_of(output)
    assert captions.keys() == keys
    assert_exports_hold(captions, export_all(output, tmp_path / "inner" / "exported"))
    assert {path.name for path in tmp_path.iterdir()} <= {"inner", "no-aws-config"}
    assert {path.name for path in (tmp_path / "inner").iterdir()} == {"out", "exported"}


def test_ids_of_a_list_that_would_lead_out_of_a_folder_do_not(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    image = tmp_path / "inner" / "image.jpg"
    make_jpeg(image)
    ids = [*IN_A_BUCKET, *ON_DISK, "..", ".", "/", "nul\0.jpg", "x" * 5_000]
    rows = [{"image_id": name, "uri": "image.jpg"} for name in dict.fromkeys(ids)]
    lists = [tmp_path / "inner" / name for name in ("list.jsonl", "list.csv")]
    for listed in lists:
        write_list(listed, rows)
        found = [
            t["image_id"].to_pylist() for t in open_source(str(listed), StorageConfig()).tables
        ]
        assert {name for names in found for name in names} == {row["image_id"] for row in rows}
    output = tmp_path / "inner" / "out"
    raycap.caption(lists[1], output, config=settings())
    captions = captions_of(output)
    assert captions.keys() == {row["image_id"] for row in rows}
    assert_exports_hold(captions, export_all(output, tmp_path / "inner" / "exported"))
    assert {path.name for path in tmp_path.iterdir()} == {"inner"}


def write_list(file: Path, rows: list[dict[str, str]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as opened:
        if file.suffix == ".csv":
            writer = csv.DictWriter(opened, ["image_id", "uri"])
            writer.writeheader()
            writer.writerows(rows)
        else:
            opened.writelines(json.dumps(row) + "\n" for row in rows)


LINKS = {
    "to itself": {"self.jpg": "self.jpg"},
    "to one another": {"one.jpg": "two.jpg", "two.jpg": "one.jpg"},
    "of a folder to the one above": {"a/up": ".."},
    "of folders to one another": {"a/to-b": "../b", "b/to-a": "../a"},
    "of a folder to itself": {"a/dot": "."},
    "of 45 steps": {f"{step}.jpg": f"{step + 1}.jpg" for step in range(45)},
}


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("pattern", ["", "/**/*.jpg"])
def test_loops_of_links_end_and_are_no_images(
    tmp_path: Path, make_jpeg: MakeJpeg, name: str, pattern: str
) -> None:
    photos = tmp_path / "photos"
    make_jpeg(photos / "a" / "image.jpg")
    (photos / "b").mkdir()
    for link, target in LINKS[name].items():
        (photos / link).symlink_to(target)
    tables = open_source(f"{photos}{pattern}", StorageConfig()).tables
    found = {uri for table in tables for uri in table["uri"].to_pylist()}
    assert f"{photos}/a/image.jpg" in found
    assert len(found) < 100
    assert {Path(uri).resolve() for uri in found} == {(photos / "a/image.jpg").resolve()}


def test_a_file_that_became_a_loop_after_it_was_listed_is_not_found(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    make_jpeg(photos / "sound.jpg")
    (photos / "loop.jpg").symlink_to("loop.jpg")
    listed = tmp_path / "list.txt"
    listed.write_text(f"{photos}/sound.jpg\n{photos}/loop.jpg\n{photos}/{'n' * 1_000}.jpg\n")
    summary = raycap.caption(listed, output, config=settings())
    assert (summary.num_ok, summary.failed) == (1, {"not_found": 2})
    assert os.path.islink(photos / "loop.jpg")


def test_odd_files_among_photos_are_rows_and_the_run_goes_on(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    sound = make_jpeg(photos / "sound.jpg")
    no_pair = encode(scene(), "IM").replace(b"(x*y): 24*20\r\n", b"(x*y): 9*9*9\r\n")
    (photos / "size.im").write_bytes(no_pair)
    (photos / "bomb.fits").write_bytes(fits_in_gzip(13_000, 13_000, gzip.compress(bytes(9_000))))
    (photos / "page.jpg").write_bytes(b"<!DOCTYPE html><p>404</p>")
    (photos / "empty.png").write_bytes(b"")
    (photos / "photo-and-archive.jpg").write_bytes(sound + b"PK\3\4" + bytes(99))
    (photos / "gif-in-name.gif").write_bytes(sound)
    (photos / "script.jpg").write_bytes(encode(scene(), "EPS"))
    summary = raycap.caption(photos, output, config=settings())
    assert summary.num_ok == 3
    assert summary.failed == {
        "decode_failed": 1,
        "too_large": 1,
        "unsupported_format": 2,
        "empty": 1,
    }
