"""A notebook's kernel: its cells are run, and interrupted, as a notebook does it."""

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

_LOOK_EVERY_S = 0.2


@dataclass
class Cell:
    """What a cell gave."""

    printed: str = ""
    warned: str = ""
    """On standard error."""
    html: list[str] = field(default_factory=list)
    """Everything that was displayed, in order; an update of a display too."""
    text: str = ""
    """Its value as text."""
    error: str = ""
    """Name of the exception that ended it."""
    message: str = ""


class Kernel:
    """A kernel in a folder."""

    def __init__(self, manager: Any, client: Any) -> None:
        self._manager = manager
        self._client = client

    def run(
        self,
        code: str,
        interrupt_when: Callable[[], bool] | None = None,
        timeout_s: float = 300.0,
    ) -> Cell:
        """Run a cell to its end; interrupt it once a condition holds."""
        cell, own = Cell(), self._client.execute(code)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if interrupt_when is not None and interrupt_when():
                self._manager.interrupt_kernel()
                interrupt_when = None
            try:
                message = self._client.get_iopub_msg(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") == own and _note(cell, message):
                return cell
        raise TimeoutError(code)


def _note(cell: Cell, message: dict[str, Any]) -> bool:
    """Note what a cell sent; return whether it has ended."""
    kind, content = message["msg_type"], message["content"]
    if kind == "stream":
        name = "printed" if content["name"] == "stdout" else "warned"
        setattr(cell, name, getattr(cell, name) + content["text"])
    elif kind == "error":
        cell.error, cell.message = content["ename"], content["evalue"]
    elif "data" in content:
        cell.html.append(content["data"].get("text/html", ""))
        if kind == "execute_result":
            cell.text = content["data"]["text/plain"]
    return bool(kind == "status" and content["execution_state"] == "idle")


@contextmanager
def started_kernel(folder: Path, env: dict[str, str]) -> Iterator[Kernel]:
    """Start a kernel in a folder, with an environment of its own."""
    manager: Any = import_module("jupyter_client.manager").KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(folder), env=env)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
