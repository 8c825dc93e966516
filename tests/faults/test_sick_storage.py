"""A bucket that throttles, breaks, stalls, refuses, loses and changes its objects under a run."""

import re
import time
from collections import defaultdict
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.conftest import S3
from tests.faults.drills import (
    SETTINGS,
    caption_of,
    captions_of,
    check_one_line,
    check_verified,
    told,
)
from tests.support.cli import InProcess
from tests.support.commandline import CommandLine, write_images
from tests.support.faulty_http import (
    Fault,
    FaultyServer,
    Handler,
    Reply,
    TrueReply,
    refused,
    reset,
    stalled,
    stalled_midway,
    truncated,
    truthful,
)

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]

NUM_IMAGES = 60
PATIENT = ("--set", "storage.timeout_s=2", "--set", "storage.num_retries=4")
IMAGE = re.compile(r"/photos/(\d{6}\.jpg)")


def image_of(handler: Handler) -> str | None:
    """The image that a request reads."""
    match = IMAGE.search(handler.path)
    return match[1] if match and handler.command == "GET" else None


@pytest.fixture
def sick(s3: S3, sick_s3: FaultyServer, tmp_path: Path) -> FaultyServer:
    """Give the server through which the command and its workers reach a bucket of images."""
    write_images(tmp_path / "photos", NUM_IMAGES)
    for path in (tmp_path / "photos").iterdir():
        s3.put(f"photos/{path.name}", path.read_bytes())
    return sick_s3


def rows_in(s3: S3) -> list[dict[str, Any]]:
    """All rows of the output, in part order."""
    rows: list[dict[str, Any]] = []
    for item in s3.client.list_objects_v2(Bucket=s3.bucket, Prefix="out/captions/")["Contents"]:
        body = s3.client.get_object(Bucket=s3.bucket, Key=item["Key"])["Body"].read()
        rows += pq.read_table(BytesIO(body)).to_pylist()
    return rows


def run(cli: InProcess, s3: S3, *more: str) -> tuple[int, str, str]:
    """Caption the bucket's images into the bucket."""
    addresses = (f"{s3.uri}/photos", f"{s3.uri}/out")
    return cli("caption", *addresses, *SETTINGS, *PATIENT, *more)


def wrong_length(handler: Handler, reply: TrueReply) -> None:
    """Promise more than there is."""
    found = reply()
    handler.send(Reply(status=found.status, body=found.body, headers={"Content-Length": "99999"}))
    handler.hang_up()


def test_faults_that_pass_cost_nothing(
    cli: InProcess, s3: S3, sick: FaultyServer, tmp_path: Path
) -> None:
    kinds = [
        *(refused(503, "SlowDown"), refused(500, "InternalError"), reset, truncated),
        *(wrong_length, stalled, stalled_midway),
    ]
    attempts: dict[str, int] = defaultdict(int)

    def rule(handler: Handler) -> Fault:
        """Let every second image fail once, a third of them twice, and each write of a part."""
        name = image_of(handler)
        key = name or handler.path
        attempts[key] += 1
        if name is None:
            is_part = handler.command == "PUT" and "part-" in handler.path
            return refused(503, "SlowDown") if is_part and attempts[key] == 1 else truthful
        number = int(name[:6])
        num_faults = 2 if number % 3 == 0 else 1 if number % 2 == 0 else 0
        return kinds[number % len(kinds)] if attempts[key] <= num_faults else truthful

    sick.rule = rule
    code, out, err = run(cli, s3)
    assert code == 0, err
    assert "failed      0" in out
    check_verified(f"{s3.uri}/out")
    assert told(rows_in(s3)) == captions_of(tmp_path / "photos")
    assert sum(attempts.values()) > NUM_IMAGES + 30


def test_what_fails_for_good_or_for_long_are_rows_and_the_latter_are_mended(
    cli: InProcess, s3: S3, sick: FaultyServer, tmp_path: Path
) -> None:
    gone = {"000007.jpg"}
    busy = {"000020.jpg": refused(503, "SlowDown"), "000041.jpg": stalled, "000042.jpg": reset}

    def rule(handler: Handler) -> Fault:
        name = image_of(handler)
        if name in gone:  # after it was listed
            s3.client.delete_object(Bucket=s3.bucket, Key=f"photos/{name}")
        return busy.get(name or "", truthful)

    sick.rule = rule
    hasty = ("--set", "storage.num_retries=1")
    code, _, err = run(cli, s3, *hasty)
    assert code == 0, err
    expected = captions_of(tmp_path / "photos")
    rows = rows_in(s3)
    codes = {row["image_id"]: row["error_code"] for row in rows if row["status"] == "failed"}
    assert codes == {
        "000007.jpg": "not_found",
        "000020.jpg": "throttled",
        "000041.jpg": "timeout",
        "000042.jpg": "network",
    }
    assert told(rows) == expected | dict.fromkeys(codes)

    sick.rule = lambda _: truthful
    code, out, err = run(cli, s3, *hasty, "--retry-failed")
    assert code == 0, err
    assert re.search(r"failed +1 ", out)
    assert re.search(r"gone from source +1 ", out)
    check_verified(f"{s3.uri}/out")
    assert told(rows_in(s3)) == expected | dict.fromkeys(gone)


def test_a_refusal_midway_stops_with_what_to_do_and_the_same_command_continues(
    cli: InProcess,
    s3: S3,
    sick: FaultyServer,
    tmp_path: Path,
) -> None:
    started = time.monotonic()

    def rule(handler: Handler) -> Fault:
        """Refuse from the first committed part on."""
        is_part = handler.command == "PUT" and "/out/captions/part-" in handler.path
        if is_part and sick.rule is rule:
            sick.rule = lambda _: refused(403, "ExpiredToken")
        return truthful

    sick.rule = rule
    exit_code, _, err = run(cli, s3)
    assert exit_code == 1
    check_one_line(err, "token has expired")
    assert time.monotonic() - started < 120
    sick.rule = lambda _: truthful
    before = {row["image_id"] for row in rows_in(s3)}
    assert 10 <= len(before) < NUM_IMAGES
    exit_code, _, err = run(cli, s3)
    assert exit_code == 0, err
    check_verified(f"{s3.uri}/out")
    assert told(rows_in(s3)) == captions_of(tmp_path / "photos")


def test_parts_that_cannot_be_written_stop_the_run_and_none_is_half_there(
    cli: InProcess, s3: S3, sick: FaultyServer, tmp_path: Path
) -> None:
    def rule(handler: Handler) -> Fault:
        is_third = handler.command == "PUT" and "/out/captions/part-000002" in handler.path
        return refused(500, "InternalError") if is_third else truthful

    sick.rule = rule
    code, _, err = run(cli, s3, "--set", "storage.num_retries=1")
    assert code == 1
    check_one_line(err, "part-000002.parquet: server error 500")
    assert len(rows_in(s3)) % 10 == 0
    sick.rule = lambda _: truthful
    code, _, err = run(cli, s3)
    assert code == 0, err
    check_verified(f"{s3.uri}/out")
    assert told(rows_in(s3)) == captions_of(tmp_path / "photos")


def test_an_image_that_changes_between_listing_and_reading_is_captioned_as_it_is_in_the_end(
    cli: InProcess, s3: S3, sick: FaultyServer, tmp_path: Path
) -> None:
    write_images(tmp_path / "others", 1, start=900)
    new = (tmp_path / "others" / "000900.jpg").read_bytes()
    changed = "000031.jpg"

    def rule(handler: Handler) -> Fault:
        if image_of(handler) == changed:
            s3.put(f"photos/{changed}", new)
        return truthful

    sick.rule = rule
    code, _, err = run(cli, s3)
    assert code == 0, err
    sick.rule = lambda _: truthful
    code, out, err = run(cli, s3)
    assert code == 0, err
    assert "1 images in" in out
    expected = captions_of(tmp_path / "photos") | {changed: caption_of(new)}
    assert told(rows_in(s3)) == expected
    check_verified(f"{s3.uri}/out")


def test_of_two_runs_that_start_together_one_writes_and_the_other_is_refused(
    raycap: CommandLine, s3: S3, sick: FaultyServer, tmp_path: Path
) -> None:
    addresses = (f"{s3.uri}/photos", f"{s3.uri}/out")
    slow = ("--set", "model.stub_latency_s=0.5")
    raycap.env |= s3.env | {"AWS_ENDPOINT_URL": sick.url}
    both = [raycap.start("caption", *addresses, *SETTINGS, *slow) for _ in range(2)]
    ended = [(process.communicate(timeout=240)[1], process.returncode) for process in both]
    (refusal,) = [err for err, code in ended if code == 1]
    assert sorted(code for _, code in ended) == [0, 1]
    check_one_line(refusal, "another run is writing here")
    check_verified(f"{s3.uri}/out")
    assert told(rows_in(s3)) == captions_of(tmp_path / "photos")
    assert sick.requests
