"""The server: who may ask for what, and what an answer says."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from PIL import Image

from raycap.config import ReviewConfig, StorageConfig
from raycap.errors import ConfigError
from raycap.images.isolation import Isolated
from raycap.reviewing.pictures import DiskCache, NoPicture, Pictures, open_pictures
from raycap.reviewing.review import review
from raycap.reviewing.server import POLICY, Server
from raycap.storage.stores import open_store
from tests.conftest import MakeJpeg
from tests.support import outputs
from tests.support.outputs import failed, row, write_output
from tests.support.reviewed import Client, open_session, served

output = outputs.output
HOSTILE = "</script><script>alert(1)</script>/..%2f'\"\u202e\n.jpg"
PATHS = ["/", "/page/main.js", "/api/about", "/api/items", "/api/items/0", "/pictures/small/0"]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("served")
    Image.linear_gradient("L").resize((640, 480)).save(folder / "a.jpg")
    (folder / "b.jpg").write_bytes(b"no image")
    rows = [
        row("a.jpg", source_uri=str(folder / "a.jpg"), etag=None),
        row("b.jpg", source_uri=str(folder / "b.jpg"), etag=None),
        row(HOSTILE, HOSTILE, source_uri=str(folder / "none.jpg")),
        failed("d.jpg"),
    ]
    store = open_store(str(folder / "output"), StorageConfig())
    with served(write_output(store, rows), thumbnail_px=64) as (server, _):
        yield Client(server)


def edit(**changes: Any) -> dict[str, Any]:
    return {"item": 0, "action": "approve", "old": "a cat on a mat", **changes}


def test_the_page_sets_the_cookie_that_everything_else_needs(client: Client) -> None:
    page = client.ask(f"/?token={client.token}", without=["Cookie"])
    assert page.status == 200
    cookie = page.headers["Set-Cookie"]
    assert cookie.startswith(client.cookie)
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert client.token.encode() not in page.body
    for path in PATHS:
        assert client.ask(path).status == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cookie", [None, "", "raycap-review-{port}=wrong", "other={token}"])
def test_without_the_token_nothing_is_told(client: Client, path: str, cookie: str | None) -> None:
    without = ["Cookie"] if cookie is None else []
    given = (cookie or "").format(port=client.port, token=client.token)
    answer = client.ask(path, Cookie=given, without=without)
    assert answer.status == 403
    assert "Set-Cookie" not in answer.headers
    assert client.ask(f"{path}?token=wrong", without=["Cookie"]).status == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil", "", "[:"]
)
def test_a_name_that_only_leads_here_is_refused(client: Client, host: str) -> None:
    answer = client.ask("/api/about", Host=host.format(port=client.port))
    assert answer.status in (400, 403)
    assert b"reviewer" not in answer.body


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:9999", "localhost"])
def test_the_names_of_this_machine_are_served(client: Client, host: str) -> None:
    assert client.ask("/api/about", Host=host.format(port=client.port)).status == 200


def test_nothing_is_changed_for_another_page(client: Client) -> None:
    for path, body in (("/api/edits", edit()), ("/api/undo", {"name": "x"})):
        for headers in (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": f"http://127.0.0.1:{client.port + 1}"},
            {"Content_Type": "text/plain"},
            {"Content_Type": "application/x-www-form-urlencoded"},
        ):
            assert client.ask(path, body, **headers).status == 403
        assert client.ask(path, method="GET").status == 405
    assert client.ask("/api/items/0").json["history"] == []


def test_every_answer_has_the_policy(client: Client) -> None:
    for path in [*PATHS, "/none", "/api/items?sort=none", "/page/..%2fserver.py"]:
        for answer in (client.ask(path), client.ask(path, without=["Cookie"])):
            assert answer.headers["Content-Security-Policy"] == POLICY
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "Access-Control-Allow-Origin" not in answer.headers
    assert "unsafe" not in POLICY


@pytest.mark.parametrize(
    "path",
    [
        "/page/../server.py",
        "/page/..%2f..%2fserver.py",
        "/page/%2fetc%2fpasswd",
        "/page/index.html",
    ],
)
def test_only_the_files_of_the_page_are_served(client: Client, path: str) -> None:
    assert client.ask(path).status == 404


@pytest.mark.parametrize(
    "path",
    [
        "/api/items?sort=none",
        "/api/items?first=-1",
        "/api/items?first=1e9",
        "/api/items?min_words=many",
        "/api/items?zz=1",
        "/api/items/99",
        "/api/items/-1",
        "/pictures/small/99",
        "/pictures/small/x",
    ],
)
def test_a_wrong_question_is_told_in_one_line(client: Client, path: str) -> None:
    answer = client.ask(path)
    assert answer.status == 400
    assert "\n" not in answer.json["error"]


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        edit(item=99),
        edit(action="none"),
        edit(action="undo"),
        edit(action="text", new=" "),
        edit(action="text", new="a\0b"),
        edit(zz=1),
    ],
)
def test_a_wrong_edit_changes_nothing(client: Client, body: Any) -> None:
    assert client.ask("/api/edits", body).status == 400
    assert client.ask("/api/items/0").json["history"] == []


def test_pictures_are_shrunk_and_may_be_kept(client: Client) -> None:
    answer = client.ask("/pictures/small/0")
    assert answer.headers["Content-Type"] == "image/webp"
    assert "immutable" in answer.headers["Cache-Control"]
    assert len(answer.body) < 4_000
    assert len(client.ask("/pictures/large/0").body) > len(answer.body)
    assert client.ask("/pictures/huge/0").status == 404
    assert client.ask("/api/items").headers["Cache-Control"] == "no-store"


def test_an_image_that_cannot_be_shown_has_a_reason(client: Client) -> None:
    for item, reason in ((1, "unsupported_format"), (2, "no such file")):
        answer = client.ask(f"/pictures/small/{item}")
        assert answer.status == 404
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert reason in answer.body.decode()


def test_captions_and_ids_are_data(client: Client) -> None:
    (item,) = client.ask("/api/items?text=script&anew=1").json["items"]
    assert (item["image_id"], item["caption"]) == (HOSTILE, HOSTILE)


def test_a_conflict_says_who_and_what(output: Callable[..., str]) -> None:
    uri = output([row("a"), row("b")])
    with served(uri) as (server, _), served(uri, by="bob") as (other, _):
        mine, theirs = Client(server), Client(other)
        done = theirs.ask("/api/edits", edit(action="text", new="a tomcat"))
        assert done.status == 200
        refused = mine.ask("/api/edits", edit())
        assert refused.status == 409
        assert (refused.json["by"], refused.json["conflict"]["caption"]) == ("bob", "a tomcat")
        assert theirs.ask("/api/undo", {"name": done.json["undo"]}).json["items"] == [0]
        assert theirs.ask("/api/undo", {"name": done.json["undo"]}).status == 400


def test_find_and_replace(output: Callable[..., str]) -> None:
    with served(output([row("a"), row("b", "a dog")])) as (server, _):
        client = Client(server)
        rule = {"find": "cat", "replacement": "lion"}
        shown = client.ask("/api/replacements", {"filter": {}, "rule": rule}).json
        assert shown["num_changes"] == 1
        assert client.ask("/api/replacements/none", {}).status == 400
        done = client.ask(f"/api/replacements/{shown['name']}", {})
        assert done.json["num_changes"] == 1
        (item,) = client.ask("/api/items?text=lion&anew=1").json["items"]
        assert item["review"] == "edited"
        bad = {"find": "(", "regex": True}
        assert client.ask("/api/replacements", {"filter": {}, "rule": bad}).status == 400


def test_a_review_ends_when_it_is_stopped(output: Callable[..., str]) -> None:
    found: list[bytes] = []

    def use(server: Server) -> None:
        with urlopen(server.address) as answer:  # noqa: S310  http of this machine
            found.append(answer.read())
        parts = urlsplit(server.address)
        assert parts.hostname == "127.0.0.1"
        Client(server).ask("/api/edits", edit())
        server.stop()

    config = ReviewConfig(open_browser=False, reviewer="ada")
    summary = review(output([row("a"), row("b")]), config=config, on_ready=use)
    assert b"<main" in found[0]
    assert (summary.num_saved, summary.num_approved, summary.num_unreviewed) == (1, 1, 1)


def test_a_taken_port_is_one_line(output: Callable[..., str]) -> None:
    uri = output([row("a")])
    with served(uri) as (server, _):
        port = urlsplit(server.address).port
        with pytest.raises(ConfigError) as refused, served(uri, port=port):
            pass
        assert refused.value.setting == "port"


def test_the_cache_of_pictures_is_bounded(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, max_bytes=10)
    for name in ("a", "b"):
        cache.put(name, b"12345")
    assert cache.get("a") == b"12345"  # so that b is not used for longest
    cache.put("c", b"123")
    cache.put("huge", b"12345678901")
    assert [name for name in ("a", "b", "c", "huge") if cache.get(name)] == ["a", "c"]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == cache.num_bytes == 8


def test_a_changed_image_is_not_shown(
    output: Callable[..., str], tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    make_jpeg(tmp_path / "a.jpg")
    uri = output([row("a", source_uri=str(tmp_path / "a.jpg"))])  # of the version `1-2`
    with (
        open_session(uri) as session,
        open_pictures(session.output, ReviewConfig()) as pictures,
        pytest.raises(NoPicture, match="changed"),
    ):
        pictures.get(session.row(0), 64)


def _hang(_asked: tuple[bytes, int]) -> bytes:
    time.sleep(60)
    return b""


def make_hanging() -> Callable[[tuple[bytes, int]], bytes]:
    return _hang


def test_an_image_that_hangs_its_decoder_is_only_without_a_picture(
    output: Callable[..., str], tmp_path: Path, make_jpeg: MakeJpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_jpeg(tmp_path / "a.jpg")
    uri = output([row("a", source_uri=str(tmp_path / "a.jpg"), etag=None)])
    monkeypatch.setattr("raycap.reviewing.pictures._DECODE_LIMIT_S", 0.5)
    with open_session(uri) as session:
        pictures = Pictures(session.output, ReviewConfig(), tmp_path)
        for _ in range(2):
            pictures._processes.get()
            pictures._processes.put(Isolated(make_hanging))
        with pytest.raises(NoPicture, match=r"0\.5 s"):
            pictures.get(session.row(0), 64)
        pictures.close()
