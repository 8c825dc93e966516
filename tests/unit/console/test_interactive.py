"""Functions show their progress only where a person watches."""

import subprocess
import sys
from typing import Any

import raycap
from raycap.console.interactive import with_progress
from raycap.progress import Progress

_DONE = Progress(num_done=1, num_total=2, num_failed=0, images_per_s=1.0)


def work(name: str, *, on_progress: Any = None) -> tuple[str, Any]:
    """Do something for long."""
    if on_progress is not None:
        on_progress(_DONE)
    return name, on_progress


def test_a_function_of_the_user_is_called_as_given() -> None:
    found: list[Progress] = []
    name, on_progress = with_progress(work)("x", on_progress=found.append)
    assert (name, found) == ("x", [_DONE])
    assert on_progress == found.append


def test_without_a_terminal_nothing_is_shown() -> None:
    assert with_progress(work)("x") == ("x", None)


def test_scripts_call_the_functions_as_they_are() -> None:
    assert not hasattr(raycap.caption, "__wrapped__")


def test_at_a_prompt_long_functions_show_progress_and_others_do_not() -> None:
    code = (
        "import sys; sys.ps1 = '>>> '; import raycap, inspect\n"
        "shown = [n for n in raycap.__all__ if hasattr(getattr(raycap, n), '__wrapped__')]\n"
        "assert raycap.caption is raycap.caption\n"
        "print(*shown); print(*list(inspect.signature(raycap.caption).parameters)[:2])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    shown, parameters = done.stdout.splitlines()
    assert {*shown.split()} >= raycap._WATCHED
    assert not {"read", "status", "verify"} & {*shown.split()}
    assert parameters == "source output"
