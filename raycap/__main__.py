"""`python -m raycap`: the same as the command `raycap`."""

import os
import sys
from pathlib import Path


def _leave_working_folder() -> None:
    """Import nothing from the working folder, which Python puts first, unless raycap is in it."""
    own = Path(__file__).resolve().parents[1]
    if not sys.flags.safe_path and sys.path and Path(sys.path[0] or os.curdir).resolve() != own:
        del sys.path[0]


_leave_working_folder()

from raycap.console import main  # noqa: E402  after the folder is gone

if __name__ == "__main__":
    main()
