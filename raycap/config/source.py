"""Settings of the source of `raycap caption`, and of what is known of its images."""

from typing import Literal

from pydantic import Field

from raycap.config.base import Section

ContextOrigin = Literal["columns", "metadata", "sidecars"]
"""Where values of fields come from that the image itself does not have."""
MissingContext = Literal["skip", "empty", "fail"]


class SourceConfig(Section):
    """The part of the source to caption, and what is known of its images."""

    split: str | None = None
    """Split of a caption dataset (an output of `raycap prepare`). None: all splits."""
    context: Literal["auto", "off", ContextOrigin] = "auto"
    """Where the fields of prompts, such as `{tags}`, come from. `columns`: the columns of the list
    or caption dataset. `metadata`: `metadata.jsonl`, `.csv` or `.parquet` in the folder or prefix,
    with a column `file_name`. `sidecars`: a `.json` or `.txt` file beside each image. `auto`: the
    columns of a list; of a folder or prefix its metadata file, or sidecars if it has none. `off`:
    prompts have no fields, and braces in them are plain text."""
    keep_columns: tuple[str, ...] = ()
    """Fields to write to the output and its exports, as columns of text."""
    missing_context: MissingContext = "skip"
    """What happens if an image has no value for a field. `skip`: the optional clause
    `[[ ... {field} ... ]]` around it is left out; outside of clauses, the field is empty. `empty`:
    the field is empty, and its clause stays. `fail`: as `skip`, but outside of clauses the image
    fails with `no_context`."""
    max_context_chars: int = Field(default=1_000, ge=1, le=100_000)
    """Longest value of a field in characters; longer ones are cut."""
