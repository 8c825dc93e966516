"""Addresses: which store they belong to, and what of them may be shown."""

import re
from urllib.parse import unquote_plus, urlsplit, urlunsplit

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_USER = re.compile(r"^[^/@]*:[^/@]*@")  # `github://` and `az://` have names before an @ too
_SECRET_NAME = re.compile(
    r"(?i)signature|credential|token|key|secret|pass|pwd|auth|jwt|session|^sig$|^x-(amz|goog)-"
)
_AZURE_NAMES = {"se", "sip", "ske", "skoid", "sks", "skt", "sktid", "skv", "sp", "spr", "sr", "sv"}
_SIGNING_NAMES = frozenset({"expires", "policy", "st"} | _AZURE_NAMES)


def scheme_of(uri: str) -> str:
    """Return the scheme of an address in lower case, or "" for a local path."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else ""


def split_s3(uri: str) -> tuple[str, str]:
    """Split `s3://bucket/key` into bucket and key, the key as it stands (`#` and `?` included)."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def redact(uri: str) -> str:
    """Drop what may be secret of an address: user and password, and a web query's signature.

    All of a signature goes, its date as well, so that an image keeps its name when its address
    is signed anew; the rest of the query stays, as it may be what tells two images apart.
    """
    scheme = scheme_of(uri)
    if scheme not in ("http", "https"):
        return _without_user(scheme, uri)
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "(an address that cannot be read)"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, _without_secrets(parts.query), ""))


def holds_password(uri: str) -> bool:
    """Whether an address of a store brings its own credentials, which no store takes from there."""
    return scheme_of(uri) not in ("http", "https") and redact(uri) != uri


def _without_user(scheme: str, uri: str) -> str:
    start, separator, rest = uri.partition("://")
    if scheme in ("s3", "s3a"):
        # `s3://KEY:SECRET@bucket`, as some tools have it; a secret may hold a slash.
        bucket = rest.partition("/")[0]
        if ":" not in bucket or bucket.startswith("arn:"):
            return uri
        return start + separator + rest.rpartition("@")[2]
    if scheme in ("", "file", "github"):  # `github://organisation:repository@commit`
        return uri
    return start + separator + _USER.sub("", rest)


def _without_secrets(query: str) -> str:
    fields = query.split("&")
    names = [unquote_plus(field.partition("=")[0]) for field in fields]
    is_secret = [bool(_SECRET_NAME.search(name)) for name in names]
    if any(is_secret):
        is_secret = [
            secret or name.lower() in _SIGNING_NAMES
            for name, secret in zip(names, is_secret, strict=True)
        ]
    return "&".join(field for field, secret in zip(fields, is_secret, strict=True) if not secret)
