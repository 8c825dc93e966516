"""What evaluations write, what they say of missing captions, and of metrics without a value."""

import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from raycap import schema
from raycap.config import MissingPolicy, StorageConfig
from raycap.errors import ConfigError, DatasetError
from raycap.evaluation import passes
from raycap.progress import Progress
from raycap.results.evaluation import read_evaluation
from raycap.storage.stores import open_store
from tests.support import outputs
from tests.support.evaluation_samples import (
    N_GRAM_METRICS,
    image_names,
    run,
    scores_of,
    skipped_of,
    values_of,
    without_time,
    write_captions,
    write_corpus,
    write_references,
)
from tests.support.outputs import failed, row

output = outputs.output  # a fixture, which pytest looks for under this name

OFF = {
    "meteor": "external.meteor is off",
    "clip_score": "no external.clip_model is named",
    "ref_clip_score": "no external.clip_model is named",
}

# What is written


def test_what_is_written_is_what_is_returned(tmp_path: Path) -> None:
    systems, references = write_corpus(tmp_path, 10, num_systems=2)
    found = run(systems, references, output=tmp_path / "out")
    store = open_store(str(tmp_path / "out"), StorageConfig())
    assert read_evaluation(store) == found
    assert [system.scores for system in found.systems] == [
        "scores/part-000.parquet",
        "scores/part-001.parquet",
    ]
    assert (found.references, found.splits, found.missing_policy) == (references, [], "error")
    assert (found.num_images, found.num_references) == (10, 30)
    assert (found.confidence, found.num_resamples, found.seed) == (0.95, 50, 0)
    assert found.versions["raycap"]
    assert found.wall_s > 0
    unwritten = run(systems, references)
    assert [system.scores for system in unwritten.systems] == ["", ""]


def test_scores_have_a_row_for_every_image_with_texts_and_lengths(tmp_path: Path) -> None:
    captions = write_captions(
        tmp_path / "a.jsonl", ["a cat sits", "a dog"], logprob=[-0.5, None], uri=["s3://b/0", None]
    )
    references = write_references(tmp_path / "refs.jsonl", [["a cat", "cats !"], ["the dog"]])
    run([captions], references, output=tmp_path / "out")
    table = scores_of(tmp_path / "out")
    assert table.schema.equals(schema.SCORES)
    first, second = table.to_pylist()
    assert first[schema.IMAGE_ID] == "00000.jpg"
    assert first[schema.REFERENCE_CAPTIONS] == ["a cat", "cats !"]
    assert first[schema.REFERENCE_TOKENS] == [2, 1]
    assert (first[schema.NUM_TOKENS], first[schema.LOGPROB]) == (3, -0.5)
    assert (first[schema.STATUS], first[schema.ERROR_CODE]) == ("ok", None)
    assert (second[schema.CAPTION], second[schema.LOGPROB]) == ("a dog", None)
    for name in (schema.METEOR, schema.SPICE, schema.CLIP_SCORE, schema.REF_CLIP_SCORE):
        assert first[name] is None  # skipped, and not 0
    assert all(first[name] is not None for name in N_GRAM_METRICS)


def test_an_evaluation_replaces_another_and_nothing_else(tmp_path: Path) -> None:
    systems, references = write_corpus(tmp_path, 10, num_systems=3)
    run(systems, references, output=tmp_path / "out")
    kept = tmp_path / "out" / "scores" / "of-my-own.parquet"
    kept.write_bytes(b"precious")
    run(systems[:1], references, output=tmp_path / "out")
    names = sorted(path.name for path in kept.parent.iterdir())
    assert names == ["of-my-own.parquet", "part-000.parquet"]
    assert kept.read_bytes() == b"precious"


def test_an_evaluation_that_cannot_begin_keeps_the_existing_one(tmp_path: Path) -> None:
    systems, references = write_corpus(tmp_path, 10)
    found = run(systems, references, output=tmp_path / "out")
    few = write_captions(tmp_path / "few.jsonl", ["a cat"])
    with pytest.raises(DatasetError, match=r"few .* 9 ") as caught:
        run([few], references, output=tmp_path / "out")
    assert caught.value.setting == "missing"
    with pytest.raises(ConfigError, match="nowhere"):
        run(
            systems,
            references,
            output=tmp_path / "out",
            settings={"external": {"clip_model": "./nowhere"}},
        )
    assert read_evaluation(open_store(str(tmp_path / "out"), StorageConfig())) == found


def test_scores_do_not_depend_on_how_many_images_are_scored_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems, references = write_corpus(tmp_path, 50, num_systems=2)
    whole = run(systems, references, output=tmp_path / "whole")
    monkeypatch.setattr(passes, "_CHUNK_IMAGES", 7)
    parted = run(systems, references, output=tmp_path / "parted")
    assert without_time(parted) == without_time(whole)
    for number in (0, 1):
        scores = scores_of(tmp_path / "parted", number)
        assert scores.equals(scores_of(tmp_path / "whole", number))


def test_progress_is_reported_by_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systems, references = write_corpus(tmp_path, 10)
    monkeypatch.setattr(passes, "_CHUNK_IMAGES", 4)
    told: list[Progress] = []
    run(systems, references, on_progress=told.append)
    assert [(one.stage, one.num_done, one.num_total) for one in told] == [
        (stage, done, 10) for stage in ("references", "scoring") for done in (4, 8, 10)
    ]


# Missing captions


@pytest.fixture
def with_gaps(tmp_path: Path, output: Callable[..., str]) -> tuple[str, str]:
    """Give an output of raycap that failed on image 1, lacks image 2, and has one more."""
    names = image_names(4)
    captions = output([row(names[0], "a cat"), failed(names[1]), row(names[3], "a dog"), row("x")])
    written = [["a cat"], ["two cats"], ["a man"], ["a dog"]]
    return captions, write_references(tmp_path / "refs.jsonl", written)


def test_missing_failed_and_extra_images_are_counted_and_named(with_gaps: tuple[str, str]) -> None:
    captions, references = with_gaps
    with pytest.raises(DatasetError, match=r"\(00002\.jpg\), 1 .*\(1 decode_failed\)"):
        run([captions], references)
    found = run([captions], references, missing=MissingPolicy.WORST)
    (system,) = found.systems
    assert (system.num_missing, system.missing) == (1, ["00002.jpg"])
    assert (system.num_extra, system.extra) == (1, ["x"])
    assert (system.num_failed, system.failed) == (1, {"decode_failed": 1})
    assert (system.format, system.matched_by) == ("raycap", "image_id")


def test_at_worst_missing_captions_score_0_and_count(
    with_gaps: tuple[str, str], tmp_path: Path
) -> None:
    found = run([with_gaps[0]], with_gaps[1], missing=MissingPolicy.WORST, output=tmp_path / "out")
    table = scores_of(tmp_path / "out")
    assert table[schema.STATUS].to_pylist() == ["ok", "failed", "missing", "ok"]
    assert table[schema.ERROR_CODE].to_pylist() == [None, "decode_failed", None, None]
    assert table[schema.NUM_TOKENS].to_pylist() == [2, None, None, 2]
    assert table[schema.ROUGE_L].to_pylist() == pytest.approx([1, 0, 0, 1])
    assert (found.num_images, found.num_references) == (4, 4)
    assert values_of(found)[schema.ROUGE_L] == pytest.approx(0.5)
    assert found.systems[0].lengths.mean == 2  # of the captions that there are


def test_dropped_images_count_for_no_system_and_keep_their_rows(
    with_gaps: tuple[str, str], tmp_path: Path
) -> None:
    captions, references = with_gaps
    whole = write_captions(tmp_path / "whole.jsonl", ["a", "two cats", "a man", None])
    found = run([captions, whole], references, missing=MissingPolicy.DROP, output=tmp_path / "out")
    assert (found.num_images, found.num_references, found.missing_policy) == (1, 1, "drop")
    assert [system.num_images for system in found.systems] == [1, 1]
    assert found.reference_lengths.mean == 2
    first, second = (scores_of(tmp_path / "out", number) for number in (0, 1))
    assert first[schema.ROUGE_L].to_pylist() == [pytest.approx(1), None, None, None]
    assert first[schema.NUM_TOKENS].to_pylist() == [2, None, None, None]
    assert first[schema.CAPTION].to_pylist() == ["a cat", None, None, "a dog"]
    assert second[schema.STATUS].to_pylist() == ["ok", "ok", "ok", "failed"]
    assert second[schema.REFERENCE_TOKENS].to_pylist() == [[2]] * 4


def test_a_system_without_any_caption_is_refused(tmp_path: Path) -> None:
    captions = write_captions(tmp_path / "a.jsonl", [None, None])
    references = write_references(tmp_path / "refs.jsonl", [["a cat"], ["a dog"]])
    with pytest.raises(DatasetError, match=r"a .* 2 .*\(2 unknown\)"):
        run([captions], references, missing=MissingPolicy.WORST, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Metrics that cannot be had


def test_metrics_without_a_value_say_why_and_are_not_0(tmp_path: Path) -> None:
    systems, references = write_corpus(tmp_path, 5)
    found = run(systems, references)
    reasons = skipped_of(found)
    assert "external.spice_jars" in reasons.pop(schema.SPICE)
    assert reasons == OFF
    assert list(values_of(found)) == N_GRAM_METRICS


def test_without_the_extra_meteor_is_skipped_and_the_published_tokenizer_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems, references = write_corpus(tmp_path, 5)
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    found = run(systems, references, settings={"external": {}})
    assert "'raycap[java]'" in skipped_of(found)[schema.METEOR]
    with pytest.raises(ConfigError) as caught:
        run(systems, references, settings={"tokenizer": "ptb"})
    assert caught.value.setting == "tokenizer"


@pytest.mark.slow
def test_a_metric_whose_program_dies_midway_is_skipped_and_the_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems, references = write_corpus(tmp_path, 30, num_systems=2)
    monkeypatch.setattr(passes, "_CHUNK_IMAGES", 10)

    def kill_java(progress: Progress) -> None:
        if progress.stage == "scoring" and progress.num_done == 10:
            java = [c for c in psutil.Process().children() if c.name() == "java"]
            assert len(java) == 1
            java[0].kill()

    found = run(
        systems,
        references,
        output=tmp_path / "out",
        settings={"external": {}},
        on_progress=kill_java,
    )
    for number in (0, 1):
        reason = skipped_of(found, number)[schema.METEOR]
        assert "status -9" in reason
        assert list(values_of(found, number)) == N_GRAM_METRICS
        known = scores_of(tmp_path / "out", number)[schema.METEOR].is_valid().to_pylist()
        assert known == [*[True] * 10, *[False] * 20]
    assert schema.METEOR not in {item.metric for item in found.comparisons}


def test_spice_that_fails_is_skipped_with_its_reason(tmp_path: Path) -> None:
    systems, references = write_corpus(tmp_path, 5)
    jars = tmp_path / "jars"
    jars.mkdir()
    names = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
    for name in (*names, "nashorn-core-15.4.jar"):
        (jars / name).touch()
    external = {"meteor": False, "spice_jars": str(jars)}
    found = run(systems, references, settings={"external": external})
    assert "status " in skipped_of(found)[schema.SPICE]
