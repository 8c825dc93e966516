"""Keys and headers of endpoints: read from the environment, and never shown."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from raycap.config import EndpointConfig
from raycap.errors import ConfigError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SECRET_HEADERS = frozenset({"authorization", "api-key", "x-api-key", "cookie"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """Keys and headers for servers; never shown, not even in a traceback."""

    key: str | None = field(default=None, repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)

    def hidden(self, text: str) -> str:
        """Return a text without them: servers quote keys that they refuse."""
        for secret in (self.key, *self.headers.values()):
            if secret and len(secret) >= 4:  # shorter ones are words of any text
                text = text.replace(secret, "[secret]")
        return text


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
