"""Settings of endpoints, and secrets in them."""

from typing import Any

import pytest

from raycap.config import EndpointConfig, GenerationConfig, ModelConfig
from raycap.errors import ConfigError
from raycap.models.endpoint.kind import EndpointKind, check_endpoint
from raycap.models.endpoint.secrets import read_secrets

GREEDY = GenerationConfig(num_beams=1)
MODEL = ModelConfig(name="tiny", backend="endpoint")
URL = "http://host:8000"


def refused(
    endpoint: dict[str, Any] | None = None,
    model: ModelConfig = MODEL,
    generation: GenerationConfig = GREEDY,
) -> str | None:
    settings = EndpointConfig.model_validate({"urls": URL, **(endpoint or {})})
    with pytest.raises(ConfigError) as raised:
        check_endpoint(model, settings, generation, "model")
    assert "s3cret" not in str(raised.value)
    return raised.value.setting


@pytest.mark.parametrize(
    ("endpoint", "setting"),
    [
        ({"urls": []}, "endpoint.urls"),
        ({"urls": "host:8000"}, "endpoint.urls"),
        ({"urls": "http://"}, "endpoint.urls"),
        ({"urls": f"{URL},{URL}"}, "endpoint.urls"),
        ({"urls": f"{URL},{URL}/v1/"}, "endpoint.urls"),
        ({"urls": "https://me:s3cret@host"}, "endpoint.urls"),
        ({"api_key_env": "sk-s3cret"}, "endpoint.api_key_env"),
        ({"api_key_env": "NOT_SET_ANYWHERE"}, "endpoint.api_key_env"),
        ({"headers": {"Authorization": "Bearer s3cret"}}, "endpoint.headers.Authorization"),
        ({"headers": {"X-Team": "${NOT_SET_ANYWHERE}"}}, "endpoint.headers.X-Team"),
        ({"headers": {"X Team": "cats"}}, "endpoint.headers.X Team"),
        ({"headers": {"X-Team": "cats\r\nX-Other: 1"}}, "endpoint.headers.X-Team"),
    ],
)
def test_settings_that_cannot_work_or_hold_a_secret(endpoint: dict[str, Any], setting: str) -> None:
    assert refused(endpoint) == setting


def test_what_only_the_server_decides_is_refused() -> None:
    assert refused(model=MODEL.model_copy(update={"precision": "bf16"})) == "model.precision"
    beams = GREEDY.model_copy(update={"num_beams": 3})
    assert refused(generation=beams) == "generation.num_beams"


def test_secrets_come_from_the_environment() -> None:
    endpoint = EndpointConfig(
        urls=(URL,), api_key_env="KEY", headers={"api-key": "${OTHER}", "X-Team": "cats"}
    )
    secrets = read_secrets(endpoint, {"KEY": " abcd\n", "OTHER": "efgh"})
    assert (secrets.key, secrets.headers) == ("abcd", {"api-key": "efgh", "X-Team": "cats"})
    assert secrets.hidden("wrong key abcd or efgh") == "wrong key [secret] or [secret]"


def test_the_identity_of_a_model_has_no_address() -> None:
    source = EndpointKind().built_in("tiny")
    assert source.identity()["kind"] == "endpoint"
    assert source.identity() == EndpointKind().built_in("tiny").identity()
    assert source.digest != EndpointKind().built_in("other").digest


def test_addresses_may_be_separated_by_commas() -> None:
    endpoint = EndpointConfig.model_validate({"urls": "http://a, http://b/v1"})
    assert endpoint.urls == ("http://a", "http://b/v1")


def test_only_settings_that_change_answers_are_part_of_a_run() -> None:
    plain = EndpointConfig(urls=(URL,), max_in_flight=3, timeout_s=1.0, max_tokens_total=5)
    assert plain.answering() == {}
    other = EndpointConfig(urls=(URL,), quality=50, extra_body={"seed": 1})
    assert other.answering() == {"quality": 50, "extra_body": {"seed": 1}}


def test_the_cost_of_tokens() -> None:
    priced = EndpointConfig(price_per_million_input_tokens=2.0, price_per_million_output_tokens=8.0)
    assert priced.cost(1_000_000, 500_000) == 6.0
    assert EndpointConfig().cost(1, 1) is None
