"""One image among many breaks, hangs or ends the model: it becomes a row, its neighbours do not."""

import pytest

from tests.faults.drills import SETTINGS, captions_of, check_one_line, check_verified, magenta, told
from tests.support.cli import InProcess
from tests.support.commandline import rows_of, write_images

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]

POISON = ("000033-poison.png", "000071-poison.png")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("die", "the model failed on this image: its process was ended by SIGKILL"),
        ("hang", "the model failed on this image: took more than 10 s"),
        ("raise", "ValueError: an image is pure magenta in the middle"),
        ("nan", "FloatingPointError: the score of a caption is not a finite number"),
    ],
)
def test_poison_is_found_and_costs_its_own_row_alone(
    cli: InProcess, fault: str, message: str
) -> None:
    photos = cli.folder / "photos"
    write_images(photos, 100)
    poison = POISON[:1] if fault == "hang" else POISON  # a hang is waited for, at every bisection
    for name in poison:
        (photos / name).write_bytes(magenta())
    code, out, err = cli(
        *("caption", "photos", "out", *SETTINGS, "--set", f"model.stub_fault={fault}"),
        *("--set", "engine.hang_timeout_s=12", "--set", "engine.batch_size=4"),
    )
    assert code == 0, err
    assert f"model_rejected  {len(poison)}" in out
    check_verified(cli.folder / "out")
    rows = rows_of(cli.folder / "out")
    expected = captions_of(photos) | dict.fromkeys(poison)
    assert told(rows) == expected
    reasons = {row["image_id"]: (row["error_code"], row["error_message"]) for row in rows}
    assert {reasons[name] for name in poison} == {("model_rejected", message)}


def test_a_model_that_hangs_at_every_image_ends_the_run_with_one_line(
    cli: InProcess,
) -> None:
    write_images(cli.folder / "photos", 20)
    code, _, err = cli(
        *("caption", "photos", "out", *SETTINGS, "--set", "model.stub_latency_s=20"),
        *("--set", "engine.hang_timeout_s=3"),
    )
    assert code == 1
    check_one_line(err, "the model fails on a plain grey image: took more than 3 s")


def test_a_run_in_which_nothing_moves_is_stopped_and_can_be_continued(
    cli: InProcess,
) -> None:
    write_images(cli.folder / "photos", 40)
    stuck = ("--set", "model.stub_latency_s=60", "--set", "engine.stall_timeout_s=10")
    code, _, err = cli("caption", "photos", "out", *SETTINGS, *stuck)
    assert code == 1
    check_one_line(err, "run the same command to continue")
    code, _, err = cli("caption", "photos", "out", *SETTINGS)
    assert code == 0, err
    assert told(rows_of(cli.folder / "out")) == captions_of(cli.folder / "photos")
