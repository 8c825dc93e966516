"""Export to sidecars: a text file with the caption beside each image."""

import re

from raycap.config import Existing, Naming
from raycap.errors import ConfigError
from raycap.exporting.beside import CAPTION_COLUMN, Style, Values, export_beside
from raycap.exporting.jobs import Exporter, ExportJob
from raycap.exporting.names import SIDECAR_SUFFIX
from raycap.exporting.values import texts_of
from raycap.results.captioning import ExportCounts

_SUFFIX = re.compile(r"\.[\w.-]{1,31}", re.ASCII)
_BREAKS = re.compile(r"[\r\n]+")


def _export_sidecars(job: ExportJob) -> ExportCounts:
    suffix = SIDECAR_SUFFIX if job.suffix is None else job.suffix
    if not _SUFFIX.fullmatch(suffix) or suffix.endswith("."):
        raise ConfigError(
            f"--suffix {suffix}: is not a suffix of a file; give one such as .caption",
            setting="suffix",
        )
    style = Style(
        suffix=suffix,
        naming=job.naming or Naming.STEM,
        columns=(CAPTION_COLUMN,),
        render=_render,
        merge=_merge,
    )
    return export_beside(job, style)


def _render(values: Values) -> bytes | None:
    """Return a caption as it is, or several, each in a line of its own."""
    texts = [text for value in values.values() for text in texts_of(value)]
    if not texts:
        return None
    lines = texts if len(values) == len(texts) == 1 else map(_line, texts)
    return "".join(f"{line}\n" for line in lines).encode()


def _line(text: str) -> str:
    return _BREAKS.sub(" ", text)


def _merge(standing: bytes, values: Values, existing: Existing) -> bytes | None:
    """Add lines to a sidecar; only to an empty one, if its captions are imported.

    What is there stays byte by byte. A file that is not UTF-8 stays as it is.
    """
    try:
        text = standing.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    if existing is Existing.IMPORT and text.strip():
        return None
    there = {line.strip() for line in text.split("\n")}
    texts = (_line(text) for value in values.values() for text in texts_of(value))
    lines = [line for line in dict.fromkeys(texts) if line.strip() not in there]
    if not lines:
        return None
    newline = b"\r\n" if b"\r\n" in standing else b"\n"
    begins = b"" if not standing or standing.endswith(b"\n") else newline
    return standing + begins + b"".join(line.encode() + newline for line in lines)


EXPORTER = Exporter(
    write=_export_sidecars,
    existing=frozenset(Existing),
    options=frozenset({"suffix", "naming", "columns"}),
)
