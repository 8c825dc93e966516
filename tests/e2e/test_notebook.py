"""raycap in a notebook: progress, displays, and a cell that is interrupted and run again."""

import json
from pathlib import Path

import pytest

from tests.support.commandline import CommandLine, committed_parts, write_images
from tests.support.notebook import started_kernel

pytest.importorskip("ipykernel")
pytest.importorskip("jupyter_client")

_NUM_IMAGES = 120
_SETUP = """
import logging, signal, warnings
import psutil
NAMES = ("", "raycap", "raycap.stages", "ray.data", "ray.tune")
def settings():
    loggers = [logging.getLogger(name) for name in NAMES]
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return (
        [logger.level for logger in loggers],
        [(list(logger.handlers), logger.propagate) for logger in loggers[:3]],  # raycap's, root
        [signal.getsignal(number) for number in numbers],
    )
logging.getLogger().setLevel(logging.ERROR)  # the caller's own choice
before = settings()
import raycap
from raycap.config import CaptionConfig, EngineConfig, ModelConfig
config = CaptionConfig(
    model=ModelConfig(name="stub", stub_latency_s=0.5),
    engine=EngineConfig(part_size=10, batch_size=10),
)
def call(output):
    return raycap.caption("photos", output, config=config)
"""


@pytest.mark.slow
def test_a_notebook_captions_is_interrupted_goes_on_and_reads(
    raycap: CommandLine, tmp_path: Path
) -> None:
    write_images(tmp_path / "photos", _NUM_IMAGES)
    lines = [
        json.dumps({"file_name": f"{number:06d}.jpg", "captions": ["a bright red picture"]})
        for number in range(_NUM_IMAGES)
    ]
    (tmp_path / "refs.jsonl").write_text("\n".join(lines))
    with started_kernel(tmp_path, raycap.env) as kernel:
        assert kernel.run(_SETUP).error == ""

        stopped = kernel.run("call('out')", lambda: committed_parts(tmp_path / "out") >= 2)
        assert stopped.error == "RunStopped"
        assert 0 < committed_parts(tmp_path / "out") < _NUM_IMAGES // 10
        left = kernel.run("print(raycap.status('out').state, psutil.Process().children())")
        assert left.printed.split() == ["stopped", "[]"]
        assert kernel.run("raycap.read('out').is_complete").text == "False"

        done = kernel.run("summary = call('out')\nsummary")
        assert (done.error, done.warned, done.printed) == ("", "", "")
        bars = [html for html in done.html if "<progress" in html]
        assert any("starting Ray" in html for html in bars)
        assert any(f"/{_NUM_IMAGES} " in html for html in bars)
        assert "" in done.html  # the bar has vanished
        assert f">{_NUM_IMAGES}</td>" in done.html[-1]
        assert "captioned" in done.text
        changed = "print([(a, b) for a, b in zip(before, settings()) if a != b])"
        assert kernel.run(changed).printed.strip() == "[]"
        assert kernel.run("print(raycap.verify('out').is_complete)").printed.strip() == "True"

        shown = kernel.run("raycap.read('out')")
        assert "000000.jpg" in shown.html[0]
        asked = "raycap.read('out').to_duckdb().aggregate('count(*)').fetchall()"
        assert kernel.run(asked).text == f"[({_NUM_IMAGES},)]"
        assert kernel.run("len(raycap.read('out', where='num_words > 99'))").text == "0"
        scored = kernel.run("raycap.evaluate('out', 'refs.jsonl')")
        assert (scored.error, scored.warned) == ("", "")
        assert "CIDEr-D" in scored.html[-1]


@pytest.mark.slow
def test_a_ray_of_the_notebook_survives_an_interrupt(raycap: CommandLine, tmp_path: Path) -> None:
    write_images(tmp_path / "photos", _NUM_IMAGES)
    env = {**raycap.env, "RAY_AUTH_MODE": "disabled"}
    with started_kernel(tmp_path, env) as kernel:
        assert kernel.run(_SETUP).error == ""
        start = "import ray; ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False);"
        assert kernel.run(start).error == ""
        stopped = kernel.run("call('out')", lambda: committed_parts(tmp_path / "out") >= 2)
        assert stopped.error == "RunStopped"
        done = kernel.run("print(ray.is_initialized(), call('out').num_ok)")
        assert done.printed.split() == ["True", str(_NUM_IMAGES)]
        # Reads of the user's own, in the same Ray.
        counted = kernel.run("print(raycap.read('out').to_ray().filter(lambda row: True).count())")
        assert counted.printed.split()[-1] == str(_NUM_IMAGES)
        kernel.run("ray.shutdown()")
