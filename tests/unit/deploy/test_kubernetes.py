"""The manifests for Kubernetes are ones that KubeRay takes, and fit the image and cluster.yaml."""

import copy
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError
from typer.testing import CliRunner

from raycap.console import app

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
VALIDATOR = Draft202012Validator(yaml.safe_load((ROOT / "tests/kuberay_schema.yaml").read_text()))
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()

Manifest = dict[str, Any]


def documents(name: str) -> list[Manifest]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


@pytest.fixture
def cluster() -> Manifest:
    (found,) = documents("raycluster.yaml")
    return found


@pytest.fixture
def job() -> Manifest:
    (found,) = documents("rayjob.yaml")
    return found


def groups(cluster: Manifest) -> dict[str, Manifest]:
    """Pod templates by group."""
    spec = cluster["spec"]
    workers = {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    return {"head": spec["headGroupSpec"]["template"], **workers}


def containers(cluster: Manifest) -> Iterator[Manifest]:
    for template in groups(cluster).values():
        yield from template["spec"]["containers"]


@pytest.mark.parametrize(
    "name", ["raycluster.yaml", "rayjob.yaml", "service-accounts.yaml", "network-policy.yaml"]
)
def test_they_have_the_fields_that_kuberay_knows(name: str) -> None:
    for document in documents(name):
        VALIDATOR.validate(document)


def drop(*path: str | int) -> Callable[[Manifest], None]:
    def change(manifest: Manifest) -> None:
        found: Any = manifest
        for key in path[:-1]:
            found = found[key]
        del found[path[-1]]

    return change


def put(value: object, *path: str | int) -> Callable[[Manifest], None]:
    def change(manifest: Manifest) -> None:
        found: Any = manifest
        for key in path[:-1]:
            found = found[key]
        found[path[-1]] = value

    return change


HEAD = ("spec", "headGroupSpec", "template", "spec")
WORKER = ("spec", "workerGroupSpecs", 0)


@pytest.mark.parametrize(
    "change",
    [
        put("ray.io/v1alpha1", "apiVersion"),
        drop("spec", "authOptions"),
        put({"mode": "disabled"}, "spec", "authOptions"),
        put(600, "spec", "autoscalerOptions", "idleTimeoutSecond"),
        put("2.60", "spec", "rayVersion"),
        put(0, "spec", "headGroupSpec", "rayStartParams", "num-cpus"),  # must be a string
        drop(*HEAD, "securityContext"),
        drop(*HEAD[:-1], "metadata", "labels"),
        put(0, *HEAD, "securityContext", "runAsUser"),
        put("latest", *HEAD, "containers", 0, "image"),
        put(True, *HEAD, "containers", 0, "securityContext", "allowPrivilegeEscalation"),
        put("-1", *WORKER, "minReplicas"),
        drop(*WORKER, "maxReplicas"),
        put({}, *WORKER, "template", "spec", "containers", 0, "resources"),
        put("8 GB", *WORKER, "template", "spec", "volumes", 0, "emptyDir", "sizeLimit"),
        put("OnFailure", *WORKER, "template", "spec", "restartPolicy"),
    ],
)
def test_a_broken_one_is_refused(cluster: Manifest, change: Callable[[Manifest], None]) -> None:
    broken = copy.deepcopy(cluster)
    change(broken)
    with pytest.raises(ValidationError):
        VALIDATOR.validate(broken)


def test_a_job_has_the_cluster_that_stands_alone(cluster: Manifest, job: Manifest) -> None:
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]


def test_the_job_calls_what_the_image_holds_with_settings_that_there_are(job: Manifest) -> None:
    python, script, source, output, *options = shlex.split(job["spec"]["entrypoint"])
    assert python == "python"
    assert source.startswith("s3://")
    assert output.startswith("s3://")
    work_folder = re.search(r"^WORKDIR (\S+)", DOCKERFILE, re.M)
    assert work_folder
    files = [script, options[options.index("--config") + 1]]
    for file in files:
        name = Path(file).relative_to(work_folder[1])
        assert (ROOT / name).is_file()
        assert f"COPY {name.parts[0]} {name.parts[0]}" in DOCKERFILE
    settings = [word for word in options if "=" in word]
    assert "engine.gpus_per_actor=1" in settings, "from no GPU at all, an actor must ask for one"
    assert "engine.num_actors=1..8" in settings


def test_no_failure_of_the_job_builds_another_cluster(job: Manifest) -> None:
    # KubeRay retries any exit code, and most failures fail again: a wrong setting, failed images.
    assert job["spec"]["backoffLimit"] == 0


def test_the_submitter_is_as_restricted_as_the_cluster(job: Manifest, cluster: Manifest) -> None:
    template = job["spec"]["submitterPodTemplate"]
    head = groups(cluster)["head"]
    assert template["spec"]["securityContext"] == head["spec"]["securityContext"]
    (submitter,), (container,) = template["spec"]["containers"], head["spec"]["containers"]
    assert submitter["securityContext"] == container["securityContext"]
    assert submitter["image"] == container["image"]
    assert template["spec"]["automountServiceAccountToken"] is False


def test_nothing_moves_the_head_or_the_submitter_to_save_a_node(
    job: Manifest, cluster: Manifest
) -> None:
    templates = {**groups(cluster), "submitter": job["spec"]["submitterPodTemplate"]}
    kept = {
        name
        for name, template in templates.items()
        if template["metadata"]["annotations"].get("karpenter.sh/do-not-disrupt") == "true"
        and template["metadata"]["annotations"].get(
            "cluster-autoscaler.kubernetes.io/safe-to-evict"
        )
        == "false"
    }
    assert kept == {"head", "submitter"}


def test_only_the_cluster_the_operator_and_prometheus_connect(
    job: Manifest, cluster: Manifest
) -> None:
    (policy,) = documents("network-policy.yaml")
    ours = policy["spec"]["podSelector"]["matchLabels"].items()
    templates = [*groups(cluster).values(), job["spec"]["submitterPodTemplate"]]
    assert all(ours <= template["metadata"]["labels"].items() for template in templates)
    inside, *outside = policy["spec"]["ingress"]
    assert inside["from"] == [{"podSelector": policy["spec"]["podSelector"]}]
    opened = {}
    for rule in outside:
        (peer,) = rule["from"]
        name = peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
        assert peer["namespaceSelector"]["matchLabels"], "a pod of any namespace can take a label"
        opened[name] = [port["port"] for port in rule["ports"]]
    assert opened == {"kuberay-operator": [8265], "prometheus": [8080]}


def test_the_settings_of_the_job_are_valid(job: Manifest, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"no image, and not read")
    options = shlex.split(job["spec"]["entrypoint"])[4:]
    at = options.index("--config") + 1
    options[at] = str(ROOT / Path(options[at]).relative_to("/opt/raycap"))
    arguments = ["caption", str(tmp_path / "photos"), str(tmp_path / "out"), *options, "--dry-run"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output


def test_the_image_is_this_version_with_the_ray_that_was_tested(cluster: Manifest) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert {container["image"].rpartition(":")[2] for container in containers(cluster)} == {version}
    assert f"ray=={cluster['spec']['rayVersion']}" in pins


def test_every_pod_runs_as_the_user_of_the_image(cluster: Manifest) -> None:
    user = re.search(r"^USER (\d+):(\d+)$", DOCKERFILE, re.M)
    assert user
    assert f"--uid {user[1]} " in DOCKERFILE
    for template in groups(cluster).values():
        security = template["spec"]["securityContext"]
        assert (security["runAsUser"], security["runAsGroup"]) == (int(user[1]), int(user[2]))
        assert security["fsGroup"] == int(user[2]), "or it could not write to its volumes"


def test_the_groups_are_those_of_the_cluster_on_aws(cluster: Manifest) -> None:
    aws = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    kinds = aws["available_node_types"]
    workers = {group["groupName"]: group for group in cluster["spec"]["workerGroupSpecs"]}
    assert cluster["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert kinds["head"]["resources"]["CPU"] == 0
    for group, kind in (("gpu", "gpu-spot"), ("cpu", "cpu-spot")):
        assert workers[group]["minReplicas"] == kinds[kind]["min_workers"] == 0
        assert workers[group]["replicas"] == 0
        assert workers[group]["maxReplicas"] == kinds[kind]["max_workers"]
    idle_s = cluster["spec"]["autoscalerOptions"]["idleTimeoutSeconds"]
    assert idle_s == 60 * aws["idle_timeout_minutes"]
    assert cluster["spec"]["enableInTreeAutoscaling"] is True


def test_gpus_are_where_they_should_be_and_reserved_whole(cluster: Manifest) -> None:
    found = {}
    for name, template in groups(cluster).items():
        (container,) = template["spec"]["containers"]
        resources = container["resources"]
        assert resources["requests"] == resources["limits"], "Ray counts limits; a pod is evicted"
        found[name] = resources["limits"].get("nvidia.com/gpu", "0")
    assert found == {"head": "0", "gpu": "1", "cpu": "0"}


def test_workers_bear_spot_and_the_head_does_not(cluster: Manifest) -> None:
    for name, template in groups(cluster).items():
        keys = {toleration["key"] for toleration in template["spec"].get("tolerations", [])}
        spot = {"karpenter.sh/capacity-type", "cloud.google.com/gke-spot"}
        assert (spot <= keys) == (name != "head")


def test_the_object_store_has_memory_and_spilling_a_disk(cluster: Manifest) -> None:
    for name, template in groups(cluster).items():
        (container,) = template["spec"]["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume["emptyDir"] for volume in template["spec"]["volumes"]}
        assert volumes[mounts["/dev/shm"]]["medium"] == "Memory"  # noqa: S108  of a pod
        if name != "head":
            assert "medium" not in volumes[mounts["/tmp/ray"]]  # noqa: S108  of a pod


def test_metrics_are_scraped_where_they_are(cluster: Manifest) -> None:
    for template in groups(cluster).values():
        marks = template["metadata"]["annotations"]
        (container,) = template["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert marks["prometheus.io/scrape"] == "true"
        assert marks["prometheus.io/port"] == str(ports["metrics"])
        # KubeRay's own, unless rayStartParams has metrics-export-port.
        assert ports["metrics"] == 8080


def test_nothing_of_it_is_open_to_the_world(cluster: Manifest) -> None:
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    assert cluster["spec"]["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_workers_cannot_do_what_the_head_can(cluster: Manifest) -> None:
    accounts = {document["metadata"]["name"] for document in documents("service-accounts.yaml")}
    named = {name: group["spec"] for name, group in groups(cluster).items()}
    assert {spec["serviceAccountName"] for spec in named.values()} == accounts
    for name, spec in named.items():
        is_head = name == "head"
        assert (spec["serviceAccountName"] == "raycap-head") == is_head
        assert spec.get("automountServiceAccountToken", True) == is_head


def test_the_container_is_run_with_gpus_a_kept_cache_and_any_user() -> None:
    command = " ".join(re.findall(r"^#   (?:  )?(.*?)\\?$", DOCKERFILE, re.M))
    run = command[command.index("docker run") :]
    assert "--gpus all" in run
    assert '--user "$(id -u):$(id -g)"' in run
    cache = re.search(r"-v raycap-cache:(\S+)", run)
    assert cache
    # A new volume takes the mode of the folder in the image.
    assert re.search(rf"chmod 1777 .*{cache[1]}\b", DOCKERFILE)
    home = re.search(r"\bHOME=(\S+)", DOCKERFILE)
    assert home
    assert cache[1] == f"{home[1]}/.cache"
