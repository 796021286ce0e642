"""The start of a text as a token of its own, for clients that need a token before the first one they ask about.

A model has no such token: every text starts from the zero state. So it has the id after the last one of the vocabulary,
is allowed nowhere but first, is read as nothing, and has no log-probability.
"""

from __future__ import annotations

from charloom.bundle import Vocabulary
from charloom.engine.calls.requests import Text

START = "<|start|>"
"""The token as text."""


def start_id(vocabulary: Vocabulary) -> int:
    """The token's id."""
    return vocabulary.size


def without_start(prompt: Text, vocabulary: Vocabulary) -> tuple[Text, bool]:
    """A prompt without the start, where it is of token ids and has it; and whether it had it."""
    if not isinstance(prompt, str) and len(prompt) and prompt[0] == start_id(vocabulary):
        return prompt[1:], True
    return prompt, False
