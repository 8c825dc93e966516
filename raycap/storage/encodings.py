"""Objects that are stored compressed, as their `Content-Encoding` says.

Web clients decode such a body; S3 and its clients hand it over as it is stored.
"""

import zlib

_GZIP = frozenset({"gzip", "x-gzip"})
_GZIP_MAGIC = b"\x1f\x8b"
_ANY_HEADER = 32  # added to wbits: of zlib or gzip


def decoded(data: bytes, encoding: str | None, max_bytes: int) -> bytes:
    """Decode a body by its `Content-Encoding`, at most `max_bytes + 1` of it.

    Unchanged if the encoding is unknown, or if the body is not encoded so: many uploads are
    labelled wrongly.
    """
    for name in reversed((encoding or "").lower().split(",")):
        if name.strip() in _GZIP and data.startswith(_GZIP_MAGIC):
            data = _inflated(data, max_bytes, zlib.MAX_WBITS + _ANY_HEADER)
        elif name.strip() == "deflate":
            data = _inflated(data, max_bytes, zlib.MAX_WBITS)
    return data


def _inflated(data: bytes, max_bytes: int, wbits: int) -> bytes:
    try:
        return zlib.decompressobj(wbits).decompress(data, max_bytes + 1)
    except zlib.error:
        return data
