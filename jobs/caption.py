"""Caption images as a Ray job: `ray job submit -- python jobs/caption.py SOURCE OUTPUT`."""

import sys

from raycap.console import main

if __name__ == "__main__":
    sys.argv.insert(1, "caption")
    main()
