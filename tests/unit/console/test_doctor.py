"""`raycap doctor --json`: one object with every check, also where some fail."""

import errno
import fcntl
import json
import os
from typing import Any

import pytest

from tests.support.cli import InProcess
from tests.support.commandline import write_images


@pytest.fixture(autouse=True)
def _no_cluster(cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name a cluster that does not answer, so that no Ray is started; write a source."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    write_images(cli.folder / "photos", 1)


def checks_of(found: str) -> dict[str, dict[str, Any]]:
    """Each check, by its name."""
    told = json.loads(found)
    assert set(told) == {"is_ok", "checks"}
    failed = [check["name"] for check in told["checks"] if check["verdict"] == "failed"]
    assert told["is_ok"] is not bool(failed)
    assert all(set(check) == {"name", "verdict", "found", "remedy"} for check in told["checks"])
    return {check["name"]: check for check in told["checks"]}


def test_every_check_is_in_one_object(cli: InProcess) -> None:
    code, out, err = cli("doctor", "--json", "--source", "photos", "--output", "out")
    assert err.count("error:") == 0
    found = checks_of(out)
    assert code == (0 if json.loads(out)["is_ok"] else 1)
    assert {"software", "cores", "memory", "disk", "accelerators"} <= found.keys()
    verdicts = {name: found[name]["verdict"] for name in ("source", "output")}
    assert verdicts == {"source": "ok", "output": "ok"}
    assert "Ray" in found
    assert not list((cli.folder / "out").iterdir())


def test_an_output_on_a_file_system_without_locks_fails(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)
    code, out, _ = cli("doctor", "--json", "--output", "out")
    assert code == 1
    found = checks_of(out)["output"]
    assert found["verdict"] == "failed"
    assert str(cli.folder / "out") in found["found"]
    assert not list((cli.folder / "out").iterdir())
