"""Stages of a start are shown on a terminal, and logged elsewhere."""

import logging

import pytest

from raycap.console.progress import stages_shown
from raycap.progress import STAGES, announce


def test_stages_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        announce("starting Ray")
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        (STAGES, 'stage="starting Ray"')
    ]


def test_a_terminal_shows_stages_instead(caplog: pytest.LogCaptureFixture) -> None:
    shown: list[str] = []
    with caplog.at_level(logging.WARNING), stages_shown(shown.append):
        announce("starting Ray")
        announce("loading the model")
    assert shown == ["starting Ray ...", "loading the model ..."]
    assert caplog.records == []
    with caplog.at_level(logging.INFO):
        announce("listing images")
    assert len(caplog.records) == 1
    assert len(shown) == 2
