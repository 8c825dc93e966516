"""`kill -9` of the driver halfway through a run on S3, then the same command again.

Counts the GETs of every image on moto's S3 server (a separate process), and compares the rows with
those of an undisturbed run. No row may be lost or differ, and no image of a part that was committed
before the kill may be read again.

    python -m bench.interruption [--images 20000]
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
from botocore.config import Config

from bench.memory import RAYCAP, write_images

PART_SIZE = 1024


def start_server(log: Path) -> "tuple[subprocess.Popen[bytes], str]":
    """Start moto's S3 server; return its process and address once it accepts connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log.open("wb"), stderr=subprocess.STDOUT)
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return server, f"http://127.0.0.1:{port}"


def upload(client: Any, photos: Path) -> int:
    """Upload every file of a folder to the bucket; return the number of files."""
    files = [path for path in sorted(photos.rglob("*")) if path.is_file()]

    def put(path: Path) -> None:
        key = f"photos/{path.relative_to(photos)}"
        client.put_object(Bucket="bench", Key=key, Body=path.read_bytes())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, files))
    return len(files)


def start_caption(output: Path) -> "subprocess.Popen[bytes]":
    """Start `raycap caption` on the bucket."""
    setting = f"engine.part_size={PART_SIZE}"
    command = [RAYCAP, "caption", "s3://bench/photos", str(output), "-m", "stub", "-s", setting]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def parts_of(output: Path) -> list[Path]:
    """List the committed parts."""
    return sorted((output / "captions").glob("part-*.parquet"))


def image_reads(log: Path) -> Counter[str]:
    """Count the GETs of each image since the log began."""
    found = re.findall(r'"GET /bench/photos/([^ "]+\.jpg) ', log.read_text(errors="replace"))
    return Counter(found)


def rows_of(output: Path) -> list[dict[str, Any]]:
    """Read all rows, in the order of the parts."""
    return [row for part in parts_of(output) for row in pq.read_table(part).to_pylist()]


def main() -> None:
    """Run once undisturbed, and once killed and resumed; print the reads and the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    count = parser.parse_args().images
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "server.log"
        server, endpoint = start_server(log)
        os.environ |= {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        write_images(folder / "photos", count)
        client = boto3.client("s3", config=Config(max_pool_connections=8))
        client.create_bucket(Bucket="bench")
        upload(client, folder / "photos")

        assert start_caption(folder / "whole").wait() == 0
        undisturbed = image_reads(log)

        killed = folder / "killed"
        driver = start_caption(killed)
        while len(parts_of(killed)) < count / PART_SIZE / 2:
            time.sleep(0.05)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        time.sleep(5)  # workers of the killed driver may still be reading
        committed = rows_of(killed)
        before = image_reads(log)
        assert start_caption(killed).wait() == 0
        resumed = image_reads(log) - before
        equal = rows_of(killed) == rows_of(folder / "whole")
        server.kill()
    reread = sum(resumed[row["image_id"]] for row in committed)
    print(f"images                             {count:,}")
    print(f"GETs of the undisturbed run        {undisturbed.total():,}")
    print(f"rows committed when killed         {len(committed):,}")
    print(f"GETs of the resumed run            {resumed.total():,}")
    print(f"GETs of images committed before    {reread:,}")
    print(f"rows equal to the undisturbed run  {equal}")


if __name__ == "__main__":
    main()
