"""Models of the user's own: a class that captions, `package.module:Class` or an entry point.

The class is imported where a run begins, to learn the size of its images and what identifies it,
and on the nodes that caption, where it is constructed. Importing it runs its code: the settings
must say so (`model.trust`), except for classes that installed packages register as entry points.
"""

import hashlib
import json
import re
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from raycap.config import GenerationConfig, ModelConfig
from raycap.errors import ModelError
from raycap.images.decoding import Target
from raycap.models.base import (
    Caption,
    Captioner,
    CaptionerKind,
    ModelSource,
    Question,
    Questions,
)

ENTRY_POINTS = "raycap.captioners"
"""Group of the entry points with which packages register captioners."""

_CLASS = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")
_FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
_MOST_PX = 8192


class CustomKind(CaptionerKind):
    """Classes of the user's own that caption."""

    name = "custom"
    has_files = False
    is_threadsafe = False

    def recognises(self, model_type: str) -> bool:  # noqa: ARG002
        """Whether a `model_type` means this kind: none does."""
        return False

    def check(self, folder: Path) -> Target:
        """Refuse: no folder holds such a model."""
        raise ModelError(f"{folder}: not a class of your own", uri=str(folder))

    def check_settings(self, model: ModelConfig) -> None:
        """Accept arguments for the class, and no settings that raycap cannot apply to it."""
        for name, neutral in (("precision", "auto"), ("compile", False), ("adapter", None)):
            if getattr(model, name) != neutral:
                raise ModelError(
                    f"model.{name}: {model.name} decides it itself: leave it out, or pass it in "
                    "model.args",
                    setting=f"model.{name}",
                )

    def check_here(self, source: ModelSource, model: ModelConfig) -> None:
        """Import the class on this node, and make sure that it is the same.

        Raises:
            ModelError: it cannot be imported here, or is another one.
        """
        _search(source.root, model.name)
        found = find_custom(model)
        if found is None or found.digest != source.digest:
            raise ModelError(
                f"{source.name}: on {socket.gethostname()}, not the class that this run started "
                "with (its fingerprint differs, or its source has changed since): bring every node "
                "to the same version, or start a new run",
                uri=source.name,
            )

    def load(
        self,
        folder: Path | None,  # noqa: ARG002
        model: ModelConfig,
        generation: GenerationConfig,
    ) -> Captioner:
        """Construct an object of the class with `model.args`."""
        kind = _find_class(model)
        target = _target_of(kind, model)
        try:
            made = kind(**model.args)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"{model.name}: cannot be constructed with model.args={sorted(model.args)}: "
                f"{_one_line(error)}",
                uri=model.name,
                setting="model.args",
            ) from error
        return self._wrapped(made, model.name, target, generation)

    def _wrapped(
        self, made: Any, name: str, target: Target, generation: GenerationConfig
    ) -> Captioner:
        if generation.prompt:
            raise ModelError(
                f"generation.prompt: {name} has no method `answer` that takes prompts: leave it "
                "out",
                setting="generation.prompt",
            )
        return CustomCaptioner(made, name, target)


class CustomAnsweringKind(CustomKind):
    """Classes of the user's own that take prompts: they have a method `answer`."""

    name = "custom-answering"
    takes_questions = True
    answers_freely = True

    def check_typed(self, model: ModelConfig) -> None:
        """Accept: the class gets the schema, and answers are checked."""

    def _wrapped(
        self, made: Any, name: str, target: Target, generation: GenerationConfig
    ) -> Captioner:
        return CustomAnsweringCaptioner(made, name, target, generation.prompt)


class CustomCaptioner:
    """An object of the user's class, of which every answer is checked."""

    def __init__(self, made: Any, name: str, target: Target) -> None:
        self._made = made
        self._name = name
        self._target = target

    @property
    def target(self) -> Target:
        """Size of the input images, and how to resample to it."""
        return self._target

    def caption(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
        """Caption a batch.

        Raises:
            ModelError: the class returns something else than a caption per image.
        """
        # A copy, because the pixels of a run are read-only, which torch warns of.
        with _placed(self._made):
            found = self._made.caption(pixels.copy())
        return [self._caption(one) for one in self._each(found, len(pixels), "caption", "image")]

    def _each(self, found: Any, count: int, method: str, what: str) -> Sequence[Any]:
        if not isinstance(found, list | tuple):
            raise self._wrong(f"{method}() returned {_shown(found)}: return a list")
        if len(found) != count:
            raise self._wrong(
                f"{method}() returned {len(found)} results for {count} {what}s: return one per "
                f"{what}, in order"
            )
        return found

    def _caption(self, found: Any) -> Caption:
        if isinstance(found, str):
            return Caption(text=str(found), logprob=float("nan"), has_logprob=False)
        if not isinstance(found, Caption) or not isinstance(found.text, str):
            raise self._wrong(f"a result is {_shown(found)}: return text, or raycap.Caption")
        if not isinstance(found.logprob, float | int | np.floating):
            raise self._wrong(f"logprob is {_shown(found.logprob)}: give a number, or return text")
        return found

    def _wrong(self, what: str) -> ModelError:
        return ModelError(f"{self._name}: {what}", uri=self._name)


class CustomAnsweringCaptioner(CustomCaptioner):
    """The same of a class that takes prompts."""

    def __init__(self, made: Any, name: str, target: Target, prompt: str) -> None:
        super().__init__(made, name, target)
        self._prompt = prompt

    def caption(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
        """Caption a batch, with `generation.prompt` if it is set."""
        if not self._prompt:
            return super().caption(pixels)
        questions = [[Question(text=self._prompt)]] * len(pixels)
        return [caption for (caption,) in self.answer(pixels, questions)]

    def answer(
        self, pixels: UInt8[np.ndarray, "b h w 3"], questions: Questions
    ) -> list[list[Caption]]:
        """Answer the questions about each image.

        Raises:
            ModelError: the class returns something else than an answer per question.
        """
        with _placed(self._made):
            found = self._made.answer(pixels.copy(), questions)
        of_images = self._each(found, len(pixels), "answer", "image")
        return [
            [self._caption(one) for one in self._each(answers, len(asked), "answer", "question")]
            for answers, asked in zip(of_images, questions, strict=True)
        ]


@contextmanager
def _placed(made: Any) -> Iterator[None]:
    """Add the place in the object's module to an error, for its one-line message."""
    try:
        yield
    except Exception as error:
        file = getattr(sys.modules.get(type(made).__module__), "__file__", None)
        lines = [
            n for f, n in traceback.walk_tb(error.__traceback__) if f.f_code.co_filename == file
        ]
        if lines:
            error.add_note(f"({Path(str(file)).name}, line {lines[-1]})")
        raise


def find_custom(model: ModelConfig) -> ModelSource | None:
    """Find the class that the settings name; None if they name none.

    Raises:
        ModelError: it is not trusted, cannot be imported, or lacks something.
    """
    if not _CLASS.fullmatch(model.name) and _entry_point(model.name) is None:
        return None
    kind = _find_class(model)
    for name in ("caption", "target"):
        if not hasattr(kind, name):
            raise ModelError(
                f"{model.name}: has no {name}: a captioner has a method caption(pixels) and an "
                "attribute target",
                uri=model.name,
            )
    takes_questions = hasattr(kind, "answer")
    return ModelSource(
        kind=(CustomAnsweringKind if takes_questions else CustomKind).name,
        name=model.name,
        revision=None,
        folder=None,
        digest=_fingerprint_of(kind, model),
        target=_target_of(kind, model),
        root=_root_of(kind),
    )


def _find_class(model: ModelConfig) -> type:
    """Import the class that the settings name. Raises ModelError."""
    point = None if _CLASS.fullmatch(model.name) else _entry_point(model.name)
    if point is None and not model.trust:
        raise ModelError(
            f"{model.name}: a class of your own, whose code would run: set model.trust=true to "
            "allow it",
            setting="model.trust",
        )
    module, _, attribute = model.name.partition(":")
    if point is not None:
        module, attribute = point.module, point.attr
    if module == "__main__":
        raise ModelError(
            f"{model.name}: workers cannot import a class of the main program: put it into a "
            "module",
            uri=model.name,
        )
    try:
        _search(str(Path.cwd()), module)
        found: Any = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise ModelError(
            f"{model.name}: cannot be imported on {socket.gethostname()} ({_one_line(error)}): "
            "install its package on every node, or submit the folder of its module with the job "
            "(ray job submit --working-dir)",
            uri=model.name,
        ) from error
    if not isinstance(found, type):
        raise ModelError(f"{model.name}: is {_shown(found)}, not a class", uri=model.name)
    return found


def _entry_point(name: str) -> metadata.EntryPoint | None:
    return next(iter(metadata.entry_points(group=ENTRY_POINTS, name=name)), None)


def _search(folder: str | None, name: str) -> None:
    """Import from a folder too, if it has a module that no other folder has.

    After all others, so that nothing in it hides a package.
    """
    top = re.split(r"[.:]", name)[0]
    if folder is None or find_spec(top) is not None:
        return
    if Path(folder, top).is_dir() or Path(folder, f"{top}.py").is_file():
        sys.path.append(folder)


def _root_of(kind: type) -> str | None:
    """Return the folder that a class is imported from, unless its package is installed."""
    top, *_ = kind.__module__.split(".")
    module = sys.modules[top]
    paths = [module.__file__] if module.__file__ else list(getattr(module, "__path__", ()))
    if not paths:
        return None
    file = Path(str(paths[0])).resolve()
    root = file.parent.parent if file.name == "__init__.py" else file.parent
    return None if root.name in ("site-packages", "dist-packages") else str(root)


def _of_class(kind: type, name: str, model: ModelConfig) -> Any:
    """Return an attribute of a class, or what its class or static method of that name returns."""
    found = getattr(kind, name)
    if not callable(found):
        return found
    method: Callable[..., Any] = found
    try:
        return method(**model.args)
    except Exception as error:
        raise ModelError(
            f"{model.name}: {name}(**model.args) fails ({_one_line(error)}): make it an attribute "
            "of the class, or a class method that takes the arguments of the constructor",
            uri=model.name,
        ) from error


def _target_of(kind: type, model: ModelConfig) -> Target:
    found = _of_class(kind, "target", model)
    is_size = isinstance(found, tuple | list) and len(found) == 2
    if is_size and all(isinstance(side, int) and 1 <= side <= _MOST_PX for side in found):
        return Target(width_px=found[0], height_px=found[1])
    if isinstance(found, Target) and found.resample in _FILTERS:
        return found
    raise ModelError(
        f"{model.name}: target is {_shown(found)}: give (width, height) in pixels or a "
        "raycap.Target, as an attribute of the class or by a class method",
        uri=model.name,
    )


def _fingerprint_of(kind: type, model: ModelConfig) -> str:
    """Return what identifies a class: what it says itself, or its version and source."""
    found: Any = None
    if hasattr(kind, "fingerprint"):
        found = _of_class(kind, "fingerprint", model)
        if not isinstance(found, str) or not found:
            raise ModelError(
                f"{model.name}: fingerprint is {_shown(found)}: give text, as an attribute of the "
                "class or by a class method",
                uri=model.name,
            )
    identity = {"own": found} if found is not None else _source_of(kind, model)
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _source_of(kind: type, model: ModelConfig) -> Mapping[str, Any]:
    named, _, _ = model.name.partition(":")
    modules = {kind.__module__, named} & sys.modules.keys()
    files: dict[str, str] = {}
    for name in sorted(modules):
        for key, file in _files_of(name):
            files[key] = hashlib.sha256(file.read_bytes()).hexdigest()
    return {"version": _version_of(kind.__module__.partition(".")[0]), "files": files}


def _files_of(name: str) -> list[tuple[str, Path]]:
    """Return the source of a module, and of all modules in its package, by their names."""
    module = sys.modules[name]
    if not module.__file__:
        return []
    file = Path(module.__file__)
    package = module.__package__
    if not package:
        return [(name, file)]
    return [
        (f"{package}/{path.relative_to(file.parent).as_posix()}", path)
        for path in file.parent.rglob("*.py")
    ]


def _version_of(package: str) -> str | None:
    for name in (package, *metadata.packages_distributions().get(package, ())):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _shown(value: object) -> str:
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text[:60]}"
