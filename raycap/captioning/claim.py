"""What a captioning run is asked to do, and the fingerprint by which it claims its output."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycap.answers.language import check_language
from raycap.answers.wording import check_rules
from raycap.captioning.cascade import Cascade, arithmetic, find_cascade
from raycap.captioning.context import Context
from raycap.captioning.fields import CONTEXT, describe_fields, open_with_fields
from raycap.captioning.ledger import check_adoptable
from raycap.captioning.moving import Move, find_move
from raycap.captioning.parts import CAPTIONS, MANIFEST
from raycap.captioning.prompts import settled_prompts
from raycap.captioning.source import Listing
from raycap.config import CaptionConfig
from raycap.errors import ConfigError, ObjectNotFound, RunConflict
from raycap.models.base import ModelSource
from raycap.models.endpoint.kind import check_endpoint
from raycap.models.fitting import fit_images
from raycap.models.kinds import KINDS, find_kind
from raycap.models.sources import (
    ENDPOINT,
    check_arithmetic,
    find_asked,
    settled_generation,
    settled_model,
)
from raycap.models.vlm.vllm_requests import check_backend
from raycap.progress import announce
from raycap.results.captioning import (
    PLAN,
    PROGRESS,
    SUMMARY,
    TEXT,
    present_text,
    read_plan_record,
    run_setting,
    text_digest,
)
from raycap.runs.opening import Claim, difference
from raycap.runs.records import RUN, fingerprint_digest, read_json
from raycap.schema import LOADED
from raycap.storage.base import Store
from raycap.storage.parts import list_parts

_CHECK_THREADS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a run is asked to do, with the model found and every default settled."""

    listing: Listing
    model: ModelSource
    cascade: Cascade | None
    config: CaptionConfig
    move: Move
    """Where the source of the output's run is now."""
    claim: "CaptionClaim"

    @property
    def run(self) -> str:
        """The digest by which parts name their run."""
        return fingerprint_digest(self.claim.fingerprint)

    @property
    def text(self) -> str:
        """The digest by which parts name the rules for their text."""
        return text_digest(self.config.text.rules())


def settle(
    source: str | Path, store: Store, config: CaptionConfig, former: str | Path | None = None
) -> Asked:
    """Open the source and find the model, and refuse whatever cannot work.

    Args:
        source: images or a list of them, as of `caption`.
        store: the output.
        config: all settings.
        former: the former address of the source, if it has moved.

    Raises:
        ConfigError: the source, the model or a setting does not exist or does not fit.
        RunConflict: the source has moved elsewhere, by an earlier invocation.
        ModelError: the model cannot be loaded.
        StorageError: a store refuses.
    """
    listing, asked = open_with_fields(str(source), config, store)
    announce("finding the model")
    check_asked(asked, listing)
    model, config = settle_model(asked)
    cascade = find_cascade(asked, model)
    fingerprint = caption_fingerprint(listing.identity, model, config, cascade)
    fingerprint = with_first_text(store, fingerprint)
    move = find_move(store, fingerprint, None if former is None else str(former))
    return Asked(
        listing=listing,
        model=model,
        cascade=cascade,
        config=config,
        move=move,
        claim=CaptionClaim(move.fingerprint, config),
    )


def settle_model(config: CaptionConfig) -> tuple[ModelSource, CaptionConfig]:
    """Find the model of some settings, settle every default, and refuse whatever cannot work.

    Args:
        config: all settings, as they were set.

    Returns:
        The model, with the images that it gets; and the settings.

    Raises:
        ConfigError: the model or a setting does not exist or does not fit.
        ModelError: the model cannot be loaded.
    """
    model = fit_images(find_asked(config.model), config.image)
    check_arithmetic(model, config.model)
    generation = settled_generation(config.generation, model)
    check_backend(model, config.model, generation)
    check_endpoint(config.model, config.endpoint, generation, "model")
    settled = {
        "generation": generation,
        "model": settled_model(config.model, model),
        "prompts": settled_prompts(config),
    }
    config = config.model_copy(update=settled)
    check_prompts(config, model)
    check_language(config.answers.language)
    check_rules(config.text)
    return model, config


def check_asked(config: CaptionConfig, listing: Listing) -> None:
    """Check that servers are asked at all, and that images have addresses if they read them.

    Raises:
        ConfigError: no backend uses the servers, or the source is a folder, prefix or dataset.
    """
    if config.endpoint.urls and ENDPOINT not in (config.model.backend, config.cascade.backend):
        raise ConfigError(
            "endpoint.urls needs model.backend=endpoint: set both", setting="model.backend"
        )
    sends_uri = config.endpoint.send == "uri" and config.model.backend == ENDPOINT
    if sends_uri and config.engine.deduplicate == "content":
        raise ConfigError(
            "engine.deduplicate=content compares the bytes of images, which are not read with "
            "endpoint.send=uri: set engine.deduplicate=off or endpoint.send=data",
            setting="engine.deduplicate",
        )
    if sends_uri and (listing.is_dataset or listing.root is not None):
        raise ConfigError(
            f"endpoint.send=uri: {listing.source} is not a list of https:// addresses: leave it "
            "out, so that raycap sends the images themselves",
            setting="endpoint.send",
        )


def check_prompts(config: CaptionConfig, model: ModelSource) -> None:
    """Raise ConfigError if the model does not support the prompts, or a name of one is taken."""
    for name in config.prompts.keys() & {*LOADED.names}:
        raise ConfigError(
            f"prompts.{name}: is the name of another column: choose another name",
            setting=f"prompts.{name}",
        )
    kind = find_kind(model.kind)
    if any(prompt.json_schema or prompt.choices for prompt in config.prompts.values()):
        kind.check_typed(config.model)
    context = Context.of(config)
    has_fields = context is not None and context.has_fields
    if has_fields and config.engine.deduplicate == "content":
        raise ConfigError(
            "engine.deduplicate=content: a prompt has fields, so that equal images may be asked "
            "different questions: set it to off, or leave the fields out",
            setting="engine.deduplicate",
        )
    is_constant = not config.prompts and not has_fields
    if not is_constant and not kind.takes_questions:
        able = ", ".join(kind.name for kind in KINDS if kind.takes_questions)
        setting = "prompts" if config.prompts else "generation.prompt"
        what = "prompts" if config.prompts else "prompts with fields"
        raise ConfigError(
            f"{setting}: {model.name} is a model of kind {model.kind}, which takes no {what}; "
            f"models of kind {able} do",
            setting=setting,
        )


def caption_fingerprint(
    source: dict[str, Any],
    model: ModelSource,
    config: CaptionConfig,
    cascade: Cascade | None = None,
) -> dict[str, Any]:
    """Return what decides a run's captions: two runs alike in this may share an output.

    The keys `cascade`, `prompts`, `answers`, `context` and `text` exist only with a cascade, named
    prompts, settings of the gate, fields or rules for the text, so that older outputs can be
    continued. Which named prompts there are is not part of it: they can be added and changed later.
    """
    found = {
        **source,
        "model": {**model.identity(), **arithmetic(config)},
        "generation": config.generation.model_dump(mode="json"),
        # How images are fitted is in the model's preprocessing.
        "image": config.image.model_dump(mode="json", exclude={"fit", "max_pixels_model"}),
    }
    if config.prompts:
        found["prompts"] = "named"
    if rules := config.answers.rules():
        found["answers"] = rules
    if rules := config.text.rules():
        found["text"] = rules
    if (fields := describe_fields(config)) is not None:
        found[CONTEXT] = fields
    return found if cascade is None else {**found, "cascade": cascade.describe()}


def with_first_text(store: Store, fingerprint: dict[str, Any]) -> dict[str, Any]:
    """Return a fingerprint with the rules for the text that the output's run began with.

    Those are not the present ones if others were applied since: `run.json` keeps the fingerprint
    that its parts may name.

    Args:
        store: the output.
        fingerprint: that of the run to begin or continue.

    Raises:
        RunConflict: it has other rules than the output follows now.
    """
    try:
        record = read_json(store, RUN)
    except ObjectNotFound:
        return fingerprint
    if TEXT not in record:
        return fingerprint
    ours, present = fingerprint.get(TEXT, {}), present_text(record)
    if ours != present:
        raise RunConflict(
            f"{store.uri}: its captions follow other rules for the text since `--again text`; give "
            f"those (- present, + given), or apply yours with --again text:\n"
            f"{difference({TEXT: present}, {TEXT: ours})}",
            uri=store.uri,
            setting=TEXT,
        )
    found = {name: value for name, value in fingerprint.items() if name != TEXT}
    first = run_setting(record, "fingerprint", TEXT)
    return found if first is None else {**found, TEXT: first}


class CaptionClaim(Claim):
    """A captioning run's claim; the output may hold other files, such as a preflight's."""

    def remedy(self, theirs: dict[str, Any]) -> str:
        """Return what to do if the two runs differ in the address of the source only."""
        if {**theirs, "source": self.fingerprint["source"]} != self.fingerprint:
            return ""
        return f"\nif the source has moved: --source-moved-from {shlex.quote(theirs['source'])}"

    def record(self) -> dict[str, Any]:
        """Return the content of `run.json`, with all settings of the first invocation."""
        made = super().record()
        config = self.config.model_dump(mode="json")
        return {"fingerprint": made.pop("fingerprint"), "config": config, **made}

    def renew(self, store: Store) -> None:
        """Write nothing: `run.json` holds the settings."""

    def check_free(self, store: Store) -> None:
        """Accept any files but the captions of another run, whose `run.json` is lost."""
        check_adoptable(store, fingerprint_digest(self.fingerprint), _CHECK_THREADS)

    def create(self, store: Store) -> None:
        """Claim the output, and delete the plan of a run whose `run.json` is lost."""
        record = read_plan_record(store)
        if record is None or record.run != fingerprint_digest(self.fingerprint):
            _delete_plan(store)
        super().create(store)

    def may_replace(self, store: Store) -> bool:
        """Whether the other run has committed nothing, say for a wrong address or setting."""
        return next(list_parts(store, CAPTIONS), None) is None

    def replaces_plan(self, store: Store) -> bool:
        """Whether the output holds the plan of another run, which claiming it deletes."""
        found = self.find(store)
        if found is not None:
            return found != self.fingerprint
        record = read_plan_record(store)
        return record is not None and record.run != fingerprint_digest(self.fingerprint)

    def replace(self, store: Store) -> None:
        """Replace the run, and delete its plan."""
        _delete_plan(store)
        super().replace(store)


def _delete_plan(store: Store) -> None:
    for key in (SUMMARY, PROGRESS, PLAN):
        store.delete(key)
    store.delete_all(MANIFEST)
