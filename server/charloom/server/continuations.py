"""The continuations that a call on any transport asks for, and the room that their texts take."""

from __future__ import annotations

from collections.abc import Sequence

from charloom.bundle import Vocabulary
from charloom.engine.call_end import at_end_of_call
from charloom.engine.calls.generation import Continuation
from charloom.engine.calls.requests import GenerationRequest
from charloom.engine.engine import Engine


async def begin_continuations(engine: Engine, request: GenerationRequest) -> Sequence[Continuation]:
    """Begin the continuations that a request asks for. They end with the call at the latest."""
    if request.n == 1:
        generations: Sequence[Continuation] = [await engine.generating.generate(request)]
    else:
        generations = await engine.generating.continuations(request)
    for generation in generations:
        at_end_of_call(generation.cancel)
    return generations


def largest_symbol(vocabulary: Vocabulary) -> int:
    """The most bytes that one token adds to a text; a byte that is no UTF-8 becomes U+FFFD, of three bytes."""
    return max(3, int(vocabulary.symbol_sizes[0]))
