"""Addresses: which store they belong to, and what of them may be shown."""

import re
from urllib.parse import urlsplit, urlunsplit

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_SECRET_QUERY = re.compile(r"(?i)(signature|credential|token|sig=|key|secret|password|auth)")


def scheme_of(uri: str) -> str:
    """Return the scheme of an address in lower case, or "" for a local path."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else ""


def split_s3(uri: str) -> tuple[str, str]:
    """Split `s3://bucket/key` into bucket and key, the key as it stands (`#` and `?` included)."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def redact(uri: str) -> str:
    """Drop what may be secret of a web address: user and password, and a signed query."""
    if scheme_of(uri) not in ("http", "https"):
        return uri
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "(an address that cannot be read)"
    host = parts.netloc.rpartition("@")[2]
    query = "" if _SECRET_QUERY.search(parts.query) else parts.query
    return urlunsplit((parts.scheme, host, parts.path, query, ""))
