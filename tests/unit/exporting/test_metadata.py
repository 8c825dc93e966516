"""`metadata.jsonl` beside images: of what it consists, and what people have in it already."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raycap.config import StorageConfig
from raycap.errors import ConfigError, DatasetError
from raycap.exporting.export import export
from raycap.storage.stores import open_store
from tests.support import outputs
from tests.support.outputs import AWKWARD, failed, files_under, row, write_output

# The fixtures of tests/outputs.py, which pytest looks for under these names.
output = outputs.output
two_parts = outputs.two_parts

NAME = "metadata.jsonl"


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]


def test_one_file_names_every_captioned_image(two_parts: str, tmp_path: Path) -> None:
    counts = export(two_parts, tmp_path / "x", to="metadata")
    assert (counts.num_exported, counts.num_failed_skipped, counts.num_files) == (3, 1, 1)
    assert lines(tmp_path / "x" / NAME) == [
        {"file_name": "a/1.jpg", "text": "a cat on a mat"},
        {"file_name": "b/3.jpg", "text": AWKWARD},
        {"file_name": "b/ü 4.png", "text": ""},
    ]


def test_each_folder_can_have_its_own_whatever_the_order_of_the_output(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output(
        [row("a/b/1.jpg"), row("a/c.jpg"), row("top.jpg")], [row("a/b/0.jpg"), row("../up.jpg")]
    )
    counts = export(uri, tmp_path / "x", to="metadata", layout="folder", columns="width_px")
    assert (counts.num_exported, counts.num_files) == (5, 4)
    found = {path: text.splitlines() for path, text in files_under(tmp_path / "x").items()}
    assert found == {
        f"a/b/{NAME}": [
            '{"file_name": "1.jpg", "width_px": 64}',
            '{"file_name": "0.jpg", "width_px": 64}',
        ],
        f"a/{NAME}": ['{"file_name": "c.jpg", "width_px": 64}'],
        f"%2E%2E/{NAME}": ['{"file_name": "up.jpg", "width_px": 64}'],
        NAME: ['{"file_name": "top.jpg", "width_px": 64}'],
    }


def test_the_name_of_the_image_is_no_other_column(two_parts: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        export(two_parts, tmp_path / "x", to="metadata", columns="image_id as file_name")
    assert caught.value.setting == "columns"


STANDING = (
    b'\xef\xbb\xbf{"file_name": "./b.jpg",  "text": "mine", "license": "CC0" }\r\n'
    b"no JSON\n"
    b'{"other": 1}\n'
    b'{"file_name": "c.jpg", "rating": 1e2}\n'
    b'{"file_name": "gone.jpg", "text": "of nothing"}'
)
KEPT = STANDING.split(b"\n")
NEW = b'{"file_name": "a.jpg", "text": "one", "width_px": 64}\n'
BOTH = [
    b'{"file_name": "b.jpg", "text": "two", "width_px": 64}\n',
    b'{"file_name": "c.jpg", "text": "three", "width_px": 64}\n',
]


@pytest.mark.parametrize(
    ("existing", "expected", "written", "kept"),
    [
        ("skip", STANDING, 0, 3),
        ("append", STANDING + b"\n" + NEW, 1, 2),
        ("overwrite", NEW + b"".join(BOTH), 3, 0),
        (
            "import",
            b'\xef\xbb\xbf{"file_name": "./b.jpg",  "text": "mine", "license": "CC0", '
            b'"width_px": 64}\r\nno JSON\n{"other": 1}\n'
            b'{"file_name": "c.jpg", "rating": 1e2, "text": "three", "width_px": 64}\n'
            b'{"file_name": "gone.jpg", "text": "of nothing"}\n' + NEW,
            3,
            0,
        ),
    ],
)
def test_what_people_have_in_it_is_treated_as_asked(
    existing: str,
    expected: bytes,
    written: int,
    kept: int,
    output: Callable[..., str],
    tmp_path: Path,
) -> None:
    uri = output([row("a.jpg", "one"), row("b.jpg", "two"), row("c.jpg", "three")])
    file = tmp_path / "x" / NAME
    file.parent.mkdir()
    file.write_bytes(STANDING)
    choice: dict[str, Any] = {"existing": existing, "columns": "caption as text, width_px"}
    counts = export(uri, file.parent, to="metadata", **choice)
    assert file.read_bytes() == expected
    assert (counts.num_exported, counts.num_kept) == (written, kept)
    export(uri, file.parent, to="metadata", **choice)
    assert file.read_bytes() == expected, "once more changes nothing"
    assert list(file.parent.iterdir()) == [file]


def test_a_standing_file_is_refused_by_default(two_parts: str, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / NAME).write_text("")
    with pytest.raises(ConfigError, match=rf"\(b/{NAME}\)") as caught:
        export(two_parts, tmp_path, to="metadata", layout="folder")
    assert caught.value.setting == "existing"
    assert not (tmp_path / "a").exists()


def test_folders_that_have_a_file_can_be_left_alone(two_parts: str, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / NAME).write_text("mine")
    counts = export(two_parts, tmp_path, to="metadata", layout="folder", existing="skip")
    assert (tmp_path / "b" / NAME).read_text() == "mine"
    assert (counts.num_exported, counts.num_kept, counts.num_files) == (1, 2, 1)


def test_a_file_in_another_encoding_is_not_added_to(two_parts: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text('{"file_name": "a/1.jpg"}\n', encoding="utf-16")
    before = (tmp_path / NAME).read_bytes()
    with pytest.raises(DatasetError) as caught:
        export(two_parts, tmp_path, to="metadata", existing="import")
    assert caught.value.uri == str(tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == before


def test_an_export_of_nothing_changes_nothing(output: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / NAME).write_text("mine")
    counts = export(output([failed("a.jpg")]), tmp_path / "x", to="metadata", existing="import")
    assert (counts.num_exported, counts.num_files, counts.num_failed_skipped) == (0, 0, 1)
    assert (tmp_path / "x" / NAME).read_text() == "mine"


def test_it_is_written_beside_the_images_of_any_store(two_parts: str, tmp_path: Path) -> None:
    target = f"memory://{tmp_path.name}/x"
    store = open_store(target, StorageConfig())
    store.write(NAME, b'{"file_name": "a/1.jpg", "text": "mine"}\n')
    export(two_parts, target, to="metadata", existing="append")
    assert len(store.read(NAME).splitlines()) == 3
    assert store.read(NAME).startswith(b'{"file_name": "a/1.jpg", "text": "mine"}\n')


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None
)
@given(
    captions=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8),
        st.text(st.characters(codec="utf-8")),
        min_size=1,
        max_size=4,
    )
)
def test_any_captions_of_any_names_are_read_back_equal(
    captions: dict[str, str], tmp_path: Path
) -> None:
    store = open_store(f"memory://{tmp_path.name}-{abs(hash(str(captions)))}", StorageConfig())
    names = sorted(captions, key=str.encode)
    uri = write_output(store, [row(name, captions[name]) for name in names])
    export(uri, uri, to="metadata", existing="overwrite")
    found = [json.loads(line) for line in store.read(NAME).decode().split("\n")[:-1]]
    assert [item["text"] for item in found] == [captions[name] for name in names]
    plain = [name for name in names if not {"", ".", ".."} & set(name.split("/"))]
    assert set(plain) <= {item["file_name"] for item in found}
