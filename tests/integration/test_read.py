"""`raycap.read` as a dataset of Ray Data: the parts are read by tasks, edits applied in them."""

from pathlib import Path

import pytest

import raycap
from raycap.config import StorageConfig
from raycap.edits.records import Edit, EditAction
from raycap.edits.writing import EditWriter
from raycap.storage.stores import open_store
from tests.support.outputs import failed, row, write_output


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own, of its own settings
@pytest.mark.usefixtures("ray_session")
def test_ray_data_reads_a_part_per_task(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), StorageConfig())
    uri = write_output(store, [row("1.jpg"), failed("2.jpg")], [row("3.jpg")], [row("4.jpg")])
    edit = Edit(
        image_id="3.jpg",
        action=EditAction.TEXT,
        old="a cat on a mat",
        new="a dog",
        etag="1-2",
        after="",
    )
    EditWriter(store, by="ann").save([edit])
    rows = raycap.read(uri, columns=["image_id", "caption"], where="status = 'ok'")
    dataset = rows.to_ray()
    assert dataset.schema().names == rows.columns
    assert raycap.read(uri).to_ray().count() == 4  # by footers
    found = dataset.materialize()
    assert sorted(tuple(item.values()) for item in found.take_all()) == [
        ("1.jpg", "a cat on a mat"),
        ("3.jpg", "a dog"),
        ("4.jpg", "a cat on a mat"),
    ]
    assert found.num_blocks() == rows.num_parts == 3
