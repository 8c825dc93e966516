"""Whether this process stands in for one that died: then what killed it may be before it again."""

from typing import Any

import ray
from ray._private.worker import global_worker  # no public name tells a task's attempt


def is_replacement() -> bool:
    """Whether this actor was started again by Ray, as its process died; not outside of Ray."""
    if not ray.is_initialized():
        return False
    context = ray.get_runtime_context()
    return context.get_actor_id() is not None and context.was_current_actor_reconstructed


def is_second_attempt() -> bool:
    """Whether Ray runs this task again, as its process had died. False outside of Ray.

    To be asked in the thread that the task runs in.
    """
    if not ray.is_initialized():
        return False
    worker: Any = global_worker
    return bool(worker.core_worker.get_current_task_attempt_number())
