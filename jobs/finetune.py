"""Train a model as a Ray job: `ray job submit -- python jobs/finetune.py DATASET OUTPUT`."""

import sys

from raycap.console import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
