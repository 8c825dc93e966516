"""S3Store against moto."""

from typing import Any

from raycap.config import StorageConfig
from raycap.storage.stores import open_store


def test_smoke(s3: Any) -> None:
    store = open_store(f"{s3.uri}/p", StorageConfig())
    store.write("a", b"1")
    assert store.read("a") == b"1"
