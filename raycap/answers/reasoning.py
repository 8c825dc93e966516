"""Reasoning that a model writes before its answer, in the forms that models and servers leave.

Servers usually take it off themselves; without the right parser, it arrives as part of the answer.
"""

import re

_TAGS = "think|thinking|thought|thoughts|reasoning|reflection|scratchpad|seed:think"
_BEGIN = rf"<\s*(?:{_TAGS})\s*>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|START_THINKING\|>"
_END = rf"<\s*/\s*(?:{_TAGS})\s*>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|END_THINKING\|>"
# Gemma's channel, and its older form
_BEGIN += r"|<\|channel>thought\b|<unused94>thought\b"
_END += r"|<channel\|>|<unused95>"

_BLOCK = re.compile(f"(?:{_BEGIN})(?:(?!{_BEGIN}).)*?(?:{_END})", re.DOTALL | re.IGNORECASE)
_OPENED = re.compile(rf"^[ \t]*(?:{_BEGIN})", re.MULTILINE | re.IGNORECASE)
_CLOSED = re.compile(_END, re.IGNORECASE)
_MARK = re.compile(f"{_BEGIN}|{_END}|<\\|channel\\|>|analysis", re.IGNORECASE)

# OpenAI's harmony format: channels of messages, of which `final` is the answer. Without its special
# tokens it is one word: "analysisThe user wants ...assistantfinalA dog".
_CHANNEL = re.compile(
    r"(?:<\|start\|>\s*assistant)?\s*<\|channel\|>\s*(\w+)[^<]*<\|message\|>"
    r"(.*?)(?=<\|end\|>|<\|return\|>|<\|call\|>|<\|start\|>|<\|channel\|>|\Z)",
    re.DOTALL,
)
_GLUED = re.compile(r"\s*(?:assistant)?analysis(?=[A-Z\"'(*\d])", re.DOTALL)
_GLUED_FINAL = re.compile(r"assistant\s*final", re.DOTALL)

_SPECIAL = re.compile(
    r"<\|(?:im_end|im_start|endoftext|end|return|eot_id|eom_id|end_of_text|begin_of_text|"
    r"end_of_turn|start|assistant|user|system)\|>|</?s>|<eos>|<bos>|<pad>|<(?:end|start)_of_turn>|"
    r"<end_of_utterance>|<fake_token_around_image>|<image>",
)
_WRAPPED = re.compile(
    r"\s*(?:<answer>(.*?)(?:</answer>\s*|\Z)|<\|begin_of_box\|>(.*?)(?:<\|end_of_box\|>\s*|\Z)"
    r"|<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>\s*|\Z)"
    r"|<\|START_RESPONSE\|>(.*?)(?:<\|END_RESPONSE\|>\s*|\Z))\Z",
    re.DOTALL | re.IGNORECASE,
)


def without_reasoning(answer: str) -> tuple[str, bool]:
    """Take reasoning off an answer.

    Text before and behind closed blocks remains. Where only the end of a block is there, as its
    beginning was part of the prompt, all text before it is reasoning; where only the beginning is
    there, at the start of a line, all text behind it.

    Returns:
        The rest, and whether there was any reasoning. Without any, the answer is unchanged.
    """
    if _MARK.search(answer) is None:
        return answer, False
    rest = _without_channels(answer)
    rest = answer if rest is None else rest
    rest = _without_blocks(rest)
    if rest == answer:
        return answer, False
    return _unwrapped(without_special_tokens(rest)).strip(), True


def without_special_tokens(text: str) -> str:
    """Remove the special tokens of chat templates, which some servers leave in answers."""
    return _SPECIAL.sub("", text)


def _without_channels(answer: str) -> str | None:
    """Return the final channel of an answer in the harmony format; None if it is in another."""
    channels = list(_CHANNEL.finditer(answer))
    if channels:
        return "".join(found[2] for found in channels if found[1] == "final")
    if _GLUED.match(answer):
        final = list(_GLUED_FINAL.finditer(answer))
        return answer[final[-1].end() :] if final else ""
    return None


def _without_blocks(answer: str) -> str:
    former = None
    while former != answer:  # blocks within blocks: the inner ones first
        former, answer = answer, _BLOCK.sub("", answer)
    closed = list(_CLOSED.finditer(answer))
    if closed:
        answer = answer[closed[-1].end() :]
    opened = _OPENED.search(answer)
    return answer if opened is None else answer[: opened.start()]


def _unwrapped(text: str) -> str:
    """Take off the tags that models put around the answer behind their reasoning."""
    found = _WRAPPED.match(text)
    if found is None:
        return text
    inner: str = next(group for group in found.groups() if group is not None)
    return inner
