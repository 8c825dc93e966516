"""The Python API: the examples of docs/python.md run, in their order."""

import re
import shutil
from pathlib import Path

import pytest

import raycap
from raycap.demo.scenes import long_captions, write_scenes

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the images that the page names."""
    scenes = write_scenes(tmp_path / "annotated", 24, seed=5)
    for name, scene in scenes:
        text = "\n".join(long_captions(scene))
        (tmp_path / "annotated" / name).with_suffix(".txt").write_text(text)
    (tmp_path / "photos").mkdir()
    for name, _ in scenes[:8]:
        shutil.copy(tmp_path / "annotated" / name, tmp_path / "photos" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray Data's own settings
@pytest.mark.usefixtures("ray_session")
def test_the_examples_run_in_their_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert len(blocks) >= 7
    scope: dict[str, object] = {}
    for block in blocks:
        if module := re.match(r"# (\w+\.py)\n", block):
            (folder / module[1]).write_text(block)
            continue
        exec(block, scope)  # noqa: S102  the project's own documentation
    printed = capsys.readouterr().out
    assert "8 captioned, 0 failed" in printed
    assert len((folder / "captions.jsonl").read_text().splitlines()) == 8
    assert "</html>" in (folder / "report.html").read_text()
    assert raycap.status("tuned/").state == "complete"
