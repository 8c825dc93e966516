"""Addresses: the store they belong to, and the one place where they become text.

Every id, column, message and log line shows `Address.shown`, which has no secrets. Of two addresses
of different images it is different too, because it is also their identity: it leaves out only what
says who asks and until when.

| part of a web address | shown |
|---|---|
| user and password, fragment (but the span of a member of a tar) | left out |
| parameters of a known way to sign (`_SCHEMES`), where its signature is there | left out |
| passwords and bearer tokens, by name (`_CREDENTIALS`) | left out |
| other parameters whose name may be a secret's: `key`, `author`, `session` | with a digest |
| an address in a parameter | shown in the same way |
| anything else | unchanged |

So an image keeps its identity when its address is signed again, and `?key=1` and `?key=2` are two
images. The digest is the same in every run.
"""

import os
import re
from dataclasses import dataclass
from hashlib import blake2b
from urllib.parse import quote, unquote, unquote_plus

from raycap.errors import ConfigError
from raycap.storage.members import member_of

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_MISTYPED = re.compile(
    r"^(https?):/*(?=[^/])", re.IGNORECASE
)  # `https:/host`: must not show a secret
_WEB = re.compile(r"([^/?#]*)([^?#]*)(?:\?([^#]*))?", re.DOTALL)
_SECRET_NAME = re.compile(
    r"(?i)signature|credential|token|key|secret|pass|pwd|auth|jwt|session|^x-(amz|goog|oss)-"
    r"|(?:^|[-_.])(?:sig|sign|hmac|sas|otp)(?:[-_.]|$)"
)
_HIDDEN = "hidden-"
_IS_HIDDEN = re.compile(rf"{_HIDDEN}[0-9a-f]{{16}}")
_MOST_NESTED = 3
_UNUSABLE = "unusable"
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/[^\s'\"<>]+")
_REFUSED_USER = (
    "an address takes no password (it was left out here); give the credentials in the way of that "
    "store, by its environment or files"
)


def _names(text: str, prefix: str = "") -> frozenset[str]:
    return frozenset(prefix + name for name in text.split())


_V4 = "algorithm credential date expires signature signedheaders security-token content-sha256"
_AZURE = (
    "sv ss srt sr sp se st sip spr sig si ske skoid sks skt sktid skv saoid suoid scid sdd ses sas"
)
_OSS = "signature signature-version credential date expires security-token additional-headers"
_COS = "sign-algorithm ak sign-time key-time header-list url-param-list signature"  # of Tencent
_SCHEMES: tuple[tuple[frozenset[str], frozenset[str]], ...] = (
    (_names("x-amz-signature"), _names(_V4, "x-amz-")),  # AWS Signature Version 4
    (  # AWS Signature Version 2
        _names("awsaccesskeyid signature"),
        _names("awsaccesskeyid signature expires x-amz-security-token"),
    ),
    (  # CloudFront
        _names("key-pair-id signature"),
        _names("key-pair-id signature expires policy hash-algorithm"),
    ),
    (_names("x-goog-signature"), _names(_V4, "x-goog-")),  # Google Cloud Storage, V4
    (  # Google Cloud Storage, V2
        _names("googleaccessid signature"),
        _names("googleaccessid signature expires"),
    ),
    (_names("keyname signature"), _names("keyname signature expires urlprefix")),  # Google CDN
    (_names("sig se"), _names(_AZURE)),  # Azure shared access signature
    (_names("sig si"), _names(_AZURE)),  # the same with a stored policy
    (_names("x-oss-signature"), _names(_OSS, "x-oss-")),  # Alibaba OSS, V4
    (  # Alibaba OSS, V1
        _names("ossaccesskeyid signature"),
        _names("ossaccesskeyid signature expires security-token"),
    ),
    (  # Huawei OBS
        _names("accesskeyid signature"),
        _names("accesskeyid signature expires x-obs-security-token"),
    ),
    (_names("q-signature"), _names(_COS, "q-") | {"x-cos-security-token"}),
    (_names("hdnts"), _names("hdnts")),  # Akamai
    (_names("hdnea"), _names("hdnea")),
    (_names("ex is hm"), _names("ex is hm")),  # Discord
    (_names("oh oe"), _names("oh oe")),  # Meta
    # Bunny, nginx, and web frameworks: a signature with the time when it ends. A signature without
    # a time is the same whenever it is made, so it may stay.
    (_names("token expires"), _names("token expires token_path")),
    (_names("md5 expires"), _names("md5 expires")),
    (_names("signature expires"), _names("signature expires")),
    (_names("sig expires"), _names("sig expires")),
)
"""Ways to sign a web address: the parameters that show it, and all those it adds, in lower case."""

_CREDENTIALS = _names("access_token password passwd pwd passphrase")


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
        match = _SCHEME.match(text) or _MISTYPED.match(text)
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
        """Its text without secrets, which is also its identity; see the top of this module."""
        if self.scheme == _UNUSABLE:
            return redact(self.path.partition("/")[2])
        if (member := member_of(self.text)) is not None:
            return member._replace(tar=redact(member.tar)).uri
        return self._shown(_MOST_NESTED)

    def _shown(self, most_nested: int) -> str:
        return _shown_web(self, most_nested) if self.is_web else _without_user(self)

    @property
    def holds_password(self) -> bool:
        """Whether it is a store's address with credentials in it, which no store accepts."""
        return not self.is_web and self.scheme != _UNUSABLE and self.shown != self.text

    @property
    def fault(self) -> str | None:
        """Why nothing can be read at it, as far as its text shows."""
        if self.scheme == _UNUSABLE:
            return unquote(self.path.partition("/")[0])
        return _REFUSED_USER if self.holds_password else None


def redact(uri: str) -> str:
    """Return the text of an address without secrets; see `Address.shown`."""
    return Address.parse(uri).shown


def redact_id(image_id: str) -> str:
    """Return an id that someone gave without secrets, if it is an address.

    As `redact`, but the fragment stays: it may be what tells two ids apart.
    """
    address, mark, fragment = image_id.partition("#")
    if not Address.parse(address).is_web:
        return redact(image_id)
    return redact(address) + mark + _shown_query(fragment, 0)


def redact_text(text: str) -> str:
    """Remove what may be secret from every address in a message.

    For messages of others, such as those of libraries: an address with a space in it is not seen as
    one, so our own messages contain `Address.shown` to begin with.
    """
    return _IN_TEXT.sub(lambda found: _redact_within(found[0]), text)


def _redact_within(found: str) -> str:
    address = found.rstrip(").,;:]}")
    return redact(address) + found[len(address) :]


def unusable(address: str, reason: str) -> str:
    """Return an address at which nothing can be read, for a reason; it is shown as `address`."""
    return f"{_UNUSABLE}://{quote(reason, safe='')}/{address}"


def _shown_web(address: Address, most_nested: int) -> str:
    found = _WEB.match(address.path)
    assert found is not None  # all parts may be empty
    authority, path, query = found[1], found[2], found[3] or ""
    port = authority.rpartition(":")[2]
    if "@" not in authority and ":" in authority and not port.isdigit() and "@" in address.path:
        # Not a host: a password with a slash in it, up to some @.
        rest = f"{address.scheme}://{address.path.rpartition('@')[2]}"
        return Address.parse(rest)._shown(most_nested)
    shown = f"{address.scheme}://{authority.rpartition('@')[2]}{path}"
    query = _shown_query(query, most_nested)
    return f"{shown}?{query}" if query else shown


def _shown_query(query: str, most_nested: int) -> str:
    fields = query.split("&")
    names = [unquote_plus(field.partition("=")[0]).lower() for field in fields]
    signing = {n for marks, added in _SCHEMES if marks <= set(names) for n in added} | _CREDENTIALS
    return "&".join(
        _shown_field(field, most_nested)
        for field, name in zip(fields, names, strict=True)
        if name not in signing
    )


def _shown_field(field: str, most_nested: int) -> str:
    pieces = field.split(";")  # which some servers take for an &
    for number, piece in enumerate(pieces):
        name, equals, value = piece.partition("=")
        if equals and _SECRET_NAME.search(unquote_plus(name)):
            hidden = f"{name}={_hidden(';'.join([value, *pieces[number + 1 :]]))}"
            return ";".join([*pieces[:number], hidden])
    name, equals, value = field.partition("=")
    inner = unquote(value or name)
    if _SCHEME.match(inner) or _MISTYPED.match(inner):
        # As proxies of images take one.
        if not most_nested:
            return name + equals + _hidden(value) if equals else _hidden(name)
        shown = Address.parse(inner)._shown(most_nested - 1)
        if shown != inner:
            return name + equals + quote(shown, safe="") if equals else quote(shown, safe="")
    return field


def _hidden(value: str) -> str:
    """Return a digest in place of a value; an empty value and a digest stay."""
    if not value or _IS_HIDDEN.fullmatch(value):
        return value
    data = value.encode("utf-8", "surrogatepass")
    return _HIDDEN + blake2b(data, digest_size=8, person=b"raycap-address").hexdigest()


def _without_user(address: Address) -> str:
    start = address.text.removesuffix(address.path)
    if address.is_local or address.scheme == "github":  # `github://organisation:repository@commit`
        return address.text
    head, slash, rest = address.path.partition("/")
    if address.is_s3:
        # Some tools write `s3://KEY:SECRET@bucket`; a secret may contain a slash.
        is_user = ":" in head and not head.startswith("arn:")
        return start + address.path.rpartition("@")[2] if is_user else address.text
    user, _, host = head.rpartition("@")
    if ":" in user:  # `az://` has names before an @, too
        return start + host + slash + rest
    if ":" in host and not host.rpartition(":")[2].isdigit() and "@" in rest:
        return start + rest.rpartition("@")[2]
    return address.text


def check_exists(text: str) -> None:
    """Raise ConfigError if an address is a local path at which there is nothing.

    Every argument that names something to read is checked by this, so that a mistyped path has one
    message and one exit code everywhere.
    """
    address = Address.parse(text)
    if address.is_local and not os.path.lexists(address.local_path):
        raise ConfigError(f"{text}: no such file or folder", uri=text)
