"""Captioning in this process, without Ray: `raycap.load_captioner` and `raycap.Captioner`.

Images pass the stages of a run, with the same code: they are loaded into LOADED tables, answered,
judged, and become rows of a captions part. So they get the captions that `raycap caption` gives
them with the same settings.
"""

import asyncio
import os
import threading
import weakref
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain, repeat, zip_longest
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
import pyarrow as pa
from PIL import Image

from raycap import schema
from raycap.captioning.batching import BatchSize
from raycap.captioning.captioner import Answering, TableCaptioner
from raycap.captioning.claim import settle_model
from raycap.captioning.columns import columns_of
from raycap.captioning.context import OF_IMAGE, Context, Wanted
from raycap.captioning.endpoint import TableAsker, num_calls_per_actor
from raycap.captioning.fields import wanted_fields
from raycap.captioning.loading import RunSpec, image_reader, in_blocks, load_image
from raycap.captioning.prompts import is_named, prompts_of
from raycap.captioning.resources import count_lanes, fit_batches, threads_per_actor
from raycap.captioning.source import File
from raycap.captioning.spending import Spending
from raycap.captioning.stream import Resources
from raycap.config import ActorRange, CaptionConfig, is_section
from raycap.config.base import Section
from raycap.config.loading import override
from raycap.errors import ConfigError, ErrorCode, ImageError
from raycap.images.decoding import decode, prepare_process
from raycap.images.in_memory import file_of
from raycap.models.base import ModelSource
from raycap.models.endpoint.secrets import read_secrets
from raycap.models.kinds import find_kind
from raycap.models.load import load_captioner as load_model
from raycap.models.process import use_threads
from raycap.models.sources import ENDPOINT
from raycap.models.vlm.vllm_requests import refuse_backend
from raycap.progress import Spent
from raycap.results.caption_result import CaptionResult
from raycap.storage.address import Address
from raycap.storage.parallel import ordered_map

T = TypeVar("T")

_ONE_IMAGE = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image)
_ADDED = (
    schema.STATUS,
    schema.CAPTION,
    schema.LOGPROB,
    schema.ALTERNATIVES,
    schema.FINISH,
    schema.NUM_TOKENS,
    schema.NUM_PROMPT_TOKENS,
    schema.FLAG,
    schema.ERROR_CODE,
    schema.ERROR_MESSAGE,
    *schema.KEPT.names,
)
"""Columns of a captions part that batches of Ray Data get, besides those of named prompts."""
_CLOSE_WAIT_S = 5.0
_NOTHING = object()


class Captioner:
    """A loaded model that captions images, by the same settings and rules as `raycap caption`.

    It also is a stage of Ray Data: `dataset.map_batches(raycap.Captioner,
    fn_constructor_kwargs={"model": "demo"}, compute=ActorPoolStrategy(size=1))`.
    """

    def __init__(
        self,
        model: str | Mapping[str, Any] | Section | None = None,
        *,
        config: CaptionConfig | None = None,
        endpoint: str | Mapping[str, Any] | Section | None = None,
        column: str = "image",
        **settings: Any,
    ) -> None:
        """Load the model, as `load_captioner` describes.

        Args:
            model: as of `load_captioner`, like `config`, `endpoint` and `settings`.
            config: all settings.
            endpoint: a server.
            column: the column with the images in batches of Ray Data: files as bytes, arrays,
                paths or addresses.
            settings: further settings.
        """
        asked = _with_fields(_combined(model, config, endpoint, settings))
        source, settled = settle_model(asked)
        self._spec = _spec(source, settled)
        self._column = column
        names = wanted_fields(settled).keys() - set(OF_IMAGE)
        self._wanted = Wanted(
            names=tuple(sorted(names)),
            origin="columns",
            max_chars=settled.source.max_context_chars,
        )
        prompts = self._spec.prompts
        self._names = tuple(one.name for one in prompts) if is_named(prompts) else ()
        self._columns = columns_of(prompts, settled.text, self._spec.context)
        self._backend: _Model | _Endpoints
        self._backend = _Endpoints(self._spec) if self._spec.is_remote else _Model(self._spec)

    def caption(
        self,
        images: Any,
        fields: Iterable[Mapping[str, Any]] | Mapping[str, Any] | None = None,
    ) -> list[CaptionResult]:
        """Caption images, in batches that suit the model.

        Args:
            images: one image, or an iterable of images: Pillow images, arrays of uint8 `[H, W, 3]`
                (or grey, or RGBA), files as bytes, paths, and addresses such as `s3://...` and
                `https://...`, also mixed; or an array `[N, H, W, 3]`.
            fields: per image, the values of the fields that prompts name.

        Returns:
            One result per image, in order. One that cannot be captioned has an `error`.

        Raises:
            ConfigError: something is not an image, or the fields of a prompt are missing.
            ModelError: the model fails on every image.
            RunStopped: no endpoint answers, or a bound of `endpoint` is reached.
            StorageError: a store refuses all requests.
        """
        is_one = isinstance(images, _ONE_IMAGE) or (
            isinstance(images, np.ndarray) and images.ndim < 4 and images.dtype != object
        )
        if not is_one and not isinstance(images, Iterable):
            file_of(images)  # raises
        each: Iterable[Any] = [images] if is_one else images
        if bool(self._wanted.names) != (fields is not None):
            names = ", ".join(self._wanted.names)
            raise ConfigError(
                f"fields: the prompts name {names}: give a mapping of values per image"
                if names
                else "fields: no prompt names a field: leave them out",
                setting="fields",
            )
        known = [fields] if isinstance(fields, Mapping) else fields
        pairs = zip(each, repeat({})) if known is None else _paired(each, known)
        rows = chain.from_iterable(table.to_pylist() for table in self._rows(pairs))
        return [CaptionResult.of(row, self._names) for row in rows]

    def __call__(self, batch: Any) -> pa.Table:
        """Caption a batch of Ray Data: return it with the columns of the captions.

        Values that are no images become failed rows: those of a dataset are data, not arguments.

        Args:
            batch: a mapping of arrays (`batch_format="numpy"`) or an Arrow table.

        Raises:
            ConfigError: the batch lacks a column, or has one that is to be added.
            RaycapError: as `caption`.
        """
        # Here, because it takes half a second to import.
        from ray.data.block import BlockAccessor  # noqa: PLC0415

        if not isinstance(batch, Mapping | pa.Table):
            raise ConfigError(
                f"batch_format: raycap.Captioner takes numpy or pyarrow, not "
                f"{type(batch).__name__}: leave batch_format out",
                setting="batch_format",
            )
        names = list(batch.column_names if isinstance(batch, pa.Table) else batch)
        for name in (self._column, *self._wanted.names):
            if name not in names:
                raise ConfigError(
                    f"column: the dataset has no column {name}; columns are {', '.join(names)}",
                    setting="column",
                )
        images = _values(batch, self._column)
        fields = [_values(batch, name) for name in self._wanted.names]
        known = (dict(zip(self._wanted.names, of, strict=True)) for of in zip(*fields, strict=True))
        rows = self._rows(zip(images, known if fields else repeat({}), strict=False), strict=False)
        nothing = self._columns.rows(schema.ANSWERED.empty_table(), None)
        captions = pa.concat_tables([nothing, *rows])
        table: pa.Table = (
            batch
            if isinstance(batch, pa.Table)
            else BlockAccessor.batch_to_arrow_block(dict(batch))
        )
        for name in captions.column_names:
            if name not in {*_ADDED, *self._names}:
                continue
            if name in names:
                raise ConfigError(
                    f"column: the dataset has a column {name}, which captions have too: rename it "
                    "(Dataset.rename_columns)",
                    setting="column",
                )
            table = table.append_column(captions.schema.field(name), captions[name])
        return table

    def close(self) -> None:
        """Free the model, or close the connections to endpoints."""
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<raycap.Captioner {self._spec.model.name} ({self._spec.model.kind})>"

    def _rows(
        self, images: Iterable[tuple[Any, Mapping[str, Any]]], *, strict: bool = True
    ) -> Iterator[pa.Table]:
        """Yield the rows of a captions part, for images with their fields."""
        for answered in self._backend.answered(self._loaded(images, strict=strict)):
            yield self._columns.rows(answered, None)

    def _loaded(
        self, images: Iterable[tuple[Any, Mapping[str, Any]]], *, strict: bool
    ) -> Iterator[pa.Table]:
        """Yield LOADED tables."""
        config = self._spec.config
        prepare_process(config.image)
        load = partial(self._load, strict=strict)
        loaded = ordered_map(load, enumerate(images), config.engine.fetch_threads)
        return in_blocks(loaded, self._spec.block_rows, schema.LOADED)

    def _load(
        self, item: tuple[int, tuple[Any, Mapping[str, Any]]], *, strict: bool
    ) -> dict[str, Any]:
        """Return the LOADED row of an image."""
        number, (image, fields) = item
        config = self._spec.config
        uri = ""
        file: File | None
        try:
            uri, file = _located(image)
        except ImageError as error:
            file = error
        except ConfigError as error:
            if strict:
                raise
            file = ImageError(ErrorCode.UNSUPPORTED_FORMAT, str(error))
        row = {
            **dict.fromkeys((schema.SIZE_BYTES, schema.ETAG, schema.PROMPTS)),
            schema.IMAGE_ID: str(number),
            schema.URI: uri,
            schema.CONTEXT: self._wanted.encode(fields) if self._wanted.names else None,
            schema.PART: 0,
            schema.ROW: number % self._spec.block_rows,  # each block becomes a part
            schema.NUM_ROWS: len(self._spec.prompts),
            schema.PARTIAL: False,
            schema.ATTEMPTS: 1,
        }
        decoder = partial(decode, target=self._spec.model.target, config=config.image)
        return load_image(row, file, image_reader(config.storage), decoder, self._spec)


def load_captioner(
    model: str | Mapping[str, Any] | Section | None = None,
    *,
    config: CaptionConfig | None = None,
    endpoint: str | Mapping[str, Any] | Section | None = None,
    **settings: Any,
) -> Captioner:
    """Load a model into this process, or connect to a server, to caption images one by one.

    No Ray is started. Captions and scores are those of `raycap caption` with the same settings.
    Pillow is configured as in raycap's workers: it prints no warnings about damaged files.

    Args:
        model: the name of a model, as the setting `model.name`; or the settings of the section
            `model`.
        config: all settings; None for the defaults.
        endpoint: the address of a server that runs the model, or the settings of the section
            `endpoint`; they imply `model.backend=endpoint`.
        settings: further sections of the settings by name, which override those of `config`, such
            as `generation={"num_beams": 5}` and `prompts={"tags": "List the objects."}`.

    Returns:
        The captioner. Close it, or use it in a `with` block, to free the model.

    Raises:
        ConfigError: a setting is wrong, or cannot be used with one model.
        ModelError: the model cannot be found or loaded.
    """
    return Captioner(model, config=config, endpoint=endpoint, **settings)


class _Model:
    """A model in this process."""

    def __init__(self, spec: RunSpec) -> None:
        if spec.config.engine.torch_threads is not None:
            use_threads(spec.torch_threads)
        self._spec = spec
        self._answer = TableCaptioner(spec)
        self._captioner: Answering | None
        self._captioner = Answering(load_model(spec.model, spec.config.model, spec.generation))
        # After loading, as in a run.
        self._batch_size = BatchSize(spec.batches)
        self._lock = threading.Lock()

    def answered(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Yield ANSWERED tables; threads that call it take turns."""
        for table in tables:
            with self._lock:
                if self._captioner is None:
                    raise _closed()
                answered = self._answer(
                    self._captioner, table, self._batch_size, self._spec.num_lanes
                )
            yield answered

    def close(self) -> None:
        """Free the model."""
        self._captioner = None


class _Endpoints:
    """Endpoints, asked in an event loop of a thread of its own: a notebook's loop is running."""

    def __init__(self, spec: RunSpec) -> None:
        secrets = read_secrets(spec.config.endpoint)
        self._num_calls = num_calls_per_actor(spec)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=_serve, args=(self._loop,), daemon=True).start()
        spending = Spending(spec.config.endpoint, Spent())

        async def connect() -> TableAsker:
            return TableAsker(spec, secrets, spending)

        self._asker = asyncio.run_coroutine_threadsafe(connect(), self._loop).result()
        self._end = weakref.finalize(self, _disconnect, self._loop, self._asker)

    def answered(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Yield ANSWERED tables in order; several are asked about at a time."""
        pending: deque[Future[pa.Table]] = deque()
        try:
            for table in tables:
                pending.append(self._begin(self._asker(table)))
                if len(pending) >= self._num_calls:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for call in pending:
                call.cancel()

    def close(self) -> None:
        """Close the connections."""
        self._end()

    def _begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        if not self._end.alive:
            work.close()
            raise _closed()
        return asyncio.run_coroutine_threadsafe(work, self._loop)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _disconnect(loop: asyncio.AbstractEventLoop, asker: TableAsker) -> None:
    asyncio.run_coroutine_threadsafe(asker.close(), loop).result(_CLOSE_WAIT_S)
    loop.call_soon_threadsafe(loop.stop)


def _closed() -> ConfigError:
    return ConfigError("the captioner is closed: load it again")


def _combined(
    model: str | Mapping[str, Any] | Section | None,
    config: CaptionConfig | None,
    endpoint: str | Mapping[str, Any] | Section | None,
    settings: Mapping[str, Any],
) -> CaptionConfig:
    """Return all settings. Raises ConfigError."""
    values: dict[str, Any] = {}
    if endpoint is not None:
        values["model.backend"] = ENDPOINT
        endpoint = {"urls": endpoint} if isinstance(endpoint, str) else endpoint
    model = {"name": model} if isinstance(model, str) else model
    for section, given in {**settings, "model": model, "endpoint": endpoint}.items():
        field = CaptionConfig.model_fields.get(section)
        if isinstance(given, Section):
            given = given.model_dump(exclude_unset=True)
        if isinstance(given, Mapping) and field is not None and is_section(field.annotation):
            values |= {f"{section}.{name}": value for name, value in given.items()}
        else:
            values[section] = given
    return override(config or CaptionConfig(), values)


def _with_fields(config: CaptionConfig) -> CaptionConfig:
    """Settle where the fields of prompts come from, and refuse settings that need a run.

    Raises:
        ConfigError: there are such settings.
    """
    for setting, is_set, remedy in (
        ("cascade.model", config.cascade.model is not None, "load a captioner per model"),
        ("source.keep_columns", bool(config.source.keep_columns), "leave it out"),
        (
            "source.context",
            config.source.context in ("metadata", "sidecars"),
            "give the fields with the images",
        ),
    ):
        if is_set:
            raise ConfigError(
                f"{setting}: only `raycap caption` supports it: {remedy}", setting=setting
            )
    if config.model.backend != ENDPOINT:
        refuse_backend(config.model, "a captioner in this process")
    fields = wanted_fields(config).keys()
    origin = "columns" if fields - set(OF_IMAGE) else "auto" if fields else "off"
    source = config.source.model_copy(update={"context": origin})
    return config.model_copy(update={"source": source})


def _spec(model: ModelSource, config: CaptionConfig) -> RunSpec:
    """Return the description of a run, which it is for the stages of one."""
    on_accelerator = find_kind(model.kind).uses_gpus and _has_accelerator()
    resources = Resources(
        actors=ActorRange(min=1, max=1),
        gpus_per_actor=1.0 if on_accelerator else 0.0,
        cpus_per_actor=1.0,
    )
    return RunSpec(
        output="",
        config=config,
        model=model,
        batches=fit_batches(config, model.kind, resources),
        num_lanes=count_lanes(config, model.kind, resources),
        torch_threads=threads_per_actor(config.engine, 1),
        prompts=prompts_of(config),
        context=Context.of(config),
    )


def _has_accelerator() -> bool:
    # Imports torch, which takes seconds; a stub does without.
    from raycap.models.device import pick_device  # noqa: PLC0415

    return pick_device().type != "cpu"


def _paired(
    images: Iterable[Any], fields: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Yield images with their fields. Raises ConfigError if they are not as many."""
    for image, values in zip_longest(images, fields, fillvalue=_NOTHING):
        if image is _NOTHING or not isinstance(values, Mapping):
            raise ConfigError(
                "fields: must be one mapping of values per image, in order", setting="fields"
            )
        yield image, values


def _located(image: object) -> tuple[str, bytes | None]:
    """Return the address of an image, empty for one in memory, and its file if it is there.

    Raises:
        ConfigError: it is not an image.
        ImageError: there is none, or it cannot be read.
    """
    if image is None:
        raise ImageError(ErrorCode.EMPTY, "null instead of an image")
    if isinstance(image, bytes | bytearray | memoryview):
        return "", bytes(image)
    if not isinstance(image, str | os.PathLike):
        return "", file_of(image)
    text = os.fsdecode(image)
    if not text:
        raise ImageError(ErrorCode.NOT_FOUND, "an empty address")
    is_relative = Address.parse(text).scheme == ""
    return os.path.abspath(text) if is_relative else text, None


def _values(batch: Mapping[str, Any] | pa.Table, name: str) -> Sequence[Any]:
    column = batch[name]
    return [one.as_py() for one in column] if isinstance(batch, pa.Table) else list(column)
