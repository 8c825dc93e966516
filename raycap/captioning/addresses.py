"""Addresses with secrets: passed from a list to the workers without being written to any output.

A signed address gives access to its image, so the manifest holds it without the signature. The full
addresses are kept in a private folder on the driver's machine, where an actor serves them to load
tasks. They are deleted when the run ends; the next run reads them from the list again, which may
have been signed again in the meantime.
"""

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from raycap.schema import IMAGE_ID, URI
from raycap.storage.address import redact

# Matches all that `redact` changes, and little else.
_MAY_HOLD = r"(?s)^(?:[A-Za-z][A-Za-z0-9+.\-]*:/.*[@?#]|unusable:)"


class SecretAddresses:
    """The full addresses of a run's images that the manifest holds without their secret."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "addresses.sqlite"
        self.has_any = False
        """Whether there is such an image."""

    def taken_out(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield MANIFEST tables without secrets; keep the full addresses."""
        for table in tables:
            uris = table[URI].combine_chunks()
            places = pc.indices_nonzero(pc.match_substring_regex(uris, _MAY_HOLD))
            whole = dict(zip(places.to_pylist(), uris.take(places).to_pylist(), strict=True))
            shown = {place: redact(uri) for place, uri in whole.items() if redact(uri) != uri}
            if not shown:
                yield table
                continue
            self._keep([(table[IMAGE_ID][place].as_py(), whole[place]) for place in shown])
            column = [shown.get(place, uri) for place, uri in enumerate(uris.to_pylist())]
            at = table.schema.get_field_index(URI)
            yield table.set_column(at, table.schema.field(at), pa.array(column, pa.string()))

    def of(self, image_ids: list[str]) -> dict[str, str]:
        """Return the full addresses of those images whose address has a secret."""
        found: dict[str, str] = {}
        with closing(sqlite3.connect(self._file)) as database:
            for image_id in image_ids:
                query = "SELECT uri FROM addresses WHERE image_id = ?"
                for (uri,) in database.execute(query, (image_id,)):
                    found[image_id] = uri
        return found

    def _keep(self, rows: list[tuple[str, str]]) -> None:
        with closing(sqlite3.connect(self._file)) as database, database:
            # The database is deleted after the run, so writes need not wait for the disk.
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            columns = "image_id TEXT PRIMARY KEY, uri TEXT NOT NULL"
            database.execute(f"CREATE TABLE IF NOT EXISTS addresses ({columns}) WITHOUT ROWID")
            database.executemany("INSERT OR REPLACE INTO addresses VALUES (?, ?)", rows)
        self.has_any = True


@contextmanager
def secret_addresses() -> Iterator[SecretAddresses]:
    """Keep addresses for the length of a `with` block, in a folder that only this user can read."""
    with tempfile.TemporaryDirectory(prefix="raycap-addresses-") as folder:
        yield SecretAddresses(Path(folder))
