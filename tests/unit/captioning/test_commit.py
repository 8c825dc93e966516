"""The committer writes a complete part once, for any order and repetition of rows."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycap import schema
from raycap.captioning.commit import Committer
from raycap.captioning.parts import (
    CAPTIONS,
    MANIFEST,
    CaptionsFooter,
    encode_manifest,
    manifest_footer,
    read_captions_footer,
    read_part,
)
from raycap.captioning.plan import CaptionPlan
from raycap.errors import RunConflict, RunStopped, StorageError
from raycap.storage.local import LocalStore
from raycap.storage.parts import list_parts, part_key


class FreeLock:
    """The lock of a store without other writers."""

    def check(self) -> None:
        return


class LostLock:
    """A lock that another writer has taken over."""

    def check(self) -> None:
        raise RunConflict("taken over")


def planned(store: LocalStore, sizes: list[int]) -> CaptionPlan:
    plan = CaptionPlan()
    for number, size in enumerate(sizes):
        ids = [f"{number:02d}/{row:04d}" for row in range(size)]
        columns = [ids, ids, [7] * size, ["e"] * size, [None] * size]
        table = pa.table(columns, schema=schema.MANIFEST)
        plan.parts[number] = manifest_footer(table)
        store.write(part_key(MANIFEST, number), encode_manifest(table, plan.parts[number]))
    return plan


def answers(
    number: int, rows: list[int], num_rows: int, *, text: str = "a", partial: bool = False
) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                schema.PART: number,
                schema.ROW: row,
                schema.NUM_ROWS: num_rows,
                schema.PARTIAL: partial,
                schema.NUM_BYTES: 7,
                schema.PROMPT: 0,
                schema.IS_FIRST: True,
                schema.IMAGE_ID: f"{number:02d}/{row:04d}",
                schema.URI: "u",
                schema.ETAG: "e",
                schema.STATUS: "ok",
                schema.ATTEMPTS: 1,
                schema.CAPTION: f"{text} {row}",
                schema.NUM_WORDS: 2,
                schema.LOGPROB: -1.0,
                schema.ALTERNATIVES: [],
            }
            for row in rows
        ],
        schema=schema.ANSWERED,
    )


@contextmanager
def committing(
    store: LocalStore, plan: CaptionPlan
) -> Iterator[tuple[Committer, list[CaptionsFooter]]]:
    commits: list[CaptionsFooter] = []
    with Committer(
        store, FreeLock(), plan.versions, lambda _, footer: commits.append(footer)
    ) as committer:
        yield committer, commits


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_rows_in_any_order_with_repeats_give_each_part_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, seed: int, sizes: list[int]
) -> None:
    store = LocalStore(tmp_path_factory.mktemp("out"))
    plan = planned(store, sizes)
    rng = random.Random(seed)
    stream = [(n, row) for n, size in enumerate(sizes) for row in range(size)]
    stream += rng.choices(stream, k=len(stream) // 2)
    rng.shuffle(stream)
    fresh = 0
    with committing(store, plan) as (committer, commits):
        while stream:
            taken = [stream.pop() for _ in range(min(len(stream), rng.randint(1, 4)))]
            tables = [answers(n, [row], sizes[n]) for n, row in taken]
            fresh += len(committer.add(pa.concat_tables(tables)))
        committer.finish()
    assert fresh == sum(sizes) == sum(c.num_rows for c in commits)
    assert len(commits) == len(sizes)
    for number, size in enumerate(sizes):
        rows = read_part(store, CAPTIONS, number)
        assert rows[schema.IMAGE_ID].to_pylist() == [f"{number:02d}/{r:04d}" for r in range(size)]
        footer = read_captions_footer(store, number)
        assert footer.num_bytes == 7 * size
        assert datetime.fromisoformat(footer.committed_at).tzinfo == UTC


def test_a_part_that_is_not_whole_is_not_written_and_the_end_says_so(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    plan = planned(store, [3, 2])
    with committing(store, plan) as (committer, _):
        committer.add(answers(0, [0, 2], 3))
        committer.add(answers(1, [0, 1], 2))
        with pytest.raises(RunStopped, match=r"\b1 "):
            committer.finish()
    assert list(list_parts(store, CAPTIONS)) == [1]


def test_what_is_still_being_written_at_a_stop_counts_as_committed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    plan = planned(store, [3, 2])
    with committing(store, plan) as (committer, footers):
        committer.add(pa.concat_tables([answers(0, [0, 1, 2], 3), answers(1, [0], 2)]))
        committer.drain()
        assert [footer.num_rows for footer in footers] == [3]


def test_a_partial_answer_replaces_its_rows_and_keeps_the_others(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    plan = planned(store, [4])
    with committing(store, plan) as (committer, _):
        committer.add(answers(0, [0, 1, 2, 3], 4, text="old"))
        committer.finish()
    with committing(store, plan) as (committer, _):
        committer.add(answers(0, [3, 1], 2, text="new", partial=True))
        committer.finish()
    rows = read_part(store, CAPTIONS, 0)
    assert rows[schema.CAPTION].to_pylist() == ["old 0", "new 1", "old 2", "new 3"]


def _add_and_finish(committer: Committer) -> None:
    committer.add(answers(0, [0], 1))
    committer.finish()


def test_a_failed_write_is_raised_not_swallowed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    plan = planned(store, [1])
    (tmp_path / "captions").write_text("a file where the folder should be")
    # At the next rows, or at the end.
    with committing(store, plan) as (committer, _), pytest.raises(StorageError):
        _add_and_finish(committer)


def test_a_writer_that_was_taken_over_writes_nothing_more(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    plan = planned(store, [1])
    with (
        Committer(store, LostLock(), plan.versions, lambda *_: None) as committer,
        pytest.raises(RunConflict),  # at the next rows, or at the end
    ):
        _add_and_finish(committer)
    assert list(list_parts(store, CAPTIONS)) == []
