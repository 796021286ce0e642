"""How much a message can hold, which limits the answer of a call that is not a stream."""

from __future__ import annotations

from charloom.bundle import Bundle, Vocabulary
from charloom.engine.calls.requests import MostTokens
from charloom.engine.engine import Engine
from charloom.server.continuations import largest_symbol
from charloom.server.grpc.translation.text import largest_logprob
from charloom.v1 import generation_pb2

SPARE, SPARE_OF_EACH = 2**21, 2**16
"""Bytes of an answer besides its tokens, such as a sealed state of 1 MiB; and of each of its continuations."""

LABELLED, LABEL = 512, 24
"""Bytes of a labelled text besides its labels and its unknown parts, and of a label besides its name."""


def largest_request(engine: Engine) -> int:
    """The most bytes of a request: its text at up to 4 per character, a sealed state, and all other fields."""
    return 4 * engine.limits.max_prompt_characters + 2 * engine.largest_state + SPARE


class MessageSize:
    """How much fits into a message.

    Args:
        limit: bytes of the largest message
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def logprobs(self, top: int) -> MostTokens:
        """How many tokens fit with their log-probabilities and `top` alternatives each."""

        def most(vocabulary: Vocabulary) -> int:
            return (self._limit - SPARE) // largest_logprob(vocabulary, min(top, vocabulary.size), constrained=False)

        return most

    def labelled(self, model: Bundle) -> int:
        """How many texts fit with the probabilities of a classifier's labels."""
        labelling = model.manifest.labelling
        assert labelling is not None
        each = LABELLED + sum(LABEL + len(label.encode()) for label in labelling.labels)
        # Unknown parts are repeated from the request, which is at most about `largest_request` bytes.
        return (self._limit - 2 * SPARE) // each

    def continuations(self, options: generation_pb2.GenerationOptions, top: int | None) -> MostTokens:
        """How many tokens of text of each continuation fit.

        Args:
            options: options of the request; the answer repeats some of them
            top: alternatives of each token, 0 for all; None: no log-probabilities at all
        """
        count = max(1, options.n)
        room = (self._limit - SPARE) // count - SPARE_OF_EACH - options.ByteSize()

        def most(vocabulary: Vocabulary) -> int:
            each = largest_symbol(vocabulary)
            if top is not None:
                told = min(top or vocabulary.size, vocabulary.size)
                each += largest_logprob(vocabulary, told, constrained=options.HasField("constraint"))
            return max(0, room) // each

        return most
