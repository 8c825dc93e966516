"""Prompts with a type: columns of values, and coded rows for answers that have none."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raycap
from raycap.captioning.verify import verify
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from raycap.errors import ConfigError, ModelError
from tests.support.commandline import rows_of, write_images
from tests.support.tiny_blip import save_model

pytestmark = pytest.mark.usefixtures("ray_session")

FACTS = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["day", "night"]},
        "num_people": {"type": "integer", "maximum": 5},
        "place": {"type": "string", "maxLength": 9},
    },
    "required": ["kind"],
}


def caption(folder: Path, prompts: dict[str, Any], **sections: Any) -> Any:
    sections.setdefault("model", {"name": "stub"})
    values = {**sections, "engine": {"part_size": 3}, "prompts": prompts}
    config = validate_config(CaptionConfig, values)
    return raycap.caption(folder / "photos", folder / "out", config=config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "photos", 5)
    return tmp_path


def test_typed_answers_are_columns_of_their_type(folder: Path) -> None:
    (folder / "facts.json").write_text(json.dumps(FACTS))
    (folder / "photos" / "broken.jpg").write_bytes(b"no image")
    prompts = {
        "short": "In short:",
        "tags": {"text": "Tags?", "choices": ["red", "blue", "grey"]},
        "facts": {"text": "Facts?", "json_schema": str(folder / "facts.json")},
    }
    summary = caption(folder, prompts)
    assert (summary.num_ok, summary.failed) == (5, {"unsupported_format": 1})
    types = pq.read_schema(folder / "out" / "captions" / "part-000000.parquet")
    assert types.field("tags").type.field("value").type == pa.list_(pa.string())
    facts = [("kind", pa.string()), ("num_people", pa.int64()), ("place", pa.string())]
    assert types.field("facts").type.field("value").type == pa.struct(facts)
    assert "value" not in {field.name for field in types.field("short").type}
    *rows, broken = rows_of(folder / "out")
    for row in rows:
        assert row["tags"]["value"][0] in ("red", "blue", "grey")
        assert row["tags"]["caption"] == ", ".join(row["tags"]["value"])
        assert json.loads(row["facts"]["caption"]) == row["facts"]["value"]
        assert row["facts"]["value"]["num_people"] <= 5
    assert broken["tags"]["value"] is None
    assert verify(folder / "out").is_complete
    record = json.loads((folder / "out" / "run.json").read_text())
    assert record["config"]["prompts"]["facts"]["json_schema"] == FACTS, "nodes need no file"


def test_an_answer_of_another_type_is_a_coded_row(folder: Path) -> None:
    schema = {"type": "string", "pattern": "never"}  # the stub heeds no pattern
    summary = caption(folder, {"a": {"text": "?", "json_schema": schema}, "b": "In short:"})
    assert summary.failed == {"wrong_type": 5}
    for row in rows_of(folder / "out"):
        assert row["a"]["error_code"] == row["error_code"] == "wrong_type"
        assert (row["a"]["value"], row["a"]["caption"]) == (None, None)
        assert row["b"]["caption"]
    assert verify(folder / "out").is_complete


def test_a_prompt_with_another_type_is_asked_again(folder: Path) -> None:
    typed = {"text": "?", "json_schema": {"type": "string"}}
    caption(folder, {"a": typed, "b": "In short:"})
    before = rows_of(folder / "out")
    caption(folder, {"a": {**typed, "json_schema": {"type": "integer"}}, "b": "In short:"})
    for row, old in zip(rows_of(folder / "out"), before, strict=True):
        assert isinstance(old["a"]["value"], str)
        assert isinstance(row["a"]["value"], int)
        assert row["b"] == old["b"]


def test_wrong_types_are_refused_before_anything_is_written(folder: Path) -> None:
    for wrong in ({"type": "null"}, str(folder / "none.json")):
        with pytest.raises(ConfigError) as caught:
            caption(folder, {"a": {"text": "?", "json_schema": wrong}})
        assert caught.value.setting == "prompts.a.json_schema"
    save_model(folder / "blip")
    model = {"name": str(folder / "blip")}
    with pytest.raises(ModelError) as refused:
        caption(folder, {"a": {"text": "?", "choices": ["b"]}}, model=model)
    assert refused.value.setting == "prompts"
    assert not (folder / "out").exists()
