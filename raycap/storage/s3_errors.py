"""What S3's refusals and broken connections mean: gone, tried again later, or told to the user."""

from collections.abc import Callable
from typing import TypeVar

from botocore import exceptions as botocore_errors
from botocore.parsers import ResponseParserError

from raycap.errors import ErrorCode, ObjectNotFound, StorageError, TransientError

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
