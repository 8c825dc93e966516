"""`raycap.read` of captions: every way to the same rows, and no more parts read than it takes."""

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import raycap
from raycap import schema
from raycap.captioning.parts import CAPTIONS, encode_captions, read_part
from raycap.config import StorageConfig
from raycap.errors import ConfigError, DatasetError
from raycap.reading.rows import Rows
from raycap.results.captioning import write_summary
from raycap.storage.parts import part_key
from raycap.storage.stores import open_store
from tests.conftest import S3
from tests.support import outputs
from tests.support.outputs import failed, row, summary

output = outputs.output
two_parts = outputs.two_parts

NAMES = ["a/1.jpg", "a/2.jpg", "b/3.jpg", "b/ü 4.png"]
IS_FAILED = "status = 'failed'"


def stored(uri: str) -> list[dict[str, Any]]:
    """Read the rows as raycap itself does."""
    store = open_store(uri, StorageConfig())
    rows: list[dict[str, Any]] = pa.concat_tables(
        [read_part(store, CAPTIONS, number) for number in (0, 1)]
    ).to_pylist()
    return rows


def answer(text: str, **value: Any) -> dict[str, Any]:
    """Give the answer to a named prompt."""
    of_caption = {schema.CAPTION: text, schema.NUM_WORDS: len(text.split())}
    return {**dict.fromkeys(schema.ANSWER_FIELDS), **of_caption, schema.ALTERNATIVES: [], **value}


def ask(uri: str, number: int, names: list[str], answers: dict[str, list[Any]]) -> None:
    """Replace a part by one with the answers to named prompts."""
    kinds = {
        name: schema.answer_type(
            pa.struct([("tags", pa.list_(pa.string()))]) if name == "typed" else None
        )
        for name in answers
    }
    images = [f for f in schema.CAPTIONS if f.name not in schema.ANSWER_FIELDS]
    images += [
        schema.CAPTIONS.field(schema.ERROR_CODE),
        schema.CAPTIONS.field(schema.ERROR_MESSAGE),
    ]
    fields = pa.schema([*images, *(pa.field(name, kind) for name, kind in kinds.items())])
    rows = [
        {**row(image_id), **{name: found[place] for name, found in answers.items()}}
        for place, image_id in enumerate(names)
    ]
    data, _ = encode_captions(
        pa.Table.from_pylist(rows, schema=fields),
        num_bytes=1,
        revision=0,
        prompts=dict.fromkeys(answers, "digest"),
    )
    store = open_store(uri, StorageConfig())
    store.write(part_key(CAPTIONS, number), data)


def test_iterating_gives_the_rows_in_order_with_errors_as_rows(two_parts: str) -> None:
    rows = raycap.read(two_parts)
    assert list(rows) == stored(two_parts)
    assert len(rows) == 4
    assert rows.columns == schema.CAPTIONS.names
    assert rows.schema.equals(schema.CAPTIONS)
    assert list(rows)[1][schema.ERROR_CODE] == "decode_failed"


def test_every_library_gets_the_same_rows(two_parts: str) -> None:
    rows, expected = raycap.read(two_parts), stored(two_parts)
    assert rows.to_arrow().to_pylist() == expected
    assert pa.Table.from_batches(rows.to_batches(), rows.schema).to_pylist() == expected
    assert pa.table(rows).to_pylist() == expected
    frame = rows.to_pandas()
    assert list(frame.columns) == rows.columns
    assert list(frame[schema.IMAGE_ID]) == NAMES


def test_duckdb_reads_the_parts_each_time_a_relation_is_evaluated(two_parts: str) -> None:
    rows = raycap.read(two_parts)
    relation = rows.to_duckdb()
    query = relation.filter("status = 'failed'").project("image_id, error_code")
    for _ in range(2):
        assert query.fetchall() == [("a/2.jpg", "decode_failed")]
    with duckdb.connect() as connection:
        own = rows.to_duckdb(connection)
        assert own.aggregate("count(*)").fetchall() == [(4,)]
        assert connection.sql("SELECT max(image_id) FROM rows").fetchall() == [("b/ü 4.png",)]


def test_the_row_of_an_image_is_found_in_one_part(two_parts: str) -> None:
    rows = raycap.read(two_parts)
    Path(two_parts, part_key(CAPTIONS, 0)).unlink()  # is never read
    assert rows["b/3.jpg"] == stored_row(rows, "b/3.jpg")
    assert "b/ü 4.png" in rows
    assert "b/0.jpg" not in rows
    assert "zzz" not in rows
    with pytest.raises(KeyError, match="nothing"):
        rows["nothing"]


def stored_row(rows: Rows, image_id: str) -> dict[str, Any]:
    """Read a row of the second part."""
    table = read_part(open_store(rows.output, StorageConfig()), CAPTIONS, 1)
    found: dict[str, Any] = table.filter(pc.field(schema.IMAGE_ID) == image_id).to_pylist()[0]
    return found


def test_the_first_rows_are_read_from_the_first_parts(two_parts: str) -> None:
    rows = raycap.read(two_parts)
    Path(two_parts, part_key(CAPTIONS, 1)).unlink()
    assert [item[schema.IMAGE_ID] for item in rows.head(2)] == NAMES[:2]
    assert rows.head(0) == []
    with pytest.raises(ConfigError) as caught:
        rows.head(-1)
    assert caught.value.setting == "n"


def test_rows_have_no_numbers(two_parts: str) -> None:
    rows: Any = raycap.read(two_parts)
    for number in (0, slice(2)):
        with pytest.raises(TypeError, match="image id"):
            rows[number]


def test_columns_and_a_condition_choose_what_is_read(two_parts: str) -> None:
    rows = raycap.read(two_parts, columns=["caption", "image_id"], where=f"NOT {IS_FAILED}")
    assert [list(item) for item in rows] == [["caption", "image_id"]] * 3
    assert raycap.read(two_parts, columns="caption, image_id").columns == rows.columns
    assert len(rows) == 3
    assert rows["a/1.jpg"] == {"caption": "a cat on a mat", "image_id": "a/1.jpg"}
    assert "a/2.jpg" not in rows
    only = raycap.read(two_parts, columns=["caption"])
    assert only["a/1.jpg"] == {"caption": "a cat on a mat"}


def test_a_run_that_goes_on_gives_the_rows_so_far(two_parts: str) -> None:
    Path(two_parts, part_key(CAPTIONS, 0)).unlink()
    rows = raycap.read(two_parts)
    assert [item[schema.IMAGE_ID] for item in rows] == NAMES[2:]
    assert (rows.is_complete, rows.summary) == (False, None)


def test_a_finished_run_has_its_summary(two_parts: str) -> None:
    store = open_store(two_parts, StorageConfig())
    write_summary(store, summary(4))
    rows = raycap.read(two_parts)
    assert rows.is_complete
    assert rows.summary == summary(4)


def test_an_output_without_a_part_has_no_rows(output: Callable[..., str]) -> None:
    rows = raycap.read(output())
    assert (len(rows), list(rows), rows.head()) == (0, [], [])
    assert rows.to_arrow().schema.equals(schema.CAPTIONS)
    assert "x" not in rows


def test_named_prompts_are_columns_and_one_of_them_is_the_caption(
    output: Callable[..., str],
) -> None:
    uri = output([row("1.jpg"), row("2.jpg")])
    tags = [{"tags": ["red", "old"]}, None]
    ask(
        uri,
        0,
        ["1.jpg", "2.jpg"],
        {
            "short": [answer("a cat"), answer("a dog")],
            "typed": [
                answer('{"tags":["red","old"]}', value=tags[0]),
                answer("", caption=None, error_code="wrong_type", error_message="no JSON"),
            ],
        },
    )
    rows = raycap.read(uri, "short")
    assert rows.prompt == "short"
    assert [item["caption"] for item in rows] == ["a cat", "a dog"]
    assert [item["typed"]["value"] for item in rows] == tags
    assert schema.VALUE not in rows.columns
    typed = raycap.read(uri, "typed")
    assert [item["value"] for item in typed] == tags
    assert [item["status"] for item in typed] == ["ok", "failed"]
    assert typed["2.jpg"]["error_code"] == "wrong_type"
    assert raycap.read(uri, "typed", columns=["value"]).to_arrow()["value"].to_pylist() == tags


def test_parts_that_were_not_asked_a_prompt_yet_have_no_rows_so_far(
    output: Callable[..., str],
) -> None:
    uri = output([row("1.jpg")], [row("2.jpg")])
    ask(uri, 0, ["1.jpg"], {"short": [answer("one")], "typed": [answer("{}", value=None)]})
    ask(uri, 1, ["2.jpg"], {"short": [answer("two")]})
    assert [item["caption"] for item in raycap.read(uri, "short")] == ["one", "two"]
    assert [item["typed"] is None for item in raycap.read(uri, "short")] == [False, True]
    assert [item["image_id"] for item in raycap.read(uri, "typed")] == ["1.jpg"]


@pytest.mark.parametrize(
    ("choice", "error", "setting"),
    [
        ({"prompt": "long"}, DatasetError, "prompt"),
        ({"columns": ["capton"]}, ConfigError, "columns"),
        ({"where": "capton = 'a'"}, ConfigError, "where"),
        ({"where": "status = 'ok' FROM"}, ConfigError, "where"),
        ({"where": "'x' IN (FROM read_text('/etc/hostname'))"}, ConfigError, "where"),
        ({"edits": "some"}, ConfigError, "edits"),
    ],
)
def test_a_wrong_choice_is_refused_before_anything_is_read(
    two_parts: str, choice: dict[str, Any], error: type[Exception], setting: str
) -> None:
    with pytest.raises(error) as caught:
        raycap.read(two_parts, **choice)
    assert getattr(caught.value, "setting") == setting  # noqa: B009  of either error
    assert "\n" not in str(caught.value)


def test_a_damaged_part_is_named(two_parts: str) -> None:
    rows = raycap.read(two_parts)
    part = Path(two_parts, part_key(CAPTIONS, 1))
    part.write_bytes(part.read_bytes()[:-9] + b"x" * 9)
    with pytest.raises(DatasetError) as caught:
        list(rows)
    assert caught.value.uri == str(part)


def test_a_bucket_is_read_like_a_folder_here_and_in_a_worker(s3: S3) -> None:
    store = open_store(f"{s3.uri}/out", StorageConfig())
    uri = outputs.write_output(store, [row("1.jpg")], [row("2.jpg"), failed("3.jpg")])
    rows = raycap.read(uri)
    assert [item["image_id"] for item in rows] == ["1.jpg", "2.jpg", "3.jpg"]
    sent = pickle.loads(pickle.dumps(rows))  # noqa: S301  after its store was opened
    assert sent["3.jpg"] == rows["3.jpg"]


def test_what_has_no_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        raycap.read(tmp_path / "nothing")
    with pytest.raises(DatasetError):
        raycap.read(tmp_path)
    (tmp_path / "run.json").write_text('{"fingerprint": {"command": "tune"}}')
    with pytest.raises(DatasetError) as caught:
        raycap.read(tmp_path)
    assert caught.value.uri == str(tmp_path)


def test_pandas_is_only_needed_for_data_frames(
    two_parts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    rows = raycap.read(two_parts)
    assert len(rows.to_arrow()) == 4
    with pytest.raises(ConfigError):
        rows.to_pandas()


def test_a_notebook_shows_the_first_rows_and_no_markup_of_captions(
    output: Callable[..., str],
) -> None:
    rows = raycap.read(output([row("1.jpg", "<script>alert(1)</script>"), failed("2.jpg")]))
    html = rows._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert "decode_failed" in html
    assert "1.jpg" in repr(rows)
