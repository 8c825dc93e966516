"""Rules for the text in a run, and others applied again to its finished output."""

import signal
from pathlib import Path
from typing import Any

import pytest

import raycap
from raycap.captioning.status import read_status
from raycap.captioning.verify import verify
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from raycap.errors import ConfigError, DatasetError, RunConflict
from raycap.results.captioning import Summary
from raycap.text import count_words
from tests.support.commandline import CommandLine, rows_of, wait_until, write_images

pytestmark = pytest.mark.usefixtures("ray_session")

KEPT = {"keep_answer": True}
LOUD = {"keep_answer": True, "case": "upper", "prefix": "> "}


def settings(text: dict[str, Any], **sections: Any) -> CaptionConfig:
    sections.setdefault("model", {"name": "stub"})
    sections.setdefault("engine", {"part_size": 3})
    return validate_config(CaptionConfig, {**sections, "text": text})


def caption(folder: Path, text: dict[str, Any], again: Any = None, **sections: Any) -> Summary:
    config = settings(text, **sections)
    return raycap.caption(folder / "photos", folder / "out", config=config, again=again)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "photos", 7)
    return tmp_path


def test_captions_and_alternatives_follow_the_rules_and_answers_are_kept(folder: Path) -> None:
    search = {"generation": {"num_captions": 2, "num_beams": 2}}
    caption(folder, {}, **search)
    plain = rows_of(folder / "out")
    assert "answer" not in plain[0]
    config = settings({**LOUD, "max_words": 4}, **search)
    summary = raycap.caption(folder / "photos", folder / "loud", config=config)
    rows = rows_of(folder / "loud")
    assert [row["answer"] for row in rows] == [row["caption"] for row in plain]
    for row, before in zip(rows, plain, strict=True):
        words = before["caption"].upper().split()[:4]
        assert row["caption"] == "> " + " ".join(words)
        assert row["num_words"] == count_words(row["caption"]) == 4
        [other], [text] = row["other_answers"], before["alternatives"]
        assert other == {"answer": text["caption"], "logprob": text["logprob"]}
        assert row["alternatives"][0]["caption"] == "> " + " ".join(
            text["caption"].upper().split()[:4]
        )
    assert summary.mean_words == 4.0
    assert verify(folder / "loud").is_complete


def test_a_run_with_other_rules_is_refused(folder: Path) -> None:
    caption(folder, KEPT)
    with pytest.raises(RunConflict):
        caption(folder, LOUD)


def test_rules_are_applied_again_without_the_model(folder: Path) -> None:
    nothing = [{"find": "^.*$", "with": "", "regex": True}]
    first = caption(folder, {**KEPT, "replace": nothing})
    assert first.failed == {"text_failed": 7}
    again = caption(folder, LOUD, again="text", model={"name": "stub"})
    assert (again.num_ok, again.failed, again.num_captioned) == (7, {}, 0)
    raycap.caption(folder / "photos", folder / "fresh", config=settings(LOUD))
    for row, fresh in zip(rows_of(folder / "out"), rows_of(folder / "fresh"), strict=True):
        # The score of a failed answer is not kept.
        assert {**row, "logprob": 0, "attempts": 0} == {**fresh, "logprob": 0, "attempts": 0}
    assert verify(folder / "out").is_complete
    assert read_status(folder / "out").state == "complete"
    assert caption(folder, LOUD, again="text") == again  # nothing to do


def test_the_present_rules_continue_the_run_and_former_ones_are_refused(folder: Path) -> None:
    caption(folder, KEPT)
    caption(folder, LOUD, again="text")
    write_images(folder / "photos", 2, start=7)
    with pytest.raises(RunConflict) as caught:
        caption(folder, KEPT)
    assert caught.value.setting == "text"
    summary = caption(folder, LOUD)
    assert (summary.num_ok, summary.num_captioned) == (9, 2)
    assert all(row["caption"] == "> " + row["answer"].upper() for row in rows_of(folder / "out"))
    assert verify(folder / "out").is_complete
    caption(folder, KEPT, again="text")
    assert caption(folder, KEPT).num_captioned == 0
    assert all(row["caption"] == row["answer"] for row in rows_of(folder / "out"))


def test_named_prompts_follow_the_rules_except_those_with_a_type(folder: Path) -> None:
    prompts = {"short": "In short:", "tags": {"text": "Tags?", "choices": ["a", "b"]}}
    caption(folder, KEPT, prompts=prompts)
    before = rows_of(folder / "out")
    caption(folder, LOUD, again="text", prompts=prompts)
    for row, old in zip(rows_of(folder / "out"), before, strict=True):
        assert row["tags"] == old["tags"]
        assert row["tags"]["value"] in (["a"], ["b"])
        assert row["short"]["caption"] == "> " + old["short"]["answer"].upper()
    assert verify(folder / "out").is_complete


@pytest.mark.parametrize(
    ("text", "again", "sections", "setting"),
    [
        ({}, LOUD, {}, "text.keep_answer"),
        (KEPT, {"case": "upper"}, {}, "text.keep_answer"),
        (KEPT, LOUD, {"generation": {"prompt": "a"}}, "generation.prompt"),
        (KEPT, {**KEPT, "replace": [{"find": "(a+)+$", "regex": True}]}, {}, "text.replace.0"),
    ],
)
def test_rules_that_cannot_be_applied_again_are_refused(
    folder: Path, text: dict[str, Any], again: Any, sections: Any, setting: str
) -> None:
    caption(folder, text)
    before = (folder / "out" / "run.json").read_bytes()
    with pytest.raises(ConfigError) as caught:
        caption(folder, again, again="text", **sections)
    assert caught.value.setting == setting
    assert (folder / "out" / "run.json").read_bytes() == before


def test_only_a_finished_output_of_the_source_gets_other_rules(folder: Path) -> None:
    caption(folder, KEPT)
    config = settings(LOUD)
    with pytest.raises(ConfigError) as caught:
        raycap.caption(folder / "other", folder / "out", config=config, again="text")
    assert caught.value.uri == str(folder / "other")
    (folder / "out" / "captions" / "part-000000.parquet").unlink()
    with pytest.raises(DatasetError):
        caption(folder, LOUD, again="text")


NUM_IMAGES = 200
AGAIN = (
    *("caption", "photos", "out", "--again", "text", "--set", "text.keep_answer=true"),
    *("--set", "text.case=upper", "--set", "storage.list_threads=1"),
)


@pytest.mark.slow
def test_after_kills_the_rules_are_applied_to_the_rest_by_either_command(
    raycap: CommandLine,
) -> None:
    folder, output = raycap.folder, raycap.folder / "out"
    write_images(folder / "photos", NUM_IMAGES)
    caption(folder, KEPT, engine={"part_size": 1})
    before = _written(output)
    pending = NUM_IMAGES
    for part in (0, NUM_IMAGES // 2):
        process = raycap.start(*AGAIN)
        file = output / "captions" / f"part-{part:06d}.parquet"
        wait_until(lambda file=file: file.stat().st_mtime_ns != before[file], process)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        found = verify(output)
        assert 0 < found.num_pending < pending
        assert found.num_ok + found.num_pending == NUM_IMAGES
        assert (found.is_sound, found.is_complete) == (True, False)
        assert read_status(output).state != "complete"
        pending = found.num_pending
    code, _, err = raycap("export", "out", "captions.csv", "--to", "csv")
    assert code == 1, err
    between = _written(output)
    caption(folder, {"keep_answer": True, "case": "upper"}, engine={"part_size": 1})
    rewritten = {part for part, at in _written(output).items() if at != between[part]}
    assert len(rewritten) == pending, "what follows the rules is not written again"
    assert verify(output).is_complete
    assert all(row["caption"] == row["answer"].upper() for row in rows_of(output))


def _written(output: Path) -> dict[Path, int]:
    return {part: part.stat().st_mtime_ns for part in output.glob("captions/part-*.parquet")}
