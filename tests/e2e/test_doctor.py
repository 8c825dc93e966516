"""`raycap doctor` as a person runs it: what is well, what is not, and what to do."""

import re
from pathlib import Path

import pytest

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
    assert [found[name] for name in ("Ray", "source", "output", "model")] == ["ok"] * 4
    assert re.search(r"1 node\(s\), [0-9]+ CPUs", out)
    assert re.search(r"at least 3 images; 000000.jpg: [\d,]+ bytes in \d+ ms, 32 x 24 pixels", out)
    left = s3.client.list_objects_v2(Bucket=s3.bucket)["Contents"]
    assert all(item["Key"].startswith("photos/") for item in left)


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
