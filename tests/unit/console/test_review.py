"""`raycap review` as a command: it prints an address, serves it, and ends with Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from urllib.request import urlopen

from tests.support import outputs
from tests.support.outputs import row

output = outputs.output


def test_it_serves_the_printed_address_until_ctrl_c(output: Callable[..., str]) -> None:
    command = [sys.executable, "-m", "raycap", "review", output([row("a.jpg"), row("b.jpg")])]
    options = ["--set", "open_browser=false", "--set", "reviewer=ada"]
    process = subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert process.stderr is not None
    address = ""
    for line in process.stderr:
        if found := re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", line):
            address = found[0]
            break
    with urlopen(address) as page:  # noqa: S310  http of this machine
        assert b"<main" in page.read()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert re.search(r"saved +0 edits by ada", out)
    assert re.search(r"unreviewed +2", out)
