"""`raycap evaluate` as a person runs it: a table to read, and files."""

import json

from raycap.config import StorageConfig
from raycap.storage.stores import open_store
from tests.support.cli import InProcess
from tests.support.evaluation_samples import scores_of, write_captions, write_references
from tests.support.outputs import row, write_output

QUICK = ("--set", "external.meteor=false", "--set", "bootstrap.num_resamples=20")


def test_captions_of_a_run_are_compared_with_references_and_another_system(cli: InProcess) -> None:
    folder = cli.folder
    names = [f"{number:06d}.jpg" for number in range(6)]
    captions = [row(name, f"a picture of {number}") for number, name in enumerate(names)]
    write_output(open_store(str(folder / "captions"), StorageConfig()), captions)
    written = [
        {"file_name": name, "captions": ["a picture of something", f"it is noise {number}"]}
        for number, name in enumerate(names)
    ]
    (folder / "refs.jsonl").write_text("\n".join(map(json.dumps, written)))
    said = [{"image_id": f"{number:06d}", "caption": "a picture of noise"} for number in range(6)]
    (folder / "other.json").write_text(json.dumps(said))
    arguments = ("stub=captions", "other.json", "refs.jsonl", "--output", "evaluation", *QUICK)
    code, out, err = cli("evaluate", *arguments)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].split() == ["stub", "other"]
    for label in ("images", "BLEU-4", "CIDEr-D", "length gap", "vocabulary", "mean logprob"):
        assert any(line.startswith(label) for line in lines)
    assert any(line.startswith("stub - other") for line in lines)
    assert max(map(len, lines)) <= 120
    found = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    assert [system["matched_by"] for system in found["systems"]] == ["image_id", "stem"]
    assert [len(scores_of(folder / "evaluation", number)) for number in (0, 1)] == [6, 6]


def test_missing_captions_may_be_left_out(cli: InProcess) -> None:
    captions = write_captions(cli.folder / "few.jsonl", ["a cat", "a dog", None])
    written = [["a cat"], ["a dog"], ["a man"], ["two men"]]
    references = write_references(cli.folder / "refs.jsonl", written)
    code, out, err = cli("evaluate", captions, references, "--missing", "drop", *QUICK)
    assert code == 0, err
    told = " ".join(out.split())
    assert "images 2 " in told
    assert "failed, missing 1, 1" in told
    assert "few: 1 (00003.jpg)" in told
