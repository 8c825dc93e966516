"""Systems of an evaluation: their names, and what their captions are read from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raycap import schema
from raycap.config import StorageConfig
from raycap.errors import ConfigError, DatasetError
from raycap.evaluation.caption_file import ROWS
from raycap.evaluation.captions import Captions, CaptionsFormat, open_captions
from raycap.storage.stores import open_store
from tests.conftest import S3
from tests.support import outputs
from tests.support.outputs import AWKWARD, row, write_output

# The fixtures of tests/outputs.py, which pytest looks for under these names.
output = outputs.output
two_parts = outputs.two_parts

CONFIG = StorageConfig(num_retries=0)


def rows_of(captions: Captions) -> list[dict[str, Any]]:
    tables = list(captions.pages())
    assert all(table.schema.equals(ROWS) for table in tables)
    rows: list[dict[str, Any]] = pa.concat_tables(tables).to_pylist()
    return rows


def names_of(*sources: str | Path) -> list[str]:
    return [captions.name for captions in open_captions(sources, CONFIG)]


# Names


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["runs/blip.json"], ["blip"]),
        (["blip=runs/a.json", "tuned=s3://b/c.jsonl"], ["blip", "tuned"]),
        (["runs/a.json", "other/a.csv"], ["runs/a", "other/a"]),
        (["x/runs/a.json", "y/runs/a.json", "b.json"], ["x/runs/a", "y/runs/a", "b"]),
        (["a.json", "a.json", "a.json"], ["a", "a (2)", "a (3)"]),
        (["x/a.json", "x/a.json", "y/b.json"], ["a", "a (2)", "b"]),
        (["x/a.json", "x/a.json", "y/a.json"], ["x/a", "x/a (2)", "y/a"]),
        (["a.json", "x/a.json"], ["a", "x/a"]),
        (["a=x/b.json", "c/a.json"], ["a", "c/a"]),
        (["a=x/b.json", "a.json"], ["a", "a (2)"]),
        (["x/v1.2.jsonl", "y/v1.3.jsonl"], ["v1.2", "v1.3"]),
        (["s3://bucket/key=value/a.json"], ["a"]),
        (["=a.json"], ["=a"]),
        (["with space=a.json"], ["with space"]),
        (["first=a=b.json"], ["first"]),
    ],
)
def test_systems_have_given_names_or_the_distinct_end_of_their_address(
    sources: list[str], names: list[str]
) -> None:
    assert names_of(*sources) == names


def test_a_file_name_may_contain_an_equals_sign(tmp_path: Path) -> None:
    path = tmp_path / "beams=3.json"
    path.write_text("[]")
    (found,) = open_captions([str(path)], CONFIG)
    assert (found.name, found.source) == ("beams=3", str(path))
    (found,) = open_captions([Path("lr=1/a.json")], CONFIG)
    assert (found.name, found.source) == ("a", "lr=1/a.json")


def test_two_systems_with_the_same_given_name_are_an_error() -> None:
    with pytest.raises(ConfigError, match="a: "):
        names_of("a=x.json", "a=y.json")


# Sources


def test_an_output_of_raycap_gives_its_rows_and_what_made_them(two_parts: str) -> None:
    model = {"kind": "blip", "name": "someone/blip"}
    run = {"fingerprint": {"model": model}}
    (Path(two_parts) / "run.json").write_text(json.dumps(run))
    (found,) = open_captions([two_parts], CONFIG)
    assert (found.name, found.format) == ("output", CaptionsFormat.RAYCAP)
    assert found.model == model
    rows = rows_of(found)
    assert [row[schema.IMAGE_ID] for row in rows] == ["a/1.jpg", "a/2.jpg", "b/3.jpg", "b/ü 4.png"]
    assert [row["file"] for row in rows] == [row[schema.IMAGE_ID] for row in rows]
    assert [row[schema.CAPTION] for row in rows] == ["a cat on a mat", None, AWKWARD, ""]
    assert [row[schema.STATUS] for row in rows] == ["ok", "failed", "ok", "ok"]
    assert rows[1][schema.ERROR_CODE] == "decode_failed"
    assert rows[0][schema.LOGPROB] == pytest.approx(-0.3)
    assert rows == rows_of(found)  # as often as one likes


def test_outputs_and_files_are_opened_in_buckets(s3: S3) -> None:
    write_output(open_store(f"{s3.uri}/runs/blip", CONFIG), [row("1.jpg")])
    s3.put("results.json", b'[{"image_id": 1, "caption": "a dog"}]')
    blip, other = open_captions([f"{s3.uri}/runs/blip/", f"{s3.uri}/results.json"], CONFIG)
    assert (blip.name, blip.source, other.name) == ("blip", f"{s3.uri}/runs/blip", "results")
    assert rows_of(blip)[0][schema.CAPTION] == "a cat on a mat"
    assert rows_of(other)[0][schema.CAPTION] == "a dog"


def test_only_coco_files_have_file_names_of_their_numbers(tmp_path: Path) -> None:
    for name in ("a.json", "b.jsonl", "c.csv", "d.parquet"):
        (found,) = open_captions([tmp_path / name], CONFIG)
        assert (found.file_names is not None) == (name == "a.json")


def test_a_source_without_captions_is_an_error_in_one_line(
    tmp_path: Path, output: Callable[..., str]
) -> None:
    with pytest.raises(ConfigError):
        open_captions([], CONFIG)
    (tmp_path / "notes.txt").write_text("a cat")
    with pytest.raises(ConfigError, match=r"\.jsonl") as refused:
        open_captions([tmp_path / "notes.txt"], CONFIG)
    assert refused.value.uri == str(tmp_path / "notes.txt")
    with pytest.raises(DatasetError, match=r"run\.json") as caught:
        open_captions([tmp_path], CONFIG)
    assert caught.value.uri == str(tmp_path)
    unfinished = Path(output([row("1.jpg")], [row("2.jpg")]))
    (unfinished / "captions" / "part-000001.parquet").unlink()
    with pytest.raises(DatasetError, match="1 of 2"):
        open_captions([unfinished], CONFIG)
