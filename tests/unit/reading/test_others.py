"""`raycap.read` of datasets and of the scores of evaluations."""

from pathlib import Path

import pytest

import raycap
from raycap import schema
from raycap.errors import ConfigError, DatasetError
from raycap.results.outputs import OutputKind
from tests.support.dataset_samples import dataset_row, write_dataset
from tests.support.evaluation_samples import run, scores_of, write_corpus


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    rows = [
        dataset_row("a.jpg", "train", ["a cat", "one cat"], bytes=b"a" * 9),
        dataset_row("b.jpg", "test", ["a dog"], bytes=b"b" * 9),
        dataset_row("c.jpg", "train", ["a cow"], bytes=b"c" * 9),
    ]
    return write_dataset(tmp_path / "dataset", rows, [], embedded=True)


def test_a_dataset_gives_its_captions_and_its_images_only_by_name(dataset: str) -> None:
    rows = raycap.read(dataset)
    assert (rows.kind, rows.is_complete, len(rows)) == (OutputKind.DATASET, True, 3)
    assert schema.BYTES not in rows.columns
    assert rows["a.jpg"]["captions"] == ["a cat", "one cat"]
    assert rows["c.jpg"]["split"] == "train"
    images = raycap.read(dataset, columns=["bytes"], where="split = 'test'")
    assert list(images) == [{"bytes": b"b" * 9}]
    assert {item["image_id"] for item in rows} == {"a.jpg", "b.jpg", "c.jpg"}
    assert getattr(rows.summary, "num_captions") == 4  # noqa: B009  of a record of a dataset
    assert "one cat" in repr(rows)


def test_an_evaluation_gives_the_scores_of_each_image_and_system(tmp_path: Path) -> None:
    systems, references = write_corpus(tmp_path, 8, num_systems=2)
    run(systems, references, output=str(tmp_path / "both"))
    rows = raycap.read(tmp_path / "both")
    assert len(rows) == 16
    assert [row["system"] for row in rows] == ["system-0"] * 8 + ["system-1"] * 8
    one = raycap.read(
        tmp_path / "both",
        columns=["cider_d", "image_id"],
        where="system = 'system-1'",
    )
    expected = scores_of(tmp_path / "both", 1)
    assert [row["cider_d"] for row in one] == expected["cider_d"].to_pylist()
    with pytest.raises(ConfigError):
        rows["00000.jpg"]
    run(systems[0], references, output=str(tmp_path / "one"))
    alone = raycap.read(tmp_path / "one")
    assert alone["00003.jpg"]["cider_d"] == scores_of(tmp_path / "one")["cider_d"][3].as_py()


def test_an_evaluation_whose_scores_are_gone_is_refused(tmp_path: Path) -> None:
    systems, references = write_corpus(tmp_path, 4)
    run(systems, references, output=str(tmp_path / "out"))
    file = next((tmp_path / "out" / "scores").iterdir())
    file.write_bytes(b"nothing")
    with pytest.raises(DatasetError) as caught:
        raycap.read(tmp_path / "out")
    assert caught.value.uri == str(file)


def test_only_captions_have_prompts(dataset: str) -> None:
    with pytest.raises(ConfigError) as caught:
        raycap.read(dataset, "short")
    assert caught.value.setting == "prompt"
