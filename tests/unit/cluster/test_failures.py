"""What Ray makes of an error is told as the error that it was."""

from typing import Any

from ray.data._internal.util import _annotate_exception_with_retry_context
from ray.exceptions import RayTaskError

from raycap.cluster.failures import ClusterFailed, explain, find_error
from raycap.errors import ConfigError


def raised_by_a_task(error: Exception) -> Exception:
    """Give what Ray raises for it: an instance of both classes, which tells a traceback."""
    text = f"Traceback (most recent call last):\n  File 'x'\n{error!r}"
    task_error: Any = RayTaskError
    made: Exception = task_error("work", text, error).as_instanceof_cause()
    return made


def test_an_error_of_raycap_is_found_as_it_was_raised() -> None:
    error = ConfigError("train.lr: is too much")
    wrapped = raised_by_a_task(error)
    assert isinstance(wrapped, ConfigError)
    assert "\n" in str(wrapped)
    assert find_error(wrapped) is error
    assert find_error(raised_by_a_task(wrapped)) is error
    assert find_error(error) is error
    assert str(explain(wrapped, "try again")) == "train.lr: is too much"


def test_what_ray_writes_into_an_error_is_taken_out() -> None:
    text = "the model fails on every image: ValueError: no\nroom"
    error: Any = _annotate_exception_with_retry_context(
        ConfigError(text),
        description="apply UDF transform",
        attempts=1,
        max_attempts=1,
        total_backoff_s=0.0,
        exception_str=text,
    )
    assert str(error) != text
    assert str(explain(raised_by_a_task(error), "try again")) == text


def test_an_error_of_raycap_is_found_behind_others() -> None:
    error = ConfigError("train.lr: is too much")
    outer = RuntimeError("the trainer failed")
    outer.__cause__ = raised_by_a_task(error)
    assert find_error(outer) is error


def test_what_is_no_error_of_raycap_is_told_in_one_line_with_the_remedy() -> None:
    assert find_error(ValueError("x")) is None
    told = explain(raised_by_a_task(ValueError("a\nb")), "run the same command again")
    assert isinstance(told, ClusterFailed)
    assert "\n" not in str(told)
    assert "; run the same command again, " in str(told)
    assert "--debug" in str(told)
