"""Where a source has the fields that prompts name, found before a run begins.

A prompt is a template if it names a field, and a field that does not exist is an error. The
exception is a run that was begun with its prompt as plain text, such as one of an older version:
it continues with plain text.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from raycap import schema
from raycap.answers.template import Template
from raycap.captioning.context import OF_IMAGE, Wanted
from raycap.captioning.list_file import list_fields
from raycap.captioning.metadata import (
    METADATA_NAMES,
    NUM_PROBED,
    find_metadata,
    metadata_fields,
    sidecar_fields,
)
from raycap.captioning.prompts import FilledBy, Prompt, prompts_of
from raycap.captioning.source import Listing, open_source
from raycap.captioning.tar_index import tar_fields
from raycap.config import CaptionConfig, ContextOrigin
from raycap.errors import ConfigError, ObjectNotFound
from raycap.results.captioning import run_setting
from raycap.runs.records import RUN, read_json
from raycap.storage.base import Store
from raycap.storage.stores import ImageReader

CONTEXT = "context"
"""Key of a run's fingerprint; it is there if its prompts have fields, or fields are kept."""

_DATASET_FIELDS = (schema.CAPTIONS_LIST, schema.SOURCE_ID, schema.SPLIT)
_KEEP = "source.keep_columns"
_ORIGIN = "source.context"
_MOST_SHOWN = 40


def open_with_fields(
    source: str, config: CaptionConfig, output: Store
) -> tuple[Listing, CaptionConfig]:
    """Open a source, and find its fields.

    Args:
        source: Its address.
        config: All settings.
        output: The output, which may hold the run.

    Returns:
        The source, and the settings with the origin of the fields.

    Raises:
        RaycapError: as `open_source` and `find_fields`.
    """
    listing = open_source(source, config.storage, config.source.split)
    return listing, find_fields(listing, config, output)


def find_fields(listing: Listing, config: CaptionConfig, output: Store) -> CaptionConfig:
    """Find where a source has the fields that a run uses; listing it then yields their values.

    Args:
        listing: The source, not listed yet.
        config: All settings.
        output: The output, which may hold the run.

    Returns:
        The settings, with the origin of the fields as `source.context`, as `Context.of` takes it.

    Raises:
        ConfigError: a field does not exist, or the source has no such origin.
        DatasetError: the list or the metadata file cannot be parsed.
        StorageError: it cannot be read.
    """
    fields = {} if _is_plain(config, output) else wanted_fields(config)
    names = tuple(sorted(fields.keys() - set(OF_IMAGE)))
    if not names:
        return _with_origin(config, "auto" if fields else "off")
    origin = _origin(listing, config.source.context)
    # The sidecars that had a field may be gone since the run began.
    begun = _fields_of_run(output) if origin == "sidecars" else set()
    if sought := [name for name in names if name not in begun]:
        where, known = _known_fields(listing, origin, sought, config)
        check_fields(fields, {*known, *begun}, where)
    assert origin is not None  # no field was known otherwise
    max_chars = config.source.max_context_chars
    listing.wanted = Wanted(names=names, origin=origin, max_chars=max_chars)
    return _with_origin(config, origin)


def _with_origin(config: CaptionConfig, origin: str) -> CaptionConfig:
    source = config.source.model_copy(update={"context": origin})
    return config.model_copy(update={"source": source})


def describe_fields(config: CaptionConfig) -> dict[str, Any] | None:
    """Return what settled settings say of fields, for the fingerprint of a run; None if nothing.

    Named prompts are not part of it.
    """
    source = config.source
    found: dict[str, Any] = {}
    if source.keep_columns:
        found |= {"keep": list(source.keep_columns), "max_chars": source.max_context_chars}
    texts = [config.cascade.prompt, *([] if config.prompts else [config.generation.prompt])]
    for filled in (FilledBy.of(text, source) for text in texts):
        found |= {} if filled is None else filled.describe()
    return found or None


def _is_plain(config: CaptionConfig, output: Store) -> bool:
    """Whether an output holds a run with this very prompt as plain text."""
    if config.source.context != "auto" or not Template.parse(config.generation.prompt).fields:
        return False
    record = _record_of(output)
    theirs: Any = run_setting(record, "fingerprint", "generation", "prompt")
    has_context = run_setting(record, "fingerprint", CONTEXT) is not None
    return theirs == config.generation.prompt and not has_context


def _fields_of_run(output: Store) -> set[str]:
    """Return the fields that the run of an output began with, if sidecars have them."""
    begun: dict[str, Any] = run_setting(_record_of(output), "config") or {}
    if run_setting(begun, "source", "context") != "sidecars":
        return set()
    named: dict[str, Any] = begun.get("prompts") or {}
    texts = [str(run_setting(begun, "generation", "prompt") or "")]
    texts += [str(run_setting(one, "text") or "") for one in named.values()]
    fields = {name for text in texts for name in Template.parse(text).fields}
    return fields | set(run_setting(begun, "source", "keep_columns") or ())


def _record_of(output: Store) -> dict[str, Any]:
    """Return the content of `run.json`; nothing if there is none."""
    try:
        return read_json(output, RUN)
    except ObjectNotFound:
        return {}


def wanted_fields(config: CaptionConfig) -> dict[str, str]:
    """Return the fields that a run uses, each with the setting that names it.

    Raises:
        ConfigError: a field to keep has the name of a column of the output, or fields are off.
    """
    keep = config.source.keep_columns
    if config.source.context == "off":
        if keep:
            raise ConfigError(
                f"{_KEEP}: {_ORIGIN}=off has no fields to keep: set it to auto, or keep none",
                setting=_KEEP,
            )
        return {}
    columns = {*schema.ANSWERED.names, *config.prompts}
    taken = next((name for name in keep if name in columns), None)
    if taken is not None:
        raise ConfigError(
            f"{_KEEP}: the output has a column {taken} of its own: rename the field in the "
            "source, or leave it out",
            setting=_KEEP,
        )
    prompts = {_setting_of(prompt): prompt.text for prompt in prompts_of(config)}
    prompts["cascade.prompt"] = config.cascade.prompt
    found: dict[str, str] = {}
    for setting, prompt in prompts.items():
        found |= dict.fromkeys(Template.parse(prompt).fields, setting)
    return {**dict.fromkeys(keep, _KEEP), **found}


def _setting_of(prompt: Prompt) -> str:
    return f"prompts.{prompt.name}" if prompt.name else "generation.prompt"


def _origin(listing: Listing, asked: str) -> ContextOrigin | None:
    """Choose the origin of fields, and find the metadata file; None if the source has none.

    Raises:
        ConfigError: the source has no such origin.
    """
    allowed: list[ContextOrigin] = []
    kind = "one image"
    if listing.is_list or listing.is_dataset:
        allowed, kind = ["columns"], "a list or caption dataset, whose fields are its columns"
    elif listing.tars is not None:
        allowed, kind = ["sidecars"], "tars, whose fields are the .json and .txt of each sample"
    elif listing.store is not None:
        allowed, kind = ["metadata", "sidecars"], "a folder or prefix"
        listing.metadata = None if asked == "sidecars" else find_metadata(listing.store)
    if asked == "auto" and listing.tars is not None:
        return "sidecars"
    if asked == "auto":
        has_rows = listing.store is None or listing.metadata is not None
        return next(iter(allowed if has_rows else allowed[1:]), None)
    found = next((origin for origin in allowed if origin == asked), None)
    if found is None:
        raise ConfigError(
            f"{_ORIGIN}={asked} does not fit {listing.source}, which is {kind}: leave it out",
            setting=_ORIGIN,
        )
    if found == "metadata" and listing.metadata is None:
        raise ConfigError(
            f"{listing.root}: has none of {', '.join(METADATA_NAMES)}; add one, or set "
            f"{_ORIGIN}=sidecars",
            setting=_ORIGIN,
            uri=listing.root,
        )
    return found


def _known_fields(
    listing: Listing, origin: ContextOrigin | None, names: Collection[str], config: CaptionConfig
) -> tuple[str, list[str]]:
    """Return where fields are searched, and those that are there."""
    if listing.is_dataset:
        return listing.source, list(_DATASET_FIELDS)
    if listing.is_list:
        return listing.source, list_fields(listing.source, config.storage, names)
    if listing.metadata is not None:
        return listing.metadata.uri, metadata_fields(listing.metadata, names)
    if listing.tars is not None:
        shards = listing.tars.shards(Counter())[:1]
        reader = ImageReader(config.storage)
        known = [n for shard in shards for n in tar_fields(shard, reader, names, NUM_PROBED)]
        return f"the first {NUM_PROBED} samples of {listing.source}", known
    if origin is None or listing.store is None:
        return listing.source, []
    found = sidecar_fields(listing.store, names, config.storage.list_threads)
    return f"the first {NUM_PROBED} sidecars of {listing.source}", found


def check_fields(fields: Mapping[str, str], known: Collection[str], where: str) -> None:
    """Raise ConfigError if a field does not exist.

    Args:
        fields: With the setting that names each, from `wanted_fields`.
        known: The fields that the source has.
        where: What was searched, for the message.
    """
    for name, setting in fields.items():
        if name in OF_IMAGE or name in known:
            continue
        there = [*OF_IMAGE, *sorted(set(known) - set(OF_IMAGE))]
        more = ", ..." if len(there) > _MOST_SHOWN else ""
        shown = " ".join(", ".join(there[:_MOST_SHOWN]).split())
        is_prompt = setting != _KEEP
        remedy = f"; for the plain text {{{name}}} write {{{{{name}}}}}" if is_prompt else ""
        raise ConfigError(
            f"{setting}: {where} has no field {name}; fields are {shown}{more}{remedy}",
            setting=setting,
        )
