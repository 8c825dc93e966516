"""Addresses: the store they belong to, and how they are shown without secrets."""

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote_plus, urlsplit, urlunsplit

from raycap.errors import ConfigError

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_USER = re.compile(r"^[^/@]*:[^/@]*@")  # `github://` and `az://` have names before an @, too
_SECRET_NAME = re.compile(
    r"(?i)signature|credential|token|key|secret|pass|pwd|auth|jwt|session|^sig$|^x-(amz|goog)-"
)
_AZURE_NAMES = {"se", "sip", "ske", "skoid", "sks", "skt", "sktid", "skv", "sp", "spr", "sr", "sv"}
_SIGNING_NAMES = frozenset({"expires", "policy", "st"} | _AZURE_NAMES)


@dataclass(frozen=True, slots=True)
class Address:
    """An address, parsed once: which store it belongs to, and its path there."""

    text: str
    """As it was given."""
    scheme: str
    """In lower case; "" for a local path."""
    path: str
    """What follows `scheme://`, unchanged: `#`, `?` and `%` are part of a name."""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Parse an address; any text is one, if only a local path."""
        match = _SCHEME.match(text)
        if match is None:
            return cls(text=text, scheme="", path=text)
        return cls(text=text, scheme=match[1].lower(), path=text[match.end() :])

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this machine, with or without `file://`."""
        return self.scheme in ("", "file")

    @property
    def is_web(self) -> bool:
        """Whether it is an `http://` or `https://` address."""
        return self.scheme in ("http", "https")

    @property
    def is_s3(self) -> bool:
        """Whether it is an `s3://` address."""
        return self.scheme in ("s3", "s3a")

    @property
    def is_absolute(self) -> bool:
        """Whether it does not depend on a folder that it is relative to."""
        return self.scheme != "" or self.path.startswith("/")

    @property
    def local_path(self) -> str:
        """The absolute path of a local address, with `~` replaced."""
        return os.path.abspath(os.path.expanduser(self.path))

    @property
    def bucket_and_key(self) -> tuple[str, str]:
        """Bucket and key of an `s3://` address."""
        bucket, _, key = self.path.partition("/")
        return bucket, key

    @property
    def shown(self) -> str:
        """Without what may be secret; see `redact`."""
        if not self.is_web:
            return _without_user(self)
        try:
            parts = urlsplit(self.text)
        except ValueError:
            return "(an address that cannot be read)"
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path, _without_secrets(parts.query), ""))

    @property
    def holds_password(self) -> bool:
        """Whether it is a store's address with credentials in it, which no store accepts."""
        return not self.is_web and self.shown != self.text


def redact(uri: str) -> str:
    """Remove what may be secret from an address: user, password, and a web query's signature.

    The whole signature is removed, its date too, so that an image keeps its id when its address is
    signed again. The rest of the query stays, as it may be what distinguishes two images.
    """
    return Address.parse(uri).shown


def _without_user(address: Address) -> str:
    start = address.text.removesuffix(address.path)
    if address.is_s3:
        # Some tools write `s3://KEY:SECRET@bucket`; a secret may contain a slash.
        bucket = address.path.partition("/")[0]
        if ":" not in bucket or bucket.startswith("arn:"):
            return address.text
        return start + address.path.rpartition("@")[2]
    if address.is_local or address.scheme == "github":  # `github://organisation:repository@commit`
        return address.text
    return start + _USER.sub("", address.path)


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


def check_exists(text: str) -> None:
    """Raise ConfigError if an address is a local path at which there is nothing.

    Every argument that names something to read is checked by this, so that a mistyped path has one
    message and one exit code everywhere.
    """
    address = Address.parse(text)
    if address.is_local and not os.path.lexists(address.local_path):
        raise ConfigError(f"{text}: no such file or folder", uri=text)
