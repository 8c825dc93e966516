"""Connecting to Ray: to the running cluster, or to a local one that is started."""

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
from ray._private import services  # no public function returns the named cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raycap.errors import ConfigError
from raycap.progress import announce

_MIN_LOCAL_CPUS = 4
_ANSWER_WAIT_S = 10.0


@contextmanager
def ray_cluster(*, debug: bool = False, with_dashboard: bool = False) -> Iterator[bool]:
    """Be connected to Ray within the block; yield whether the cluster's size is fixed.

    An existing connection is used, and kept. Otherwise a running cluster is used (`RAY_ADDRESS`,
    that of a submitted job, or `ray start` on this machine). Otherwise a local Ray is started, and
    stopped at the end. Every cluster but the local one may grow while work waits.

    Args:
        debug: show Ray's own log.
        with_dashboard: start a local Ray with its dashboard, and without its warning about many
            processes: Ray Train asks the dashboard which resources dead trials had reserved.
    """
    if ray.is_initialized():
        yield False
        return
    # By default, Ray reports usage to its makers when it starts a cluster.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # `models.device.use_threads` does the same, too late for workers of Ray Train, which import
    # torch before our code runs. Workers of a local Ray inherit it from here; on a busy machine,
    # threads that spin for long made training twenty times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    announce("starting Ray, or connecting to it")
    with _private_token(), nullcontext() if debug else _quiet_start():
        is_fixed = _connect(debug=debug, with_dashboard=with_dashboard)
    try:
        yield is_fixed
    finally:
        ray.shutdown()


def _connect(*, debug: bool, with_dashboard: bool) -> bool:
    """Connect to the cluster that RAY_ADDRESS or `ray start` named, or start a local Ray.

    Returns:
        Whether a local Ray was started.

    Raises:
        ConfigError: the named cluster does not answer, or the address is Ray Client's.
    """
    _refuse_client()
    is_local = True
    on_terminate = signal.getsignal(signal.SIGTERM)
    level = logging.INFO if debug else logging.ERROR
    # With fewer logical CPUs than stages, one stage would have none, and the run would hang.
    num_cpus = max(_MIN_LOCAL_CPUS, os.cpu_count() or 1)
    if with_dashboard:
        # Ray warns at a multiple of this; each trial has about six processes, most of them idle.
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(4 * num_cpus))
    try:
        # Not address="auto": that connects to any Ray of this machine, even another program's.
        ray.init(
            num_cpus=num_cpus,
            include_dashboard=with_dashboard,
            logging_level=level,
            log_to_driver=debug,
        )
    except (ValueError, ConnectionError):  # a cluster is named, whose size cannot be set
        is_local = False
        try:
            _check_answers(_named_address())
            ray.init(logging_level=level, log_to_driver=debug)
        except ConnectionError as error:
            raise ConfigError(
                f"{error}; start the cluster, or set RAY_ADDRESS=local to run on this machine alone"
            ) from error
    if threading.current_thread() is threading.main_thread():
        # Ray has installed its own handler, which exits immediately.
        signal.signal(signal.SIGTERM, on_terminate)
    return is_local


@contextmanager
def _private_token() -> Iterator[None]:
    """Protect the token of a local Ray from other users of this machine.

    Its owner can run code as this user. Ray creates it at the first start, in `~/.ray`, with the
    umask's mode. Setting a umask here would affect all workers, and the files that they write.
    """
    folder = Path.home() / ".ray"
    token = folder / "auth_token"
    with suppress(OSError):  # the home folder is not writable: Ray will report it
        folder.mkdir(mode=0o700, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # none, or not ours
            if token.stat().st_mode & 0o077:
                token.chmod(0o600)


def _refuse_client() -> None:
    """Raise ConfigError if RAY_ADDRESS is Ray Client's, through which not all of Ray works."""
    address = os.environ.get("RAY_ADDRESS", "")
    if "://" in address:
        raise ConfigError(
            f"RAY_ADDRESS={address}: raycap does not run through a remote client; run it on the "
            "cluster: ray job submit --address http://HEAD:8265 -- raycap ..."
        )


def _named_address() -> str:
    """Return the address of the named cluster.

    Raises:
        ConfigError: the name is not an address.
    """
    try:
        return services.canonicalize_bootstrap_address(None) or ""  # type: ignore[arg-type]
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS')} names no Ray cluster: it takes "
            "HOST:PORT, or `local` for one on this machine alone"
        ) from error


def _check_answers(address: str) -> None:
    """Raise ConnectionError if no process listens at a cluster's address.

    Ray itself would try for minutes. A killed head node leaves its address behind.
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
    """Start an actor on this node, without a CPU of the cluster, and return its handle."""
    place = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(kind)
    return actor.options(num_cpus=0, scheduling_strategy=place).remote(*arguments)


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Keep messages of Ray's C++ code that no user can act on from the terminal.

    It warns at every run whose actors may restart. The log level that silences the warning is
    itself announced on standard error, outside of Python, so that one line is filtered out.
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
