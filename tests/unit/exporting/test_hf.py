"""Export to a dataset for the Hugging Face Hub: its files, its card, and a second export."""

import hashlib
import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from raycap import schema
from raycap.captioning.parts import CAPTIONS, encode_captions
from raycap.config import CaptionConfig, ExportFormat, HubImages, StorageConfig
from raycap.config.loading import load_config
from raycap.edits.records import Edit, EditAction
from raycap.edits.writing import EditWriter
from raycap.errors import ConfigError
from raycap.exporting.export import export
from raycap.exporting.hf_card import bars, size_category
from raycap.results.captioning import ExportCounts
from raycap.storage.local import etag_of
from raycap.storage.parts import part_key
from raycap.storage.stores import open_store
from tests.support import outputs
from tests.support.commandline import RAYCAP
from tests.support.outputs import Part, failed, files_under, row

# The fixture of tests/outputs.py, which pytest looks for under this name.
output = outputs.output

RUN = {
    "fingerprint": {
        "source": "/home/somebody/photos",
        "model": {"kind": "blip", "name": "/models/mine/blip", "revision": "abc", "digest": "d1"},
        "generation": {"num_beams": 3, "prompt": ""},
    },
    "config": {"generation": {"num_beams": 3}, "storage": {"endpoint_url": "http://inner:9000"}},
}


@pytest.fixture
def photos(tmp_path: Path, make_jpeg: Callable[..., bytes]) -> Path:
    for n in range(3):
        make_jpeg(tmp_path / "photos" / f"{n}.jpg", seed=n)
    return tmp_path / "photos"


def photo_rows(photos: Path) -> list[Part]:
    first, second, third = (
        row(path.name, f"photo {path.name}", source_uri=str(path), uri=str(path), etag=tag(path))
        for path in sorted(photos.iterdir())
    )
    return [[first, failed("bad.jpg"), second], [third]]


def tag(path: Path) -> str:
    return etag_of(path.stat())


def to_hf(uri: str, folder: Path, **options: Any) -> ExportCounts:
    return export(uri, folder, to=ExportFormat.HF, **options)


def state(folder: Path) -> dict[str, tuple[int, str]]:
    """The files of a folder: inode and digest."""
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_ino,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


def header(folder: Path) -> dict[str, Any]:
    _, text, _ = (folder / "README.md").read_text().split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_the_files_hold_images_captions_and_what_datasets_needs_to_know(
    output: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    uri = output(*photo_rows(photos))
    counts = to_hf(uri, tmp_path / "x")
    assert (counts.num_exported, counts.num_failed_skipped, counts.num_files) == (3, 1, 2)
    tables = [pq.read_table(path) for path in sorted((tmp_path / "x" / "data").iterdir())]
    rows = [found for table in tables for found in table.to_pylist()]
    assert [found["image"] for found in rows] == [
        {"bytes": path.read_bytes(), "path": path.name} for path in sorted(photos.iterdir())
    ]
    assert [found["caption"] for found in rows] == [f"photo {n}.jpg" for n in range(3)]
    assert str(tmp_path) not in str([{**found, "image": None} for found in rows])
    features = json.loads(tables[0].schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == tables[0].column_names
    assert features["image"] == {"_type": "Image"}
    assert features["logprob"] == {"dtype": "float32", "_type": "Value"}
    assert [list(one) for one in features["alternatives"]] == [["caption", "logprob"]]
    # What is written is small, even if images are large.
    footer = pq.read_metadata(tmp_path / "x" / "data" / "part-000000.parquet")
    assert footer.row_group(0).column(0).statistics is None


def test_images_can_stay_at_their_addresses(
    output: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    to_hf(output(*photo_rows(photos)), tmp_path / "x", images=HubImages.ADDRESSES)
    (found,) = pq.read_table(tmp_path / "x" / "data" / "part-000001.parquet").to_pylist()
    assert found["image"] == {"bytes": None, "path": str(photos / "2.jpg")}


def test_the_card_tells_what_the_dataset_is(
    output: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    uri = output(*photo_rows(photos))
    Path(uri, "run.json").write_text(json.dumps(RUN))
    Path(uri, "summary.json").write_text(json.dumps({"source": "/home/somebody/photos"}))
    (photos / "2.jpg").unlink()
    to_hf(uri, tmp_path / "x", license="cc-by-4.0")
    found = header(tmp_path / "x")
    assert found["license"] == "cc-by-4.0"
    assert found["task_categories"] == ["image-to-text"]
    assert found["size_categories"] == ["n<1K"]
    (config,) = found["configs"]
    assert config["data_files"] == [{"split": "train", "path": "data/part-*.parquet"}]
    card = (tmp_path / "x" / "README.md").read_text()
    for line in (
        "| Model: name | `blip` |",
        "| Model: revision | `abc` |",
        "| num_beams | `3` |",
        "| in this dataset | 2 |",
        "| without a caption: `decode_failed` | 1 |",
        "| no longer readable, or changed | 1 |",
    ):
        assert line in card
    assert f"        2 {'#' * 40} 2" in card
    everything = "".join(files_under(tmp_path / "x" / "raycap").values()) + card
    assert "somebody" not in everything
    assert "inner" not in everything
    assert set(files_under(tmp_path / "x" / "raycap")) == {
        "config.json",
        "run.json",
        "summary.json",
    }
    settings = load_config(CaptionConfig, tmp_path / "x" / "raycap" / "config.json")
    assert settings.generation.num_beams == 3


def test_a_second_export_writes_only_what_is_missing_or_has_changed(
    output: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    parts = photo_rows(photos)
    uri = output(*parts)
    folder = tmp_path / "x"
    to_hf(uri, folder)
    whole = state(folder)
    (folder / "README.md").unlink()  # as after a kill
    (folder / "data" / "part-000001.parquet").unlink()
    (folder / "data" / ".0123.raycap-tmp").write_bytes(b"half")
    counts = to_hf(uri, folder)
    assert counts.num_exported == 3
    after = state(folder)
    assert {key: digest for key, (_, digest) in after.items()} == {
        key: digest for key, (_, digest) in whole.items()
    }
    assert after["data/part-000000.parquet"] == whole["data/part-000000.parquet"]
    parts[1][0][schema.CAPTION] = "another caption"
    changed, _ = encode_captions(
        pa.Table.from_pylist(parts[1], schema=schema.CAPTIONS), num_bytes=1, revision=0
    )
    Path(uri, part_key(CAPTIONS, 1)).write_bytes(changed)
    to_hf(uri, folder)
    assert state(folder)["data/part-000000.parquet"] == whole["data/part-000000.parquet"]
    (found,) = pq.read_table(folder / "data" / "part-000001.parquet").to_pylist()
    assert found["caption"] == "another caption"


def test_a_killed_export_continues(
    output: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    parts = [part for rows in photo_rows(photos) for part in zip(rows, strict=True)]
    uri = output(*(list(part) for part in parts * 10))
    to_hf(uri, tmp_path / "whole")
    command = [RAYCAP, "export", uri, str(tmp_path / "x"), "--to", "hf"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list((tmp_path / "x").glob("data/part-*")):
        time.sleep(0.001)
    process.kill()
    process.wait()
    to_hf(uri, tmp_path / "x")
    whole, after = (
        {key: digest for key, (_, digest) in state(folder).items()}
        for folder in (tmp_path / "whole", tmp_path / "x")
    )
    assert after == whole


def test_images_that_could_not_be_read_are_tried_again(
    output: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    parts = photo_rows(photos)
    image = (photos / "2.jpg").read_bytes()
    (photos / "2.jpg").unlink()
    uri = output(*parts)
    counts = to_hf(uri, tmp_path / "x")
    assert (counts.num_exported, counts.num_unreadable, len(counts.unreadable)) == (2, 1, 1)
    (photos / "2.jpg").write_bytes(image + b" changed")
    assert to_hf(uri, tmp_path / "x").num_unreadable == 1
    parts[1][0][schema.ETAG] = None
    uri = output(*parts)
    assert to_hf(uri, tmp_path / "x").num_exported == 3


def test_files_of_others_are_replaced_only_if_asked(
    output: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    uri = output(*photo_rows(photos))
    folder = tmp_path / "x"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("mine")
    pq.write_table(pa.table({"a": [1]}), folder / "data" / "part-000007.parquet")
    before = state(folder)
    with pytest.raises(ConfigError) as caught:
        to_hf(uri, folder)
    assert caught.value.uri == str(folder)
    assert state(folder) == before
    to_hf(uri, folder, existing="overwrite")
    assert sorted(path.name for path in (folder / "data").iterdir()) == [
        "part-000000.parquet",
        "part-000001.parquet",
    ]
    assert header(folder)["tags"]


def test_the_dataset_of_another_run_is_not_mixed_with_this_one(
    output: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    uri = output(*photo_rows(photos))
    to_hf(uri, tmp_path / "x")
    Path(uri, "run.json").write_text(json.dumps(RUN))
    with pytest.raises(ConfigError):
        to_hf(uri, tmp_path / "x")


def test_an_edited_card_is_kept(output: Callable[..., str], photos: Path, tmp_path: Path) -> None:
    uri = output(*photo_rows(photos))
    card = tmp_path / "x" / "README.md"
    to_hf(uri, tmp_path / "x")
    written = card.read_text()
    card.write_text(written.replace("# Captions by raycap", "# My photos"))
    assert to_hf(uri, tmp_path / "x").notes
    assert "# My photos" in card.read_text()
    to_hf(uri, tmp_path / "x", existing="overwrite")
    assert card.read_text() == written


def test_rows_and_columns_can_be_chosen_and_joined(
    output: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    uri = output(*photo_rows(photos))
    (tmp_path / "table.csv").write_text("image_id,place\n0.jpg,Rome\n2.jpg,Oslo\n")
    counts = to_hf(
        uri,
        tmp_path / "x",
        where="place is not null",
        columns="caption as text, place",
        join=tmp_path / "table.csv",
    )
    assert counts.num_exported == 2
    tables = [pq.read_table(path) for path in sorted((tmp_path / "x" / "data").iterdir())]
    rows = [found for table in tables for found in table.drop_columns("image").to_pylist()]
    assert rows == [
        {"text": "photo 0.jpg", "place": "Rome"},
        {"text": "photo 2.jpg", "place": "Oslo"},
    ]
    for name, options in {
        "columns": {"columns": "caption as image"},
        "where": {"where": "caption = 'none'"},
    }.items():
        with pytest.raises(ConfigError) as caught:
            to_hf(uri, tmp_path / "y", **options)
        assert caught.value.setting == name


def test_captions_of_reviewers_are_exported_and_marked(
    output: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    parts = photo_rows(photos)
    parts[1][0][schema.DIGEST] = "d"
    uri = output(*parts)
    to_hf(uri, tmp_path / "x")
    edit = Edit(
        image_id="2.jpg", action=EditAction.TEXT, old="photo 2.jpg", new="a cat", digest="d"
    )
    EditWriter(open_store(uri, StorageConfig()), by="ann").save([edit])
    to_hf(uri, tmp_path / "x")
    (found,) = pq.read_table(tmp_path / "x" / "data" / "part-000001.parquet").to_pylist()
    assert (found["caption"], found["edited"], found["review"]) == ("a cat", True, "edited")


def named(name: str, answer: str | None, value: Any = None) -> dict[str, Any]:
    """Give the answer to a named prompt: a failed one without a text."""
    found = dict.fromkeys(schema.ANSWER_FIELDS)
    code = None if answer is not None else "refused"
    words = None if answer is None else len(answer.split())
    return {
        name: {**found, "caption": answer, "error_code": code, "num_words": words, **(value or {})}
    }


def test_named_prompts_are_columns_and_typed_answers_are_values(
    output: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    (part, _) = photo_rows(photos)
    uri = output(part)
    kind = pa.struct([pa.field("colour", pa.string()), pa.field("sizes", pa.list_(pa.int64()))])
    value = {"colour": "red", "sizes": [1, 2]}
    answers = [
        named("short", "a cat") | named("tags", "{...}", {"value": value}),
        named("short", None) | named("tags", None, {"value": None}),
        named("short", None) | named("tags", "{...}", {"value": value}),
    ]
    image = [f for f in schema.CAPTIONS if f.name not in schema.ANSWER_FIELDS]
    error = [schema.CAPTIONS.field("error_code"), schema.CAPTIONS.field("error_message")]
    columns = pa.schema(
        [
            *image,
            *error,
            pa.field("short", schema.answer_type()),
            pa.field("tags", schema.answer_type(kind)),
        ]
    )
    rows = [one | answer for one, answer in zip(part, answers, strict=True)]
    table = pa.Table.from_pylist(rows, schema=columns)
    data, _ = encode_captions(
        table, num_bytes=1, revision=0, prompts={"short": "digest", "tags": "other"}
    )
    Path(uri, part_key(CAPTIONS, 0)).write_bytes(data)
    settings = {"prompts": {"short": "Describe it.", "tags": "List | tags."}}
    Path(uri, "run.json").write_text(json.dumps({"config": settings}))
    counts = to_hf(uri, tmp_path / "x")
    assert (counts.num_exported, counts.num_failed_skipped) == (2, 1)
    found = pq.read_table(tmp_path / "x" / "data" / "part-000000.parquet")
    assert found["short"].to_pylist() == ["a cat", None]
    assert found["tags"].to_pylist() == [value, value]
    assert "caption" not in found.column_names
    features = json.loads(found.schema.metadata[b"huggingface"])["info"]["features"]
    whole, text = {"dtype": "int64", "_type": "Value"}, {"dtype": "string", "_type": "Value"}
    assert features["tags"] == {"colour": text, "sizes": [whole]}
    card = (tmp_path / "x" / "README.md").read_text()
    assert "answer to `short`" in card
    assert "Describe it." not in card  # a prompt of this name was changed: its digest is another
    to_hf(uri, tmp_path / "y", prompt="tags")
    chosen = pq.read_table(tmp_path / "y" / "data" / "part-000000.parquet")
    assert "short" not in chosen.column_names


def test_a_dataset_can_be_written_to_a_bucket(
    output: Callable[..., str], photos: Path, s3: Any
) -> None:
    config = StorageConfig(num_retries=0, timeout_s=20)
    uri = output(*photo_rows(photos))
    for _ in range(2):
        counts = export(uri, f"{s3.uri}/dataset", to="hf", storage=config)
        assert counts.num_exported == 3
    store = open_store(f"{s3.uri}/dataset", config)
    table = pq.read_table(pa.BufferReader(store.read("data/part-000000.parquet")))
    assert table["caption"].to_pylist() == ["photo 0.jpg", "photo 1.jpg"]


def test_options_of_this_format_are_refused_for_others(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row("a.jpg")])
    for name, value in {
        "license": "mit",
        "push": "me/x",
        "public": True,
        "images": "embed",
    }.items():
        with pytest.raises(ConfigError) as caught:
            export(uri, tmp_path / "x.csv", to="csv", **{name: value})  # type: ignore[arg-type]
        assert caught.value.setting == name
    with pytest.raises(ConfigError) as caught:
        to_hf(uri, tmp_path / "x", public=True)
    assert caught.value.setting == "public"


@pytest.mark.parametrize(
    ("num_rows", "word"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**12, "n>1T")],
)
def test_sizes_have_the_words_of_the_hub(num_rows: int, word: str) -> None:
    assert size_category(num_rows) == word


def test_a_histogram_has_at_most_twelve_bars_and_loses_nothing() -> None:
    counted = Counter({n: n for n in range(1, 60)})
    lines = list(bars(counted))
    assert len(lines) <= 12
    assert sum(int(line.split()[-1].replace(",", "")) for line in lines) == counted.total()
