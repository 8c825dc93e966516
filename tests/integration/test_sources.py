"""Every kind of source, on this machine and on S3: which images it gives, and in which order."""

import bz2
import gzip
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycap.captioning.source import Listing, open_source
from raycap.config import StorageConfig
from raycap.errors import BucketNotFound, ConfigError, DatasetError, ObjectNotFound
from raycap.schema import MANIFEST
from raycap.storage.stores import ImageReader
from tests.conftest import S3

CONFIG = StorageConfig(timeout_s=5, num_retries=1, list_threads=4)
READER = ImageReader(CONFIG)  # its S3 client is made when first needed: one server for all tests
TREE = [
    "a-b.png", "a.jpg", "a/1.JPG", "a/[x].jpg", "a/b/2.webp", "a/b/noext", "a/b/c/3.gif", "b.jpg",
    "b/4.jpg", ".hidden.jpg", ".git/5.jpg", "notes.txt", "a/table.csv", "a/b/.DS_Store",
    "été 1.jpg", "movie.mp4",
]  # fmt: skip
IMAGES = sorted(
    set(TREE) - {".hidden.jpg", "notes.txt", "a/table.csv", "a/b/.DS_Store", "movie.mp4"}
)
LISTED = ["b.jpg", "a.jpg", "a/b/2.webp", "a.jpg"]


def ids(listing: Listing) -> list[str]:
    table = pa.concat_tables([MANIFEST.empty_table(), *listing.tables])
    assert table.schema == MANIFEST
    for name, uri in zip(table["image_id"].to_pylist(), table["uri"].to_pylist(), strict=True):
        assert READER.read(uri, 1000).decode().endswith(os.path.basename(name))
    found: list[str] = table["image_id"].to_pylist()
    return found


def put_locally(tmp_path: Path) -> Callable[[str, bytes], None]:
    def put(key: str, data: bytes) -> None:
        path = tmp_path / "photos" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return put


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the address of TREE, each file holding its own name."""
    if request.param == "local":
        put, address = put_locally(tmp_path), str(tmp_path / "photos")
    else:
        s3: S3 = request.getfixturevalue("s3")
        put, address = (lambda key, data: s3.put(f"in/photos/{key}", data)), f"{s3.uri}/in/photos"
    request.node.put = put  # for what a test adds
    for key in TREE:
        put(key, key.encode())
    return address


def test_a_folder_gives_its_images_in_key_order(root: str) -> None:
    listing = open_source(root + "/", CONFIG)
    assert listing.source == root
    assert ids(listing) == sorted(IMAGES, key=str.encode)
    assert listing.skipped == {"hidden": 2, ".txt": 1, ".csv": 1, ".mp4": 1}


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("*.jpg", ["a.jpg", "b.jpg", "été 1.jpg"]),
        ("a/*", ["1.JPG", "[x].jpg", "table.csv"]),
        ("a/[[]*", ["[x].jpg"]),
        ("a/**", ["1.JPG", "[x].jpg", "b/2.webp", "b/c/3.gif", "b/noext", "table.csv"]),
        ("**/*.jpg", ["a.jpg", "a/[x].jpg", "b.jpg", "b/4.jpg", "été 1.jpg"]),
        ("**/b/*", ["a/b/2.webp", "a/b/noext", "b/4.jpg"]),
        ("[ab].jpg", ["a.jpg", "b.jpg"]),
        ("[!a].jpg", ["b.jpg"]),
        ("[a-z]*/?.*", ["a/1.JPG", "b/4.jpg"]),
        ("?.jpg", ["a.jpg", "b.jpg"]),
        (".*.jpg", [".hidden.jpg"]),
        ("*.none", []),
        ("a[.jpg", []),
    ],
)
def test_a_glob_gives_what_python_finds(root: str, pattern: str, wanted: list[str]) -> None:
    listing = open_source(f"{root}/{pattern}", CONFIG)
    assert ids(listing) == wanted
    assert listing.source == f"{root}/{pattern}"


def test_one_image_is_a_source(root: str, request: pytest.FixtureRequest) -> None:
    request.node.put("movie.mp4", b"\0\0\0 ftypmovie.mp4")
    for name in ("a.jpg", "été 1.jpg", "movie.mp4"):
        listing = open_source(f"{root}/{name}", CONFIG)
        assert ids(listing) == [name]
        assert listing.source == f"{root}/{name}"


def list_bytes(suffix: str, uris: list[str]) -> bytes:
    if suffix == ".txt":
        return "\n\n".join(uris).encode()
    if suffix == ".csv":
        return "\ufeffx,uri\n".encode() + "".join(f'"1","{uri}"\n' for uri in uris).encode()
    if suffix == ".jsonl":
        return "".join(json.dumps({"uri": uri}) + "\n" for uri in uris).encode()
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"uri": uris}), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl", ".parquet"])
def test_a_list_gives_its_images_sorted_and_once(
    root: str, request: pytest.FixtureRequest, suffix: str
) -> None:
    absolute = f"{root}/b/4.jpg"
    request.node.put(f"list{suffix}", list_bytes(suffix, [*LISTED, absolute]))
    listing = open_source(f"{root}/list{suffix}", CONFIG)
    assert listing.source == f"{root}/list{suffix}"
    assert ids(listing) == sorted([absolute, "a.jpg", "a/b/2.webp", "b.jpg"])
    assert listing.skipped["duplicate"] == 1
    assert listing.repeated == ["a.jpg"]


def test_no_image_of_a_list_is_lost_for_a_parameter_of_its_address(tmp_path: Path) -> None:
    uris = [f"https://h/a.jpg?{name}={n}" for name in ("key", "author", "session") for n in "123"]
    (tmp_path / "l.txt").write_text("\n".join([*uris, *uris[:2], "https://me:pw@h/a.jpg?key=1"]))
    listing = open_source(str(tmp_path / "l.txt"), CONFIG)
    assert len(pa.concat_tables(listing.tables)) == 9
    assert listing.skipped["duplicate"] == 3
    assert len(listing.repeated) == 3


def test_one_id_for_two_images_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text("image_id,uri\nx,a.jpg\ny,b.jpg\nx,./sub/c.jpg\n")
    with pytest.raises(DatasetError) as caught:
        list(open_source(str(path), CONFIG).tables)
    assert all(name in str(caught.value) for name in (" x ", "a.jpg", "c.jpg"))
    path.write_text("image_id,uri\nx,https://h/a?sig=1&se=1\nx,https://h/a?sig=2&se=2\n")
    assert len(pa.concat_tables(open_source(str(path), CONFIG).tables)) == 1


def test_a_listed_name_is_found_in_either_form_of_its_accents(
    root: str, request: pytest.FixtureRequest
) -> None:
    request.node.put("caf\u00e9.jpg", "caf\u00e9.jpg".encode())
    request.node.put("l.csv", b"uri\ncafe\xcc\x81.jpg\n")
    (uri,) = pa.concat_tables(open_source(f"{root}/l.csv", CONFIG).tables)["uri"].to_pylist()
    assert READER.read(uri, 1000) == "caf\u00e9.jpg".encode()
    assert READER.read_range(uri, 0, 3) == b"caf"


def test_ids_of_a_list_are_kept_as_they_stand(root: str, request: pytest.FixtureRequest) -> None:
    request.node.put("ids.csv", b"image_id,uri\n000042,a.jpg\n7,b.jpg\n")
    tables = pa.concat_tables(open_source(f"{root}/ids.csv", CONFIG).tables)
    assert tables["image_id"].to_pylist() == ["000042", "7"]
    assert tables["uri"].to_pylist() == [f"{root}/a.jpg", f"{root}/b.jpg"]


def test_a_wrong_list_is_told(root: str, request: pytest.FixtureRequest) -> None:
    request.node.put("wrong.csv", b"url\na.jpg\n")
    with pytest.raises(DatasetError, match="'uri'") as caught:
        ids(open_source(f"{root}/wrong.csv", CONFIG))
    assert caught.value.uri == f"{root}/wrong.csv"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("photos.ndjson", b'{"uri": "a.jpg"}\n'),
        ("list.lst", "été.jpg\n".encode() * 500),
        ("list", b"a.jpg\n"),
        ("list.csv.bz2", bz2.compress(b"uri\na.jpg\n")),
        ("list.lst.gz", gzip.compress(b"a.jpg\n")),
        ("list.pq", b"PAR1"),
    ],
)
def test_a_list_by_another_name_is_no_image(
    root: str, request: pytest.FixtureRequest, name: str, data: bytes
) -> None:
    request.node.put(name, data)
    with pytest.raises(ConfigError) as caught:
        ids(open_source(f"{root}/{name}", CONFIG))
    assert caught.value.uri == f"{root}/{name}"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("text.jpg", b"text"),
        ("empty.dat", b""),
        ("drawing.svg", b"<svg></svg>"),
        ("photo", b"\xff\xd8\xff\xe0"),
        ("grey", b"P2 1 1 255 7"),
    ],
)
def test_a_file_that_is_no_list_by_its_content_is_one_image(
    root: str, request: pytest.FixtureRequest, name: str, data: bytes
) -> None:
    request.node.put(name, data)
    (table,) = open_source(f"{root}/{name}", CONFIG).tables
    assert table["image_id"].to_pylist() == [name]


def test_what_is_not_there_is_told(root: str) -> None:
    if root.startswith("s3://"):
        assert ids(open_source(f"{root}/non", CONFIG)) == []
        assert ids(open_source(f"{root}/a.jp", CONFIG)) == []
        with pytest.raises(ObjectNotFound) as gone:
            ids(open_source(f"{root}/none.csv", CONFIG))
        assert gone.value.uri == f"{root}/none.csv"
        return
    for name in ("none", "none.jpg", "none.csv", "a.jpg/none"):
        with pytest.raises(ConfigError) as caught:
            open_source(f"{root}/{name}", CONFIG)
        assert caught.value.uri == f"{root}/{name}"


def test_a_missing_bucket_or_a_wildcard_in_its_name_is_told(s3: S3) -> None:
    with pytest.raises(BucketNotFound):
        ids(open_source("s3://no-such-bucket-here/x", CONFIG))
    with pytest.raises(ConfigError, match="wildcard"):
        open_source(f"{s3.uri[:-1]}*/x.jpg", CONFIG)
    with pytest.raises(ConfigError, match="glob"):
        open_source(f"{s3.uri}/[z-a].jpg", CONFIG)
    with pytest.raises(ConfigError, match="https://host/a"):
        open_source("https://me:secret@host/a?b=*", CONFIG)


def test_a_whole_bucket_is_a_source(s3: S3) -> None:
    s3.put("x.jpg", b"x.jpg")
    s3.put("y/z.png", b"z.png")
    assert ids(open_source(s3.uri, CONFIG)) == ["x.jpg", "y/z.png"]


def test_relative_and_home_paths_are_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jpg", "b.jpg"):
        put_locally(tmp_path)(name, name.encode())
    put_locally(tmp_path)("l.txt", b"a.jpg\n./b.jpg\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    photos = tmp_path / "photos"
    for start in ("photos", "./photos", "~/photos", f"file://{photos}"):
        assert open_source(start, CONFIG).source == str(photos)
        assert ids(open_source(start, CONFIG)) == ["a.jpg", "b.jpg"]
        assert ids(open_source(f"{start}/*.jpg", CONFIG)) == ["a.jpg", "b.jpg"]
        assert open_source(f"{start}/a.jpg", CONFIG).source == str(photos / "a.jpg")
        assert ids(open_source(f"{start}/l.txt", CONFIG)) == ["./b.jpg", "a.jpg"]
    with pytest.raises(ConfigError) as caught:
        open_source("~nobody-of-that-name/x", CONFIG)
    assert caught.value.uri == "~nobody-of-that-name/x"


def test_odd_files_do_not_stop_a_local_glob(tmp_path: Path) -> None:
    put = put_locally(tmp_path)
    put("a.jpg", b"a.jpg")
    photos = tmp_path / "photos"
    (photos / "gone.jpg").symlink_to("nowhere")
    (photos / "self.jpg").symlink_to("self.jpg")
    (photos / "folder.jpg").mkdir()
    os.mkfifo(photos / "pipe.jpg")
    Path(os.fsdecode(os.fsencode(photos) + b"/\xff.jpg")).write_bytes(b"%FF.jpg")
    assert ids(open_source(f"{photos}/*.jpg", CONFIG)) == ["%FF.jpg", "a.jpg"]
    assert ids(open_source(str(photos), CONFIG)) == ["%FF.jpg", "a.jpg"]


def test_a_file_whose_name_looks_like_a_glob_is_one_image(tmp_path: Path) -> None:
    put_locally(tmp_path)("what?[1].jpg", b"what?[1].jpg")
    assert ids(open_source(str(tmp_path / "photos" / "what?[1].jpg"), CONFIG)) == ["what?[1].jpg"]


def test_a_folder_named_like_a_list_is_a_folder(tmp_path: Path) -> None:
    put_locally(tmp_path)("set.csv/a.jpg", b"a.jpg")
    assert ids(open_source(str(tmp_path / "photos" / "set.csv"), CONFIG)) == ["a.jpg"]


def test_a_real_folder_of_photos_is_listed(real_photos: Path) -> None:
    table = pa.concat_tables(open_source(str(real_photos), CONFIG).tables)
    names = {path.name for path in real_photos.rglob("*.jp*g") if path.is_file()}
    assert names <= {os.path.basename(name) for name in table["image_id"].to_pylist()}
    assert min(table["size_bytes"].to_pylist()) >= 0


@pytest.mark.parametrize("name", ["photos [2020]", "what?", "star*", "[ab]"])
def test_a_prefix_or_object_that_exists_is_no_glob(s3: S3, name: str) -> None:
    s3.put(f"{name}/a.jpg", b"a.jpg")
    s3.put(f"{name}.jpg", f"{name}.jpg".encode())
    assert ids(open_source(f"{s3.uri}/{name}", CONFIG)) == ["a.jpg"]
    assert ids(open_source(f"{s3.uri}/{name}/", CONFIG)) == ["a.jpg"]
    assert ids(open_source(f"{s3.uri}/{name}.jpg", CONFIG)) == [f"{name}.jpg"]


def test_empty_names_in_a_key_are_kept_where_they_exist(s3: S3) -> None:
    s3.put("/lead/a.jpg", b"a.jpg")
    s3.put("/one.jpg", b"one.jpg")
    s3.put("plain/b.jpg", b"b.jpg")
    s3.put("x//y/c.jpg", b"c.jpg")
    assert ids(open_source(f"{s3.uri}//lead", CONFIG)) == ["a.jpg"]
    assert ids(open_source(f"{s3.uri}//one.jpg", CONFIG)) == ["/one.jpg"]
    assert ids(open_source(f"{s3.uri}//plain", CONFIG)) == ["b.jpg"]
    assert ids(open_source(f"{s3.uri}/x//y", CONFIG)) == ["c.jpg"]
    assert ids(open_source(f"{s3.uri}/x/", CONFIG)) == ["/y/c.jpg"]


def test_what_a_folder_leaves_out_is_counted(tmp_path: Path) -> None:
    put = put_locally(tmp_path)
    for key in ("a.jpg", "notes.txt", ".hidden.jpg", "b/.Trash-1000/x.jpg", "@eaDir/x.jpg"):
        put(key, b"a.jpg")
    photos = tmp_path / "photos"
    for number in range(4):
        (photos / f"gone{number}.jpg").symlink_to("nowhere")
    os.mkfifo(photos / "pipe.jpg")
    listing = open_source(str(photos), CONFIG)
    assert ids(listing) == ["a.jpg"]
    assert listing.skipped == {
        ".txt": 1, "hidden": 1, ".Trash-1000/": 1, "@eaDir/": 1, "dangling link": 4,
        "pipe or device": 1,
    }  # fmt: skip


def test_images_in_folders_of_the_system_are_left_out_on_s3_too(s3: S3) -> None:
    for key in ("a.jpg", ".ipynb_checkpoints/a.jpg", "x/.thumbnails/b.jpg", "thumbnails/c.jpg"):
        s3.put(f"in/{key}", key.encode())
    listing = open_source(f"{s3.uri}/in", CONFIG)
    assert ids(listing) == ["a.jpg", "thumbnails/c.jpg"]
    assert listing.skipped == {".ipynb_checkpoints/": 1, ".thumbnails/": 1}


def test_a_glob_leaves_out_folders_of_the_system_unless_it_names_them(
    root: str, request: pytest.FixtureRequest
) -> None:
    for key in ("@eaDir/x.bmp", "d/@eaDir/x.bmp", "d/@eaDir/#recycle/y.bmp", "d/z.bmp"):
        request.node.put(key, key.encode())
    for pattern, wanted, skipped in (
        ("**/*.bmp", ["d/z.bmp"], {"@eaDir/": 3}),
        ("*/*.bmp", ["d/z.bmp"], {"@eaDir/": 1}),
        ("*/@eaDir/**/*.bmp", ["d/@eaDir/x.bmp"], {"#recycle/": 1}),
        ("@eaDir/*.bmp", ["x.bmp"], {}),
        ("d/*.bmp", ["z.bmp"], {}),
    ):
        listing = open_source(f"{root}/{pattern}", CONFIG)
        assert ids(listing) == wanted
        assert listing.skipped == skipped


def test_a_deep_glob_is_found(tmp_path: Path) -> None:
    deep = "/".join(["d"] * 1_200)
    here = os.open(tmp_path, os.O_RDONLY)
    for name in ["photos", *deep.split("/")]:
        os.mkdir(name, dir_fd=here)
        above, here = here, os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(above)
    os.close(os.open("a.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    photos = tmp_path / "photos"
    try:
        for source in (str(photos), f"{photos}/**/*.jpg"):
            (table,) = open_source(source, CONFIG).tables
            assert table["image_id"].to_pylist() == [f"{deep}/a.jpg"]
    finally:  # pytest cleans up by recursion
        subprocess.run(["rm", "-rf", str(photos)], check=True)
