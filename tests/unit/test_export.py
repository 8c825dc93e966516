"""Export: each format read back by what reads it, untrusted ids, and what stands in the way."""

import csv
import hashlib
import json
import posixpath
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raycap import schema
from raycap.bulk import formats
from raycap.bulk.export import ExportFormat, export
from raycap.bulk.formats import SidecarNames, image_suffix, safe_path
from raycap.bulk.parts import (
    CAPTIONS,
    MANIFEST,
    encode_captions,
    encode_manifest,
    manifest_footer,
    part_key,
    read_part,
)
from raycap.config import StorageConfig
from raycap.errors import ConfigError, DatasetError, StorageError
from raycap.storage.base import Store
from raycap.storage.stores import open_store

AWKWARD = 'a "quoted",\ncat;\r\nünïcode \u2028 and\ttabs'

Part = list[dict[str, Any]]


def row(image_id: str, caption: str = "a cat on a mat", **changes: Any) -> dict[str, Any]:
    """Give a caption row, with `source_uri` for the manifest if that is another address."""
    return {
        schema.IMAGE_ID: image_id,
        schema.URI: f"/images/{image_id}",
        schema.ETAG: "1-2",
        schema.STATUS: schema.STATUS_OK,
        schema.ERROR_CODE: None,
        schema.ERROR_MESSAGE: None,
        schema.ATTEMPTS: 1,
        schema.CAPTION: caption,
        schema.NUM_WORDS: len(caption.split()),
        schema.LOGPROB: -0.3,
        schema.WIDTH_PX: 64,
        schema.HEIGHT_PX: 48,
        schema.ALTERNATIVES: [],
        **changes,
    }


def failed(image_id: str) -> dict[str, Any]:
    """Give the row of an image that has no caption."""
    nothing = dict.fromkeys(
        [schema.CAPTION, schema.NUM_WORDS, schema.LOGPROB, schema.WIDTH_PX, schema.HEIGHT_PX]
    )
    code = {schema.STATUS: "failed", schema.ERROR_CODE: "decode_failed"}
    return row(image_id) | nothing | code | {schema.ERROR_MESSAGE: "broken"}


def write_output(store: Store, *parts: Part) -> str:
    """Write a finished run's output with those rows; give its address."""
    store.write("run.json", b"{}")
    for number, rows in enumerate(parts):
        uris = [item.get("source_uri", item[schema.URI]) for item in rows]
        ids = [item[schema.IMAGE_ID] for item in rows]
        manifest = pa.table([ids, uris, [1] * len(ids), ["1-2"] * len(ids)], schema=schema.MANIFEST)
        footer = manifest_footer(manifest)
        store.write(part_key(MANIFEST, number), encode_manifest(manifest, footer))
        captions = pa.Table.from_pylist(rows, schema=schema.CAPTIONS)
        data, _ = encode_captions(captions, num_bytes=1, revision=0)
        store.write(part_key(CAPTIONS, number), data)
    return store.uri


@pytest.fixture
def output(tmp_path: Path) -> Callable[..., str]:
    """Give `output(part, part, ...)`, which writes them and gives the address."""

    def write(*parts: Part) -> str:
        return write_output(open_store(str(tmp_path / "output"), StorageConfig()), *parts)

    return write


@pytest.fixture
def two_parts(output: Callable[..., str]) -> str:
    alternatives = [{schema.CAPTION: "one\tmore", schema.LOGPROB: -0.7}]
    return output(
        [row("a/1.jpg"), failed("a/2.jpg")],
        [row("b/3.jpg", AWKWARD, alternatives=alternatives), row("b/ü 4.png", "")],
    )


def rows_of(uri: str) -> list[dict[str, Any]]:
    store = open_store(uri, StorageConfig())
    parts = [read_part(store, CAPTIONS, number) for number in (0, 1)]
    rows: list[dict[str, Any]] = pa.concat_tables(parts).to_pylist()
    return rows


def files_under(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes().decode()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_json_lines_hold_every_column_of_every_row_in_order(two_parts: str, tmp_path: Path) -> None:
    file = tmp_path / "captions.jsonl"
    counts = export(two_parts, file, to=ExportFormat.JSONL)
    assert (counts.num_exported, counts.num_failed_skipped, counts.num_files) == (4, 0, 1)
    text = file.read_text(encoding="utf-8")
    assert "ünïcode" in text
    read = [json.loads(line) for line in text.split("\n")[:-1]]
    assert [item[schema.LOGPROB] for item in read] == [-0.3, None, -0.3, -0.3]
    assert read[2][schema.ALTERNATIVES] == [{"caption": "one\tmore", "logprob": -0.7}]
    assert pa.Table.from_pylist(read, schema=schema.CAPTIONS).to_pylist() == rows_of(two_parts)


def test_json_lines_stay_json_where_a_model_gave_no_number(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row("a.jpg", logprob=float("nan")), row("b.jpg", logprob=-float("inf"))])
    export(uri, tmp_path / "x.jsonl", to=ExportFormat.JSONL)
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail)["logprob"] for line in lines] == [None] * 2


def test_csv_survives_quotes_commas_and_newlines(two_parts: str, tmp_path: Path) -> None:
    file = tmp_path / "captions.csv"
    assert export(two_parts, file, to=ExportFormat.CSV).num_exported == 4
    with file.open(encoding="utf-8", newline="") as opened:
        read = list(csv.DictReader(opened))
    assert list(read[0]) == schema.CAPTIONS.names
    assert [item["caption"] for item in read] == ["a cat on a mat", "", AWKWARD, ""]
    assert [item["status"] for item in read] == ["ok", "failed", "ok", "ok"]
    assert [item["width_px"] for item in read] == ["64", "", "64", "64"]
    assert read[0]["logprob"] == "-0.3"
    assert json.loads(read[2]["alternatives"]) == [{"caption": "one\tmore", "logprob": -0.7}]
    assert file.read_bytes().startswith(b"image_id,uri,etag,")
    assert b"alternatives\r\n" in file.read_bytes()


def test_parquet_is_one_file_with_the_schema_and_all_rows(two_parts: str, tmp_path: Path) -> None:
    file = tmp_path / "captions.parquet"
    assert export(two_parts, file, to=ExportFormat.PARQUET).num_exported == 4
    read = pq.read_table(file)
    assert read.schema.equals(schema.CAPTIONS)
    assert read.to_pylist() == rows_of(two_parts)
    metadata = pq.read_metadata(file)
    assert metadata.num_row_groups == 1
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_parquet_gathers_small_parts_into_row_groups_of_a_bounded_size(
    output: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_ROW_GROUP_ROWS", 4)
    parts = [[row(f"{part}-{n}.jpg") for n in range(3)] for part in range(5)]
    export(output(*parts), tmp_path / "x.parquet", to=ExportFormat.PARQUET)
    metadata = pq.read_metadata(tmp_path / "x.parquet")
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [
        4,
        2,
    ] * 2 + [3]


def test_coco_takes_the_numbers_that_the_files_have(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output(
        [row("train/000000000030.jpg", "a dog"), failed("train/broken.jpg")],
        [row("COCO_val2014_000000000042.jpg", "ein Fuß", width_px=640)],
    )
    counts = export(uri, tmp_path / "coco.json", to=ExportFormat.COCO)
    assert (counts.num_exported, counts.num_failed_skipped) == (2, 1)
    coco = json.loads((tmp_path / "coco.json").read_bytes())
    assert list(coco) == ["info", "licenses", "images", "annotations"]
    assert coco["images"] == [
        {"id": 30, "file_name": "train/000000000030.jpg", "width": 64, "height": 48},
        {"id": 42, "file_name": "COCO_val2014_000000000042.jpg", "width": 640, "height": 48},
    ]
    assert coco["annotations"] == [
        {"id": 1, "image_id": 30, "caption": "a dog"},
        {"id": 2, "image_id": 42, "caption": "ein Fuß"},
    ]


@pytest.mark.parametrize(
    "names",
    [
        ("a/1.jpg", "b/1.jpg"),  # the same number
        ("1.jpg", "x.jpg"),  # one has none
        ("1.jpg", "9999999999999999999.jpg"),  # more than an int64 holds
        ("1.jpg", "\u0664.jpg"),  # a digit, but no ASCII one
    ],
)
def test_coco_numbers_images_itself_where_their_names_do_not_tell_them_apart(
    names: tuple[str, str], output: Callable[..., str], tmp_path: Path
) -> None:
    export(output([row(name) for name in names]), tmp_path / "c.json", to=ExportFormat.COCO)
    coco = json.loads((tmp_path / "c.json").read_bytes())
    assert [image["id"] for image in coco["images"]] == [1, 2]
    assert [annotation["image_id"] for annotation in coco["annotations"]] == [1, 2]


def test_coco_of_failed_images_only_is_empty_and_valid(
    output: Callable[..., str], tmp_path: Path
) -> None:
    counts = export(output([failed("1.jpg")]), tmp_path / "c.json", to=ExportFormat.COCO)
    assert (counts.num_exported, counts.num_failed_skipped) == (0, 1)
    coco = json.loads((tmp_path / "c.json").read_bytes())
    assert coco["images"] == coco["annotations"] == []


def test_sidecars_mirror_the_image_tree(two_parts: str, tmp_path: Path) -> None:
    counts = export(two_parts, tmp_path / "x", to=ExportFormat.SIDECAR)
    assert (counts.num_exported, counts.num_failed_skipped, counts.num_files) == (3, 1, 3)
    assert files_under(tmp_path / "x") == {
        "a/1.txt": "a cat on a mat\n",
        "b/3.txt": AWKWARD + "\n",
        "b/ü 4.txt": "\n",
    }


def test_images_that_would_share_a_sidecar_all_use_their_full_names(
    output: Callable[..., str], tmp_path: Path
) -> None:
    names = ["a.jpg", "a.png", "b.jpg", "c", "c.gif", "d/e.jpg", "d/e.jpg.png", "f.x.jpg"]
    uri = output([row(n, n) for n in names[:4]], [row(n, n) for n in names[4:]])
    export(uri, tmp_path / "x", to=ExportFormat.SIDECAR)
    assert files_under(tmp_path / "x") == {
        "a.jpg.txt": "a.jpg\n",
        "a.png.txt": "a.png\n",
        "b.txt": "b.jpg\n",
        "c.gif.txt": "c.gif\n",
        "c.txt": "c\n",
        "d/e.jpg.png.txt": "d/e.jpg.png\n",  # `d/e.jpg.txt` could be that of d/e.jpg
        "d/e.txt": "d/e.jpg\n",
        "f.x.txt": "f.x.jpg\n",
    }


def test_a_full_name_never_meets_the_stem_of_another_image(
    output: Callable[..., str], tmp_path: Path
) -> None:
    names = ["a.jpg", "a.jpg.png", "a.png"]
    export(output([row(n, n) for n in names]), tmp_path / "x", to=ExportFormat.SIDECAR)
    assert files_under(tmp_path / "x") == {f"{name}.txt": f"{name}\n" for name in names}


def test_a_failed_image_does_not_seem_to_have_the_sidecar_of_its_neighbour(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row("a.jpg"), failed("a.png")])
    export(uri, tmp_path / "x", to=ExportFormat.SIDECAR)
    assert list(files_under(tmp_path / "x")) == ["a.jpg.txt"]


def test_sidecars_can_stand_beside_the_images_and_be_exported_again(
    output: Callable[..., str], tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.jpg").write_text("jpeg")
    (images / "readme.txt").write_text("mine")
    uri = output([row("a.jpg")])
    for _ in range(2):
        assert export(uri, images, to=ExportFormat.SIDECAR).num_exported == 1
    assert files_under(images) == {
        "a.jpg": "jpeg",
        "a.txt": "a cat on a mat\n",
        "readme.txt": "mine",
    }


def test_sidecars_never_replace_foreign_files_without_force(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row(f"{n}.jpg", "mine") for n in range(9)])
    folder = tmp_path / "x"
    folder.mkdir()
    for n in range(1, 8):
        (folder / f"{n}.txt").write_text("theirs, and longer")
    (folder / "8.txt").mkdir()
    before = files_under(folder)
    with pytest.raises(ConfigError, match=r"8 files stand in the way \(1\.txt, .*5\.txt, \.\.\.\)"):
        export(uri, folder, to=ExportFormat.SIDECAR)
    assert files_under(folder) == before
    (folder / "8.txt").rmdir()
    export(uri, folder, to=ExportFormat.SIDECAR, force=True)
    assert set(files_under(folder).values()) == {"mine\n"}


HOSTILE = [
    "../../escape.jpg",
    "/etc/passwd.jpg",
    "..",
    ".",
    "",
    "a/../../../b.jpg",
    "a//b.jpg",
    "C:\\Windows\\x.jpg",
    "nul\x00byte.jpg",
    "two\nlines.jpg",
    "https://host/path/x.jpg?a=1&b=2",
    "s3://bucket/key.png",
    "ü" * 300 + ".jpg",
    "n" * 247 + ".jpg",
    "deep/" * 700 + "x.jpg",
    "%2E%2E/x.jpg",
]


def test_no_image_id_leads_out_of_the_destination(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row(name) for name in HOSTILE])
    root = tmp_path / "root"
    folder = root / "inner" / "x"
    folder.mkdir(parents=True)
    (folder / "foreign.md").write_text("makes the export look before it writes")
    (root / "escape.txt").write_text("bait")
    for _ in range(2):
        assert export(uri, folder, to=ExportFormat.SIDECAR).num_exported == len(HOSTILE)
    assert len(files_under(root)) == len(HOSTILE) + 2
    assert len(files_under(folder)) == len(HOSTILE) + 1
    assert (folder / "https%3A/%2Fhost/path/x.txt").is_file()


@pytest.mark.parametrize(
    "name",
    [
        "a.jpg",
        "a/b/c.jpg",
        ".hidden",
        "...",
        "..a/b..",
        "100%.jpg",
        "50%off.jpg",
        "Bild vom 12.3. 10:30 Uhr (2).JPG",
        "日本語/写真😀.png",
        "a~b+c,d;e=f@g#h?i*j'k\"l.jpg",
        "n" * 247 + ".jpg",
    ],
)
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert safe_path(name) == name


@given(st.lists(st.text(), unique=True, max_size=6))
@example(HOSTILE)
@example(["a//b", "a/%2Fb", "a/\x00/b", "%", "%%", "%25", "%2525", "", "~", "%7E", "/", "//"])
@example(["x" * 300, "x" * 301, "x" * 300 + "/y", "d/" * 500 + "a", "d/" * 500 + "b"])
def test_paths_of_any_ids_are_relative_harmless_and_distinct(names: list[str]) -> None:
    paths = [safe_path(name) for name in names]
    assert len(set(paths)) == len(names)
    for name, path in zip(names, paths, strict=True):
        parts = path.split("/")
        assert not {"", ".", ".."} & set(parts)
        assert posixpath.normpath(path) == path
        assert max(len(part.encode()) for part in parts) <= 251
        assert len(path.encode()) <= 900
        assert not any(c < " " or c in "\x7f\x85\\" for c in path)
        if name and len(name.encode()) < 80:
            assert unquote(path) == name  # nothing is lost, so nothing can be mixed up


name_parts = st.sampled_from(["a", "b", ".jpg", ".png", "/", ".", "%", "\n"])


@given(st.lists(st.lists(name_parts, max_size=5).map("".join), unique=True, max_size=12))
def test_sidecar_names_are_always_distinct(names: list[str]) -> None:
    found = SidecarNames([names[:5], names[5:]])
    keys = found.of(names)
    assert len(set(keys)) == len(names)
    for name, key in zip(names, keys, strict=True):
        path = safe_path(name)
        assert key in (f"{path}.txt", f"{posixpath.splitext(path)[0]}.txt")


def test_a_shared_hash_makes_names_long_and_never_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class OneDigest:
        def __init__(self, _data: bytes, digest_size: int) -> None:
            self._size = digest_size

        def digest(self) -> bytes:
            return b"\1" * self._size

    monkeypatch.setattr(formats, "blake2b", OneDigest)
    names = SidecarNames([["a.jpg", "b.jpg"]])
    assert names.of(["a.jpg", "b.jpg"]) == ["a.jpg.txt", "b.jpg.txt"]


def test_a_lone_surrogate_is_escaped_as_well() -> None:
    assert safe_path("a\ud800.jpg") == "a%ED%A0%80.jpg"


@pytest.fixture
def photos(tmp_path: Path, make_jpeg: Callable[..., bytes]) -> Path:
    for n in range(3):
        make_jpeg(tmp_path / "photos" / f"{n}.v1.JPG", seed=n)
    return tmp_path / "photos"


def photo_rows(photos: Path) -> list[Part]:
    paths = sorted(photos.iterdir())
    first, second, third = (row(p.name, f"photo {p.name}", source_uri=str(p)) for p in paths)
    gone = row("gone.jpg", source_uri=str(photos / "gone.jpg"))
    return [[first, failed("bad.jpg"), second], [third, gone]]


def samples_of(tar: Path) -> list[dict[str, Any]]:
    """Read a tar as the package `webdataset` does; the file is ours to close, which it forgets."""
    reader = pytest.importorskip("webdataset.tariterators")
    with tar.open("rb") as stream:
        members = reader.tar_file_expander([{"url": str(tar), "stream": stream}])
        return list(reader.group_by_keys(members))


def test_webdataset_gives_back_the_images_and_captions(
    output: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    counts = export(output(*photo_rows(photos)), tmp_path / "x", to=ExportFormat.WEBDATASET)
    assert (counts.num_exported, counts.num_failed_skipped, counts.num_files) == (3, 1, 2)
    assert counts.num_unreadable == 1
    assert counts.unreadable == (f"{photos}/gone.jpg: no such file",)
    samples = [s for n in (0, 1) for s in samples_of(tmp_path / "x" / f"part-00000{n}.tar")]
    assert [s["__key__"] for s in samples] == ["000000_000000", "000000_000002", "000001_000000"]
    for sample, path in zip(samples, sorted(photos.iterdir()), strict=True):
        assert sample["jpg"] == path.read_bytes()
        assert sample["txt"].decode() == f"photo {path.name}"
        read = json.loads(sample["json"])
        assert list(read) == schema.CAPTIONS.names
        assert (read["image_id"], read["caption"]) == (path.name, f"photo {path.name}")


def test_tars_are_the_same_bytes_whenever_they_are_written(
    output: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    uri = output(*photo_rows(photos))
    digests = []
    for folder in ("x", "y"):
        export(uri, tmp_path / folder, to=ExportFormat.WEBDATASET)
        tars = sorted((tmp_path / folder).iterdir())
        digests.append([(t.name, hashlib.sha256(t.read_bytes()).hexdigest()) for t in tars])
    assert digests[0] == digests[1]
    with tarfile.open(tmp_path / "x" / "part-000000.tar") as tar:
        members = tar.getmembers()
    assert [m.name.partition(".")[2] for m in members] == ["jpg", "json", "txt"] * 2
    assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}


def test_an_image_that_has_grown_too_large_is_not_cut_but_told(
    output: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    uri = output(*photo_rows(photos))
    run = {"config": {"image": {"max_bytes": 100}}}
    Path(uri, "run.json").write_text(json.dumps(run))
    counts = export(uri, tmp_path / "x", to=ExportFormat.WEBDATASET)
    assert (counts.num_exported, counts.num_unreadable) == (0, 4)
    assert "has grown beyond 100 bytes" in counts.unreadable[0]


@pytest.mark.parametrize(
    ("name", "data", "suffix"),
    [
        ("a.b.JPEG", b"", ".jpeg"),
        ("plain", b"\xff\xd8\xff\xe0", ".jpg"),
        ("https://host/x.php?id=1", b"\x89PNG\r\n\x1a\n", ".png"),
        ("x.txt", b"RIFF....WEBPVP8 ", ".webp"),
        ("x", b"?", ".bin"),
    ],
)
def test_an_image_is_named_by_its_suffix_or_its_first_bytes(
    name: str, data: bytes, suffix: str
) -> None:
    assert image_suffix(name, data) == suffix


def test_captions_that_do_not_answer_their_manifest_are_refused(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row("a.jpg"), row("b.jpg")])
    other = pa.table([["a.jpg", "c.jpg"], ["x", "y"], [1, 1], ["1-2"] * 2], schema=schema.MANIFEST)
    part = Path(uri, part_key(MANIFEST, 0))
    part.write_bytes(encode_manifest(other, manifest_footer(other)))
    with pytest.raises(DatasetError, match=r"part-000000\.parquet: answers another manifest"):
        export(uri, tmp_path / "x", to=ExportFormat.WEBDATASET)
    assert files_under(tmp_path / "x") == {}


SINGLE = [ExportFormat.JSONL, ExportFormat.CSV, ExportFormat.PARQUET, ExportFormat.COCO]


@pytest.mark.parametrize("to", SINGLE)
def test_a_standing_file_is_replaced_only_by_force(
    to: ExportFormat, two_parts: str, tmp_path: Path
) -> None:
    file = tmp_path / "deep" / "captions"
    file.parent.mkdir()
    file.write_text("precious")
    with pytest.raises(
        ConfigError, match=r"deep: 1 file stands in the way \(captions\); .*--force"
    ):
        export(two_parts, file, to=to)
    assert files_under(file.parent) == {"captions": "precious"}
    export(two_parts, file, to=to, force=True)
    assert list(file.parent.iterdir()) == [file]
    assert file.read_bytes() != b"precious"


def test_standing_tars_are_replaced_only_by_force(
    output: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    uri = output(*photo_rows(photos))
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "part-000001.tar").write_text("precious")
    with pytest.raises(ConfigError, match=r"1 file stands in the way \(part-000001\.tar\)"):
        export(uri, folder, to=ExportFormat.WEBDATASET)
    assert files_under(folder) == {"part-000001.tar": "precious"}
    export(uri, folder, to=ExportFormat.WEBDATASET, force=True)
    assert [path.name for path in sorted(folder.iterdir())] == [
        "part-000000.tar",
        "part-000001.tar",
    ]


def test_a_damaged_part_leaves_the_destination_untouched(two_parts: str, tmp_path: Path) -> None:
    part = Path(two_parts, part_key(CAPTIONS, 1))
    data = part.read_bytes()
    part.write_bytes(b"PAR1" + b"\0" * 100 + data[104:])  # its footer is still whole
    file = tmp_path / "x" / "captions.csv"
    file.parent.mkdir()
    file.write_text("precious")
    with pytest.raises(DatasetError, match=r"part-000001\.parquet: is damaged"):
        export(two_parts, file, to=ExportFormat.CSV, force=True)
    assert files_under(file.parent) == {"captions.csv": "precious"}


def test_an_unfinished_run_is_refused(two_parts: str, tmp_path: Path) -> None:
    Path(two_parts, part_key(CAPTIONS, 1)).unlink()
    with pytest.raises(DatasetError, match=r"1 of 2 parts are still .* finish the run first"):
        export(two_parts, tmp_path / "x.csv", to=ExportFormat.CSV)


def test_a_run_whose_images_have_changed_is_refused(two_parts: str, tmp_path: Path) -> None:
    store = open_store(two_parts, StorageConfig())
    manifest = read_part(store, MANIFEST, 0)
    footer = manifest_footer(manifest, revision=1)
    store.write(part_key(MANIFEST, 0), encode_manifest(manifest, footer))
    with pytest.raises(DatasetError, match=r"1 of 2 parts are still to be captioned"):
        export(two_parts, tmp_path / "x.csv", to=ExportFormat.CSV)


def test_a_folder_that_is_no_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not an output of raycap"):
        export(tmp_path, tmp_path / "x.csv", to=ExportFormat.CSV)


def test_a_folder_given_for_a_file_is_refused(two_parts: str, tmp_path: Path) -> None:
    for destination in (str(tmp_path), f"{tmp_path}/new/", "s3://bucket", "s3://bucket/prefix/"):
        with pytest.raises(ConfigError, match=r"coco is one file, such as .*/captions\.json"):
            export(two_parts, destination, to=ExportFormat.COCO)


def test_a_file_given_for_a_folder_is_refused(two_parts: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for to in (ExportFormat.SIDECAR, ExportFormat.WEBDATASET):
        with pytest.raises(ConfigError, match="is a file; give a folder"):
            export(two_parts, tmp_path / "file", to=to)


def test_a_destination_that_cannot_be_made_is_told_in_one_line(
    two_parts: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    for to in (ExportFormat.CSV, ExportFormat.WEBDATASET, ExportFormat.SIDECAR):
        with pytest.raises(StorageError, match="file"):
            export(two_parts, tmp_path / "file" / "x" / "y", to=to)


def test_an_export_can_go_to_any_store_that_fsspec_knows(two_parts: str, tmp_path: Path) -> None:
    target = f"memory://{tmp_path.name}/captions.jsonl"
    export(two_parts, target, to=ExportFormat.JSONL)
    store = open_store(f"memory://{tmp_path.name}", StorageConfig())
    assert len(store.read("captions.jsonl").splitlines()) == 4
    with pytest.raises(ConfigError, match="1 file stands in the way"):
        export(two_parts, target, to=ExportFormat.JSONL)
    export(two_parts, f"memory://{tmp_path.name}/x", to=ExportFormat.SIDECAR)
    assert store.read("x/a/1.txt") == b"a cat on a mat\n"
