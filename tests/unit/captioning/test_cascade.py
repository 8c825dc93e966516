"""A second model for weak captions: which they are, its settings, and what is counted."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycap import schema
from raycap.captioning.cascade import Cascade, awaits, find_cascade
from raycap.captioning.claim import caption_fingerprint
from raycap.captioning.parts import CAPTIONS, CaptionsFooter, encode_captions, read_part
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from raycap.errors import ConfigError, DatasetError, ModelError
from raycap.models.folders import write_json
from raycap.models.sources import find_model
from raycap.preflights.run import preflight
from raycap.results.captioning import Summary
from raycap.results.shown.captioning import summary_rows
from raycap.storage.local import LocalStore
from raycap.storage.parts import part_key
from tests.support.outputs import failed, row


@pytest.fixture
def larger(tmp_path: Path) -> str:
    """A second model: the stub under another name."""
    write_json(tmp_path / "raycap.json", {"kind": "stub"})
    return str(tmp_path)


def config(**cascade: Any) -> CaptionConfig:
    return validate_config(CaptionConfig, {"model": {"name": "stub"}, "cascade": cascade})


def cascade_of(larger: str) -> Cascade:
    found = find_cascade(config(model=larger, below=-1.2, prompt="it:"), find_model("stub"))
    assert found is not None
    return found


def scored(logprob: float | None, model: str | None, **changes: Any) -> dict[str, Any]:
    return row("a.jpg", **{schema.LOGPROB: logprob, schema.MODEL: model, **changes})


def captions(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema.CAPTIONS)


def test_weak_captions_of_another_model_await_the_second() -> None:
    rows = captions(
        scored(-1.3, "small"),
        scored(-1.2, "small"),  # not below
        scored(-1.1, "small"),
        scored(-9.0, "large"),
        scored(-9.0, None),
        failed("b.jpg") | {schema.MODEL: None},
    )
    expected = [True, False, False, False, True, False]
    assert awaits(rows, "large", -1.2).to_pylist() == expected


def test_footers_count_what_awaits_and_what_was_answered(larger: str) -> None:
    first = cascade_of(larger)
    rows = captions(scored(-1.3, "stub"), scored(-1.0, "stub"), scored(-5.0, larger))
    counted = {"num_awaiting": 1, "num_second": 1, "num_second_failed": 0}
    assert first.counts(rows, rows) == counted
    second = replace(first, is_second=True)
    answered = captions(scored(-0.1, larger), failed("b.jpg"))
    assert len(second.kept(answered)) == 1
    counted = {"num_awaiting": 0, "num_second": 1, "num_second_failed": 1}
    assert second.counts(rows, answered) == counted
    _, footer = encode_captions(rows, 1, 0, "", counted)
    assert (footer.num_second, footer.num_second_failed) == (1, 1)


def test_the_second_model_has_its_own_prompt_and_arithmetic(larger: str) -> None:
    found = cascade_of(larger)
    assert found.model.name == found.config.model.name == larger
    assert found.config.generation.prompt == "it:"
    with pytest.raises(ModelError) as caught:
        find_cascade(config(model=larger, below=-1.0, precision="int8"), find_model("stub"))
    assert caught.value.setting == "model.precision"
    with pytest.raises(ConfigError, match=r"\bstub\b") as refused:
        find_cascade(config(model="stub", below=-1.0), find_model("stub"))
    assert refused.value.setting == "cascade.model"


@pytest.mark.parametrize(
    ("values", "setting"),
    [
        ({"model": "x"}, "cascade"),
        ({"below": -1}, "cascade"),
        ({"model": "x", "below": 0.5}, "cascade.below"),
    ],
)
def test_half_a_cascade_is_refused(values: dict[str, Any], setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**values)
    assert caught.value.setting == setting


def test_the_fingerprint_names_a_cascade_only_where_there_is_one(larger: str) -> None:
    first = find_model("stub")
    assert find_cascade(config(), first) is None
    alone = caption_fingerprint({}, first, config())
    assert "cascade" not in alone
    both = caption_fingerprint({}, first, config(), cascade_of(larger))
    assert both["cascade"]["below"] == -1.2
    assert both["cascade"]["model"]["name"] == larger
    assert both["cascade"]["generation"]["prompt"] == "it:"
    assert {name: value for name, value in both.items() if name != "cascade"} == alone


def test_the_second_model_may_get_its_images_otherwise(larger: str) -> None:
    alike = cascade_of(larger).model.target
    settings = config(model=larger, below=-1.2, fit="keep", max_pixels_model=2500)
    own = find_cascade(settings, find_model("stub"))
    assert own is not None
    assert (alike.varies, own.model.target.varies) == (False, True)
    assert own.model.target.num_bytes == 7500
    with pytest.raises(ConfigError) as caught:
        find_cascade(config(model="demo", below=-1.2, fit="keep"), find_model("stub"))
    assert caught.value.setting == "cascade.fit"
    with pytest.raises(ConfigError) as caught:
        config(model=larger, below=-1.2, max_pixels_model=2500)
    assert caught.value.setting == "cascade"


def test_a_preflight_says_that_it_measures_one_model(larger: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--preflight") as caught:
        preflight("photos", tmp_path / "out", 5, config=config(model=larger, below=-1.0))
    assert caught.value.setting == "cascade.model"
    assert not (tmp_path / "out").exists()


def test_parts_without_the_column_are_read_as_of_no_known_model(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    data, footer = encode_captions(captions(scored(-1.0, "small")), 1, 0)
    old = pq.read_table(pa.BufferReader(data))
    of_then = json.loads(old.schema.metadata[b"raycap"])
    del of_then["prompts"]
    metadata = {b"raycap": json.dumps(of_then).encode()}
    sink = pa.BufferOutputStream()
    columns = old.drop_columns(list(schema.LATER_COLUMNS))
    pq.write_table(columns.replace_schema_metadata(metadata), sink)
    store.write(part_key(CAPTIONS, 0), sink.getvalue().to_pybytes())
    read = read_part(store, CAPTIONS, 0)
    assert read.column_names == schema.CAPTIONS.names
    assert [read[name].to_pylist() for name in schema.LATER_COLUMNS] == [[None]] * 6
    assert read_part(store, CAPTIONS, 0, [schema.URI]).column_names == [schema.URI]
    assert isinstance(footer, CaptionsFooter)


def test_a_part_of_now_must_have_all_its_columns(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    data, _ = encode_captions(captions(scored(-1.0, "small")), 1, 0)
    whole = pq.read_table(pa.BufferReader(data))
    sink = pa.BufferOutputStream()
    damaged = whole.drop_columns([schema.FINISH]).replace_schema_metadata(whole.schema.metadata)
    pq.write_table(damaged, sink)
    store.write(part_key(CAPTIONS, 0), sink.getvalue().to_pybytes())
    with pytest.raises(DatasetError) as caught:
        read_part(store, CAPTIONS, 0)
    assert caught.value.uri == store.address(part_key(CAPTIONS, 0))


def test_the_end_of_a_run_tells_how_many_went_to_the_second_model() -> None:
    summary = Summary(
        output="out",
        source="photos",
        num_images=10,
        num_ok=10,
        num_failed=0,
        mean_words=5.0,
        num_bytes=1,
        num_captioned=10,
        wall_s=1.0,
        images_per_s=10.0,
        cascade={"model": {}, "below": -1.2, "num_images": 4, "num_failed": 1},
    )
    rows = dict(summary_rows(summary))
    assert (rows["to second model"], rows["  kept first caption"]) == ("4", "1")
    alone = dict(summary_rows(replace(summary, cascade={})))
    assert "to second model" not in alone
