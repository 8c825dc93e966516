"""The registry of kinds of captioner. Imports no torch.

A new kind is one new file with a subclass of `CaptionerKind`, and one line in KINDS. A kind that
can be trained also has its name in `config.train.Kind`, the values allowed for that setting.
"""

from pathlib import Path

from raycap.errors import ModelError
from raycap.models.base import CaptionerKind, TrainableKind
from raycap.models.blip.kind import BlipKind
from raycap.models.custom import CustomAnsweringKind, CustomKind
from raycap.models.endpoint.kind import EndpointKind
from raycap.models.folders import CONFIG_FILE, KIND_FILE, read_json
from raycap.models.scratch.kind import SCRATCH_KINDS
from raycap.models.stub import StubKind
from raycap.models.vlm.kind import VlmKind

KINDS: tuple[CaptionerKind, ...] = (
    BlipKind(),
    *SCRATCH_KINDS.values(),
    VlmKind(),  # after BLIP, which transformers counts among the vision-language models
    StubKind(),
    EndpointKind(),
    CustomKind(),
    CustomAnsweringKind(),
)
"""Every kind; the first that recognises a folder's `model_type` reads it."""

_BY_NAME = {kind.name: kind for kind in KINDS}


def find_kind(name: str) -> CaptionerKind:
    """Return the kind of that name.

    Raises:
        ModelError: there is none.
    """
    if name not in _BY_NAME:
        raise ModelError(f"no captioner of kind {name!r}; kinds: {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def find_trainable_kind(name: str) -> TrainableKind:
    """Return the kind of that name, which raycap can train.

    Raises:
        ModelError: there is no such kind, or it cannot be trained.
    """
    kind = find_kind(name)
    if not isinstance(kind, TrainableKind):
        trainable = ", ".join(one.name for one in KINDS if isinstance(one, TrainableKind))
        raise ModelError(
            f"a model of kind {name!r} cannot be trained; kinds: {trainable}", setting="kind"
        )
    return kind


def kind_of_folder(folder: Path) -> CaptionerKind:
    """Find the kind of the model in a folder.

    Raises:
        ModelError: no kind recognises it, or its files contradict each other.
    """
    record = folder / KIND_FILE
    recorded = read_json(record).get("kind") if record.is_file() else None
    for kind in KINDS:
        if kind.name == recorded and kind.is_built_in:
            return kind  # a folder with raycap.json only, which gives the stub another name
    model_type = read_json(folder / CONFIG_FILE).get("model_type")
    found = None
    if isinstance(model_type, str):
        found = next((kind for kind in KINDS if kind.recognises(model_type)), None)
    supported = [kind.name for kind in KINDS if kind.has_files]
    if found is None or recorded not in (None, *supported):
        unknown = model_type if found is None else recorded
        raise ModelError(
            f"{folder}: a model of kind {unknown!r}; supported kinds: {', '.join(supported)}",
            uri=str(folder),
        )
    if recorded not in (None, found.name):
        raise ModelError(
            f"{folder}: a model of kind {recorded!r} by {KIND_FILE}, but {found.name!r} by "
            f"{CONFIG_FILE}: restore the files",
            uri=str(folder),
        )
    return found
