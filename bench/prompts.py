"""What further prompts cost: one prompt about each image, and three in one pass.

Both caption the same rendered scenes with the same model, in turns. The seconds per image are the
difference in time between a run with all images and one with a quarter of them, over the difference
in images, so the start of Ray and of the model does not count.

    python -m bench.prompts [--model demo] [--backend torch] [--images 400] [--rounds 2]
                            [--new-tokens 16] [--json FILE]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import raycap
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from raycap.demo.scenes import write_scenes

PROMPTS = {
    "short": "Describe the image in one sentence.",
    "detail": "Describe the largest thing in the image.",
    "colours": "Name the colours that you see.",
}
BAR = 1.6


def settings(arguments: argparse.Namespace, num_prompts: int) -> CaptionConfig:
    """Return the settings of a run with some of the prompts."""
    model: dict[str, Any] = {"name": arguments.model, "backend": arguments.backend}
    if arguments.backend == "vllm":
        model["vllm_args"] = json.loads(arguments.vllm_args)
    prompts = dict(list(PROMPTS.items())[:num_prompts])
    return validate_config(
        CaptionConfig,
        {
            "model": model,
            "generation": {"num_beams": 1, "max_new_tokens": arguments.new_tokens},
            "prompts": prompts,
            # Random weights write what no gate would accept.
            "answers": {"repeated": "keep", "truncated": "keep"},
        },
    )


def seconds_per_image(images: Path, output: Path, config: CaptionConfig, num_images: int) -> float:
    """Caption a quarter of a folder, then all of it; return the seconds per further image."""
    seconds = []
    for limit in (num_images // 4, num_images):
        started = time.monotonic()
        raycap.caption(images, output / str(limit), config=config, limit=limit)
        seconds.append(time.monotonic() - started)
    return (seconds[1] - seconds[0]) / (num_images - num_images // 4)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--vllm-args", default="{}")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    times: dict[int, list[float]] = {1: [], 3: []}
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch) / "images"
        write_scenes(images, arguments.images, seed=5)
        for number in range(arguments.rounds):
            for count in (1, 3) if number % 2 else (3, 1):
                output = Path(scratch) / f"{count}-{number}"
                config = settings(arguments, count)
                times[count].append(seconds_per_image(images, output, config, arguments.images))
    pairs = zip(times[3], times[1], strict=True)
    ratio = statistics.median(three / one for three, one in pairs)
    one, three = (statistics.median(times[count]) for count in (1, 3))
    print(
        f"{arguments.model} on {arguments.backend}: {1000 * one:.1f} ms per image with one prompt, "
        f"{1000 * three:.1f} with three: {ratio:.2f} times (target {BAR})"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps({"one_s": one, "three_s": three, "ratio": ratio}))


if __name__ == "__main__":
    main()
