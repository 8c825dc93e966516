"""Captioning in this process: what it takes, what it returns, and what it refuses."""

import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from PIL import Image

import raycap
from raycap.config import CaptionConfig, GenerationConfig, ModelConfig
from raycap.errors import ConfigError, ErrorCode, ModelError, RunStopped
from tests.conftest import S3
from tests.support.endpoint_server import digest_of, endpoint_server
from tests.support.own_models import write_module

COLOURS = {"red": (200, 40, 40), "green": (50, 150, 60), "blue": (50, 80, 200)}


def png(colour: str, size: tuple[int, int] = (48, 32)) -> bytes:
    sink = BytesIO()
    Image.new("RGB", size, COLOURS[colour]).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture(scope="module")
def stub() -> Iterator[raycap.Captioner]:
    with raycap.load_captioner("stub") as captioner:
        yield captioner


def test_all_forms_of_an_image_have_one_caption_and_no_ray(
    stub: raycap.Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    had_ray = ray.is_initialized()  # other tests share it
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "red.png"
    path.write_bytes(png("red"))
    image = Image.open(path)
    forms: list[Any] = [
        *(path, str(path), "red.png", f"file://{path}"),
        *(path.read_bytes(), bytearray(path.read_bytes()), memoryview(path.read_bytes())),
        *(image, image.convert("RGBA"), np.asarray(image)),
    ]
    found = stub.caption(forms)
    assert len(found) == len(forms)
    assert {(one.text, one.logprob, one.error) for one in found} == {
        (found[0].text, found[0].logprob, None)
    }
    assert "red image" in str(found[0].text)
    for form in forms:
        assert stub.caption(form) == found[:1]
    assert stub.caption(np.stack([np.asarray(image)] * 3)) == found[:3]
    assert stub.caption(form for form in forms[:2]) == found[:2]
    files = np.empty(2, dtype=object)
    files[:] = [path.read_bytes()] * 2
    assert stub.caption(files) == found[:2]
    assert stub.caption([]) == []
    assert ray.is_initialized() == had_ray


def test_images_are_read_from_a_bucket(stub: raycap.Captioner, s3: S3) -> None:
    s3.put("blue.png", png("blue"))
    there, gone = stub.caption([f"{s3.uri}/blue.png", f"{s3.uri}/gone.png"])
    assert "blue image" in str(there.text)
    assert gone.error is not None
    assert gone.error.code is ErrorCode.NOT_FOUND


def test_many_images_keep_their_order(stub: raycap.Captioner) -> None:
    names = [list(COLOURS)[number % 3] for number in range(300)]
    found = stub.caption(png(name) for name in names)
    assert [name in str(one.text) for name, one in zip(names, found, strict=True)] == [True] * 300


def test_a_bad_image_is_a_result_and_spares_the_others(
    stub: raycap.Captioner, tmp_path: Path
) -> None:
    (tmp_path / "cut.png").write_bytes(png("red", (400, 300))[:-60])
    bad: list[Any] = [b"", b"no image", tmp_path / "gone.jpg", "", None, tmp_path / "cut.png"]
    assert "folder" in str(stub.caption(tmp_path)[0].error)
    with Image.open(tmp_path / "cut.png") as cut:
        found = stub.caption([png("red"), *bad, cut, png("blue")])
    codes = [
        "empty",
        "unsupported_format",
        "not_found",
        "not_found",
        "empty",
        *["decode_failed"] * 2,
    ]
    assert [one.error and str(one.error.code) for one in found] == [None, *codes, None]
    assert all(one.text is None and one.error and one.error.message for one in found[1:-1])
    assert not any(one.is_ok for one in found[1:-1])
    assert "blue" in str(found[-1].text)


@pytest.mark.parametrize("wrong", [5, {"a": 1}, np.zeros((4, 4, 3)), np.zeros((3, 9, 9), np.uint8)])
def test_what_is_not_an_image_is_refused(stub: raycap.Captioner, wrong: Any) -> None:
    with pytest.raises(ConfigError) as found:
        stub.caption([png("red"), wrong])
    assert found.value.setting == "images"
    if not isinstance(wrong, dict):
        with pytest.raises(ConfigError):
            stub.caption(wrong)


def test_prompts_have_answers_by_name_and_values_of_their_type() -> None:
    prompts = {
        "short": {"text": "In short:"},
        "tags": {"text": "Tags?", "choices": ["red", "blue", "grey"]},
    }
    with raycap.load_captioner("stub", prompts=prompts) as captioner:
        good, bad = captioner.caption([png("red"), b"no image"])
    assert str(good.text).startswith("In short: ")
    assert good.prompts["short"].text == good.text
    assert set(good.prompts["tags"].value) <= {"red", "blue", "grey"}
    assert bad.error is not None
    assert [bad.prompts[name].error for name in prompts] != [None, None]


def test_rules_for_answers_and_text_hold() -> None:
    captioner = raycap.load_captioner(
        "stub",
        generation=GenerationConfig(num_captions=3, num_beams=3),
        text={"prefix": "Seen: ", "keep_answer": True},
        answers={"language": None},
    )
    (found,) = captioner.caption(png("green"))
    assert str(found.text).startswith("Seen: a ")
    assert not str(found.answer).startswith("Seen: ")
    assert len(found.alternatives) == 2
    assert found.alternatives[0].text.startswith("Seen: ")


def test_fields_of_prompts_come_with_the_images(stub: raycap.Captioner, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(png("red"))
    captioner = raycap.load_captioner(
        "stub",
        generation={"prompt": "{file_name}, {tags}:"},
        source={"missing_context": "fail"},
    )
    found = captioner.caption([path, path], fields=[{"tags": ["a", "b"]}, {"tags": None}])
    assert str(found[0].text).startswith("red.png, a, b: ")
    assert found[1].error is not None
    assert found[1].error.code is ErrorCode.NO_CONTEXT
    assert captioner.caption(path, fields={"tags": ["a", "b"]}) == found[:1]
    wrong: list[Any] = [None, [], [{"tags": "a"}] * 2, ["a"], {}.keys()]
    for fields in wrong:
        with pytest.raises(ConfigError) as missing:
            captioner.caption(path, fields=fields)
        assert missing.value.setting == "fields"
    with pytest.raises(ConfigError):
        stub.caption(path, fields={"tags": "a"})


def test_settings_override_the_configuration() -> None:
    config = CaptionConfig(
        model=ModelConfig(name="demo"), generation=GenerationConfig(num_beams=2, num_captions=2)
    )
    captioner = raycap.load_captioner("stub", config=config, generation={"num_captions": 1})
    assert "stub" in repr(captioner)
    (found,) = captioner.caption(png("red"))
    assert found.alternatives == ()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"generaton": {}}, "generaton"),
        ({"generation": {"num_beams": 0}}, "generation.num_beams"),
        ({"cascade": {"model": "demo", "below": -1.0}}, "cascade.model"),
        ({"source": {"keep_columns": ["a"]}}, "source.keep_columns"),
        ({"source": {"context": "sidecars"}}, "source.context"),
        ({"model": {"name": "stub", "backend": "vllm"}}, "model.backend"),
    ]
    for settings, setting in wrong:
        with pytest.raises(ConfigError) as refused:
            raycap.load_captioner(**{"model": "stub", **settings})
        assert refused.value.setting == setting


def test_a_closed_captioner_says_so(stub: raycap.Captioner) -> None:
    del stub
    with endpoint_server() as (_, url):
        for captioner in (
            raycap.load_captioner("stub"),
            raycap.load_captioner("tiny", endpoint=url),
        ):
            assert captioner.caption(png("red"))[0].is_ok
            captioner.close()
            captioner.close()
            with pytest.raises(ConfigError, match="closed"):
                captioner.caption(png("red"))


def test_endpoints_answer_in_order() -> None:
    files = [png("red", (20 + number, 16)) for number in range(100)]
    with (
        endpoint_server(latency_s=0.01) as (server, url),
        raycap.load_captioner("tiny", endpoint=url, prompts={"a": "A?", "b": "B?"}) as captioner,
    ):
        found = captioner.caption([*files, b"no image"])
        assert server.most_at_a_time > 4
    digests = [digest_of(file) for file in files]
    assert [one.prompts["b"].text for one in found[:-1]] == [
        f"image {one} on B?" for one in digests
    ]
    assert (found[0].logprob, found[0].finish, found[0].num_prompt_tokens) == (-0.25, "stop", 100)
    assert found[-1].error is not None


def test_what_stops_a_run_at_endpoints_is_raised() -> None:
    with endpoint_server(key="secret-key") as (_, url):
        captioner = raycap.load_captioner("tiny", endpoint=url)
        with pytest.raises(ModelError) as refused:
            captioner.caption([png("red")] * 3)
        assert refused.value.setting == "endpoint.api_key_env"
    with endpoint_server() as (_, url):
        bounded = raycap.load_captioner("tiny", endpoint={"urls": [url], "max_tokens_total": 150})
        with pytest.raises(RunStopped) as stopped:
            bounded.caption([png("red")] * 30)
        assert stopped.value.setting == "endpoint.max_tokens_total"


def test_a_class_of_ones_own_is_isolated_and_its_batches_shrink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
        BATCHES = []
        class Small:
            target = (16, 16)
            def caption(self, pixels):
                BATCHES.append(len(pixels))
                if len(pixels) > 2:
                    raise MemoryError
                if (pixels[:, 8, 8] == (200, 40, 40)).all(axis=1).any():
                    raise ValueError("no red")
                return [f"light {image.mean():.0f}" for image in pixels]
    """
    write_module(tmp_path, "own_small", source)
    monkeypatch.syspath_prepend(str(tmp_path))
    captioner = raycap.load_captioner({"name": "own_small:Small", "trust": True})
    found = captioner.caption([png("blue"), png("red"), png("green"), png("blue")])
    assert [one.text for one in found] == ["light 110", None, "light 87", "light 110"]
    assert all(one.logprob is None for one in found)
    assert found[1].error is not None
    assert found[1].error.code is ErrorCode.MODEL_REJECTED
    assert max(sys.modules["own_small"].BATCHES) == 4


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"  # of Ray's own settings
)
def test_a_batch_of_ray_data_gets_typed_columns() -> None:
    captioner = raycap.Captioner("stub", column="bytes")
    files = np.array([png("red"), b"no image", None], dtype=object)
    table = captioner({"key": np.array([1, 2, 3]), "bytes": files})
    assert table["key"].to_pylist() == [1, 2, 3]
    assert table["status"].to_pylist() == ["ok", "failed", "failed"]
    assert table["error_code"].to_pylist() == [None, "unsupported_format", "empty"]
    assert table.schema.field("logprob").type == pa.float32()
    assert captioner(pa.table({"bytes": files.tolist()}))["caption"] == table["caption"]
    assert captioner({"bytes": files[1:]}).schema.field("caption").type == pa.string()
    assert len(captioner(pa.table({"bytes": pa.array([], pa.binary())}))) == 0
    grey, wrong = np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.float32)
    values = np.empty(2, dtype=object)
    values[:] = [grey, wrong]
    assert captioner({"bytes": values})["status"].to_pylist() == ["ok", "failed"]
    for batch in ({"image": files}, {"bytes": files, "caption": files}):
        with pytest.raises(ConfigError) as refused:
            captioner(batch)
        assert refused.value.setting == "column"
