"""Outputs of every kind in a review: named prompts, kept fields, images held in a dataset."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raycap import schema
from raycap.captioning.parts import CAPTIONS, encode_captions
from raycap.config import ReviewConfig
from raycap.errors import ConfigError, DatasetError
from raycap.reviewing.pictures import NoPicture, open_pictures
from raycap.reviewing.replacing import Rule
from raycap.reviewing.selection import Filter
from raycap.reviewing.session import Change
from raycap.storage.parts import part_key
from tests.support import outputs
from tests.support.outputs import row
from tests.support.reviewed import open_session
from tests.support.tiny_dataset import write_dataset

output = outputs.output


def answer(text: str | None) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(schema.ANSWER_FIELDS)
    code = None if text is not None else "refused"
    words = None if text is None else len(text.split())
    return found | {schema.CAPTION: text, schema.ERROR_CODE: code, schema.NUM_WORDS: words}


@pytest.fixture
def prompted(output: Callable[..., str]) -> str:
    """Write an output with two named prompts and a kept field."""
    names = ["1.jpg", "2.jpg"]
    uri = output([row(name) for name in names])
    of_image = [field for field in schema.CAPTIONS if field.name not in schema.ANSWER_FIELDS]
    error = [schema.CAPTIONS.field(name) for name in (schema.ERROR_CODE, schema.ERROR_MESSAGE)]
    kinds = {"short": schema.answer_type(), "long": schema.answer_type()}
    columns = pa.schema([*of_image, *error, *kinds.items(), pa.field("album", pa.string())])
    answers: list[dict[str, Any]] = [
        {"short": answer("a cat"), "long": answer("a cat that sleeps"), "album": "holiday"},
        {"short": answer("a dog"), "long": answer(None), "album": None},
    ]
    rows = [{**row(name), **more} for name, more in zip(names, answers, strict=True)]
    table = pa.Table.from_pylist(rows, schema=columns)
    data, _ = encode_captions(table, num_bytes=1, revision=0, prompts=dict.fromkeys(kinds, "x"))
    Path(uri, part_key(CAPTIONS, 0)).write_bytes(data)
    run = {
        "config": {"prompts": {name: {} for name in kinds}},
        "fingerprint": {"context": {"keep": ["album"]}},
    }
    Path(uri, "run.json").write_text(json.dumps(run))
    return uri


def test_each_prompt_is_reviewed_by_itself(prompted: str) -> None:
    with open_session(prompted) as session:
        assert session.about()["prompts"] == ["short", "long"]
        page = session.page(Filter(prompt="long"), 0, 10)
        assert [item["caption"] for item in page["items"]] == ["a cat that sleeps", None]
        assert [item["kept"] for item in page["items"]] == [{"album": "holiday"}, {"album": None}]
        assert page["items"][1]["error_code"] == "refused"
        (first, _) = page["items"]
        session.save(Change(item=first["item"], action="reject", old=first["caption"]))
        assert session.counts("long") == {"rejected": 1, "unreviewed": 1}
        assert session.counts("short") == {"unreviewed": 2}
        assert session.details(first["item"])["prompts"] == [
            {"prompt": "short", "caption": "a cat"}
        ]
        shown = session.preview(Filter(prompt="short"), Rule(find="a ", replacement="the "))
        session.replace(shown["name"])
    with open_session(prompted) as again:
        shorts, longs = (again.page(Filter(prompt=p), 0, 9)["items"] for p in ("short", "long"))
        assert [item["caption"] for item in shorts] == ["the cat", "the dog"]
        assert [item["review"] for item in longs] == ["rejected", None]


def test_images_that_a_caption_dataset_holds_are_shown_with_their_references(
    output: Callable[..., str], tmp_path: Path
) -> None:
    dataset = write_dataset(str(tmp_path / "set"), "train:2").uri
    names = ("000000.png", "000001.png", "000009.png")
    uri = output([row(name, **{schema.URI: f"{dataset}#{name}"}) for name in names])
    run = {"fingerprint": {"source": dataset, "split": None}}
    Path(uri, "run.json").write_text(json.dumps(run))
    with open_session(uri) as session, open_pictures(session.output, ReviewConfig()) as pictures:
        first, _, third = session.page(Filter(), 0, 9)["items"]
        assert first["beside"]["references"]
        assert third["beside"] == {}
        assert pictures.get(session.row(0), 64).startswith(b"RIFF")
        with pytest.raises(NoPicture, match="not_found"):
            pictures.get(session.row(2), 64)


@pytest.mark.parametrize(
    ("addresses", "kind"),
    [(["{0}/none"], ConfigError), (["{0}"], DatasetError), (["{1}", "{0}/x.csv"], ConfigError)],
)
def test_what_cannot_be_reviewed_is_one_line(
    output: Callable[..., str],
    tmp_path: Path,
    addresses: list[str],
    kind: type[Exception],
) -> None:
    uri = output([row("a")])
    (tmp_path / "other").mkdir()
    given = [address.format(tmp_path / "other", uri) for address in addresses]
    with pytest.raises(kind), open_session(*given):
        pass
