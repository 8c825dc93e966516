"""Bodies that are stored compressed."""

import gzip
import zlib

import pytest

from raycap.storage.encodings import decoded

DATA = bytes(range(256)) * 20


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (DATA, None), (DATA, ""), (DATA, "aws-chunked"), (DATA, "br"),
        (gzip.compress(DATA), "gzip"), (gzip.compress(DATA), "GZIP, aws-chunked"),
        (gzip.compress(DATA), "x-gzip"), (zlib.compress(DATA), "deflate"),
        (gzip.compress(gzip.compress(DATA)), "gzip, gzip"),
        (DATA, "gzip"), (DATA, "deflate"),  # labelled wrongly
    ],
)  # fmt: skip
def test_a_body_is_decoded_by_its_encoding(body: bytes, encoding: str | None) -> None:
    assert decoded(body, encoding, 100_000) == DATA


def test_no_more_than_the_limit_is_decoded() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    assert len(decoded(bomb, "gzip", 1_000)) == 1_001
