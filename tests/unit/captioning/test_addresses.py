"""Full addresses are not in the manifest, and other users cannot read them."""

import sqlite3

import pyarrow as pa
import pytest

from raycap.captioning.addresses import SecretAddresses, secret_addresses
from raycap.schema import IMAGE_ID, MANIFEST, URI

SIGNED = "https://h/{}.jpg?X-Amz-Signature=abc"


def page(uris: dict[str, str]) -> pa.Table:
    nulls = pa.nulls(len(uris))
    columns = [pa.array(list(uris)), pa.array(list(uris.values())), nulls, nulls, nulls]
    return pa.table([c.cast(f.type) for c, f in zip(columns, MANIFEST, strict=True)], MANIFEST)


def test_a_listing_comes_out_without_secrets_and_they_are_told_by_image_id() -> None:
    plain = {"a": "/a.jpg", "b": "s3://b/k?x=1#y", "c": "https://h/c.jpg?w=1"}
    mixed = {"d": SIGNED.format("d"), "e": "http://me:pw@h/e.jpg", "f": "/f?token=x"}
    with secret_addresses() as addresses:
        first, second = addresses.taken_out([page(plain), page(mixed)])
        assert first.equals(page(plain))
        assert second[URI].to_pylist() == ["https://h/d.jpg", "http://h/e.jpg", "/f?token=x"]
        assert second.schema.equals(MANIFEST)
        assert second[IMAGE_ID].to_pylist() == list(mixed)
        found = addresses.of([*plain, *mixed])
        assert found == {name: mixed[name] for name in ("d", "e")}
        assert addresses.of(["a", "d", "z"]) == {"d": mixed["d"]}


def test_what_is_not_listed_to_its_end_is_kept_as_far_as_it_was() -> None:
    pages = (page({f"{n}": SIGNED.format(n)}) for n in range(9))
    with secret_addresses() as addresses:
        taken = addresses.taken_out(pages)
        next(taken)
        next(taken)
        assert list(addresses.of([str(n) for n in range(9)])) == ["0", "1"]


def test_a_listing_without_secrets_needs_no_actor() -> None:
    with secret_addresses() as addresses:
        list(addresses.taken_out([page({"a": "/a.jpg"}), page({}), page({"b": "https://h/b"})]))
        assert not addresses.has_any


def test_they_wait_in_a_private_folder_and_are_gone_afterwards() -> None:
    with secret_addresses() as addresses:
        list(addresses.taken_out([page({"a": SIGNED.format("a")})]))
        folder = addresses.folder
        assert folder.stat().st_mode & 0o077 == 0
        assert list(folder.iterdir())
    assert not folder.exists()
    with pytest.raises(sqlite3.OperationalError):
        SecretAddresses(folder).of(["a"])
