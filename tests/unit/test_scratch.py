"""Scratch databases: beyond memory on disk, in byte order, silent, and gone afterwards."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from raycap.scratch import SqlError, confine, matching_rows, scratch_database


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder that temporary files go to."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_more_than_memory_holds_is_sorted_on_disk_which_is_clean_afterwards(folder: Path) -> None:
    with scratch_database(100_000_000) as database:
        database.execute(
            "CREATE TABLE rows AS SELECT md5(range::VARCHAR) || repeat('x', 200) AS text "
            "FROM range(500_000)"
        )
        reader = database.sql("SELECT text FROM rows ORDER BY text").to_arrow_reader(50_000)
        last, num_rows = "", 0
        for batch in reader:
            texts = [last, *batch["text"].to_pylist()]
            assert texts == sorted(texts)
            last, num_rows = texts[-1], num_rows + len(batch)
        assert num_rows == 500_000
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert size > 10_000_000
        del reader
    assert list(folder.iterdir()) == []


def test_text_sorts_in_utf_8_byte_order(folder: Path) -> None:
    texts = ["\U0001f600", "z", "Z", "\uffee", "é", "e\u0301", "", "a/b", "a-b"]
    with scratch_database(100_000_000) as database:
        database.execute("CREATE TABLE rows AS SELECT unnest(?) AS text", [texts])
        rows = database.execute("SELECT text FROM rows ORDER BY text").fetchall()
    assert [text for (text,) in rows] == sorted(texts, key=str.encode)
    assert list(folder.iterdir()) == []


def test_an_error_within_leaves_nothing_behind(folder: Path) -> None:
    with pytest.raises(KeyError), scratch_database(100_000_000):
        raise KeyError
    assert list(folder.iterdir()) == []


def test_nothing_is_printed_and_nothing_fetched(folder: Path) -> None:
    del folder
    with scratch_database(100_000_000) as database:
        for name in ("enable_progress_bar", "autoinstall_known_extensions"):
            assert database.execute("SELECT current_setting(?)", [name]).fetchone() == (False,)


def test_a_confined_database_reads_no_files_spills_and_keeps_its_settings(folder: Path) -> None:
    (folder / "secret.txt").write_text("secret")
    with scratch_database(100_000_000) as database:
        confine(database)
        for statement in (
            f"SELECT * FROM read_text('{folder}/secret.txt')",
            f"COPY (SELECT 1) TO '{folder}/other.csv'",
            f"ATTACH '{folder}/other.duckdb'",
            "SET enable_external_access = true",
            "SET memory_limit = '1GB'",
            "INSTALL httpfs",
        ):
            with pytest.raises(duckdb.Error):
                database.execute(statement)
        database.execute(
            "CREATE TABLE rows AS SELECT md5(range::VARCHAR) || repeat('x', 200) AS text "
            "FROM range(500_000)"
        )
        database.execute("CREATE TABLE sorted AS SELECT text FROM rows ORDER BY text")
        assert database.execute("SELECT count(*) FROM sorted").fetchall() == [(500_000,)]
    assert [path.name for path in folder.iterdir()] == ["secret.txt"]


def test_the_rows_of_a_condition_are_found_by_their_number(folder: Path) -> None:
    del folder
    table = pa.table({"a": [3, None, 1, 2], "b": [{"c": "x"}, {"c": "y"}, None, {"c": "x"}]})
    with scratch_database(100_000_000) as database:
        confine(database)
        found = matching_rows(database, table, "a > 1 OR b.c = 'y'").to_pylist()
        assert sorted(found) == [0, 1, 3]
        with pytest.raises(SqlError) as caught:
            matching_rows(database, table, "nothing > 1")
        assert "\n" not in str(caught.value)
