"""Requests to S3: the client, and reading objects and spans of them.

Credentials, region, profile and `AWS_ENDPOINT_URL` come from boto3's usual chain and stay there:
nothing of them is ever logged, stored or sent along.
"""

from contextlib import closing
from typing import TYPE_CHECKING, Any

import boto3
from botocore import UNSIGNED
from botocore import exceptions as botocore_errors
from botocore.config import Config

from raycap.config import StorageConfig
from raycap.errors import StorageError
from raycap.storage.s3_errors import EMPTY_RANGE, error_code, mapped

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


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
