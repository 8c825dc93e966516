"""What `raycap evaluate` prints: every figure, at any width, whatever systems are called."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from raycap import schema
from raycap.config import MissingPolicy
from raycap.console.evaluate import print_evaluation
from raycap.results.evaluation import Evaluation, Metric
from tests.support.evaluation_samples import run, write_corpus

Print = Callable[[Evaluation, int], list[str]]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Print:
    """Give the lines that are printed on a terminal of some width."""

    def lines(found: Evaluation, width: int) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        print_evaluation(found)
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return lines


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    systems, references = write_corpus(tmp_path_factory.mktemp("corpus"), 40, num_systems=4)
    return run(systems, references)


def first(found: Evaluation, count: int) -> Evaluation:
    """Take some of the systems."""
    systems = found.systems[:count]
    names = {system.name for system in systems}
    pairs = [item for item in found.comparisons if {item.first, item.second} <= names]
    return replace(found, systems=systems, comparisons=pairs)


def starting(lines: list[str], label: str) -> list[str]:
    return [line for line in lines if line.startswith(label)]


def number_of(found: Evaluation, system: int, name: str) -> Metric:
    return next(metric for metric in found.systems[system].metrics if metric.name == name)


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_value_stands_in_one_line_that_fits(
    four: Evaluation, printed: Print, count: int, width: int
) -> None:
    found = first(four, count)
    lines = printed(found, width)
    assert max(map(len, lines)) <= width
    cells = " ".join(starting(lines, "CIDEr-D")).split()
    for number in range(count):
        assert f"{number_of(found, number, schema.CIDER_D).value:.4f}" in cells
    assert len([line for line in lines if "system-0" in line and "system" in line.split()[0]]) >= 1


def test_two_systems_stand_side_by_side_with_their_intervals(
    four: Evaluation, printed: Print
) -> None:
    found = first(four, 2)
    lines = printed(found, 80)
    assert lines[0].split() == ["system-0", "system-1"]
    (line,) = [line for line in lines if line.startswith("ROUGE-L")]
    cells = [
        f"{metric.value:.4f} [{metric.low:.4f}, {metric.high:.4f}]"
        for metric in (number_of(found, number, schema.ROUGE_L) for number in (0, 1))
    ]
    assert line == f"ROUGE-L          {cells[0]}  {cells[1]}"
    gap = found.systems[0].length_gap
    assert (
        f"{gap.difference:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]" in starting(lines, "length")[0]
    )


def test_where_room_is_scarce_intervals_are_short_and_systems_stand_below_each_other(
    four: Evaluation, printed: Print
) -> None:
    wide, narrow = printed(four, 120), printed(four, 60)
    assert len(starting(wide, "BLEU-1")) == 1
    assert "±" not in "".join(wide)
    assert len(starting(narrow, "BLEU-1")) == 2
    metric = number_of(four, 3, schema.BLEU[0])
    assert metric.low is not None
    assert metric.high is not None
    half = (metric.high - metric.low) / 2
    assert f"{metric.value:.4f} ±{half:.4f}" in starting(narrow, "BLEU-1")[1]


def test_pairs_are_compared_with_interval_and_p(four: Evaluation, printed: Print) -> None:
    lines = printed(four, 120)
    item = next(item for item in four.comparisons if item.metric == schema.CIDER_D)
    (start,) = starting(lines, "system-0 - system-1")
    assert "BLEU-4" in start
    line = lines[lines.index(start) + 1]
    assert line.split() == [
        "CIDEr-D",
        f"{item.difference:+.4f}",
        f"[{item.low:+.4f},",
        f"{item.high:+.4f}]",
        f"{item.p_value:.3f}",
    ]
    assert len([line for line in lines if " - system-" in line]) == 6
    assert starting(printed(replace(four, comparisons=[]), 120), "difference") == []


def test_names_are_shown_as_they_are_and_long_ones_folded(four: Evaluation, printed: Print) -> None:
    names = ["[red]a[/red]", "b" * 50]
    systems = [replace(s, name=n) for s, n in zip(four.systems, names, strict=False)]
    pairs = [replace(four.comparisons[0], metric="length", first=names[0], second=names[1])]
    lines = printed(replace(four, systems=systems, comparisons=pairs), 80)
    assert "[red]a[/red]" in lines[2]  # beside the end of the folded one
    assert "".join(line[-24:].strip() for line in lines[:3]).count("b") == 50
    (line,) = starting(lines, "[red]a[/red] - ")
    assert line.split()[2] == "b" * 15 + "…"
    assert max(map(len, lines)) <= 80


def test_what_was_skipped_is_told_once_for_all_or_by_the_systems_names(
    four: Evaluation, printed: Print
) -> None:
    lines = printed(first(four, 2), 120)
    told = " ".join(" ".join(lines).split())
    for skipped in (
        r"skipped METEOR\W.*external\.meteor",
        r"skipped CLIPScore, RefCLIPScore\W.*external\.clip_model",
        r"skipped SPICE\W.*external\.spice_jars",
    ):
        assert re.search(skipped, told)
    assert starting(lines, "METEOR") == []
    broken = [
        replace(metric, skipped="METEOR: its Java program ended")
        if metric.name == schema.METEOR
        else metric
        for metric in four.systems[0].metrics
    ]
    scored = [
        Metric(name=metric.name, value=0.25) if metric.name == schema.METEOR else metric
        for metric in four.systems[1].metrics
    ]
    systems = [
        replace(four.systems[number], metrics=metrics)
        for number, metrics in enumerate((broken, scored))
    ]
    lines = printed(replace(four, systems=systems), 120)
    assert starting(lines, "METEOR")[0].split() == ["METEOR", "skipped", "0.2500"]
    assert "skipped     METEOR: its Java program ended (system-0)" in lines


def test_what_is_left_over_is_told(tmp_path: Path, printed: Print) -> None:
    (captions,), references = write_corpus(tmp_path, 20)
    kept = Path(captions).read_text().splitlines()[8:]
    failed = '{"image_id": "00007.jpg", "status": "failed", "error_code": "too_large"}'
    extra = [f'{{"image_id": "x{at}.jpg", "caption": "a"}}' for at in range(2)]
    Path(captions).write_text("\n".join([*kept, failed, *extra]))
    with Path(references).open("a") as file:
        file.write('\n{"file_name": "99.jpg", "captions": []}')
    found = run([captions], references, missing=MissingPolicy.WORST)
    told = " ".join(" ".join(printed(found, 200)).split())
    assert "failed, missing 1, 7" in told
    assert (
        "without a row system-0: 7 (00000.jpg, 00001.jpg, 00002.jpg, 00003.jpg, 00004.jpg, ...)"
        in told
    )
    assert "without references system-0: 2 (x0.jpg, x1.jpg)" in told
    assert "failed system-0: 1 too_large" in told
    assert "references dropped 1 no_caption" in told


def test_without_resamples_values_stand_alone(tmp_path: Path, printed: Print) -> None:
    systems, references = write_corpus(tmp_path, 10)
    found = run(systems, references, settings={"bootstrap": {"num_resamples": 0}})
    lines = printed(found, 80)
    value = number_of(found, 0, schema.BLEU[0]).value
    assert starting(lines, "BLEU-1")[0].split() == ["BLEU-1", f"{value:.4f}"]
    assert starting(lines, "intervals") == []
