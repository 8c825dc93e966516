"""`--retry-failed` alone, and with codes."""

from pathlib import Path

import pytest

from tests.conftest import MakeJpeg
from tests.support.cli import InProcess


@pytest.mark.parametrize(
    ("option", "exit_code"),
    [
        ([], 0),
        (["--retry-failed"], 0),
        (["--retry-failed=not_found,forbidden"], 0),
        (["--retry-failed=all"], 0),
        (["--retry-failed=nothing"], 2),
        (["--retry-failed="], 2),
    ],
)
def test_codes_are_optional_and_checked(
    cli: InProcess, tmp_path: Path, make_jpeg: MakeJpeg, option: list[str], exit_code: int
) -> None:
    make_jpeg(tmp_path / "photos" / "a.jpg")
    command = ["caption", *option, "photos", "out", "--model", "stub", "--dry-run"]
    found, out, err = cli(*command)
    assert found == exit_code, err
    assert ("images to caption" in out) == (exit_code == 0)
