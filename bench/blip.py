"""BLIP in raycap compared with transformers' own `generate`: seconds per image, and their ratio.

Both run the real architectures with random weights on decoded pixels and are forced to write 20
tokens. In every round both do each job, one right after the other and in alternating order. The
table shows the medians of the seconds and of the ratios per round. `arithmetic` is the time that
raycap's multiplications would take at the speed of one large linear layer, measured in the same
rounds.

    python -m bench.blip [--architectures base large] [--batches 1 4 8 16] [--beams 1 3 5]
                         [--rounds 3] [--json FILE]
"""

import argparse
import copy
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import BlipConfig, BlipForConditionalGeneration

from raycap.config import GenerationConfig
from raycap.images.decoding import Target
from raycap.models.blip.captioner import BlipCaptioner
from raycap.models.blip.compiled import CompiledBlip
from raycap.models.blip.decoding import apply_linear, encode_images
from raycap.models.blip.kind import VOCABULARY_FILE
from raycap.models.blip.packed import pack
from raycap.models.blip.tokenizer import BlipTokenizer
from raycap.models.device import pick_device, pick_dtype
from raycap.models.folders import CONFIG_FILE, Preprocessing, write_json

NUM_TOKENS = 20
NUM_WORDS = 30_524
SIDE_PX = 384
TEXT = {"vocab_size": NUM_WORDS, "num_attention_heads": 12}
VISION: dict[str, dict[str, int]] = {
    "base": {"hidden_size": 768, "intermediate_size": 3072},
    "large": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The result for one architecture, batch size and number of beams; times are per image."""

    architecture: str
    batch_size: int
    num_beams: int
    generate_s: float
    ours_s: float
    encoder_s: float
    arithmetic_s: float
    ratio: float
    bar: float | None


def bar(batch_size: int, num_beams: int) -> float | None:
    """Return the target ratio on two idle cores in fp32; None where there is none."""
    if num_beams == 1:
        return 1.25
    if num_beams == 3 and batch_size >= 4:
        return 2.0 if batch_size >= 8 else 1.4
    return None


def build(architecture: str) -> Any:
    """Build a BLIP of the real size on the device that raycap would choose."""
    device = pick_device()
    model = random_blip({**VISION[architecture], "image_size": SIDE_PX}, TEXT)
    return model.to(device, pick_dtype("auto", device))


def random_blip(vision: dict[str, int], text: dict[str, int]) -> Any:
    """Build a BLIP with random weights: the captions are noise, the arithmetic is real."""
    torch.manual_seed(0)
    # transformers' default of 1e-10 gives numbers so small that processors compute slowly.
    settings = {**vision, "initializer_range": 0.02}
    model: Any = BlipForConditionalGeneration(BlipConfig(vision_config=settings, text_config=text))
    return model.eval()


def captioner(
    model: Any, num_beams: int, num_tokens: int = NUM_TOKENS, compiled: CompiledBlip | None = None
) -> BlipCaptioner:
    """Return raycap's captioner for the model, with a generated vocabulary of the right size."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    num_words = model.config.text_config.vocab_size
    words += [f"word{number}" for number in range(num_words - len(words))]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / VOCABULARY_FILE).write_text("\n".join(words))
        write_json(Path(folder) / CONFIG_FILE, {})
        tokenizer = BlipTokenizer.load(Path(folder))
    generation = GenerationConfig(
        num_beams=num_beams, min_new_tokens=num_tokens, max_new_tokens=num_tokens
    )
    side_px = model.config.vision_config.image_size
    target = Target(width_px=side_px, height_px=side_px)
    return BlipCaptioner(model, tokenizer, Preprocessing(target=target), generation, compiled)


def reference(
    model: Any, num_images: int, num_beams: int, num_tokens: int = NUM_TOKENS
) -> Callable[[], None]:
    """Return a job that captions images with transformers' `generate`, already normalised."""
    side_px = model.config.vision_config.image_size
    inputs = torch.randn(num_images, 3, side_px, side_px, device=model.device, dtype=model.dtype)

    def generate() -> None:
        with torch.inference_mode():
            model.generate(
                pixel_values=inputs,
                num_beams=num_beams,
                min_new_tokens=num_tokens,
                max_new_tokens=num_tokens,
            )

    return generate


def random_pixels(num_images: int, side_px: int = SIDE_PX) -> UInt8[np.ndarray, "b h w 3"]:
    """Return images of noise."""
    shape = (num_images, side_px, side_px, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds that one call takes, including work on the accelerator."""
    started = time.perf_counter()
    work()
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - started


def large_layer(model: Any) -> tuple[Callable[[], object], int]:
    """Return a job that only multiplies matrices of the encoder's size, and its FLOPs."""
    layer = torch.nn.Linear(768, 3072, device=model.device, dtype=model.dtype)
    states = torch.randn(4 * 577, 768, device=model.device, dtype=model.dtype)

    def multiply() -> None:
        with torch.inference_mode():
            apply_linear(layer, states)

    return multiply, 2 * states.numel() * layer.out_features


def packed(model: Any) -> Any:
    """Return the network as raycap's captioners run it: on a CPU a copy with packed weights."""
    if model.device.type != "cpu":
        return model
    network = copy.deepcopy(model)
    pack(network)
    return network


def compare(model: Any, network: Any, architecture: str, size: tuple[int, int], rounds: int) -> Row:
    """Measure one batch size and number of beams with both programs."""
    batch_size, num_beams = size
    ours = captioner(network, num_beams)
    pixels = random_pixels(batch_size)
    inputs = torch.randn(batch_size, 3, SIDE_PX, SIDE_PX, device=model.device, dtype=model.dtype)
    multiply, num_layer_flops = large_layer(model)
    jobs: list[tuple[str, Callable[[], object]]] = [
        ("generate", reference(model, batch_size, num_beams)),
        ("ours", lambda: ours.caption(pixels)),
        ("encoder", lambda: _encode(network, inputs)),
        ("arithmetic", multiply),
    ]
    times: dict[str, list[float]] = {name: [] for name, _ in jobs}
    # Warm up on the whole job: memory is allocated and kernels are chosen at first use.
    for _, job in jobs:
        job()
    for number in range(rounds):
        for name, job in jobs if number % 2 else reversed(jobs):
            times[name].append(seconds(job) / batch_size)
    medians = {name: statistics.median(found) for name, found in times.items()}
    pairs = zip(times["generate"], times["ours"], strict=True)
    return Row(
        architecture=architecture,
        batch_size=batch_size,
        num_beams=num_beams,
        generate_s=medians["generate"],
        ours_s=medians["ours"],
        encoder_s=medians["encoder"],
        arithmetic_s=medians["arithmetic"] * num_flops(ours, pixels) / num_layer_flops,
        ratio=statistics.median(theirs / mine for theirs, mine in pairs),
        bar=bar(batch_size, num_beams),
    )


def _encode(model: Any, inputs: torch.Tensor) -> None:
    with torch.inference_mode():
        encode_images(model.vision_model, inputs)


def _linear_flops(states: Any, weight: Any, *_: Any, **__: Any) -> int:
    return int(2 * math.prod(states) * weight[0])


def _attention_flops(queries: Any, keys: Any, values: Any, *_: Any, **__: Any) -> int:
    count: Any = sdpa_flop_count  # untyped in torch
    return int(count(queries, keys, values))


def num_flops(ours: BlipCaptioner, pixels: UInt8[np.ndarray, "b h w 3"]) -> int:
    """Count the floating-point operations of captioning a batch; a multiply-add is two."""
    # torch's counter does not know the CPU versions of these two operations.
    mapping: dict[Any, Any] = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    }
    backend: Any = torch.backends.mkldnn  # untyped there
    if backend.is_available():
        mapping[torch.ops.mkldnn._linear_pointwise] = _linear_flops
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        ours.caption(pixels)
    return int(counter.get_total_flops())


def main() -> None:
    """Measure all jobs, and print the table and its JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architectures", nargs="+", choices=list(VISION), default=list(VISION))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    print("architecture  batch  beams  generate s  ours s  encoder s  arithmetic s  ratio  target")
    rows: list[Row] = []
    for architecture in arguments.architectures:
        model = build(architecture)
        network = packed(model)
        for size in [(batch, beams) for batch in arguments.batches for beams in arguments.beams]:
            row = compare(model, network, architecture, size, arguments.rounds)
            rows.append(row)
            print(
                f"{row.architecture:<12}  {row.batch_size:>5}  {row.num_beams:>5}"
                f"  {row.generate_s:>10.3f}  {row.ours_s:>6.3f}  {row.encoder_s:>9.3f}"
                f"  {row.arithmetic_s:>12.3f}  {row.ratio:>5.2f}  {row.bar or '':>6}",
                flush=True,
            )
    found = {
        "threads": torch.get_num_threads(),
        "device": str(pick_device()),
        "rows": [asdict(row) for row in rows],
    }
    print(json.dumps(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
