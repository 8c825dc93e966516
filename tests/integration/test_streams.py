"""A pass that several streams share: the rows of one stream, whatever dies."""

import logging
import re
import time
from pathlib import Path
from threading import Thread

import pytest

import raycap
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from raycap.errors import RunStopped
from raycap.progress import Progress
from tests.faults.drills import captions_of, check_one_line, check_verified, magenta, told
from tests.support.cli import InProcess
from tests.support.commandline import (
    committed_parts,
    rows_of,
    wait_until,
    workers_named,
    write_images,
)

pytestmark = pytest.mark.usefixtures("ray_session")

NUM_IMAGES = 120
COMMAND = (
    *("caption", "photos", "out", "--model", "stub"),
    *("--set", "engine.part_size=5", "--set", "engine.batch_size=5"),
    *("--set", "engine.num_streams=2", "--set", "engine.num_actors=2"),
)
SLOW = ("--set", "model.stub_latency_s=0.3")


def written(output: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in output.glob("captions/part-*")}


def test_two_streams_write_each_part_once_and_a_failure_is_a_row(
    cli: InProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    photos = cli.folder / "photos"
    write_images(photos, NUM_IMAGES)
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff no")
    code, out, err = cli(*COMMAND)
    assert code == 0, err
    assert "streams=2" in caplog.text
    assert re.search(rf"captioned +{NUM_IMAGES}\b", out)
    assert re.search(r"decode_failed +1\b", out)
    output = cli.folder / "out"
    check_verified(output)
    assert told(rows_of(output)) == captions_of(photos)
    assert committed_parts(output) == 25


def test_a_stream_that_is_killed_is_replaced_and_nothing_committed_is_captioned_again(
    cli: InProcess, caplog: pytest.LogCaptureFixture
) -> None:
    photos, output = cli.folder / "photos", cli.folder / "out"
    write_images(photos, NUM_IMAGES)
    before: dict[str, int] = {}

    def kill_once_committed() -> None:
        wait_until(lambda: committed_parts(output) >= 4 and bool(workers_named("StreamActor")))
        before.update(written(output))
        workers_named("StreamActor")[0].kill()

    killer = Thread(target=kill_once_committed)
    killer.start()
    code, out, err = cli(*COMMAND, *SLOW)
    killer.join()
    assert code == 0, err
    assert "stream_died" in caplog.text
    assert re.search(rf"captioned +{NUM_IMAGES}\b", out)
    check_verified(output)
    assert told(rows_of(output)) == captions_of(photos)
    assert before.items() <= written(output).items()


@pytest.mark.slow
def test_an_interrupt_says_what_is_committed_and_the_same_command_goes_on(cli: InProcess) -> None:
    photos, output = cli.folder / "photos", cli.folder / "out"
    write_images(photos, NUM_IMAGES)

    def stop(progress: Progress) -> None:
        if progress.num_done >= 40:
            raise KeyboardInterrupt

    engine = {"part_size": 5, "batch_size": 5, "num_streams": 2, "num_actors": 2}
    model = {"name": "stub", "stub_latency_s": 0.3}
    config = validate_config(CaptionConfig, {"model": model, "engine": engine})
    with pytest.raises(RunStopped) as caught:
        raycap.caption(photos, output, config=config, on_progress=stop)
    assert _all_ended()
    before = written(output)
    found = re.search(rf"stopped with (\d+) of {NUM_IMAGES} images", str(caught.value))
    assert found
    # A write that had begun may end after its stream was.
    assert 0 <= 5 * len(before) - int(found[1]) <= 10
    code, _, err = cli(*COMMAND)
    assert code == 0, err
    check_verified(output)
    assert told(rows_of(output)) == captions_of(photos)
    assert before.items() <= written(output).items()


@pytest.mark.slow
def test_a_model_that_fails_on_every_image_ends_all_streams_with_one_line(cli: InProcess) -> None:
    photos = cli.folder / "photos"
    photos.mkdir()
    for number in range(20):
        (photos / f"{number:02d}.png").write_bytes(magenta())
    code, _, err = cli(
        *COMMAND, "--set", "model.stub_latency_s=20", "--set", "engine.hang_timeout_s=3"
    )
    assert code == 1
    check_one_line(err, "the model fails on a plain grey image")
    assert _all_ended()


def _all_ended() -> bool:
    """Whether no process of a stream is left; killing takes a moment."""
    deadline = time.monotonic() + 30
    while (left := workers_named("StreamActor")) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not left
