"""Planning keys from a paged listing, resuming with most parts committed, and verifying all rows.

The peak memory includes the steps before.

    python -m bench.plan [--keys 1000000] [--share 0.9]
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from raycap import schema
from raycap.captioning.ledger import read_ledger
from raycap.captioning.parts import CAPTIONS, MANIFEST, encode_captions, read_part
from raycap.captioning.plan import CaptionPlan, extend_plan, record_plan
from raycap.captioning.verify import verify
from raycap.runs.records import RUN, encode_json
from raycap.storage.local import LocalStore
from raycap.storage.parts import part_key

PAGE = 1000
THREADS = 16


def pages(count: int) -> Iterator[pa.Table]:
    """Yield sorted keys as S3 lists them: a thousand per page."""
    for start in range(0, count, PAGE):
        numbers = range(start, min(start + PAGE, count))
        keys = [f"2026/photos/{number:09d}.jpg" for number in numbers]
        uris = [f"s3://bucket/{key}" for key in keys]
        etags = [f"{number:032x}" for number in numbers]
        contexts = pa.nulls(len(keys), pa.string())
        columns = [keys, uris, [100_000] * len(keys), etags, contexts]
        yield pa.table(columns, schema=schema.MANIFEST)


def commit(store: LocalStore, plan: CaptionPlan, share: float) -> None:
    """Write captions parts for a share of the plan."""
    for number in range(int(len(plan.parts) * share)):
        manifest = read_part(store, MANIFEST, number)
        filled = {
            schema.STATUS: schema.STATUS_OK,
            schema.ATTEMPTS: 1,
            schema.CAPTION: "a picture of something or other",
            schema.NUM_WORDS: 6,
            schema.LOGPROB: -1.0,
            schema.ALTERNATIVES: [],
        }
        columns = [
            manifest[field.name].cast(field.type)
            if field.name in manifest.column_names
            else pa.array([filled.get(field.name)] * len(manifest), field.type)
            for field in schema.CAPTIONS
        ]
        table = pa.Table.from_arrays(columns, schema=schema.CAPTIONS)
        revision = plan.versions.revisions.get(number, 0)
        data, _ = encode_captions(table, 0, revision)
        store.write(part_key(CAPTIONS, number), data)


def plan_keys(store: LocalStore, count: int) -> tuple[CaptionPlan, float]:
    """Plan, and return the plan and the seconds it took."""
    started = time.perf_counter()
    plan = extend_plan(store, pages(count), part_size=1024, num_threads=THREADS)
    return plan, time.perf_counter() - started


def peak_mb() -> float:
    """Return the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    """Plan, commit a share, resume, and verify."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--share", type=float, default=0.9, help="of the parts to commit")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        store = LocalStore(Path(name))
        before = peak_mb()
        plan, seconds = plan_keys(store, given.keys)
        rate = given.keys / seconds
        print(f"plan    {rate:>10,.0f} keys/s  {seconds:.1f} s  {len(plan.parts)} parts")
        print(f"memory  {before:>10,.0f} MB before  {peak_mb():,.0f} MB peak", flush=True)
        commit(store, plan, given.share)
        started = time.perf_counter()
        plan, _ = plan_keys(store, given.keys)
        ledger = read_ledger(store, plan, retry_failed=False, num_threads=THREADS)
        ready = time.perf_counter() - started
        print(f"resume  {ready:>10.1f} s to {ledger.num_pending:,} pending images, with listing")
        print(f"memory  {peak_mb():>10,.0f} MB peak", flush=True)
        commit(store, plan, 1.0)
        record_plan(store, plan)
        store.write(RUN, encode_json({"fingerprint": {}}))
        started = time.perf_counter()
        found = verify(name)
        seconds = time.perf_counter() - started
        assert (found.num_problems, found.num_ok) == (0, given.keys), found
        print(f"verify  {seconds:>10.1f} s for {found.num_ok:,} rows")
        print(f"memory  {peak_mb():>10,.0f} MB peak")


if __name__ == "__main__":
    main()
