"""Bulk captioning by vLLM, in `ray.data.llm` and by its server: needs vLLM (`make test-vllm`)."""

import asyncio
import http.client
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

import raycap
from raycap.answers.typed import answer_type
from raycap.captioning.verify import verify
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from raycap.demo.scenes import write_scenes
from raycap.errors import ImageError, ModelError
from raycap.images.decoding import decode
from raycap.models.base import Caption, Question
from raycap.models.endpoint.client import EndpointClient
from raycap.models.endpoint.messages import Asking, Picture
from raycap.models.endpoint.pool import Patience
from raycap.models.endpoint.secrets import Secrets
from raycap.models.fitting import fit_images
from raycap.models.load import load_captioner
from raycap.models.sources import find_model
from raycap.progress import Progress
from tests.conftest import free_port
from tests.support.commandline import rows_of
from tests.support.tiny_vlm import KEPT_ANSWERS, save_spelling_vlm, save_vlm

pytest.importorskip("vllm", reason="vLLM needs an environment of its own: make test-vllm")
pytestmark = [
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # vLLM's own, and Ray's of it
]

ARGS = {
    "enforce_eager": True,
    "max_model_len": 200,
    "max_num_seqs": 8,
    "gpu_memory_utilization": 0.2,  # of a CPU's memory too
    "kv_cache_memory_bytes": 2**28,
}
GENERATION = {"num_beams": 1, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_vlm("qwen2_vl", tmp_path_factory.mktemp("model")))


def config_for(
    model: str, args: dict[str, Any], fit: str = "model", **engine: float
) -> CaptionConfig:
    vllm = {"name": model, "backend": "vllm", "precision": "fp32", "vllm_args": args}
    settings = {
        "model": vllm,
        "generation": GENERATION,
        "engine": engine,
        "image": {"fit": fit},
        "answers": KEPT_ANSWERS,
    }
    return validate_config(CaptionConfig, settings)


@pytest.mark.parametrize("fit", ["model", "keep"])
@pytest.mark.parametrize("family", ["idefics3", "qwen2_vl"])
def test_the_captions_are_those_of_the_vlm_captioner_and_a_run_goes_on(
    family: str, fit: str, tmp_path: Path
) -> None:
    model = str(save_vlm(family, tmp_path / "model"))
    folder, output = tmp_path / "scenes", tmp_path / "out"
    write_scenes(folder, 9, seed=11)
    for path in sorted(folder.glob("*.jpg"))[:4]:
        with Image.open(path) as scene:
            scene.crop((0, 0, scene.width, scene.height // 2)).save(path)
    (folder / "broken.jpg").write_bytes(b"no image")
    settings = config_for(model, ARGS, fit, part_size=4, max_failed_share=0.2)
    assert raycap.caption(folder, output, config=settings, limit=4).num_captioned == 4
    summary = raycap.caption(folder, output, config=settings)
    assert (summary.num_captioned, summary.num_ok, summary.num_failed) == (6, 9, 1)
    assert verify(output).is_complete
    source = fit_images(find_model(model), settings.image)
    torch = settings.model.model_copy(update={"backend": "torch", "vllm_args": {}})
    captioner = load_captioner(source, torch, settings.generation)
    failed, *rows = sorted(rows_of(output), key=lambda row: row["status"])
    assert (failed["image_id"], failed["error_code"]) == ("broken.jpg", "unsupported_format")
    for row in rows:
        image = decode(Path(row["uri"]).read_bytes(), source.target, settings.image)
        (caption,) = captioner.caption(image.pixels[None])
        assert (row["caption"], row["model"]) == (caption.text, model)
        assert row["logprob"] == pytest.approx(caption.logprob, abs=1e-3)
    assert len({row["caption"] for row in rows}) > 1


def test_answers_follow_the_types_of_their_prompts(tmp_path: Path) -> None:
    model = str(save_spelling_vlm(tmp_path / "model"))
    write_scenes(tmp_path / "scenes", 5, seed=4)
    prompts = {
        "plain": "describe",
        "kind": {"text": "kind", "json_schema": {"enum": ["dog", "cat"]}, "max_new_tokens": 12},
        "tags": {"text": "tags", "choices": ["red", "blue"], "max_new_tokens": 60},
    }
    settings = config_for(model, ARGS, part_size=4, max_failed_share=1.0)
    settings = validate_config(CaptionConfig, {**settings.model_dump(), "prompts": prompts})
    raycap.caption(tmp_path / "scenes", tmp_path / "out", config=settings)
    for row in rows_of(tmp_path / "out"):
        assert row["kind"]["value"] in ("dog", "cat")
        assert (row["tags"]["error_code"] is None) == (row["tags"]["value"] is not None)
        assert set(row["tags"]["value"] or ()) <= {"red", "blue"}
        assert row["plain"]["error_code"] is None
    assert verify(tmp_path / "out").is_complete


def test_each_of_several_prompts_is_answered_as_it_is_alone(tmp_path: Path) -> None:
    model = str(save_vlm("qwen2_vl", tmp_path / "model"))
    folder, output = tmp_path / "scenes", tmp_path / "out"
    write_scenes(folder, 5, seed=11)
    alone = config_for(model, ARGS)
    texts = {"what": "what is it", "where": "where is it", "why": {"text": "why"}}
    prompts = validate_config(CaptionConfig, {"prompts": texts}).prompts
    several = alone.model_copy(update={"prompts": prompts})
    assert raycap.caption(folder, output, config=several).num_ok == 5
    assert verify(output).is_complete
    source = find_model(model)
    torch = alone.model.model_copy(update={"backend": "torch", "vllm_args": {}})
    for name, prompt in prompts.items():
        asked = alone.generation.model_copy(update={"prompt": prompt.text})
        captioner = load_captioner(source, torch, asked)
        for row in rows_of(output):
            image = decode(Path(row["uri"]).read_bytes(), source.target, alone.image)
            (caption,) = captioner.caption(image.pixels[None])
            assert row[name]["caption"] == caption.text
            assert row[name]["logprob"] == pytest.approx(caption.logprob, abs=1e-3)


def test_fields_of_the_row_are_part_of_the_question(model: str, tmp_path: Path) -> None:
    folder, output = tmp_path / "scenes", tmp_path / "out"
    write_scenes(folder, 4, seed=11)
    settings = config_for(model, ARGS)
    asked = settings.generation.model_copy(update={"prompt": "what is in {file_name}"})
    raycap.caption(folder, output, config=settings.model_copy(update={"generation": asked}))
    source = find_model(model)
    torch = settings.model.model_copy(update={"backend": "torch", "vllm_args": {}})
    for row in rows_of(output):
        prompt = f"what is in {row['image_id']}"
        filled = settings.generation.model_copy(update={"prompt": prompt})
        image = decode(Path(row["uri"]).read_bytes(), source.target, settings.image)
        (caption,) = load_captioner(source, torch, filled).caption(image.pixels[None])
        assert row["caption"] == caption.text
        assert row["logprob"] == pytest.approx(caption.logprob, abs=1e-3)


def test_as_the_second_model_of_a_cascade_its_draws_are_the_images_own(
    model: str, tmp_path: Path
) -> None:
    folder, output = tmp_path / "scenes", tmp_path / "out"
    write_scenes(folder, 3, seed=2)
    for path in sorted(folder.glob("*.jpg")):
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    second = {"model": model, "below": -0.5, "precision": "fp32"}  # all of the stub's
    settings = validate_config(
        CaptionConfig,
        {
            "model": {"name": "stub"},
            "cascade": {**second, "backend": "vllm", "vllm_args": ARGS},
            "generation": {**GENERATION, "sampling": {"enabled": True, "temperature": 2.0}},
            "answers": KEPT_ANSWERS,
        },
    )
    summary = raycap.caption(folder, output, config=settings)
    assert (summary.num_ok, summary.cascade["num_images"]) == (6, 6)
    rows = {row["image_id"]: row for row in rows_of(output)}
    assert {row["model"] for row in rows.values()} == {model}
    originals = {name: row for name, row in rows.items() if not name.startswith("copy-")}
    for name, row in originals.items():
        assert row["caption"] == rows[f"copy-{name}"]["caption"]
    assert len({row["caption"] for row in originals.values()}) > 1


def test_an_engine_that_is_killed_is_replaced(model: str, tmp_path: Path) -> None:
    folder, output = tmp_path / "scenes", tmp_path / "out"
    write_scenes(folder, 96, seed=5)
    killed: list[int] = []

    def kill(_: Progress) -> None:
        if not killed:
            killed.extend(engines())
            for process in killed:
                os.kill(process, signal.SIGKILL)

    settings = config_for(model, ARGS, part_size=8, batch_size=4)
    summary = raycap.caption(folder, output, config=settings, on_progress=kill)
    assert killed
    assert (summary.num_ok, summary.num_failed) == (96, 0)
    assert verify(output).is_complete


def engines() -> list[int]:
    """Find the processes in which vLLM computes."""
    return [
        process.pid
        for process in psutil.process_iter(["name", "cmdline"])
        if "EngineCore" in " ".join([process.info["name"], *(process.info["cmdline"] or [])])
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({**ARGS, "max_model_len": 10}, "the model fails on every image: "),
        ({**ARGS, "nonsense": 1}, "vLLM .*nonsense"),
    ],
    ids=["no room for an image", "unknown argument"],
)
def test_what_is_wrong_is_told_in_one_line(
    args: dict[str, Any], message: str, model: str, tmp_path: Path
) -> None:
    write_scenes(tmp_path / "scenes", 3, seed=2)
    settings = config_for(model, args)
    with pytest.raises(ModelError, match=message) as raised:
        raycap.caption(tmp_path / "scenes", tmp_path / "out", config=settings)
    assert "\n" not in str(raised.value)
    assert not list((tmp_path / "out" / "captions").glob("*"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run vLLM's server with a model that can spell, under the name `tiny`; give its address."""
    port = free_port()
    folder = tmp_path_factory.mktemp("served")
    model = str(save_spelling_vlm(folder / "model"))
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", model, "--served-model-name", "tiny", "--port", str(port)),
        *("--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager"),
        *("--max-model-len", "200", "--max-num-seqs", "8", "--gpu-memory-utilization", "0.2"),
        *("--kv-cache-memory-bytes", str(2**28), "--limit-mm-per-prompt", '{"image": 1}'),
    ]
    log = folder / "log.txt"
    env = {**os.environ, "VLLM_NO_USAGE_STATS": "1"}
    with log.open("w") as sink, subprocess.Popen(command, stdout=sink, stderr=sink, env=env) as own:
        try:
            deadline = time.monotonic() + 300
            while not answers(port):
                assert own.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(1)
            yield f"http://127.0.0.1:{port}"
        finally:
            own.terminate()
            own.wait(60)


def answers(port: int) -> bool:
    """Whether a server is ready for requests."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def served_config(url: str, **sections: Any) -> CaptionConfig:
    settings = {
        "model": {"name": "tiny", "backend": "endpoint"},
        "endpoint": {"urls": [url]},
        "generation": GENERATION,
        "image": {"max_pixels_model": 64 * 64},
        "answers": KEPT_ANSWERS,
        **sections,
    }
    return validate_config(CaptionConfig, settings)


def test_its_server_captions_every_image_with_tokens_and_score(served: str, tmp_path: Path) -> None:
    folder, output = tmp_path / "scenes", tmp_path / "out"
    write_scenes(folder, 9, seed=11)
    (folder / "broken.jpg").write_bytes(b"no image")
    settings = served_config(served, engine={"max_failed_share": 0.2})
    summary = raycap.caption(folder, output, config=settings)
    assert (summary.num_ok, summary.num_failed) == (9, 1)
    assert verify(output).is_complete
    captioned = [row for row in rows_of(output) if row["status"] == "ok"]
    for row in captioned:
        assert row["finish"] in ("stop", "length")
        assert 0 < row["num_tokens"] <= GENERATION["max_new_tokens"]
        assert row["num_prompt_tokens"] > 5
        assert row["logprob"] < 0
    assert len({row["caption"] for row in captioned}) > 1
    assert summary.spent is not None
    assert summary.spent.num_tokens == sum(row["num_tokens"] for row in captioned)


SCHEMA = '{"type": "string", "enum": ["day", "night"]}'


def test_its_server_holds_answers_to_a_json_schema(served: str) -> None:
    async def ask() -> Caption | ImageError:
        settings = served_config(served)
        asking = Asking(model="tiny", generation=settings.generation)
        client = EndpointClient(asking, settings.endpoint, Secrets(), Patience(later_s=60.0))
        sink = BytesIO()
        Image.new("RGB", (56, 56), "red").save(sink, "PNG")
        question = Question(text="Day or night?", max_new_tokens=80, json_schema=SCHEMA)
        try:
            return await client.answer(Picture(file=sink.getvalue()), question)
        finally:
            await client.close()

    answer = asyncio.run(ask())
    assert isinstance(answer, Caption)
    assert answer_type(SCHEMA).parse(answer.text) in ("day", "night")


def test_its_server_does_not_know_another_model(served: str, tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", 2, seed=2)
    settings = served_config(served, model={"name": "other", "backend": "endpoint"})
    with pytest.raises(ModelError) as raised:
        raycap.caption(tmp_path / "scenes", tmp_path / "out", config=settings)
    assert raised.value.setting == "model.name"
