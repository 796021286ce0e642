"""The origin of a call: which addresses count as one caller, and which proxies are trusted.

Decision 0020 says why.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable, Sequence

from charloom.server.unix_socket import SCHEME

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNIX = SCHEME.rstrip(":")
"""Name of all callers on a Unix socket, in the setting and as an origin: they cannot be told apart."""
_REMEMBERED, _LONGEST_REMEMBERED = 4096, 256
"""Origins that are cached, and the most characters of an origin's hops: callers choose them."""
SITE_BITS = 64
"""Prefix of an IPv6 address that counts as one caller: a subscriber gets at least this network."""


class Origins:
    """Names the origin of each call.

    Args:
        trusted: proxies whose forwarded addresses are trusted: addresses, networks, or `unix`, separated by commas

    Raises:
        ValueError: one of them is none of these.
    """

    def __init__(self, trusted: str = "") -> None:
        names = [name for name in map(str.strip, trusted.split(",")) if name]
        self._unix = UNIX in names
        self._networks: Sequence[Network] = [ipaddress.ip_network(name) for name in names if name != UNIX]
        self._remembered = functools.lru_cache(_REMEMBERED)(self._of)
        self.trusts = functools.lru_cache(_REMEMBERED)(self._trusts)
        """Whether the other end of a connection, by its address, is a trusted proxy; empty: a Unix socket."""

    def of(self, host: str, port: int, forwarded: str = "") -> str:
        """The origin of a call: equal for all calls of one caller.

        Args:
            host: the address that the connection comes from; empty: a Unix socket
            port: of that address
            forwarded: what proxies say of the addresses that they were called from, the nearest last, with commas
        """
        find = self._remembered if len(forwarded) <= _LONGEST_REMEMBERED else self._of
        return find(host, port, forwarded)

    def _trusts(self, host: str) -> bool:
        return self._believes(address_of(host))

    def _of(self, host: str, port: int, forwarded: str) -> str:
        peer = address_of(host)
        if self._believes(peer):
            # From the nearest hop on: the address that a hop reports counts as long as the hop is a trusted proxy.
            hop: Address | None = None
            for text in reversed([part for part in forwarded.split(",") if part.strip()]):
                hop = address_of(text)
                if hop is None or not self._believes(hop):
                    break
            if hop is not None:
                return _site(hop)
        if peer is None:
            return UNIX
        # Programs of this machine are callers of their own, each of its connections: their address is the same.
        return f"{peer}:{port}" if peer.is_loopback else _site(peer)

    def _believes(self, address: Address | None) -> bool:
        if address is None:
            return self._unix
        return any(address in network for network in self._networks)


def is_local(host: str) -> bool:
    """Whether only this machine reaches a server that listens on an address: loopback, or a Unix socket."""
    if host.startswith(SCHEME) or host == "localhost":
        return True
    address = address_of(host)
    return address is not None and address.is_loopback


def address_of(text: str) -> Address | None:
    """The address in what a proxy or a transport wrote, which may have a port; None where there is none."""
    text = text.strip().strip('"')
    for candidate in _spellings(text):
        try:
            found = ipaddress.ip_address(candidate)
        except ValueError:
            continue
        mapped = getattr(found, "ipv4_mapped", None)
        return mapped if mapped is not None else found
    return None


def _spellings(text: str) -> Iterable[str]:
    yield text
    yield text.removeprefix("[").partition("]")[0]
    yield text.partition(":")[0]


def _site(address: Address) -> str:
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, SITE_BITS), strict=False))
