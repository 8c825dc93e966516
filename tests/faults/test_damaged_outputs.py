"""Disks that fill up, folders that cannot be written, manifests that were deleted or cut by hand.

Parts of captions that were lost or damaged: tests/integration/test_caption.py.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import raycap
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from tests.faults.drills import (
    PART_SIZE,
    SETTINGS,
    captions_of,
    check_one_line,
    check_verified,
    told,
)
from tests.support.cli import InProcess
from tests.support.commandline import rows_of, write_images

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]

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


def test_a_full_disk_ends_the_run_which_continues_once_there_is_room(
    cli: InProcess, small_disk: Callable[[str], Path]
) -> None:
    photos = cli.folder / "photos"
    write_images(photos, NUM_IMAGES)
    disk = small_disk("size=400k")
    filler = disk / "filler"
    filler.write_bytes(b"x" * 350_000)  # room for the plan, and not for all captions
    code, _, err = cli("caption", "photos", disk / "out", *SETTINGS)
    assert code == 1
    check_one_line(err, "No space left on device")
    assert not (disk / "out" / "summary.json").exists()
    filler.unlink()
    code, _, err = cli("caption", "photos", disk / "out", *SETTINGS)
    assert code == 0, err
    check_verified(disk / "out")
    assert told(rows_of(disk / "out")) == captions_of(photos)


def test_an_output_that_cannot_be_written_is_refused_before_any_image_is_read(
    cli: InProcess, small_disk: Callable[[str], Path]
) -> None:
    write_images(cli.folder / "photos", 3)
    disk = small_disk("ro")
    code, _, err = cli("caption", "photos", disk / "out", *SETTINGS)
    assert code == 1
    check_one_line(err, "Read-only file system")


@pytest.fixture(scope="module")
def finished(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished output `out` beside its `photos`."""
    del ray_session
    folder = tmp_path_factory.mktemp("finished")
    write_images(folder / "photos", NUM_IMAGES)
    engine = {"part_size": PART_SIZE, "batch_size": 10}
    config = validate_config(CaptionConfig, {"model": {"name": "stub"}, "engine": engine})
    raycap.caption(folder / "photos", folder / "out", config=config)
    return folder


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_a_damaged_manifest_is_named_and_never_guessed(
    cli: InProcess, finished: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """Its parts say which images there are and in what order: nothing else does."""
    output = shutil.copytree(finished / "out", tmp_path / "out")
    damage(output / "manifest" / "part-000002.parquet")
    before = rows_of(output)
    for command in (("verify", "out"), ("caption", finished / "photos", "out", *SETTINGS)):
        code, out, err = cli(*command)
        assert code == 1
        assert "part-000002" in out + err
        assert "Traceback" not in out + err
    assert rows_of(output) == before
