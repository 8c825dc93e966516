"""The cluster that ships is one that Ray accepts."""

import copy
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config, with_envs

CLUSTER = Path(__file__).parents[3] / "cluster.yaml"


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


def test_no_machine_gets_a_security_group_that_is_open_to_the_world(
    cluster: dict[str, Any],
) -> None:
    # Where one is missing, Ray creates a group that admits 0.0.0.0/0 at port 22.
    for kind in cluster["available_node_types"].values():
        assert kind["node_config"]["SecurityGroupIds"] == ["sg-change-me"]
    assert "security_group" not in cluster["provider"], "would add to Ray's own rules"


def test_the_image_is_prepared_in_the_folder_that_the_cluster_uses() -> None:
    prepared = (CLUSTER.parent / "deploy/prepare-ami.sh").read_text()
    for command in (
        "test -x ~/venv/bin/python || python3.11 -m venv ~/venv",
        "~/venv/bin/pip install --constraint constraints.txt .",
    ):
        assert command in prepared
    subprocess.run(["sh", "-n", "-c", prepared], check=True)


def test_only_who_has_the_token_gets_in(cluster: dict[str, Any]) -> None:
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = (command for command in cluster[name] if "ray start" in command)
        assert re.search(r"export [^;]*\bRAY_AUTH_MODE=token\b[^;]*;.* ?\S*ray start", start)
    home = f"/home/{cluster['auth']['ssh_user']}"
    assert cluster["file_mounts"][f"{home}/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod -R go= ~/.ray" in cluster["setup_commands"]


def test_the_head_scales_by_the_rule_of_raycap(cluster: dict[str, Any]) -> None:
    (start,) = (c for c in cluster["head_start_ray_commands"] if "ray start" in c)
    commands: Any = with_envs([start], {"RAY_enable_autoscaler_v2": "1"})  # as `ray up` does
    (command,) = commands
    assert command.count("~/venv/bin/ray start") == 1
    shown = command.replace("~/venv/bin/ray start", "env #")
    done = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, check=True)
    environment = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert environment["RAY_enable_autoscaler_v2"] == "0"
    assert environment["RAY_AUTOSCALER_UTILIZATION_SCORER"] == "raycap.cluster.autoscaling.score"


def test_an_address_in_a_list_gets_no_credentials_of_an_instance(cluster: dict[str, Any]) -> None:
    for kind in cluster["available_node_types"].values():
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


def test_workers_cannot_do_what_the_head_can(cluster: dict[str, Any]) -> None:
    kinds = cluster["available_node_types"]
    profiles = {
        name: kind["node_config"]["IamInstanceProfile"]["Name"] for name, kind in kinds.items()
    }
    head = profiles.pop(cluster["head_node_type"])
    assert head not in profiles.values()


def test_workers_come_with_the_load_and_go(cluster: dict[str, Any]) -> None:
    kinds = cluster["available_node_types"]
    assert kinds.pop(cluster["head_node_type"])["resources"] == {"CPU": 0}
    assert {name: kind["min_workers"] for name, kind in kinds.items()} == {
        "gpu-spot": 0,
        "gpu-on-demand": 0,
        "cpu-spot": 0,
    }
    assert cluster["idle_timeout_minutes"] <= 15
    market = {
        name: kind["node_config"].get("InstanceMarketOptions") for name, kind in kinds.items()
    }
    spot = {"MarketType": "spot"}
    # Absent rather than null, which AWS refuses.
    assert market == {"gpu-spot": spot, "gpu-on-demand": None, "cpu-spot": spot}
    assert "InstanceMarketOptions" not in kinds["gpu-on-demand"]["node_config"]


def test_the_fallback_is_the_same_machine_at_another_price(cluster: dict[str, Any]) -> None:
    kinds = cluster["available_node_types"]
    spot = dict(kinds["gpu-spot"]["node_config"])
    del spot["InstanceMarketOptions"]
    assert kinds["gpu-on-demand"]["node_config"] == spot


def test_every_machine_has_a_disk_for_spilling_encrypted_and_is_tagged(
    cluster: dict[str, Any],
) -> None:
    for name, kind in cluster["available_node_types"].items():
        (disk,) = kind["node_config"]["BlockDeviceMappings"]
        assert disk["Ebs"]["VolumeSize"] >= (100 if name == "head" else 200)
        assert disk["Ebs"]["Encrypted"] is True
        tagged = {spec["ResourceType"] for spec in kind["node_config"]["TagSpecifications"]}
        assert tagged == {"instance", "volume"}


def test_every_node_installs_what_was_tested(cluster: dict[str, Any]) -> None:
    assert any("constraints.txt" in command for command in cluster["setup_commands"])
    assert all(
        "ami-" in t["node_config"]["ImageId"] for t in cluster["available_node_types"].values()
    )
