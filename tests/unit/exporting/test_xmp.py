"""XMP sidecars, read back by the standard library's parser and by ExifTool."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raycap.config import StorageConfig
from raycap.errors import ConfigError
from raycap.exporting.export import export
from raycap.exporting.xmp import render
from raycap.storage.stores import open_store
from tests.support import outputs
from tests.support.outputs import AWKWARD, failed, files_under, row

# The fixture of tests/outputs.py, which pytest looks for under this name.
output = outputs.output

SPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "iptc": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
}
LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"


def texts(data: bytes, name: str) -> list[tuple[str | None, str]]:
    """The items of a property, each with its language."""
    items = ElementTree.fromstring(data).iterfind(f".//{name}/*/rdf:li", SPACES)
    return [(item.get(LANGUAGE), item.text or "") for item in items]


def set_language(uri: str, language: str) -> None:
    """Let a run have asked for a language."""
    run = json.dumps({"config": {"answers": {"language": language}}})
    open_store(uri, StorageConfig()).write("run.json", run.encode())


def test_an_image_has_its_caption_as_description_and_alt_text(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row("a/x.jpg", AWKWARD), row("a/x.png"), failed("b.jpg")])
    counts = export(uri, tmp_path / "x", to="xmp")
    assert set(files_under(tmp_path / "x")) == {"a/x.jpg.xmp", "a/x.png.xmp"}
    assert (counts.num_exported, counts.num_failed_skipped, counts.notes) == (2, 1, ())
    data = (tmp_path / "x/a/x.jpg.xmp").read_bytes()
    for name in ("dc:description", "iptc:AltTextAccessibility"):
        assert texts(data, name) == [("x-default", AWKWARD)]


def test_columns_choose_the_properties_and_the_run_the_language(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row("a.jpg", "short")])
    open_store(uri, StorageConfig()).write(
        "run.json", b'{"config": {"answers": {"language": "de"}}}'
    )
    (tmp_path / "t.csv").write_text('image_id,long,tags\na.jpg,A long one,"Hund, rot"\n')
    columns = "caption as alt_text, long as extended_description, tags as keywords, long as title"
    choice: dict[str, Any] = {"columns": columns, "join": tmp_path / "t.csv", "naming": "stem"}
    export(uri, tmp_path / "x", to="xmp", **choice)
    data = (tmp_path / "x/a.xmp").read_bytes()
    assert texts(data, "iptc:AltTextAccessibility") == [("x-default", "short"), ("de", "short")]
    both = [("x-default", "A long one"), ("de", "A long one")]
    assert texts(data, "iptc:ExtDescrAccessibility") == both
    assert texts(data, "dc:title") == both
    assert texts(data, "dc:subject") == [(None, "Hund"), (None, "rot")]
    assert texts(data, "dc:description") == []


@pytest.mark.parametrize("choice", [{"columns": "caption"}, {"existing": "append"}])
def test_what_xmp_has_not_is_refused(
    choice: dict[str, Any], output: Callable[..., str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        export(output([row("a.jpg")]), tmp_path / "x", to="xmp", **choice)
    assert caught.value.setting in choice


@given(st.text())
@example("\0\x0b\ufffe\ud800]]>&<'\"\r\n\t ")
@example(AWKWARD)
def test_any_caption_is_valid_xml_and_read_back_equal(caption: str) -> None:
    data = render({"description": caption, "keywords": caption})
    assert data is not None
    ((_, found),) = texts(data, "dc:description")
    assert len(found) == len(caption)
    changed = {b for a, b in zip(caption, found, strict=True) if a != b}
    assert changed <= {"\ufffd"}
    if caption.isprintable():
        assert found == caption


DARKTABLE = b"""<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <r:Description r:about="uuid:1" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:darktable="http://darktable.sf.net/" xmlns:d="http://purl.org/dc/elements/1.1/"
    xmp:Rating="3" darktable:history_end="2">
   <d:description><r:Alt><r:li xml:lang="x-default">by people</r:li></r:Alt></d:description>
   <!-- a comment -->
  </r:Description>
 </r:RDF>
</x:xmpmeta>"""


def standing(folder: Path, data: bytes) -> Path:
    folder.mkdir()
    (folder / "a.jpg.xmp").write_bytes(data)
    return folder / "a.jpg.xmp"


def test_what_people_wrote_wins_and_stays_byte_by_byte(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row("a.jpg", "by a model"), row("b.jpg")])
    file = standing(tmp_path / "x", DARKTABLE)
    counts = export(uri, file.parent, to="xmp", existing="import")
    assert (counts.num_exported, counts.num_kept) == (2, 0)
    data = file.read_bytes()
    head, tail = DARKTABLE.split(b"</r:RDF>")
    assert data.startswith(head)
    assert data.endswith(b"</r:RDF>" + tail)
    assert texts(data, "dc:description") == [("x-default", "by people")]
    assert texts(data, "iptc:AltTextAccessibility") == [("x-default", "by a model")]
    abouts = [one.get(f"{{{SPACES['rdf']}}}about") for one in ElementTree.fromstring(data).iter()]
    assert [about for about in abouts if about is not None] == ["uuid:1", "uuid:1"]
    assert export(uri, file.parent, to="xmp", existing="import").num_kept == 1
    assert file.read_bytes() == data, "once more changes nothing"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no XML",
        b"<x/>",
        DARKTABLE[:-30],
        DARKTABLE.decode().replace("UTF-8", "UTF-16").encode("utf-16"),
        DARKTABLE.replace(b"UTF-8", b"ISO-8859-1"),
        b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + DARKTABLE.split(b"\n", 1)[1],
        b"<r:RDF xmlns:r='http://www.w3.org/1999/02/22-rdf-syntax-ns#'/>",
    ],
)
def test_a_file_that_cannot_be_added_to_is_kept(
    data: bytes, output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row("a.jpg")])
    file = standing(tmp_path / "x", data)
    assert export(uri, file.parent, to="xmp", existing="import").num_kept == 1
    assert export(uri, file.parent, to="xmp", existing="skip").num_kept == 1
    with pytest.raises(ConfigError):
        export(uri, file.parent, to="xmp")
    assert file.read_bytes() == data
    export(uri, file.parent, to="xmp", existing="overwrite")
    assert texts(file.read_bytes(), "dc:description") == [("x-default", "a cat on a mat")]


def exiftool(folder: Path) -> dict[str, dict[str, Any]]:
    """What ExifTool reads in every XMP file below a folder, by its path."""
    if shutil.which("exiftool") is None:
        pytest.skip("there is no ExifTool; install it: apt-get install libimage-exiftool-perl")
    options = ("-json", "-struct", "-r.", "-quiet", "-charset", "filename=utf8", "-ext", "xmp")
    command = ["exiftool", *options, "-XMP:all", "-Warning", str(folder)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=300)
    assert done.stderr == b""
    return {
        str(Path(item.pop("SourceFile")).relative_to(folder)): item
        for item in json.loads(done.stdout)
    }


_PIECES = ["a", "Ü", "日本", "😀", " ", "'", '"', "&", "<", "$x", "#", ";", "%41", "..", "\\", "\n"]
_SUFFIXES = (".jpg", ".JPG", ".png", "", ".tar.gz", ".xmp")


def odd_name(number: int) -> str:
    """A name with odd characters, of which no two are the same."""
    one, two = _PIECES[number % 16], _PIECES[number // 16 % 16]
    folder = f"{two}{number % 7}/" if number % 3 else ""
    return f"{folder}{one}{number:05d}{two}{_SUFFIXES[number % 6]}"


@pytest.mark.parametrize(
    "num_images", [pytest.param(300, id="some"), pytest.param(10_000, marks=pytest.mark.slow)]
)
def test_exiftool_reads_the_captions_of_images_with_odd_names(
    num_images: int, output: Callable[..., str], tmp_path: Path
) -> None:
    captions = {odd_name(number): f"{odd_name(number)!r}: <&> é😀" for number in range(num_images)}
    assert len(captions) == num_images
    uri = output([row(name, caption) for name, caption in captions.items()])
    assert export(uri, tmp_path / "x", to="xmp").num_exported == num_images
    found = exiftool(tmp_path / "x")
    assert len(found) == num_images
    for item in found.values():
        assert item["AltTextAccessibility"] == item["Description"]
        assert "Warning" not in item
    assert sorted(item["Description"] for item in found.values()) == sorted(captions.values())


def test_exiftool_reads_what_was_added_to_a_file_of_people(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row("a.jpg", "by a model")])
    open_store(uri, StorageConfig()).write(
        "run.json", b'{"config": {"answers": {"language": "en"}}}'
    )
    file = standing(tmp_path / "x", DARKTABLE)
    export(uri, file.parent, to="xmp", existing="import")
    (found,) = exiftool(file.parent).values()
    assert "Warning" not in found
    assert (found["Description"], found["Rating"]) == ("by people", 3)
    assert found["AltTextAccessibility"] == "by a model"
    assert found["AltTextAccessibility-en"] == "by a model"
