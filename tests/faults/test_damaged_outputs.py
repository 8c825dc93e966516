"""Disks that fill up, folders that cannot be written, files that were deleted or cut by hand."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.drills import SETTINGS, captions_of, check_one_line, check_verified, told
from tests.support.commandline import CommandLine, rows_of, write_images

NUM_IMAGES = 60


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Give `mount(options)`, which mounts a file system in memory; skips where that needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a file system needs root")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)


def test_a_full_disk_is_told_and_the_run_continues_once_there_is_room(
    raycap: CommandLine, small_disk: Callable[[str], Path]
) -> None:
    photos = raycap.folder / "photos"
    write_images(photos, NUM_IMAGES)
    disk = small_disk("size=400k")
    filler = disk / "filler"
    filler.write_bytes(b"x" * 350_000)  # room for the plan, and not for all captions
    code, _, err = raycap("caption", "photos", disk / "out", *SETTINGS)
    assert code == 1
    check_one_line(err, "No space left on device")
    assert not (disk / "out" / "summary.json").exists()
    filler.unlink()
    code, _, err = raycap("caption", "photos", disk / "out", *SETTINGS)
    assert code == 0, err
    check_verified(raycap, disk / "out")
    assert told(rows_of(disk / "out")) == captions_of(photos)


def test_an_output_that_cannot_be_written_is_told_before_any_image_is_read(
    raycap: CommandLine, small_disk: Callable[[str], Path]
) -> None:
    write_images(raycap.folder / "photos", 3)
    disk = small_disk("ro")
    code, _, err = raycap("caption", "photos", disk / "out", *SETTINGS)
    assert code == 1
    check_one_line(err, "Read-only file system")


@pytest.fixture
def finished(raycap: CommandLine) -> Path:
    """A finished output."""
    write_images(raycap.folder / "photos", NUM_IMAGES)
    code, _, err = raycap("caption", "photos", "out", *SETTINGS)
    assert code == 0, err
    return raycap.folder / "out"


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def test_what_was_deleted_or_cut_is_named_and_made_again(
    raycap: CommandLine, finished: Path
) -> None:
    parts = sorted((finished / "captions").iterdir())
    untouched = {path: path.stat().st_mtime_ns for path in parts[2:]}
    parts[0].unlink()
    cut(parts[1])
    (finished / "summary.json").unlink()
    code, out, err = raycap("verify", "out")
    assert code == 1
    assert "part-000001.parquet: is damaged" in " ".join(err.split())
    assert "pending" in out
    code, out, err = raycap("caption", "photos", "out", *SETTINGS)
    assert code == 0, err
    assert "20 images in" in out
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched
    check_verified(raycap, "out")
    assert told(rows_of(finished)) == captions_of(raycap.folder / "photos")


@pytest.mark.parametrize("damage", [pytest.param(cut, marks=pytest.mark.slow), Path.unlink])
def test_a_damaged_manifest_is_named_and_never_guessed(
    raycap: CommandLine, finished: Path, damage: Callable[[Path], None]
) -> None:
    """Its parts say which images there are and in what order: nothing else does."""
    damage(finished / "manifest" / "part-000002.parquet")
    before = rows_of(finished)
    for command in (("verify", "out"), ("caption", "photos", "out", *SETTINGS)):
        code, out, err = raycap(*command)
        assert code == 1
        assert "part-000002" in out + err
        assert "Traceback" not in out + err
    assert rows_of(finished) == before
