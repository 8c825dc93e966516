"""`raycap doctor` as a person runs it: what is well, what is not, and what to do."""

import re
from pathlib import Path

import pytest

from raycap import diagnostics
from raycap.config import StorageConfig
from tests.conftest import S3
from tests.support.cli import InProcess
from tests.support.commandline import CommandLine, write_images


def verdicts(out: str) -> dict[str, str]:
    """Each check's verdict, by its name."""
    found = re.findall(r"^(ok|poor|failed) +([\w ]+?)  ", out, re.M)
    return {name: verdict for verdict, name in found}


@pytest.mark.usefixtures("ray_session")
def test_everything_that_a_run_needs_is_looked_at(cli: InProcess, s3: S3) -> None:
    write_images(cli.folder / "photos", 3)
    for path in (cli.folder / "photos").iterdir():
        s3.put(f"photos/{path.name}", path.read_bytes())
    named = ("--source", f"{s3.uri}/photos", "--output", f"{s3.uri}/out", "--model", "demo")
    code, out, err = cli("doctor", *named)
    assert code == 0, out + err
    found = verdicts(out)
    assert {"software", "cores", "memory", "disk", "accelerators"} <= found.keys()
    asked = ("Ray", "captioners", "source", "output", "nodes", "model")
    assert [found[name] for name in asked] == ["ok"] * 6
    assert re.search(r"1 node\(s\), of fixed size: [0-9]+ CPUs", out)
    assert re.search(r"at least 3 images; 000000.jpg: [\d,]+ bytes in \d+ ms, 32 x 24 pixels", out)
    left = s3.client.list_objects_v2(Bucket=s3.bucket)["Contents"]
    assert all(item["Key"].startswith("photos/") for item in left)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("setting", ["engine.gpus_per_actor=1", "engine.num_actors=64"])
def test_captioners_that_never_fit_are_refused_before_anything_waits(
    cli: InProcess, setting: str
) -> None:
    write_images(cli.folder / "photos", 3)
    code, out, err = cli("doctor", "--set", setting)
    assert code == 1, out + err
    assert verdicts(out)["captioners"] == "failed"
    code, _, err = cli("caption", "photos", "out", "--model", "stub", "--set", setting)
    assert code == 2
    assert "engine.num_actors" in err


@pytest.mark.usefixtures("ray_session")
def test_what_a_node_cannot_read_is_found_there(tmp_path: Path) -> None:
    # A node sees what its own machine has: here, a source that is gone when the node looks.
    write_images(tmp_path / "photos", 1)
    said = diagnostics._look_from_node(str(tmp_path / "photos" / "gone.jpg"), None, StorageConfig())
    assert said is not None
    assert "gone.jpg" in said
    check = diagnostics.check_nodes(str(tmp_path / "photos"), str(tmp_path), StorageConfig())
    assert check.verdict is diagnostics.Verdict.OK


def test_what_is_not_well_fails_with_what_to_do(raycap: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    raycap.env["RAY_ADDRESS"] = "127.0.0.1:1"
    file = tmp_path / "file"
    file.write_text("no folder")
    named = ("--source", "empty", "--output", file / "out", "--model", "./none")
    code, out, err = raycap("doctor", *named)
    assert code == 1
    found = verdicts(out)
    assert [found[name] for name in ("Ray", "source", "output", "model")] == ["failed"] * 4
    assert "RAY_ADDRESS=local" in out
    assert "Traceback" not in out + err
