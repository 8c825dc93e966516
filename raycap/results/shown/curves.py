"""Curves of training as a small SVG, in the colours of whatever page shows it."""

import math
from collections.abc import Sequence
from html import escape

from raycap.results.training import EpochRecord

_WIDTH, _HEIGHT = 460, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 120, 14, 26
_VALIDATION, _TRAINING = "#d9730d", "#337ea9"  # readable on light and on dark


def loss_curves(history: Sequence[EpochRecord], *, best: int, since: int | None) -> str:
    """Draw training and validation loss by epoch; empty if there is no curve to draw.

    Args:
        history: The epochs.
        best: The best epoch, which is marked.
        since: The epoch since which the model overfits, from which on the drawing is shaded.
    """
    curves = {
        "validation loss": (_VALIDATION, [record.validation_loss for record in history]),
        "training loss": (_TRAINING, [record.fitted_loss for record in history]),
    }
    values = [value for _, losses in curves.values() for value in losses]
    if len(history) < 2 or not all(map(math.isfinite, values)):
        return ""
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(epoch: int) -> float:
        return _LEFT + inner_width * (epoch - 1) / (len(history) - 1)

    def y(value: float) -> float:
        return _TOP + inner_height * (high - value) / spread

    marks = [_text(_LEFT - 6, y(value) + 4, f"{value:.3f}", "end") for value in {low, high}]
    marks += [
        _text(x(epoch), _HEIGHT - 8, f"epoch {epoch}", "middle") for epoch in (1, len(history))
    ]
    if since is not None:
        marks.append(
            f'<rect x="{x(since):.1f}" y="{_TOP}" width="{_LEFT + inner_width - x(since):.1f}" '
            f'height="{inner_height}" fill="{_VALIDATION}" fill-opacity="0.12"/>'
        )
        marks.append(_text(x(since) + 3, _TOP + 10, "overfitting", "start"))
    for name, (colour, losses) in curves.items():
        points = " ".join(f"{x(n):.1f},{y(value):.1f}" for n, value in enumerate(losses, 1))
        marks.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
        marks.append(_text(_LEFT + inner_width + 6, y(losses[-1]) + 4, name, "start", colour))
    chosen = next((record for record in history if record.epoch == best), None)
    if chosen is not None:
        marks.append(
            f'<circle cx="{x(best):.1f}" cy="{y(chosen.validation_loss):.1f}" r="3.5" '
            f'fill="{_VALIDATION}"><title>best epoch: {best}</title></circle>'
        )
    label = "Training and validation loss by epoch"
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" font-size="11" font-family="sans-serif">{"".join(marks)}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str, colour: str = "currentColor") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{colour}">{escape(text)}</text>'
