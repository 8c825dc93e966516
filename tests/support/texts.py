"""What users read, as files below `tests/texts`: a snapshot that `make texts` renews.

Tests assert error types, exit codes and figures; the wording is compared here alone, so that it is
improved in one place and read as one diff.
"""

import os
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "texts"
RENEW = "RAYCAP_RENEW_TEXTS"


def assert_as_before(name: str, text: str) -> None:
    """Compare a text with its file; write the file instead where RAYCAP_RENEW_TEXTS is set."""
    file = FOLDER / f"{name}.txt"
    text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    if os.environ.get(RENEW):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    before = file.read_text() if file.exists() else ""
    assert text == before, f"{file.name} differs: renew with `make texts`, and read the diff"
