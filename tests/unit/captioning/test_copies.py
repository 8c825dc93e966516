"""Copies of answers: what rows get from equal images, across parts, and what stays their own."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

from raycap import schema
from raycap.captioning.copies import Copies, with_own_answers
from raycap.captioning.parts import (
    CAPTIONS,
    CaptionsFooter,
    encode_captions,
    read_captions_footer,
    read_captions_part,
)
from raycap.captioning.prompts import Prompt
from raycap.storage.local import LocalStore
from raycap.storage.parts import part_key
from tests.support.outputs import failed, row

ONLY = Prompt(name="", text="")
ONE, TWO = Prompt(name="one", text="1:"), Prompt(name="two", text="2:")


class Lock:
    """A lock that nobody takes."""

    def check(self) -> None:
        """Do nothing."""


def image(name: str, content: str, **changes: Any) -> dict[str, Any]:
    digest = sha256(content.encode()).hexdigest()
    return {**row(name, f"about {name}"), schema.DIGEST: digest, **changes}


def waiting(name: str, content: str) -> dict[str, Any]:
    nothing = dict.fromkeys([schema.CAPTION, schema.NUM_WORDS, schema.LOGPROB])
    code = {schema.STATUS: "failed", schema.ERROR_CODE: "awaits_original", schema.ATTEMPTS: 0}
    return image(name, content) | nothing | code


def rejected(name: str, content: str) -> dict[str, Any]:
    code = {schema.ERROR_CODE: "model_rejected", schema.WIDTH_PX: 8, schema.MODEL: None}
    return image(name, content) | failed(name) | code | {"digest": image(name, content)["digest"]}


def write(store: LocalStore, *parts: list[dict[str, Any]], kept: str = "") -> None:
    for number, rows in enumerate(parts):
        kind = schema.CAPTIONS
        if kept:
            kind = pa.schema([*kind, (schema.ANSWER, pa.string()), (kept, pa.string())])
        data, _ = encode_captions(pa.Table.from_pylist(rows, schema=kind), 7, 2, run="abc")
        store.write(part_key(CAPTIONS, number), data)


def complete(store: LocalStore, num_parts: int, *prompts: Prompt) -> dict[int, CaptionsFooter]:
    numbers = list(range(num_parts))
    awaiting = [n for n in numbers if read_captions_footer(store, n).num_awaiting_original]
    copies = Copies(store=store, lock=Lock(), awaiting=awaiting, committed=numbers, num_threads=2)
    return copies.complete(prompts)


def rows_of(store: LocalStore, number: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_captions_part(store, number)[0].to_pylist()
    return rows


def test_rows_get_the_caption_of_any_row_with_their_digest(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    answer = {
        schema.MODEL: "stub",
        schema.FLAG: "repeated",
        schema.NUM_TOKENS: 5,
        schema.NUM_PROMPT_TOKENS: 6,
        schema.ALTERNATIVES: [{schema.CAPTION: "or so", schema.LOGPROB: -2.0}],
    }
    original = image("original.png", "a", **answer)
    write(
        store,
        [waiting("a1.png", "a"), image("b.png", "b"), waiting("a2.png", "a")],
        [original, image("c.png", "c"), waiting("nobody.png", "?"), waiting("b2.png", "b")],
    )
    others = rows_of(store, 1)[1:3]
    written = complete(store, 2, ONLY)
    assert {number: one.num_awaiting_original for number, one in written.items()} == {0: 0, 1: 1}
    assert [one.num_copies for one in written.values()] == [2, 2]
    footer = written[0]
    assert (footer.num_bytes, footer.revision, footer.run) == (7, 2, "abc")
    assert (footer.flagged, footer.num_tokens, footer.num_words) == ({"repeated": 2}, 0, 6)
    for place, name in ((0, "a1.png"), (2, "a2.png")):
        costs = {schema.NUM_TOKENS: None, schema.NUM_PROMPT_TOKENS: None}
        own = {"image_id": name, "uri": f"/images/{name}", "attempts": 0}
        assert rows_of(store, 0)[place] == {**rows_of(store, 1)[0], **costs, **own}
    assert rows_of(store, 1)[1:3] == others
    assert rows_of(store, 1)[3]["caption"] == "about b.png"
    assert complete(store, 2, ONLY) == {}


def test_a_failure_of_the_model_is_copied_unless_another_row_has_a_caption(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    write(
        store,
        [rejected("a.png", "a"), rejected("b.png", "b")],
        [image("b2.png", "b")],
        [waiting("a3.png", "a"), waiting("b3.png", "b")],
    )
    written = complete(store, 3, ONLY)
    assert written[2].failed == {"model_rejected": 1}
    first, second = rows_of(store, 2)
    assert (first["status"], first["error_code"]) == ("failed", "model_rejected")
    assert (second["status"], second["caption"]) == ("ok", "about b2.png")


def test_columns_of_the_image_are_not_copied(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    original = {**image("a.png", "a"), schema.ANSWER: "raw", "tags": "of a.png"}
    write(store, [original, {**waiting("a2.png", "a"), "tags": "of a2.png"}], kept="tags")
    complete(store, 1, ONLY)
    copy = rows_of(store, 0)[1]
    assert (copy[schema.ANSWER], copy["tags"]) == ("raw", "of a2.png")


def named(name: str, content: str, one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    found = {**image(name, content), "one": one, "two": two}
    return {key: value for key, value in found.items() if key not in OF_ANSWER}


def test_rows_with_the_bytes_that_they_had_keep_their_captions() -> None:
    costs = {schema.NUM_TOKENS: 5, schema.ATTEMPTS: 2}
    before = [image("a.png", "a", **costs), image("b.png", "b"), rejected("c.png", "c")]
    now = [waiting("a.png", "a"), waiting("b.png", "other"), waiting("c.png", "c")]
    tables = [
        pa.Table.from_pylist([{**one, schema.ETAG: etag} for one in rows], schema=schema.CAPTIONS)
        for rows, etag in ((before, "1-2"), (now, "3-4"))
    ]
    _, footer = encode_captions(tables[0], 1, 0)
    found = with_own_answers(tables[1], tables[0], footer, {}).to_pylist()
    assert found[0] == {**tables[0].to_pylist()[0], schema.ETAG: "3-4"}
    assert found[1:] == tables[1].to_pylist()[1:]


OF_ANSWER = set(schema.ANSWER_FIELDS) - {schema.ERROR_CODE, schema.ERROR_MESSAGE}


def test_named_prompts_are_copied_one_by_one(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    value = pa.struct([("tags", pa.list_(pa.string())), ("is_indoor", pa.bool_())])
    kind = pa.schema(
        [
            *(field for field in schema.CAPTIONS if field.name not in OF_ANSWER),
            ("one", schema.answer_type()),
            ("two", schema.answer_type(value)),
        ]
    )
    awaits = {schema.ERROR_CODE: "awaits_original", schema.ERROR_MESSAGE: "later"}
    said = {"caption": "one of a", "num_words": 3, "num_tokens": 4}
    typed = {"caption": "{}", "num_words": 1, "value": {"tags": ["x", "y"], "is_indoor": True}}
    wrong = {schema.ERROR_CODE: "model_rejected", schema.ERROR_MESSAGE: "no"}
    waits = {schema.STATUS: "failed", **awaits}
    rows = [
        named("a.png", "a", said, typed),
        {**named("a2.png", "a", awaits, awaits), **waits, schema.ATTEMPTS: 0},
        {**named("a3.png", "a", {"caption": "own"}, awaits), **waits},
        {**named("b.png", "b", wrong, {"caption": "two of b"}), "status": "failed", **wrong},
        {**named("b2.png", "b", awaits, awaits), **waits, schema.ATTEMPTS: 0},
        {**named("c.png", "c", wrong, awaits), **waits},
    ]
    prompts = {prompt.name: prompt.digest for prompt in (ONE, TWO)}
    data, before = encode_captions(pa.Table.from_pylist(rows, schema=kind), 1, 0, prompts=prompts)
    assert before.failed == {"awaits_original": 4, "model_rejected": 1}
    store.write(part_key(CAPTIONS, 0), data)
    written = complete(store, 1, ONE, TWO)
    footer = written[0]
    assert footer.failed == {"awaits_original": 1, "model_rejected": 2}
    assert (footer.prompts, footer.num_copies) == (prompts, 2)
    after = {one["image_id"]: one for one in rows_of(store, 0)}
    assert after["a2.png"]["status"] == "ok"
    assert after["a2.png"]["one"] == {**after["a.png"]["one"], "num_tokens": None}
    assert after["a2.png"]["two"] == after["a.png"]["two"]
    assert after["a3.png"]["one"]["caption"] == "own"
    assert after["a3.png"]["two"]["value"] == typed["value"]
    assert after["b2.png"]["error_code"] == "model_rejected"
    assert after["b2.png"]["two"]["caption"] == "two of b"
    assert after["c.png"]["error_code"] == "awaits_original"
