"""Files of JSON and YAML nested deeper than Python's stack: one line wherever they are read."""

from collections.abc import Callable
from pathlib import Path

import pytest

from raycap.config import CaptionConfig, StorageConfig
from raycap.config.loading import load_config
from raycap.errors import ConfigError, DatasetError, ModelError, RaycapError
from raycap.evaluation.java import JavaError
from raycap.evaluation.spice import read_scores
from raycap.experiments.journal import LineJournal
from raycap.inspection import status
from raycap.models import folders, hub
from raycap.models.sources import find_model
from raycap.parsing import parse_json, parse_yaml
from raycap.results.training import read_history
from raycap.runs import records
from raycap.storage.lock import describe
from raycap.storage.stores import open_store
from tests.support.training_samples import begin_training

DEEP = "[" * 100_000


def model_file(name: str) -> Callable[[Path], object]:
    def find(folder: Path) -> object:
        (folder / "config.json").write_text("{}")
        (folder / name).write_text(DEEP)
        return find_model(str(folder))

    return find


def weights(folder: Path) -> object:
    file = folder / "model.safetensors"
    file.write_bytes(len(DEEP).to_bytes(8, "little") + DEEP.encode())
    return folders.read_shapes(file)


def config_file(folder: Path) -> object:
    (folder / "run.yaml").write_text(DEEP)
    return load_config(CaptionConfig, folder / "run.yaml")


def journal(folder: Path) -> object:
    (folder / "trials.jsonl").write_text(f"{DEEP}\n")
    return LineJournal(folder / "trials.jsonl", {})


def record(folder: Path) -> object:
    (folder / "run.json").write_text(DEEP)
    return records.read_json(open_store(str(folder), StorageConfig()), "run.json")


READERS: dict[str, tuple[Callable[[Path], object], type[Exception]]] = {
    "config.json": (model_file("config.json"), ModelError),
    "raycap.json": (model_file("raycap.json"), ModelError),
    "adapter_config.json": (model_file("adapter_config.json"), ModelError),
    "safetensors": (weights, ModelError),
    "--config": (config_file, ConfigError),
    "--set": (lambda _: load_config(CaptionConfig, None, [f"images={DEEP}"]), ConfigError),
    "trials.jsonl": (journal, DatasetError),
    "run.json": (record, DatasetError),
    "history.jsonl": (lambda _: read_history(DEEP.encode()), DatasetError),
    "SPICE": (lambda _: read_scores(DEEP, 1), JavaError),
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_nested_too_deeply_is_one_line(name: str, tmp_path: Path) -> None:
    read, kind = READERS[name]
    with pytest.raises(kind) as caught:
        read(tmp_path)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)
    if name.endswith(".json") and isinstance(caught.value, RaycapError):
        assert caught.value.uri == str(tmp_path / name)


def test_what_is_only_a_hint_counts_as_absent(tmp_path: Path) -> None:
    assert describe(DEEP.encode()) == {}
    file = tmp_path / "raycap-conversion.json"
    file.write_text(DEEP)
    assert hub._recorded(file, "main") is None


def test_a_lock_nested_too_deeply_leaves_open_whether_a_run_lives(tmp_path: Path) -> None:
    store = begin_training(tmp_path)
    store.write("lock.json", DEEP.encode())
    assert status(tmp_path).state == "unknown"


@pytest.mark.parametrize("text", ["{", "", "\x00", "[" * 5_000, '{"a":' * 5_000, b"\xff"])
def test_whatever_is_no_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


@pytest.mark.parametrize(
    "text",
    [
        *("{", "a: *b", "? [a]\n: b", "\x00", "[" * 5_000, "{a: " * 5_000),
        *("2026-13-45", "!!int x", "!!int ''", "!!bool x", "!!timestamp x", "!!python/name:os.x"),
    ],
)
def test_whatever_is_no_yaml_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)
