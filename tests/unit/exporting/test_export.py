"""Export to one file: each format read back by what reads it."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO  # type: ignore[import-untyped]

from raycap import schema
from raycap.captioning.parts import (
    CAPTIONS,
    MANIFEST,
    encode_manifest,
    manifest_footer,
    read_manifest_part,
    read_part,
)
from raycap.config import ExportFormat, StorageConfig
from raycap.edits.records import Edit, EditAction
from raycap.edits.writing import EditWriter
from raycap.errors import ConfigError
from raycap.exporting import formats
from raycap.exporting.export import export
from raycap.exporting.values import quoted, unquoted
from raycap.storage.parts import part_key
from raycap.storage.stores import open_store
from tests.support import outputs
from tests.support.outputs import AWKWARD, failed, row

# The fixtures of tests/outputs.py, which pytest looks for under these names.
output = outputs.output
two_parts = outputs.two_parts


def rows_of(uri: str) -> list[dict[str, Any]]:
    store = open_store(uri, StorageConfig())
    parts = [read_part(store, CAPTIONS, number) for number in (0, 1)]
    rows: list[dict[str, Any]] = pa.concat_tables(parts).to_pylist()
    return rows


def test_json_lines_hold_every_column_of_every_row_in_order(two_parts: str, tmp_path: Path) -> None:
    file = tmp_path / "captions.jsonl"
    counts = export(two_parts, file, to=ExportFormat.JSONL)
    assert (counts.num_exported, counts.num_failed_skipped, counts.num_files) == (4, 0, 1)
    text = file.read_text(encoding="utf-8")
    assert "ünïcode" in text
    read = [json.loads(line) for line in text.split("\n")[:-1]]
    assert [item[schema.LOGPROB] for item in read] == [-0.3, None, -0.3, -0.3]
    assert read[2][schema.ALTERNATIVES] == [{"caption": "one\tmore", "logprob": -0.7}]
    assert pa.Table.from_pylist(read, schema=schema.CAPTIONS).to_pylist() == rows_of(two_parts)


def test_notes_count_exported_captions_that_are_rejected_or_stale(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row("a"), row("b")], [row("c")])

    def notes(**options: Any) -> list[str]:
        file = tmp_path / "x.csv"
        counts = export(uri, file, to=ExportFormat.CSV, existing="overwrite", **options)
        return [note.partition(":")[0] for note in counts.notes]

    assert notes() == []
    old = row("a")["caption"]
    writer = EditWriter(open_store(uri, StorageConfig()), by="ann")
    reject = {"action": EditAction.REJECT, "old": old, "etag": row("a")["etag"]}
    writer.save([Edit(image_id=name, **reject) for name in "ac"])
    assert notes() == ["rejected"]
    assert "2 of" in export(uri, tmp_path / "y.csv", to=ExportFormat.CSV).notes[0]
    assert notes(where="review is distinct from 'rejected'") == []
    assert notes(edits="ignore") == notes(edits="only") == []
    text = Edit(image_id="b", action=EditAction.TEXT, old=old, new="a dog", etag="another")
    writer.save([text])
    assert notes() == ["rejected", "stale"]
    assert notes(columns=["caption"], where="image_id = 'b'") == ["stale"]


def test_json_lines_stay_json_where_a_model_gave_no_number(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row("a.jpg", logprob=float("nan")), row("b.jpg", logprob=-float("inf"))])
    export(uri, tmp_path / "x.jsonl", to=ExportFormat.JSONL)
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail)["logprob"] for line in lines] == [None] * 2


def test_csv_survives_quotes_commas_and_newlines(two_parts: str, tmp_path: Path) -> None:
    file = tmp_path / "captions.csv"
    assert export(two_parts, file, to=ExportFormat.CSV).num_exported == 4
    with file.open(encoding="utf-8", newline="") as opened:
        read = list(csv.DictReader(opened))
    assert list(read[0]) == schema.CAPTIONS.names
    assert [item["caption"] for item in read] == ["a cat on a mat", "", AWKWARD, ""]
    assert [item["status"] for item in read] == ["ok", "failed", "ok", "ok"]
    assert [item["width_px"] for item in read] == ["64", "", "64", "64"]
    assert read[0]["logprob"] == "-0.3"
    assert json.loads(read[2]["alternatives"]) == [{"caption": "one\tmore", "logprob": -0.7}]
    assert file.read_bytes().startswith(b"image_id,uri,etag,")
    assert b"digest\r\n" in file.read_bytes()


@given(st.text())
def test_every_text_comes_back_from_a_csv_export(text: str) -> None:
    assert unquoted(quoted(text)) == text
    assert unquoted(text) == text or text.startswith("'")


@pytest.mark.parametrize("start", ["'=1", "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_csv_holds_no_cell_that_a_spreadsheet_would_run(
    output: Callable[..., str], tmp_path: Path, start: str
) -> None:
    uri = output([row(f"{start}.jpg", caption=f"{start} a cat")])
    export(uri, tmp_path / "x.csv", to=ExportFormat.CSV)
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as opened:
        (read,) = csv.DictReader(opened)
    assert (read["image_id"], read["caption"]) == (f"'{start}.jpg", f"'{start} a cat")
    assert float(read["logprob"]) < 0, "a number is no text"


def test_parquet_is_one_file_with_the_schema_and_all_rows(two_parts: str, tmp_path: Path) -> None:
    file = tmp_path / "captions.parquet"
    assert export(two_parts, file, to=ExportFormat.PARQUET).num_exported == 4
    read = pq.read_table(file)
    assert read.schema.equals(schema.CAPTIONS)
    assert read.to_pylist() == rows_of(two_parts)
    metadata = pq.read_metadata(file)
    assert metadata.num_row_groups == 1
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_parquet_gathers_small_parts_into_row_groups_of_a_bounded_size(
    output: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_ROW_GROUP_ROWS", 4)
    parts = [[row(f"{part}-{n}.jpg") for n in range(3)] for part in range(5)]
    export(output(*parts), tmp_path / "x.parquet", to=ExportFormat.PARQUET)
    metadata = pq.read_metadata(tmp_path / "x.parquet")
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [
        4,
        2,
    ] * 2 + [3]


def test_coco_takes_the_numbers_that_the_files_have(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output(
        [row("train/000000000030.jpg", "a dog"), failed("train/broken.jpg")],
        [row("COCO_val2014_000000000042.jpg", "ein Fuß", width_px=640)],
    )
    counts = export(uri, tmp_path / "coco.json", to=ExportFormat.COCO)
    assert (counts.num_exported, counts.num_failed_skipped) == (2, 1)
    coco = json.loads((tmp_path / "coco.json").read_bytes())
    assert list(coco) == ["info", "licenses", "images", "annotations"]
    assert coco["images"] == [
        {"id": 30, "file_name": "train/000000000030.jpg", "width": 64, "height": 48},
        {"id": 42, "file_name": "COCO_val2014_000000000042.jpg", "width": 640, "height": 48},
    ]
    assert coco["annotations"] == [
        {"id": 1, "image_id": 30, "caption": "a dog"},
        {"id": 2, "image_id": 42, "caption": "ein Fuß"},
    ]


@pytest.mark.parametrize(
    "names",
    [
        ("a/1.jpg", "b/1.jpg"),  # the same number
        ("1.jpg", "x.jpg"),  # one has none
        ("1.jpg", "9999999999999999999.jpg"),  # more than an int64 holds
        ("1.jpg", "\u0664.jpg"),  # a digit, but no ASCII one
    ],
)
def test_coco_numbers_images_itself_where_their_names_do_not_tell_them_apart(
    names: tuple[str, str], output: Callable[..., str], tmp_path: Path
) -> None:
    export(output([row(name) for name in names]), tmp_path / "c.json", to=ExportFormat.COCO)
    coco = json.loads((tmp_path / "c.json").read_bytes())
    assert [image["id"] for image in coco["images"]] == [1, 2]
    assert [annotation["image_id"] for annotation in coco["annotations"]] == [1, 2]


def test_coco_results_are_read_by_pycocotools_beside_the_dataset(
    output: Callable[..., str], tmp_path: Path
) -> None:
    names = ["val/000000000030.jpg", "val/000000000042.jpg"]
    uri = output([row(name, f"a {name}") for name in names], [failed("val/000000000043.jpg")])
    export(uri, tmp_path / "coco.json", to=ExportFormat.COCO)
    counts = export(uri, tmp_path / "results.json", to=ExportFormat.COCO_RESULTS)
    assert (counts.num_exported, counts.num_failed_skipped, counts.notes) == (2, 1, ())
    found = COCO(str(tmp_path / "coco.json")).loadRes(str(tmp_path / "results.json"))
    assert {image_id: found.imgToAnns[image_id][0]["caption"] for image_id in (30, 42)} == {
        30: f"a {names[0]}",
        42: f"a {names[1]}",
    }


@pytest.mark.parametrize("to", [ExportFormat.COCO, ExportFormat.COCO_RESULTS])
def test_coco_ids_that_are_not_those_of_the_names_are_told(
    to: ExportFormat, output: Callable[..., str], tmp_path: Path
) -> None:
    assert len(export(output([row("x.jpg")]), tmp_path / "c.json", to=to).notes) == 1


def test_coco_of_failed_images_only_is_empty_and_valid(
    output: Callable[..., str], tmp_path: Path
) -> None:
    counts = export(output([failed("1.jpg")]), tmp_path / "c.json", to=ExportFormat.COCO)
    assert (counts.num_exported, counts.num_failed_skipped) == (0, 1)
    coco = json.loads((tmp_path / "c.json").read_bytes())
    assert coco["images"] == coco["annotations"] == []


def test_an_export_can_go_to_any_store_that_fsspec_knows(two_parts: str, tmp_path: Path) -> None:
    target = f"memory://{tmp_path.name}/captions.jsonl"
    export(two_parts, target, to=ExportFormat.JSONL)
    store = open_store(f"memory://{tmp_path.name}", StorageConfig())
    assert len(store.read("captions.jsonl").splitlines()) == 4
    with pytest.raises(ConfigError, match=r"\b1 .*\(captions\.jsonl\)"):
        export(two_parts, target, to=ExportFormat.JSONL)
    export(two_parts, f"memory://{tmp_path.name}/x", to=ExportFormat.SIDECAR)
    assert store.read("x/a/1.txt") == b"a cat on a mat\n"


@pytest.mark.parametrize("to", [ExportFormat.JSONL, ExportFormat.SIDECAR])
def test_images_that_are_gone_from_the_source_are_left_out_if_asked(
    output: Callable[..., str], tmp_path: Path, to: ExportFormat
) -> None:
    uri = output([row("a.jpg"), row("b.jpg")], [row("c.jpg"), failed("d.jpg")])
    store = open_store(uri, StorageConfig())
    for number, gone in ((0, [1]), (1, [1])):
        manifest, _ = read_manifest_part(store, number)
        footer = manifest_footer(manifest, gone=gone)
        store.write(part_key(MANIFEST, number), encode_manifest(manifest, footer))
    everything = export(uri, tmp_path / "all", to=to)
    assert everything.num_gone_skipped == 0
    counts = export(uri, tmp_path / "present", to=to, gone="drop")
    assert (counts.num_exported, counts.num_gone_skipped, counts.num_failed_skipped) == (2, 2, 0)
    if to is ExportFormat.JSONL:
        lines = (tmp_path / "present").read_text().splitlines()
        assert [json.loads(line)[schema.IMAGE_ID] for line in lines] == ["a.jpg", "c.jpg"]
    else:
        assert sorted(path.name for path in (tmp_path / "present").iterdir()) == ["a.txt", "c.txt"]


def test_another_word_for_what_is_gone_is_refused(two_parts: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gone"):
        export(two_parts, tmp_path / "x.jsonl", to=ExportFormat.JSONL, gone="delete")
