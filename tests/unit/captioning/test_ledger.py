"""Which failed rows are captioned again."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raycap import schema
from raycap.captioning.ledger import read_ledger, retried_codes
from raycap.captioning.parts import CAPTIONS, ManifestFooter, encode_captions
from raycap.captioning.plan import CaptionPlan
from raycap.errors import TRANSIENT_CODES, ConfigError, ErrorCode
from raycap.storage.local import LocalStore
from raycap.storage.parts import part_key


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (False, set()),
        (True, TRANSIENT_CODES),
        ("transient", TRANSIENT_CODES),
        ("not_found, forbidden", {"not_found", "forbidden"}),
        (["transient", "empty"], {*TRANSIENT_CODES, "empty"}),
        ("all", set(ErrorCode)),
    ],
)
def test_codes_are_given_by_name(
    given: bool | str | Collection[str], wanted: Collection[str]
) -> None:
    assert retried_codes(given) == set(wanted)


@pytest.mark.parametrize("given", ["not-found", "", "timeout,,empty", ["nothing"]])
def test_an_unknown_code_is_refused(given: str | list[str]) -> None:
    with pytest.raises(ConfigError):
        retried_codes(given)


@pytest.mark.parametrize(
    ("given", "partial"),
    [(False, []), (True, [1]), ("forbidden", [0]), ("forbidden,timeout", [0, 1]), ("empty", [])],
)
def test_parts_with_rows_of_these_codes_are_partial(
    tmp_path: Path, given: bool | str, partial: list[int]
) -> None:
    store, plan = LocalStore(tmp_path), CaptionPlan()
    for number, code in enumerate(["forbidden", "timeout", None]):
        status = schema.STATUS_FAILED if code else schema.STATUS_OK
        row: dict[str, Any] = {"image_id": "a", "uri": "a", "status": status, "error_code": code}
        row |= {"attempts": 1, "alternatives": []}
        table = pa.Table.from_pylist([row], schema=schema.CAPTIONS)
        store.write(part_key(CAPTIONS, number), encode_captions(table, 1, 0)[0])
        plan.parts[number] = ManifestFooter(first="a", last="a", num_rows=1, num_bytes=1)
    ledger = read_ledger(store, plan, retry_failed=given, num_threads=2)
    assert (ledger.partial, ledger.missing) == (partial, [])
    assert ledger.num_pending == len(partial)
