"""A command started anywhere: among hostile files, with a long TMPDIR, in a narrow encoding."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.commandline import (
    RAYCAP,
    CommandLine,
    ray_processes_left_of,
    rows_of,
    write_images,
)

HOSTILE = ("numpy", "gzip", "PIL", "socket", "pickle", "evaluate")
WAYS = {
    "installed": [RAYCAP],
    "module": [sys.executable, "-m", "raycap"],
    "job": [sys.executable, str(ROOT / "jobs" / "caption.py")],
}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["installed", "module", "job"])
def test_nothing_is_imported_from_the_working_folder_and_nothing_is_left_behind(
    raycap: CommandLine, way: str
) -> None:
    folder = raycap.folder / "\u0444\u043e\u0442\u043e"
    write_images(folder / "\u0441\u043d\u0438\u043c\u043a\u0438", 3)
    for name in HOSTILE:
        trap = f"open({str(raycap.folder / name)!r}, 'w').close(); raise ImportError('trap')"
        (folder / f"{name}.py").write_text(trap)
    temporary = raycap.folder / ("long" * 20)
    temporary.mkdir()
    env = raycap.env | {
        "TMPDIR": str(temporary),
        "PYTHONIOENCODING": "ascii",
        "PYTHONPATH": str(ROOT),
    }
    env.pop("RAY_TMPDIR", None)
    verb = [] if way == "job" else ["caption"]
    done = subprocess.run(
        [*WAYS[way], *verb, "\u0441\u043d\u0438\u043c\u043a\u0438", "out", "--model", "stub"],
        cwd=folder,
        env=env,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert [row["status"] for row in rows_of(folder / "out")] == ["ok"] * 3
    assert b"\\u" in done.stdout, "the name of the output"
    assert not [name for name in HOSTILE if (raycap.folder / name).exists()]
    # No token, with which `ray start` would later demand one.
    home = Path(env["HOME"])
    assert not (home / ".ray").exists()
    # Links with short paths led to the folder for Ray's files.
    assert list((temporary / "ray").iterdir())
    links = {path for path in Path("/tmp").glob("raycap-*/ray") if path.is_symlink()}  # noqa: S108
    assert not [link for link in links if os.readlink(link).startswith(str(temporary))]
    assert ray_processes_left_of(home) == []
