"""Search settings as a Ray job: `ray job submit -- python jobs/tune.py DATASET OUTPUT`."""

import sys

from raycap.console import main

if __name__ == "__main__":
    sys.argv.insert(1, "tune")
    main()
