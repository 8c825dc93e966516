"""The texts that users read: help, one line per mistake, results. `make texts` renews them."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from raycap.config import StorageConfig
from raycap.console import ALL_COMMANDS
from raycap.console.calibrate import print_calibration
from raycap.console.study import print_study
from raycap.console.train import print_training
from raycap.console.tune import print_search
from raycap.experiments.study.decision import decide, summarise
from raycap.results.evaluation import Comparison
from raycap.results.study import read_study
from raycap.results.training import read_training
from raycap.storage.stores import open_store
from tests.support.cli import InProcess
from tests.support.commandline import write_images
from tests.support.evaluation_samples import write_captions, write_corpus, write_references
from tests.support.outputs import failed, row
from tests.support.report_samples import write_captions as write_finished
from tests.support.study_samples import write_study_sample
from tests.support.texts import assert_as_before
from tests.support.training_samples import write_calibration_sample, write_run
from tests.support.tuned import search_of, trial

NAMES = list(ALL_COMMANDS)

_AT_SERVER = "caption photos out --model tiny --set model.backend=endpoint"

MISTAKES: dict[str, list[tuple[int, str]]] = {
    "caption": [
        (2, "caption nowhere out"),
        (2, "caption photos out --set engine.zz=1"),
        (2, "caption photos out --set engine"),
        (2, "caption photos out --set engine.part_size=many"),
        (2, "caption photos out --set model.backend=endpoint"),
        (2, f"{_AT_SERVER} --set endpoint.urls=localhost:8000"),
        (2, f"{_AT_SERVER} --set endpoint.urls=https://me:key@host"),
        (2, f"{_AT_SERVER} --set endpoint.urls=https://host --set endpoint.api_key_env=sk-1234"),
        (
            2,
            f"{_AT_SERVER} --set endpoint.urls=https://host --set endpoint.api_key_env=NO_SUCH_KEY",
        ),
        (2, f"{_AT_SERVER} --set endpoint.urls=https://host --set generation.num_beams=3"),
        (2, f"{_AT_SERVER} --set endpoint.urls=https://host --set endpoint.send=uri"),
        (2, "caption photos out --model stub --set endpoint.urls=https://host"),
        (2, "caption photos out --model ./none"),
        (2, "caption photos https://host/out"),
        (2, "caption photos nosuchthing://b/out"),
        (2, "caption photos s3://"),
        (2, "caption photos out --config list.yaml"),
        (2, "caption photos out --model stub --below -1 --set cascade.model=stub"),
        (1, "caption photos out --model 'a b'"),
        (1, "caption photos out --model weights.pt"),
        (1, "caption photos out --model stub --set model.compile=true"),
        (2, "caption photos out --model demo --set image.fit=keep"),
        (2, "caption photos out --model stub --set image.max_pixels_model=1000"),
        (2, "caption photos"),
        (2, "caption photos out --below -1.2"),
        (2, "caption photos out --dry-run --preflight 5"),
        (2, "caption photos out --again text --limit 5"),
        (2, "caption photos out --again text"),
        (2, "caption photos out --set 'text.replace=[{find: (a, regex: true}]'"),
        (2, "caption photos out --model stub --set 'prompts.a={text: b, json_schema: no.json}'"),
        (
            2,
            "caption photos out --model stub --set 'prompts.a={text: b, json_schema: {type: x}}'",
        ),
        (1, "verify photos"),
        (1, "status photos"),
        (1, "export photos captions.csv --to csv"),
        (2, "export done taken.csv --to csv"),
        (2, "status nowhere"),
    ],
    "evaluate": [
        (1, "evaluate few.jsonl refs.jsonl --output out"),
        (2, "evaluate few.jsonl nowhere --output out"),
        (2, "evaluate gone.jsonl refs.jsonl --output out"),
        (1, "evaluate photos refs.jsonl --output out"),
        (1, "evaluate bad.jsonl refs.jsonl --output out"),
        (2, "evaluate few.jsonl refs.jsonl --missing never --output out"),
        (1, "evaluate few.jsonl refs.jsonl --split test --output out"),
        (2, "evaluate few.jsonl --output out"),
        (1, "report photos --output out/page.html"),
        (2, "report done --output https://host/page.html"),
    ],
    "train": [
        (1, "train photos out --kind cnn-lstm"),
        (1, "tune photos out"),
        (1, "study photos out"),
        (1, "calibrate demo photos out"),
        (2, "prepare nowhere out"),
        (2, "prepare photos out"),
        (2, "prepare weights.pt out"),
    ],
}


def test_the_list_of_commands(cli: InProcess) -> None:
    code, out, _ = cli("--help")
    assert code == 0
    assert_as_before("help/raycap", out)


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_a_command_has_an_example(cli: InProcess, name: str) -> None:
    code, out, _ = cli(*name.split(), "--help")
    assert code == 0
    assert f"Example: raycap {name}" in out
    assert_as_before(f"help/{name.replace(' ', '-')}", out)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_its_exit_code(cli: InProcess, name: str) -> None:
    folder = cli.folder
    write_images(folder / "photos", 1)
    (folder / "bad.jsonl").write_text('{"image_id": 1}')
    (folder / "list.yaml").write_text("- engine")
    (folder / "taken.csv").write_text("x")
    (folder / "weights.pt").write_text("x")
    write_finished(folder / "done", [row("a.jpg")])
    write_captions(folder / "few.jsonl", ["a cat"])
    write_references(folder / "refs.jsonl", [["a cat"], ["a dog"], ["two men"]])
    told = []
    for expected, command in MISTAKES[name]:
        code, out, err = cli(*shlex.split(command))
        assert (code, out) == (expected, ""), f"{command}\n{out}{err}"
        assert "Traceback" not in err
        told.append(f"$ raycap {command}\n{err}")
    assert not (folder / "out").exists()
    assert_as_before(f"mistakes/{name}", "\n".join(told).replace(str(folder), "FOLDER"))


def test_what_a_finished_output_shows(cli: InProcess) -> None:
    write_images(cli.folder / "photos", 2)
    parts = [row("a.jpg"), failed("b.jpg")], [row("c.jpg", "two dogs")]
    write_finished(cli.folder / "output", *parts)
    told = []
    for code, command in (
        (0, "caption photos new --model stub --dry-run"),
        (0, "verify output"),
        (0, "export output captions.jsonl --to jsonl"),
    ):
        found, out, err = cli(*shlex.split(command))
        assert (found, err) == (code, ""), err
        told.append(f"$ raycap {command}\n{out}")
    assert_as_before("results/captions", "\n".join(told))


def test_what_an_evaluation_shows(cli: InProcess) -> None:
    systems, references = write_corpus(cli.folder, 20, num_systems=2)
    quick = ("--set", "external.meteor=false", "--set", "bootstrap.num_resamples=20")
    code, out, err = cli("evaluate", *systems, references, *quick)
    assert code == 0, err
    assert_as_before("results/evaluate", out.replace(str(cli.folder), "FOLDER"))


def test_what_training_calibrating_tuning_and_a_study_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # room for any address
    storage = StorageConfig()
    training = read_training(open_store(write_run(tmp_path / "run"), storage))
    assert training is not None
    shown: dict[str, Callable[[], None]] = {
        "train": lambda: print_training(training),
        "calibrate": lambda: print_calibration(write_calibration_sample(tmp_path / "model")),
        "tune": lambda: print_search(search_of([trial("t-1", 0.25, 0.5), trial("t-2", 0.75)])),
        "study": lambda: print_study(
            read_study(open_store(write_study_sample(tmp_path / "study"), storage))
        ),
    }
    for name, show in shown.items():
        show()
        assert_as_before(
            f"results/{name}", capsys.readouterr().out.replace(str(tmp_path), "FOLDER")
        )


def test_what_a_study_concludes(tmp_path: Path) -> None:
    store = open_store(write_study_sample(tmp_path / "study"), StorageConfig())
    found = read_study(store)
    told = []
    for p_value in (0.002, 0.4):
        compared = Comparison(
            metric="cider_d",
            first="hybrid",
            second="blip-finetuned",
            difference=-0.13,
            low=-0.27,
            high=0.01,
            p_value=p_value,
        )
        told.append("\n".join(decide(found.systems, [compared], found.reference_mean_words)))
    text = "\n\n".join([*told, summarise(found)])
    assert_as_before("results/decision", text.replace(str(tmp_path), "FOLDER"))
