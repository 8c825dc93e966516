"""S3 as a store, and everything that speaks its protocol: AWS, MinIO, R2, Ceph.

Credentials, region, profile and `AWS_ENDPOINT_URL` come from boto3's usual chain and stay there:
none of them is logged, stored or sent elsewhere.
"""

import heapq
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache, cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
import botocore.session
import pyarrow as pa
from botocore import UNSIGNED
from botocore import exceptions as botocore_errors
from botocore.config import Config
from botocore.loaders import Loader
from botocore.parsers import ResponseParserError

from raycap.config import StorageConfig
from raycap.errors import (
    BucketNotFound,
    ConfigError,
    ErrorCode,
    ObjectForbidden,
    ObjectNotFound,
    StorageError,
    TransientError,
)
from raycap.storage.address import Address
from raycap.storage.base import LISTING, check_whole, retry_after_s
from raycap.storage.encodings import decoded
from raycap.storage.fence import LockObjectStore
from raycap.storage.limits import Connections
from raycap.storage.parallel import ordered_chain

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

T = TypeVar("T")

_MIN_KEYS_PER_BRANCH = 50
_NOT_FOUND = frozenset({"404", "NoSuchKey", "NotFound"})
_PRECONDITION_FAILED = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict"})
_EMPTY_RANGE = frozenset({"InvalidRange", "416"})

_NAME_TOO_LONG = "KeyTooLongError"
_ARCHIVED = "InvalidObjectState"
_THROTTLED = frozenset(
    {"429", "503", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded"}
)
_TIMEOUT = frozenset({"RequestTimeout", "408", "504"})
_REMEDY = {
    "NoSuchBucket": "there is no such bucket; check the name, region and AWS_ENDPOINT_URL",
    "AccessDenied": "access denied; check the credentials and the bucket's policy, or set "
    "storage.anonymous=true for a public bucket",
    "InvalidAccessKeyId": "the access key is not known there; check the credentials",
    "SignatureDoesNotMatch": "the secret key does not match; check the credentials",
    "ExpiredToken": "the session token has expired; log in again and run the same command",
    "InvalidToken": "the session token is not valid; check the credentials",
    "RequestTimeTooSkewed": "this machine's clock is wrong; set it and run the same command",
    "NotImplemented": "this store lacks a request that raycap needs; use another output",
}
_REMEDY["403"] = _REMEDY["AccessDenied"]
# Of an object that is refused for one of these, others of the bucket may be readable.
_ACCESS_DENIED = frozenset({"AccessDenied", "403"})
_MESSAGE_CHARS = 200


class S3Store(LockObjectStore):
    """A bucket prefix as a `Store`; safe to use from many threads."""

    def __init__(
        self, address: Address, config: StorageConfig, *, is_literal: bool = False
    ) -> None:
        """Open a prefix. Raises ConfigError if the address names no bucket.

        Slashes around the prefix are dropped unless `is_literal`: then `s3://bucket//lead` is the
        prefix `/lead`.
        """
        super().__init__(address, config)
        self._bucket, prefix = address.bucket_and_key
        if not self._bucket:
            raise ConfigError(
                f"{address.text}: names no bucket; write s3://bucket/prefix", uri=address.text
            )
        self._prefix = prefix.removesuffix("/") if is_literal else prefix.strip("/")
        self._client = make_client(config)

    @property
    def uri(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self._bucket}/{self._prefix}" if self._prefix else f"s3://{self._bucket}"

    def address(self, key: str) -> str:
        """`s3://bucket/prefix/key`."""
        return f"s3://{self._bucket}/{self._full(key)}"

    def list(self, prefix: str = "") -> Iterator[pa.Table]:
        """List all objects under a prefix in key order; sub-prefixes are listed in parallel."""
        root = f"{self._prefix}/" if self._prefix else ""
        for page in self._list_branching(root + prefix):
            yield _table([(key.removeprefix(root), size, etag) for key, size, etag in page])

    def holds_any(self) -> bool:
        """Whether there is any object under the prefix, by one small request."""
        root = f"{self._prefix}/" if self._prefix else ""
        reply = next(self._pages(Prefix=root, MaxKeys=1))
        return bool(reply.get("Contents"))

    def read(self, key: str) -> bytes:
        """Read a whole object."""
        return get_object(self._client, self._retrying, (self._bucket, self._full(key)))

    def read_tail(self, key: str, num_bytes: int) -> bytes:
        """Read at most the last `num_bytes` of an object by a ranged request."""
        address = (self._bucket, self._full(key))
        return get_range(self._client, self._retrying, address, f"-{num_bytes}")

    def read_range(self, key: str, offset_bytes: int, num_bytes: int) -> bytes:
        """Read `num_bytes` of an object from an offset on by a ranged request."""
        address = (self._bucket, self._full(key))
        span = f"{offset_bytes}-{offset_bytes + num_bytes - 1}"
        return get_range(self._client, self._retrying, address, span)

    def size(self, key: str) -> int:
        """Return the size of an object in bytes."""
        full = self._full(key)
        head = self._call(key, lambda: self._client.head_object(Bucket=self._bucket, Key=full))
        return head["ContentLength"]

    def write(self, key: str, data: bytes) -> None:
        """Write or replace an object in one PUT, which S3 makes atomic."""
        self._put(key, data, {})

    def upload(self, key: str, file: Path) -> None:
        """Write or replace an object from a local file, atomically; a large one in parts."""

        def attempt() -> None:
            with file.open("rb") as content:
                self._uploader.upload_fileobj(content, self._bucket, self._full(key))

        _mapped(attempt, self.address(key))

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless one exists (`If-None-Match: *`); return whether it was written."""
        return self.put_if(key, data, None) is not None

    def put_if(self, key: str, data: bytes, version: str | None) -> str | None:
        """Replace an object if it still has that ETag, or create it if None.

        Returns:
            the new ETag; None if the object has another one.
        """
        return self._put(key, data, _condition(version))

    def upload_if(self, key: str, file: Path, version: str | None) -> bool:
        """Upload as `upload` does, under the condition of `put_if`; return whether it was done."""
        condition = _condition(version)

        def add(params: dict[str, Any], **_: Any) -> None:
            params.update(condition)

        # A client of its own: several uploads may be under way.
        uploader = make_client(self._config, num_attempts=self._config.num_retries + 1)
        for operation in ("PutObject", "CompleteMultipartUpload"):
            uploader.meta.events.register(f"provide-client-params.s3.{operation}", add)

        def attempt() -> bool:
            with file.open("rb") as content:
                try:
                    uploader.upload_fileobj(content, self._bucket, self._full(key))
                except botocore_errors.ClientError as error:
                    if _error_code(error) in _PRECONDITION_FAILED | _NOT_FOUND:
                        return False
                    raise
            return True

        return _mapped(attempt, self.address(key))

    def version(self, key: str) -> str | None:
        """Return the ETag of an object; None if there is none."""
        full = self._full(key)
        try:
            head = self._call(key, lambda: self._client.head_object(Bucket=self._bucket, Key=full))
        except ObjectNotFound:
            return None
        return head["ETag"]

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        """Read a small object and its ETag."""

        def attempt() -> tuple[bytes, str]:
            reply = self._client.get_object(Bucket=self._bucket, Key=self._full(key))
            return _read_body(reply), reply["ETag"]

        return self._call(key, attempt)

    def delete(self, key: str) -> None:
        """Delete an object, if there is one."""
        full = self._full(key)
        self._call(key, lambda: self._client.delete_object(Bucket=self._bucket, Key=full))

    def delete_all(self, prefix: str) -> None:
        """Delete every object under a prefix, a thousand per request."""
        for page in self._pages(Prefix=self._full(prefix)):
            keys: list[ObjectIdentifierTypeDef] = [
                {"Key": item["Key"]} for item in page.get("Contents", [])
            ]
            if keys:
                request = partial(
                    self._client.delete_objects,
                    Bucket=self._bucket,
                    Delete={"Objects": keys, "Quiet": True},
                )
                for error in self._call(prefix, request).get("Errors", []):
                    raise StorageError(
                        f"s3://{self._bucket}/{error['Key']}: cannot be deleted ({error['Code']})"
                    )

    @cached_property
    def _uploader(self) -> "S3Client":
        # It retries by itself: `retrying` would send all parts of a large file again for one part.
        return make_client(self._config, num_attempts=self._config.num_retries + 1)

    def _full(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _put(self, key: str, data: bytes, condition: dict[str, Any]) -> str | None:
        def attempt() -> str | None:
            try:
                reply = self._client.put_object(
                    Bucket=self._bucket, Key=self._full(key), Body=data, **condition
                )
            except botocore_errors.ClientError as error:
                if condition and _error_code(error) in _PRECONDITION_FAILED | _NOT_FOUND:
                    return None  # there is another version, or none to replace
                raise
            return reply["ETag"]

        return self._call(key, attempt)

    def _call(self, key: str, attempt: Callable[[], T]) -> T:
        address = self.address(key)
        result: T = self._retrying(_mapped, attempt, address)
        return result

    def _list_branching(self, prefix: str) -> Iterator["_Page"]:
        """List a small or fine-grained tree page by page, others with one thread per branch."""
        first = next(self._pages(Prefix=prefix))
        if not first.get("IsTruncated") or _is_fine_grained(first, prefix):
            yield from self._list_flat(prefix)
            return
        entries = self._list_level(self._branching_prefix(prefix))
        yield from ordered_chain(
            (
                self._list_flat(group) if isinstance(group, str) else iter([group])
                for group in _grouped(entries)
            ),
            self._config.list_threads,
        )

    def _branching_prefix(self, prefix: str) -> str:
        """Descend while a level holds one sub-prefix and nothing else."""
        while True:
            reply = next(self._pages(Prefix=prefix, Delimiter="/"))
            prefixes = reply.get("CommonPrefixes", [])
            if len(prefixes) != 1 or reply.get("Contents") or reply.get("IsTruncated"):
                return prefix
            prefix = prefixes[0]["Prefix"]

    def _list_level(self, prefix: str) -> Iterator[tuple[str, "_Object | None"]]:
        """Yield (key, object) and (sub-prefix, None) of one level, merged in key order."""
        for reply in self._pages(Prefix=prefix, Delimiter="/"):
            objects = ((o["Key"], _object(o)) for o in reply.get("Contents", []))
            prefixes = ((p["Prefix"], None) for p in reply.get("CommonPrefixes", []))
            yield from heapq.merge(objects, prefixes, key=lambda item: item[0])

    def _list_flat(self, prefix: str) -> Iterator["_Page"]:
        for reply in self._pages(Prefix=prefix):
            page = [_object(o) for o in reply.get("Contents", []) if not o["Key"].endswith("/")]
            if page:
                yield page

    def _pages(self, **request: Any) -> Iterator[dict[str, Any]]:
        token: dict[str, Any] = {}
        while True:
            call = partial(self._client.list_objects_v2, Bucket=self._bucket, **request, **token)
            reply: dict[str, Any] = self._retrying(_mapped, call, self.uri)
            yield reply
            if not reply.get("IsTruncated"):
                return
            token = {"ContinuationToken": reply["NextContinuationToken"]}


def _condition(version: str | None) -> dict[str, Any]:
    return {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}


_Object = tuple[str, int | None, str | None]
_Page = list[_Object]


def _is_fine_grained(page: dict[str, Any], prefix: str) -> bool:
    """Whether branches hold so few objects that a request per branch would be wasteful."""
    keys = [item["Key"].removeprefix(prefix) for item in page.get("Contents", [])]
    branches = {key.partition("/")[0] for key in keys if "/" in key}
    return len(branches) * _MIN_KEYS_PER_BRANCH > len(keys)


def _object(item: Any) -> _Object:
    etag = item.get("ETag")  # some stores leave it out
    return item["Key"], item.get("Size"), etag.strip('"') if etag else None


def _grouped(entries: Iterator[tuple[str, _Object | None]]) -> Iterator[str | _Page]:
    """Collect neighbouring objects into pages; pass sub-prefixes through."""
    for is_object, group in groupby(entries, key=lambda item: item[1] is not None):
        if not is_object:
            yield from (key for key, _ in group)
            continue
        page: _Page = []
        for _, item in group:
            if item is not None and not item[0].endswith("/"):
                page.append(item)
            if len(page) == 1000:
                yield page
                page = []
        if page:
            yield page


def _table(page: _Page) -> pa.Table:
    keys, sizes, etags = zip(*page, strict=True)
    return pa.table([pa.array(keys), pa.array(sizes), pa.array(etags)], schema=LISTING)


def _mapped(attempt: Callable[[], T], address: str) -> T:
    """Run one attempt, and turn botocore's errors into ours."""
    try:
        return attempt()
    except botocore_errors.ClientError as error:
        raise _explain_reply(error, address) from error
    except botocore_errors.BotoCoreError as error:
        raise _explain_failure(error, address) from error
    except ResponseParserError as error:
        raise TransientError(
            ErrorCode.SERVER_ERROR, f"{address}: the server's answer is not S3's"
        ) from error


def _error_code(error: botocore_errors.ClientError) -> str:
    """Return S3's error code, such as `NoSuchKey`, or the HTTP status."""
    return error.response.get("Error", {}).get("Code", "")


def _explain_reply(error: botocore_errors.ClientError, address: str) -> StorageError:
    code = _error_code(error)
    status = _status(error)
    if code in _NOT_FOUND:
        return ObjectNotFound(f"{address}: no such object", uri=address)
    if code == _NAME_TOO_LONG:
        return ObjectNotFound(
            f"{address}: is longer than the name of an object can be", uri=address
        )
    if code == _ARCHIVED:
        return ObjectForbidden(f"{address}: is archived; restore it first", uri=address)
    if found := _explain_transient(error, address):
        return found
    if code == "NoSuchBucket":
        return BucketNotFound(f"{address}: {_REMEDY[code]}", uri=address)
    if code in _REMEDY:
        return StorageError(f"{address}: {_REMEDY[code]}", uri=address)
    return StorageError(
        f"{address}: refused, HTTP {status} ({code}: {_message(error)})", uri=address
    )


def _explain_transient(error: botocore_errors.ClientError, address: str) -> TransientError | None:
    code, status = _error_code(error), _status(error)
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    wait_s = retry_after_s(headers.get("retry-after"))
    if code in _THROTTLED or code.endswith("ThrottlingException") or status in (429, 503):
        told = f"{address}: throttled ({code})"
        return TransientError(ErrorCode.THROTTLED, told, retry_after_s=wait_s)
    if code in _TIMEOUT or status in (408, 504):
        told = f"{address}: timed out ({code})"
        return TransientError(ErrorCode.TIMEOUT, told, retry_after_s=wait_s)
    if status >= 500 and code not in _REMEDY:
        told = f"{address}: server error {status} ({code})"
        return TransientError(ErrorCode.SERVER_ERROR, told, retry_after_s=wait_s)
    return None


def _status(error: botocore_errors.ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _message(error: botocore_errors.ClientError) -> str:
    return " ".join(error.response.get("Error", {}).get("Message", "").split())[:_MESSAGE_CHARS]


def _image_mapped(attempt: Callable[[], T], address: str) -> T:
    """Run one attempt to read an image: what is refused for this object alone concerns no other.

    Its permissions, the state of its key in KMS, or a key of the customer's own that the request
    lacks (SSE-C). Credentials that are wrong concern all.
    """
    try:
        return _mapped(attempt, address)
    except StorageError as error:
        cause = error.__cause__
        if type(error) is not StorageError or not isinstance(cause, botocore_errors.ClientError):
            raise
        code, status = _error_code(cause), _status(cause)
        if code in _ACCESS_DENIED or (code not in _REMEDY and 400 <= status < 500):
            told = f"{address}: may not be read, HTTP {status} ({code}: {_message(cause)})"
            raise ObjectForbidden(told, uri=address) from error
        raise


def _explain_failure(error: botocore_errors.BotoCoreError, address: str) -> StorageError:
    if isinstance(error, _CREDENTIALS):
        return StorageError(
            f"{address}: no usable AWS credentials ({error}); configure them, or set "
            "storage.anonymous=true for a public bucket",
            uri=address,
            setting="storage.anonymous",
        )
    if isinstance(error, botocore_errors.ParamValidationError):
        return ObjectNotFound(f"{address}: not an S3 address (s3://bucket/key)", uri=address)
    if isinstance(error, _TIMEOUTS):
        return TransientError(ErrorCode.TIMEOUT, f"{address}: timed out")
    if isinstance(error, _BROKEN):
        name = type(error).__name__
        return TransientError(ErrorCode.NETWORK, f"{address}: connection failed ({name})")
    return StorageError(f"{address}: {error}", uri=address)


_CREDENTIALS = (
    botocore_errors.NoCredentialsError,
    botocore_errors.PartialCredentialsError,
    botocore_errors.CredentialRetrievalError,
    botocore_errors.TokenRetrievalError,
    botocore_errors.UnauthorizedSSOTokenError,
)
_TIMEOUTS = (botocore_errors.ConnectTimeoutError, botocore_errors.ReadTimeoutError)
_BROKEN = (
    botocore_errors.ConnectionError,
    botocore_errors.HTTPClientError,
    botocore_errors.ResponseStreamingError,
    botocore_errors.IncompleteReadError,
)


@cache
def _service_models() -> Loader:
    """Return a loader that keeps what it has parsed, the longest part of a client's start."""
    loader: Loader = botocore.session.get_session().get_component("data_loader")
    return loader


def make_client(config: StorageConfig, num_attempts: int = 1) -> "S3Client":
    """Build a client with the configured timeouts and without retries (`retrying` does them).

    With `num_attempts` above 1 it retries by itself, each request of a transfer separately.

    Raises:
        StorageError: the profile or the configuration of the credential chain is wrong.
    """
    settings = Config(
        connect_timeout=config.timeout_s,
        read_timeout=config.timeout_s,
        retries={"total_max_attempts": num_attempts, "mode": "standard"},
        max_pool_connections=256,
        signature_version=UNSIGNED if config.anonymous else None,
        # Stores other than AWS may not know the checksums: they are sent only if S3 requires them.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        session = botocore.session.get_session()
        session.register_component("data_loader", _service_models())
        return boto3.session.Session(botocore_session=session).client("s3", config=settings)
    except (botocore_errors.BotoCoreError, ValueError) as error:
        raise StorageError(f"S3 cannot be reached: {error}") from error


def get_object(client: "S3Client", policy: Any, address: tuple[str, str]) -> bytes:
    """Read an object of (bucket, key), with retries.

    The body is read within the retried attempt, as connections break there too.
    """
    bucket, key = address

    def attempt() -> bytes:
        return _read_body(client.get_object(Bucket=bucket, Key=key))

    return bytes(policy(_mapped, attempt, f"s3://{bucket}/{key}"))


def get_range(client: "S3Client", policy: Any, address: tuple[str, str], span: str) -> bytes:
    """Read a byte range of an object of (bucket, key), such as `0-99` or `-100`, with retries."""
    bucket, key = address

    def attempt() -> bytes:
        return _read_range(client, address, span, Connections())

    return bytes(policy(_mapped, attempt, f"s3://{bucket}/{key}"))


class S3Images:
    """Reads images from S3; safe to use from many threads."""

    def __init__(self, config: StorageConfig, policy: Any) -> None:
        self._client = make_client(config)
        self._policy = policy

    def read(
        self,
        where: tuple[str, str],
        max_bytes: int,
        size_bytes: int | None,
        connections: Connections,
    ) -> bytes:
        """Read an image at (bucket, key), at most `max_bytes + 1` of it; decompress it if need be.

        Raises:
            ObjectNotFound: there is no such object.
            ObjectForbidden: it may not be read.
            TransientError: it could not be read completely, even after the configured retries.
            StorageError: no image of that bucket can be read.
        """
        bucket, key = where

        def attempt() -> bytes:
            reply = self._client.get_object(Bucket=bucket, Key=key)
            data = _read_body(reply, max_bytes, connections)
            check_whole(len(data), size_bytes, max_bytes, f"s3://{bucket}/{key}")
            if len(data) > max_bytes:
                return data
            return decoded(data, reply.get("ContentEncoding"), max_bytes)

        return bytes(self._policy(_image_mapped, attempt, f"s3://{bucket}/{key}"))

    def version(self, where: tuple[str, str]) -> str:
        """Return the ETag of an object as a listing has it; raises as `read` does."""
        bucket, key = where
        call = partial(self._client.head_object, Bucket=bucket, Key=key)
        head = self._policy(_image_mapped, call, f"s3://{bucket}/{key}")
        return str(head["ETag"]).strip('"')

    def read_range(self, where: tuple[str, str], span: str, connections: Connections) -> bytes:
        """Read a byte range, such as `0-99`; raises as `read` does."""
        bucket, key = where

        def attempt() -> bytes:
            return _read_range(self._client, where, span, connections)

        return bytes(self._policy(_image_mapped, attempt, f"s3://{bucket}/{key}"))


def _read_range(
    client: "S3Client", address: tuple[str, str], span: str, connections: Connections
) -> bytes:
    bucket, key = address
    try:
        reply = client.get_object(Bucket=bucket, Key=key, Range=f"bytes={span}")
    except botocore_errors.ClientError as error:
        if _error_code(error) in _EMPTY_RANGE:
            return b""  # the object ends before the range, or is empty
        raise
    return _read_body(reply, None, connections)


def _read_body(
    reply: Any, max_bytes: int | None = None, connections: Connections | None = None
) -> bytes:
    """Read the body of a reply, at most `max_bytes + 1` of it, and close it."""
    connections = connections or Connections()
    with closing(reply["Body"]) as body:
        # The only way to end a read from another thread; botocore does not offer it itself.
        connections.hold(getattr(body._raw_stream, "shutdown", None))
        try:
            data: bytes = body.read() if max_bytes is None else body.read(max_bytes + 1)
        finally:
            connections.hold(None)
    if max_bytes is None:
        return data
    expected = min(reply["ContentLength"], max_bytes + 1)
    if len(data) < expected:  # botocore notices a broken body only if all of it is read
        raise botocore_errors.IncompleteReadError(actual_bytes=len(data), expected_bytes=expected)
    return data
