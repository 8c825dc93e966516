"""Context from the row: fields of prompts, versions by their values, and kept columns."""

import csv
import json
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import raycap
from raycap.captioning.verify import verify
from raycap.config import CaptionConfig, GenerationConfig, PrepareConfig, StorageConfig
from raycap.config.loading import validate_config
from raycap.errors import ConfigError, RunConflict
from raycap.exporting.export import export
from raycap.models.folders import write_json
from raycap.storage.base import KEY
from raycap.storage.stores import open_store
from tests.conftest import S3, MakeJpeg, RequestLog
from tests.support.caption_sets import folder_rows, make_dataset
from tests.support.faulty_http import Reply, faulty_server
from tests.support.tiny_blip import save_model
from tests.support.tiny_scratch import build

pytestmark = pytest.mark.usefixtures("ray_session")


def config(prompt: str = "", **sections: Any) -> CaptionConfig:
    sections.setdefault("model", {"name": "stub"})
    sections.setdefault("engine", {"part_size": 8})
    return validate_config(CaptionConfig, {"generation": {"prompt": prompt}, **sections})


def rows_of(output: str | Path) -> dict[str, dict[str, Any]]:
    """The rows of an output by image id, as they are on disk."""
    store = open_store(str(output), StorageConfig())
    keys = [key for table in store.list("captions/") for key in table[KEY].to_pylist()]
    tables = [pq.read_table(BytesIO(store.read(key))) for key in keys]
    return {row["image_id"]: row for table in tables for row in table.to_pylist()}


def write_list(path: Path, tags: dict[str, str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["uri", "tags", "license"])
        writer.writerows([uri, value, "cc"] for uri, value in tags.items())
    return path


@pytest.fixture
def images(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    folder = tmp_path / "images"
    for number in range(20):
        make_jpeg(folder / f"{number % 2}/{number:02d}.jpg", seed=number)
    return folder


def test_only_images_with_other_values_are_read_and_captioned_again(
    s3: S3, s3_log: RequestLog, make_jpeg: MakeJpeg
) -> None:
    names = [f"{number:02d}.jpg" for number in range(40)]
    for number, name in enumerate(names):
        s3.put(f"photos/{name}", make_jpeg(seed=number))
    tags = dict.fromkeys(names, "old")
    source, output = f"{s3.uri}/photos", f"{s3.uri}/out"
    settings = config("A photo.[[ Tags: {tags}.]]")

    def run(put: Callable[[dict[str, str]], None]) -> tuple[int, Counter[str], dict[str, Any]]:
        put(tags)
        before = s3_log.image_reads(s3.bucket)
        summary = raycap.caption(source, output, config=settings)
        assert summary.num_ok == 40
        assert verify(output).is_complete
        reads = s3_log.image_reads(s3.bucket) - before
        return summary.num_captioned, reads, rows_of(output)

    def as_metadata(tags: dict[str, str]) -> None:
        lines = [json.dumps({"file_name": name, "tags": text}) for name, text in tags.items()]
        s3.put("photos/metadata.jsonl", "\n".join(lines).encode())

    num_captioned, reads, rows = run(as_metadata)
    assert (num_captioned, len(reads)) == (40, 40)
    assert all(row["caption"].startswith("A photo. Tags: old. ") for row in rows.values())
    assert run(as_metadata)[:2] == (0, Counter())
    changed = names[3:33:3]
    tags |= dict.fromkeys(changed, "new {tags} [[x]]")
    num_captioned, reads, again = run(as_metadata)
    assert num_captioned == 10
    assert reads == dict.fromkeys([f"photos/{name}" for name in changed], 1)
    for name, row in again.items():
        if name in changed:
            assert row["caption"].startswith("A photo. Tags: new {tags} [[x]]. ")
        else:
            assert row == rows[name]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_of_ten_thousand_images_with_other_tags_are_ten_calls(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    with faulty_server() as server:
        pages = [f"/{number:05d}.jpg" for number in range(10_000)]
        server.pages |= dict.fromkeys(pages, Reply(body=make_jpeg(seed=1)))
        tags = {f"{server.url}{page}": "old" for page in pages}
        settings = config("{tags}:", engine={"part_size": 500})
        listed = write_list(tmp_path / "list.csv", tags)
        assert raycap.caption(listed, tmp_path / "out", config=settings).num_captioned == 10_000
        server.requests.clear()
        changed = list(tags)[::1_000]
        write_list(listed, tags | dict.fromkeys(changed, "new"))
        assert raycap.caption(listed, tmp_path / "out", config=settings).num_captioned == 10
        assert sorted(path for _, path, _ in server.requests) == pages[::1_000]
    captions = Counter(row["caption"][:3] for row in rows_of(tmp_path / "out").values())
    assert captions == {"old": 9_990, "new": 10}


def test_sidecars_are_read_by_the_workers_and_their_version_counts(images: Path) -> None:
    (images / "0/00.json").write_text(json.dumps({"tags": ["a", "b"], "id": 7}))
    (images / "1/01.txt").write_text("an alt text\n")
    (images / "1/03.jpg.json").write_text("broken")
    output = images.parent / "out"
    settings = config(
        "{folder}/{file_name}[[ {tags}]][[ {text}]]:", source={"keep_columns": ["id", "tags"]}
    )
    summary = raycap.caption(images, output, config=settings)
    assert (summary.num_ok, summary.failed, summary.skipped) == (19, {"no_context": 1}, {})
    rows = rows_of(output)
    assert rows["0/00.jpg"]["caption"].startswith("0/00.jpg a, b: ")
    assert rows["1/01.jpg"]["caption"].startswith("1/01.jpg an alt text: ")
    assert rows["0/02.jpg"]["caption"].startswith("0/02.jpg: ")
    assert [rows["0/00.jpg"][name] for name in ("id", "tags")] == ["7", "a, b"]
    assert rows["1/03.jpg"]["error_code"] == "no_context"
    (images / "1/03.jpg.json").write_text('{"tags": "mended"}')
    (images / "0/00.json").unlink()
    (images / "0/04.txt").write_text("new")
    assert raycap.caption(images, output, config=settings).num_captioned == 3
    rows = rows_of(output)
    assert rows["1/03.jpg"]["caption"].startswith("1/03.jpg mended: ")
    assert rows["0/00.jpg"]["tags"] is None
    assert verify(output).is_complete
    assert raycap.caption(images, output, config=settings).num_captioned == 0


def test_kept_fields_are_columns_of_every_table_that_is_exported(images: Path) -> None:
    listed = write_list(
        images / "list.csv",
        {f"{number % 2}/{number:02d}.jpg": f"=t{number}" for number in range(9)},
    )
    keep = ["license", "tags", "file_name"]
    output = images.parent / "out"
    raycap.caption(listed, output, config=config(source={"keep_columns": keep}))
    row = rows_of(output)["0/04.jpg"]
    assert [row[name] for name in keep] == ["cc", "=t4", "04.jpg"]
    for to in ("jsonl", "csv", "parquet"):
        export(output, images.parent / f"x.{to}", to=to)
    lines = (images.parent / "x.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["tags"] for row in rows if row["image_id"] == "0/04.jpg"] == ["=t4"]
    assert "context_digests" not in rows[0]
    with (images.parent / "x.csv").open() as file:
        read = {row["image_id"]: row for row in csv.DictReader(file)}
    assert read["0/04.jpg"]["tags"] == "'=t4"
    table = pq.read_table(images.parent / "x.parquet")
    assert table.column_names[-3:] == keep
    assert set(table["license"].to_pylist()) == {"cc"}
    export(output, images.parent / "tars", to="webdataset")
    export(output, images.parent / "x.json", to="coco")
    with pytest.raises(RunConflict):
        raycap.caption(listed, output, config=config(source={"keep_columns": ["tags"]}))


def test_a_missing_value_fails_its_image_if_the_settings_say_so(images: Path) -> None:
    exif = Image.Exif()
    exif[306] = "2021:07:04 18:30:00"
    Image.new("RGB", (8, 8)).save(images / "dated.jpg", exif=exif)
    output = images.parent / "out"
    source = {"missing_context": "fail"}
    limits = {"part_size": 8, "max_failed_share": 1.0}
    summary = raycap.caption(
        images, output, config=config("On {exif.date}:", source=source, engine=limits)
    )
    assert (summary.num_ok, summary.failed) == (1, {"no_context": 20})
    assert rows_of(output)["dated.jpg"]["caption"].startswith("On 2021-07-04: ")


@pytest.mark.slow
def test_of_several_prompts_only_those_are_asked_again_whose_fields_have_other_values(
    images: Path,
) -> None:
    tags = {f"{number % 2}/{number:02d}.jpg": "old" for number in range(20)}
    listed, output = write_list(images / "list.csv", tags), images.parent / "out"

    def run(**prompts: str) -> tuple[int, dict[str, dict[str, Any]]]:
        settings = validate_config(
            CaptionConfig,
            {"model": {"name": "stub"}, "engine": {"part_size": 8}, "prompts": prompts},
        )
        summary = raycap.caption(listed, output, config=settings)
        assert verify(output).is_complete
        return summary.num_captioned, rows_of(output)

    assert run(plain="Plain:")[0] == 20
    num_captioned, rows = run(plain="Plain:", tagged="{tags}:")
    assert num_captioned == 20
    assert all(row["tagged"]["caption"].startswith("old: ") for row in rows.values())
    marked = mark_answers(output, "plain")
    write_list(listed, tags | dict.fromkeys(list(tags)[5:9], "new"))
    num_captioned, rows = run(plain="Plain:", tagged="{tags}:")
    assert num_captioned == 4
    starts = Counter(row["tagged"]["caption"][:4] for row in rows.values())
    assert starts == {"old:": 16, "new:": 4}
    assert {row["plain"]["caption"] for row in rows.values()} == {marked}
    assert run(tagged="{tags}:")[0] == 0


def mark_answers(output: Path, prompt: str) -> str:
    """Replace the texts of a prompt, so that a later run shows whether it was asked again."""
    for path in (output / "captions").iterdir():
        table = pq.read_table(path)
        place = table.schema.get_field_index(prompt)
        field = table.schema.field(prompt)
        rows = [{**one, "caption": "marked"} for one in table[prompt].to_pylist()]
        column = pa.array(rows, field.type)
        pq.write_table(table.set_column(place, field, column), path)
    return "marked"


def test_captions_of_a_dataset_are_fields(images: Path) -> None:
    dataset = images.parent / "dataset"
    make_dataset(dataset, folder_rows(images), PrepareConfig())
    output = images.parent / "out"
    settings = config("{file_name} is [{captions}] in {folder}:")
    assert raycap.caption(dataset, output, config=settings).num_ok == 20
    caption = rows_of(output)["1/03.jpg"]["caption"]
    assert caption.startswith("03.jpg is [picture of 03 0, a picture of 03 1] in 1: ")


@pytest.mark.slow
def test_fields_of_the_second_model_of_a_cascade_are_part_of_the_version(images: Path) -> None:
    larger = images.parent / "larger"
    larger.mkdir()
    write_json(larger / "raycap.json", {"kind": "stub"})
    tags = {f"{number % 2}/{number:02d}.jpg": "old" for number in range(20)}
    listed, output = write_list(images / "list.csv", tags), images.parent / "out"
    cascade = {"model": str(larger), "below": 0.0, "prompt": "{tags}:"}
    settings = config("First:", cascade=cascade)
    raycap.caption(listed, output, config=settings)
    assert {row["caption"][:5] for row in rows_of(output).values()} == {"old: "}
    write_list(listed, tags | {"0/04.jpg": "new"})
    assert raycap.caption(listed, output, config=settings).num_captioned == 1
    rows = rows_of(output)
    assert [name for name, row in rows.items() if row["caption"].startswith("new:")] == ["0/04.jpg"]
    assert verify(output).is_complete


@pytest.mark.slow
def test_blip_continues_prompts_of_different_lengths_as_it_does_alone(images: Path) -> None:
    folder = save_model(images.parent / "blip")
    model = {"name": str(folder), "precision": "fp32"}
    texts = ["a", "a picture of a dog and", "this is", ""]
    tags = {f"{number % 2}/{number:02d}.jpg": texts[number % 4] for number in range(8)}
    listed = write_list(images / "list.csv", tags)
    output = images.parent / "out"
    raycap.caption(listed, output, config=config("{tags}", model=model))
    found = rows_of(output)
    for text in texts:
        alone = images.parent / f"alone-{texts.index(text)}"
        raycap.caption(listed, alone, config=config(text, model=model))
        for name, row in rows_of(alone).items():
            if tags[name] == text:
                assert found[name]["caption"] == row["caption"]
                assert found[name]["logprob"] == pytest.approx(row["logprob"], abs=1e-5)


def test_a_run_begun_with_plain_braces_continues_and_new_ones_are_told_of_the_field(
    images: Path,
) -> None:
    output = images.parent / "out"
    plain = config("As {json}:", source={"context": "off"})
    assert raycap.caption(images, output, config=plain).num_ok == 20
    assert rows_of(output)["0/00.jpg"]["caption"].startswith("As {json}: ")
    record = json.loads((output / "run.json").read_text())
    assert "context" not in record["fingerprint"]
    assert raycap.caption(images, output, config=config("As {json}:")).num_captioned == 0
    with pytest.raises(ConfigError) as error:
        raycap.caption(images, images.parent / "other", config=config("As {json}:"))
    assert error.value.setting == "generation.prompt"
    assert not (images.parent / "other").exists()


def test_a_model_without_prompts_refuses_fields(images: Path) -> None:
    folder = images.parent / "model"
    build("cnn-lstm").save(folder, GenerationConfig(), {})
    with pytest.raises(ConfigError) as error:
        raycap.caption(
            images, images.parent / "out", config=config("{folder}", model={"name": str(folder)})
        )
    assert error.value.setting == "generation.prompt"
