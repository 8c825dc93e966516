"""The benchmark of a GPU, tried out without one: what it runs, in which order, what it writes."""

import json
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu
from bench.blip import captioner, num_flops, random_blip, random_pixels
from tests.support import tiny_blip

_one_thread = tiny_blip.one_thread
JOBS = gpu.list_jobs(gpu.SMOKE)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("CPU", None),
    ],
)
def test_published_peaks_are_found_by_name(name: str, tflops: float | None) -> None:
    assert gpu.published_peak(name) == tflops


def test_every_row_is_listed_once_and_compiled_ones_come_last() -> None:
    jobs = gpu.list_jobs(gpu.FULL)
    assert len(set(jobs)) == len(jobs) == 2 * 2 * 3 * 4 * 2
    ways = [job.way for job in jobs]
    assert gpu.COMPILED not in ways[: 2 * len(jobs) // 3]
    assert {job.batch_size for job in jobs} == {1, 8, 32, 128}
    assert (jobs[0].architecture, jobs[0].dtype, jobs[0].num_beams) == ("base", "bf16", 3)


def test_operations_are_proportional_to_the_batch() -> None:
    model = random_blip(gpu.SMOKE.vision["tiny"], gpu.SMOKE.text)
    for num_beams in (1, 3):
        ours = captioner(model, num_beams, gpu.SMOKE.num_tokens)
        one, three = (num_flops(ours, random_pixels(count, 32)) for count in (1, 3))
        assert three == 3 * one > 0


class Failing(gpu.Bench):
    """A benchmark whose first rows fail."""

    def measure(self, job: gpu.Job) -> gpu.Row:
        """Fail twice, then measure."""
        if job == JOBS[0]:
            raise torch.OutOfMemoryError("64 GiB more")
        if job == JOBS[1]:
            raise RuntimeError("no kernel\nfor this device")
        return super().measure(job)


def failing() -> Failing:
    peaks = {dtype: gpu.Peak(measured=1.0, published=2.0) for dtype in gpu.DTYPES}
    return Failing(scale=gpu.SMOKE, device=torch.device("cpu"), peaks=peaks)


def test_rows_that_fail_are_said_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results" / "gpu.json"
    report = gpu.Report(file, {"device": "CPU"}, JOBS)
    gpu.run_jobs(failing(), JOBS[:3], report, time.monotonic() + 600)
    assert report.finish() == 1
    found = json.loads(file.read_text())
    memory, broken, fine = found["rows"]
    assert (memory["note"], memory["images_per_s"]) == ("out of memory", None)
    assert broken["note"] == "RuntimeError: no kernel"
    assert fine["note"] == ""
    assert fine["tflops"] == fine["share_of_measured"] == 2 * fine["share_of_published"] > 0
    assert fine["ratio"] == fine["images_per_s"] / fine["generate_images_per_s"]
    assert [gpu.Job(**job) for job in found["not_run"]] == JOBS[3:]
    assert capsys.readouterr().out.count("not run") == len(JOBS) - 3


def test_a_row_out_of_memory_is_no_failure() -> None:
    report = gpu.Report(None, {}, JOBS[:1])
    gpu.run_jobs(failing(), JOBS[:1], report, time.monotonic() + 600)
    assert report.finish() == 0


def test_nothing_is_begun_for_which_there_is_no_time(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    report = gpu.Report(file, {}, JOBS)
    gpu.run_jobs(failing(), JOBS, report, time.monotonic() + 5)
    assert report.finish() == 0
    found = json.loads(file.read_text())
    assert found["rows"] == []
    assert len(found["not_run"]) == len(JOBS)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_without_an_accelerator_it_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit) as caught:
        gpu.main(["--device", "cpu"])
    assert caught.value.code == 2


def test_tests_are_counted_and_a_failed_one_fails_the_whole(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "@pytest.mark.parametrize('one', [1, 2])\n"
        "def test_bad(one): assert one == 3\n"
        "@pytest.mark.skip(reason='of no reason')\n"
        "def test_later(): pass\n"
        "@pytest.fixture\n"
        "def broken(): raise OSError\n"
        "def test_broken(broken): pass\n"
    )
    found = gpu.run_tests(300, tmp_path)
    assert found == gpu.Tests(passed=1, failed=3, skipped=1, is_complete=True)
    report = gpu.Report(None, {}, [])
    assert report.finish() == 0
    report.note_tests(found)
    assert report.finish() == 1


def test_tests_that_take_too_long_count_as_failed(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_good(): pass\n")
    found = gpu.run_tests(0.1, tmp_path)
    assert not found.is_complete
    assert not found.is_good


@pytest.mark.slow
def test_the_whole_program_runs_on_a_cpu(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "bench.gpu", "--device", "cpu", "--smoke"]
    done = subprocess.run(
        [*command, "--json", str(file)], cwd=gpu.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(file.read_text())
    assert found["not_run"] == []
    assert found["tests"]["is_complete"]
    assert found["tests"]["failed"] == 0
    assert {*found["peaks_tflops"]} == {*gpu.DTYPES}
    names = {one.name for one in fields(gpu.Job)}
    assert [gpu.Job(**{name: row[name] for name in names}) for row in found["rows"]] == JOBS
    for row in found["rows"]:
        assert row["note"] == ""
        assert min(row["images_per_s"], row["generate_images_per_s"], row["tflops"]) > 0
        assert row["share_of_measured"] > 0
        assert row["share_of_published"] is row["peak_memory_bytes"] is None
    assert done.stdout.count("\ntiny ") == len(JOBS)
