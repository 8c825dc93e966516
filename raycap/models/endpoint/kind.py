"""The endpoint kind: models that servers run. Checks settings, and reads keys, at the start."""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from raycap.config import EndpointConfig, GenerationConfig, ModelConfig
from raycap.errors import ConfigError, ModelError
from raycap.images.decoding import Target
from raycap.images.encoding import target_within
from raycap.models.base import BatchRange, Captioner, CaptionerKind, ModelSource
from raycap.models.endpoint.client import Secrets
from raycap.storage.address import redact

MAX_PIXELS = 768 * 1024
"""Pixels of the images that are sent, if `image.max_pixels_model` is not set."""

_GENERATION = GenerationConfig(num_beams=1, max_new_tokens=256)
"""What differs from the defaults of BLIP: no server searches with beams, and answers are longer."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SECRET_HEADERS = frozenset({"authorization", "api-key", "x-api-key", "cookie"})


class EndpointKind(CaptionerKind):
    """Models at endpoints, which have no files here."""

    name = "endpoint"
    has_files = False
    is_remote = True
    takes_questions = True
    uses_gpus = False

    def recognises(self, model_type: str) -> bool:  # noqa: ARG002
        """Whether a `model_type` means this kind: none does."""
        return False

    def built_in(self, name: str) -> ModelSource:
        """Return the model of that name at the endpoints; which ones is not part of it."""
        return ModelSource(
            kind=self.name,
            name=name,
            revision=None,
            folder=None,
            digest=hashlib.sha256(f"endpoint\0{name}".encode()).hexdigest(),
            target=target_within(MAX_PIXELS),
            generation=_GENERATION,
        )

    def check(self, folder: Path) -> Target:
        """Refuse: no folder holds such a model."""
        raise ModelError(f"{folder}: not a model at an endpoint", uri=str(folder))

    def load(
        self,
        folder: Path | None,  # noqa: ARG002
        model: ModelConfig,
        generation: GenerationConfig,  # noqa: ARG002
    ) -> Captioner:
        """Refuse: only `raycap caption` asks endpoints."""
        raise ModelError(
            f"{model.name}: model.backend=endpoint works in `raycap caption` only: leave it out",
            setting="model.backend",
        )

    def batch_range(self, model: ModelConfig, *, on_accelerator: bool) -> BatchRange:  # noqa: ARG002
        """Return the images that travel together; how many are asked about is found out."""
        return BatchRange.fixed(16)


def check_endpoint(
    model: ModelConfig, endpoint: EndpointConfig, generation: GenerationConfig, section: str
) -> None:
    """Check the settings of endpoints, if `model.backend` asks for them.

    Args:
        model: The model's settings.
        endpoint: The endpoints' settings.
        generation: How captions are generated.
        section: Where the model's settings are, `model` or `cascade`, for messages.

    Raises:
        ConfigError: a setting is missing, does not fit or holds a secret.
    """
    if model.backend != "endpoint":
        return
    _check_urls(endpoint.urls, section)
    for name, neutral in (("precision", "auto"), ("adapter", None), ("compile", False)):
        if getattr(model, name) != neutral:
            raise ConfigError(
                f"{section}.{name}: the server decides it with backend=endpoint: leave it out",
                setting=f"{section}.{name}",
            )
    _check_search(generation)
    read_secrets(endpoint)


def read_secrets(endpoint: EndpointConfig, environment: Mapping[str, str] = os.environ) -> Secrets:
    """Read the key and the headers from the environment.

    Raises:
        ConfigError: a variable is not set, or a secret is written in the settings.
    """
    key = None
    if endpoint.api_key_env is not None:
        name = endpoint.api_key_env
        if not _NAME.fullmatch(name):  # not shown: it may be the key itself
            raise ConfigError(
                "endpoint.api_key_env: must be the name of an environment variable, not a key",
                setting="endpoint.api_key_env",
            )
        key = _variable(name, "endpoint.api_key_env", environment)
    return Secrets(
        key=key,
        headers={
            name: _header(name, value, environment) for name, value in endpoint.headers.items()
        },
    )


def _header(name: str, value: str, environment: Mapping[str, str]) -> str:
    setting = f"endpoint.headers.{name}"
    if not _HEADER.fullmatch(name):
        raise ConfigError(f"{setting}: not the name of a header", setting=setting)
    if name.lower() in _SECRET_HEADERS and not _VARIABLE.search(value):
        raise ConfigError(
            f"{setting}: settings are written to the output: put the secret into an environment "
            "variable, and write ${ITS_NAME} here",
            setting=setting,
        )
    filled = _VARIABLE.sub(lambda found: _variable(found[1], setting, environment), value)
    if not filled.isprintable():
        raise ConfigError(f"{setting}: has characters that no header has", setting=setting)
    return filled


def _variable(name: str, setting: str, environment: Mapping[str, str]) -> str:
    value = environment.get(name, "").strip()
    if not value:
        raise ConfigError(
            f"{setting}: the environment variable {name} is not set: export it, and run the same "
            "command again",
            setting=setting,
        )
    if not value.isprintable() or not value.isascii():
        raise ConfigError(
            f"{setting}: the value of {name} has characters that no header has", setting=setting
        )
    return value


def _check_urls(urls: tuple[str, ...], section: str) -> None:
    if not urls:
        raise ConfigError(
            f"{section}.backend=endpoint needs the address of a server: set endpoint.urls, such as "
            "http://localhost:8000",
            setting="endpoint.urls",
        )
    for url in urls:
        if not url.startswith(("http://", "https://")) or not url.partition("://")[2].strip("/"):
            raise ConfigError(
                f"endpoint.urls: {redact(url)!r} is not an address: write http://host:port",
                setting="endpoint.urls",
            )
        if redact(url) != url:
            raise ConfigError(
                f"endpoint.urls: {redact(url)}: has a secret, and settings are written to the "
                "output: use endpoint.api_key_env or endpoint.headers",
                setting="endpoint.urls",
            )
    if len(set(urls)) < len(urls):
        raise ConfigError("endpoint.urls: names a server twice", setting="endpoint.urls")


def _check_search(generation: GenerationConfig) -> None:
    wrong = {
        "num_beams": (generation.num_beams > 1, "1", "no beam search"),
        "num_captions": (generation.num_captions > 1, "1", "one caption per image"),
        "no_repeat_ngram_size": (generation.no_repeat_ngram_size > 0, "0", "no such penalty"),
    }
    for name, (is_wrong, value, reason) in wrong.items():
        if is_wrong:
            raise ConfigError(
                f"backend=endpoint has {reason}: set generation.{name}={value}",
                setting=f"generation.{name}",
            )
