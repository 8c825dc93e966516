"""Find and replace: which captions it changes, and to what."""

import time
from collections.abc import Iterable, Iterator

import regex
from pydantic import Field, ValidationError

from raycap.answers.wording import Wording, check_rules
from raycap.config import Replacement, Section, TextConfig
from raycap.errors import ConfigError, ImageError

_LIMIT_S = 60.0
"""Longest time to search all captions for."""


class Rule(Section):
    """What to find, and what to put there."""

    find: str = Field(min_length=1, max_length=1_000)
    replacement: str = Field(default="", max_length=1_000)
    """Of a regular expression, `\\1` or `\\g<name>` is a group."""
    regex: bool = False
    """Whether `find` is a regular expression."""
    match_case: bool = True


def wording(rule: Rule) -> Wording:
    """Return the function from a caption to its new text, as the setting `text.replace` has it.

    Raises:
        ConfigError: the regular expression is not valid, or takes too long.
    """
    find, replacement = rule.find, rule.replacement
    is_regex = rule.regex or not rule.match_case
    if is_regex and not rule.regex:
        find, replacement = regex.escape(find), replacement.replace("\\", "\\\\")
    flags = "" if rule.match_case else "(?i)"
    try:
        config = TextConfig(
            replace=[Replacement(find=f"{flags}{find}", replacement=replacement, regex=is_regex)]
        )
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{rule.find!r}: {reason}", setting="find") from None
    try:
        check_rules(config)
    except ConfigError:
        raise ConfigError(
            f"{rule.find!r}: takes too long to search; write it without repetitions inside of "
            "repetitions, such as (a+)+",
            setting="find",
        ) from None
    return Wording(config)


def replaced(
    rule: Rule, captions: Iterable[tuple[int, str | None]]
) -> Iterator[tuple[int, str | None]]:
    """Yield the captions that a rule changes, with their new text.

    The text is None if nothing would be left of the caption, or if searching it takes too long: it
    has to stay as it is.

    Args:
        rule: what to find and replace.
        captions: texts with the numbers of their items.

    Raises:
        ConfigError: the regular expression is not valid, or takes too long.
    """
    change = wording(rule)
    started = time.monotonic()
    for item, caption in captions:
        if caption is None:
            continue
        try:
            text = change(caption)
        except ImageError:
            yield item, None
        else:
            if text != caption:
                yield item, text
        if time.monotonic() - started > _LIMIT_S:
            raise ConfigError(
                f"{rule.find!r}: is still searching after {_LIMIT_S:.0f} s; filter the images "
                "first, or write a simpler expression",
                setting="find",
            )
