"""Exports that are refused leave everything unchanged."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from raycap import schema
from raycap.captioning.parts import CAPTIONS, MANIFEST, encode_manifest, manifest_footer, read_part
from raycap.config import ExportFormat, StorageConfig
from raycap.errors import ConfigError, DatasetError, StorageError
from raycap.exporting.export import export
from raycap.storage.parts import part_key
from raycap.storage.stores import open_store
from tests.support import outputs
from tests.support.outputs import files_under, row

# The fixtures of tests/outputs.py, which pytest looks for under these names.
output = outputs.output
two_parts = outputs.two_parts


def test_captions_that_do_not_answer_their_manifest_are_refused(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row("a.jpg"), row("b.jpg")])
    columns = [["a.jpg", "c.jpg"], ["x", "y"], [1, 1], ["1-2"] * 2, [None] * 2]
    other = pa.table(columns, schema=schema.MANIFEST)
    part = Path(uri, part_key(MANIFEST, 0))
    part.write_bytes(encode_manifest(other, manifest_footer(other)))
    with pytest.raises(DatasetError) as caught:
        export(uri, tmp_path / "x", to=ExportFormat.WEBDATASET)
    assert caught.value.uri == str(Path(uri, part_key(CAPTIONS, 0)))
    assert files_under(tmp_path / "x") == {}


SINGLE = [ExportFormat.JSONL, ExportFormat.CSV, ExportFormat.PARQUET, ExportFormat.COCO]


@pytest.mark.parametrize("to", SINGLE)
def test_a_standing_file_is_replaced_only_by_force(
    to: ExportFormat, two_parts: str, tmp_path: Path
) -> None:
    file = tmp_path / "deep" / "captions"
    file.parent.mkdir()
    file.write_text("precious")
    with pytest.raises(ConfigError, match=r"\b1 .*\(captions\)") as caught:
        export(two_parts, file, to=to)
    assert caught.value.uri == str(file.parent)
    assert caught.value.setting == "existing"
    assert files_under(file.parent) == {"captions": "precious"}
    export(two_parts, file, to=to, existing="overwrite")
    assert list(file.parent.iterdir()) == [file]
    assert file.read_bytes() != b"precious"


def test_a_damaged_part_leaves_the_destination_untouched(two_parts: str, tmp_path: Path) -> None:
    part = Path(two_parts, part_key(CAPTIONS, 1))
    data = part.read_bytes()
    part.write_bytes(b"PAR1" + b"\0" * 100 + data[104:])  # its footer is still whole
    file = tmp_path / "x" / "captions.csv"
    file.parent.mkdir()
    file.write_text("precious")
    with pytest.raises(DatasetError) as caught:
        export(two_parts, file, to=ExportFormat.CSV, existing="overwrite")
    assert caught.value.uri == str(part)
    assert files_under(file.parent) == {"captions.csv": "precious"}


def test_an_unfinished_run_is_refused(two_parts: str, tmp_path: Path) -> None:
    Path(two_parts, part_key(CAPTIONS, 1)).unlink()
    with pytest.raises(DatasetError, match="1 of 2"):
        export(two_parts, tmp_path / "x.csv", to=ExportFormat.CSV)


def test_a_run_whose_images_have_changed_is_refused(two_parts: str, tmp_path: Path) -> None:
    store = open_store(two_parts, StorageConfig())
    manifest = read_part(store, MANIFEST, 0)
    footer = manifest_footer(manifest, revision=1)
    store.write(part_key(MANIFEST, 0), encode_manifest(manifest, footer))
    with pytest.raises(DatasetError, match="1 of 2"):
        export(two_parts, tmp_path / "x.csv", to=ExportFormat.CSV)


def test_a_folder_that_is_no_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"run\.json") as caught:
        export(tmp_path, tmp_path / "x.csv", to=ExportFormat.CSV)
    assert caught.value.uri == str(tmp_path)


def test_a_folder_given_for_a_file_is_refused(two_parts: str, tmp_path: Path) -> None:
    for destination in (str(tmp_path), f"{tmp_path}/new/", "s3://bucket", "s3://bucket/prefix/"):
        with pytest.raises(ConfigError, match=r"captions\.json"):
            export(two_parts, destination, to=ExportFormat.COCO)


def test_a_file_given_for_a_folder_is_refused(two_parts: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for to in (ExportFormat.SIDECAR, ExportFormat.WEBDATASET):
        with pytest.raises(ConfigError) as caught:
            export(two_parts, tmp_path / "file", to=to)
        assert caught.value.uri == str(tmp_path / "file")


def test_a_destination_that_cannot_be_made_is_told_in_one_line(
    two_parts: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    for to in (ExportFormat.CSV, ExportFormat.WEBDATASET, ExportFormat.SIDECAR):
        with pytest.raises(StorageError, match=f"{tmp_path}/file"):
            export(two_parts, tmp_path / "file" / "x" / "y", to=to)
