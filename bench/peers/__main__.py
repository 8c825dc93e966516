"""BLIP on a CPU in other runtimes, compared with raycap: seconds per image, and their ratio.

All programs get the same network with random weights and the same normalised pixels, are forced to
write 20 tokens, and use the same number of threads. `generate` runs transformers' search; ONNX
Runtime and OpenVINO run raycap's, so that they differ from raycap in the computation only. Each
peer in turn is compared with raycap at its precision: in every round both caption the batch, one
right after the other and in alternating order. The table shows the medians of the seconds and of
the ratios per round (the peer's seconds over raycap's: above 1, raycap is faster). `encoder` is the
time until the first token; that of `generate` excludes the keys and values of cross attention.
`equal` is the share of captions that equal those of raycap in fp32, token for token, for the peer
and for raycap at its precision. A peer that is not installed or fails is a row with the reason.

The peers are optional, and not among raycap's requirements:

    pip install onnx onnxscript onnxruntime openvino nncf

    python -m bench.peers [--architecture base] [--batch 8] [--beams 1 3] [--rounds 3]
                          [--only NAME ...] [--busy] [--smoke] [--json FILE]
"""

import argparse
import gc
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import BlipConfig, BlipForConditionalGeneration

from bench.blip import VISION, build
from bench.peers.catalogue import PEERS, Peer, Program, missing, raycap
from bench.peers.decoding import Captions

TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.02,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The result of one peer at one number of beams; times are per image."""

    peer: str
    precision: str
    batch_size: int
    num_beams: int
    peer_s: float
    ours_s: float
    peer_encoder_s: float
    ours_encoder_s: float
    ratio: float
    equal: float
    """Share of the peer's captions that equal those of raycap in fp32."""
    ours_equal: float
    """The same of raycap at the precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a peer has no result."""

    peer: str
    precision: str
    reason: str


def build_tiny() -> Any:
    """Build a BLIP of two layers with random weights."""
    torch.manual_seed(0)
    text = {**TINY, "encoder_hidden_size": 64, "vocab_size": 1000, "bos_token_id": 998}
    config = BlipConfig(vision_config={**TINY, "image_size": 64}, text_config=text)
    model: Any = BlipForConditionalGeneration(config)
    return model.eval()


def images(blip: Any, batch_size: int) -> Float[Tensor, "b 3 h w"]:
    """Return normalised pixels: coarse patterns, as all fine noise is alike to random weights."""
    coarse = torch.randn(batch_size, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return functional.interpolate(coarse, size=2 * [blip.config.vision_config.image_size])


class Contest:
    """Compares peers with raycap on one batch."""

    def __init__(self, blip: Any, batch_size: int, rounds: int, clock: Callable[[], float]) -> None:
        self._blip = blip
        self._pixels = images(blip, batch_size)
        self._rounds = rounds
        self._clock = clock
        self._ours = ("", raycap(blip, "fp32"))
        self._expected: dict[int, Captions] = {}

    def run(self, peer: Peer, beams: Sequence[int], folder: Path) -> Iterator[Row | Failure]:
        """Compare one peer with raycap at each number of beams."""
        failure = partial(Failure, peer=peer.name, precision=peer.precision)
        if reason := missing(peer):
            yield failure(reason=reason)
            return
        try:
            theirs = peer.build(self._blip, folder)
            for num_beams in beams:
                yield self._compare(peer, theirs, num_beams)
        except Exception as error:  # noqa: BLE001  any runtime's own errors
            text = next(iter(str(error).strip().splitlines()), "")
            yield failure(reason=f"{type(error).__name__}: {text}"[:200])

    def _compare(self, peer: Peer, theirs: Program, num_beams: int) -> Row:
        expected = self._captions_in_fp32(num_beams)
        ours = self._raycap(peer.precision)
        programs = {"peer": theirs, "ours": ours}
        # Also warms up: graphs are compiled and memory is allocated at first use.
        captions = {
            name: program.caption(self._pixels, num_beams) for name, program in programs.items()
        }
        times: dict[str, list[float]] = {}
        for number in range(self._rounds):
            for name in programs if number % 2 else reversed(programs):
                program = programs[name]
                took = self._seconds(partial(program.caption, self._pixels, num_beams))
                times.setdefault(name, []).append(took)
                took = self._seconds(partial(program.encode, self._pixels))
                times.setdefault(f"{name} encoder", []).append(took)
        medians = {name: statistics.median(found) for name, found in times.items()}
        pairs = zip(times["peer"], times["ours"], strict=True)
        return Row(
            peer=peer.name,
            precision=peer.precision,
            batch_size=len(self._pixels),
            num_beams=num_beams,
            peer_s=medians["peer"],
            ours_s=medians["ours"],
            peer_encoder_s=medians["peer encoder"],
            ours_encoder_s=medians["ours encoder"],
            ratio=statistics.median(their / our for their, our in pairs),
            equal=_share_equal(captions["peer"], expected),
            ours_equal=_share_equal(captions["ours"], expected),
        )

    def _captions_in_fp32(self, num_beams: int) -> Captions:
        if num_beams not in self._expected:
            ours = raycap(self._blip, "fp32")
            self._expected[num_beams] = ours.caption(self._pixels, num_beams)
        return self._expected[num_beams]

    def _raycap(self, precision: str) -> Program:
        if self._ours[0] != precision:
            self._ours = (precision, raycap(self._blip, precision))
        return self._ours[1]

    def _seconds(self, work: Callable[[], object]) -> float:
        """Return the seconds per image."""
        started = self._clock()
        work()
        return (self._clock() - started) / len(self._pixels)


def _share_equal(captions: Captions, expected: Captions) -> float:
    pairs = zip(captions, expected, strict=True)
    return statistics.mean(one == other for one, other in pairs)


def describe(result: Row | Failure) -> str:
    """Return a line of the table."""
    start = f"{result.peer:<24}  {result.precision:<9}"
    if isinstance(result, Failure):
        return f"{start}  {result.reason}"
    return (
        f"{start}  {result.batch_size:>5}  {result.num_beams:>5}  {result.peer_s:>7.3f}"
        f"  {result.ours_s:>7.3f}  {result.ratio:>5.2f}  {result.peer_encoder_s:>9.3f}"
        f"  {result.ours_encoder_s:>9.3f}  {result.equal:>6.0%}  {result.ours_equal:>6.0%}"
    )


def _quiet() -> None:
    """Silence the peers' advice on deprecations and on how to convert models."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", choices=list(VISION), default="base")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--rounds", type=int, default=3)
    names = [peer.name for peer in PEERS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    busy = "one thread, and its CPU time instead of seconds: for a machine with other work"
    parser.add_argument("--busy", action="store_true", help=busy)
    parser.add_argument("--smoke", action="store_true", help="a tiny network, to try the program")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    return parser.parse_args()


def main() -> None:
    """Compare all peers, and print the table and its JSON."""
    given = _arguments()
    _quiet()
    if given.busy:
        torch.set_num_threads(1)
    blip = (build_tiny() if given.smoke else build(given.architecture)).to("cpu", torch.float32)
    clock = time.process_time if given.busy else time.perf_counter
    contest = Contest(blip, given.batch, given.rounds, clock)
    print(
        "peer                      precision  batch  beams   peer s   ours s  ratio"
        "  encoder s  our enc s   equal  our eq"
    )
    results: list[Row | Failure] = []
    with tempfile.TemporaryDirectory(prefix="raycap-bench-") as name:
        for peer in PEERS:
            if peer.name in given.only:
                for result in contest.run(peer, given.beams, Path(name)):
                    results.append(result)
                    print(describe(result), flush=True)
                gc.collect()  # a runtime keeps a copy of all weights
    found = {"threads": torch.get_num_threads(), "rows": [asdict(result) for result in results]}
    print(json.dumps(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
