"""Opening a run: claiming an output by fingerprint, its lock, and interrupts."""

import json
from pathlib import Path
from typing import Any

import pytest

from raycap.captioning.claim import CaptionClaim
from raycap.config import CaptionConfig, StorageConfig, TuneConfig
from raycap.errors import ConfigError, RunConflict, RunStopped
from raycap.runs.opening import Claim, check_claim, check_claimed, claim_output, open_run
from raycap.runs.records import RUN, encode_json
from raycap.storage.base import Store
from raycap.storage.stores import open_store

OURS = {"dataset": {"parts": "x"}, "lr": 1}
THEIRS = {"dataset": {"parts": "y"}, "lr": 1}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "output"), StorageConfig())


def claim(fingerprint: dict[str, Any] = OURS, **settings: Any) -> Claim:
    return Claim(fingerprint, TuneConfig(**settings))


def content(store: Store, key: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.read(key))
    return found


def test_a_run_is_continued_by_the_same_fingerprint_with_other_settings(store: Store) -> None:
    with open_run(store, claim()):
        first = store.read(RUN)
    with open_run(store, claim(kind="hybrid")):
        assert store.read(RUN) == first
    assert content(store, RUN)["fingerprint"] == OURS
    assert set(content(store, RUN)) == {"fingerprint", "versions", "created_at"}
    assert content(store, "config.json")["kind"] == "hybrid"


def test_another_fingerprint_is_refused_and_the_difference_is_shown(store: Store) -> None:
    claim_output(store, claim())
    for attempt in (claim_output, check_claim):
        with pytest.raises(RunConflict, match=r"- dataset\.parts = 'x'\n  \+ .* 'y'$") as caught:
            attempt(store, claim(THEIRS))
        assert caught.value.uri == store.uri
    assert content(store, RUN)["fingerprint"] == OURS


def test_checking_a_claim_writes_nothing(store: Store) -> None:
    check_claim(store, claim())
    assert not list(store.list())


def test_a_run_is_not_mixed_with_other_files(store: Store) -> None:
    store.write("photo.jpg", b"x")
    with pytest.raises(ConfigError, match=r"photo\.jpg") as caught:
        claim_output(store, claim())
    assert caught.value.uri == store.uri


def test_captions_may_lie_beside_other_files(store: Store) -> None:
    store.write("preflight/preflight.json", b"{}")
    claim_output(store, CaptionClaim(OURS, CaptionConfig()))
    assert list(content(store, RUN)) == ["fingerprint", "config", "versions", "created_at"]
    assert sum(len(page) for page in store.list()) == 2


def test_a_claim_that_another_writer_was_first_to_make_is_refused(store: Store) -> None:
    class Late(Claim):
        def check_free(self, store: Store) -> None:
            store.write(RUN, encode_json({"fingerprint": THEIRS}))

    with pytest.raises(RunConflict):
        claim_output(store, Late(OURS, TuneConfig()))


def test_an_output_is_held_by_one_run_at_a_time(store: Store) -> None:
    with open_run(store, claim()), pytest.raises(RunConflict), open_run(store, claim()):
        pass
    with open_run(store, claim()):
        pass


def test_an_interrupt_becomes_an_error_that_says_how_to_continue(store: Store) -> None:
    with pytest.raises(RunStopped) as caught, open_run(store, claim()):
        raise KeyboardInterrupt
    assert store.uri in str(caught.value)


def test_the_message_of_an_interrupt_may_say_how_far_the_run_came(store: Store) -> None:
    def caption() -> None:
        with open_run(store, claim()) as run:
            run.describe_stop = lambda: "stopped after 3 images"
            raise KeyboardInterrupt

    with pytest.raises(RunStopped, match="after 3 images"):
        caption()


def test_a_node_that_sees_another_folder_is_refused(store: Store, tmp_path: Path) -> None:
    claim_output(store, claim())
    check_claimed(store, OURS)
    with pytest.raises(ConfigError):
        check_claimed(open_store(str(tmp_path / "elsewhere"), StorageConfig()), OURS)
