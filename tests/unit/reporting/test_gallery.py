"""Which images are shown: the true first ones, and random ones that are not flattered."""

import random
from pathlib import Path

import pyarrow as pa
import pytest

from raycap import schema
from raycap.config import StorageConfig
from raycap.errors import DatasetError
from raycap.reporting.evaluation_gallery import RANKING, choose, read_rows
from raycap.reporting.gallery import (
    BEST,
    DIFFERENT,
    DRAW,
    FAILED,
    RANDOM,
    WORST,
    Draws,
    First,
    fill_up,
)
from raycap.schema import IMAGE_ID, LOGPROB
from raycap.storage.stores import open_store
from tests.support.report_samples import Rows, score_row, write_sample


def table_of(rows: list[tuple[str, float | None]]) -> pa.Table:
    ids, values = zip(*rows, strict=True)
    return pa.table({IMAGE_ID: list(ids), LOGPROB: pa.array(list(values), pa.float32())})


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_the_first_rows_of_a_stream_are_those_of_a_whole_sort(order: str) -> None:
    generator = random.Random(0)
    rows = [(f"{n:05}", generator.choice([None, float("nan"), *range(9)])) for n in range(40_000)]
    first = First(100, LOGPROB, order)
    for start in range(0, len(rows), 1000):
        first.add(table_of(rows[start : start + 1000]))
    sign = 1 if order == "ascending" else -1
    finite = [(image_id, value) for image_id, value in rows if value is not None and value == value]
    expected = sorted(finite, key=lambda row: (sign * row[1], row[0]))[:100]
    assert first.ids() == [image_id for image_id, _ in expected]


def test_fewer_rows_than_wanted_are_all_kept() -> None:
    first = First(100, LOGPROB, "ascending")
    assert first.ids() == []
    first.add(table_of([("b", -1.0), ("a", -2.0)]))
    assert first.ids() == ["a", "b"]


def test_draws_depend_on_the_seed_alone() -> None:
    table = table_of([("a", 0.0), ("b", 0.0)])

    def drawn(seed: int) -> list[float]:
        draws = Draws(seed)
        return [value for _ in range(2) for value in draws.append_to(table)[DRAW].to_pylist()]

    assert drawn(1) == drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 4


def test_random_images_fill_the_gallery_and_may_be_chosen_ones() -> None:
    assert fill_up({"a", "b"}, ["c", "a", "d", "e", "b"], 4) == ["c", "a", "d"]
    assert fill_up(set(), ["c", "a"], 4) == ["c", "a"]
    assert fill_up({"a", "b"}, ["c", "a"], 2) == []


def rows_with(scores: list[float | None], name: str = "image") -> Rows:
    """Rows of one system with those CIDEr-Ds; None is a failed row."""
    rows = []
    for number, score in enumerate(scores):
        caption = None if score is None else "a cat"
        row = score_row(f"{name}-{number:03}", None, caption, ["a cat on a mat"])
        rows.append(row | {RANKING: score})
    return rows


def test_each_system_has_its_own_best_and_worst(tmp_path: Path) -> None:
    up: list[float | None] = [float(n) for n in range(40)]
    down = up[::-1]
    evaluation = write_sample(tmp_path, ["up", "down"], [rows_with(up), rows_with(down)])
    store = open_store(str(tmp_path), StorageConfig())
    chosen = choose(store, evaluation.systems, 16, seed=0)
    assert chosen.own[0][BEST] == {"image-038", "image-039"} == chosen.own[1][WORST]
    assert chosen.own[0][WORST] == {"image-000", "image-001"} == chosen.own[1][BEST]
    assert chosen.common[DIFFERENT] == {"image-000", "image-001", "image-038", "image-039"}
    assert chosen.common[FAILED] == set()
    assert len(chosen.ids()) == len(set(chosen.ids())) == 16
    assert frozenset(chosen.random) == chosen.common[RANDOM]


def test_failed_images_of_every_system_are_shown_and_are_not_the_worst(tmp_path: Path) -> None:
    first: list[float | None] = [None, *map(float, range(1, 20))]
    second: list[float | None] = [*map(float, range(19)), None]
    rows = [rows_with(first), rows_with(second)]
    rows[1][19][RANKING] = 0.0  # as the policy `worst` scores it
    evaluation = write_sample(tmp_path, ["a", "b"], rows)
    chosen = choose(open_store(str(tmp_path), StorageConfig()), evaluation.systems, 16, seed=0)
    assert chosen.common[FAILED] == {"image-000", "image-019"}
    assert "image-019" not in chosen.own[1][WORST]


def test_random_images_are_drawn_from_all_of_them(tmp_path: Path) -> None:
    evaluation = write_sample(tmp_path, ["a"], [rows_with([float(n) for n in range(400)])])
    store = open_store(str(tmp_path), StorageConfig())
    means = []
    for seed in range(20):
        random_ids = choose(store, evaluation.systems, 100, seed).random
        means.append(sum(int(image_id[-3:]) for image_id in random_ids) / len(random_ids))
    assert abs(sum(means) / len(means) - 199.5) < 12


def test_systems_on_other_images_are_not_compared(tmp_path: Path) -> None:
    rows = [rows_with([1.0, 2.0]), rows_with([1.0, 2.0], "other")]
    evaluation = write_sample(tmp_path, ["a", "b"], rows)
    store = open_store(str(tmp_path), StorageConfig())
    chosen = choose(store, evaluation.systems, 8, seed=0)
    assert chosen.common[DIFFERENT] == set()
    assert read_rows(store, evaluation.systems[1], chosen.ids()).keys() <= {
        "other-000",
        "other-001",
    }


def test_damaged_scores_are_named(tmp_path: Path) -> None:
    evaluation = write_sample(tmp_path, ["a"], [rows_with([1.0])])
    store = open_store(str(tmp_path), StorageConfig())
    store.write("scores/part-000.parquet", b"PAR1 but not really")
    with pytest.raises(DatasetError) as caught:
        choose(store, evaluation.systems, 8, seed=0)
    assert caught.value.uri == store.address("scores/part-000.parquet")
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(pa.table({schema.IMAGE_ID: ["a"]}), sink)
    store.write("scores/part-000.parquet", sink.getvalue().to_pybytes())
    with pytest.raises(DatasetError) as caught:
        choose(store, evaluation.systems, 8, seed=0)
    assert caught.value.uri == store.address("scores/part-000.parquet")
