"""Whether a target is on this machine, and whether a proxy of the environment applies to it."""

from __future__ import annotations

import ipaddress
import os

_UNIX = ("unix:", "unix-abstract:")
_SCHEMES = ("dns", "ipv4", "ipv6")
# In the order in which gRPC looks at them.
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")


def is_local(target: str) -> bool:
    """Whether a target, as gRPC takes it, is surely on this machine: a loopback address or a Unix socket."""
    if target.startswith(_UNIX):
        return True
    scheme, _, rest = target.partition(":")
    addresses = rest.rpartition("/")[2] if scheme in _SCHEMES else target
    return all(_is_loopback(_host(address)) for address in addresses.split(","))


def options(target: str) -> tuple[tuple[str, int], ...]:
    """Channel options for a target: for this machine, the environment's proxy is switched off."""
    return (("grpc.enable_http_proxy", 0),) if is_local(target) else ()


def proxy_hint(target: str) -> str:
    """A hint about the environment's proxy, for the end of an error message; empty if no proxy applies."""
    named = [name for name in _PROXY_VARIABLES if os.environ.get(name)]
    if not named or is_local(target):
        return ""
    return f" {named[0]} is set: calls go through that proxy unless no_proxy names the host."


def _host(address: str) -> str:
    if address.startswith("["):
        return address[1:].partition("]")[0]
    # More than one colon is an IPv6 address without a port.
    return address.partition(":")[0] if address.count(":") <= 1 else address


def _is_loopback(host: str) -> bool:
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # The unspecified address counts too: a server that listens on all addresses prints 0.0.0.0, and people copy it.
    return address.is_loopback or address.is_unspecified
