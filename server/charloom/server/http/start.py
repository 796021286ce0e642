"""The start of a text as a token of its own, for clients that need a token before the first one they ask about.

A model has no such token, because every text starts from the zero state. Its id is the one after the vocabulary's last;
it is allowed only as the first token, is not read, and has no log-probability.
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
    """Strip the start from a prompt of token ids; returns the prompt, and whether it had the start."""
    if not isinstance(prompt, str) and len(prompt) and prompt[0] == start_id(vocabulary):
        return prompt[1:], True
    return prompt, False
