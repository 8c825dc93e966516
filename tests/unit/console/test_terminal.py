"""What of the machine's errors is one line, and what is a bug."""

import errno
import os
import tempfile

import pytest
import typer

from raycap.console.terminal import told_errors


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EMFILE, errno.EIO, errno.EDQUOT]
)
def test_a_full_disk_or_a_limit_is_one_line_and_exit_code_1(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as stopped, told_errors(debug=False):
        raise OSError(number, os.strerror(number), "/some/file")
    assert stopped.value.exit_code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "/some/file" in said


def test_no_folder_for_temporary_files_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    missing = f"No usable temporary directory found in {[tempfile.gettempdir()]}"
    with pytest.raises(typer.Exit), told_errors(debug=False):
        raise FileNotFoundError(errno.ENOENT, missing)
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("error", [OSError(errno.EINVAL, "what"), ValueError("what")])
def test_a_bug_is_not_hidden(error: Exception) -> None:
    with pytest.raises(type(error)), told_errors(debug=False):
        raise error


def test_debug_shows_where_it_happened() -> None:
    with pytest.raises(OSError, match="full"), told_errors(debug=True):
        raise OSError(errno.ENOSPC, "full")
