"""`raycap evaluate` as it is installed: a table to read, files, and mistakes in one line."""

import json

import pytest

from tests.support.commandline import CommandLine, write_images
from tests.support.evaluation_samples import (
    scores_of,
    write_captions,
    write_corpus,
    write_references,
)

QUICK = ("--set", "external.meteor=false", "--set", "bootstrap.num_resamples=20")


def test_captions_of_a_run_are_compared_with_references_and_another_system(
    raycap: CommandLine,
) -> None:
    folder = raycap.folder
    write_images(folder / "photos", 6)
    code, _, err = raycap("caption", "photos", "captions", "--model", "stub")
    assert code == 0, err
    write = {"file_name": "000000.jpg", "captions": ["a picture of something", "it is noise"]}
    rows = [write | {"file_name": f"{number:06d}.jpg"} for number in range(6)]
    (folder / "refs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = [{"image_id": f"{number:06d}", "caption": "a picture of noise"} for number in range(6)]
    (folder / "other.json").write_text(json.dumps(said))
    arguments = ("stub=captions", "other.json", "refs.jsonl", "--output", "evaluation", *QUICK)
    code, out, err = raycap("evaluate", *arguments)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].split() == ["stub", "other"]
    for label in ("images", "BLEU-4", "CIDEr-D", "length gap", "vocabulary", "mean logprob"):
        assert any(line.startswith(label) for line in lines)
    assert any(line.startswith("stub - other") for line in lines)
    assert "METEOR: external.meteor is off" in out
    assert max(map(len, lines)) <= 120
    found = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    assert [system["matched_by"] for system in found["systems"]] == ["image_id", "stem"]
    assert [len(scores_of(folder / "evaluation", number)) for number in (0, 1)] == [6, 6]


def test_an_evaluation_spread_over_ray_prints_the_same_table(raycap: CommandLine) -> None:
    systems, references = write_corpus(raycap.folder, 30)
    tables = []
    for setting in ("spread_images=50000", "spread_images=0"):
        code, out, err = raycap("evaluate", *systems, references, *QUICK, "--set", setting)
        assert code == 0, err
        tables.append(out)
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("few.jsonl", "refs.jsonl"), 1, "few lacks captions of images: 2 without a row (00001"),
        (("few.jsonl", "nowhere"), 2, "nowhere: no such file or folder"),
        (("gone.jsonl", "refs.jsonl"), 1, "gone.jsonl: no such file"),
        (("photos", "refs.jsonl"), 1, "is not an output of raycap"),
        (("bad.jsonl", "refs.jsonl"), 1, "row 1 has no 'caption'"),
        (("few.jsonl", "refs.jsonl", "--missing", "never"), 2, "'never' is not one of"),
        (
            ("few.jsonl", "refs.jsonl", "--split", "test"),
            1,
            "no image with a caption in split test",
        ),
        (("few.jsonl",), 2, "Missing argument"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_exit_code(
    raycap: CommandLine, arguments: tuple[str, ...], code: int, message: str
) -> None:
    folder = raycap.folder
    (folder / "photos").mkdir()
    (folder / "bad.jsonl").write_text('{"image_id": 1}')
    write_captions(folder / "few.jsonl", ["a cat"])
    write_references(folder / "refs.jsonl", [["a cat"], ["a dog"], ["two men"]])
    got, out, err = raycap("evaluate", *arguments, "--output", "evaluation")
    assert got == code
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in out + err
    assert not (folder / "evaluation").exists()


def test_missing_captions_may_be_left_out(raycap: CommandLine) -> None:
    captions = write_captions(raycap.folder / "few.jsonl", ["a cat", "a dog", None])
    written = [["a cat"], ["a dog"], ["a man"], ["two men"]]
    references = write_references(raycap.folder / "refs.jsonl", written)
    code, out, err = raycap("evaluate", captions, references, "--missing", "drop", *QUICK)
    assert code == 0, err
    told = " ".join(out.split())
    assert "images 2 " in told
    assert "failed, missing 1, 1" in told
    assert "without a row few: 1 (00003.jpg)" in told
