"""JSON as a sequence of parts, so that large values are joined at most once: each copy takes memory and time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Json = Sequence[bytes]
"""The encoding of a value."""
NULL: Json = (b"null",)


def array(items: Iterable[Json]) -> Json:
    """A list of items, each of which may also be several, with commas between them."""
    return _within(b"[", items, b"]")


def members(parts: Iterable[Json]) -> Json:
    """An object of members, each part of which may also be several, with commas between them."""
    return _within(b"{", parts, b"}")


def member(name: str, value: Json) -> Json:
    """A member of an object."""
    return [f'"{name}":'.encode(), *value]


def _within(begin: bytes, items: Iterable[Json], end: bytes) -> Json:
    found = [begin]
    for item in items:
        if len(found) > 1:
            found.append(b",")
        found += item
    return [*found, end]
