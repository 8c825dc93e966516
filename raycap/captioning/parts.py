"""Part files: their names, their encoding as Parquet, and their footers.

A footer holds values that would otherwise require reading the rows: the first and last id of a
manifest part, the counts of a captions part. So resuming and totals read footers only.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from raycap import schema
from raycap.errors import TRANSIENT_CODES, DatasetError, ErrorCode, ObjectNotFound
from raycap.parsing import parse_json
from raycap.storage.base import Store
from raycap.storage.parts import part_key

MANIFEST = "manifest/"
CAPTIONS = "captions/"

_FOOTER_KEY = b"raycap"
_TAIL_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFooter:
    """Footer of a manifest part."""

    first: str
    last: str
    num_rows: int
    num_bytes: int
    revision: int = 0
    """Incremented when images of the part have changed; its captions part has the revision that it
    was captioned from."""
    ids: str = ""
    """Digest of its image ids; empty in parts of older versions."""
    gone: list[int] = field(default_factory=list)
    """Rows whose images were missing from the source when it was last listed, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionsFooter:
    """Footer of a captions part."""

    num_rows: int
    num_words: int
    num_bytes: int
    """Bytes read for its images."""
    revision: int
    """Revision of the manifest part that it was captioned from."""
    failed: dict[str, int] = field(default_factory=dict)
    """Failed rows by error code."""
    committed_at: str = ""
    """Time of writing in UTC; empty if unknown."""
    num_awaiting: int = 0
    """Rows that await the second model of a cascade."""
    num_second: int = 0
    """Rows captioned by the second model."""
    num_second_failed: int = 0
    """Rows that the second model failed on, which keep the caption of the first."""
    run: str = ""
    """Digest of the fingerprint of its run; empty in parts of older versions."""
    ids: str = ""
    """Digest of its image ids, as in its manifest part; empty in parts of older versions."""

    prompts: dict[str, str] = field(default_factory=dict)
    """Named prompts that its rows answer, in order, with the digest of each."""
    flagged: dict[str, int] = field(default_factory=dict)
    """Kept answers by the code of their flag."""
    num_tokens: int = 0
    """Generated tokens of its answers, as far as known."""
    num_prompt_tokens: int = 0
    """Tokens that the model read for its answers, as far as known."""
    text: str = ""
    """Digest of the rules for the text that its captions follow; empty without rules."""
    num_copies: int = 0
    """Rows with the answers about another image that is the same bytes, or that await them."""

    @property
    def num_awaiting_original(self) -> int:
        """Rows that await the answers about another image that is the same bytes."""
        return self.failed.get(ErrorCode.AWAITS_ORIGINAL, 0)

    @property
    def num_transient(self) -> int:
        """Failed rows that a retry may fix."""
        return sum(count for code, count in self.failed.items() if code in TRANSIENT_CODES)


def ids_digest(table: pa.Table) -> str:
    """Return a digest of the image ids of a part, in order: of each its length and its bytes."""
    ids = pa.concat_arrays([pa.array([], pa.string()), *table[schema.IMAGE_ID].chunks])
    data = ids.cast(pa.large_binary())
    lengths = pc.binary_length(data).cast(pa.int64()).view(pa.binary(8)).cast(pa.large_binary())
    joined = pc.binary_join_element_wise(lengths, data, pa.scalar(b"", pa.large_binary()))
    return blake2b(b"".join(joined.to_pylist()), digest_size=16).hexdigest()


FooterT = TypeVar("FooterT", ManifestFooter, CaptionsFooter)

_FORMS: dict[type, TypeAdapter[Any]] = {
    kind: TypeAdapter(kind) for kind in (ManifestFooter, CaptionsFooter)
}
_SCHEMAS = {MANIFEST: schema.MANIFEST, CAPTIONS: schema.CAPTIONS}


def manifest_footer(table: pa.Table, revision: int = 0, gone: Iterable[int] = ()) -> ManifestFooter:
    """Return the footer for the rows of a manifest part, which are sorted by image id."""
    ids = table[schema.IMAGE_ID]
    return ManifestFooter(
        first=ids[0].as_py(),
        last=ids[-1].as_py(),
        num_rows=len(table),
        num_bytes=pc.sum(table[schema.SIZE_BYTES]).as_py() or 0,
        revision=revision,
        ids=ids_digest(table),
        gone=sorted(gone),
    )


def encode_manifest(table: pa.Table, footer: ManifestFooter) -> bytes:
    """Encode the rows of a manifest part."""
    return _encode(table.cast(schema.MANIFEST), asdict(footer))


def encode_captions(  # noqa: PLR0913  independent facts about the part, by keyword
    table: pa.Table,
    num_bytes: int,
    revision: int,
    committed_at: str = "",
    cascade: Mapping[str, int] | None = None,
    *,
    run: str = "",
    prompts: Mapping[str, str] | None = None,
    text: str = "",
) -> tuple[bytes, CaptionsFooter]:
    """Encode the rows of a captions part; return the bytes and the footer.

    Args:
        table: The rows, as they are written.
        num_bytes: Bytes read for its images.
        revision: Of the manifest part that it was captioned from.
        committed_at: Current time in UTC.
        cascade: Counts of a cascade for the footer; None if there is none.
        run: Digest of the run's fingerprint.
        prompts: Digests of its named prompts, in order.
        text: Digest of the rules for the text.
    """
    prompts = dict(prompts or {})
    failed = table.filter(pc.equal(table[schema.STATUS], schema.STATUS_FAILED))
    main, *_ = answers = [*map(answers_of(table), prompts)] or [table]
    flags = [flag for one in answers for flag in one[schema.FLAG].drop_null().to_pylist()]
    footer = CaptionsFooter(
        num_rows=len(table),
        num_words=_sum(main[schema.NUM_WORDS]),
        num_bytes=num_bytes,
        revision=revision,
        failed=dict(sorted(Counter(failed[schema.ERROR_CODE].to_pylist()).items())),
        committed_at=committed_at,
        run=run,
        ids=ids_digest(table),
        prompts=prompts,
        flagged=dict(sorted(Counter(flags).items())),
        text=text,
        num_tokens=sum(_sum(one[schema.NUM_TOKENS]) for one in answers),
        num_prompt_tokens=sum(_sum(one[schema.NUM_PROMPT_TOKENS]) for one in answers),
        num_copies=_sum(pc.equal(table[schema.ATTEMPTS], schema.NO_ATTEMPTS)),
        **(cascade or {}),
    )
    return _encode(table, asdict(footer)), footer


def encode_again(
    table: pa.Table, before: CaptionsFooter, *, committed_at: str, text: str
) -> tuple[bytes, CaptionsFooter]:
    """Encode a captions part that was changed without asking a model; see `encode_captions`.

    Args:
        table: The rows, as they are written.
        before: The footer of the part, which says what it was captioned from.
        committed_at: Time of its captions in UTC.
        text: Digest of the rules for the text that it follows now.
    """
    cascade = {
        "num_awaiting": before.num_awaiting,
        "num_second": before.num_second,
        "num_second_failed": before.num_second_failed,
    }
    return encode_captions(
        table,
        before.num_bytes,
        before.revision,
        committed_at,
        cascade,
        run=before.run,
        prompts=before.prompts,
        text=text,
    )


def in_pages(tables: Iterable[pa.Table], num_rows: int) -> Iterator[pa.Table]:
    """Gather small tables into tables of at least `num_rows` rows, the last one shorter."""
    gathered: list[pa.Table] = []
    found = 0
    for table in tables:
        gathered.append(table)
        found += len(table)
        if found >= num_rows:
            yield pa.concat_tables(gathered)
            gathered, found = [], 0
    if gathered:
        yield pa.concat_tables(gathered)


def answers_of(table: pa.Table) -> Callable[[str], pa.Table]:
    """Return a function from the name of a prompt to its answers, a column per ANSWER_FIELD."""

    def answers(name: str) -> pa.Table:
        fields = {field: pc.struct_field(table[name], field) for field in schema.ANSWER_FIELDS}
        return pa.table(fields)

    return answers


def _sum(column: pa.ChunkedArray) -> int:
    return int(pc.sum(column).as_py() or 0)


def read_manifest_footer(store: Store, number: int) -> ManifestFooter:
    """Read the footer of a manifest part. Raises DatasetError if it is damaged or missing."""
    key = part_key(MANIFEST, number)
    try:
        return _read_footer(store, key, ManifestFooter)
    except ObjectNotFound as error:
        raise DatasetError(
            f"{store.address(key)}: is missing; restore the file, or start in a new output",
            uri=store.address(key),
        ) from error


def read_captions_footer(store: Store, number: int) -> CaptionsFooter:
    """Read the footer of a captions part. Raises DatasetError if it is damaged."""
    return _read_footer(store, part_key(CAPTIONS, number), CaptionsFooter)


def read_captions_head(store: Store, number: int) -> tuple[CaptionsFooter, pa.Schema]:
    """Read the footer and the columns of a captions part. Raises DatasetError if it is damaged."""
    key = part_key(CAPTIONS, number)
    tail = read_footer_bytes(store, key)
    return _footer(store, key, tail, CaptionsFooter), _columns(store, key, tail)


def read_part(
    store: Store,
    folder: str,
    number: int,
    columns: list[str] | None = None,
    prompt: str | None = None,
) -> pa.Table:
    """Read the rows of a part.

    Args:
        store: The output.
        folder: MANIFEST or CAPTIONS.
        number: Of the part.
        columns: To read; None for all, further columns of the run included.
        prompt: The named prompt whose answers the columns of CAPTIONS hold; None for the first.

    Raises:
        DatasetError: it is damaged, or has no such prompt; with its address.
    """
    key = part_key(folder, number)
    return _rows(store, folder, key, store.read(key), columns, prompt)


def read_manifest_part(store: Store, number: int) -> tuple[pa.Table, ManifestFooter]:
    """Read a manifest part in one request. Raises as `read_part` does."""
    key = part_key(MANIFEST, number)
    data = store.read(key)
    return _rows(store, MANIFEST, key, data), _footer(store, key, data, ManifestFooter)


def read_captions_part(store: Store, number: int) -> tuple[pa.Table, CaptionsFooter]:
    """Read a captions part in one request. Raises as `read_part` does.

    With named prompts, `status` and the error are those of the row, which fails with any of its
    prompts.
    """
    key = part_key(CAPTIONS, number)
    data = store.read(key)
    rows = _rows(store, CAPTIONS, key, data, of_rows=True)
    return rows, _footer(store, key, data, CaptionsFooter)


def read_stored_part(store: Store, number: int) -> tuple[pa.Table, CaptionsFooter]:
    """Read a captions part with the columns that it has. Raises as `read_part` does."""
    key = part_key(CAPTIONS, number)
    data = store.read(key)
    try:
        table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        raise _damaged(store, key) from error
    return table, _footer(store, key, data, CaptionsFooter)


def _rows(  # noqa: PLR0913  what `read_part` and `read_captions_part` ask for
    store: Store,
    folder: str,
    key: str,
    data: bytes,
    columns: list[str] | None = None,
    prompt: str | None = None,
    of_rows: bool = False,  # instead of those of a prompt; see _with_answers
) -> pa.Table:
    known = _SCHEMAS[folder]
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        stored = file.schema_arrow.names
        further = [name for name in stored if name not in known.names] if columns is None else []
        wanted = columns or [*known.names, *further]
        names = _prompts_of(file) if folder == CAPTIONS else []
        if names:
            name = prompt or names[0]
            if name not in names:
                raise _no_such_prompt(store, key, name, names)
            table = file.read([one for one in stored if one in {name, *wanted}])
            table = _with_answers(table, name, wanted, of_rows=of_rows)
        elif prompt is not None:
            raise _no_such_prompt(store, key, prompt, names)
        else:
            table = file.read([name for name in wanted if name in stored])
        for name in wanted:
            if name in _later_columns(folder, names) and name not in table.column_names:
                table = table.append_column(name, pa.nulls(len(table), known.field(name).type))
        return table.select(wanted)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _damaged(store, key) from error


def _later_columns(folder: str, prompts: list[str] | None) -> tuple[str, ...]:
    """Return the columns that a part may lack, of which older versions knew nothing."""
    if folder == MANIFEST:
        return (schema.CONTEXT,)
    return schema.LATER_COLUMNS if prompts is None else ()


def _prompts_of(file: pq.ParquetFile) -> list[str] | None:
    """Return the named prompts of a captions part; None if its version had none yet."""
    footer = parse_json((file.metadata.metadata or {}).get(_FOOTER_KEY, b"{}"))
    return list(footer["prompts"]) if "prompts" in footer else None


def _with_answers(table: pa.Table, name: str, wanted: list[str], *, of_rows: bool) -> pa.Table:
    """Add the columns of CAPTIONS that a run with named prompts stores per prompt.

    Args:
        table: As stored.
        name: Of the prompt.
        wanted: Names of the columns to read.
        of_rows: Whether `status` and the error are to be those of the row, which fails with any of
            its prompts, instead of those of the prompt.
    """
    answers = answers_of(table)(name)
    failed = pc.is_valid(answers[schema.ERROR_CODE])
    status = pc.if_else(failed, schema.STATUS_FAILED, schema.STATUS_OK)
    for one in schema.CAPTIONS:
        is_own = one.name in schema.ANSWER_FIELDS or one.name == schema.STATUS
        is_stored = one.name in table.column_names
        if one.name not in wanted or not is_own or (is_stored and of_rows):
            continue
        column = status if one.name == schema.STATUS else answers[one.name]
        if one.name == schema.ALTERNATIVES:
            column = pc.coalesce(column, pa.scalar([], one.type))
        if is_stored:
            table = table.drop_columns([one.name])
        table = table.append_column(one, column.cast(one.type))
    return table


def _no_such_prompt(store: Store, key: str, prompt: str, names: list[str] | None) -> DatasetError:
    has = f"its prompts are: {', '.join(names)}" if names else "it has no named prompts"
    return DatasetError(
        f"{store.address(key)}: has no answers to a prompt named {prompt!r}; {has}",
        uri=store.address(key),
        setting="prompt",
    )


def _encode(table: pa.Table, footer: dict[str, object]) -> bytes:
    sink = pa.BufferOutputStream()
    metadata = {_FOOTER_KEY: json.dumps(footer, ensure_ascii=False).encode()}
    table = table.replace_schema_metadata(metadata)
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _read_footer(store: Store, key: str, kind: type[FooterT]) -> FooterT:
    return _footer(store, key, read_footer_bytes(store, key), kind)


def read_footer_bytes(store: Store, key: str) -> bytes:
    """Read the end of a Parquet file with its whole footer, if it is such a file."""
    tail = store.read_tail(key, _TAIL_BYTES)
    # The last 8 bytes are the length of the footer and "PAR1"; statistics can make it long.
    footer_bytes = int.from_bytes(tail[-8:-4], "little") + 8
    if tail[-4:] == b"PAR1" and footer_bytes > len(tail) == _TAIL_BYTES:
        tail = store.read_tail(key, footer_bytes)
    return tail


def _columns(store: Store, key: str, tail: bytes) -> pa.Schema:
    try:
        return pq.read_schema(pa.BufferReader(tail))
    except (pa.ArrowException, OSError) as error:
        raise _damaged(store, key) from error


def _footer(store: Store, key: str, tail: bytes, kind: type[FooterT]) -> FooterT:
    """Read the footer from the end of a part."""
    try:
        metadata = pq.read_metadata(pa.BufferReader(tail)).metadata or {}
        footer: FooterT = _FORMS[kind].validate_python(parse_json(metadata[_FOOTER_KEY]))
        return footer
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _damaged(store, key) from error


def _damaged(store: Store, key: str) -> DatasetError:
    remedy = (
        "delete the file and run the same `raycap caption` command again"
        if key.startswith(CAPTIONS)
        else "restore the file, or start in a new output"
    )
    return DatasetError(
        f"{store.address(key)}: is damaged or not a part of raycap; {remedy}",
        uri=store.address(key),
    )
