"""Settings of `model.backend=endpoint`: servers that caption, and what they may cost."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from raycap.config.base import Section


def _as_list(value: object) -> object:
    """Read one address as a list, and several separated by commas likewise."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


class EndpointConfig(Section):
    """Servers with OpenAI's interface for chat completions."""

    urls: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    """Addresses of the servers, with or without `/v1`, such as `http://host:8000`; several are
    separated by commas. All must serve `model.name`."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the API key; only the machine that starts the run
    needs it. None: no key is sent."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Further headers of each request. `${NAME}` in a value is replaced by that environment
    variable, so that no secret has to be written here."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of each request, such as `{reasoning_effort: low}`; null leaves a field out
    that raycap sends."""
    verify_tls: bool | str = True
    """Check the certificates of servers; or a file of certificates to check them by."""
    send: Literal["data", "uri"] = "data"
    """`data`: send the image itself, at the size asked for. `uri`: send the https:// address of the
    image, which the server then reads."""
    image_format: Literal["jpeg", "png"] = "jpeg"
    """Format in which images are sent. Files that are not resized are sent unchanged."""
    quality: int = Field(default=90, ge=1, le=100)
    """Quality of JPEG."""
    timeout_s: float = Field(default=300.0, gt=0.0)
    """Seconds after which an unanswered request counts as failed, and is sent again; a server may
    charge for both. Set it well above the longest answer."""
    min_in_flight: int = Field(default=1, ge=1, le=4096)
    """Fewest requests in flight per endpoint."""
    max_in_flight: int = Field(default=256, ge=1, le=4096)
    """Most requests in flight per endpoint. In between, the number follows the throughput."""
    logprobs: bool | None = None
    """Ask for log-probabilities, for `logprob`. None: if the server supports it."""
    price_per_million_input_tokens: float | None = Field(default=None, ge=0.0)
    """Price of a million tokens of prompt and image, in any currency. None: no cost is computed."""
    price_per_million_output_tokens: float | None = Field(default=None, ge=0.0)
    """Price of a million generated tokens, in the same currency."""
    max_cost: float | None = Field(default=None, gt=0.0)
    """Stop the run at this cost; the same command with a higher value continues it. Requires both
    prices."""
    max_tokens_total: int | None = Field(default=None, ge=1)
    """Stop the run after this many tokens in and out; continue it as after `max_cost`."""

    @model_validator(mode="after")
    def _consistent(self) -> "EndpointConfig":
        if self.min_in_flight > self.max_in_flight:
            raise ValueError("min_in_flight must not exceed max_in_flight")
        prices = (self.price_per_million_input_tokens, self.price_per_million_output_tokens)
        if (prices[0] is None) != (prices[1] is None):
            raise ValueError("the two prices go together: set both")
        if self.max_cost is not None and prices[0] is None:
            raise ValueError("max_cost needs both prices")
        return self

    def answering(self) -> dict[str, Any]:
        """Return the settings that can change an answer, for the fingerprint of a run.

        Those at their default are left out, so that runs older than a setting can continue.
        """
        names = ("extra_body", "send", "image_format", "quality")
        chosen = {name: getattr(self, name) for name in names}
        fields = type(self).model_fields
        return {
            name: value
            for name, value in chosen.items()
            if value != fields[name].get_default(call_default_factory=True)
        }

    def cost(self, num_input_tokens: int, num_output_tokens: int) -> float | None:
        """Return the price of tokens; None without prices."""
        into, out = self.price_per_million_input_tokens, self.price_per_million_output_tokens
        if into is None or out is None:
            return None
        return (num_input_tokens * into + num_output_tokens * out) / 1e6
