"""Examples in README and docs: which commands they show, and how tests run them."""

import json
import re
import shlex
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from raycap.demo.scenes import long_captions, short_caption, write_scenes
from tests.support.cli import InProcess
from tests.support.commandline import CommandLine

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CONFIGS = ROOT / "configs"
README = (ROOT / "README.md").read_text()
FORMATS = (DOCS / "file-formats.md").read_text()

NOT_RUN = {
    "make demo": "runs `raycap demo`, which test_cli runs",
    "make test": "runs these tests",
    "pip install .": "takes minutes, and a network",
    "raycap caption photos/ blip/": "downloads a model",
    "raycap caption photos/ vlm/": "downloads a model",
    "raycap caption photos/ florence/": "downloads a model",
    "raycap caption photos/ both/": "downloads a model",
    "raycap caption photos/ qwen/": "downloads a model, and needs vLLM",
    "ray job submit": "needs a cluster; test_jobs submits the same script",
}
"""Beginnings of commands that no test runs, and why."""

IN_DOCS = ("raycap tune", "raycap study", "raycap calibrate")
"""Beginnings of README commands that take minutes: only the walk through the docs runs them."""

_SMALL = [
    *("--set", "generation.num_beams=1", "--set", "generation.max_new_tokens=8"),
    *("--set", "architecture.width=16", "--set", "architecture.image_px=64"),
    *("--set", "architecture.encoder=small-cnn"),
]
_ADDED = {
    "raycap train dataset/ run/": [
        *("--init", "demo", "--set", "train.num_epochs=1", "--set", "generation.num_beams=1"),
        *("--set", "train.batch_size=8", "--set", "generation.max_new_tokens=8"),
    ],
    "raycap train dataset/ run-hybrid/": ["--set", "train.num_epochs=1", *_SMALL[:-2]],
    "raycap tune": [
        *("--set", "tune.space.train.lr=[5e-4]", "--set", "train.num_epochs=1"),
        *("--set", "tune.space.train.batch_size=[8]", *_SMALL),
    ],
    "raycap train dataset/ best/": ["--set", "train.num_epochs=1"],
    "raycap study": [
        *("--set", "study.systems=[cnn-lstm,blip-pretrained]", "--set", "study.subsets=[1.0]"),
        *("--set", "study.subsets_without_augmentation=[]"),
        *("--set", "training.train.num_epochs=1", "--set", "training.train.batch_size=8"),
    ],
    "raycap calibrate": ["--set", "search.num_min_lengths=1", "--set", "generation.num_beams=1"],
    "raycap evaluate": ["--set", "external.meteor=false", "--set", "bootstrap.num_resamples=50"],
    "raycap caption s3://": ["--model", "stub"],
}
"""Beginnings of commands, and the arguments with which they take seconds and download nothing."""

_BLOCK = re.compile(
    r"(?:<!-- not executed: (?P<reason>[^\n]*?) -->\n+)?"
    r"^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.S | re.M,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A code block of a page."""

    page: str
    language: str
    text: str
    reason: str | None
    """Why it is not executed, from the line above it: `<!-- not executed: ... -->`."""

    @property
    def commands(self) -> list[str]:
        """Its commands, without comments; a command continued on the next line is one."""
        lines = self.text.replace("\\\n", " ").splitlines()
        commands = [line.partition(" #")[0].strip() for line in lines]
        return [command for command in commands if command and not command.startswith("#")]


def blocks_of(page: str, text: str) -> list[Block]:
    """Return the blocks of a page that name a language."""
    return [
        Block(page, found["language"], found["text"], found["reason"])
        for found in _BLOCK.finditer(text)
    ]


def navigation() -> list[str]:
    """Return the pages of `docs/` in the order of the site."""
    entries = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    return [
        page
        for entry in entries
        for page in ([entry] if isinstance(entry, str) else next(iter(entry.values())))
    ]


def readme_commands() -> list[str]:
    """Return every command of the README's shell blocks."""
    blocks = [block for block in blocks_of("README.md", README) if block.language == "bash"]
    return [command for block in blocks for command in block.commands]


def docs_blocks(language: str) -> list[Block]:
    """Return every block of a language in `docs/`, in the order of the site."""
    blocks = [
        block for page in navigation() for block in blocks_of(page, (DOCS / page).read_text())
    ]
    return [block for block in blocks if block.language == language]


def docs_commands() -> list[str]:
    """Return the commands of `docs/` that a test executes, each once."""
    commands = [
        command
        for block in docs_blocks("bash")
        for command in block.commands
        if block.reason is None and is_run(command) and "s3://" not in command
    ]
    return list(dict.fromkeys(commands))


def is_run(command: str) -> bool:
    """Return whether a test executes a command."""
    return not command.startswith(tuple(NOT_RUN))


def run(raycap: CommandLine | InProcess, command: str) -> None:
    """Run a command of a page with small settings, and expect success."""
    added = [more for start, more in _ADDED.items() if command.startswith(start)]
    code, out, err = raycap(*shlex.split(command)[1:], *(added[0] if added else ()))
    assert code == 0, f"{command}\n{out}\n{err}"


def write_examples(folder: Path) -> None:
    """Write what the examples read: images, annotations, captions of another system, configs."""
    scenes = write_scenes(folder / "photos", 24, seed=5)
    shutil.copytree(folder / "photos", folder / "coco")
    images = [
        {
            "filename": name,
            "cocoid": at,
            "split": ("test", "val", "train")[min(at // 6, 2)],
            "sentences": [{"raw": text} for text in long_captions(scene)],
        }
        for at, (name, scene) in enumerate(scenes)
    ]
    (folder / "annotations").mkdir()
    (folder / "annotations/dataset_coco.json").write_text(json.dumps({"images": images}))
    results = [
        {"image_id": at, "caption": short_caption(scene)} for at, (_, scene) in enumerate(scenes)
    ]
    write_tars(folder)
    tagged = [f'photos/{name},"{scene.colour}, {scene.shape}"' for name, scene in scenes]
    (folder / "tagged.csv").write_text("\n".join(["uri,tags", *tagged, ""]))
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "configs").symlink_to(CONFIGS)


def write_tars(folder: Path) -> None:
    """Pack the images into two tars, as a WebDataset has them."""
    images = sorted((folder / "photos").iterdir())
    (folder / "shards").mkdir()
    for number in range(2):
        with tarfile.open(folder / f"shards/{number:05d}.tar", "w") as tar:
            for image in images[number::2]:
                tar.add(image, image.name)


def undescribed_files(output: Path, table: str) -> list[str]:
    """Return the files of an output that a table of `docs/file-formats.md` does not name.

    Args:
        output: the folder that a command wrote.
        table: the heading of the section, or the beginning of the table.
    """
    end = "\n\n" if table.startswith("|") else "\n## "
    text = FORMATS.partition(table)[2].partition(end)[0]
    names = [
        name
        for line in text.splitlines()
        for name in re.findall(r"`([^`]+)`", line.split("|")[1] if line.startswith("|") else "")
    ]
    assert names, table
    pattern = re.compile("|".join(_file_pattern(name) for name in names))
    files = [str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()]
    return sorted(file for file in files if not pattern.fullmatch(file))


def _file_pattern(name: str) -> str:
    """Return the regular expression of a described file; a folder stands for all files in it."""
    pattern = re.sub(r"0{3,}", r"\\d+", re.escape(name).replace("NAME", "[^/]+"))
    pattern = re.sub(r"^train/", "[^/]+/", pattern)  # each split has the same files
    return f"{pattern}.*" if name.endswith("/") else pattern
