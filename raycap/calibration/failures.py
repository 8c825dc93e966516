"""What went wrong in a worker, as an error of raycap."""

from ray.exceptions import RayError

from raycap.errors import RaycapError, RunStopped


def explain(error: RayError) -> RaycapError:
    """Find the error that a worker raised in what Ray made of it."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, RaycapError):
        return cause
    first_line = " ".join(str(error).split())[:500]
    return RunStopped(
        f"the cluster gave up ({type(error).__name__}: {first_line}); finished settings are kept: "
        "run the same command to continue, with --debug to see the workers' own output"
    )
