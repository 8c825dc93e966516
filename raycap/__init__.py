"""raycap: distributed image captioning on Ray.

    import raycap
    summary = raycap.caption("photos/", "captions/", model="demo")

Everything is loaded when first used, so importing raycap is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raycap.captioning.record import Summary
    from raycap.captioning.run import caption, forecast
    from raycap.config import CaptionConfig
    from raycap.errors import RaycapError

_WHERE = {
    "CaptionConfig": "raycap.config",
    "RaycapError": "raycap.errors",
    "Summary": "raycap.captioning.record",
    "caption": "raycap.captioning.run",
    "forecast": "raycap.captioning.run",
}

__all__ = ["CaptionConfig", "RaycapError", "Summary", "caption", "forecast"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'raycap' has no attribute {name!r}")
