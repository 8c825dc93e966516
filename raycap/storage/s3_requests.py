"""Requests to S3: the client, and reading objects and spans of them.

Credentials, region, profile and `AWS_ENDPOINT_URL` come from boto3's usual chain and stay there:
nothing of them is ever logged, stored or sent along.

What S3's refusals and broken connections mean: gone, tried again later, or told to the user.
"""

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from botocore import UNSIGNED
from botocore import exceptions as botocore_errors
from botocore.config import Config
from botocore.parsers import ResponseParserError

from raycap.config import StorageConfig
from raycap.errors import ErrorCode, ObjectNotFound, StorageError, TransientError

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

T = TypeVar("T")

NOT_FOUND = frozenset({"404", "NoSuchKey", "NotFound"})
PRECONDITION_FAILED = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict"})
EMPTY_RANGE = frozenset({"InvalidRange", "416"})

_UNREADABLE = {
    "InvalidObjectState": "is archived; restore it first",
    "KeyTooLongError": "is longer than the name of an object can be",
}
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
    "RequestTimeTooSkewed": "this machine's clock is wrong; set it and run the same command",
    "NotImplemented": "this store lacks a request that raycap needs; use another output",
}
_REMEDY["403"] = _REMEDY["AccessDenied"]
_MESSAGE_CHARS = 200


def mapped(attempt: Callable[[], T], address: str) -> T:
    """Run one attempt and turn botocore's errors into ours."""
    try:
        return attempt()
    except botocore_errors.ClientError as error:
        raise _explain_reply(error, address) from error
    except botocore_errors.BotoCoreError as error:
        raise _explain_failure(error, address) from error
    except ResponseParserError as error:
        raise TransientError(
            ErrorCode.SERVER_ERROR, f"{address}: the answer is not one of S3"
        ) from error


def error_code(error: botocore_errors.ClientError) -> str:
    """Return S3's code of a refusal, such as `NoSuchKey`, or its HTTP status."""
    return error.response.get("Error", {}).get("Code", "")


def _explain_reply(error: botocore_errors.ClientError, address: str) -> StorageError:
    code = error_code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in NOT_FOUND:
        return ObjectNotFound(f"{address}: no such object")
    if code in _UNREADABLE:
        return ObjectNotFound(f"{address}: {_UNREADABLE[code]}")
    if code in _THROTTLED or status in (429, 503):
        return TransientError(ErrorCode.THROTTLED, f"{address}: throttled ({code})")
    if code in _TIMEOUT or status in (408, 504):
        return TransientError(ErrorCode.TIMEOUT, f"{address}: timed out ({code})")
    if code in _REMEDY:
        return StorageError(f"{address}: {_REMEDY[code]}")
    if status >= 500:
        return TransientError(ErrorCode.SERVER_ERROR, f"{address}: server error {status} ({code})")
    message = " ".join(error.response.get("Error", {}).get("Message", "").split())
    return StorageError(f"{address}: refused, HTTP {status} ({code}: {message[:_MESSAGE_CHARS]})")


def _explain_failure(error: botocore_errors.BotoCoreError, address: str) -> StorageError:
    if isinstance(error, _CREDENTIALS):
        return StorageError(
            f"{address}: no usable AWS credentials ({error}); configure them, or set "
            "storage.anonymous=true for a public bucket"
        )
    if isinstance(error, botocore_errors.ParamValidationError):
        return ObjectNotFound(f"{address}: not an S3 address (s3://bucket/key)")
    if isinstance(error, _TIMEOUTS):
        return TransientError(ErrorCode.TIMEOUT, f"{address}: timed out")
    if isinstance(error, _BROKEN):
        name = type(error).__name__
        return TransientError(ErrorCode.NETWORK, f"{address}: connection failed ({name})")
    return StorageError(f"{address}: {error}")


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


def make_client(config: StorageConfig, num_attempts: int = 1) -> "S3Client":
    """Build a client whose time-outs are ours and whose retries are off (`retrying` does them).

    With `num_attempts` above 1 it retries by itself, each request of a transfer on its own.

    Raises:
        StorageError: the profile or the configuration of the credential chain is wrong.
    """
    settings = Config(
        connect_timeout=config.timeout_s,
        read_timeout=config.timeout_s,
        retries={"total_max_attempts": num_attempts, "mode": "standard"},
        max_pool_connections=256,
        signature_version=UNSIGNED if config.anonymous else None,
        # Checksums that stores other than AWS may not know are sent where S3 demands them only.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        return boto3.session.Session().client("s3", config=settings)
    except (botocore_errors.BotoCoreError, ValueError) as error:
        raise StorageError(f"S3 cannot be reached: {error}") from error


def get_object(
    client: "S3Client", policy: Any, address: tuple[str, str], max_bytes: int | None = None
) -> bytes:
    """Read an object of (bucket, key), at most `max_bytes + 1` of it, with retries.

    The body is read inside the retried attempt: connections break there too.
    """
    bucket, key = address

    def attempt() -> bytes:
        return read_body(client.get_object(Bucket=bucket, Key=key), max_bytes)

    return bytes(policy(mapped, attempt, f"s3://{bucket}/{key}"))


def get_range(client: "S3Client", policy: Any, address: tuple[str, str], span: str) -> bytes:
    """Read a span of an object of (bucket, key), such as `0-99` or `-100`, with retries."""
    bucket, key = address

    def attempt() -> bytes:
        try:
            return read_body(client.get_object(Bucket=bucket, Key=key, Range=f"bytes={span}"))
        except botocore_errors.ClientError as error:
            if error_code(error) in EMPTY_RANGE:
                return b""  # the object ends before, or is empty
            raise

    return bytes(policy(mapped, attempt, f"s3://{bucket}/{key}"))


def read_body(reply: Any, max_bytes: int | None = None) -> bytes:
    """Read the body of a reply, at most `max_bytes + 1` of it, and close it."""
    with closing(reply["Body"]) as body:
        if max_bytes is None:
            whole: bytes = body.read()
            return whole
        data: bytes = body.read(max_bytes + 1)
    expected = min(reply["ContentLength"], max_bytes + 1)
    if len(data) < expected:  # botocore notices a broken body only where all of it is read
        raise botocore_errors.IncompleteReadError(actual_bytes=len(data), expected_bytes=expected)
    return data
