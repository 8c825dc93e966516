"""Connections to web servers, through the proxies that the environment names.

`http_proxy`, `https_proxy` and `no_proxy` are read as other programs read them, in capital letters
too. A network such as `10.0.0.0/8` is understood in `no_proxy`.
"""

import ipaddress
from typing import Any
from urllib.parse import unquote
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]  # not in typeshed

import urllib3
from urllib3.util import Url, parse_url

from raycap.errors import ConfigError


class Pools:
    """Pools of connections, one set per proxy; safe to use from many threads."""

    def __init__(self, **settings: Any) -> None:
        """Prepare. Raises ConfigError if a proxy is of an unknown kind.

        Args:
            settings: Of `urllib3.PoolManager`.
        """
        self._proxies = getproxies_environment()
        self._direct = _Direct(**settings)
        self._through: dict[str, _Proxied] = {}
        for scheme in ("http", "https"):
            proxy = self._proxies.get(scheme)
            if proxy and proxy not in self._through:
                self._through[proxy] = _proxied(scheme, proxy, settings)
        for one in (self._direct, *self._through.values()):
            one.pools_of = self

    def get(self, address: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        """Request an address; the body is not read yet."""
        pools = self.of(address)
        return pools.request("GET", address, headers=headers, preload_content=False)

    def of(self, address: str) -> urllib3.PoolManager:
        """Return the pools for an address."""
        url = parse_url(address)
        proxy = self._proxies.get(url.scheme or "")
        if url.scheme not in ("http", "https") or not proxy or _is_bypassed(url, self._proxies):
            return self._direct
        return self._through[proxy]


class _Routed(urllib3.PoolManager):
    """Pools that pass an address on if it belongs to others: redirects lead anywhere."""

    pools_of: Pools

    def urlopen(  # type: ignore[override]  # as of PoolManager itself
        self, method: str, url: str, redirect: bool = True, **kw: Any
    ) -> urllib3.BaseHTTPResponse:
        other = self.pools_of.of(url)
        if other is not self:
            return other.urlopen(method, url, redirect, **kw)
        return super().urlopen(method, url, redirect, **kw)


class _Direct(_Routed):
    """Without a proxy."""


class _Proxied(_Routed, urllib3.ProxyManager):
    """Through a proxy."""


def _proxied(scheme: str, proxy: str, settings: dict[str, Any]) -> _Proxied:
    url = parse_url(proxy if "://" in proxy else f"http://{proxy}")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(
            f"{scheme}_proxy: is not the address of an HTTP proxy; write http://host:port"
        )
    headers = urllib3.make_headers(proxy_basic_auth=unquote(url.auth)) if url.auth else None
    return _Proxied(url._replace(auth=None).url, proxy_headers=headers, **settings)


def _is_bypassed(url: Url, proxies: dict[str, str]) -> bool:
    # With its port, as `no_proxy` may name one.
    host = (url.host or "").strip("[]")
    if proxy_bypass_environment(url.netloc or host, proxies):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for entry in proxies.get("no", "").split(","):
        try:
            if address in ipaddress.ip_network(entry.strip(), strict=False):
                return True
        except ValueError:
            continue  # a name
    return False
