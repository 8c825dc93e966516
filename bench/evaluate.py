"""`raycap evaluate` on many captions: time and memory, in one process and distributed over Ray.

Writes COCO files for synthetic images, with one generated caption per system and five references
each; their words follow Zipf's law. Evaluates them with the installed command, without METEOR, and
samples the resident memory and the CPU time of the driver and of every process that it started.

    python -m bench.evaluate [--images 200000] [--systems 1]
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import accumulate, product
from pathlib import Path

import psutil

from bench.memory import resident_bytes

RAYCAP = str(Path(sys.executable).parent / "raycap")
NUM_REFERENCES = 5
EVERY_S = 0.5
MODES = {"one process": "spread_images=1000000000", "distributed": "spread_images=0"}

_SYLLABLES = [
    first + vowel + last
    for first, vowel, last in product("bdfgklmnprst", "aeiou", ["", "n", "r", "l", "s"])
]
_TEMPLATES = (
    "a {size} {thing} {doing} a {other} {where} the {place}",
    "a {thing} and a {other} {where} the {place}",
    "there is a {size} {thing} {doing} near a {other}, {where} a {place}",
    "{size} {thing} {doing} {where} the {colour} {place}.",
    "the {colour} {thing} is {doing} a {other} {where} a {size} {place} on a {mood} day",
    "two {thing}s {doing} {where} a {place} with a {colour} {other}",
)


class Vocabulary:
    """Invented words of each kind; their frequencies follow Zipf's law."""

    def __init__(self, seed: int) -> None:
        words = [first + second for first, second in product(_SYLLABLES, repeat=2)]
        random.Random(seed).shuffle(words)
        self._words: dict[str, list[str]] = {}
        self._weights: dict[str, list[float]] = {}
        sizes = {"thing": 5000, "other": 5000, "place": 2000, "doing": 1200, "mood": 300}
        for kind, count in {**sizes, "size": 400, "colour": 60, "where": 20}.items():
            self._words[kind], words = words[:count], words[count:]
            self._weights[kind] = list(accumulate(1 / rank for rank in range(1, count + 1)))

    def draw(self, rng: random.Random) -> dict[str, str]:
        """Draw one word of each kind: the content of an image."""
        return {
            kind: rng.choices(words, cum_weights=self._weights[kind])[0]
            for kind, words in self._words.items()
        }


def captions_of(vocabulary: Vocabulary, rng: random.Random, num_captions: int) -> Iterator[str]:
    """Yield captions of one image that differ in about one word in four."""
    seen = vocabulary.draw(rng)
    for _ in range(num_captions):
        other = vocabulary.draw(rng)
        said = {kind: word if rng.random() < 0.75 else other[kind] for kind, word in seen.items()}
        yield rng.choice(_TEMPLATES).format(**said)


def write_captions(folder: Path, num_images: int, num_systems: int) -> list[Path]:
    """Write the COCO results of each system, then the references; return the paths."""
    rng, vocabulary = random.Random(1), Vocabulary(seed=0)
    results: list[list[dict[str, object]]] = [[] for _ in range(num_systems)]
    written: list[dict[str, object]] = []
    for image in range(num_images):
        captions = list(captions_of(vocabulary, rng, num_systems + NUM_REFERENCES))
        for result, caption in zip(results, captions[:num_systems], strict=True):
            result.append({"image_id": image, "caption": caption})
        for caption in captions[num_systems:]:
            written.append({"id": len(written), "image_id": image, "caption": caption})
    images = [{"id": image, "file_name": f"{image:012d}.jpg"} for image in range(num_images)]
    contents = {f"system-{number}": rows for number, rows in enumerate(results)}
    paths = [folder / f"{name}.json" for name in [*contents, "references"]]
    whole = [*contents.values(), {"images": images, "annotations": written}]
    for path, content in zip(paths, whole, strict=True):
        path.write_text(json.dumps(content))
    return paths


def run(paths: list[Path], output: Path, setting: str) -> dict[str, float]:
    """Evaluate; return wall time and CPU time in seconds, and peak memory in MB."""
    started = time.perf_counter()
    settings = ["--set", setting, "--set", "external.meteor=false"]
    command = [RAYCAP, "evaluate", *map(str, paths), "--output", str(output), *settings]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    tree = psutil.Process(driver.pid)
    peak_driver = peak_total = 0
    cpu_s: dict[int, float] = {}
    while driver.poll() is None:
        processes = [tree, *tree.children(recursive=True)]
        peak_total = max(peak_total, sum(map(resident_bytes, processes)))
        peak_driver = max(peak_driver, resident_bytes(tree))
        for process in processes:
            with suppress(psutil.Error):
                cpu_s[process.pid] = sum(process.cpu_times()[:2])
        time.sleep(EVERY_S)
    wall_s = time.perf_counter() - started
    if driver.returncode:
        assert driver.stderr
        raise SystemExit(driver.stderr.read().decode())
    return {
        "wall_s": wall_s,
        "cpu_s": sum(cpu_s.values()),
        "driver_mb": peak_driver / 1e6,
        "total_mb": peak_total / 1e6,
    }


def main() -> None:
    """Evaluate in both modes and print the table and its JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--systems", type=int, default=1)
    arguments = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    runs: dict[str, dict[str, float]] = {}
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_captions(folder, arguments.images, arguments.systems)
        print(f"{'':>12}  {'time s':>8}  {'CPU s':>8}  {'driver MB':>10}  {'all MB':>8}")
        for number, (mode, setting) in enumerate(MODES.items()):
            output = folder / f"evaluation-{number}"
            runs[mode] = run(paths, output, setting)
            wall, cpu, driver, total = runs[mode].values()
            figures = f"{wall:>8.1f}  {cpu:>8.1f}  {driver:>10,.0f}  {total:>8,.0f}"
            print(f"{mode:>12}  {figures}", flush=True)
            found.append(json.loads((output / "evaluation.json").read_text()))
    same = all(found[0][part] == found[1][part] for part in ("systems", "comparisons"))
    print(f"both modes give the same result: {same}")
    print(json.dumps({"images": arguments.images, "runs": runs, "same": same}))


if __name__ == "__main__":
    main()
