"""Scratch tables: sorting, grouping and joining data larger than memory, with DuckDB."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb


@contextmanager
def scratch_database(memory_bytes: int) -> Iterator["duckdb.DuckDBPyConnection"]:
    """Open a database that exists within the block, and uses the disk beyond `memory_bytes`.

    Text sorts and compares in UTF-8 byte order, as image ids do everywhere in raycap. The database
    does not use the network.
    """
    import duckdb  # noqa: PLC0415  most commands need none of it

    with tempfile.TemporaryDirectory(prefix="raycap-scratch-") as folder:
        connection = duckdb.connect(
            str(Path(folder) / "scratch.duckdb"),
            config={
                "memory_limit": f"{memory_bytes}B",
                "temp_directory": folder,
                "threads": os.cpu_count() or 1,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "preserve_insertion_order": False,
            },
        )
        try:
            # DuckDB prints one if Python looks interactive: in notebooks, in spawned processes.
            connection.execute("SET enable_progress_bar = false")
            yield connection
        finally:
            connection.close()
