"""Tars of a WebDataset: written member by member, or by the package webdataset."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_expander


def jpeg(seed: int) -> bytes:
    """Give a small image, another one for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG")
    return sink.getvalue()


def write_shard(path: Path, seeds: Iterable[int], **more: Any) -> Path:
    """Write a tar with a sample per seed, as the package webdataset does; it has image and text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path), mtime=0) as sink:
        for seed in seeds:
            text = {"txt": f"alt text {seed}", "json": {"tag": f"tag {seed}"}}
            sink.write({"__key__": f"{seed:06d}", "jpg": jpeg(seed), **text, **more})
    return path


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """Write a tar with these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as sink:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            sink.addfile(header, io.BytesIO(data))
    return path


def samples_of(tar: Path) -> list[dict[str, Any]]:
    """Read a tar as the package webdataset does; the file is ours to close, which it forgets."""
    with tar.open("rb") as stream:
        members = tar_file_expander([{"url": str(tar), "stream": stream}])
        return list(group_by_keys(members))
