"""Old spellings of options: accepted for one version, with a line on standard error."""

import re
from collections.abc import Mapping
from typing import Any

from typer.core import TyperCommand

from raycap.console.terminal import stderr

POSITIONAL = ""
"""The new spelling of an option that has become the last positional argument."""

_KIND = {"--model": "--kind", "-m": "--kind"}
_OUTPUT = {"--output": POSITIONAL, "-o": POSITIONAL}
RENAMED: Mapping[str, Mapping[str, str]] = {
    "train": _KIND,
    "tune": _KIND,
    "calibrate": _OUTPUT,
    "demo": _OUTPUT,
    "export": {"--force": "--existing=overwrite", "--keep-existing": "--existing=skip"},
}
"""Old and new spellings, by command; a flag has a new one with a value. Remove them in the version
after 0.2."""


class Command(TyperCommand):
    """A command that also understands its old spellings."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Rewrite old spellings, then parse."""
        return super().parse_args(ctx, rewritten(str(self.name), args))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line: `SOURCE`, as in all prose, not `{SOURCE}`."""
        return [re.sub(r"^\{(.*)\}", r"\1", piece) for piece in super().collect_usage_pieces(ctx)]


def rewritten(command: str, arguments: list[str]) -> list[str]:
    """Return the arguments of a command in their present spelling, and warn of each old one."""
    renamed = RENAMED.get(command, {})
    left, found, last = list(arguments), [], []
    while left:
        word = left.pop(0)
        if word == "--":
            found += [word, *left]
            break
        option, value = _parted(word)
        new = renamed.get(option)
        if new is None:
            found.append(word)
            continue
        if "=" in new:
            found.append(new)
            _warn(command, option, new.replace("=", " "))
            continue
        values = [value] if value is not None else left[:1]
        left = left if value is not None else left[1:]
        if new == POSITIONAL:
            last += values
        else:
            found += [new, *values]
        _warn(command, option, new)
    return [*found, *last]


def _parted(word: str) -> tuple[str, str | None]:
    """Part an option from a value that is attached to it: `--model=blip`, `-mblip`."""
    if word.startswith("--"):
        option, equals, value = word.partition("=")
        return option, value if equals else None
    if word.startswith("-") and len(word) > 2:
        return word[:2], word[2:]
    return word, None


def _warn(command: str, old: str, new: str) -> None:
    present = f"is now {new}" if new else f"is now the last argument of `raycap {command}`"
    stderr().print(
        f"deprecated: {old} {present}; the old spelling works in this version only",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
