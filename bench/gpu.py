"""BLIP on an accelerator: the tests of tests/gpu, then images per second and the share of the peak.

Everything in one call that keeps to a time budget, for a machine that is rented by the minute. It
needs no network. BLIP has the real architectures, random weights, and 20 forced tokens. Each row
is one architecture, data type, batch size and number of beams, run in one of three ways:

- eager: one batch after the other;
- lanes: two batches in flight, as a captioner of a run on a GPU does it;
- compiled: `model.compile`, with CUDA graphs on CUDA.

Each is compared with transformers' `generate` with the same weights and data type. Most important
rows come first and compiled ones last. Rows for which there was no time are listed as not run.
Every row is printed, and written to the file, as soon as it is known. The exit code is 1 if a test
or a row failed, and 2 without an accelerator.

    python -m bench.gpu [--minutes 10] [--json FILE] [--smoke [--device cpu]]
"""

import argparse
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from bench.blip import (
    NUM_TOKENS,
    SIDE_PX,
    TEXT,
    VISION,
    captioner,
    num_flops,
    random_blip,
    random_pixels,
    reference,
    seconds,
)
from raycap.captioning.batching import BatchSize
from raycap.captioning.captioner import Answering, Batch, caption_all
from raycap.models.base import BatchRange
from raycap.models.blip.captioner import BlipCaptioner
from raycap.models.blip.compiled import CompiledBlip
from raycap.models.device import peak_device_bytes, pick_device
from raycap.models.process import is_out_of_memory

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests" / "gpu"
EAGER, LANES, COMPILED = "eager", "lanes", "compiled"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}  # `auto` uses the first where it can
BEAMS = (3, 1)  # 3 is the default

PEAKS_TFLOPS = [
    (r"MIG", None),
    (r"H100 PCIe", 756.0),
    (r"H[12]00 NVL", 835.0),
    (r"H[12]00", 989.0),
    (r"A100", 312.0),
    (r"L4\b", 121.0),
]
"""Dense bf16 and fp16 peaks of devices, from their makers' data sheets; the first match counts."""

_TESTS_SHARE = 0.4  # of the time, at most
_ROUNDS = range(3, 11)
_LANES = 2
_FIRST_GUESS_S = {EAGER: 10.0, LANES: 10.0, COMPILED: 90.0}
_RECORDINGS = 3  # calls of a compiled model before its speed counts: compile, record, replay


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What is measured: everything, or a small part that only tries this program."""

    vision: dict[str, dict[str, int]]
    """Vision settings of each architecture."""
    text: dict[str, int]
    num_tokens: int
    batches: Sequence[int]
    matrix: int
    """Side of the matrices whose product gives the measured peak."""
    rounds_s: float
    """Once a row has been measured for this long, the fewest rounds suffice."""


FULL = Scale(
    vision={name: {**sizes, "image_size": SIDE_PX} for name, sizes in VISION.items()},
    text=TEXT,
    num_tokens=NUM_TOKENS,
    batches=(32, 128, 8, 1),
    matrix=8192,
    rounds_s=2.0,
)
_TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_TOKENS = {"bos_token_id": 5, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
SMOKE = Scale(
    vision={"tiny": {**_TINY, "image_size": 32}},
    text={**_TINY, **_TOKENS, "vocab_size": 64},
    num_tokens=4,
    batches=(2, 1),
    matrix=256,
    rounds_s=0.0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row to measure."""

    architecture: str
    dtype: str
    way: str
    batch_size: int
    num_beams: int

    def __str__(self) -> str:
        return (
            f"{self.architecture:<8}  {self.dtype:<5}  {self.way:<8}  {self.batch_size:>5}"
            f"  {self.num_beams:>5}"
        )


def list_jobs(scale: Scale) -> list[Job]:
    """List all rows, the most important first."""
    models = [(name, dtype) for dtype in DTYPES for name in scale.vision]
    sizes = [(batch, beams) for beams in BEAMS for batch in scale.batches]
    return [
        Job(architecture=name, dtype=dtype, way=way, batch_size=batch, num_beams=beams)
        for ways in ((EAGER, LANES), (COMPILED,))
        for name, dtype in models
        for way in ways
        for batch, beams in sizes
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The arithmetic peak for one data type, in TFLOP/s."""

    measured: float
    """Of one large product of matrices."""
    published: float | None
    """From the data sheet; None for an unknown device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The result of one job; what could not be measured is None."""

    architecture: str
    dtype: str
    way: str
    batch_size: int
    num_beams: int
    images_per_s: float | None = None
    generate_images_per_s: float | None = None
    """Of transformers' `generate`, one batch after the other."""
    ratio: float | None = None
    """raycap's images per second over those of `generate`."""
    tflops: float | None = None
    """Achieved by raycap, in TFLOP/s."""
    share_of_measured: float | None = None
    """`tflops` over the measured peak."""
    share_of_published: float | None = None
    peak_memory_bytes: int | None = None
    """Accelerator memory of raycap, weights included; None on a CPU."""
    warm_up_s: float | None = None
    """Time of the first calls, in which a model is compiled."""
    note: str = ""
    """What went wrong."""


@dataclass(slots=True)
class Tests:
    """The results of pytest."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    is_complete: bool = False
    """False if pytest ran out of time, or could not run."""

    @property
    def is_good(self) -> bool:
        """Whether nothing failed."""
        return self.is_complete and not self.failed


_RESULT = re.compile(r"^\S+::.* (PASSED|FAILED|SKIPPED|ERROR)\b")


def run_tests(limit_s: float, folder: Path = TESTS) -> Tests:
    """Run the tests of a folder with pytest and print its output; compiled models come last."""
    files = sorted(folder.glob("test_*.py"), key=lambda file: ("compiled" in file.name, file.name))
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "--color=no", "-p", "no:xdist"]
    counts: Counter[str] = Counter()
    with subprocess.Popen(
        [*command, *map(str, files)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        timer = threading.Timer(limit_s, process.kill)
        timer.start()
        for line in process.stdout or ():
            print(line, end="", flush=True)
            counts.update(_RESULT.findall(line))
        code = process.wait()
        timer.cancel()
    return Tests(
        passed=counts["PASSED"],
        failed=counts["FAILED"] + counts["ERROR"],
        skipped=counts["SKIPPED"],
        is_complete=code in (0, 1),
    )


class Report:
    """What is known so far, printed and written at once; a lock keeps the two writers apart."""

    def __init__(self, file: Path | None, about: dict[str, Any], jobs: list[Job]) -> None:
        self._file = file
        self._about = about
        self._pending = list(jobs)
        self._lock = threading.Lock()
        self._rows: list[Row] = []
        self._tests: Tests | None = None
        self._has_failed = False

    def note(self, key: str, value: Any) -> None:
        """Record a fact about the machine."""
        with self._lock:
            self._about[key] = value
            self._write()

    def note_tests(self, tests: Tests) -> None:
        """Print and record the results of the tests."""
        with self._lock:
            self._tests = tests
            print(
                f"tests: {tests.passed} passed, {tests.failed} failed, {tests.skipped} skipped"
                + ("" if tests.is_complete else "; NOT COMPLETE"),
                flush=True,
            )
            self._write()

    def add(self, job: Job, row: Row, *, failed: bool) -> None:
        """Print and record a row."""
        with self._lock:
            self._pending.remove(job)
            self._rows.append(row)
            self._has_failed |= failed
            print(line_of(job, row), flush=True)
            self._write()

    def finish(self) -> int:
        """Print what was not run; return the exit code."""
        with self._lock:
            for job in self._pending:
                print(f"{job}  not run: no time left", flush=True)
            self._write()
            tests_failed = self._tests is not None and not self._tests.is_good
            return int(tests_failed or self._has_failed)

    def end_process(self) -> NoReturn:
        """Finish, although a row is being measured."""
        code = self.finish()
        sys.stdout.flush()
        os._exit(code)

    def _write(self) -> None:
        if self._file is None:
            return
        found = {
            **self._about,
            "tests": None if self._tests is None else asdict(self._tests),
            "rows": [asdict(row) for row in self._rows],
            "not_run": [asdict(job) for job in self._pending],
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._file.with_name(f".{self._file.name}.tmp")
        temporary.write_text(json.dumps(found, indent=2) + "\n")
        temporary.replace(self._file)


HEADER = (
    "model     dtype  way       batch  beams  images/s  generate  ratio  TFLOP/s  of measured"
    "  of published  memory GB  warm-up s"
)


def line_of(job: Job, row: Row) -> str:
    """Return a row of the table; `-` for what is unknown."""

    def cell(value: float | None, width: int, form: str) -> str:
        return f"{'-' if value is None else format(value, form):>{width}}"

    memory_gb = None if row.peak_memory_bytes is None else row.peak_memory_bytes / 1e9
    cells = [
        str(job),
        cell(row.images_per_s, 8, ".1f"),
        cell(row.generate_images_per_s, 8, ".1f"),
        cell(row.ratio, 5, ".2f"),
        cell(row.tflops, 7, ".2f"),
        cell(row.share_of_measured, 11, ".1%"),
        cell(row.share_of_published, 12, ".1%"),
        cell(memory_gb, 9, ".2f"),
        cell(row.warm_up_s, 9, ".1f"),
    ]
    return "  ".join([*cells, row.note]).rstrip()


def published_peak(device: str) -> float | None:
    """Return the published peak of a device by its name, in TFLOP/s; None if it is not known."""
    return next((peak for name, peak in PEAKS_TFLOPS if re.search(name, device)), None)


def measure_peak(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Return the speed of one large product of matrices, in TFLOP/s."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    num_products = 10

    def multiply() -> None:
        for _ in range(num_products):
            torch.mm(left, right, out=product)

    multiply()
    best_s = min(seconds(multiply) for _ in range(5)) / num_products
    return 2 * side**3 / best_s / 1e12


@dataclass(slots=True)
class Bench:
    """Measures jobs, and keeps the current model and what later jobs need of earlier ones."""

    scale: Scale
    device: torch.device
    peaks: dict[str, Peak]
    _key: tuple[str, str] | None = None
    _model: Any = None
    _compiled: CompiledBlip | None = None
    _flops: dict[tuple[str, int], int] = field(default_factory=dict)
    _generate: dict[tuple[str, str, int, int], float] = field(default_factory=dict)

    def measure(self, job: Job) -> Row:
        """Measure a job.

        Raises:
            Exception: whatever the model raises, such as running out of memory.
        """
        self._switch(job)
        ours, num_images = self._ours(job)
        # Before the peak is reset, because counting needs memory itself.
        num_flops = self._flops_per_image(job)
        _forget_peak(self.device)
        num_calls = _RECORDINGS if job.way == COMPILED else 1
        warm_up_s = sum(seconds(ours) for _ in range(num_calls))
        peak_bytes = peak_device_bytes(self.device) or None
        theirs = self._reference(job)
        calls = [ours] if theirs is None else [ours, theirs]
        times = take_turns(calls, self.scale.rounds_s)
        images_per_s = num_images / statistics.median(times[0])
        generates = self._generate_speed(job, times[1:])
        tflops = images_per_s * num_flops / 1e12
        peak = self.peaks[job.dtype]
        return Row(
            **asdict(job),
            images_per_s=images_per_s,
            generate_images_per_s=generates,
            ratio=images_per_s / generates if generates else None,
            tflops=tflops,
            share_of_measured=tflops / peak.measured,
            share_of_published=tflops / peak.published if peak.published else None,
            peak_memory_bytes=peak_bytes,
            warm_up_s=warm_up_s,
            note="" if generates else "generate ran out of memory",
        )

    def release(self) -> None:
        """Give up the memory of a job that failed."""
        self._compiled = None
        gc.collect()
        if self.device.type != "cpu":
            torch.accelerator.empty_cache()

    def _switch(self, job: Job) -> None:
        key = (job.architecture, job.dtype)
        if key == self._key:
            return
        self._key = self._model = None
        self.release()
        with self.device:  # random numbers take long on a CPU
            model = random_blip(self.scale.vision[job.architecture], self.scale.text)
        self._model = model.to(self.device, DTYPES[job.dtype])
        self._key = key

    def _ours(self, job: Job) -> tuple[Callable[[], object], int]:
        """Return a call of raycap, and how many images it captions."""
        compiled = self._compiler() if job.way == COMPILED else None
        ours = captioner(self._model, job.num_beams, self.scale.num_tokens, compiled)
        side_px = ours.target.width_px
        if job.way != LANES:
            return partial(ours.caption, random_pixels(job.batch_size, side_px)), job.batch_size
        num_images = 2 * _LANES * job.batch_size
        pixels, size = random_pixels(num_images, side_px), BatchRange.fixed(job.batch_size)
        return partial(caption_in_lanes, ours, pixels, size), num_images

    def _compiler(self) -> CompiledBlip:
        if self._compiled is None:
            # Compiling for a CPU takes long, and only this program is tried there.
            backend = "eager" if self.device.type == "cpu" else "inductor"
            self._compiled = CompiledBlip(self._model, backend)
        return self._compiled

    def _flops_per_image(self, job: Job) -> int:
        """Count the operations of one image; they are proportional to the batch."""
        key = (job.architecture, job.num_beams)
        if key not in self._flops:
            plain = captioner(self._model, job.num_beams, self.scale.num_tokens)
            self._flops[key] = num_flops(plain, random_pixels(1, plain.target.width_px))
        return self._flops[key]

    def _reference(self, job: Job) -> Callable[[], object] | None:
        """Return a warm call of `generate`; None if its speed is known or its memory too small."""
        if self._generate_key(job) in self._generate:
            return None
        theirs = reference(self._model, job.batch_size, job.num_beams, self.scale.num_tokens)
        try:
            theirs()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._generate[self._generate_key(job)] = 0.0
            return None
        return theirs

    def _generate_speed(self, job: Job, times: list[list[float]]) -> float | None:
        key = self._generate_key(job)
        if times:
            self._generate[key] = job.batch_size / statistics.median(times[0])
        return self._generate[key] or None

    def _generate_key(self, job: Job) -> tuple[str, str, int, int]:
        return job.architecture, job.dtype, job.batch_size, job.num_beams


def caption_in_lanes(ours: BlipCaptioner, pixels: Any, size: BatchRange) -> None:
    """Caption with two batches in flight."""
    outcomes = caption_all(Answering(ours), Batch(pixels), BatchSize(size), num_lanes=_LANES)
    failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    if failed:
        raise failed[0]


def take_turns(calls: Sequence[Callable[[], object]], rounds_s: float) -> list[list[float]]:
    """Time calls that are already warm, in turns and in alternating order; return the seconds."""
    times: list[list[float]] = [[] for _ in calls]
    order = list(zip(calls, times, strict=True))
    started = time.monotonic()
    for number in range(_ROUNDS.stop):
        if number >= _ROUNDS.start and time.monotonic() - started > rounds_s:
            break
        for call, found in order if number % 2 else reversed(order):
            found.append(seconds(call))
    return times


def _forget_peak(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.empty_cache()
        torch.accelerator.reset_peak_memory_stats()


def run_jobs(bench: Bench, jobs: list[Job], report: Report, deadline: float) -> None:
    """Measure the jobs for which there is time; one that fails does not end the others."""
    print(HEADER, flush=True)
    needed_s = dict(_FIRST_GUESS_S)
    for job in jobs:
        started = time.monotonic()
        if started + needed_s[job.way] > deadline:
            continue
        is_failed = False
        try:
            row = bench.measure(job)
        except Exception as error:  # noqa: BLE001  whatever a device or compiler raises
            is_failed = not is_out_of_memory(error)
            note = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
            row = Row(**asdict(job), note=note if is_failed else "out of memory")
        if row.images_per_s is None:
            bench.release()
        report.add(job, row, failed=is_failed)
        needed_s[job.way] = time.monotonic() - started


def describe(device: torch.device) -> str:
    """Return the name of a device."""
    if device.type == "cpu":
        return "CPU"
    module = torch.get_device_module(device)
    return str(module.get_device_name()) if hasattr(module, "get_device_name") else device.type


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="time for everything")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--smoke", action="store_true", help="a tiny model: try this program")
    parser.add_argument("--device", choices=["cpu"], help="with --smoke: do without an accelerator")
    given = parser.parse_args(arguments)
    if given.device and not given.smoke:
        parser.error("--device cpu needs --smoke")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests, measure what there is time for, and return the exit code."""
    given = parse(arguments)
    # Imports count as well: they take about as long as this process has computed so far.
    deadline = time.monotonic() + 60 * given.minutes - time.process_time()
    device = torch.device(given.device) if given.device else pick_device()
    if device.type == "cpu" and not given.device:
        print(
            "bench.gpu: torch finds no accelerator on this machine; to try the program without "
            "one: --device cpu --smoke",
            file=sys.stderr,
        )
        return 2
    if device.type == "cpu":
        torch.set_num_threads(1)  # threads cost such a small model more than they save
    scale = SMOKE if given.smoke else FULL
    jobs = list_jobs(scale)
    name = describe(device)
    about = {"device": name, "torch": torch.__version__, "is_smoke": given.smoke}
    report = Report(given.json, about, jobs)
    timer = threading.Timer(deadline - time.monotonic(), report.end_process)
    timer.daemon = True
    timer.start()
    report.note_tests(run_tests(_TESTS_SHARE * (deadline - time.monotonic())))
    peaks = {
        dtype: Peak(
            measured=measure_peak(device, DTYPES[dtype], scale.matrix),
            published=published_peak(name),
        )
        for dtype in DTYPES
    }
    report.note("peaks_tflops", {dtype: asdict(peak) for dtype, peak in peaks.items()})
    for dtype, peak in peaks.items():
        published = "unknown" if peak.published is None else f"{peak.published:g} TFLOP/s"
        print(f"peak, {name}, {dtype}: {peak.measured:.3g} TFLOP/s measured, {published} published")
    run_jobs(Bench(scale=scale, device=device, peaks=peaks), jobs, report, deadline)
    timer.cancel()
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
