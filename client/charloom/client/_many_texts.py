"""Many texts in one call: how many go into a message, and whether all of a message were answered.

Knows neither what the results are nor how messages are sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import grpc

from charloom.client import _values
from charloom.client._errors import InternalError, InvalidValue

MESSAGE_TEXTS, MESSAGE_CHARACTERS = 64, 16_384
"""Most texts of a message, and most characters of a message with several texts."""
MESSAGES_AHEAD = 6
"""Most unanswered messages: more than the server reads at a time, so that it never waits."""


def messages(texts: Iterable[str]) -> Iterator[list[str]]:
    """Group texts into messages, and yield each as soon as it is full.

    Raises:
        InvalidValue: one of them is no string, or one that a message cannot carry; or `texts` is a single string.

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
    """The error for a server that answers for fewer or more texts than it was asked about, without an error."""
    return InternalError(f"the server told of {answered} of {asked} texts", code=grpc.StatusCode.INTERNAL)
