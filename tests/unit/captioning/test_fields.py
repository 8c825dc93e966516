"""Fields of prompts: where a source has them, and which prompts are plain text."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from raycap.captioning.context import (
    Context,
    digests_of,
    encode,
    encode_sidecars,
    has_changed,
    own_values,
    stale_fields,
)
from raycap.captioning.fields import find_fields
from raycap.captioning.source import Listing, open_source
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from raycap.errors import ConfigError, ErrorCode, ImageError, ObjectNotFound
from raycap.runs.records import RUN
from raycap.storage.local import LocalStore
from tests.conftest import MakeJpeg


def settings(prompt: str = "", **source: Any) -> CaptionConfig:
    return validate_config(CaptionConfig, {"generation": {"prompt": prompt}, "source": source})


def find(
    source: Path, prompt: str = "", output: Path | None = None, **of_source: Any
) -> tuple[Listing, CaptionConfig]:
    config = settings(prompt, **of_source)
    listing = open_source(str(source), config.storage)
    return listing, find_fields(listing, config, LocalStore(output or source / "out"))


def contexts(listing: Listing) -> dict[str, Any]:
    table = pa.concat_tables(listing.tables)
    found = [None if one is None else json.loads(one) for one in table["context"].to_pylist()]
    return dict(zip(table["image_id"].to_pylist(), found, strict=True))


@pytest.fixture
def photos(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    folder = tmp_path / "photos"
    for seed, name in enumerate(("a.jpg", "b/c.jpg", "b/d.png.jpg")):
        make_jpeg(folder / name, seed=seed)
    return folder


def test_a_prompt_without_fields_is_plain_text_and_the_listing_has_no_context(
    photos: Path,
) -> None:
    (photos / "a.json").write_text('{"tags": "x"}')
    listing, config = find(photos, 'Answer as {"a": {}} {{tags}}')
    assert config.source.context == "off"
    assert Context.of(config) is None
    assert contexts(listing) == {"a.jpg": None, "b/c.jpg": None, "b/d.png.jpg": None}
    assert listing.skipped == {".json": 1}


def test_fields_of_the_image_itself_need_nothing_beside_it(photos: Path) -> None:
    listing, config = find(photos, "{file_name} {folder} {exif.date} {exif.gps}")
    context = Context.of(config)
    assert context is not None
    assert context.origin is None
    assert set(contexts(listing).values()) == {None}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_columns_of_a_list_are_fields_and_only_those_that_are_used_travel(
    tmp_path: Path, suffix: str
) -> None:
    table = pa.table(
        {
            "uri": ["a.jpg", "b.jpg"],
            "tags": ["x, y", None],
            "alt": ["an owl", "https://h/p.jpg?X-Amz-Signature=abc&X-Amz-Credential=k"],
            "signed": ["https://h/a?sig=1&se=2"] * 2,
        }
    )
    path = tmp_path / f"list{suffix}"
    if suffix == ".parquet":
        pq.write_table(table, path)
    elif suffix == ".csv":
        csv.write_csv(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    listing, config = find(path, "Tags: {tags}", keep_columns=["alt"], output=tmp_path)
    assert config.source.context == "columns"
    found = contexts(listing)
    assert found["a.jpg"] == {"tags": "x, y", "alt": "an owl"}
    assert "abc" not in found["b.jpg"]["alt"]
    assert found["b.jpg"]["tags"] is None


def test_a_metadata_file_is_preferred_to_sidecars(photos: Path) -> None:
    (photos / "a.json").write_text('{"tags": "of the sidecar"}')
    listing, config = find(photos, "{tags}")
    assert config.source.context == "sidecars"
    assert set(contexts(listing)["a.jpg"]["*"]) == {"a.json"}
    assert not listing.skipped
    (photos / "metadata.csv").write_text("file_name,tags\nb/c.jpg,of the file\n")
    listing, config = find(photos, "{tags}")
    assert config.source.context == "metadata"
    found = contexts(listing)
    assert found["b/c.jpg"] == {"tags": "of the file"}
    assert found["a.jpg"] == {"tags": None}
    assert listing.skipped == {".json": 1}
    listing, config = find(photos, "{tags}", context="sidecars")
    assert set(contexts(listing)["a.jpg"]["*"]) == {"a.json"}
    assert listing.skipped == {".csv": 1}


def test_a_glob_has_the_sidecars_of_its_images(photos: Path) -> None:
    (photos / "b/c.txt").write_text("text")
    (photos / "b/d.png.jpg.json").write_text("{}")
    config = settings("{text}")
    listing = open_source(f"{photos}/**/*.jpg", config.storage)
    find_fields(listing, config, LocalStore(photos))
    found = contexts(listing)
    assert {name: set(of["*"]) for name, of in found.items()} == {
        "a.jpg": set(),
        "b/c.jpg": {"c.txt"},
        "b/d.png.jpg": {"d.png.jpg.json"},
    }


@pytest.mark.parametrize(
    ("prompt", "source", "setting"),
    [
        ("{tgas}", {}, "generation.prompt"),
        ("{tags}", {"keep_columns": ["none"]}, "source.keep_columns"),
        ("", {"keep_columns": ["caption"]}, "source.keep_columns"),
        ("", {"keep_columns": ["tags"], "context": "off"}, "source.keep_columns"),
        ("{tags}", {"context": "metadata"}, "source.context"),
        ("{tags}", {"context": "columns"}, "source.context"),
    ],
)
def test_a_field_that_does_not_exist_is_an_error_before_the_run(
    photos: Path, prompt: str, source: dict[str, Any], setting: str
) -> None:
    (photos / "a.json").write_text('{"tags": "x"}')
    with pytest.raises(ConfigError) as error:
        find(photos, prompt, **source)
    assert error.value.setting == setting


def test_addresses_are_no_field(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("uri,tags\na.jpg,x\n")
    with pytest.raises(ConfigError):
        find(tmp_path / "l.csv", "{uri}", output=tmp_path)


def test_a_run_begun_with_plain_text_continues_with_it(tmp_path: Path, photos: Path) -> None:
    def recorded(fingerprint: dict[str, Any]) -> Path:
        output = tmp_path / "out"
        output.mkdir(exist_ok=True)
        (output / RUN).write_text(json.dumps({"fingerprint": fingerprint}))
        return output

    old = {"generation": {"prompt": "as {json}"}}
    listing, config = find(photos, "as {json}", recorded(old))
    assert config.source.context == "off"
    assert listing.wanted is None
    for other in ({"generation": {"prompt": ""}}, {**old, "context": {}}):
        with pytest.raises(ConfigError):
            find(photos, "as {json}", recorded(other))


@pytest.mark.parametrize(
    ("image_id", "uri", "is_below", "expected"),
    [
        ("a/b/c.jpg", "/x/a/b/c.jpg", True, {"file_name": "c.jpg", "folder": "a/b"}),
        ("c.jpg", "/x/c.jpg", True, {"file_name": "c.jpg"}),
        ("42", "/x/y/c.jpg", False, {"file_name": "c.jpg", "folder": "y"}),
        ("42", "https://h/x/c%20d.jpg?sig=1", False, {"file_name": "c d.jpg", "folder": "x"}),
        ("42", "s3://b/k/c.jpg", False, {"file_name": "c.jpg", "folder": "k"}),
    ],
)
def test_name_and_folder_are_those_below_the_source_or_in_the_address(
    image_id: str, uri: str, is_below: bool, expected: dict[str, str]
) -> None:
    assert own_values(image_id, uri, 100, is_below_source=is_below) == expected


def context_of(prompts: dict[str, str], origin: str, keep: tuple[str, ...] = ()) -> Context:
    source = {"context": origin, "keep_columns": keep}
    found = Context.of(validate_config(CaptionConfig, {"prompts": prompts, "source": source}))
    assert found is not None
    return found


def read_both(files: dict[str, bytes]) -> dict[str, str]:
    def read(uri: str, max_bytes: int) -> bytes:
        assert max_bytes > 0
        if uri not in files:
            raise ObjectNotFound(uri)
        return files[uri]

    context = context_of({"one": "{tags} {text}"}, "sidecars")
    return context.beside(encode_sidecars({"a.json": "1", "a.txt": "2"}), "s3://b/f/a.jpg", read)


def test_sidecars_give_the_fields_of_json_that_are_used_and_the_text() -> None:
    data = b'{"tags": ["x", "y"], "text": "no", "secret": "z"}'
    found = read_both({"s3://b/f/a.json": data, "s3://b/f/a.txt": b"a\ntext\n"})
    assert found == {"tags": "x, y", "text": "a text"}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"{broken", ErrorCode.NO_CONTEXT),
        (b"[1]", ErrorCode.NO_CONTEXT),
        (b"x" * 1_048_577, ErrorCode.NO_CONTEXT),
        (None, ErrorCode.NOT_FOUND),
    ],
)
def test_a_sidecar_that_cannot_be_read_fails_its_image(data: bytes | None, code: ErrorCode) -> None:
    files = {"s3://b/f/a.txt": b""} | ({} if data is None else {"s3://b/f/a.json": data})
    with pytest.raises(ImageError) as error:
        read_both(files)
    assert error.value.code is code


def test_other_fields_than_before_are_no_other_values() -> None:
    tags, both = encode({"tags": "x"}), encode({"tags": "x", "alt": None})
    assert not has_changed(None, tags)
    assert not has_changed(tags, both)
    assert has_changed(both, encode({"alt": "y"}))
    assert has_changed(both, encode({"tags": None}))
    assert has_changed(encode_sidecars({"a.json": "1"}), encode_sidecars({"a.json": "2"}))


def test_only_prompts_whose_fields_have_other_values_are_asked_again() -> None:
    prompts = {"plain": "It?", "tagged": "{tags}", "both": "{tags}[[ {alt}]] {file_name}"}
    context = context_of(prompts, "columns", keep=("license",))
    before = digests_of(encode({"tags": "x", "alt": None, "license": "cc"}))

    def asked(**values: str | None) -> list[int] | None:
        now = encode({"tags": "x", "alt": None, "license": "cc"} | values)
        return context.open_prompts(stale_fields(now, before))

    assert asked() == []
    assert asked(alt="y") == [2]
    assert asked(tags="y") == [1, 2]
    assert asked(tags=None) == [1, 2]
    assert asked(license="by") is None
    sidecars = context_of(prompts, "sidecars")
    assert sidecars.open_prompts({"*"}) == [1, 2]
