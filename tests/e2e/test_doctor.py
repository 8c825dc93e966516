"""`raycap doctor` as a person runs it: what is well, what is not, and what to do."""

import re
from pathlib import Path

from tests.conftest import S3
from tests.support.commandline import CommandLine, write_images


def verdicts(out: str) -> dict[str, str]:
    """Each check's verdict, by its name."""
    found = re.findall(r"^(ok|poor|failed) +([\w ]+?)  ", out, re.M)
    return {name: verdict for verdict, name in found}


def test_everything_that_a_run_needs_is_looked_at(raycap: CommandLine, s3: S3) -> None:
    write_images(raycap.folder / "photos", 3)
    for path in (raycap.folder / "photos").iterdir():
        s3.put(f"photos/{path.name}", path.read_bytes())
    raycap.env |= s3.env
    named = ("--source", f"{s3.uri}/photos", "--output", f"{s3.uri}/out", "--model", "demo")
    code, out, err = raycap("doctor", *named)
    assert code == 0, out + err
    found = verdicts(out)
    assert {"software", "cores", "memory", "disk", "accelerators"} <= found.keys()
    assert [found[name] for name in ("Ray", "source", "output", "model")] == ["ok"] * 4
    assert re.search(r"a local Ray, started for this: 1 node\(s\), [0-9]+ CPUs", out)
    assert re.search(r"3 images or more; 000000.jpg: [\d,]+ bytes in \d+ ms, 32 x 24 pixels", out)
    assert "Traceback" not in err
    left = s3.client.list_objects_v2(Bucket=s3.bucket)["Contents"]
    assert all(item["Key"].startswith("photos/") for item in left)


def test_what_is_not_well_is_told_with_what_to_do(raycap: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    raycap.env["RAY_ADDRESS"] = "127.0.0.1:1"
    file = tmp_path / "file"
    file.write_text("no folder")
    named = ("--source", "empty", "--output", file / "out", "--model", "./none")
    code, out, err = raycap("doctor", *named)
    assert code == 1
    found = verdicts(out)
    assert [found[name] for name in ("Ray", "source", "output", "model")] == ["failed"] * 4
    for message in (
        "set RAY_ADDRESS=local",
        "files count as images by their suffix",
        "./none: no such folder",
    ):
        assert message in out
    assert "Traceback" not in out + err
