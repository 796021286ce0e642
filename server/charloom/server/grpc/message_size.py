"""How much a message can carry, and so how large an answer a call may ask for that is not a stream."""

from __future__ import annotations

from charloom.bundle import Bundle, Vocabulary
from charloom.engine.calls.requests import MostTokens
from charloom.engine.engine import Engine
from charloom.server.continuations import largest_symbol
from charloom.server.grpc.translation.text import largest_logprob
from charloom.v1 import generation_pb2

SPARE, SPARE_OF_EACH = 2**21, 2**16
"""Bytes for what an answer holds besides its tokens, such as a sealed state of 1 MiB; and each of its continuations."""

LABELLED, LABEL = 512, 24
"""What a labelled text holds besides its labels and its unknown parts, and a label besides its name."""


def largest_request(engine: Engine) -> int:
    """The most bytes of a request: its text, up to 4 a character, a sealed state, and what else there is."""
    return 4 * engine.limits.max_prompt_characters + 2 * engine.largest_state + SPARE


class MessageSize:
    """What fits a message.

    Args:
        limit: bytes of the largest message
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def logprobs(self, top: int) -> MostTokens:
        """How many tokens fit with their log-probabilities and so many alternatives each."""

        def most(vocabulary: Vocabulary) -> int:
            return (self._limit - SPARE) // largest_logprob(vocabulary, min(top, vocabulary.size), constrained=False)

        return most

    def labelled(self, model: Bundle) -> int:
        """How many texts fit with the probabilities of a classifier's labels."""
        labelling = model.manifest.labelling
        assert labelling is not None
        each = LABELLED + sum(LABEL + len(label.encode()) for label in labelling.labels)
        # Unknown parts are told as they stand in the request, of which `largest_request` is about as much.
        return (self._limit - 2 * SPARE) // each

    def continuations(self, options: generation_pb2.GenerationOptions, top: int | None) -> MostTokens:
        """How many tokens fit as the text of each continuation that is asked for.

        Args:
            options: what is asked for; the answer repeats some of it
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
