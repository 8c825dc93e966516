"""Evaluate as a Ray job: `ray job submit -- python jobs/evaluate.py CAPTIONS REFERENCES`."""

import sys

from raycap.console import main

if __name__ == "__main__":
    sys.argv.insert(1, "evaluate")
    main()
