"""Addresses: parsing, the store they belong to, and the secrets in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycap.config import StorageConfig
from raycap.errors import ConfigError, ObjectNotFound
from raycap.storage.address import Address, redact, redact_text, unusable
from raycap.storage.stores import ImageReader, open_store


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
        ("https://h/a?id=7&token=abc", "https://h/a?id=7&token=hidden-37ec6270e37ce96f"),
        ("https://h/a?v=1;token=a;b&c", "https://h/a?v=1;token=hidden-24c5097c02401907&c"),
        ("https://h/a?token=&key", "https://h/a?token=&key"),
        ("https://me:se/c?r#et@h/a", "https://h/a"),
        ("https://me:p@w@h/a", "https://h/a"),
        ("https:/h/a?access_token=x", "https://h/a"),
        ("https://p/?url=https%3A%2F%2Fme:pw%40h%2Fa&w=3", "https://p/?url=https%3A%2F%2Fh%2Fa&w=3"),
        ("https://p/?https://h/a%3Fv%3D1", "https://p/?https://h/a%3Fv%3D1"),
        ("sftp://me:p/w@h/a", "sftp://h/a"),
        ("sftp://me:p@w@h/a", "sftp://h/a"),
        ("s3://AKIA:1/2@b/k", "s3://b/k"),
        ("https://h/a?design=1&assign=2", "https://h/a?design=1&assign=2"),
        ("https://h/a?ACCESS%5Ftoken=abc&v=1", "https://h/a?v=1"),
        ("https://cdn/a?ex=1&is=2&hm=3&width=4", "https://cdn/a?width=4"),
        ("https://cdn/a?ex=1&is=2", "https://cdn/a?ex=1&is=2"),
        ("https://h/a?expires=1&signature=s&id=7", "https://h/a?id=7"),
        ("https://h/a?expires=1&id=7", "https://h/a?expires=1&id=7"),
        (
            "https://b.s3.amazonaws.com/k?X-Amz-Algorithm=A&X-Amz-Credential=C&X-Amz-Date=D"
            "&X-Amz-Expires=9&X-Amz-SignedHeaders=host&X-Amz-Signature=S&versionId=7",
            "https://b.s3.amazonaws.com/k?versionId=7",
        ),
        ("https://b/k?AWSAccessKeyId=A&Expires=1&Signature=S", "https://b/k"),
        ("https://h.cloudfront.net/k?Expires=1&Policy=p&Signature=S&Key-Pair-Id=K", "https://h.cloudfront.net/k"),
        ("https://a.blob.core.windows.net/c/k?sv=2&st=1&se=3&sr=b&sp=r&sig=S", "https://a.blob.core.windows.net/c/k"),
        ("https://h/k?X-Goog-Signature=S&X-Goog-Date=D&generation=5", "https://h/k?generation=5"),
        ("https://[::1/a?w=1&sig=x&se=y", "https://[::1/a?w=1"),
        ("s3://AKIA:se/cr+et@b/k", "s3://b/k"),
        ("s3://arn:aws:s3:us-east-1:1:accesspoint/a/k@1", "s3://arn:aws:s3:us-east-1:1:accesspoint/a/k@1"),
        ("sftp://me:secret@h/a:b@c.jpg", "sftp://h/a:b@c.jpg"),
        ("gs://b/a:b@c.jpg", "gs://b/a:b@c.jpg"),
        ("abfs://container@account/a:b@c", "abfs://container@account/a:b@c"),
        ("github://org:repository@main/a.jpg", "github://org:repository@main/a.jpg"),
    ],
)  # fmt: skip
def test_secrets_of_an_address_are_not_shown(address: str, shown: str) -> None:
    assert redact(address) == shown
    assert redact(shown) == shown


@given(st.text(), st.sampled_from(["https://me:hunter2@h/", "https://h/?x=1&api_key=hunter2&y="]))
def test_a_secret_is_hidden_whatever_follows_it(rest: str, start: str) -> None:
    assert "hunter2" not in redact(start + rest.replace("hunter2", ""))


@pytest.mark.parametrize(
    "address", ["s3://AKIA:hunter2@bucket/k", "sftp://me:hunter2@h/a", "memory://me:hunter2@h/a"]
)
def test_a_store_with_a_password_in_its_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="password") as caught:
        open_store(address, StorageConfig())
    assert "hunter2" not in str(caught.value.uri)
    assert "hunter2" not in str(caught.value)


SECRET_LOOKING = ["key", "author", "session", "token", "pass", "sig", "x-amz-meta", "api_key"]
QUERIES = st.lists(
    st.tuples(
        st.sampled_from([*SECRET_LOOKING, "id", "w"]), st.sampled_from(["", "1", "2", "a;b"])
    ),
    max_size=3,
).map(lambda fields: "&".join(f"{name}={value}" for name, value in fields))


@given(QUERIES, QUERIES)
def test_addresses_that_differ_in_no_signature_stay_different(one: str, other: str) -> None:
    first, second = (redact(f"https://h/a?{query}") for query in (one, other))
    assert (first == second) == (one == other)


@pytest.mark.parametrize("name", SECRET_LOOKING)
def test_what_may_be_a_secret_tells_images_apart_and_is_the_same_in_every_run(name: str) -> None:
    shown = [redact(f"https://h/a.jpg?{name}={value}") for value in ("planted1", "planted2")]
    assert shown[0] != shown[1]
    assert not any("planted" in text for text in shown)
    assert redact("https://h/a?key=7") == "https://h/a?key=hidden-e192c10f8770b3f0"


def test_an_address_within_addresses_without_end_is_hidden() -> None:
    nested = "https://h/a?token=hunter2"
    for _ in range(40):
        nested = f"https://p/?url={nested}"
    assert "hunter2" not in redact(nested)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pw@h/a?access_token=x: HTTP 404", "https://h/a: HTTP 404"),
        ("no 's3://AKIA:se/cret@b/k'.", "no 's3://b/k'."),
        ("(see https://h/a?w=1)", "(see https://h/a?w=1)"),
        ("one https://h/?pwd=1 two sftp://a:b@c/d", "one https://h/ two sftp://c/d"),
        ("12:30 a:b@c", "12:30 a:b@c"),
    ],
)
def test_every_address_in_a_message_is_shown_without_secrets(text: str, shown: str) -> None:
    assert redact_text(text) == shown


def test_an_unusable_address_is_shown_as_it_was_and_tells_why() -> None:
    address = unusable("ftp://me:hunter2@h/a/b", "line 7 of a/b.txt: 50% no ?#")
    assert Address.parse(address).fault == "line 7 of a/b.txt: 50% no ?#"
    assert redact(address) == "ftp://h/a/b"


@pytest.mark.parametrize("address", ["s3://AKIA:hunter2@b/k", unusable("ftp://h/a", "no way")])
def test_an_image_at_an_address_with_a_fault_is_one_that_cannot_be_found(address: str) -> None:
    reader = ImageReader(StorageConfig())
    with pytest.raises(ObjectNotFound) as caught:
        reader.read(address, 10)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ObjectNotFound):
        reader.read_range(address, 0, 10)
