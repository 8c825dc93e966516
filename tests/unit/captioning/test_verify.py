"""Verification by hand-made outputs: plan, manifest, captions and footers must agree."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from raycap.captioning import parts
from raycap.captioning.parts import (
    CAPTIONS,
    MANIFEST,
    encode_captions,
    encode_manifest,
    manifest_footer,
    read_captions_part,
    read_manifest_part,
)
from raycap.captioning.verify import verify
from raycap.config import StorageConfig
from raycap.errors import DatasetError
from raycap.results.captioning import (
    PLAN,
    PlanRecord,
    Verification,
    write_plan_record,
    write_summary,
)
from raycap.results.shown.captioning import verification_rows
from raycap.runs.records import encode_json, fingerprint_digest
from raycap.storage.base import Store
from raycap.storage.parts import part_key
from raycap.storage.stores import open_store
from tests.support.outputs import row, summary, write_output

FINGERPRINT: dict[str, Any] = {"source": "x", "model": {}, "generation": {}, "image": {}}
DIGEST = fingerprint_digest(FINGERPRINT)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A finished output of two parts, as this version writes it."""
    store = open_store(str(tmp_path / "out"), StorageConfig())
    write_output(store, [row("a"), row("b")], [row("c"), row("d"), row("e")])
    store.write("run.json", encode_json({"fingerprint": FINGERPRINT}))
    for number in (0, 1):
        table, _ = read_captions_part(store, number)
        data, _ = encode_captions(table, 1, 0, run=DIGEST)
        store.write(part_key(CAPTIONS, number), data)
    write_plan_record(store, PlanRecord(run=DIGEST, num_parts=2, num_images=5))
    write_summary(store, summary(5))
    return store


def verified(store: Store) -> Verification:
    return verify(store.uri)


def cut_a_row(store: Store) -> None:
    """From the manifest and the captions alike, with footers that fit."""
    manifest, _ = read_manifest_part(store, 1)
    captions, _ = read_captions_part(store, 1)
    shorter = manifest.slice(0, 2)
    store.write(part_key(MANIFEST, 1), encode_manifest(shorter, manifest_footer(shorter)))
    store.write(part_key(CAPTIONS, 1), encode_captions(captions.slice(0, 2), 1, 0, run=DIGEST)[0])


def claim_rows(store: Store) -> None:
    """As a footer that was altered, or written by a fault."""
    manifest, footer = read_manifest_part(store, 1)
    store.write(part_key(MANIFEST, 1), encode_manifest(manifest, replace(footer, num_rows=1000)))


def claim_captions(store: Store) -> None:
    captions, footer = read_captions_part(store, 1)
    claimed = replace(footer, failed={"timeout": 2})
    store.write(part_key(CAPTIONS, 1), parts._encode(captions, asdict(claimed)))


def adopt(store: Store) -> None:
    captions, _ = read_captions_part(store, 1)
    store.write(part_key(CAPTIONS, 1), encode_captions(captions, 1, 0, run="another")[0])


def stray(store: Store) -> None:
    store.write(part_key(MANIFEST, 2), store.read(part_key(MANIFEST, 1)))


def test_a_finished_output_is_complete(store: Store) -> None:
    found = verified(store)
    assert found.is_complete, found
    assert (found.num_images, found.num_ok) == (5, 5)


@pytest.mark.parametrize("damage", [cut_a_row, claim_rows, claim_captions, adopt, stray])
def test_what_does_not_agree_is_found(store: Store, damage: Callable[[Store], None]) -> None:
    damage(store)
    assert not verified(store).is_sound


@pytest.mark.parametrize("number", [0, 1])
def test_a_lost_manifest_part_is_named(store: Store, number: int) -> None:
    store.delete(part_key(MANIFEST, number))
    with pytest.raises(DatasetError) as caught:
        verified(store)
    assert caught.value.uri == store.address(part_key(MANIFEST, number))


def test_a_run_without_a_summary_is_not_complete(store: Store) -> None:
    store.delete("summary.json")
    found = verified(store)
    assert (found.is_sound, found.num_pending, found.is_complete) == (True, 0, False)


def test_the_summary_of_a_smaller_plan_is_none(store: Store) -> None:
    write_summary(store, summary(4))
    assert not verified(store).is_complete


def test_an_output_of_an_older_version_is_complete_without_a_plan(store: Store) -> None:
    store.delete(PLAN)
    assert verified(store).is_complete


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"run.json": {"fingerprint": FINGERPRINT}},
        {"run.json": {"fingerprint": {"command": "tune"}}},
        {"run.json": {"fingerprint": {"kind": "blip", "train": {}}}},
        {"run.json": {"fingerprint": ["odd"]}},
        {"run.json": ["odd"]},
        {"run.json": {}, "plan.json": {"run": 3, "num_parts": -1, "num_images": "many"}},
        {"dataset.json": {}},
        {"training.json": {}, "run.json": {"fingerprint": {"kind": "blip"}}},
    ],
    ids=lambda files: "+".join(files) or "empty",
)
def test_what_is_no_finished_plan_of_captions_is_refused(
    tmp_path: Path, files: dict[str, Any]
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    with pytest.raises(DatasetError) as caught:
        verify(folder)
    assert "\n" not in str(caught.value)


def test_deeply_nested_json_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("[" * 100_000)
    with pytest.raises(DatasetError):
        verify(tmp_path)


def test_pictures_that_the_run_did_not_read_are_told(store: Store) -> None:
    assert "NOT READ" not in dict(verification_rows(verified(store)))
    write_summary(store, replace(summary(5), skipped={".svg": 5}))
    assert dict(verification_rows(verified(store)))["NOT READ"].startswith("5 .svg: 50%")
