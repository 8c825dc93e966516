"""Endpoints that die, hang and refuse, and a driver that is killed: what is paid twice."""

import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import raycap
from raycap.captioning.verify import verify
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from tests.conftest import free_port
from tests.support.commandline import CommandLine, committed_parts, rows_of, wait_until
from tests.support.endpoint_server import (
    EndpointServer,
    Plan,
    ServerProcess,
    digest_of,
    endpoint_server,
    server_process,
)

pytestmark = pytest.mark.slow

NUM_IMAGES = 2_000
MOST_PAID = 1.01


def write_shades(folder: Path, count: int) -> dict[str, str]:
    """Write JPEGs that are sent as they are; return the name of each by its digest."""
    folder.mkdir()
    names = {}
    for number in range(count):
        pixels = np.full((32, 48, 3), 128, np.uint8)
        pixels[:8, :8], pixels[8:16, 8:16] = number % 200, number // 200 * 20
        path = folder / f"{number:05d}.jpg"
        Image.fromarray(pixels).save(path)
        names[digest_of(path.read_bytes())] = path.name
    assert len(names) == count
    return names


def kill_after(server: ServerProcess, num_answers: int) -> threading.Thread:
    """Kill a server when it has answered so often."""

    def watch() -> None:
        while server.counted("paid").total() < num_answers:
            time.sleep(0.02)
        server.kill()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.usefixtures("ray_session")
def test_of_four_servers_one_dies_one_hangs_and_one_refuses(tmp_path: Path) -> None:
    names = write_shades(tmp_path / "photos", NUM_IMAGES)
    plans = [
        Plan(latency_s=0.01),
        Plan(latency_s=0.01),
        Plan(latency_s=0.01, fault="hang", first=150),
        Plan(latency_s=0.01, fault="429", share=0.5),
    ]
    with ExitStack() as stack:
        servers = [
            stack.enter_context(server_process(free_port(), tmp_path / f"{number}.log", plan))
            for number, plan in enumerate(plans)
        ]
        killing = kill_after(servers[0], 100)
        settings = validate_config(
            CaptionConfig,
            {
                "model": {"name": "tiny", "backend": "endpoint"},
                "endpoint": {
                    "urls": [server.url for server in servers],
                    "max_in_flight": 4,
                    "timeout_s": 10.0,
                },
            },
        )
        summary = raycap.caption(tmp_path / "photos", tmp_path / "out", config=settings)
        killing.join(1)
        assert not killing.is_alive()
        asked = sum((server.counted("asked") for server in servers), Counter())
        paid = [server.counted("paid") for server in servers]
    assert (summary.num_ok, summary.num_failed) == (NUM_IMAGES, 0)
    assert verify(tmp_path / "out").is_complete
    rows = {row["image_id"]: row["caption"] for row in rows_of(tmp_path / "out")}
    assert len(rows) == NUM_IMAGES
    for digest, name in names.items():
        assert rows[name].startswith(f"image {digest} on ")
    assert set(asked) == set(names)
    # Requests that a server had begun when it was killed, or hung, count as paid too.
    assert asked.total() <= MOST_PAID * NUM_IMAGES
    # Each has answered; one that refuses half of the requests is asked little.
    assert all(one.total() for one in paid)


def is_quiet(server: EndpointServer) -> bool:
    """Whether a server gets no requests for some seconds."""
    before = len(server.asked)
    time.sleep(3)
    return len(server.asked) == before


def test_after_the_driver_is_killed_nothing_committed_is_paid_again(
    raycap: CommandLine,
) -> None:
    photos, output = raycap.folder / "photos", raycap.folder / "out"
    names = write_shades(photos, 120)
    with endpoint_server(latency_s=0.3) as (server, url):
        command = (
            *("caption", "photos", "out", "--model", "tiny", "--set", "model.backend=endpoint"),
            *("--set", f"endpoint.urls={url}", "--set", "engine.part_size=10"),
            *("--set", "endpoint.max_in_flight=4"),
        )
        process = raycap.start(*command)
        wait_until(lambda: committed_parts(output) >= 3, process)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        committed = {row["image_id"] for row in rows_of(output)}
        wait_until(lambda: is_quiet(server))  # the workers notice it later
        num_before = len(server.paid_images)
        code, _, err = raycap(*command)
        assert code == 0, err
        again = [names[digest] for digest in server.paid_images[num_before:]]
    assert len(committed) >= 30
    assert sorted(again) == sorted(set(names.values()) - committed)
    assert len(rows_of(output)) == 120
