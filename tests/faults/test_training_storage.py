"""Training into a bucket that refuses midway: no half checkpoint, and the same command goes on."""

import json
import logging
from typing import Any

import pytest

from tests.conftest import S3
from tests.faults.drills import check_one_line
from tests.support.cli import InProcess
from tests.support.faulty_http import Fault, FaultyServer, Handler, refused, truthful
from tests.support.tiny_dataset import write_dataset

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]

SETTINGS = (
    *("--kind", "blip", "--init", "demo"),
    *("--set", "train.lr=1e-3", "--set", "train.batch_size=4", "--set", "train.num_epochs=2"),
    *("--set", "train.checkpoint_every_s=0.1", "--set", "generation.num_beams=1"),
    *("--set", "engine.torch_threads=1", "--set", "storage.num_retries=1"),
)


def losses(s3: S3, run: str) -> list[Any]:
    body = s3.client.get_object(Bucket=s3.bucket, Key=f"{run}/history.jsonl")["Body"].read()
    lines = map(json.loads, body.decode().splitlines())
    return [[line[n] for n in ("train_loss", "validation_loss")] for line in lines]


def keys_under(s3: S3, prefix: str) -> list[str]:
    listed = s3.client.list_objects_v2(Bucket=s3.bucket, Prefix=prefix).get("Contents", [])
    return [item["Key"] for item in listed]


def test_checkpoints_that_cannot_be_written_stop_the_run_and_it_goes_on_from_the_last(
    cli: InProcess, s3: S3, sick_s3: FaultyServer, caplog: pytest.LogCaptureFixture
) -> None:
    write_dataset(str(cli.folder / "set"), "train:60", "validation:8")

    def rule(_: Handler) -> Fault:
        """Refuse all that is written, once the third checkpoint stands."""
        keys = keys_under(s3, "run/checkpoints/step-")
        records = [key for key in keys if key.endswith(".json")]
        if any(int(key.split("step-")[1][:8]) >= 3 for key in records):
            sick_s3.rule = lambda h: refused(500) if h.command == "PUT" else truthful
        return truthful

    sick_s3.rule = rule
    code, _, err = cli("train", "set", f"{s3.uri}/run", *SETTINGS)
    assert code == 1
    check_one_line(err, "server error 500")
    sick_s3.rule = lambda _: truthful
    caplog.set_level(logging.INFO)
    code, _, err = cli("train", "set", f"{s3.uri}/run", *SETTINGS)
    assert code == 0, err
    assert "resumed epoch=" in caplog.text
    code, _, err = cli("train", "set", f"{s3.uri}/whole", *SETTINGS)
    assert code == 0, err
    assert losses(s3, "run") == losses(s3, "whole")
