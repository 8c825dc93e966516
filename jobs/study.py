"""Run a study as a Ray job: `ray job submit -- python jobs/study.py DATASET OUTPUT`."""

import sys

from raycap.console import main

if __name__ == "__main__":
    sys.argv.insert(1, "study")
    main()
