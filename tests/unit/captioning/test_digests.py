"""The index of digests, and which images of a block the model is asked about."""

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raycap import schema
from raycap.captioning.captioner import answered_table
from raycap.captioning.claim import check_asked, check_prompts
from raycap.captioning.digests import (
    DigestIndex,
    is_failed,
    key_of,
    place_of,
    salt_of,
    without_copies,
    write_index,
)
from raycap.captioning.parts import (
    CAPTIONS,
    MANIFEST,
    encode_captions,
    encode_manifest,
    manifest_footer,
)
from raycap.captioning.plan import read_plan
from raycap.captioning.prompts import Prompt
from raycap.captioning.source import open_source
from raycap.config import CaptionConfig
from raycap.config.loading import load_config
from raycap.errors import ConfigError, ErrorCode, StorageError
from raycap.models.sources import find_model
from raycap.storage.local import LocalStore
from raycap.storage.parts import part_key
from tests.support.outputs import row

ONLY = (Prompt(name="", text=""),)
TWO = (Prompt(name="one", text="1:"), Prompt(name="two", text="2:"))


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def loaded(number: int, content: str | None, **changes: Any) -> dict[str, Any]:
    """Give a LOADED row; without a content, of a file that could not be read."""
    is_read = content is not None
    return {
        **dict.fromkeys(schema.LOADED.names),
        **row(f"{number}.png"),
        schema.CAPTION: None,
        schema.PART: 3,
        schema.ROW: number,
        schema.NUM_ROWS: 9,
        schema.NUM_BYTES: 1,
        schema.PARTIAL: False,
        schema.PROMPT: 0,
        schema.IS_FIRST: True,
        schema.DIGEST: digest(content) if content is not None else None,
        schema.PIXELS: b"pixels" if is_read else None,
        schema.STATUS: "ok" if is_read else "failed",
        schema.ERROR_CODE: None if is_read else "timeout",
        **changes,
    }


def block(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema.LOADED)


@pytest.fixture
def index(tmp_path: Path) -> DigestIndex:
    return DigestIndex.create(tmp_path / "digests", 1000)


def asked(tables: Sequence[pa.Table]) -> list[tuple[int, list[int] | None]]:
    """Which rows the model is asked about, and the prompts."""
    rows = [one for table in tables for one in table.to_pylist()]
    return [(one["row"], one["prompts"]) for one in rows if one["pixels"]]


def test_the_first_row_of_a_digest_asks_and_so_it_does_when_it_asks_again(
    index: DigestIndex,
) -> None:
    a, b, c = (key_of(digest(text), b"") for text in "abc")
    assert index.claim([a, b, a], [1, 2, 3]) == [True, True, False]
    assert index.claim([a, c, b], [1, 4, 5]) == [True, True, False]


def test_another_process_finds_what_was_claimed(index: DigestIndex, tmp_path: Path) -> None:
    key = key_of(digest("a"), b"")
    index.claim([key], [0])
    successor = DigestIndex(tmp_path / "digests")
    assert successor.claim([key, key], [7, 0]) == [False, True]


def test_a_full_index_still_finds_every_key(tmp_path: Path) -> None:
    index = DigestIndex.create(tmp_path / "digests", 0)
    keys = [os.urandom(16) for _ in range(1024)]
    places = list(range(1024))
    assert all(index.claim(keys, places))
    assert all(index.claim(keys, places))
    assert not any(index.claim(keys, [place + 1 for place in places]))


def test_an_index_for_which_there_is_no_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        DigestIndex.create(tmp_path / "digests", 2**56)
    assert caught.value.uri == str(tmp_path / "digests")


def test_only_the_first_of_equal_images_goes_to_the_model(index: DigestIndex) -> None:
    first = block(loaded(0, "a"), loaded(1, "b"), loaded(2, "a"), loaded(3, None))
    second = block(loaded(4, "b"), loaded(5, "c"))
    found = list(without_copies(iter([first, second]), index.claim, ONLY))
    assert asked(found) == [(0, None), (1, None), (5, None)]
    rows = {one["row"]: one for table in found for one in table.to_pylist()}
    assert len(rows) == 6
    for number in (2, 4):
        assert rows[number]["error_code"] == "awaits_original"
        assert rows[number]["attempts"] == 0
        assert rows[number]["width_px"] == 64
    assert rows[3]["error_code"] == "timeout"
    assert rows[3]["attempts"] == 1
    tables = pa.concat_tables(found)
    assert sum(is_failed(tables).to_pylist()) == 1
    # The task is repeated after a death: the same images go to the model.
    again = list(without_copies(iter([second, first]), index.claim, ONLY))
    assert sorted(asked(again)) == [(0, None), (1, None), (5, None)]


def test_each_prompt_has_its_own_claims_and_a_row_can_have_both(index: DigestIndex) -> None:
    index.claim([key_of(digest("a"), salt_of(TWO[0]))], [99])
    rows = block(loaded(0, "a"), loaded(1, "a"), loaded(2, "b"), loaded(3, "b", prompts=[1]))
    (found,) = without_copies(iter([rows]), index.claim, TWO)
    assert asked([found]) == [(0, [1]), (2, None)]
    waiting = [one for one in found.to_pylist() if not one["pixels"]]
    assert [(one["row"], one["prompts"]) for one in waiting] == [(0, [0]), (1, None), (3, [1])]
    # A row that is asked about one prompt counts once, and one that has answers is no copy.
    assert [one["is_first"] for one in waiting] == [False, True, True]
    assert [one["attempts"] for one in waiting] == [1, 0, 1]

    spec: Any = type("Spec", (), {"prompts": TWO})
    answered = answered_table(found, {}, spec).to_pylist()
    by_row = sorted((one["row"], one["prompt_index"], one["is_first"]) for one in answered)
    expected = [(0, 0, False), (0, 1, True), (1, 0, True), (1, 1, False)]
    assert by_row == [*expected, (2, 0, True), (2, 1, False), (3, 1, True)]


def written(folder: Path, rows: list[dict[str, Any]], etag: str = "1-2") -> LocalStore:
    """Write an output of one part, of which the first image has another ETag now."""
    store = LocalStore(folder)
    names = (schema.IMAGE_ID, schema.URI)
    images = [{name: one[name] for name in names} | {schema.ETAG: "1-2"} for one in rows]
    images[0][schema.ETAG] = etag
    manifest = pa.Table.from_pylist(images, schema=schema.MANIFEST)
    footer = manifest_footer(manifest, revision=int(etag != "1-2"))
    store.write(part_key(MANIFEST, 0), encode_manifest(manifest, footer))
    table = pa.Table.from_pylist(rows, schema=schema.CAPTIONS)
    store.write(part_key(CAPTIONS, 0), encode_captions(table, 1, 0)[0])
    return store


@pytest.mark.parametrize(
    ("changes", "again", "is_known"),
    [
        ({}, (), True),
        ({"status": "failed", "caption": None, "error_code": "model_rejected"}, (), True),
        (
            {"status": "failed", "caption": None, "error_code": "model_rejected"},
            ("model_rejected",),
            False,
        ),
        ({"status": "failed", "caption": None, "error_code": "network"}, (), False),
        ({"status": "failed", "caption": None, "error_code": "awaits_original"}, (), False),
        (
            {"status": "failed", "caption": None, "error_code": "too_large", "width_px": None},
            (),
            False,
        ),
        ({"digest": None}, (), False),
    ],
)
def test_answers_that_others_can_share_are_known_from_the_start(
    changes: dict[str, Any], again: tuple[str, ...], is_known: bool, tmp_path: Path
) -> None:
    rows = [{**row("a.png"), schema.DIGEST: digest("a"), **changes}]
    store = written(tmp_path / "out", rows)
    plan, file = read_plan(store, 1), tmp_path / "digests"
    assert write_index(file, store, plan, [0], ONLY, again, 1) == is_known
    assert DigestIndex(file).claim([key_of(digest("a"), b"")], [77]) == [not is_known]


def test_the_caption_of_an_image_that_has_changed_is_known_but_not_as_its_own(
    tmp_path: Path,
) -> None:
    rows = [row(f"{text}.png", **{schema.DIGEST: digest(text)}) for text in "ab"]
    store = written(tmp_path / "out", rows, etag="3-4")
    file = tmp_path / "digests"
    assert write_index(file, store, read_plan(store, 1), [0], ONLY, (), 1) == 2
    keys = [key_of(digest(text), b"") for text in "ab"]
    assert DigestIndex(file).claim(keys, [place_of(0, 0), place_of(0, 1)]) == [False, True]


def test_the_failure_of_an_image_that_has_changed_is_not_known(tmp_path: Path) -> None:
    rejected = {"status": "failed", "caption": None, "error_code": "model_rejected"}
    rows = [{**row("a.png"), schema.DIGEST: digest("a"), **rejected}]
    store = written(tmp_path / "out", rows, etag="3-4")
    assert write_index(tmp_path / "digests", store, read_plan(store, 1), [0], ONLY, (), 1) == 0


def test_off_is_a_word_in_yaml_too(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("engine:\n  deduplicate: off\n")
    assert load_config(CaptionConfig, file, [], {}).engine.deduplicate == "off"
    found = load_config(CaptionConfig, None, ["engine.deduplicate=content"], {})
    assert found.engine.deduplicate == "content"
    assert ErrorCode.AWAITS_ORIGINAL not in {one for one in ErrorCode if one.is_transient}


def test_prompts_with_fields_are_refused() -> None:
    settings = ["engine.deduplicate=content", "generation.prompt='In {folder}:'"]
    config = load_config(CaptionConfig, None, [*settings, "source.context=sidecars"], {})
    with pytest.raises(ConfigError) as caught:
        check_prompts(config, find_model("stub"))
    assert caught.value.setting == "engine.deduplicate"


def test_images_that_servers_read_themselves_are_refused(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("https://host/a.jpg\n")
    servers = ["endpoint.urls=[http://localhost:1/v1]", "endpoint.send=uri"]
    settings = ["engine.deduplicate=content", "model.backend=endpoint", "model.name=m", *servers]
    config = load_config(CaptionConfig, None, settings, {})
    with pytest.raises(ConfigError) as caught:
        check_asked(config, open_source(str(listed), config.storage, None))
    assert caught.value.setting == "engine.deduplicate"
