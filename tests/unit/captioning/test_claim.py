"""What an output belongs to: a run with captions, and none that captioned nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raycap.captioning.claim import CaptionClaim, caption_fingerprint
from raycap.captioning.ledger import read_ledger
from raycap.captioning.parts import CAPTIONS, MANIFEST, encode_captions, read_captions_part
from raycap.captioning.plan import extend_plan, read_plan, record_plan
from raycap.captioning.run import caption, forecast
from raycap.captioning.source import open_source
from raycap.config import CaptionConfig, FittedImageConfig, StorageConfig
from raycap.config.loading import validate_config
from raycap.errors import ConfigError, DatasetError, RunConflict
from raycap.models.fitting import fit_images
from raycap.models.sources import find_model
from raycap.preflights.run import check_run, preflight
from raycap.results.captioning import PLAN, PlanRecord, read_summary, write_plan_record
from raycap.runs.opening import claim_output
from raycap.runs.records import RUN, fingerprint_digest, read_json
from raycap.schema import CAPTIONS as CAPTION_COLUMNS
from raycap.storage.base import Store
from raycap.storage.parts import list_parts, part_key
from raycap.storage.stores import open_store
from tests.support.outputs import row, write_output

OURS: dict[str, Any] = {"source": "ours"}
THEIRS: dict[str, Any] = {"source": "theirs"}
STUB = validate_config(CaptionConfig, {"model": {"name": "stub"}})


def claim(fingerprint: dict[str, Any] = OURS) -> CaptionClaim:
    return CaptionClaim(fingerprint, CaptionConfig())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Captions whose `run.json` is lost."""
    store = open_store(str(tmp_path / "out"), StorageConfig())
    write_output(store, [row("a"), row("b")], [row("c")])
    store.delete(RUN)
    return store


def sign(store: Store, run: str) -> None:
    for number in (0, 1):
        table, _ = read_captions_part(store, number)
        store.write(part_key(CAPTIONS, number), encode_captions(table, 1, 0, run=run)[0])


@pytest.mark.parametrize("run", ["", fingerprint_digest(THEIRS)])
def test_captions_of_another_or_an_unknown_run_are_not_adopted(store: Store, run: str) -> None:
    sign(store, run)
    with pytest.raises(DatasetError) as caught:
        claim_output(store, claim())
    assert caught.value.uri == store.address(part_key(CAPTIONS, 0))
    assert not store.exists(RUN)


def test_captions_of_the_same_run_are_continued(store: Store) -> None:
    sign(store, fingerprint_digest(OURS))
    write_plan_record(store, PlanRecord(run=fingerprint_digest(OURS), num_parts=2, num_images=3))
    claim_output(store, claim())
    assert read_json(store, RUN)["fingerprint"] == OURS
    assert read_plan(store, 1).num_images == 3


def test_a_run_that_committed_nothing_is_taken_over_with_its_plan(store: Store) -> None:
    store.delete_all(CAPTIONS)
    claim_output(store, claim(THEIRS))
    write_plan_record(store, PlanRecord(run=fingerprint_digest(THEIRS), num_parts=2, num_images=3))
    claim_output(store, claim())
    assert read_json(store, RUN)["fingerprint"] == OURS
    assert not store.exists(PLAN)
    assert not list(list_parts(store, MANIFEST))


def test_a_run_with_captions_keeps_its_output(store: Store) -> None:
    sign(store, fingerprint_digest(THEIRS))
    claim_output(store, claim(THEIRS))
    with pytest.raises(RunConflict):
        claim_output(store, claim())


@pytest.mark.parametrize("number", [0, 1])
def test_a_part_of_another_run_or_manifest_is_named(store: Store, number: int) -> None:
    ours = fingerprint_digest(OURS)
    sign(store, ours)
    table, _ = read_captions_part(store, number)
    plan = read_plan(store, 1)
    other, _ = read_captions_part(store, 1 - number)
    for data in (
        encode_captions(table, 1, 0, run="theirs")[0],
        encode_captions(other, 1, 0, run=ours)[0],
    ):
        store.write(part_key(CAPTIONS, number), data)
        with pytest.raises(DatasetError) as caught:
            read_ledger(store, plan, retry_failed=False, num_threads=1, run=ours)
        assert caught.value.uri == store.address(part_key(CAPTIONS, number))
        assert store.read(part_key(CAPTIONS, number)) == data


def test_a_dry_run_is_refused_where_the_run_would_be(
    store: Store, tmp_path: Path, make_jpeg: Callable[..., bytes]
) -> None:
    make_jpeg(tmp_path / "photos" / "a.jpg")
    claim_output(open_store(str(tmp_path / "new"), StorageConfig()), claim(THEIRS))
    assert forecast(tmp_path / "photos", tmp_path / "new", config=STUB).num_pending == 1
    sign(store, fingerprint_digest(THEIRS))
    with pytest.raises(DatasetError) as lost:  # as its `run.json` is
        forecast(tmp_path / "photos", store.uri, config=STUB)
    assert lost.value.uri == store.address(part_key(CAPTIONS, 0))
    claim_output(store, claim(THEIRS))
    before = [(path, path.stat().st_mtime_ns) for path in sorted(Path(store.uri).rglob("*"))]
    with pytest.raises(RunConflict) as caught:
        forecast(tmp_path / "photos", store.uri, config=STUB)
    assert caught.value.uri == store.uri
    assert before == [(p, p.stat().st_mtime_ns) for p in sorted(Path(store.uri).rglob("*"))]


def test_a_dry_run_counts_nothing_of_a_run_that_would_be_replaced(
    store: Store, tmp_path: Path, make_jpeg: Callable[..., bytes]
) -> None:
    make_jpeg(tmp_path / "photos" / "z.jpg")
    store.delete_all(CAPTIONS)
    claim_output(store, claim(THEIRS))
    found = forecast(tmp_path / "photos", store.uri, config=STUB)
    assert (found.num_images, found.num_pending) == (1, 1)


def test_a_dry_run_counts_nothing_of_a_plan_whose_run_is_lost(
    store: Store, tmp_path: Path, make_jpeg: Callable[..., bytes]
) -> None:
    make_jpeg(tmp_path / "photos" / "z.jpg")
    store.delete_all(CAPTIONS)
    write_plan_record(store, PlanRecord(run=fingerprint_digest(THEIRS), num_parts=2, num_images=3))
    found = forecast(tmp_path / "photos", store.uri, config=STUB)
    assert (found.num_images, found.num_pending) == (1, 1)


@pytest.fixture
def moved(tmp_path: Path, make_jpeg: Callable[..., bytes]) -> Store:
    """The output of a finished run over `before`, which is now called `after`."""
    make_jpeg(tmp_path / "before" / "a.jpg")
    listing = open_source(str(tmp_path / "before"), StorageConfig())
    fingerprint = caption_fingerprint(listing.identity, find_model("stub"), STUB)
    store = open_store(str(tmp_path / "out"), StorageConfig())
    claim_output(store, CaptionClaim(fingerprint, STUB))
    plan = extend_plan(store, listing.tables, part_size=10, num_threads=1)
    plan.run = fingerprint_digest(fingerprint)
    record_plan(store, plan)
    captions = pa.Table.from_pylist([row("a.jpg")], schema=CAPTION_COLUMNS)
    store.write(part_key(CAPTIONS, 0), encode_captions(captions, 1, 0, run=plan.run)[0])
    (tmp_path / "before").rename(tmp_path / "after")
    return store


def test_a_fingerprint_says_how_images_are_fitted_only_where_that_was_set() -> None:
    before = caption_fingerprint({}, find_model("stub"), STUB)
    assert before["image"] == {"max_bytes": 100_000_000, "max_pixels": 178_956_970}
    assert before["model"]["preprocessing"].keys() == {"width_px", "height_px", "resample"}
    found = []
    kept = {"fit": "keep"}
    for values in ({}, kept, {**kept, "max_pixels_model": 9}, {"fit": "square"}):
        image = validate_config(FittedImageConfig, values)
        config = STUB.model_copy(update={"image": image})
        found.append(caption_fingerprint({}, fit_images(find_model("stub"), image), config))
    assert found[0] == before
    assert len({fingerprint_digest(one) for one in found}) == len(found)


def test_a_dry_run_follows_a_source_that_has_moved(moved: Store, tmp_path: Path) -> None:
    after = tmp_path / "after"
    for former in (None, tmp_path / "other"):
        with pytest.raises(RunConflict, match="--source-moved-from"):
            forecast(after, moved.uri, config=STUB, source_moved_from=former)
    found = forecast(after, moved.uri, config=STUB, source_moved_from=tmp_path / "before")
    assert (found.num_images_done, found.num_pending) == (1, 0)


def test_a_preflight_follows_a_source_that_has_moved(moved: Store, tmp_path: Path) -> None:
    listing = open_source(str(tmp_path / "after"), StorageConfig())
    fingerprint = caption_fingerprint(listing.identity, find_model("stub"), STUB)
    with pytest.raises(RunConflict, match="--source-moved-from"):
        check_run(moved, fingerprint, STUB, None)
    assert check_run(moved, fingerprint, STUB, tmp_path / "before")


def test_a_source_that_has_lost_all_its_images_is_told(moved: Store, tmp_path: Path) -> None:
    after, before = tmp_path / "after", tmp_path / "before"
    (after / "a.jpg").unlink()
    assert forecast(after, moved.uri, config=STUB, source_moved_from=before).is_source_empty
    summary = caption(after, moved.uri, config=STUB, source_moved_from=before)
    assert (summary.num_images, summary.num_gone, summary.is_source_empty) == (1, 0, True)
    assert read_summary(moved) == summary
    with pytest.raises(ConfigError) as caught:
        preflight(after, moved.uri, 1, config=STUB, source_moved_from=before)
    assert caught.value.uri == str(after)
