"""The README's commands do what it says: in this process, on the Ray that tests share."""

import re

import pytest

from tests.conftest import S3, MakeJpeg
from tests.support.cli import InProcess
from tests.support.commandline import rows_of
from tests.support.documents import (
    CONFIGS,
    IN_DOCS,
    README,
    is_run,
    readme_commands,
    run,
    undescribed_files,
    write_examples,
)

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.mark.timeout(900)
def test_the_commands_on_a_folder_run_in_order(
    cli: InProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    write_examples(cli.folder)
    for command in readme_commands():
        if is_run(command) and not command.startswith(IN_DOCS) and "s3://" not in command:
            run(cli, command)
    assert len((cli.folder / "captions.jsonl").read_text().splitlines()) == 24
    assert "</html>" in (cli.folder / "report.html").read_text()
    assert {row["model"] for row in rows_of(cli.folder / "tuned")} == {"run/model"}
    for command, output in {
        "caption": "captions",
        "prepare": "dataset",
        "train": "run",
        "evaluate": "evaluation",
    }.items():
        found = undescribed_files(cli.folder / output, f"## What `raycap {command}` writes")
        assert found == [], command
    # The Python example is the first command once more: no image is captioned again.
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    before = (cli.folder / "captions/summary.json").read_bytes()
    capsys.readouterr()
    exec(block, {})  # noqa: S102  the project's own documentation
    assert capsys.readouterr().out.strip() == "24 {}"
    assert (cli.folder / "captions/summary.json").read_bytes() == before


@pytest.mark.slow
def test_the_commands_on_a_bucket_run_with_a_model_that_needs_no_download(
    cli: InProcess, s3: S3, make_jpeg: MakeJpeg
) -> None:
    s3.put("photos/a.jpg", make_jpeg())
    (cli.folder / "configs").symlink_to(CONFIGS)
    for command in readme_commands():
        if re.match(r"raycap .*s3:", command):
            run(cli, command.replace("s3://my-bucket", s3.uri))
    assert s3.client.head_object(Bucket=s3.bucket, Key="captions/summary.json")
