"""A Ray of this process alone: its environment, folder and token, and how its start can fail.

Nothing of it may outlive the process or reach what the user starts later. So its token is not kept
in the home folder, where Ray would put it: `ray start` would then demand a token too.
"""

import errno
import os
import resource
import secrets
import select
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import worker  # no public function returns its processes
from ray._private.node import Node
from ray._raylet import (  # type: ignore[attr-defined]  # compiled, without annotations
    AuthenticationTokenLoader,
    Config,
)

from raycap.errors import ConfigError, RunStopped

_NEEDED = ("gcs_server", "raylet")
_HELPERS = ("start_monitor", "start_log_monitor", "start_api_server")
_MARK = "RAYCAP_LOCAL_RAY"
_MIN_CPUS = 4
_MIN_FILES = 1024
_PROBE_BYTES = 1 << 20
_NICENESS = "RAY_worker_niceness"
_AUTH_MODE = "RAY_AUTH_MODE"
_TOKEN = "RAY_AUTH_TOKEN"  # noqa: S105  the name of the variable

# A socket's address may have 107 bytes. Ray appends the name of a session and of a socket, of which
# this is the longest, with the dashboard.
_LONGEST = "/session_2026-01-31_23-59-59_123456_4194304/sockets/dash_TaskEventsHead"
_MAX_FOLDER_BYTES = 107 - len(_LONGEST)
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  links in private folders


@contextmanager
def local_ray(*, options: Mapping[str, Any], with_dashboard: bool) -> Iterator[None]:
    """Start a local Ray within the block; it is stopped by `ray.shutdown`.

    Args:
        options: more arguments of `ray.init`.
        with_dashboard: start it with its dashboard.

    Raises:
        ConfigError: the folder for temporary files has a path that is too long.
        RunStopped: Ray does not start on this machine.
    """
    _check_open_files()
    # With fewer logical CPUs than stages, one stage would have none, and the run would hang.
    num_cpus = max(_MIN_CPUS, os.cpu_count() or 1)
    # Of its processes and their children, which import nothing from the working folder.
    environment = {"PYTHONSAFEPATH": "1", _MARK: _own_token()}
    # Ray lowers its workers' priority by 15: beside any other busy program they would get a
    # thirtieth of the cores. `nice raycap ...` lowers the priority of all.
    environment[_NICENESS] = os.environ.get(_NICENESS, "0")
    if with_dashboard:
        # Ray warns at a multiple of this; each trial has about six processes, most of them idle.
        environment["RAY_worker_maximum_startup_concurrency"] = str(4 * num_cpus)
    with _short_folder() as folder, _token():
        try:
            needed = _helpers_of(options, with_dashboard=with_dashboard)
            with _helpers(needed), _environment(environment), _ignored_hangup():
                ray.init(
                    "local",
                    num_cpus=num_cpus,
                    include_dashboard=with_dashboard,
                    _temp_dir=folder,
                    **options,
                )
        except Exception as error:
            ray.shutdown()
            raise _explained(error, folder or _wanted_folder()) from error
        yield


class LocalProcesses:
    """The processes that a local Ray cannot do without, and all that they started."""

    def __init__(self) -> None:
        node: Any = worker._global_node
        started: dict[str, Any] = node.all_processes
        self._needed = {kind: found.process for kind in _NEEDED for found in started.get(kind, ())}
        # Of handles that become readable when a process ends; other systems look every second.
        self._ends = select.poll()
        if hasattr(os, "pidfd_open"):
            for process in self._needed.values():
                self._ends.register(os.pidfd_open(process.pid), select.POLLIN)

    def wait(self, timeout_s: float) -> str | None:
        """Wait for the end of one; return which it was, or None."""
        self._ends.poll(1000 * timeout_s)
        for kind, process in self._needed.items():
            code = process.poll()
            if code is not None:
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                return f"Ray's process {kind} has ended ({how}), and the run with it"
        return None

    def end_all(self) -> None:
        """Kill all that is left of this process's local Rays; workers outlive a killed raylet."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(_MARK) == _own_token():
                    process.kill()


def _check_open_files() -> None:
    """Raise RunStopped if Ray's processes may open too few files; Ray would die of it later."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)  # Ray raises its own to the hard limit
    if limit != resource.RLIM_INFINITY and limit < _MIN_FILES:
        raise RunStopped(
            f"only {limit} files may be open at the same time, and Ray needs {_MIN_FILES}: raise "
            "the limit (`ulimit -n 65536`; in a container --ulimit nofile=65536)"
        )


@contextmanager
def _short_folder() -> Iterator[str | None]:
    """Give a folder for Ray's files whose path is short enough for sockets; None: Ray's own choice.

    Batch systems set long paths (TMPDIR). A link with a short path leads there, so that Ray's logs
    and spilled objects are where the user wants them.
    """
    wanted = _wanted_folder()
    _check_writable(wanted)
    if len(os.fsencode(wanted)) <= _MAX_FOLDER_BYTES:
        yield None
        return
    holder = _private_folder(wanted)
    link = holder / "ray"
    link.symlink_to(wanted, target_is_directory=True)
    try:
        yield str(link)
    finally:
        with suppress(OSError):
            link.unlink()
            holder.rmdir()


def _wanted_folder() -> str:
    found: str = get_default_ray_temp_dir()  # type: ignore[no-untyped-call]
    return found


def _check_writable(folder: str) -> None:
    """Raise RunStopped if the folder takes no files: Ray itself would wait for half a minute."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
    except OSError as error:
        raise _explained(error, folder) from error


def _private_folder(wanted: str) -> Path:
    for folder in _SHORT_FOLDERS:
        with suppress(OSError):
            return Path(tempfile.mkdtemp(prefix="raycap-", dir=folder))
    raise ConfigError(
        f"{wanted}: too long a path for Ray's sockets ({_MAX_FOLDER_BYTES} bytes at most); set "
        "RAY_TMPDIR to a folder with a short path"
    )


@cache
def _own_token() -> str:
    """Return the token of this process's local Rays; Ray's C++ code keeps one per process."""
    return secrets.token_hex(32)


@contextmanager
def _token() -> Iterator[None]:
    """Give a local Ray a token of its own, unless the user has one or wants none.

    Whoever has the token can run code as this user.
    """
    _close_to_others(Path.home() / ".ray" / "auth_token")
    before = {name: os.environ.get(name) for name in (_AUTH_MODE, _TOKEN)}
    loader = AuthenticationTokenLoader.instance()
    if (before[_AUTH_MODE] or "token").lower() == "token" and not loader.has_token(
        ignore_auth_mode=True
    ):
        os.environ[_TOKEN] = _own_token()
        loader.reset_cache()
    try:
        yield
    finally:
        _restore(before)
        Config.initialize("")  # what Ray's C++ code has read of the environment
        loader.reset_cache()


def _close_to_others(token: Path) -> None:
    """Let only its owner read the user's own token; Ray creates it with the umask's mode."""
    with suppress(OSError):  # none, or not ours
        if token.stat().st_mode & 0o077:
            token.chmod(0o600)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables within the block; the user's own come first."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: value for name, value in variables.items() if not before[name]})
    try:
        yield
    finally:
        _restore(before)


def _restore(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _helpers_of(options: Mapping[str, Any], *, with_dashboard: bool) -> set[str]:
    if with_dashboard:
        return set(_HELPERS)
    return {"start_log_monitor"} if options.get("log_to_driver") else set()


@contextmanager
def _helpers(needed: set[str]) -> Iterator[None]:
    """Let Ray start only those of its helpers that are needed, within the block.

    A Ray of one machine without a dashboard has no use for the autoscaler, nor for the dashboard's
    server, which Ray starts all the same. They and the copier of workers' logs take two seconds of
    a core at the start and one at the end.
    """
    before = {name: vars(Node)[name] for name in _HELPERS if name not in needed}
    for name in before:
        setattr(Node, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(Node, name, method)


@contextmanager
def _ignored_hangup() -> Iterator[None]:
    """Let Ray's processes ignore the end of the terminal: this process ends them, and cleanly.

    The signal reaches all at the same time. A raylet that it killed would leave its agents behind.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before if before is not None else signal.SIG_DFL)


def _explained(error: Exception, folder: str) -> RunStopped:
    """Turn an error of Ray's start into one line."""
    reason = " ".join(str(error).split())[:300]
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        remedy = "raise the limit of open files (`ulimit -n 65536`)"
    elif isinstance(error, OSError):
        reason = error.strerror or reason
        remedy = f"its files go to {folder}: make room there, or set RAY_TMPDIR to another folder"
    else:
        remedy = f"its logs are in {folder}/session_latest/logs; --debug shows more"
    return RunStopped(f"Ray does not start on this machine ({reason}); {remedy}")
