"""`raycap review` as a command: it prints an address, serves it, and ends with Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import HTTPCookieProcessor, build_opener

import pytest

from tests.conftest import MakeJpeg
from tests.support import outputs
from tests.support.outputs import row

output = outputs.output


@pytest.mark.parametrize("is_shown", [True, False], ids=["a-picture-shown", "none-shown"])
def test_it_serves_the_printed_address_until_ctrl_c(
    output: Callable[..., str], tmp_path: Path, make_jpeg: MakeJpeg, is_shown: bool
) -> None:
    make_jpeg(tmp_path / "a.jpg")
    rows = [row("a.jpg", source_uri=str(tmp_path / "a.jpg"), etag=None), row("b.jpg")]
    command = [sys.executable, "-m", "raycap", "review", output(rows)]
    options = ["--set", "open_browser=false", "--set", "reviewer=ada"]
    process = subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
        start_new_session=True,
    )
    assert process.stderr is not None
    address = ""
    for line in process.stderr:
        if found := re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", line):
            address = found[0]
            break
    opener = build_opener(HTTPCookieProcessor())
    with opener.open(address) as page:
        assert b"<main" in page.read()
    if is_shown:
        with opener.open(address.partition("?")[0] + "pictures/small/0") as picture:
            assert picture.read().startswith(b"RIFF")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the decoders get it too
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert re.search(r"saved +0 edits by ada", out)
    assert re.search(r"unreviewed +2", out)
