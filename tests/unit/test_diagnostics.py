"""Checks of `raycap doctor` that need no Ray."""

from pathlib import Path

import pytest

from raycap.config import StorageConfig
from raycap.diagnostics import Verdict, check_source
from raycap.errors import ObjectForbidden
from raycap.storage.stores import ImageReader
from tests.conftest import MakeJpeg


class Refusing(ImageReader):
    """Refuses files whose name begins with `secret`."""

    def read(self, uri: str, max_bytes: int, size_bytes: int | None = None) -> bytes:
        if Path(uri).name.startswith("secret"):
            raise ObjectForbidden(f"{uri}: access denied")
        return super().read(uri, max_bytes, size_bytes)


@pytest.fixture(autouse=True)
def _refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycap.diagnostics.ImageReader", Refusing)


def test_a_source_with_forbidden_images_passes_if_one_of_the_first_can_be_read(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    make_jpeg(tmp_path / "z.jpg")
    assert check_source(str(tmp_path), StorageConfig()).verdict is Verdict.OK
    (tmp_path / "cut.jpg").write_bytes(make_jpeg()[:200])
    for number in range(3):
        make_jpeg(tmp_path / f"secret{number}.jpg")
    found = check_source(str(tmp_path), StorageConfig())
    assert found.verdict is Verdict.POOR
    assert "z.jpg: " in found.found
    assert all(name in found.found for name in ("secret0.jpg", "secret1.jpg", "secret2.jpg"))


def test_a_source_fails_if_none_of_the_first_images_can_be_read(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    for number in range(5):
        make_jpeg(tmp_path / f"secret{number}.jpg")
    make_jpeg(tmp_path / "z.jpg")
    with pytest.raises(ObjectForbidden, match=r"secret0\.jpg"):
        check_source(str(tmp_path), StorageConfig())
