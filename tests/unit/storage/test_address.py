"""Addresses: parsing, the store they belong to, and the secrets in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycap.config import StorageConfig
from raycap.errors import ConfigError
from raycap.storage.address import Address, redact
from raycap.storage.stores import open_store


@pytest.mark.parametrize(
    ("address", "scheme"),
    [
        ("a/b.jpg", ""),
        ("/a://b", ""),
        ("S3://b/k", "s3"),
        ("https://h/", "https"),
        ("git+ssh://h", "git+ssh"),
        ("c:\\x", ""),
        ("", ""),
    ],
)
def test_the_scheme_is_the_text_before_two_slashes(address: str, scheme: str) -> None:
    assert Address.parse(address).scheme == scheme


def test_a_key_may_hold_what_ends_a_path_on_the_web() -> None:
    for path, key in (("/a#b?c=d/e", "a#b?c=d/e"), ("", ""), ("/", "")):
        assert Address.parse(f"s3://bucket{path}").bucket_and_key == ("bucket", key)


@pytest.mark.parametrize("text", ["/a/b", "file:///a/b", "FILE:///a/b", "/a/c/../b"])
def test_a_local_address_has_a_path(text: str) -> None:
    address = Address.parse(text)
    assert address.is_local
    assert address.is_absolute
    assert address.local_path == "/a/b"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("/a?token=x", "/a?token=x"),
        ("s3://b/k?signature=x", "s3://b/k?signature=x"),
        ("https://me:secret@h:8/a.jpg", "https://h:8/a.jpg"),
        ("https://h/a.jpg?w=10&h=20#frag", "https://h/a.jpg?w=10&h=20"),
        ("https://h/a?id=7&token=abc", "https://h/a?id=7"),
        ("https://h/a?design=1&assign=2", "https://h/a?design=1&assign=2"),
        ("https://h/a?ACCESS%5Ftoken=abc&v=1", "https://h/a?v=1"),
        (
            "https://b.s3.amazonaws.com/k?X-Amz-Algorithm=A&X-Amz-Credential=C&X-Amz-Date=D"
            "&X-Amz-Expires=9&X-Amz-SignedHeaders=host&X-Amz-Signature=S&versionId=7",
            "https://b.s3.amazonaws.com/k?versionId=7",
        ),
        ("https://b/k?AWSAccessKeyId=A&Expires=1&Signature=S", "https://b/k"),
        ("https://h.cloudfront.net/k?Expires=1&Policy=p&Signature=S&Key-Pair-Id=K", "https://h.cloudfront.net/k"),
        ("https://a.blob.core.windows.net/c/k?sv=2&st=1&se=3&sr=b&sp=r&sig=S", "https://a.blob.core.windows.net/c/k"),
        ("https://h/k?X-Goog-Signature=S&X-Goog-Date=D&generation=5", "https://h/k?generation=5"),
        ("https://[::1/a?token=x", "(an address that cannot be read)"),
        ("s3://AKIA:se/cr+et@b/k", "s3://b/k"),
        ("s3://arn:aws:s3:us-east-1:1:accesspoint/a/k@1", "s3://arn:aws:s3:us-east-1:1:accesspoint/a/k@1"),
        ("sftp://me:secret@h/a:b@c.jpg", "sftp://h/a:b@c.jpg"),
        ("gs://b/a:b@c.jpg", "gs://b/a:b@c.jpg"),
        ("abfs://container@account/a:b@c", "abfs://container@account/a:b@c"),
        ("github://org:repository@main/a.jpg", "github://org:repository@main/a.jpg"),
    ],
)  # fmt: skip
def test_secrets_of_a_web_address_are_not_shown(address: str, shown: str) -> None:
    assert redact(address) == shown
    assert redact(shown) == shown


@given(st.text(), st.sampled_from(["https://me:hunter2@h/", "https://h/?x=1&api_key=hunter2&y="]))
def test_a_secret_is_hidden_whatever_follows_it(rest: str, start: str) -> None:
    assert "hunter2" not in redact(start + rest.replace("hunter2", ""))


@pytest.mark.parametrize(
    "address", ["s3://AKIA:hunter2@bucket/k", "sftp://me:hunter2@h/a", "memory://me:hunter2@h/a"]
)
def test_a_store_with_a_password_in_its_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="an address takes no password") as caught:
        open_store(address, StorageConfig())
    assert "hunter2" not in str(caught.value)
