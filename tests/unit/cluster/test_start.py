"""What a job's workers import from, and whether a cluster may grow."""

import sys
from pathlib import Path
from typing import Any

import pytest

import raycap
from raycap.cluster import start


def sent(job: Any) -> list[str]:
    """The folders that Ray would send to the workers, after what Ray itself adds."""
    job._py_driver_sys_path.extend([str(Path.cwd()), str(Path(sys.argv[0]).parent)])
    return list(job._get_proto_job_config().py_driver_sys_path)


def test_workers_import_neither_from_the_working_folder_nor_from_the_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "jobs" / "caption.py")])
    folders = sent(start._job_config())
    assert not [folder for folder in folders if folder.startswith(str(tmp_path))]


def test_workers_find_raycap_where_only_the_working_folder_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = Path(raycap.__file__).parents[1]
    monkeypatch.chdir(own)
    assert sent(start._job_config()) == [str(own)]


@pytest.mark.parametrize(
    ("labels", "grows"),
    [
        ([{}], False),
        ([None], False),
        ([{"ray.io/node-id": "a"}, {"ray.io/node-id": "b"}], False),
        ([{"ray.io/node-group": "head"}], True),
        ([{}, {"ray.io/node-group": "gpu-spot"}], True),
    ],
)
def test_a_cluster_grows_where_an_autoscaler_has_started_its_nodes(
    labels: list[Any], *, grows: bool
) -> None:
    nodes = [{"Alive": True, "Labels": found} for found in labels]
    assert start.can_grow(nodes) is grows
    assert not start.can_grow([{**node, "Alive": False} for node in nodes])
