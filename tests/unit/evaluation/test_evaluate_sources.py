"""Evaluations of captions and references of every kind: splits, copies, and what is dropped."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycap import schema
from raycap.errors import ConfigError, DatasetError
from raycap.metrics.scores import mean
from raycap.metrics.tokenizer import tokenize
from tests.support import outputs
from tests.support.dataset_samples import dataset_row, write_dataset
from tests.support.evaluation_samples import (
    image_names,
    run,
    sentences,
    values_of,
    write_captions,
    write_corpus,
    write_references,
)
from tests.support.metric_references import Tokenized, score_all
from tests.support.outputs import row

output = outputs.output  # a fixture, which pytest looks for under this name


# References


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """Write a dataset of three splits; the training captions are two."""
    rows = [
        dataset_row("0.jpg", "test", ["a cat sits", "cats"]),
        dataset_row("1.jpg", "test", ["a dog"]),
        dataset_row("2.jpg", "train", ["A dog runs.", "a cow"]),
        dataset_row("3.jpg", "validation", ["a man"]),
    ]
    return write_dataset(tmp_path / "dataset", rows, [], embedded=False)


@pytest.fixture
def of_all(tmp_path: Path) -> str:
    path = tmp_path / "all.jsonl"
    said = ["a dog runs", "a dog", "a cow", "a man"]
    rows = [{"image_id": f"{at}.jpg", "caption": text} for at, text in enumerate(said)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_only_the_splits_asked_for_are_scored(dataset: str, of_all: str) -> None:
    found = run([of_all], dataset, split=["val", "test"])
    assert (found.splits, found.num_images) == (["test", "validation"], 3)
    assert found.systems[0].extra == ["2.jpg"]
    assert found.num_references == 4
    with pytest.raises(DatasetError, match="'other'"):
        run([of_all], dataset, split=["other"])


@pytest.mark.parametrize(
    ("splits", "share"),
    [(["test"], 0.5), (["test", "dev"], 1 / 3), (["train"], None), ([], None)],
)
def test_copies_of_training_captions_are_counted_where_training_is_not_what_is_evaluated(
    splits: list[str], share: float | None, dataset: str, of_all: str
) -> None:
    (system,) = run([of_all], dataset, split=splits).systems
    assert system.diversity.copied_from_training == (share and pytest.approx(share))


def test_a_dataset_without_a_training_split_tells_no_copies(tmp_path: Path) -> None:
    rows = [dataset_row("0.jpg", "test", ["a cat"]), dataset_row("1.jpg", "validation", ["a"])]
    dataset = write_dataset(tmp_path / "dataset", rows, [], embedded=False)
    (tmp_path / "a.jsonl").write_text('{"image_id": "0.jpg", "caption": "a cat"}')
    (system,) = run([tmp_path / "a.jsonl"], dataset, split="test").systems
    assert system.diversity.copied_from_training is None


WRITTEN = {"0.jpg": ["a cat sits", "cats"], "1.jpg": ["a dog, it runs"], "2.jpg": ["two men", "a"]}


def _coco(folder: Path) -> Path:
    images = [{"id": 70 + at, "file_name": name} for at, name in enumerate(WRITTEN)]
    pairs = [(70 + at, text) for at, texts in enumerate(WRITTEN.values()) for text in texts]
    annotations = [
        {"id": at, "image_id": key, "caption": text} for at, (key, text) in enumerate(pairs)
    ]
    path = folder / "captions_val.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def _karpathy(folder: Path) -> Path:
    images = [
        {"filename": name, "split": "test", "sentences": [{"raw": text} for text in texts]}
        for name, texts in WRITTEN.items()
    ]
    path = folder / "dataset_flickr8k.json"
    path.write_text(json.dumps({"images": images, "dataset": "flickr8k"}))
    return path


def _flickr(folder: Path) -> Path:
    lines = [f'{name},"{text}"' for name, texts in WRITTEN.items() for text in texts]
    path = folder / "captions.txt"
    path.write_text("\n".join(["image,caption", *lines]))
    return path


def _table(folder: Path) -> Path:
    path = folder / "refs.parquet"
    columns = {"image_id": list(WRITTEN), "captions": list(WRITTEN.values())}
    pq.write_table(pa.table(columns), path)
    return path


def _dataset(folder: Path) -> Path:
    rows = [dataset_row(name, "test", texts) for name, texts in WRITTEN.items()]
    return Path(write_dataset(folder / "dataset", rows, [], embedded=False))


def _sidecars(folder: Path) -> Path:
    for name, texts in WRITTEN.items():
        (folder / "s").mkdir(exist_ok=True)
        (folder / "s" / name).write_bytes(b"not looked at")
        (folder / "s" / name).with_suffix(".txt").write_text("\n".join(texts))
    return folder / "s"


@pytest.mark.parametrize("write", [_coco, _karpathy, _flickr, _table, _dataset, _sidecars])
def test_references_of_every_kind_give_the_same_scores(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    said = ["a cat", "the dog runs", "two men"]
    captions = tmp_path / "a.jsonl"
    rows = [{"image_id": name, "caption": text} for name, text in zip(WRITTEN, said, strict=True)]
    captions.write_text("\n".join(map(json.dumps, rows)))
    found = run([captions], write(tmp_path))
    assert (found.num_images, found.num_references) == (3, 5)
    corpus = Tokenized(
        [tokenize(text) for text in said],
        [[tokenize(text) for text in texts] for texts in WRITTEN.values()],
    )
    scores = score_all(corpus)
    values = values_of(found)
    assert values[schema.CIDER_D] == mean(scores.cider_d)
    assert values[schema.ROUGE_L] == mean(scores.rouge_l)


def test_coco_results_match_coco_references_by_their_numbers(tmp_path: Path) -> None:
    results = [{"image_id": 70 + at, "caption": "a cat"} for at in range(3)]
    (tmp_path / "results.json").write_text(json.dumps(results))
    (system,) = run([tmp_path / "results.json"], _coco(tmp_path)).systems
    assert (system.matched_by, system.format, system.num_extra) == ("source_id", "coco", 0)


def test_references_that_cannot_be_used_are_counted_by_reason(tmp_path: Path) -> None:
    references = write_references(tmp_path / "refs.jsonl", [["a cat", " "], ["a dog"], [""]])
    captions = write_captions(tmp_path / "a.jsonl", ["a cat", "a dog", "a man"])
    found = run([captions], references)
    assert (found.num_images, found.num_references) == (2, 2)
    assert found.references_dropped == {"empty_caption": 2, "no_caption": 1}
    assert found.systems[0].extra == ["00002.jpg"]


def test_missing_references_are_an_error(tmp_path: Path) -> None:
    captions = write_captions(tmp_path / "a.jsonl", ["a cat"])
    with pytest.raises(ConfigError) as refused:
        run([captions], "nowhere")
    assert refused.value.uri == "nowhere"
    with pytest.raises(DatasetError) as caught:
        run([captions], write_references(tmp_path / "refs.jsonl", [[""]]))
    assert caught.value.uri == str(tmp_path / "refs.jsonl")


# Captions


def _results(folder: Path, said: dict[str, str]) -> Path:
    path = folder / "results.json"
    rows = [{"image_id": name, "caption": text} for name, text in said.items()]
    path.write_text(json.dumps(rows))
    return path


def _csv(folder: Path, said: dict[str, str]) -> Path:
    path = folder / "captions.csv"
    path.write_text("\n".join(["image_id,caption", *(f"{n},{text}" for n, text in said.items())]))
    return path


def _parquet(folder: Path, said: dict[str, str]) -> Path:
    path = folder / "captions.parquet"
    pq.write_table(pa.table({"image_id": list(said), "caption": list(said.values())}), path)
    return path


def test_captions_of_every_kind_give_the_same_scores(
    tmp_path: Path, output: Callable[..., str]
) -> None:
    said = dict(zip(image_names(6), sentences(6, seed=3), strict=True))
    said = {name: text.replace(",", "") for name, text in said.items()}
    systems: list[str | Path] = [write_captions(tmp_path / "lines.jsonl", list(said.values()))]
    systems += [write(tmp_path, said) for write in (_results, _csv, _parquet)]
    rows = [row(name, text) for name, text in said.items()]
    systems.append(output(rows[:4], rows[4:]))
    written = [[text] for text in sentences(6, seed=4)]
    found = run(systems, write_references(tmp_path / "refs.jsonl", written))
    formats = [system.format for system in found.systems]
    assert formats == ["jsonl", "coco", "csv", "parquet", "raycap"]
    first, *others = [values_of(found, number) for number in range(5)]
    assert all(values == first for values in others)
    assert [system.mean_logprob for system in found.systems[:4]] == [None] * 4
    assert found.systems[4].mean_logprob == pytest.approx(-0.3)


def test_scores_of_an_evaluation_can_be_evaluated_again(tmp_path: Path) -> None:
    systems, references = write_corpus(tmp_path, 10)
    first = run(systems, references, output=tmp_path / "out")
    again = run([tmp_path / "out" / "scores" / "part-000.parquet"], references)
    assert values_of(again) == values_of(first)
    assert again.systems[0].mean_logprob == first.systems[0].mean_logprob
