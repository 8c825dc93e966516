"""Secrets in every position of an address, in every kind of input: nothing that is written has one.

Without Ray; `e2e/test_secrets.py` does the same with whole commands, and searches the logs too.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycap import schema
from raycap.captioning.addresses import secret_addresses
from raycap.captioning.list_file import read_list
from raycap.captioning.loading import load_image
from raycap.captioning.source import open_source
from raycap.config import CaptionConfig, PrepareConfig, ReportConfig, StorageConfig
from raycap.config.loading import validate_config
from raycap.datasets.planning import write_plan
from raycap.datasets.readers import open_annotations
from raycap.errors import ErrorCode, RaycapError
from raycap.reporting.dataset import dataset_section
from raycap.storage.stores import ImageReader, open_store
from tests.support.annotated import write
from tests.support.caption_sets import MARK, build, finish, picture
from tests.support.faulty_http import FaultyServer, faulty_server

PLANTED = "planted"
CONFIG = StorageConfig(num_retries=0, timeout_s=5)


@pytest.fixture(scope="module")
def web() -> Iterator[FaultyServer]:
    """Give a server that has nothing."""
    with faulty_server() as server:
        yield server


def planted(web: str) -> list[str]:
    """Give addresses with a secret in every position, none of which leads to an image."""
    host = web.removeprefix("http://")
    return [
        f"http://me:{PLANTED}@{host}/a.jpg",
        f"http://me:{PLANTED}/x@{host}/a.jpg",
        f"{web}/b.jpg?X-Amz-Credential={PLANTED}&X-Amz-Signature={PLANTED}",
        f"{web}/c.jpg?sv=1&se=2&sig={PLANTED}",
        f"{web}/d.jpg?access_token={PLANTED}",
        f"{web}/e.jpg?key={PLANTED}&author={PLANTED};session={PLANTED}",
        f"{web}/f.jpg#access_token={PLANTED}",
        f"{web}/g.jpg?url=https%3A%2F%2Fme:{PLANTED}%40h%2Fa%3Ftoken%3D{PLANTED}",
        f"http:/{host}/h.jpg?token={PLANTED}",
        f"http://[::1/i.jpg?token={PLANTED}",
        f"s3://AKIA{PLANTED}:{PLANTED}/x@bucket/a.jpg",
        f"sftp://me:{PLANTED}@h/a.jpg",
        f"ftp://me:{PLANTED}@h/a.jpg",
        f"gopher://me:{PLANTED}@h/a.jpg",
    ]


def table(addresses: list[str]) -> list[dict[str, str]]:
    return [{"uri": address, "caption": "a text"} for address in addresses]


def separated(rows: list[dict[str, str]]) -> bytes:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue().encode()


def parquet(rows: list[dict[str, str]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def coco(addresses: list[str]) -> bytes:
    images = [{"id": number, "file_name": address} for number, address in enumerate(addresses)]
    notes = [{"image_id": number, "caption": "a text"} for number in range(len(addresses))]
    return json.dumps({"images": images, "annotations": notes}).encode()


def karpathy(addresses: list[str]) -> bytes:
    images = [
        {"filename": address, "split": "train", "sentences": [{"raw": "a text"}]}
        for address in addresses
    ]
    return json.dumps({"images": images}).encode()


def of_table(make: Callable[[list[dict[str, str]]], bytes], addresses: list[str]) -> bytes:
    return make(table(addresses))


TABLES: dict[str, Callable[[list[dict[str, str]]], bytes]] = {
    "l.jsonl": lambda rows: "\n".join(map(json.dumps, rows)).encode(),
    "l.json": lambda rows: json.dumps(rows).encode(),
    "l.csv": separated,
    "l.parquet": parquet,
}
ANNOTATIONS: dict[str, Callable[[list[str]], bytes]] = {
    **{name: partial(of_table, make) for name, make in TABLES.items()},
    "captions.json": coco,
    "dataset.json": karpathy,
    "captions.txt": lambda found: "".join(f"{a}#0\ta text\n" for a in found).encode(),
}


@pytest.mark.parametrize("name", ["l.txt", *TABLES])
def test_of_a_list_no_row_id_or_message_has_a_secret(
    tmp_path: Path, web: FaultyServer, name: str
) -> None:
    addresses = [*planted(web.url), "a.jpg"]
    lines = "\n".join(addresses).encode()
    write(tmp_path, {name: TABLES[name](table(addresses)) if name in TABLES else lines})
    reader, spec = (
        ImageReader(CONFIG),
        SimpleNamespace(
            config=CaptionConfig(), root=None, context=None, is_remote=False, digests=None
        ),
    )
    with secret_addresses() as private:
        shown = pa.concat_tables(private.taken_out(read_list(str(tmp_path / name), CONFIG)))
        whole = private.of(shown[schema.IMAGE_ID].to_pylist())
    assert len(set(shown[schema.IMAGE_ID].to_pylist())) == len(addresses) - 1  # two differ in users
    assert PLANTED not in str(shown.to_pylist())
    for row in shown.to_pylist():
        row[schema.URI] = whole.get(row[schema.IMAGE_ID], row[schema.URI])
        loaded = load_image(row, None, reader, _decode, spec)  # type: ignore[arg-type]
        assert loaded[schema.ERROR_CODE] == ErrorCode.NOT_FOUND
        assert PLANTED not in str(loaded)


def _decode(data: bytes) -> Any:
    raise AssertionError(data)


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_of_annotations_nothing_in_the_dataset_or_its_report_has_a_secret(
    tmp_path: Path, web: FaultyServer, name: str
) -> None:
    picture(tmp_path / "source" / "good.jpg")
    once = planted(web.url)
    again = [address.replace(PLANTED, f"{PLANTED}2") for address in once]
    folder = write(tmp_path / "source", {name: ANNOTATIONS[name]([*once, *again, "good.jpg"])})
    config = validate_config(PrepareConfig, {"storage": CONFIG.model_dump()})
    store = open_store(str(tmp_path / "out"), CONFIG)
    found = open_annotations(str(folder / name), CONFIG)
    plan = write_plan(store, found.tables, config, MARK)
    assert build(store, plan, config) == 0
    finish(store, plan, config)
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet")
    assert set(rejected[schema.REASON].to_pylist()) >= {"not_found"}
    for path in (tmp_path / "out").rglob("*.parquet"):
        assert PLANTED not in str(pq.read_table(path, partitioning=None).to_pylist()), path
    for path in (tmp_path / "out").rglob("*.json"):
        assert PLANTED not in path.read_text()
    assert PLANTED not in str(dataset_section(store, "a", ReportConfig()))


@pytest.mark.parametrize("name", TABLES)
def test_two_images_under_one_id_are_named_without_their_secrets(tmp_path: Path, name: str) -> None:
    rows = [
        {"uri": f"https://h/{n}.jpg?sig={PLANTED}&se=1", "image_id": "x", "caption": "a"}
        for n in (1, 2)
    ]
    write(tmp_path, {name: TABLES[name](rows)})
    with pytest.raises(RaycapError) as caught:
        list(open_source(str(tmp_path / name), CONFIG).tables)
    assert PLANTED not in str(caught.value)
    assert all(f"https://h/{n}.jpg" in str(caught.value) for n in (1, 2))


@pytest.mark.parametrize("position", range(14))
def test_an_address_given_as_source_output_or_folder_is_refused_without_its_secret(
    web: FaultyServer, tmp_path: Path, position: int
) -> None:
    address = planted(web.url)[position]
    write(tmp_path, {"l.csv": "image,caption\n1.jpg,a\n"})
    for use in (
        lambda: list(open_source(address, CONFIG).tables),
        lambda: list(open_source(f"{address}/l.csv", CONFIG).tables),
        lambda: list(open_source(f"{address}/*.jpg", CONFIG).tables),
        lambda: open_store(address, CONFIG).read("a"),
        lambda: open_annotations(address, CONFIG),
    ):
        with pytest.raises(RaycapError) as caught:
            use()
        assert PLANTED not in f"{caught.value} {caught.value.uri}"
