"""The endpoint kind: models that servers run. Checks settings, and reads keys, at the start."""

import hashlib
from pathlib import Path

from raycap.config import DEFAULT_MODEL, EndpointConfig, GenerationConfig, ModelConfig
from raycap.errors import ConfigError, ModelError
from raycap.images.decoding import Target
from raycap.images.encoding import target_within
from raycap.images.grids import Grid, PatchGrid
from raycap.models.base import BatchRange, Captioner, CaptionerKind, ModelSource
from raycap.models.endpoint.messages import completions_url
from raycap.models.endpoint.secrets import read_secrets
from raycap.models.generation import check_single_search
from raycap.storage.address import redact

_MAX_PIXELS = 2**20  # as for local models; `image.max_pixels_model` changes it
_GENERATION = GenerationConfig(num_beams=1, max_new_tokens=256)
"""What differs from the defaults of BLIP: no server searches with beams, and answers are longer."""


class EndpointKind(CaptionerKind):
    """Models at endpoints, which have no files here."""

    name = "endpoint"
    has_files = False
    is_remote = True
    takes_questions = True
    answers_freely = True
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
            target=target_within(_MAX_PIXELS),
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

    def check_typed(self, model: ModelConfig) -> None:
        """Accept: servers are asked to follow a schema, and answers are checked."""

    def grid(self, source: ModelSource, max_pixels: int) -> Grid | None:  # noqa: ARG002
        """Return the sizes of images that are sent: their own, or less."""
        return PatchGrid(max_pixels=max_pixels)

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
    if model.name == DEFAULT_MODEL:
        raise ConfigError(
            "backend=endpoint needs the name of the model at the server: set model.name",
            setting="model.name",
        )
    _check_urls(endpoint.urls, section)
    for name, neutral in (("precision", "auto"), ("adapter", None), ("compile", False)):
        if getattr(model, name) != neutral:
            raise ConfigError(
                f"{section}.{name}: the server decides it with backend=endpoint: leave it out",
                setting=f"{section}.{name}",
            )
    check_single_search("endpoint", generation)
    read_secrets(endpoint)


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
    if len({completions_url(url) for url in urls}) < len(urls):
        raise ConfigError("endpoint.urls: names a server twice", setting="endpoint.urls")
