"""One image among many breaks, hangs or ends the model: it becomes a row, its neighbours do not."""

import pytest

from tests.faults.drills import SETTINGS, captions_of, check_one_line, check_verified, magenta, told
from tests.support.commandline import CommandLine, rows_of, write_images

POISON = ("000033-poison.png", "000071-poison.png")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("die", "the model did not survive it: its process was ended by SIGKILL"),
        pytest.param(
            "hang", "the model did not survive it: took more than 10 s", marks=pytest.mark.slow
        ),
        pytest.param(
            "raise", "ValueError: an image is pure magenta in the middle", marks=pytest.mark.slow
        ),
        pytest.param(
            "nan",
            "FloatingPointError: the score of a caption is not a finite number",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_poison_is_found_and_costs_its_own_row_alone(
    raycap: CommandLine, fault: str, message: str
) -> None:
    photos = raycap.folder / "photos"
    write_images(photos, 100)
    for name in POISON:
        (photos / name).write_bytes(magenta())
    code, out, err = raycap(
        *("caption", "photos", "out", *SETTINGS, "--set", f"model.stub_fault={fault}"),
        *("--set", "engine.hang_timeout_s=15"),
        timeout_s=400,
    )
    assert code == 0, err
    assert "model_rejected  2" in out
    check_verified(raycap, "out")
    rows = rows_of(raycap.folder / "out")
    expected = captions_of(photos) | dict.fromkeys(POISON)
    assert told(rows) == expected
    reasons = {row["image_id"]: (row["error_code"], row["error_message"]) for row in rows}
    assert {reasons[name] for name in POISON} == {("model_rejected", message)}


@pytest.mark.slow
def test_a_model_that_hangs_at_every_image_ends_the_run_with_one_line(
    raycap: CommandLine,
) -> None:
    write_images(raycap.folder / "photos", 20)
    code, _, err = raycap(
        *("caption", "photos", "out", *SETTINGS, "--set", "model.stub_latency_s=20"),
        *("--set", "engine.hang_timeout_s=3"),
    )
    assert code == 1
    check_one_line(err, "the model does not survive a plain grey image: took more than 3 s")


@pytest.mark.slow
def test_a_run_in_which_nothing_moves_is_stopped_and_can_be_continued(
    raycap: CommandLine,
) -> None:
    write_images(raycap.folder / "photos", 40)
    stuck = ("--set", "model.stub_latency_s=60", "--set", "engine.stall_timeout_s=10")
    code, _, err = raycap("caption", "photos", "out", *SETTINGS, *stuck)
    assert code == 1
    check_one_line(err, "run the same command to continue")
    code, _, err = raycap("caption", "photos", "out", *SETTINGS)
    assert code == 0, err
    assert told(rows_of(raycap.folder / "out")) == captions_of(raycap.folder / "photos")
