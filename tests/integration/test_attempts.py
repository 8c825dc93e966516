"""Tasks and actors that Ray runs again know it, and take the careful way."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import ray

from raycap.captioning.captioner import CaptionActor, is_replacement
from raycap.captioning.loading import RunSpec, image_decoder, is_second_attempt
from raycap.config import CaptionConfig
from raycap.models.base import BatchRange
from raycap.models.sources import find_model

pytestmark = pytest.mark.usefixtures("ray_session")


def spec() -> RunSpec:
    return RunSpec(
        output="unused",
        config=CaptionConfig(),
        model=find_model("stub"),
        batches=BatchRange.fixed(8),
        torch_threads=1,
    )


def decoder_name(dies_first: bool) -> str:
    if dies_first and not is_second_attempt():
        os.kill(os.getpid(), signal.SIGKILL)
    return type(image_decoder(spec())).__name__


class Captioning:
    def __init__(self) -> None:
        self.is_isolated = CaptionActor(spec())._isolated is not None

    def look(self, mark: Path | None) -> tuple[bool, bool]:
        """Die at the first look where a file says so."""
        if mark is not None and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return is_replacement(), self.is_isolated


def test_outside_of_ray_workers_nothing_is_a_second_attempt() -> None:
    assert not is_replacement()
    assert not is_second_attempt()


def test_a_load_task_that_died_decodes_in_a_process_of_its_own() -> None:
    task: Any = ray.remote(max_retries=1)(decoder_name)
    assert ray.get([task.remote(False), task.remote(True)]) == ["Decoder", "IsolatedDecoder"]


def test_a_captioner_that_died_begins_with_its_model_in_a_process_of_its_own(
    tmp_path: Path,
) -> None:
    kind: Any = ray.remote(max_restarts=1, max_task_retries=1)(Captioning)
    actor = kind.remote()
    assert ray.get(actor.look.remote(None)) == (False, False)
    assert ray.get(actor.look.remote(tmp_path / "died")) == (True, True)
    ray.kill(actor)
