"""Many texts in one call: how many go into a message, and whether all of a message were answered.

Knows neither what is told of them nor how messages are sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import grpc

from charloom.client import _values
from charloom.client._errors import InternalError, InvalidValue

MESSAGE_TEXTS, MESSAGE_CHARACTERS = 64, 16_384
"""Texts of a message, and their characters where it has more than one."""
MESSAGES_AHEAD = 6
"""Messages that wait for their answer: more than the server reads at a time, so that it never waits."""


def messages(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts of each message, as soon as it is full; together they are all of the texts.

    Raises:
        InvalidValue: one of them is no text, or one that a message cannot carry; or they are one text.

    """
    if isinstance(texts, str):  # its characters would pass for texts
        raise InvalidValue("texts", "it is one text; give a list of texts")
    some: list[str] = []
    length = 0
    for number, text in enumerate(texts):
        checked = _values.text(f"texts[{number}]", text)
        if some and (len(some) == MESSAGE_TEXTS or length + len(checked) > MESSAGE_CHARACTERS):
            yield some
            some, length = [], 0
        some.append(checked)
        length += len(checked)
    if some:
        yield some


def miscounted(answered: int, asked: int) -> InternalError:
    """What a server did wrong that told of fewer or more texts than it was asked about, without an error."""
    return InternalError(f"the server told of {answered} of {asked} texts", code=grpc.StatusCode.INTERNAL)
