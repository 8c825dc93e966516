"""Settings of `raycap review`."""

from pydantic import Field

from raycap.config.base import Section
from raycap.config.shared import ImageConfig, StorageConfig


class ReviewConfig(Section):
    """All settings of `raycap review`."""

    reviewer: str | None = Field(default=None, min_length=1, max_length=100)
    """Name under which edits are saved. None: the login name."""
    port: int | None = Field(default=None, ge=1024, le=65_535)
    """Port of this machine to serve the page at. None: a free one."""
    open_browser: bool = True
    """Open the page in the default browser of this machine."""
    page_size: int = Field(default=48, ge=1, le=500)
    """Images per page of the gallery."""
    thumbnail_px: int = Field(default=360, ge=32, le=2048)
    """Longer side of the pictures in the gallery, in pixels."""
    picture_px: int = Field(default=1280, ge=32, le=8192)
    """Longer side of the picture of a single image, in pixels."""
    cache_bytes: int = Field(default=500_000_000, ge=0)
    """Most disk space of pictures that are kept while the page is served."""
    memory_bytes: int = Field(default=1_000_000_000, ge=100_000_000)
    """Memory for the index of the captions; more is kept on disk."""
    image: ImageConfig = ImageConfig()
    """Limits on image files."""
    storage: StorageConfig = StorageConfig()
    """Access to stores."""
