"""The commands that README and docs show, and which of them no test runs."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()

NOT_RUN = {
    "make demo": "runs `raycap demo`, which test_cli runs",
    "make test": "runs these tests",
    "pip install .": "takes minutes, and a network",
    "raycap caption photos/ blip/": "downloads a model",
    "raycap caption photos/ vlm/": "downloads a model",
    "raycap caption photos/ florence/": "downloads a model",
    "raycap caption photos/ both/": "downloads a model",
    "raycap caption photos/ qwen/": "downloads a model, and needs vLLM",
    "ray job submit": "needs a cluster; test_cli runs the job script",
}
"""Commands of the README that no test runs, and why."""

_BLOCK = re.compile(
    r"(?:<!-- not executed: (?P<reason>[^\n]*?) -->\n+)?"
    r"^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.S | re.M,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a page."""

    page: str
    language: str
    text: str
    reason: str | None
    """Why it is not executed, as the page says right above: `<!-- not executed: ... -->`."""

    @property
    def commands(self) -> list[str]:
        """Its commands, without comments; one that goes on in the next line is one."""
        lines = [line.partition(" #")[0].strip() for line in _joined(self.text).splitlines()]
        return [line for line in lines if line and not line.startswith("#")]


def blocks_of(page: str, text: str) -> list[Block]:
    """Find the blocks of a page that have a language."""
    return [
        Block(page, found["language"], found["text"], found["reason"])
        for found in _BLOCK.finditer(text)
    ]


def readme_commands() -> list[str]:
    """Every command of the README's shell blocks."""
    blocks = [block for block in blocks_of("README.md", README) if block.language == "bash"]
    return [command for block in blocks for command in block.commands]


def docs_blocks(language: str) -> list[Block]:
    """Every block of a language of the pages in `docs/`, page by page."""
    pages = sorted(DOCS.glob("*.md"))
    blocks = [block for page in pages for block in blocks_of(page.name, page.read_text())]
    return [block for block in blocks if block.language == language]


def docs_commands() -> list[str]:
    """Commands of the docs that are to be executed and that the README does not have, each once."""
    blocks = [block for block in docs_blocks("bash") if block.reason is None]
    known = set(readme_commands())
    commands = [command for block in blocks for command in block.commands]
    return [command for command in dict.fromkeys(commands) if command not in known]


def _joined(text: str) -> str:
    return re.sub(r"\\\n\s*", "", text)
