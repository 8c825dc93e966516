"""Decodes damaged image files by the million, and keeps what crashes, hangs, grows or surprises.

    python -m tests.fuzz.decoder --inputs 1000000 --seed 0 --findings findings

Each input is made of the seed and its number, and decoded in a child process as the load stage does
it. A finding is a child that dies, more than 5 s of processor time, anything raised but an
`ImageError`, or memory above the limit. Files of the findings are kept; exit code 1 says that there
are some.
"""

import argparse
import sys
import time
from pathlib import Path

from tests.fuzz.child import Limits
from tests.fuzz.mutations import mutated
from tests.fuzz.seeds import SEEDS
from tests.fuzz.watching import Outcome, fuzz

_TELL_S = 60.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.decoder")
    parser.add_argument("--inputs", type=int, default=10_000, help="how many to decode")
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other inputs")
    parser.add_argument("--max-pixels", type=int, default=16_000_000, help="image.max_pixels")
    parser.add_argument("--memory-mb", type=int, default=512, help="what an input may take")
    parser.add_argument("--findings", type=Path, help="a folder to keep findings in")
    parser.add_argument("--pause-file", type=Path, help="rest while this file exists")
    return parser.parse_args()


def describe(outcome: Outcome) -> str:
    """Say what came out, a line a figure."""
    lines = [f"inputs        {sum(outcome.counts.values()):,}"]
    lines += [f"  {name:20} {count:,}" for name, count in outcome.counts.items() if count]
    lines.append(
        f"slowest       {outcome.slowest_s:.2f} s of processor time (input {outcome.slowest})"
    )
    lines.append(f"most memory   {outcome.peak_bytes / 1e6:,.0f} MB (input {outcome.peak})")
    lines.append(f"findings      {len(outcome.findings)}")
    lines += [f"  input {found.number}: {found.reason}" for found in outcome.findings]
    return "\n".join(lines)


class _Teller:
    """Prints now and then how far the run is."""

    def __init__(self) -> None:
        self._began = self._told = time.monotonic()

    def __call__(self, following: int, outcome: Outcome) -> None:
        now = time.monotonic()
        if now - self._told > _TELL_S:
            self._told = now
            found = len(outcome.findings)
            print(f"{now - self._began:,.0f} s: input {following:,}, {found} findings", flush=True)


def main() -> int:
    """Run by hand; return the exit code."""
    arguments = _arguments()
    seeds = tuple(SEEDS.values())
    limits = Limits(
        seeds=seeds,
        seed=arguments.seed,
        max_pixels=arguments.max_pixels,
        memory_bytes=arguments.memory_mb * 1_000_000,
    )
    inputs = range(arguments.first, arguments.first + arguments.inputs)
    outcome = fuzz(inputs, limits, tell=_Teller(), pause_file=arguments.pause_file)
    print(describe(outcome))
    if arguments.findings and outcome.findings:
        arguments.findings.mkdir(parents=True, exist_ok=True)
        for found in outcome.findings:
            file = arguments.findings / f"{arguments.seed}-{found.number}.bin"
            file.write_bytes(mutated(seeds, arguments.seed, found.number))
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    sys.exit(main())
