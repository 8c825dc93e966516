"""Training runs in the report: complete, running, stopped, and compared."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from raycap.config import ReportConfig, StorageConfig
from raycap.errors import DatasetError
from raycap.reporting.report import report
from raycap.reporting.training import comparison_section, read_run, training_section
from raycap.results.training import ATTENTION
from raycap.storage.base import Store
from raycap.storage.stores import open_store
from tests.support.report_samples import pillow_as_it_was, scene_captions
from tests.support.taken_apart import HOSTILE, Page, assert_nothing_is_markup
from tests.support.training_samples import (
    begin_training,
    picture,
    training_history,
    write_history,
    write_non_finite,
    write_run,
)

__all__ = ["pillow_as_it_was"]

pytestmark = pytest.mark.usefixtures("pillow_as_it_was")

SVG = "{http://www.w3.org/2000/svg}"


def page_of(folder: Path, *paths: str) -> Page:
    report(paths, folder / "page.html")
    return Page(folder / "page.html")


def opened(folder: str) -> Store:
    return open_store(folder, StorageConfig())


def drawings(folder: Path) -> dict[str, ElementTree.Element]:
    """The plots of `page.html`, by the name that begins their ids."""
    text = (folder / "page.html").read_text(encoding="utf-8")
    found = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.S)]
    labelled = [svg for svg in found if "aria-labelledby" in svg.attrib]
    return {svg.attrib["aria-labelledby"].split("-title")[0]: svg for svg in labelled}


def test_a_complete_run_shows_how_it_went_and_ended(tmp_path: Path) -> None:
    page = page_of(tmp_path, write_run(tmp_path / "run"))
    for shown in (
        "run: cnn-lstm trained on scenes",
        "stopped early after 8 epochs",
        "epochs 8 of 10",
        "best epoch 5 by CIDEr-D",
        "CIDEr-D 1.200 best epoch",
        "grows by 0.097 per epoch",
        "Overfitting since epoch 6: validation loss rose from 1.313 to 1.463",
        "best, by CIDEr-D last",
        "Epoch 5 8",
        "Validation loss 1.313 1.463",
        "All epochs: 8",
        "images per step 32",
        "architecture.encoder resnet50",
        "version.torch 2.9.0",
    ):
        assert shown in page.text, shown


def test_every_curve_is_drawn_and_told_in_words(tmp_path: Path) -> None:
    page_of(tmp_path, write_run(tmp_path / "run"))
    told = {name: svg.findtext(f"{SVG}desc") or "" for name, svg in drawings(tmp_path).items()}
    expected = {
        "loss": "validation loss went from 2.677 to 1.463",
        "gap": "The gap is +0.908 after the last epoch, and grows by 0.097 per epoch",
        "cider": "CIDEr-D of generated captions went from 1.067 to 1.095",
        "bleu": "BLEU-4 of generated captions went from 0.213 to 0.219",
        "length": "16.5 tokens on average, those written by people 17.6",
        "rate": "It is 1.5e-05 at the last step",
    }
    assert told.keys() == {f"part-1-{name}-plot" for name in expected}
    for name, words in expected.items():
        assert words in told[f"part-1-{name}-plot"]
    assert "The model overfits from epoch 6." in told["part-1-loss-plot"]


def test_the_overfitting_epoch_is_marked_in_the_curves_of_loss_and_gap(tmp_path: Path) -> None:
    page_of(tmp_path, write_run(tmp_path / "run"))
    marked = {
        name
        for name, svg in drawings(tmp_path).items()
        if "overfitting from epoch 6" in "".join(svg.itertext())
    }
    assert marked == {"part-1-loss-plot", "part-1-gap-plot"}
    page_of(tmp_path, write_run(tmp_path / "fine", training_history(4, 4)))
    assert "overfitting from" not in Page(tmp_path / "page.html").text


@pytest.mark.parametrize("num_epochs", [1, 3])
def test_a_run_that_goes_on_shows_the_epochs_so_far(tmp_path: Path, num_epochs: int) -> None:
    store = begin_training(tmp_path / "run")
    write_history(store, training_history(num_epochs))
    page = page_of(tmp_path, store.uri)
    assert f"not complete: {num_epochs} of 10 epochs so far" in page.text
    assert "The same `raycap train` command continues it." in page.text
    assert len(drawings(tmp_path)) == 6


def test_a_run_before_its_first_epoch_shows_its_settings_and_augmentation(tmp_path: Path) -> None:
    page = page_of(tmp_path, begin_training(tmp_path / "run").uri)
    assert "part-1-curves" not in {attributes.get("id") for _, attributes in page.tags}
    assert "train.batch_size 32" in page.text
    (image,) = page.attributes("img")
    assert "augmented" in str(image["alt"])
    assert not drawings(tmp_path)


def test_a_run_stopped_by_its_loss_names_the_images(tmp_path: Path) -> None:
    store = begin_training(tmp_path / "run")
    write_history(store, training_history(2))
    write_non_finite(store, ["zebra.jpg"])
    text = page_of(tmp_path, store.uri).text
    assert "stopped at step 4 of epoch 3: the loss was not finite" in text
    assert "The step had 3 images" in text
    assert "zebra.jpg" in text


def test_unreadable_images_are_told_of(tmp_path: Path) -> None:
    history = training_history(3)
    history[-1] = replace(history[-1], num_unreadable=7)
    store = opened(write_run(tmp_path / "run", history))
    section = training_section(store, "a", ReportConfig())
    ((_, text),) = section.warnings
    assert "7 " in text


def test_losses_that_are_no_numbers_leave_a_gap_in_the_curves(tmp_path: Path) -> None:
    history = training_history(3)
    history[1] = replace(history[1], validation_loss=float("nan"), gap=float("inf"))
    page = page_of(tmp_path, write_run(tmp_path / "run", history))
    assert "nan" not in "".join(page.texts).lower()
    assert len(drawings(tmp_path)) == 6


def test_attention_is_shown_where_the_run_has_a_picture_of_it(tmp_path: Path) -> None:
    store = begin_training(tmp_path / "run")
    assert "Attention" not in page_of(tmp_path, store.uri).text
    store.write(ATTENTION, picture(1200, 600))
    page = page_of(tmp_path, store.uri)
    sheet = list(page.attributes("img"))[-1]
    assert sheet["width"] == "1120"
    assert "captions" in str(sheet["alt"])


def test_a_picture_that_is_damaged_is_told_of(tmp_path: Path) -> None:
    store = begin_training(tmp_path / "run")
    store.write(ATTENTION, b"no picture")
    assert "No picture" in page_of(tmp_path, store.uri).text


def test_several_runs_are_put_into_one_plot_before_the_first_of_them(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "lstm"),
        write_run(tmp_path / "other", training_history(6, 6), kind="transformer"),
        begin_training(tmp_path / "new").uri,
    ]
    page = page_of(tmp_path, scene_captions(tmp_path / "c", 4), *runs)
    assert page.text.index("3 training runs") > page.text.index("captioned by demo")
    assert page.text.index("Best epochs") < page.text.rindex("lstm: cnn-lstm trained on scenes")
    assert "lstm (cnn-lstm) 8 of 10 5 1.313 +0.567 1.200 0.240 \N{MINUS SIGN}1.8 6" in page.text
    assert "other (transformer) 6 of 10 6 1.229" in page.text
    assert "new (cnn-lstm) 0 of 10 \N{EN DASH}" in page.text
    plot = ElementTree.tostring(drawings(tmp_path)["comparison-loss-plot"], encoding="unicode")
    assert "stroke-line-0" in plot
    assert "stroke-line-1" in plot
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_runs_of_one_name_are_told_apart_by_their_addresses(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / where / "run") for where in ("a", "b")]
    section = comparison_section([read_run(opened(folder)) for folder in folders], "c")
    assert [row[0] for row in section.runs.rows] == [f"{folder} (cnn-lstm)" for folder in folders]


def test_more_runs_than_colours_are_told_apart_by_dashes(tmp_path: Path) -> None:
    run = read_run(opened(write_run(tmp_path / "run")))
    runs = [replace(run, address=f"/runs/{number}") for number in range(7)]
    (losses, _) = comparison_section(runs, "c").charts
    looks = [(curve.ink, curve.is_dashed) for curve in losses.key]
    assert len(set(looks)) == 7
    assert (looks[0], looks[6]) == (("line-0", False), ("line-0", True))


@pytest.mark.parametrize("name", ["history.jsonl", "training.json", "config.json"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "run")
    (tmp_path / "run" / name).write_text('{"epoch": "none"\n')
    with pytest.raises(DatasetError) as caught:
        report([run], tmp_path / "page.html")
    assert caught.value.uri == str(tmp_path / "run" / name)
    assert not (tmp_path / "page.html").exists()


def test_a_file_with_other_content_is_named(tmp_path: Path) -> None:
    for name in ("history.jsonl", "training.json"):
        run = write_run(tmp_path / name)
        (tmp_path / name / name).write_text('{"epoch": "none"}\n')
        with pytest.raises(DatasetError) as caught:
            report([run], tmp_path / "page.html")
        assert caught.value.uri == str(tmp_path / name / name)


def test_whatever_a_training_run_holds_stays_text(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", dataset=HOSTILE, versions={HOSTILE: HOSTILE})
    file = tmp_path / "run/run.json"
    mark = json.loads(file.read_text())
    mark["fingerprint"]["kind"] = HOSTILE
    file.write_text(json.dumps({**mark, "created_at": HOSTILE}))
    (tmp_path / "run/config.json").write_text(
        json.dumps({HOSTILE: HOSTILE, "validation": {"metric": HOSTILE}})
    )
    other = begin_training(tmp_path / "o" / HOSTILE.replace("/", "\\"))
    write_non_finite(other, [HOSTILE])
    report([run, other.uri], tmp_path / "page.html")
    assert_nothing_is_markup(tmp_path / "page.html", num_galleries=0)


def test_the_report_loads_neither_ray_nor_torch() -> None:
    look = (
        "import sys, raycap.reporting.report; "
        "print({'ray', 'torch', 'transformers', 'torchvision'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
