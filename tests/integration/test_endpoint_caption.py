"""Bulk captioning by endpoints, on test servers that count what they are paid."""

import json
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import raycap
from raycap.captioning.status import read_status
from raycap.captioning.verify import verify
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from raycap.errors import ConfigError, ModelError, RunStopped
from raycap.preflights.run import preflight
from raycap.progress import Spent
from tests.support.commandline import rows_of
from tests.support.endpoint_server import digest_of, endpoint_server
from tests.support.taken_apart import Page

pytestmark = pytest.mark.usefixtures("ray_session")


def config(*urls: str, **sections: Any) -> CaptionConfig:
    endpoint = {"urls": urls, **sections.pop("endpoint", {})}
    model = {"name": "tiny", "backend": "endpoint"}
    return validate_config(CaptionConfig, {"model": model, "endpoint": endpoint, **sections})


def write_images(folder: Path, count: int) -> Path:
    """Write JPEGs that are sent as they are: each is smaller than its pixels."""
    folder.mkdir()
    for number in range(count):
        shade = np.full((32, 48, 3), number % 256, np.uint8)
        shade[:8, :8] = number // 256
        Image.fromarray(shade).save(folder / f"{number:05d}.jpg")
    return folder


def test_every_image_has_its_own_caption_and_nothing_is_paid_again(tmp_path: Path) -> None:
    photos, output = write_images(tmp_path / "photos", 30), tmp_path / "out"
    (photos / "broken.jpg").write_bytes(b"no image")
    with endpoint_server() as (server, url):
        settings = config(url, engine={"part_size": 8, "max_failed_share": 0.1})
        assert raycap.caption(photos, output, config=settings, limit=9).num_captioned == 9
        summary = raycap.caption(photos, output, config=settings)
        assert (summary.num_captioned, summary.num_ok, summary.num_failed) == (22, 30, 1)
        raycap.caption(photos, output, config=settings)
    assert verify(output).is_complete
    files = {path.name: path.read_bytes() for path in photos.glob("0*.jpg")}
    assert Counter(server.paid_images) == Counter(map(digest_of, files.values()))
    for row in rows_of(output):
        if row["status"] == "failed":
            assert (row["image_id"], row["error_code"]) == ("broken.jpg", "unsupported_format")
            continue
        file = files[row["image_id"]]
        assert row["caption"].startswith(f"image {digest_of(file)} on ")
        assert (row["model"], row["finish"], row["logprob"]) == ("tiny", "stop", -0.25)
        assert (row["num_tokens"], row["num_prompt_tokens"]) == (9, 100)
        assert row["digest"] == sha256(file).hexdigest()
        assert (row["width_px"], row["height_px"]) == (48, 32)
    assert (summary.num_tokens, summary.num_prompt_tokens) == (30 * 9, 30 * 100)


def test_named_prompts_are_asked_about_one_image_at_one_server(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 12)
    prompts = {"short": "In brief?", "tags": {"text": "Tags?", "max_new_tokens": 7}}
    with endpoint_server() as (one, url), endpoint_server() as (other, second):
        summary = raycap.caption(
            photos, tmp_path / "out", config=config(url, second, prompts=prompts)
        )
    assert summary.num_ok == 12
    for row in rows_of(tmp_path / "out"):
        digest = digest_of((photos / row["image_id"]).read_bytes())
        assert row["short"]["caption"] == f"image {digest} on In brief?"
        assert row["tags"]["caption"] == f"image {digest} on Tags?"
    assert len(one.asked) + len(other.asked) == 24
    assert not set(one.paid_images) & set(other.paid_images)
    assert {body["max_tokens"] for body in one.asked + other.asked} == {256, 7}


@pytest.mark.slow
@pytest.mark.parametrize("side", ["first", "second"])
def test_either_side_of_a_cascade_may_be_an_endpoint(side: str, tmp_path: Path) -> None:
    photos, output = write_images(tmp_path / "photos", 10), tmp_path / "out"
    with endpoint_server() as (server, url):
        endpoint = {"urls": [url]}
        if side == "first":  # its captions have the score -0.25
            model = {"name": "tiny", "backend": "endpoint"}
            sections = {"model": model, "cascade": {"model": "stub", "below": -0.1}}
        else:  # the stub's have -1 to -2
            cascade = {"model": "tiny", "backend": "endpoint", "below": -1.5}
            sections = {"model": {"name": "stub"}, "cascade": cascade}
        settings = validate_config(CaptionConfig, {**sections, "endpoint": endpoint})
        summary = raycap.caption(photos, output, config=settings)
    by_model = Counter(row["model"] for row in rows_of(output))
    num_second = summary.cascade["num_images"]
    assert num_second > 0
    if side == "first":
        assert by_model == {"stub": 10}
        assert len(server.paid_images) == 10
    else:
        assert by_model == {"stub": 10 - num_second, "tiny": num_second}
        assert len(server.paid_images) == num_second
    assert verify(output).is_complete


@pytest.mark.slow
def test_servers_read_the_images_at_their_own_addresses(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    addresses = [f"https://images.example/{number}.jpg?size=2" for number in range(5)]
    listed.write_text("\n".join([*addresses, str(tmp_path / "local.jpg")]))
    with endpoint_server() as (server, url):
        settings = config(url, endpoint={"send": "uri"}, engine={"max_failed_share": 0.5})
        summary = raycap.caption(listed, tmp_path / "out", config=settings)
    assert (summary.num_ok, summary.failed) == (5, {"not_found": 1})
    assert sorted(server.paid_images) == addresses
    with pytest.raises(ConfigError) as raised:
        raycap.caption(tmp_path, tmp_path / "other", config=settings)
    assert raised.value.setting == "endpoint.send"


@pytest.mark.slow
def test_a_run_stops_at_its_bound_and_a_higher_one_continues_it(tmp_path: Path) -> None:
    photos, output = write_images(tmp_path / "photos", 40), tmp_path / "out"
    prices = {"price_per_million_input_tokens": 1e4, "price_per_million_output_tokens": 0.0}
    with endpoint_server(latency_s=0.02) as (server, url):
        bounded = {**prices, "max_in_flight": 2}  # each image costs 1
        engine = {"part_size": 4}
        for max_cost in (10.0, 10.0, 25.0):
            settings = config(url, endpoint={**bounded, "max_cost": max_cost}, engine=engine)
            with pytest.raises(RunStopped) as raised:
                raycap.caption(photos, output, config=settings)
            assert raised.value.setting == "endpoint.max_cost"
            assert max_cost <= len(server.paid_images) <= max_cost + 3
        summary = raycap.caption(photos, output, config=config(url, endpoint=prices, engine=engine))
    assert summary.num_ok == 40
    assert summary.spent is not None
    assert summary.num_prompt_tokens == 4_000
    spent = summary.spent.num_prompt_tokens // 100
    assert summary.spent.cost == spent
    # What was in flight at a stop is not waited for.
    assert 40 <= spent <= len(server.paid_images) <= spent + 2 * 2


def test_what_is_wrong_is_told_in_one_line(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 3)
    with endpoint_server(model="another") as (_, url), pytest.raises(ModelError) as raised:
        raycap.caption(photos, tmp_path / "out", config=config(url))
    assert raised.value.setting == "model.name"
    assert "\n" not in str(raised.value)
    assert not list((tmp_path / "out" / "captions").glob("*"))


@pytest.mark.slow
def test_a_preflight_tells_tokens_and_cost_and_the_report_shows_them(tmp_path: Path) -> None:
    photos, output = write_images(tmp_path / "photos", 24), tmp_path / "out"
    prices = {"price_per_million_input_tokens": 1e4, "price_per_million_output_tokens": 1e5}
    prompts = {"short": "In brief?", "long": "In detail?"}  # each answer has five words
    with endpoint_server(supports=("image", "max_tokens")) as (server, url):
        settings = config(url, endpoint=prices, prompts=prompts)
        found = preflight(photos, output, 6, config=settings)
        assert len(server.paid_images) == 12
        raycap.caption(photos, output, config=settings)
    assert (found.sample.num_images, found.sample.num_ok) == (6, 6)
    assert found.estimate is not None
    tokens = found.tokens
    assert tokens is not None
    assert (tokens.num_prompt_tokens, tokens.num_tokens) == (24 * 200, 24 * 10)
    assert tokens.cost == pytest.approx(48 + 24)
    status = read_status(output)
    assert status.beat is not None
    assert status.beat.spent == Spent(num_prompt_tokens=4_800, num_tokens=240, cost=72.0)
    page = tmp_path / "report.html"
    raycap.report([output], output=page)
    assert "cost" in Page(page).text
    assert {row["short"]["logprob"] for row in rows_of(output)} == {None}
    raycap.export(output, tmp_path / "captions.csv", to="csv")


def test_typed_answers_are_values_of_their_type(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 4)
    prompts = {"light": {"text": "Which?", "choices": ["day", "night"]}}
    with endpoint_server(answer={"content": '["night"]'}) as (server, url):
        raycap.caption(photos, tmp_path / "good", config=config(url, prompts=prompts))
    assert {row["light"]["value"][0] for row in rows_of(tmp_path / "good")} == {"night"}
    assert "response_format" in server.asked[0]
    with endpoint_server() as (_, url):
        settings = config(url, prompts=prompts, engine={"max_failed_share": 1.0})
        summary = raycap.caption(photos, tmp_path / "bad", config=settings)
    assert summary.failed == {"wrong_type": 4}


def test_a_bad_answer_is_asked_for_once_more_and_both_are_paid(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 3)
    answer = {"content": "A cat on a", "refusal": None}
    with endpoint_server(answer=answer, finish="length") as (server, url):
        summary = raycap.caption(photos, tmp_path / "out", config=config(url))
    assert sorted(body["max_tokens"] for body in server.asked) == 3 * [256] + 3 * [512]
    assert sum(summary.flagged.values()) + summary.failed.get("truncated", 0) == 3
    assert summary.spent is not None
    assert summary.spent.num_prompt_tokens == 600


def test_equal_images_are_paid_once(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 6)
    files = sorted(photos.iterdir())
    for number, file in enumerate([*files, *files[:4]]):
        (photos / f"copy-{number}.jpg").write_bytes(file.read_bytes())
    engine = {"part_size": 4, "deduplicate": "content"}
    with endpoint_server() as (server, url):
        summary = raycap.caption(photos, tmp_path / "out", config=config(url, engine=engine))
    assert (summary.num_ok, summary.num_copies) == (16, 10)
    digests = {path.name: digest_of(path.read_bytes()) for path in photos.iterdir()}
    assert Counter(server.paid_images) == Counter(set(digests.values()))
    for row in rows_of(tmp_path / "out"):
        assert row["caption"].startswith(f"image {digests[row['image_id']]} on ")


def test_fields_are_filled_in_and_only_images_with_other_values_are_paid_again(
    tmp_path: Path,
) -> None:
    photos = write_images(tmp_path / "photos", 8)
    for number in range(8):
        tags = ["red", "it is {file_name}"][number % 2]
        (photos / f"{number:05d}.json").write_text(json.dumps({"tags": tags}))
    prompts = {"tagged": "Tags: {tags}. Name: {file_name}.", "plain": "In brief?"}
    with endpoint_server() as (server, url):
        settings = config(url, prompts=prompts)
        raycap.caption(photos, tmp_path / "out", config=settings)
        assert len(server.asked) == 16
        (photos / "00003.json").write_text('{"tags": "blue"}')
        raycap.caption(photos, tmp_path / "out", config=settings)
    assert len(server.asked) == 17
    rows = {row["image_id"]: row for row in rows_of(tmp_path / "out")}
    for name, tags in {
        "00002.jpg": "red",
        "00003.jpg": "blue",
        "00005.jpg": "it is {file_name}",
    }.items():
        digest = digest_of((photos / name).read_bytes())
        assert rows[name]["tagged"]["caption"] == f"image {digest} on Tags: {tags}. Name: {name}."
        assert rows[name]["plain"]["caption"] == f"image {digest} on In brief?"
