"""Connecting to Ray: to the running cluster, or to a local one that is started."""

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import ray
from ray._private import services  # no public function returns the named cluster
from ray._raylet import (  # type: ignore[attr-defined]  # compiled, without annotations
    AuthenticationTokenLoader,
    GcsClient,
)
from ray.exceptions import AuthenticationError
from ray.job_config import JobConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raycap.cluster.local import LocalProcesses, local_ray
from raycap.cluster.watch import Watch
from raycap.errors import ConfigError
from raycap.progress import announce

_ANSWER_WAIT_S = 10.0
_GONE_AFTER_S = 30.0
_NODE_GROUP = "ray.io/node-group"
_LOGGERS = ("ray", "ray.data", "ray.train", "ray.tune")


@contextmanager
def ray_cluster(*, debug: bool = False, with_dashboard: bool = False) -> Iterator[bool]:
    """Be connected to Ray within the block; yield whether the cluster's size is fixed.

    An existing connection is used, and kept. Otherwise a running cluster is used (`RAY_ADDRESS`,
    that of a submitted job, or `ray start` on this machine). Otherwise a local Ray is started, and
    stopped at the end.

    Args:
        debug: show Ray's own log.
        with_dashboard: start a local Ray with its dashboard, and without its warning about many
            processes, for trials that are worker groups of Ray Train: it asks the dashboard which
            resources dead trials had reserved.

    Raises:
        ConfigError: the named cluster does not answer or refuses, or the address is Ray Client's.
        RunStopped: Ray does not start on this machine, or has ended.
    """
    with _levels_kept():
        if ray.is_initialized():
            yield not can_grow(_nodes())
            return
        with _connected(debug=debug, with_dashboard=with_dashboard) as is_fixed:
            yield is_fixed


@contextmanager
def _levels_kept() -> Iterator[None]:
    """Keep the log levels of Ray, which is silenced within the block, for the caller's own use."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.level for logger in loggers]
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def _connected(*, debug: bool, with_dashboard: bool) -> Iterator[bool]:
    """Connect to Ray or start it; see `ray_cluster`."""
    # By default, Ray reports usage to its makers when it starts a cluster.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # `models.device.use_threads` does the same, too late for workers of Ray Train, which import
    # torch before our code runs. Workers of a local Ray inherit it from here; on a busy machine,
    # threads that spin for long made training twenty times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    announce("starting Ray, or connecting to it")
    _refuse_client()
    address = _named_address()
    options = {
        "logging_level": logging.INFO if debug else logging.ERROR,
        "log_to_driver": debug,
        "job_config": _job_config(),
    }
    with ExitStack() as opened:
        with _handler_kept(), nullcontext() if debug else _quiet_start():
            opened.enter_context(_data_ahead())
            if address is None:
                local = local_ray(options=options, with_dashboard=with_dashboard)
                opened.enter_context(local)
            else:
                _connect(address, options)
        opened.callback(ray.shutdown)
        opened.enter_context(_watch(address))
        yield address is None or not can_grow(_nodes())


@contextmanager
def _data_ahead() -> Iterator[None]:
    """Load Ray Data in a thread within the block, as this takes most of a second.

    No module of the commands loads it at once, for the same reason: `ray.data` does at first use.
    """
    thread = threading.Thread(target=import_module, args=("ray.data",), daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _connect(address: str, options: dict[str, Any]) -> None:
    """Connect to a running cluster.

    Raises:
        ConfigError: the cluster does not answer, or refuses.
    """
    refusal = (
        f"the Ray cluster at {address} refuses the token of this command, or asks for one: put the "
        "cluster's token into ~/.ray/auth_token or RAY_AUTH_TOKEN, and set RAY_AUTH_MODE=token"
    )
    remedy = "start the cluster, or set RAY_ADDRESS=local to run on this machine alone"
    try:
        _check_answers(address)
    except ConnectionError as error:
        raise ConfigError(f"{error}; {remedy}") from error
    # Without RAY_ADDRESS, Ray decides in `init` whether to send a token.
    if os.environ.get("RAY_ADDRESS") and not _admits(address):  # Ray would try for 20 s
        raise ConfigError(refusal)
    try:
        ray.init(**options)
    except Exception as error:
        ray.shutdown()
        if isinstance(error, AuthenticationError) or not _admits(address):
            raise ConfigError(refusal) from error
        raise ConfigError(f"{' '.join(str(error).split())[:300]}; {remedy}") from error


def _admits(address: str) -> bool:
    """Return whether a cluster admits this process with the token that it has, or with none."""
    has_token = AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "token" and not has_token:
        return False  # Ray's client would end this process
    try:
        GcsClient(address=address)
    except Exception as error:  # noqa: BLE001  what else is wrong, `ray.init` says
        is_refused = isinstance(error, AuthenticationError) or "nauthenticated" in str(error)
        return not is_refused
    return True


def can_grow(nodes: Sequence[dict[str, Any]]) -> bool:
    """Return whether the cluster may grow while work waits, from what `ray.nodes` returns.

    Autoscalers (`ray up`, KubeRay) start every node with the name of its group; `ray start` alone
    gives none.
    """
    return any((node.get("Labels") or {}).get(_NODE_GROUP) for node in nodes if node["Alive"])


def _nodes() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return found


class _Folders(list[str]):
    """The folders that workers import from, to which Ray's additions are lost."""

    def extend(self, folders: Any) -> None:
        """Drop the folders."""
        del folders


def _job_config() -> JobConfig:
    """Return a job whose workers import only what is installed.

    Ray would add the folder where the command happens to stand, and that of its script, before all
    others: a `numpy.py` in a folder of downloaded images would run in every worker.
    """
    job = JobConfig()
    job._py_driver_sys_path = _Folders(_own_folder())
    return job


def _own_folder() -> list[str]:
    """Return the folder that raycap is in, if workers would not find raycap without it."""
    own = Path(__file__).resolve().parents[2]
    passing = {Path.cwd().resolve(), Path(sys.argv[0]).resolve().parent}  # of this process only
    lasting = {Path(folder).resolve() for folder in sys.path if folder} - passing
    return [] if own in lasting else [str(own)]


@contextmanager
def _handler_kept() -> Iterator[None]:
    """Keep the handler of SIGTERM: Ray installs its own, which exits immediately."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # None: of a handler that is not Python's, which cannot be set from here.
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


def _watch(address: str | None) -> Watch:
    if address is None:
        processes = LocalProcesses()
        return Watch(processes.wait, processes.end_all)
    return Watch(_Answers(address).wait, lambda: None)


class _Answers:
    """Says that a cluster is gone when its head has not answered for a while; heads can restart."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._answered_at = time.monotonic()

    def wait(self, timeout_s: float) -> str | None:
        """Wait; return why the cluster counts as gone, or None."""
        time.sleep(timeout_s)
        try:
            _check_answers(self._address)
        except ConnectionError as error:
            silent_s = time.monotonic() - self._answered_at
            return str(error) if silent_s > _GONE_AFTER_S else None
        self._answered_at = time.monotonic()
        return None


def _refuse_client() -> None:
    """Raise ConfigError if RAY_ADDRESS is Ray Client's, through which not all of Ray works."""
    address = os.environ.get("RAY_ADDRESS", "")
    if "://" in address:
        raise ConfigError(
            f"RAY_ADDRESS={address}: raycap does not run through a remote client; run it on the "
            "cluster: ray job submit --address http://HEAD:8265 -- raycap ..."
        )


def _named_address() -> str | None:
    """Return the address of the cluster that RAY_ADDRESS or `ray start` named; None if none.

    Raises:
        ConfigError: the name is not an address.
    """
    try:
        return services.canonicalize_bootstrap_address(None)  # type: ignore[arg-type]
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


def start_here(kind: type, *arguments: Any, restarts: bool = False) -> Any:
    """Start an actor on this node, without a CPU of the cluster, and return its handle.

    Args:
        kind: its class.
        arguments: of the constructor.
        restarts: if its process dies, start it again and repeat its calls.
    """
    again = {"max_restarts": -1, "max_task_retries": -1} if restarts else {}
    place = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(kind)
    return actor.options(num_cpus=0, scheduling_strategy=place, **again).remote(*arguments)


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Keep messages of Ray's C++ code that no user can act on from the terminal.

    It warns at every run whose actors may restart. The log level that silences the warning is
    itself announced on standard error, outside of Python, so that one line is filtered out.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    sys.stderr.flush()
    original = os.dup(2)
    with _held() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.truncate(0)  # the error says it in one line
            raise
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
            held.seek(0)
            for line in held:
                if b"RAY_BACKEND_LOG_LEVEL" not in line:
                    os.write(2, line)


def _held() -> BinaryIO:
    """Return a file in memory where there can be one, since the disk may be full."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("raycap-stderr"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
