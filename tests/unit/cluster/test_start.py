"""What a job's workers import from, whether a cluster may grow, and a refused token."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import AuthenticationError

import raycap
from raycap.cluster import start
from raycap.errors import ConfigError


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


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give the address of a head that answers, which RAY_ADDRESS names; nothing is sent to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", found)
        yield found


class _Token:
    """What Ray's loader of tokens says."""

    def __init__(self, *, is_there: bool) -> None:
        self._is_there = is_there

    def has_token(self, *, ignore_auth_mode: bool) -> bool:
        assert ignore_auth_mode
        return self._is_there


def use_token(monkeypatch: pytest.MonkeyPatch, *, is_there: bool, mode: str | None) -> None:
    loader = SimpleNamespace(instance=lambda: _Token(is_there=is_there))
    monkeypatch.setattr(start, "AuthenticationTokenLoader", loader)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)


def refuse(*_: object, **__: object) -> None:
    raise AuthenticationError("Unauthenticated")


def raise_assertion(*_: object, **__: object) -> None:
    raise AssertionError("Ray would end this process, or try for long")


def refusal(address: str) -> str:
    with pytest.raises(ConfigError) as caught:
        start._connect(address, {})
    return str(caught.value)


def check_refusal(told: str, address: str) -> None:
    assert all(name in told for name in (address, "~/.ray/auth_token", "RAY_AUTH_MODE"))
    assert "\n" not in told


@pytest.mark.parametrize("error", [AuthenticationError("x"), RuntimeError("Unauthenticated: x")])
def test_a_refused_token_is_told_before_ray_tries(
    address: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def client(**_: object) -> None:
        raise error

    use_token(monkeypatch, is_there=True, mode="token")
    monkeypatch.setattr(start, "GcsClient", client)
    monkeypatch.setattr("ray.init", raise_assertion)
    check_refusal(refusal(address), address)


def test_a_token_that_ray_itself_finds_refused_is_told(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_token(monkeypatch, is_there=True, mode="token")
    monkeypatch.setattr(start, "GcsClient", lambda **_: None)
    monkeypatch.setattr("ray.init", refuse)
    check_refusal(refusal(address), address)
    monkeypatch.delenv("RAY_ADDRESS")  # as after `ray start`: Ray alone decides
    check_refusal(refusal(address), address)


@pytest.mark.parametrize("mode", ["token", "TOKEN", None])
def test_a_missing_token_is_told_where_the_cluster_asks_for_one(
    address: str, monkeypatch: pytest.MonkeyPatch, mode: str | None
) -> None:
    use_token(monkeypatch, is_there=False, mode=mode)
    # With the mode and no token, Ray's client would end this process.
    monkeypatch.setattr(start, "GcsClient", raise_assertion if mode else refuse)
    monkeypatch.setattr("ray.init", raise_assertion)
    check_refusal(refusal(address), address)


def test_another_error_of_a_cluster_that_admits_the_token_is_no_refusal(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("the version\nof Ray differs")

    use_token(monkeypatch, is_there=True, mode="token")
    monkeypatch.setattr(start, "GcsClient", lambda **_: None)
    monkeypatch.setattr("ray.init", fail)
    told = refusal(address)
    assert "the version of Ray differs" in told
    assert "auth_token" not in told
