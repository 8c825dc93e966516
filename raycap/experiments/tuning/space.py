"""The search space: settings of training, and the values that each may take."""

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from ray import tune

from raycap.config import SearchConfig, Section, TrainConfig, TuneConfig, is_section
from raycap.config.loading import validate_config
from raycap.errors import ConfigError
from raycap.models.kinds import find_trainable_kind
from raycap.results.search import Params

NUM_EPOCHS = "train.num_epochs"

_RANGES = ("uniform", "loguniform", "integers")
_DEFAULT_TRIALS = 20
_DEPTHS = {"architecture.num_layers": [1, 2, 4]}
_DEFAULT = {"train.lr": [1e-4, 5e-4, 2e-3], "train.batch_size": [16, 32, 64], **_DEPTHS}
_DEFAULT_BLIP = {"train.lr": [3e-6, 1e-5, 3e-5], "train.batch_size": [16, 32]}
_MAX_DRAWS = 100  # per new point, before a space counts as exhausted


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """The values that one setting may take."""

    choices: tuple[Any, ...] = ()
    """All values; empty for a range."""
    low: float = 0.0
    high: float = 0.0
    """Both ends are included."""
    is_log: bool = False
    is_integer: bool = False

    def domain(self) -> Any:
        """Return the Ray Tune search domain."""
        if self.choices:
            return tune.choice(list(self.choices))
        if self.is_integer:
            return tune.randint(int(self.low), int(self.high) + 1)
        return (tune.loguniform if self.is_log else tune.uniform)(self.low, self.high)

    def draw(self, source: random.Random) -> Any:
        """Draw one value."""
        if self.choices:
            return source.choice(self.choices)
        if self.is_integer:
            return source.randint(int(self.low), int(self.high))
        if self.is_log:
            return float(self.low * (self.high / self.low) ** source.random())
        return source.uniform(self.low, self.high)

    def describe(self) -> dict[str, list[Any]]:
        """Return plain values for records, such as `{"uniform": [0, 0.5]}`."""
        if self.choices:
            return {"choice": list(self.choices)}
        name = "integers" if self.is_integer else "loguniform" if self.is_log else "uniform"
        kind = int if self.is_integer else float
        return {name: [kind(self.low), kind(self.high)]}


Space = dict[str, Values]


def read_space(config: TuneConfig) -> Space:
    """Read the search space from the settings, or take the default of the kind of model.

    Raises:
        ConfigError: a name is not a setting of training, or a value is not allowed.
    """
    given = config.tune.space
    if given is None:
        given = _DEFAULT_BLIP if find_trainable_kind(config.kind).default_init else _DEFAULT
    space = {name: _values(name, found) for name, found in sorted(_flat(given).items())}
    if not space:
        raise ConfigError(
            "tune.space: is empty; give values, such as tune.space.train.lr='[1e-4]'",
            setting="tune.space",
        )
    if config.tune.algorithm == "grid":
        for name, values in space.items():
            if not values.choices:
                raise _wrong(name, "a grid needs a list; give one, or tune.algorithm=random")
    return space


def points(space: Space, search: SearchConfig) -> list[Params]:
    """List the points of a grid or random search, in order; the same for the same seed."""
    source = random.Random(search.seed)
    if search.algorithm == "grid":
        every = [
            dict(zip(space, combination, strict=True))
            for combination in itertools.product(*(values.choices for values in space.values()))
        ]
        if search.num_trials is None or search.num_trials >= len(every):
            return every
        kept = sorted(source.sample(range(len(every)), search.num_trials))
        return [every[place] for place in kept]
    return _drawn(space, search.num_trials or _DEFAULT_TRIALS, source)


def num_suggested(search: SearchConfig) -> int:
    """Return the number of trials of a search that learns from its results."""
    return search.num_trials or _DEFAULT_TRIALS


def most_epochs(space: Space, base: TrainConfig) -> int:
    """Return the maximum number of epochs of a trial."""
    values = space.get(NUM_EPOCHS)
    if values is None:
        return base.train.num_epochs
    return max(values.choices) if values.choices else int(values.high)


def trial_config(base: TrainConfig, params: Mapping[str, Any]) -> TrainConfig:
    """Apply a trial's settings to the base settings.

    Raises:
        ConfigError: the combination is not allowed.
    """
    values = base.model_dump()
    for name, value in params.items():
        *sections, field = name.split(".")
        place = values
        for section in sections:
            place = place[section]
        place[field] = value
    return validate_config(TrainConfig, values)


def _drawn(space: Space, count: int, source: random.Random) -> list[Params]:
    """Draw distinct points; fewer if the space has no more."""
    found: list[Params] = []
    for _ in range(count):
        for _ in range(_MAX_DRAWS):
            point = {name: values.draw(source) for name, values in space.items()}
            if point not in found:
                found.append(point)
                break
    return found


def _flat(given: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Flatten nested sections to dotted names; a range is a value."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and not (len(value) == 1 and next(iter(value)) in _RANGES):
            found.update(_flat(value, name))
        else:
            found[name] = value
    return found


def _values(name: str, given: Any) -> Values:
    adapter = _field(name)
    if isinstance(given, Mapping):
        return _range(name, *next(iter(given.items())), adapter)
    choices = given if isinstance(given, list) else [given]
    if not choices:
        raise _wrong(name, "the list is empty")
    checked = [_check(name, adapter, value) for value in choices]
    return Values(
        choices=tuple(value for i, value in enumerate(checked) if value not in checked[:i])
    )


def _range(name: str, kind: str, given: Any, adapter: Any) -> Values:
    if not isinstance(given, list) or len(given) != 2:
        raise _wrong(name, f"write it as {{{kind}: [low, high]}}")
    low, high = (_check(name, adapter, value) for value in given)
    is_number = all(isinstance(it, int | float) and not isinstance(it, bool) for it in (low, high))
    if not is_number or not low < high or (kind == "loguniform" and low <= 0):
        above = " above 0" if kind == "loguniform" else ""
        raise _wrong(name, f"{kind} needs two numbers{above}, the lower one first, got {given}")
    is_integer = isinstance(low, int)
    if is_integer != (kind == "integers"):
        wanted = "integers" if is_integer else "uniform or loguniform"
        raise _wrong(name, f"its range is one of {wanted}, not {kind}")
    return Values(
        low=float(low), high=float(high), is_log=kind == "loguniform", is_integer=is_integer
    )


def _field(name: str) -> Any:
    """Return a validator of a setting of training."""
    section: type[Section] = TrainConfig
    *sections, last = name.split(".")
    for part in sections:
        inner = section.model_fields.get(part)
        if inner is None or not is_section(inner.annotation):
            raise _unknown(name, part, section)
        section = inner.annotation  # type: ignore[assignment]
    field = section.model_fields.get(last)
    if field is None:
        raise _unknown(name, last, section)
    if is_section(field.annotation):
        raise _wrong(name, "is a section; give one of its settings")
    form: Any = field.annotation
    if field.metadata:  # its bounds
        form = Annotated[form, *field.metadata]
    return TypeAdapter(form, config=ConfigDict(allow_inf_nan=False))


def _unknown(name: str, part: str, section: type[Section]) -> ConfigError:
    known = ", ".join(section.model_fields)
    return _wrong(name, f"no such setting ({part}); there are: {known}")


def _check(name: str, adapter: Any, value: Any) -> Any:
    """Convert a value to the setting's type."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise _wrong(name, f"{reason}, got {value!r}") from None


def _wrong(name: str, reason: str) -> ConfigError:
    setting = f"tune.space.{name}"
    return ConfigError(f"{setting}: {reason}", setting=setting)
