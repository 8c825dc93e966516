"""Ray: attach to the cluster that runs, or start a local one."""

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import ray
from ray._private import services  # no public name tells which cluster is named
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raycap.errors import ConfigError

_MIN_LOCAL_CPUS = 4
_ANSWER_WAIT_S = 10.0


@contextmanager
def ray_cluster(*, debug: bool = False, with_dashboard: bool = False) -> Iterator[bool]:
    """Be connected to Ray within the block; yield whether its size is fixed.

    An existing connection is used and left as it is; then a running cluster is looked for
    (`RAY_ADDRESS`, a submitted job's own, `ray start` on this machine); otherwise a local Ray is
    started, and stopped at the end. Any cluster but the local one may grow as work waits.

    Args:
        debug: let Ray tell what it does.
        with_dashboard: start a local Ray with its dashboard, which Ray Train asks what trials of
            Ray Tune that have died had reserved; and let their many processes run unwarned.
    """
    if ray.is_initialized():
        yield False
        return
    # Ray reports usage to its makers by default when it starts a cluster.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # As of `models.runtime.use_threads`, which comes too late for workers of Ray Train: they import
    # torch before any code of ours runs. Those of a local Ray inherit it from here; on a busy
    # machine, threads that spin for long made training twenty times as slow.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    with _private_token(), nullcontext() if debug else _quiet_start():
        is_fixed = _connect(debug=debug, with_dashboard=with_dashboard)
    try:
        yield is_fixed
    finally:
        ray.shutdown()


def _connect(*, debug: bool, with_dashboard: bool) -> bool:
    """Attach to the cluster that RAY_ADDRESS or `ray start` named, or start a local Ray.

    Returns:
        Whether it is a local one of our own.

    Raises:
        ConfigError: a cluster is named and does not answer, or only through Ray Client.
    """
    _refuse_client()
    is_local = True
    on_terminate = signal.getsignal(signal.SIGTERM)
    level = logging.INFO if debug else logging.ERROR
    # Fewer logical CPUs than stages would leave a stage without any, and hang.
    num_cpus = max(_MIN_LOCAL_CPUS, os.cpu_count() or 1)
    if with_dashboard:
        # Ray warns at a multiple of it; each trial has half a dozen processes, most of them idle.
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(4 * num_cpus))
    try:
        # Not address="auto": that attaches to any Ray of this machine, other programs' own too.
        ray.init(
            num_cpus=num_cpus,
            include_dashboard=with_dashboard,
            logging_level=level,
            log_to_driver=debug,
        )
    except (ValueError, ConnectionError):  # a cluster is named, whose size is not ours to say
        is_local = False
        try:
            _check_answers(_named_address())
            ray.init(logging_level=level, log_to_driver=debug)
        except ConnectionError as error:
            raise ConfigError(
                f"{error}; start the cluster, or set RAY_ADDRESS=local to run on this machine alone"
            ) from error
    if threading.current_thread() is threading.main_thread():
        # Ray has put in its own, which exits on the spot.
        signal.signal(signal.SIGTERM, on_terminate)
    return is_local


@contextmanager
def _private_token() -> Iterator[None]:
    """Keep the token that opens a local Ray from the other users of this machine.

    Whoever has it runs code as this user. Ray makes it at the first start, in `~/.ray`, with the
    umask's mode; a umask for that moment would go on to all workers, and to what they write.
    """
    folder = Path.home() / ".ray"
    token = folder / "auth_token"
    with suppress(OSError):  # a home that cannot be written to: Ray will say
        folder.mkdir(mode=0o700, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # none, or not ours
            if token.stat().st_mode & 0o077:
                token.chmod(0o600)


def _refuse_client() -> None:
    """Raise ConfigError where RAY_ADDRESS names Ray Client, which not all of Ray runs through."""
    address = os.environ.get("RAY_ADDRESS", "")
    if "://" in address:
        raise ConfigError(
            f"RAY_ADDRESS={address}: raycap does not run through a remote client; run it on the "
            "cluster: ray job submit --address http://HEAD:8265 -- raycap ..."
        )


def _named_address() -> str:
    """The address of the cluster that is named.

    Raises:
        ConfigError: it is no address.
    """
    try:
        return services.canonicalize_bootstrap_address(None) or ""  # type: ignore[arg-type]
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS')} names no Ray cluster: it takes "
            "HOST:PORT, or `local` for one on this machine alone"
        ) from error


def _check_answers(address: str) -> None:
    """Raise ConnectionError if nobody listens at a cluster's address.

    Ray itself would try for minutes. A head that was killed leaves its address behind.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_WAIT_S).close()
    except OSError as error:
        named = "RAY_ADDRESS" if os.environ.get("RAY_ADDRESS") else "`ray start` on this machine"
        raise ConnectionError(
            f"the Ray cluster at {address}, which {named} named, does not answer ({error})"
        ) from error


def start_here(kind: type, *arguments: Any) -> Any:
    """Start an actor on this node, which takes no CPU of the cluster, and return its handle."""
    place = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(kind)
    return actor.options(num_cpus=0, scheduling_strategy=place).remote(*arguments)


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Keep Ray's C++ side from writing to the terminal what no user can act on.

    It warns on every run whose actors may restart; the log level that silences this is announced
    on standard error, past Python, so that line alone is taken out.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
            held.seek(0)
            for line in held:
                if b"RAY_BACKEND_LOG_LEVEL" not in line:
                    os.write(2, line)
