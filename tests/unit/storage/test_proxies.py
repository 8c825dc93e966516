"""Which proxy of the environment a web address goes through."""

import pytest

from raycap.errors import ConfigError
from raycap.storage.proxies import Pools


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def proxy_of(address: str) -> str | None:
    proxy = Pools().of(address).proxy
    return None if proxy is None else proxy.url


def test_without_settings_there_is_none() -> None:
    assert proxy_of("https://host/a.jpg") is None


def test_each_scheme_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://one:3128")
    monkeypatch.setenv("HTTPS_PROXY", "two:3129")
    assert proxy_of("http://host/a.jpg") == "http://one:3128"
    assert proxy_of("https://host/a.jpg") == "http://two:3129"


@pytest.mark.parametrize(
    "host", ["inside", "a.corp", "10.1.2.3", "[fd00::1]", "host:8080", "user:pw@inside"]
)
def test_exceptions_are_names_suffixes_networks_and_ports(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("http_proxy", "http://one:3128")
    monkeypatch.setenv("no_proxy", "inside,.corp, 10.0.0.0/8,fd00::/8,host:8080")
    assert proxy_of(f"http://{host}/a.jpg") is None
    assert proxy_of("http://host/a.jpg") == "http://one:3128"
    assert proxy_of("http://11.1.2.3/a.jpg") == "http://one:3128"


def test_a_password_goes_into_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:s3cret@one:3128")
    pools = Pools().of("http://host/a.jpg")
    assert pools.proxy is not None
    assert pools.proxy.url == "http://one:3128"
    assert "proxy-authorization" in pools.proxy_headers  # type: ignore[attr-defined]


def test_a_proxy_of_another_kind_is_refused_without_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "socks5://me:s3cret@one:1080")
    with pytest.raises(ConfigError) as caught:
        Pools()
    assert "s3cret" not in str(caught.value)
