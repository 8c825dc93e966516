"""The cluster that ships is one that Ray accepts."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(CLUSTER.read_text())
    return content


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


@pytest.mark.parametrize("key", ["cluster_name", "provider", "available_node_types"])
def test_a_broken_one_is_refused(cluster: dict[str, Any], key: str) -> None:
    broken = copy.deepcopy(cluster)
    broken[key] = {"no": "such thing"}
    with pytest.raises(Exception, match=r".+"):
        validate_config(prepare_config(broken))


def test_nothing_of_it_is_open_to_the_world(cluster: dict[str, Any]) -> None:
    commands = " ".join(cluster["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in commands
    assert "0.0.0.0" not in CLUSTER.read_text()
    assert cluster["provider"]["cache_stopped_nodes"] is False


def test_only_who_has_the_token_gets_in(cluster: dict[str, Any]) -> None:
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = (command for command in cluster[name] if "ray start" in command)
        assert re.search(r"export [^;]*\bRAY_AUTH_MODE=token\b[^;]*;.* ?\S*ray start", start)
    home = f"/home/{cluster['auth']['ssh_user']}"
    assert cluster["file_mounts"][f"{home}/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod -R go= ~/.ray" in cluster["setup_commands"]


def test_an_address_in_a_list_gets_no_credentials_of_an_instance(cluster: dict[str, Any]) -> None:
    for kind in cluster["available_node_types"].values():
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


def test_workers_cannot_do_what_the_head_can(cluster: dict[str, Any]) -> None:
    kinds = cluster["available_node_types"].values()
    profiles = [kind["node_config"]["IamInstanceProfile"]["Name"] for kind in kinds]
    assert len(set(profiles)) == len(profiles)


def test_every_node_installs_what_was_tested(cluster: dict[str, Any]) -> None:
    assert any("constraints.txt" in command for command in cluster["setup_commands"])
    assert all(
        "ami-" in t["node_config"]["ImageId"] for t in cluster["available_node_types"].values()
    )
