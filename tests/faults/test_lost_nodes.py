"""A cluster whose nodes are lost midway, and one whose object store is far too small."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.drills import captions_of, check_verified, told
from tests.support.commandline import CommandLine, rows_of, write_images
from tests.support.tiny_blip import save_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

LOST_NODES = """
import sys
import ray
from ray._common.utils import reset_ray_address
from ray.cluster_utils import Cluster
import raycap
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config

photos, output, num_streams = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
reset_ray_address()  # nobody else is to attach to it
nodes = [cluster.add_node(num_cpus=3) for _ in range(2)]
ray.init(address=cluster.address, log_to_driver=False)
lost = []

def on_progress(progress):
    # One node after the other, with its captioner, its loading, and its share of all blocks.
    if len(lost) < 2 and progress.num_done >= (len(lost) + 1) * 40:
        cluster.remove_node(nodes[len(lost)], allow_graceful=False)
        lost.append(progress.num_done)
        cluster.add_node(num_cpus=3)

settings = {
    "model": {"name": "stub", "stub_latency_s": 0.5},
    "engine": {
        "part_size": 10, "batch_size": 5, "num_actors": 2, "num_streams": int(num_streams)
    },
}
config = validate_config(CaptionConfig, settings)
summary = raycap.caption(photos, output, config=config, on_progress=on_progress)
assert len(lost) == 2, lost
assert summary.num_ok == 160, summary
ray.shutdown()
cluster.shutdown()
"""

LATE_NODE = """
import sys
import ray
from ray._common.utils import reset_ray_address
from ray.cluster_utils import Cluster
import raycap
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from tests.support.commandline import workers_named

photos, output = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
reset_ray_address()  # nobody else is to attach to it
cluster.add_node(num_cpus=2)
ray.init(address=cluster.address, log_to_driver=False)
captioners = []

def on_progress(progress):
    if not captioners:
        cluster.add_node(num_cpus=2)
    captioners.append(len(workers_named("CaptionActor")))

settings = {
    "model": {"name": "stub", "stub_latency_s": 0.5},
    "engine": {"part_size": 10, "batch_size": 5, "num_actors": "1..2"},
}
config = validate_config(CaptionConfig, settings)
summary = raycap.caption(photos, output, config=config, on_progress=on_progress)
assert captioners[0] == 1 and max(captioners) == 2, captioners  # at the end one goes again
assert summary.num_ok == 800, summary
ray.shutdown()
cluster.shutdown()
"""

SMALL_STORE = """
import sys
import ray
import raycap
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config

photos, output, model = sys.argv[1:]
ray.init(
    address="local", num_cpus=4, object_store_memory=80_000_000, include_dashboard=False,
    log_to_driver=False,
)
settings = {
    "model": {"name": model},
    "generation": {"num_beams": 1, "max_new_tokens": 3, "min_new_tokens": 0},
    "engine": {"part_size": 100, "batch_size": 32, "torch_threads": 1},
}
config = validate_config(CaptionConfig, settings)
summary = raycap.caption(photos, output, config=config)
assert summary.num_ok == 500, summary
"""


def run_script(raycap: CommandLine, script: str, *arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=raycap.folder,
        env={**os.environ, **raycap.env, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("num_streams", [1, 2])
def test_nodes_are_lost_one_after_the_other_and_every_image_has_its_row(
    raycap: CommandLine, num_streams: int
) -> None:
    photos, output = raycap.folder / "photos", raycap.folder / "out"
    write_images(photos, 160)
    raycap.env.pop("RAY_ADDRESS")
    run_script(raycap, LOST_NODES, photos, output, num_streams)
    check_verified(output)
    assert told(rows_of(output)) == captions_of(photos)


def test_a_node_that_joins_midway_gets_a_captioner(raycap: CommandLine) -> None:
    photos, output = raycap.folder / "photos", raycap.folder / "out"
    write_images(photos, 800)
    raycap.env.pop("RAY_ADDRESS")
    run_script(raycap, LATE_NODE, photos, output)
    check_verified(output)
    assert told(rows_of(output)) == captions_of(photos)


def test_a_small_object_store_holds_the_stream_back_and_breaks_nothing(
    raycap: CommandLine,
) -> None:
    """Blocks of 28 MB, four times the store in all: it must hold back, or spill."""
    photos, output = raycap.folder / "photos", raycap.folder / "out"
    write_images(photos, 500)
    model = raycap.folder / "model"
    save_model(model, side_px=384)
    run_script(raycap, SMALL_STORE, photos, output, model)
    check_verified(output)
    assert len(told(rows_of(output))) == 500
