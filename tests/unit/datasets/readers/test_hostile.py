"""Annotation files with damage at random: rows come out, or one clear line, and nothing else."""

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from raycap.datasets.readers.json_files import MAX_DEPTH, JsonText
from raycap.errors import RaycapError
from tests.support.annotated import read, write

ITEMS = [{"file_name": f"{number}.jpg", "caption": f'a "{number}", ü'} for number in range(9)]


def coco() -> bytes:
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(9)]
    notes = [{"image_id": number % 9, "caption": f"text {number}"} for number in range(20)]
    return json.dumps({"images": images, "annotations": notes}).encode()


def karpathy() -> bytes:
    sentences = [{"raw": "one"}, {"raw": "two"}]
    image = {"filename": "1.jpg", "split": "train", "sentences": sentences}
    return json.dumps({"images": [image] * 9}).encode()


def table() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ITEMS), sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def tar() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as file:
        for name in ("1.jpg", "1.txt", "2.json", "2.jpg"):
            header = tarfile.TarInfo(name)
            header.size = 8
            file.addfile(header, io.BytesIO(b'{"a": 1}'))
    return sink.getvalue()


FILES = {
    "captions.json": coco(),
    "dataset.json": karpathy(),
    "captions.txt": b"".join(b"%d.jpg#0\ttext %d\n" % (n, n) for n in range(9)),
    "results.csv": b"image_name| comment_number| comment\n1.jpg| 0| one\n2.jpg| 1| two\n",
    "list.csv": b'image,caption\n1.jpg,"a, ""b"""\n2.jpg,c\n',
    "list.tsv": b"image\tcaption\tsplit\n1.jpg\tx\ttrain\n2.jpg\ty\ttest\n",
    "list.jsonl": "\n".join(map(json.dumps, ITEMS)).encode(),
    "list.parquet": table(),
    "list.tar": tar(),
}
PATCHES = st.lists(
    st.tuples(
        st.floats(0, 1), st.one_of(st.binary(max_size=8), st.sampled_from([b'"', b"[", b"{"]))
    ),
    max_size=4,
)


@pytest.mark.parametrize("name", FILES)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(patches=PATCHES, kept=st.one_of(st.just(1.0), st.floats(0, 1)))
@example(patches=[(0.0, b"\x1f\x8b")], kept=1.0)  # as gzip begins
def test_damage_at_random_gives_rows_or_one_clear_line(
    tmp_path: Path, name: str, patches: list[tuple[float, bytes]], kept: float
) -> None:
    data = bytearray(FILES[name])
    for place, patch in patches:
        start = int(place * len(data))
        data[start : start + len(patch)] = patch
    folder = tmp_path / "source"
    shutil.rmtree(folder, ignore_errors=True)
    write(folder, {name: bytes(data[: int(kept * len(data))])})
    rows, message = [], ""
    try:
        rows = read(folder / name)
    except RaycapError as error:
        message = str(error)
    assert not message or name in message
    assert "\n" not in message
    assert all(row["image_id"] for row in rows)
    assert all(row["split"] in (None, "train", "validation", "test") for row in rows)


@pytest.mark.parametrize("name", ["captions.json", "list.json"])
@pytest.mark.parametrize("opening", ["[", '{"a":', '{"images": [{"file_name": ['])
def test_json_nested_without_end_is_an_error(tmp_path: Path, name: str, opening: str) -> None:
    write(tmp_path, {name: opening * 200_000})
    with pytest.raises(RaycapError, match=r"\b100 ") as caught:
        read(tmp_path / name)
    assert caught.value.uri == str(tmp_path / name)


@given(
    st.lists(
        st.one_of(
            st.sampled_from([float("nan"), float("inf"), -float("inf"), -1, None]),
            st.text('NaInfity-"\\', max_size=12),
        ),
        max_size=9,
    ),
    st.integers(1, 9),
)
def test_nan_is_null_whatever_the_block_size(values: list[Any], size: int) -> None:
    text = JsonText(io.BufferedReader(io.BytesIO(json.dumps(values).encode())))
    found = b"".join(iter(lambda: text.read(size), b""))
    finite = [None if isinstance(v, float) else v for v in values]
    assert json.loads(found, parse_constant=lambda _: "no JSON") == finite


def test_brackets_within_texts_are_no_nesting(tmp_path: Path) -> None:
    text = '[[{"' + "[" * 5000 + '\\"]}' + "\\" * 7
    items = [{"file_name": f"{number}.jpg", "caption": text} for number in range(300)]
    write(tmp_path, {"list.json": json.dumps(items)})
    assert {row["caption"] for row in read(tmp_path / "list.json")} == {text}


@given(st.recursive(st.text('[]{}"\\', max_size=5), st.lists, max_leaves=20), st.integers(1, 7))
def test_depth_does_not_depend_on_the_block_size(value: Any, size: int) -> None:
    def depth(value: Any) -> int:
        return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0

    def read_nested(extra: int) -> tuple[bytes, bytes]:
        data = b"[" * extra + json.dumps(value).encode() + b"]" * extra
        text = JsonText(io.BufferedReader(io.BytesIO(data)))
        return data, b"".join(iter(lambda: text.read(size), b""))

    data, found = read_nested(MAX_DEPTH - depth(value))
    assert found == data
    with pytest.raises(ValueError, match=r"\b100 "):
        read_nested(3 * MAX_DEPTH)


def test_numbers_without_end_are_no_ids(tmp_path: Path) -> None:
    number = "9" * 10_000
    image = f'{{"id": {number}, "file_name": "1.jpg"}}'
    write(tmp_path, {"c.json": f'{{"images": [{image}], "annotations": []}}'})
    write(tmp_path, {"l.jsonl": f'{{"image_id": {number}, "caption": "x"}}'})
    with pytest.raises(RaycapError, match="4,000 digits") as caught:
        read(tmp_path / "c.json")
    assert caught.value.uri == str(tmp_path / "c.json")
    with pytest.raises(RaycapError, match=r"row 1: .*4300 digits") as caught:
        read(tmp_path / "l.jsonl")
    assert caught.value.uri == str(tmp_path / "l.jsonl")


def test_names_that_lead_out_of_the_folder_are_only_names(tmp_path: Path) -> None:
    secret = write(tmp_path, {"secret.txt": "key"}) / "secret.txt"
    rows = [{"file_name": name, "caption": "x"} for name in ("../secret.txt", str(secret), "a\0b")]
    write(tmp_path, {"photos/metadata.jsonl": "\n".join(map(json.dumps, rows))})
    found = read(tmp_path / "photos")
    assert [row["image_id"] for row in found] == ["../secret.txt", str(secret), "a\0b"]
    assert secret.read_text() == "key"
