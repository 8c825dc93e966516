"""Evaluations in one process: values against references, every source, and what is left out."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycap import schema
from raycap.config import StorageConfig
from raycap.errors import ConfigError, DatasetError, ModelError
from raycap.evaluation import passes
from raycap.evaluation.matching import MissingPolicy
from raycap.evaluation.record import Evaluation, read_evaluation
from raycap.metrics.bleu import corpus_bleu
from raycap.metrics.scores import mean
from raycap.metrics.tokenizer import TOKENIZER, tokenize
from raycap.status import Progress
from raycap.storage.stores import open_store
from tests import metric_references, outputs
from tests.dataset_samples import dataset_row, write_dataset
from tests.evaluation_samples import (
    image_names,
    run,
    scores_of,
    sentences,
    skipped_of,
    values_of,
    write_captions,
    write_corpus,
    write_references,
)
from tests.metric_references import Texts, Tokenized, score_all
from tests.outputs import failed, row

output = outputs.output  # a fixture, which pytest looks for under this name

N_GRAM_METRICS = [*schema.BLEU, schema.ROUGE_L, schema.CIDER_D]
OFF = {
    "meteor": "external.meteor is off",
    "clip_score": "no external.clip_model is named",
    "ref_clip_score": "no external.clip_model is named",
}


def write_texts(folder: Path, texts: Texts) -> tuple[str, str]:
    return (
        write_captions(folder / "captions.jsonl", texts.hypotheses),
        write_references(folder / "references.jsonl", texts.references),
    )


def without_time(found: Evaluation) -> Evaluation:
    return replace(found, wall_s=0.0, created_at="")


# Values


def test_scores_equal_those_of_the_metrics_and_of_pycocoevalcap_on_the_same_tokens(
    tmp_path: Path,
) -> None:
    texts = metric_references.coco_texts(200)
    captions, references = write_texts(tmp_path, texts)
    found = run([captions], references, output=tmp_path / "out")
    corpus = Tokenized(
        [tokenize(text) for text in texts.hypotheses],
        [[tokenize(text) for text in image] for image in texts.references],
    )
    assert found.tokenizer == TOKENIZER
    values = values_of(found)
    assert list(values) == N_GRAM_METRICS
    scores = score_all(corpus)
    assert [*values.values()] == [
        *corpus_bleu(scores.bleu_counts.sum(axis=0)),
        mean(scores.rouge_l),
        mean(scores.cider_d),
    ]
    bleu = metric_references.pycoco_bleu(corpus)
    rouge_l = metric_references.pycoco_rouge_l(corpus)
    cider_d = metric_references.pycoco_cider_d(corpus)
    expected = [*bleu[0], rouge_l[0], cider_d[0]]
    assert [*values.values()] == pytest.approx(expected, rel=0, abs=1e-9)
    table = scores_of(tmp_path / "out")
    for name, of_each in zip(N_GRAM_METRICS, [*bleu[1], rouge_l[1], cider_d[1]], strict=True):
        np.testing.assert_allclose(table[name].to_numpy(), of_each, rtol=0, atol=1e-9)


def test_with_the_published_tokenizer_and_meteor_scores_equal_the_published_ones(
    tmp_path: Path,
) -> None:
    captions, references = write_texts(tmp_path, metric_references.coco_texts())
    found = run(
        [captions],
        references,
        settings={"tokenizer": "ptb", "external": {}, "bootstrap": {"num_resamples": 20}},
    )
    published = metric_references.OF_COCO
    names = (*N_GRAM_METRICS, schema.METEOR)
    expected = (*published.bleu, published.rouge_l, published.cider_d, published.meteor)
    values = values_of(found)
    assert [values[name] for name in names] == pytest.approx(expected, rel=0, abs=1e-9)
    assert (found.tokenizer, found.num_references) == ("stanford-ptb-3.4.1", 4001)
    assert found.systems[0].lengths.mean == 10391 / 1000
    (meteor,) = (metric for metric in found.systems[0].metrics if metric.name == schema.METEOR)
    assert meteor.low is not None
    assert meteor.high is not None
    assert meteor.low < published.meteor < meteor.high


def test_lengths_gap_diversity_and_logprob_are_those_of_the_captions(tmp_path: Path) -> None:
    said = ["a cat sits on a chair", "a dog", "a dog runs runs", None]
    written = [["a cat", "the old cat sits"], ["a dog ."], ["dogs"], ["it"]]
    captions = write_captions(tmp_path / "a.jsonl", said, logprob=[-1.0, -2.0, None, -9.0])
    references = write_references(tmp_path / "refs.jsonl", written)
    found = run([captions], references, missing=MissingPolicy.WORST)
    (system,) = found.systems
    assert (system.num_images, found.num_images, found.num_references) == (4, 4, 5)
    assert system.lengths.histogram == {2: 1, 4: 1, 6: 1}
    assert (system.lengths.mean, system.lengths.median) == (4, 4)
    assert found.reference_lengths.histogram == {1: 2, 2: 2, 4: 1}
    assert found.reference_lengths.mean == 2
    assert system.length_gap.difference == 2
    assert system.length_gap.wasserstein == pytest.approx(2)
    assert system.mean_logprob == -1.5
    assert (system.diversity.vocabulary_size, system.diversity.num_different_captions) == (7, 3)
    assert system.diversity.repetition == pytest.approx(1 / 3)
    assert system.diversity.copied_from_training is None


def test_one_image_has_a_cider_of_0(tmp_path: Path) -> None:
    captions = write_captions(tmp_path / "a.jsonl", ["a cat on a mat"])
    references = write_references(tmp_path / "refs.jsonl", [["a cat on a mat"]])
    values = values_of(run([captions], references))
    assert values[schema.CIDER_D] == 0
    assert values[schema.BLEU[3]] == pytest.approx(1)


def test_empty_captions_count_and_score_0(tmp_path: Path) -> None:
    captions = write_captions(tmp_path / "a.jsonl", ["", " . ", "a cat"])
    references = write_references(tmp_path / "refs.jsonl", [["a cat"], ["a dog"], ["a cat"]])
    found = run([captions], references, output=tmp_path / "out")
    table = scores_of(tmp_path / "out")
    assert table[schema.NUM_TOKENS].to_pylist() == [0, 0, 2]
    assert table[schema.STATUS].to_pylist() == ["ok"] * 3
    for name in N_GRAM_METRICS:
        assert table[name].to_pylist()[:2] == [0, 0]
    assert values_of(found)[schema.ROUGE_L] == pytest.approx(1 / 3)
    assert found.systems[0].lengths.histogram == {0: 2, 2: 1}


def test_captions_that_are_all_empty_still_have_scores(tmp_path: Path) -> None:
    captions = write_captions(tmp_path / "a.jsonl", ["", ""])
    references = write_references(tmp_path / "refs.jsonl", [["a cat"], ["a dog"]])
    found = run([captions], references)
    assert [*values_of(found).values()] == [0] * 6
    assert found.systems[0].length_gap.difference == -2


BROKEN = "half \ud83d of a pair"
ODD = [
    "a cat\n\nand ||| a dog\r\x85",
    "\0 nul and \u2028 lines",
    "חתול ושני כלבים 🐈🐕 in 東京",
    "<script>alert(1)</script> &amp; {{ x }}",
    BROKEN,
    "x" * 5000,
]


def test_odd_characters_neither_end_an_evaluation_nor_shift_other_captions(tmp_path: Path) -> None:
    said = [*ODD, "a cat"]
    captions = write_captions(tmp_path / "a.jsonl", said)
    references = write_references(tmp_path / "refs.jsonl", [[text, "a dog"] for text in said])
    found = run([captions], references, output=tmp_path / "out")
    table = scores_of(tmp_path / "out")
    broken = ODD.index(BROKEN)
    expected = [text.replace("\ud83d", "?") for text in said]
    assert table[schema.CAPTION].to_pylist() == expected
    scores = table[schema.ROUGE_L].to_pylist()
    # Each is its own reference; but one that is no text is none.
    assert scores.pop(broken) < 0.5
    assert scores == pytest.approx([1] * 6)
    assert found.references_dropped == {"empty_caption": 1}


# Several systems


def test_systems_side_by_side_have_the_scores_of_each_alone(tmp_path: Path) -> None:
    systems, references = write_corpus(tmp_path, 60, num_systems=3)
    together = run(systems, references, output=tmp_path / "out")
    assert [system.name for system in together.systems] == ["system-0", "system-1", "system-2"]
    for number, captions in enumerate(systems):
        alone = run([captions], references, output=tmp_path / "alone").systems[0]
        expected = replace(alone, scores=f"scores/part-{number:03d}.parquet")
        assert together.systems[number] == expected
        assert scores_of(tmp_path / "out", number) == scores_of(tmp_path / "alone")
    pairs = [(item.first, item.second) for item in together.comparisons]
    metrics = [*N_GRAM_METRICS, "length"]
    assert pairs == [
        pair
        for pair in (("system-0", "system-1"), ("system-0", "system-2"), ("system-1", "system-2"))
        for _ in metrics
    ]
    assert [item.metric for item in together.comparisons] == metrics * 3
    first, second = values_of(together, 0), values_of(together, 1)
    for item in together.comparisons[:6]:
        assert item.difference == first[item.metric] - second[item.metric]
        assert item.low <= item.difference <= item.high


def test_a_system_does_not_differ_from_itself(tmp_path: Path) -> None:
    systems, references = write_corpus(tmp_path, 20)
    found = run(systems * 2, references)
    assert [system.name for system in found.systems] == ["system-0", "system-0 (2)"]
    assert {(item.difference, item.p_value) for item in found.comparisons} == {(0.0, 1.0)}


def test_a_better_system_is_told_from_a_worse_one(tmp_path: Path) -> None:
    written = [[text] for text in sentences(100, seed=0)]
    good = write_captions(tmp_path / "good.jsonl", [f"{texts[0]} too" for texts in written])
    bad = write_captions(tmp_path / "bad.jsonl", sentences(100, seed=5))
    found = run([bad, good], write_references(tmp_path / "refs.jsonl", written))
    for item in found.comparisons[:-1]:
        assert (item.first, item.second) == ("bad", "good")
        assert item.difference < item.high < 0
        assert item.p_value == pytest.approx(2 / 51)


def test_without_resamples_there_are_neither_intervals_nor_tests(tmp_path: Path) -> None:
    systems, references = write_corpus(tmp_path, 10, num_systems=2)
    off = {"bootstrap": {"num_resamples": 0}}
    found, other = (run(systems, references, settings=settings) for settings in (off, None))
    assert (found.comparisons, found.num_resamples) == ([], 0)
    for system in found.systems:
        assert system.length_gap.low is system.length_gap.high is None
        assert all(metric.low is metric.high is None for metric in system.metrics)
    assert values_of(found) == values_of(other)


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


def test_scores_hold_a_row_for_every_image_with_its_texts_and_lengths(tmp_path: Path) -> None:
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


def test_an_evaluation_that_cannot_begin_leaves_the_one_that_stands(tmp_path: Path) -> None:
    systems, references = write_corpus(tmp_path, 10)
    found = run(systems, references, output=tmp_path / "out")
    few = write_captions(tmp_path / "few.jsonl", ["a cat"])
    with pytest.raises(DatasetError, match="few lacks captions of images: 9 without a row"):
        run([few], references, output=tmp_path / "out")
    with pytest.raises(ModelError, match="nowhere"):
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


def test_progress_is_told_of_each_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(DatasetError, match=r"1 without a row \(00002\.jpg\), 1 failed \(1 decode"):
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
    with pytest.raises(DatasetError, match=r"no caption at all: a lacks .* 2 failed \(2 unknown\)"):
        run([captions], references, missing=MissingPolicy.WORST, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Metrics that cannot be had


def test_metrics_without_a_value_say_why_and_are_not_0(tmp_path: Path) -> None:
    systems, references = write_corpus(tmp_path, 5)
    found = run(systems, references)
    reasons = skipped_of(found)
    assert reasons.pop(schema.SPICE).startswith("SPICE needs external.spice_jars, a folder with")
    assert reasons == OFF
    assert list(values_of(found)) == N_GRAM_METRICS


def test_without_the_extra_meteor_is_skipped_and_the_published_tokenizer_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems, references = write_corpus(tmp_path, 5)
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    found = run(systems, references, settings={"external": {}})
    assert skipped_of(found)[schema.METEOR] == "METEOR needs the extra: pip install 'raycap[java]'"
    with pytest.raises(ConfigError, match="tokenizer=ptb: the ptb tokenizer needs the extra"):
        run(systems, references, settings={"tokenizer": "ptb"})


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
        assert reason.startswith("METEOR: its Java program ended with status -9")
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
    assert skipped_of(found)[schema.SPICE].startswith("SPICE: its Java program ended with status")


# References


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """Write a dataset of three splits; the training captions are two."""
    rows = [
        dataset_row("0.jpg", "test", ["a cat sits", "cats"]),
        dataset_row("1.jpg", "test", ["a dog"]),
        dataset_row("2.jpg", "train", ["A dog runs.", "a cow"]),
        dataset_row("3.jpg", "validation", ["a man"]),
    ]
    return write_dataset(tmp_path / "dataset", rows, [], embedded=False)


@pytest.fixture
def of_all(tmp_path: Path) -> str:
    path = tmp_path / "all.jsonl"
    said = ["a dog runs", "a dog", "a cow", "a man"]
    rows = [{"image_id": f"{at}.jpg", "caption": text} for at, text in enumerate(said)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_only_the_splits_asked_for_are_scored(dataset: str, of_all: str) -> None:
    found = run([of_all], dataset, splits=["val", "test"])
    assert (found.splits, found.num_images) == (["test", "validation"], 3)
    assert found.systems[0].extra == ["2.jpg"]
    assert found.num_references == 4
    with pytest.raises(DatasetError, match="has no split 'other'"):
        run([of_all], dataset, splits=["other"])


@pytest.mark.parametrize(
    ("splits", "share"),
    [(["test"], 0.5), (["test", "dev"], 1 / 3), (["train"], None), ([], None)],
)
def test_copies_of_training_captions_are_counted_where_training_is_not_what_is_evaluated(
    splits: list[str], share: float | None, dataset: str, of_all: str
) -> None:
    (system,) = run([of_all], dataset, splits=splits).systems
    assert system.diversity.copied_from_training == (share and pytest.approx(share))


def test_a_dataset_without_a_training_split_tells_no_copies(tmp_path: Path) -> None:
    rows = [dataset_row("0.jpg", "test", ["a cat"]), dataset_row("1.jpg", "validation", ["a"])]
    dataset = write_dataset(tmp_path / "dataset", rows, [], embedded=False)
    (tmp_path / "a.jsonl").write_text('{"image_id": "0.jpg", "caption": "a cat"}')
    (system,) = run([tmp_path / "a.jsonl"], dataset, splits=["test"]).systems
    assert system.diversity.copied_from_training is None


WRITTEN = {"0.jpg": ["a cat sits", "cats"], "1.jpg": ["a dog, it runs"], "2.jpg": ["two men", "a"]}


def _coco(folder: Path) -> Path:
    images = [{"id": 70 + at, "file_name": name} for at, name in enumerate(WRITTEN)]
    pairs = [(70 + at, text) for at, texts in enumerate(WRITTEN.values()) for text in texts]
    annotations = [
        {"id": at, "image_id": key, "caption": text} for at, (key, text) in enumerate(pairs)
    ]
    path = folder / "captions_val.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def _karpathy(folder: Path) -> Path:
    images = [
        {"filename": name, "split": "test", "sentences": [{"raw": text} for text in texts]}
        for name, texts in WRITTEN.items()
    ]
    path = folder / "dataset_flickr8k.json"
    path.write_text(json.dumps({"images": images, "dataset": "flickr8k"}))
    return path


def _flickr(folder: Path) -> Path:
    lines = [f'{name},"{text}"' for name, texts in WRITTEN.items() for text in texts]
    path = folder / "captions.txt"
    path.write_text("\n".join(["image,caption", *lines]))
    return path


def _table(folder: Path) -> Path:
    path = folder / "refs.parquet"
    columns = {"image_id": list(WRITTEN), "captions": list(WRITTEN.values())}
    pq.write_table(pa.table(columns), path)
    return path


def _dataset(folder: Path) -> Path:
    rows = [dataset_row(name, "test", texts) for name, texts in WRITTEN.items()]
    return Path(write_dataset(folder / "dataset", rows, [], embedded=False))


def _sidecars(folder: Path) -> Path:
    for name, texts in WRITTEN.items():
        (folder / "s").mkdir(exist_ok=True)
        (folder / "s" / name).write_bytes(b"not looked at")
        (folder / "s" / name).with_suffix(".txt").write_text("\n".join(texts))
    return folder / "s"


@pytest.mark.parametrize("write", [_coco, _karpathy, _flickr, _table, _dataset, _sidecars])
def test_references_of_every_kind_give_the_same_scores(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    said = ["a cat", "the dog runs", "two men"]
    captions = tmp_path / "a.jsonl"
    rows = [{"image_id": name, "caption": text} for name, text in zip(WRITTEN, said, strict=True)]
    captions.write_text("\n".join(map(json.dumps, rows)))
    found = run([captions], write(tmp_path))
    assert (found.num_images, found.num_references) == (3, 5)
    corpus = Tokenized(
        [tokenize(text) for text in said],
        [[tokenize(text) for text in texts] for texts in WRITTEN.values()],
    )
    scores = score_all(corpus)
    values = values_of(found)
    assert values[schema.CIDER_D] == mean(scores.cider_d)
    assert values[schema.ROUGE_L] == mean(scores.rouge_l)


def test_coco_results_match_coco_references_by_their_numbers(tmp_path: Path) -> None:
    results = [{"image_id": 70 + at, "caption": "a cat"} for at in range(3)]
    (tmp_path / "results.json").write_text(json.dumps(results))
    (system,) = run([tmp_path / "results.json"], _coco(tmp_path)).systems
    assert (system.matched_by, system.format, system.num_extra) == ("source_id", "coco", 0)


def test_references_that_cannot_be_used_are_counted_by_reason(tmp_path: Path) -> None:
    references = write_references(tmp_path / "refs.jsonl", [["a cat", " "], ["a dog"], [""]])
    captions = write_captions(tmp_path / "a.jsonl", ["a cat", "a dog", "a man"])
    found = run([captions], references)
    assert (found.num_images, found.num_references) == (2, 2)
    assert found.references_dropped == {"empty_caption": 2, "no_caption": 1}
    assert found.systems[0].extra == ["00002.jpg"]


def test_no_references_are_told(tmp_path: Path) -> None:
    captions = write_captions(tmp_path / "a.jsonl", ["a cat"])
    with pytest.raises(ConfigError, match="nowhere: no such file or folder"):
        run([captions], "nowhere")
    with pytest.raises(DatasetError, match=r"refs\.jsonl: no image with a caption"):
        run([captions], write_references(tmp_path / "refs.jsonl", [[""]]))


# Captions


def _results(folder: Path, said: dict[str, str]) -> Path:
    path = folder / "results.json"
    rows = [{"image_id": name, "caption": text} for name, text in said.items()]
    path.write_text(json.dumps(rows))
    return path


def _csv(folder: Path, said: dict[str, str]) -> Path:
    path = folder / "captions.csv"
    path.write_text("\n".join(["image_id,caption", *(f"{n},{text}" for n, text in said.items())]))
    return path


def _parquet(folder: Path, said: dict[str, str]) -> Path:
    path = folder / "captions.parquet"
    pq.write_table(pa.table({"image_id": list(said), "caption": list(said.values())}), path)
    return path


def test_captions_of_every_kind_give_the_same_scores(
    tmp_path: Path, output: Callable[..., str]
) -> None:
    said = dict(zip(image_names(6), sentences(6, seed=3), strict=True))
    said = {name: text.replace(",", "") for name, text in said.items()}
    systems: list[str | Path] = [write_captions(tmp_path / "lines.jsonl", list(said.values()))]
    systems += [write(tmp_path, said) for write in (_results, _csv, _parquet)]
    rows = [row(name, text) for name, text in said.items()]
    systems.append(output(rows[:4], rows[4:]))
    written = [[text] for text in sentences(6, seed=4)]
    found = run(systems, write_references(tmp_path / "refs.jsonl", written))
    formats = [system.format for system in found.systems]
    assert formats == ["jsonl", "coco", "csv", "parquet", "raycap"]
    first, *others = [values_of(found, number) for number in range(5)]
    assert all(values == first for values in others)
    assert [system.mean_logprob for system in found.systems[:4]] == [None] * 4
    assert found.systems[4].mean_logprob == pytest.approx(-0.3)


def test_scores_of_an_evaluation_can_be_evaluated_again(tmp_path: Path) -> None:
    systems, references = write_corpus(tmp_path, 10)
    first = run(systems, references, output=tmp_path / "out")
    again = run([tmp_path / "out" / "scores" / "part-000.parquet"], references)
    assert values_of(again) == values_of(first)
    assert again.systems[0].mean_logprob == first.systems[0].mean_logprob
