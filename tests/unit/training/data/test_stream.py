"""The training stream, stage by stage: every batch arrives complete, once and in order."""

from collections import Counter
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from raycap import schema
from raycap.config import AugmentConfig
from raycap.errors import DatasetError, RunStopped
from raycap.models.trainable import IGNORED
from raycap.storage.stores import digest_of
from raycap.training.data.feed import Batch, Feed
from raycap.training.data.pieces import Kind
from tests.support import tiny_dataset
from tests.support.tiny_dataset import scene, write_dataset
from tests.support.training_stream import (
    UNCHANGED,
    batches_of,
    make_spec,
    one_worker,
    tables_of,
    tiny_model,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("dataset"))
    write_dataset(folder, "train:50", "validation:9", part_size=20)
    return folder


def ids(batches: list[Batch]) -> list[str]:
    return [image_id for batch in batches for image_id in batch.image_ids]


def captions(batch: Batch) -> list[str]:
    model = tiny_model()
    tokens = batch.tokens
    return [
        model.decode(row[1 : int(mask.sum())].tolist())
        for row, mask in zip(tokens.inputs, tokens.mask, strict=True)
    ]


def test_each_image_of_the_split_comes_once_per_epoch(dataset: str) -> None:
    batches = batches_of(make_spec(dataset), num_epochs=3)
    assert [batch.number for batch in batches] == [*range(7)] * 3
    for epoch in range(3):
        found = ids([batch for batch in batches if batch.epoch == epoch])
        assert sorted(found) == [f"{number:06d}.png" for number in range(50)]
    assert ids(batches[:7]) != ids(batches[7:14])


def test_pixels_and_captions_belong_to_their_image(dataset: str) -> None:
    spec = make_spec(dataset)
    for batch in batches_of(spec):
        for place, (image_id, text) in enumerate(
            zip(batch.image_ids, captions(batch), strict=True)
        ):
            _, written = scene(int(image_id[:6]))
            assert text in written
            half = slice(0, 8) if "top" in text else slice(8, None)
            channel = ("red", "green", "blue").index(
                next(word for word in text.split() if word in ("red", "green", "blue"))
            )
            means = batch.pixels[place, :, half].float().mean(dim=(1, 2))
            assert means.argmax() == channel


def test_an_image_is_trained_with_each_of_its_captions_in_turn(dataset: str) -> None:
    batches = batches_of(make_spec(dataset), num_epochs=8)
    said: dict[str, set[str]] = {}
    for batch in batches:
        for image_id, text in zip(batch.image_ids, captions(batch), strict=True):
            said.setdefault(image_id, set()).add(text)
    assert Counter(map(len, said.values()))[2] >= 45


def test_with_all_captions_each_of_them_comes_once_per_epoch(dataset: str) -> None:
    spec = make_spec(dataset, augment=AugmentConfig(enabled=False, captions="all"))
    batches = batches_of(spec)
    assert len(batches) == 7
    for batch in batches:
        assert batch.owners.tolist() == [n for n in range(len(batch.image_ids)) for _ in (0, 1)]
        assert batch.offsets.tolist() == [*range(2 * len(batch.image_ids))]
        for index, image_id in enumerate(batch.image_ids):
            assert captions(batch)[2 * index : 2 * index + 2] == scene(int(image_id[:6]))[1]


@pytest.mark.parametrize("choice", ["sample", "all"])
def test_two_workers_share_the_batches_of_one(dataset: str, choice: Any) -> None:
    augment = AugmentConfig(enabled=False, captions=choice)
    alone = batches_of(make_spec(dataset, augment=augment), num_epochs=2)
    spec = make_spec(dataset, num_workers=2, batch_size=4, augment=augment)
    first, second = (batches_of(spec, num_epochs=2, worker=worker) for worker in (0, 1))
    for whole, a, b in zip(alone, first, second, strict=True):
        assert whole.image_ids == a.image_ids + b.image_ids
        assert whole.offsets.tolist() == a.offsets.tolist() + b.offsets.tolist()
        parts = [batch.pixels for batch in (a, b) if batch.image_ids]
        assert torch.equal(whole.pixels, torch.cat(parts))
        texts = [text for batch in (a, b) if batch.image_ids for text in captions(batch)]
        assert captions(whole) == texts


def test_an_epoch_continues_from_a_step_with_the_same_batches(dataset: str) -> None:
    spec = make_spec(dataset, shuffle_images=16, augment=AugmentConfig())
    whole = batches_of(spec, epoch=1, num_epochs=2)
    for step in (1, 2, 5, 7):
        rest = batches_of(spec, epoch=1, step=step, num_epochs=2)
        assert ids(rest) == ids(whole[step:])
        for a, b in zip(rest, whole[step:], strict=True):
            assert torch.equal(a.pixels, b.pixels)
            assert torch.equal(a.tokens.inputs, b.tokens.inputs)


def test_steps_larger_than_a_piece_arrive_complete(tmp_path: Path) -> None:
    write_dataset(str(tmp_path), "train:150", "validation:2", part_size=64)
    spec = make_spec(str(tmp_path), batch_size=140, shuffle_images=1000)
    batches = batches_of(spec)
    assert [len(batch.image_ids) for batch in batches] == [140, 10]
    assert len(set(ids(batches))) == 150
    assert batches[0].offsets.tolist() == [*range(140)]


def test_a_sample_is_the_same_in_every_epoch_with_all_references_and_unchanged(
    dataset: str,
) -> None:
    spec = make_spec(dataset, num_sampled=6, augment=AugmentConfig(blur=1.0, colour=1.0))
    for kind in (Kind.VALIDATION, Kind.FITTED):
        epochs = [batches_of(spec, kind, epoch=epoch, num_epochs=epoch + 1) for epoch in (0, 3)]
        assert len(ids(epochs[0])) == 6
        for a, b in zip(*epochs, strict=True):
            assert a.image_ids == b.image_ids
            assert torch.equal(a.pixels, b.pixels)
            assert torch.equal(a.tokens.inputs, b.tokens.inputs)
            assert a.references == [scene(int(name[:6]))[1] for name in a.image_ids]
    plain = make_spec(dataset, num_sampled=6, augment=UNCHANGED)
    assert torch.equal(
        batches_of(spec, Kind.VALIDATION)[0].pixels, batches_of(plain, Kind.VALIDATION)[0].pixels
    )


def test_samples_come_in_rounds_that_end_for_all_workers_at_once(tmp_path: Path) -> None:
    write_dataset(str(tmp_path), "train:8", "validation:70")
    spec = make_spec(str(tmp_path), num_workers=2, batch_size=4)
    rounds = [batches_of(spec, Kind.VALIDATION, worker=worker) for worker in (0, 1)]
    assert [[len(batch.image_ids) for batch in batches] for batches in rounds] == [[32, 3], [32, 3]]
    assert len({*ids(rounds[0]), *ids(rounds[1])}) == 70


def test_unreadable_images_are_left_out_and_named(tmp_path: Path) -> None:
    write_dataset(
        str(tmp_path), "train:20", "validation:4", n000003=b"no image", n000011=b"", n000021=b"x"
    )
    spec = make_spec(str(tmp_path))
    batches = batches_of(spec)
    assert len(ids(batches)) == 18
    named = [text for batch in batches for text in batch.unreadable]
    assert sorted(text.split()[0] for text in named) == ["000003.png", "000011.png"]
    assert all("(" in text for text in named)
    assert len(ids(batches_of(spec, Kind.VALIDATION))) == 3


def test_a_worker_without_images_takes_part_with_an_image_without_loss(
    tmp_path: Path,
) -> None:
    write_dataset(str(tmp_path), "train:9", "validation:1")
    spec = make_spec(str(tmp_path), num_workers=2, batch_size=4)
    last = batches_of(spec, worker=1)[-1]
    assert last.image_ids == []
    assert last.pixels.shape == (1, 3, 16, 16)
    assert (last.tokens.targets == IGNORED).all()
    assert last.owners.tolist() == [0]


def test_a_batch_of_one_image_has_its_captions(dataset: str) -> None:
    spec = make_spec(dataset, augment=AugmentConfig(enabled=False, captions="all"))
    batch = batches_of(spec)[0]
    alone = batch.only(3)
    assert alone.image_ids == [batch.image_ids[3]]
    assert captions(alone) == captions(batch)[6:8]
    assert alone.offsets.tolist() == [6, 7]
    assert alone.owners.tolist() == [0, 0]
    assert torch.equal(alone.pixels[0], batch.pixels[3])


def test_images_with_only_an_address_are_fetched(tmp_path: Path) -> None:
    def row_of(number: int, split: str, *, file: bytes | None = None) -> dict[str, object]:
        del file
        drawn, _ = scene(number)
        path = tmp_path / f"{number}.png"
        if number != 5:
            path.write_bytes(drawn)
        row = real(number, split)
        digest = digest_of(drawn if number != 6 else b"another picture")
        return {**row, schema.BYTES: None, schema.URI: str(path), schema.DIGEST: digest}

    real = tiny_dataset.row_of
    patch = pytest.MonkeyPatch()
    patch.setattr(tiny_dataset, "row_of", row_of)
    try:
        write_dataset(str(tmp_path / "set"), "train:8", "validation:1")
    finally:
        patch.undo()
    (batch,) = batches_of(make_spec(str(tmp_path / "set")))
    fetched = [f"{number:06d}.png" for number in range(8) if number not in (5, 6)]
    assert sorted(batch.image_ids) == fetched
    missing, changed = sorted(batch.unreadable)
    assert "not_found" in missing
    assert "5.png" in missing
    assert "6.png" in changed


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    write_dataset(str(tmp_path), "train:20", "validation:4")
    spec = make_spec(str(tmp_path))
    (part, *_) = sorted((tmp_path / "train").iterdir())
    data = bytearray(part.read_bytes())
    data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 4)
    part.write_bytes(data)
    with pytest.raises(DatasetError) as caught:
        batches_of(spec)
    assert caught.value.uri == str(part)


def test_a_feed_raises_the_errors_of_the_stream(dataset: str) -> None:
    def tables() -> Any:
        yield from list(tables_of(make_spec(dataset)))[:1]
        raise DatasetError("the part is gone")

    with Feed(tables(), one_worker(), tiny_model(), 60.0) as feed:
        for step in range(4):  # one piece
            assert feed.take(Kind.TRAIN, 0, step).number == step
        with pytest.raises(DatasetError, match="the part is gone"):
            feed.take(Kind.TRAIN, 0, 4)


def test_a_feed_that_waits_too_long_stops_the_run(dataset: str) -> None:
    del dataset

    def tables() -> Any:
        released.wait(30)
        yield from ()

    released = Event()
    with Feed(tables(), one_worker(), tiny_model(), 0.1) as feed:
        with pytest.raises(RunStopped) as caught:
            feed.take(Kind.TRAIN, 0, 0)
        assert caught.value.setting == "engine.stall_timeout_s"
        released.set()


def test_a_stream_out_of_order_fails_an_assertion(dataset: str) -> None:
    tables: list[pa.Table] = list(tables_of(make_spec(dataset)))
    with (
        Feed(iter(tables[1:]), one_worker(), tiny_model(), 60.0) as feed,
        pytest.raises(AssertionError, match="the stream gave"),
    ):
        feed.take(Kind.TRAIN, 0, 0)


def test_pixels_are_bytes_of_the_models_size(dataset: str) -> None:
    for batch in batches_of(make_spec(dataset, augment=AugmentConfig())):
        assert batch.pixels.dtype == torch.uint8
        assert batch.pixels.shape[1:] == (3, 16, 16)
        assert np.asarray(batch.pixels).std() > 0
