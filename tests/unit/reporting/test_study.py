"""Studies in the report: conclusions, tables of systems, charts and their descriptions."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from raycap.errors import DatasetError
from raycap.reporting.report import report
from raycap.reporting.study import all_table, main_table
from raycap.results.study import STUDY
from tests.support.report_samples import pillow_as_it_was
from tests.support.study_samples import (
    all_systems,
    calibrated,
    pretrained,
    study_of,
    system,
    trained_systems,
    training_of,
    unscored,
    write_study_sample,
)
from tests.support.taken_apart import (
    HOSTILE,
    SVG,
    Page,
    assert_nothing_is_markup,
    drawings,
    told,
)

__all__ = ["pillow_as_it_was"]

pytestmark = pytest.mark.usefixtures("pillow_as_it_was")

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
NAN = float("nan")
GROWTH = {"growth-score", "growth-words", "growth-loss", "growth-gap"}
AUGMENTATION = {"augmentation-score", "augmentation-gap"}


def page_of(folder: Path, *args: Any, **changes: Any) -> Page:
    """Report on a study; its page stands in `page.html`."""
    report([write_study_sample(folder / "study", *args, **changes)], folder / "page.html")
    return Page(folder / "page.html")


def test_a_study_shows_what_to_conclude_and_its_systems(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    for shown in (
        "study: captioners compared on scenes",
        "22 systems tested on the test split finished 24 Nov 2026, 07:00 UTC",
        "systems finished 22 of 22 22 finished",
        "test images 1,000 of the test split, scored",
        "words per reference 17.4 17.6 tokens per caption",
        "best CIDEr-D 0.810 blip-finetuned",
        "time 6.0 h of the last invocation;",
        "Conclusions Take blip-finetuned: its CIDEr-D of 0.810 is the best",
        "9 systems overfit. cnn-lstm-plain from epoch 6; transformer-10 from epoch 7;",
        "and 1 more, see the table",
        f"blip-calibrated: length gap in tokens {MINUS}9.81 \N{RIGHTWARDS ARROW} {MINUS}0.40",
        "blip-calibrated: CIDEr-D 0.360 \N{RIGHTWARDS ARROW} 0.580",
        "All systems: 22",
        "shares of the training images 10 %, 25 %, 50 %, 100 %",
        "study.max_concurrent 2",
        "version.raycap 0.1.0",
    ):
        assert shown in page.text, shown
    assert "not finished" not in page.text
    assert "failed." not in page.text


def test_the_main_systems_stand_side_by_side_in_the_order_given(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    table = main_table(study_of(tmp_path / "again"))
    names = [row.name for row in table.rows]
    roles = ["cnn-lstm", "transformer", "hybrid", "blip-pretrained", "blip-calibrated"]
    assert names == [*roles, "blip-finetuned", "people"]
    assert table.columns[:7] == (
        "words per caption",
        "CIDEr-D",
        "BLEU-4",
        "ROUGE-L",
        "METEOR",
        "loss gap",
        "images trained on",
    )
    assert (
        f"blip-pretrained 7.7 {MINUS}9.70 tokens {MINUS}9.73 to {MINUS}9.67 0.361 0.331 to 0.389"
        in page.text
    )
    assert f"{DASH} {DASH} 26.1 s {DASH} 38.2 {DASH}" in page.text
    assert "+0.340 8,000 5,426 s 1.5 h 143.2 38.2 2,431 device 17,412" in page.text
    assert f"people 17.4 17.60 tokens {DASH} {DASH}" in page.text
    best = {row.name for row in table.rows if row.cells[1].is_best}
    assert best == {"blip-finetuned"}
    assert {row.name for row in table.rows if row.cells[0].is_best} == {"hybrid"}


def test_every_plot_is_drawn_and_told_in_words(tmp_path: Path) -> None:
    page_of(tmp_path)
    found = drawings(tmp_path)
    assert found.keys() == {"length", "score"} | GROWTH | AUGMENTATION
    assert "blip-pretrained: 7.7, 9.7 fewer; blip-calibrated: 16.9, 0.5 fewer" in told(
        found["length"]
    )
    assert told(found["length"]).endswith("people: 17.4.")
    assert "blip-finetuned: 17.9, 0.5 more" in told(found["length"])
    assert "hybrid: 0.680" in told(found["score"])
    assert "cnn-lstm: 0.277 at 10 %, 0.327 at 25 %" in told(found["growth-score"])
    assert "cnn-lstm without augmentation: 0.370 at 100 %" in told(found["growth-score"])
    assert "cnn-lstm: +0.490 at 10 %" in told(found["growth-gap"])
    assert "hybrid: 0.630 \N{RIGHTWARDS ARROW} 0.680" in told(found["augmentation-score"])
    assert "hybrid: +0.670 \N{RIGHTWARDS ARROW} +0.300" in told(found["augmentation-gap"])
    assert all(
        svg.attrib["role"] == "img" and svg.findtext(f"{SVG}title") for svg in found.values()
    )
    page = Page(tmp_path / "page.html")
    assert not any("style" in attributes for _, attributes in page.tags)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_a_kind_of_system_has_one_colour_in_all_plots(tmp_path: Path) -> None:
    page_of(tmp_path)
    for name, svg in drawings(tmp_path).items():
        inks = set(re.findall(r"line-\d", ElementTree.tostring(svg, "unicode")))
        trained = {"line-0", "line-1", "line-2", "line-5"}
        every = trained | {"line-3", "line-4"}
        assert inks == (every if name in ("length", "score") else trained), name


def test_the_same_study_gives_the_same_page(tmp_path: Path) -> None:
    page_of(tmp_path)
    first = (tmp_path / "page.html").read_bytes()
    page_of(tmp_path)
    assert (tmp_path / "page.html").read_bytes() == first


def test_a_study_that_goes_on_says_so(tmp_path: Path) -> None:
    systems = [
        pretrained(),
        unscored("blip-calibrated", "blip-calibrated", "running"),
        unscored("hybrid", "hybrid", "waiting"),
    ]
    page = page_of(tmp_path, systems, end="", best=None, finished_at="", decision=[])
    assert "not finished: 1 of 3 systems so far" in page.text
    assert "The same `raycap study` command continues it." in page.text
    assert "systems finished 1 of 3 1 finished, 1 running, 1 waiting" in page.text
    assert "best CIDEr-D 0.361 blip-pretrained" in page.text  # though the record names none yet
    assert f"hybrid waiting {DASH} {DASH}" in page.text
    assert "Conclusions" not in page.text
    assert drawings(tmp_path).keys() == {"length", "score"}


def test_a_study_of_which_nothing_is_over_has_no_plots(tmp_path: Path) -> None:
    systems = [unscored(role, role, "waiting") for role in ("hybrid", "blip-pretrained")]
    nothing = {"num_images": 0, "reference_mean_words": 0.0, "reference_mean_tokens": 0.0}
    page = page_of(tmp_path, systems, end="", decision=[], wall_s=0.0, **nothing)
    assert f"test images {DASH}" in page.text
    assert f"words per reference {DASH}" in page.text
    assert "best CIDEr-D" not in page.text
    assert f"people {DASH} {DASH}" in page.text
    assert drawings(tmp_path) == {}


def test_a_study_without_a_system_is_shown(tmp_path: Path) -> None:
    page = page_of(tmp_path, [], end="", decision=[])
    assert "systems finished 0 of 0 no systems" in page.text
    assert drawings(tmp_path) == {}


def test_failed_systems_are_told_with_their_reasons(tmp_path: Path) -> None:
    failed = [
        unscored(f"bad-{n}", "hybrid", "failed", subset=n / 10, reason=reason)
        for n, reason in enumerate(["no\n  memory", "", "c", "d", "Traceback " * 200], start=1)
    ]
    page = page_of(tmp_path, [pretrained(), *failed])
    assert (
        "5 systems failed. bad-1: no memory; bad-2: unknown reason; bad-3: c; and 2 more, "
        "see the table" in page.text
    )
    assert "1 finished, 5 failed" in page.text
    table = all_table(study_of(tmp_path / "again", [pretrained(), *failed]))
    assert [row.reason for row in table.rows[:3]] == ["", "no memory", ""]
    assert len(table.rows[5].reason) < 700


def test_one_failed_system_and_one_that_overfits_are_told_as_one(tmp_path: Path) -> None:
    past = system("t", "transformer", 15.0, 0.5, training=training_of(1.0, 0.7, overfits_since=4))
    failed = unscored("h", "hybrid", "failed", reason="no memory")
    page = page_of(tmp_path, [past, failed])
    assert "1 system failed. h: no memory" in page.text
    assert "1 system overfits. t from epoch 4" in page.text
    assert "+0.700 overfits from epoch 4" in page.text


def test_images_without_a_caption_are_told(tmp_path: Path) -> None:
    page = page_of(tmp_path, [pretrained() | {"num_failed": 1200}])
    assert "Images without a caption. blip-pretrained: 1,200" in page.text


def test_one_subset_has_no_growth(tmp_path: Path) -> None:
    page = page_of(tmp_path, [pretrained(), *trained_systems(subsets=(1.0,))])
    assert drawings(tmp_path).keys() == {"length", "score"} | AUGMENTATION
    assert "Effect of more training images" not in page.text


def test_subsets_without_a_plain_system_have_no_augmentation(tmp_path: Path) -> None:
    systems = [item for item in trained_systems() if item["is_augmented"]]
    page = page_of(tmp_path, systems)
    assert drawings(tmp_path).keys() == {"length", "score"} | GROWTH
    assert "without augmentation" not in page.text


def test_augmentation_on_a_smaller_subset_is_named(tmp_path: Path) -> None:
    systems = [
        system(f"hybrid-{n}", "hybrid", 15.0, 0.5 + 0.1 * n, subset=0.25, is_main=False)
        | {"training": training_of(0.25, 0.4 - 0.1 * n), "is_augmented": bool(n)}
        for n in (0, 1)
    ]
    page_of(tmp_path, systems)
    found = drawings(tmp_path)
    assert found.keys() == AUGMENTATION
    assert "hybrid, 25 %: 0.500 \N{RIGHTWARDS ARROW} 0.600" in told(found["augmentation-score"])


def test_without_a_trained_system_only_lengths_and_scores_are_drawn(tmp_path: Path) -> None:
    page = page_of(tmp_path, [pretrained(), calibrated()])
    assert drawings(tmp_path).keys() == {"length", "score"}
    assert f"shares of the training images {DASH}" in page.text
    assert "blip-calibrated: length gap in tokens" in page.text


def test_without_a_calibrated_system_nothing_is_said_of_it(tmp_path: Path) -> None:
    systems = [item for item in all_systems() if item["calibration"] is None]
    assert "Calibration" not in page_of(tmp_path, systems).text


def test_scores_that_are_missing_or_no_numbers_are_dashes(tmp_path: Path) -> None:
    systems = all_systems()
    for item in systems:
        item["scores"].pop("meteor")
    systems[3]["scores"] = {}
    systems[8]["scores"]["cider_d"]["value"] = NAN
    systems[13]["scores"]["cider_d"] |= {"low": NAN, "high": None}
    systems[0]["training"] |= {"gap": NAN, "validation_loss": NAN}
    page = page_of(tmp_path, systems)
    assert "METEOR" not in page.text
    assert "nan" not in "".join(page.texts).lower()
    found = drawings(tmp_path)
    assert not any(
        re.search(r"\bnan\b", ElementTree.tostring(it, "unicode")) for it in found.values()
    )
    assert "cnn-lstm:" not in told(found["length"])
    assert "transformer:" not in told(found["score"])
    assert "cnn-lstm: 1.870" not in told(found["growth-loss"])
    assert "cnn-lstm: 2.295 at 25 %" in told(found["growth-loss"])


def test_lengths_alone_are_drawn_without_people(tmp_path: Path) -> None:
    page_of(tmp_path, [pretrained()], reference_mean_words=0.0)
    assert told(drawings(tmp_path)["length"]) == "Words per caption. blip-pretrained: 7.7."


def test_metrics_that_ran_beyond_the_usual_are_in_the_table_of_all(tmp_path: Path) -> None:
    item = pretrained()
    item["scores"]["spice"] = {"value": 0.123, "low": None, "high": None}
    study = study_of(tmp_path, [item])
    assert "SPICE" in all_table(study).columns
    assert "SPICE" not in main_table(study).columns


def test_shares_that_lie_close_are_named_once(tmp_path: Path) -> None:
    page_of(tmp_path, trained_systems(("hybrid",), (0.1, 0.95, 0.98, 1.0)))
    texts = "".join(drawings(tmp_path)["growth-score"].itertext())
    drawn = texts.split("share of the training images")
    assert "95 %" not in drawn[-1]
    assert "95 %" in told(drawings(tmp_path)["growth-score"])


def test_whatever_a_study_holds_stays_text(tmp_path: Path) -> None:
    systems = [
        system(f"{value}{n}", value, 10.0 + n, 0.5, subset=0.5**n, output=HOSTILE)
        | {"training": training_of(1.0, 0.7, overfits_since=4), "num_failed": 1}
        | {"calibration": calibrated()["calibration"], "is_augmented": n % 2 == 0}
        for n, value in enumerate([HOSTILE, "$\\frac{$", "\u4e2d\x01", "<b>&amp;", HOSTILE])
    ]
    systems.append(systems[0] | {"name": f"{HOSTILE}-plain", "is_augmented": False})
    systems.append(unscored(HOSTILE, HOSTILE, "failed", reason=HOSTILE))
    page_of(
        tmp_path,
        systems,
        output=HOSTILE,
        dataset=HOSTILE,
        split=HOSTILE,
        end=HOSTILE,
        decision=[HOSTILE],
        started_at=HOSTILE,
        finished_at=HOSTILE,
        versions={HOSTILE: HOSTILE},
        config={HOSTILE: HOSTILE},
    )
    titles = (svg.get("aria-labelledby") for svg in Page(tmp_path / "page.html").attributes("svg"))
    assert len(list(titles)) == len({"length", "score"} | GROWTH | AUGMENTATION)
    assert_nothing_is_markup(tmp_path / "page.html", num_galleries=0)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"systems": [{"name": "t"}]}, r"systems\.0"),
        ({"systems": [unscored("h", "hybrid", "lost")]}, r"systems\.0\.status"),
        ({"systems": None}, "systems"),
        ({"reference_mean_words": "many"}, "reference_mean_words"),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, changes: dict[str, Any], place: str) -> None:
    output = write_study_sample(tmp_path / "s")
    file = tmp_path / "s" / STUDY
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(DatasetError, match=place) as caught:
        report([output], tmp_path / "page.html")
    assert caught.value.uri == str(file)
    file.write_text("{")
    with pytest.raises(DatasetError, match="JSON") as caught:
        report([output], tmp_path / "page.html")
    assert caught.value.uri == str(file)
