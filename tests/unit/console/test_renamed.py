"""Old spellings do what the present ones do, with a line on standard error."""

import pytest

from raycap.console.renamed import RENAMED, rewritten
from tests.support.cli import InProcess


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [
        ("train", ["set", "run", "--model", "blip"], ["set", "run", "--kind", "blip"]),
        ("train", ["--model=blip", "set", "run"], ["--kind", "blip", "set", "run"]),
        ("tune", ["set", "-m", "hybrid", "run"], ["set", "--kind", "hybrid", "run"]),
        ("tune", ["set", "-mhybrid", "run"], ["set", "--kind", "hybrid", "run"]),
        ("calibrate", ["demo", "set", "--output", "to"], ["demo", "set", "to"]),
        ("calibrate", ["--output=to", "demo", "set"], ["demo", "set", "to"]),
        ("calibrate", ["-o", "to", "-s", "a=1", "demo", "set"], ["-s", "a=1", "demo", "set", "to"]),
        ("demo", ["-oto"], ["to"]),
        ("train", ["set", "--", "--model"], ["set", "--", "--model"]),
        ("export", ["o", "--force", "d"], ["o", "--existing=overwrite", "d"]),
        ("export", ["o", "d", "--keep-existing"], ["o", "d", "--existing=skip"]),
        ("train", ["set", "run", "--model"], ["set", "run", "--kind"]),
    ],
)
def test_an_old_spelling_becomes_the_present_one(
    command: str, old: list[str], new: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert rewritten(command, old) == new
    assert capsys.readouterr().err.count("deprecated: ") == (old != new)


def test_present_spellings_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["photos", "out", "--model", "demo", "-m", "stub", "--set", "a=b", "--", "-o"]
    assert rewritten("caption", words) == words
    assert capsys.readouterr().err == ""


def test_an_old_spelling_reaches_the_command(cli: InProcess) -> None:
    for command in (
        "train nowhere out --model cnn-lstm",
        "tune nowhere out --model cnn-lstm",
        "calibrate demo nowhere --output out",
    ):
        code, out, err = cli(*command.split())
        assert (code, out) == (2, "")
        deprecated, error = err.splitlines()
        assert deprecated.startswith("deprecated: ")
        assert "nowhere: " in error


def test_only_spellings_that_are_no_longer_taken_are_rewritten(cli: InProcess) -> None:
    for command, spellings in RENAMED.items():
        _, out, _ = cli(command, "--help")
        for old, new in spellings.items():
            assert f" {old} " not in out
            assert f"{new.partition('=')[0]} " in out
