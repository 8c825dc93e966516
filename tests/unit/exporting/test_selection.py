"""What an export writes: rows of a condition, chosen columns, and those of a joined table."""

import csv
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycap import schema
from raycap.config import ExportFormat, StorageConfig
from raycap.errors import ConfigError, DatasetError, ObjectNotFound
from raycap.exporting.columns import chosen_columns
from raycap.exporting.export import export
from raycap.storage.stores import open_store
from tests.support import outputs
from tests.support.outputs import failed, files_under, row

# The fixtures of tests/outputs.py, which pytest looks for under these names.
output = outputs.output
two_parts = outputs.two_parts


@pytest.fixture
def five(output: Callable[..., str]) -> str:
    """Write five images in two parts, the later one first by name; one has failed."""
    return output(
        [row("c.jpg", "a red dog", logprob=-2.0), row("d.jpg", "one cat"), failed("e.jpg")],
        [row("a.jpg", "two dogs", logprob=None), row("b.jpg", "a cat; a dog", logprob=-0.1)],
    )


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def ids(file: Path) -> list[str]:
    return [item["image_id"] for item in lines(file)]


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("logprob > -1", ["d.jpg", "b.jpg"]),
        ("caption LIKE '%dog%' AND num_words >= 3", ["c.jpg", "b.jpg"]),
        ("status = 'failed'", ["e.jpg"]),
        ("\"CAPTION\" = 'one cat' -- the only one", ["d.jpg"]),
        ("logprob IS NULL", ["e.jpg", "a.jpg"]),
        ("columns('image_.*') IN ('a.jpg', 'e.jpg')", ["e.jpg", "a.jpg"]),
        ("false", []),
    ],
)
def test_only_rows_of_a_condition_are_written_in_order(
    where: str, found: list[str], five: str, tmp_path: Path
) -> None:
    counts = export(five, tmp_path / "x.jsonl", to="jsonl", where=where)
    assert ids(tmp_path / "x.jsonl") == found
    assert (counts.num_exported, counts.num_left_out) == (len(found), 5 - len(found))
    assert counts.num_failed_skipped == 0


WITH_IMAGES = (ExportFormat.HF, ExportFormat.WEBDATASET)


@pytest.mark.parametrize("to", [to for to in ExportFormat if to not in WITH_IMAGES])
def test_every_format_takes_a_condition(to: ExportFormat, five: str, tmp_path: Path) -> None:
    counts = export(five, tmp_path / "x", to=to, where="image_id IN ('b.jpg', 'c.jpg')")
    assert (counts.num_exported, counts.num_left_out, counts.num_failed_skipped) == (2, 3, 0)


def test_a_random_condition_selects_the_same_rows_in_every_pass(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output(*([row(f"{part}-{n}.jpg") for n in range(50)] for part in range(4)))
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "foreign.md").write_text("makes the export look before it writes")
    counts = export(uri, tmp_path / "x", to="sidecar", where="random() < 0.5")
    assert len(files_under(tmp_path / "x")) == counts.num_exported + 1
    assert 0 < counts.num_exported < 200


@pytest.mark.parametrize(
    "where",
    [
        "nonsense > 1",
        "logprob >",
        "caption + 1 > 2",
        "CAST(caption AS INT) > 1",
        "true; DROP TABLE x",
        "true) OR (true",
        "count(*) > 1",
        "image_id, caption",
        "",
        "caption IN (SELECT content FROM read_text('/etc/hostname'))",
        "caption IN (SELECT * FROM '/etc/hostname')",
        "caption IN (SELECT content FROM read_text('https://example.com/x'))",
        "caption IN (SELECT name FROM sniff_csv('/etc/hostname'))",
        "image_id IN (SELECT name FROM duckdb_settings() WHERE getenv('HOME') = '')",
    ],
)
def test_a_condition_that_cannot_be_computed_is_told_in_one_line(
    where: str, five: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        export(five, tmp_path / "x.jsonl", to="jsonl", where=where)
    assert caught.value.setting == "where"
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x.jsonl").exists()


def test_a_condition_on_an_unknown_column_is_told_which_there_are(
    five: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="image_id, uri, "):
        export(five, tmp_path / "x.jsonl", to="jsonl", where="capton = 'a'")
    for where in ("caption IN (FROM read_text('/etc/hostname'))", "caption ="):
        with pytest.raises(ConfigError) as caught:
            export(five, tmp_path / "x.jsonl", to="jsonl", where=where)
        assert "image_id" not in str(caught.value)


def test_columns_are_written_as_asked(five: str, tmp_path: Path) -> None:
    columns = ["caption as text", "image_id", "logprob"]
    export(five, tmp_path / "x.csv", to="csv", columns=columns, where="logprob > -1")
    assert (tmp_path / "x.csv").read_bytes() == (
        b"text,image_id,logprob\r\none cat,d.jpg,-0.3\r\na cat; a dog,b.jpg,-0.1\r\n"
    )
    export(five, tmp_path / "x.jsonl", to="jsonl", columns="caption as text , image_id")
    assert lines(tmp_path / "x.jsonl")[2] == {"text": None, "image_id": "e.jpg"}
    export(five, tmp_path / "x.parquet", to="parquet", columns="image_id as name, *")
    read = pq.read_table(tmp_path / "x.parquet")
    assert read.column_names == ["name", *schema.CAPTIONS.names]
    assert read["name"].to_pylist() == ["c.jpg", "d.jpg", "e.jpg", "a.jpg", "b.jpg"]
    assert read.schema.field("logprob").type == pa.float32()


def test_nothing_selected_is_an_empty_file_with_its_columns(five: str, tmp_path: Path) -> None:
    choice: dict[str, Any] = {"columns": "image_id as id, logprob", "where": "false"}
    export(five, tmp_path / "x.csv", to="csv", **choice)
    assert (tmp_path / "x.csv").read_bytes() == b"id,logprob\r\n"
    export(five, tmp_path / "x.parquet", to="parquet", **choice)
    expected = pa.schema([("id", pa.string()), ("logprob", pa.float32())])
    assert pq.read_table(tmp_path / "x.parquet").schema.equals(expected)


@pytest.mark.parametrize("columns", ["nothing", "", "image_id,image_id", "*,uri", "caption.text"])
def test_columns_that_cannot_be_written_are_refused(
    columns: str, five: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        export(five, tmp_path / "x.csv", to="csv", columns=columns)
    assert caught.value.setting == "columns"


@pytest.mark.parametrize("to", [ExportFormat.COCO, ExportFormat.COCO_RESULTS])
def test_formats_with_columns_of_their_own_take_no_others(
    to: ExportFormat, five: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        export(five, tmp_path / "x.json", to=to, columns="image_id")
    assert caught.value.setting == "columns"


names = st.text(st.sampled_from("ab. \"'é"), min_size=1, max_size=4).filter(
    lambda name: name == name.strip()
)


@given(st.dictionaries(names, st.just(pa.int64()), min_size=1), st.data())
def test_any_name_of_a_column_can_be_chosen_and_renamed(
    types: dict[str, pa.DataType], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(types)))
    (column,) = chosen_columns([name], types, [])
    assert (column.name, column.path) == (name, (name,))
    (column,) = chosen_columns([f"{name} as other"], types, [])
    assert (column.name, column.path) == ("other", (name,))


TABLE: list[dict[str, Any]] = [
    {"image_id": "a.jpg", "rating": 5, "tag": "=cmd()", "uri": "theirs"},
    {"image_id": "c.jpg", "rating": 2, "tag": None, "uri": ""},
    {"image_id": "z.jpg", "rating": None, "tag": "x", "uri": None},
]


def write_table(folder: Path, suffix: str) -> Path:
    """Write TABLE as a file with a suffix."""
    file = folder / f"table{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(TABLE), file)
    elif suffix in (".csv", ".tsv"):
        with file.open("w", newline="") as opened:
            writer = csv.DictWriter(
                opened, list(TABLE[0]), delimiter="\t" if suffix == ".tsv" else ","
            )
            writer.writeheader()
            writer.writerows(TABLE)
    elif suffix == ".json":
        file.write_text(json.dumps(TABLE))
    else:
        present = [{k: v for k, v in item.items() if v is not None} for item in reversed(TABLE)]
        file.write_text("".join(json.dumps(item) + "\n" for item in present))
    return file


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".json", ".jsonl"])
def test_a_table_is_joined_to_the_rows(suffix: str, five: str, tmp_path: Path) -> None:
    table = write_table(tmp_path, suffix)
    counts = export(five, tmp_path / "x.jsonl", to="jsonl", join=table, on="image_id")
    read = lines(tmp_path / "x.jsonl")
    assert [item["image_id"] for item in read] == ["c.jpg", "d.jpg", "e.jpg", "a.jpg", "b.jpg"]
    assert [item["rating"] for item in read] == [2, None, None, 5, None]
    assert read[3]["tag"] == "=cmd()"
    assert read[3]["uri_joined"] == "theirs"
    assert read[3]["uri"] == "/images/a.jpg"
    assert list(read[0])[: len(schema.CAPTIONS)] == schema.CAPTIONS.names
    first, second = counts.notes
    assert " 3 images" in first
    assert " 1 of its rows" in first
    assert "uri as uri_joined" in second
    assert counts.num_exported == 5


def test_joined_columns_can_be_chosen_and_asked_for(five: str, tmp_path: Path) -> None:
    table = write_table(tmp_path, ".csv")
    choice: dict[str, Any] = {"join": table, "columns": "image_id, tag, rating as stars"}
    export(five, tmp_path / "x.csv", to="csv", where="rating >= 5 or rating is null", **choice)
    assert (tmp_path / "x.csv").read_bytes() == (
        b"image_id,tag,stars\r\nd.jpg,,\r\ne.jpg,,\r\na.jpg,'=cmd(),5\r\nb.jpg,,\r\n"
    )
    export(five, tmp_path / "x.parquet", to="parquet", where="tag = '=cmd()'", **choice)
    assert pq.read_table(tmp_path / "x.parquet").to_pylist() == [
        {"image_id": "a.jpg", "tag": "=cmd()", "stars": 5}
    ]


def test_names_of_joined_columns_are_no_formulas_either(five: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image_id,=1+1\na.jpg,x\n")
    export(
        five, tmp_path / "x.csv", to="csv", join=tmp_path / "t.csv", columns=["image_id", "=1+1"]
    )
    assert (tmp_path / "x.csv").read_text().splitlines()[0] == "image_id,'=1+1"


def test_a_table_can_be_joined_by_columns_of_other_names(five: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"words": 3, "size": "three"}\n{"words": 2, "size": "two"}')
    choice: dict[str, Any] = {"join": tmp_path / "t.jsonl", "on": "num_words=words"}
    export(five, tmp_path / "x.jsonl", to="jsonl", columns="image_id, size", **choice)
    assert [item["size"] for item in lines(tmp_path / "x.jsonl")] == [
        *("three", "two", None, "two"),
        None,
    ]


def test_values_keep_their_types(five: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "image_id,zip,whole,real,good,odd,empty\n"
        "a.jpg,007,1,1.5,true,1e5x,\nb.jpg,8,-2,2,FALSE,3,\nc.jpg,9,,,,,\n"
    )
    export(five, tmp_path / "x.parquet", to="parquet", join=tmp_path / "t.csv")
    read = pq.read_table(tmp_path / "x.parquet")
    added = read.column_names[len(schema.CAPTIONS) :]
    assert [(name, str(read.schema.field(name).type)) for name in added] == [
        ("zip", "string"),
        ("whole", "int64"),
        ("real", "double"),
        ("good", "bool"),
        ("odd", "string"),
        ("empty", "string"),
    ]
    assert [read[name].to_pylist()[3] for name in added] == ["007", 1, 1.5, True, "1e5x", ""]
    (tmp_path / "t.jsonl").write_text('{"image_id": "a.jpg", "text": "5", "list": [1, "x"]}\n')
    export(five, tmp_path / "x.jsonl", to="jsonl", join=tmp_path / "t.jsonl")
    assert lines(tmp_path / "x.jsonl")[3]["text"] == "5"


def test_nested_columns_of_a_table_survive(five: str, tmp_path: Path) -> None:
    nested = {"image_id": "a.jpg", "box": {"at": [1.5, 2.0], "of": b"\xff"}, "n": float("nan")}
    pq.write_table(pa.Table.from_pylist([nested]), tmp_path / "t.parquet")
    choice: dict[str, Any] = {"join": tmp_path / "t.parquet", "where": "box.at[1] > 1"}
    export(five, tmp_path / "x.jsonl", to="jsonl", columns="box, box.at, n", **choice)
    assert lines(tmp_path / "x.jsonl") == [
        {"box": {"at": [1.5, 2.0], "of": "/w=="}, "box.at": [1.5, 2.0], "n": None}
    ]
    export(five, tmp_path / "x.csv", to="csv", columns="box.at as at", **choice)
    assert (tmp_path / "x.csv").read_text() == 'at\n"[1.5, 2.0]"\n'


def test_two_rows_of_one_image_are_refused(five: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image_id,x\na.jpg,1\nb.jpg,1\na.jpg,2\n")
    with pytest.raises(DatasetError, match=r"\('a.jpg'\)") as caught:
        export(five, tmp_path / "x.csv", to="csv", join=tmp_path / "t.csv")
    assert caught.value.uri == str(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("choice", "setting"),
    [
        ({"on": "image_id"}, "on"),
        ({"join": "t.csv", "on": "nothing"}, "on"),
        ({"join": "t.csv", "on": "image_id=nothing"}, "on"),
        ({"join": "t.xlsx"}, "join"),
    ],
)
def test_a_join_that_makes_no_sense_is_refused(
    choice: dict[str, Any], setting: str, five: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("image_id,x\na.jpg,1\n")
    with pytest.raises(ConfigError) as caught:
        export(five, tmp_path / "x.csv", to="csv", **choice)
    assert caught.value.setting == setting


def test_a_table_that_is_missing_or_damaged_is_told(five: str, tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFound):
        export(five, tmp_path / "x.csv", to="csv", join=tmp_path / "t.csv")
    (tmp_path / "t.parquet").write_text("no Parquet")
    with pytest.raises(DatasetError) as caught:
        export(five, tmp_path / "x.csv", to="csv", join=tmp_path / "t.parquet")
    assert caught.value.uri == str(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    "table",
    [
        pa.table([pa.array(["a.jpg"]), [1], [2]], ["image_id", "x", "x"]),
        pa.table({"image_id": ["a.jpg"], "x": pa.array([1], pa.decimal256(60, 0))}),
    ],
)
def test_a_table_of_what_cannot_be_joined_is_told(
    table: pa.Table, five: str, tmp_path: Path
) -> None:
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DatasetError) as caught:
        export(five, tmp_path / "x.csv", to="csv", join=tmp_path / "t.parquet")
    assert caught.value.uri == str(tmp_path / "t.parquet")


def test_an_empty_table_joins_nothing(five: str, tmp_path: Path) -> None:
    empty = pa.table({"image_id": pa.array([], pa.string()), "x": pa.array([], pa.int32())})
    pq.write_table(empty, tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("image_id,x\n")
    for suffix in (".parquet", ".csv"):
        file = tmp_path / f"x{suffix}.jsonl"
        export(five, file, to="jsonl", join=tmp_path / f"t{suffix}", columns="image_id, x")
        assert {item["x"] for item in lines(file)} == {None}
    (tmp_path / "keys.csv").write_text("image_id\na.jpg\n")
    counts = export(five, tmp_path / "k.jsonl", to="jsonl", join=tmp_path / "keys.csv")
    assert list(lines(tmp_path / "k.jsonl")[0]) == schema.CAPTIONS.names
    assert " 4 images" in counts.notes[0]


def test_a_sample_of_webdataset_has_the_chosen_columns(
    output: Callable[..., str], tmp_path: Path, make_jpeg: Callable[..., bytes]
) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(make_jpeg())
    uris = {name: {"uri": str(tmp_path / name), "etag": None} for name in ("a.jpg", "b.jpg")}
    uri = output([row(name, name, **uris[name]) for name in uris])
    (tmp_path / "t.csv").write_text("image_id,stars\nb.jpg,4\n")
    choice: dict[str, Any] = {"join": tmp_path / "t.csv", "columns": "caption as text, stars"}
    counts = export(uri, tmp_path / "tars", to="webdataset", where="stars > 3", **choice)
    assert (counts.num_exported, counts.num_left_out, counts.num_files) == (1, 1, 1)
    with tarfile.open(tmp_path / "tars" / "part-000000.tar") as tar:
        (member,) = [member for member in tar if member.name.endswith(".json")]
        opened = tar.extractfile(member)
        assert opened is not None
        assert json.load(opened) == {"text": "b.jpg", "stars": 4}


def test_a_table_in_a_store_is_joined(five: str, tmp_path: Path) -> None:
    store = open_store(f"memory://{tmp_path.name}", StorageConfig())
    store.write("t.csv", b"image_id,x\na.jpg,1\n")
    table = f"memory://{tmp_path.name}/t.csv"
    export(five, tmp_path / "x.jsonl", to="jsonl", join=table, where="x = 1")
    assert ids(tmp_path / "x.jsonl") == ["a.jpg"]
