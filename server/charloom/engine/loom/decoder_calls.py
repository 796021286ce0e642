"""The calls of a loom's decoder that are in progress, and whether one of them has got stuck."""

from __future__ import annotations

import threading
import time

from charloom.engine.decoding.decoder import Inputs, Outputs, Steps

LONGEST_CALL = 60.0
"""Seconds after which a decoder call has got stuck: it is meant to take hundredths, and a busy machine makes tens."""


class DecoderCalls:
    """Calls a decoder, one call at a time from each thread.

    Args:
        decoder: who computes
    """

    def __init__(self, decoder: Steps) -> None:
        self._decoder = decoder
        self._began: dict[int, float] = {}
        """When the call of each thread began. Each writes its own, without a lock."""

    def run(self, inputs: Inputs) -> Outputs:
        """What the decoder computes.

        Raises:
            ValueError: it computed something else than it was asked for.
            whatever the decoder raises.
        """
        own = threading.get_ident()
        self._began[own] = time.monotonic()
        try:
            outputs = self._decoder.run(inputs)
        finally:
            del self._began[own]
        if outputs.tokens.shape != inputs.forced.shape:
            raise ValueError(f"the decoder returned tokens of shape {outputs.tokens.shape}")
        return outputs

    @property
    def stuck(self) -> bool:
        """Whether one takes longer than any is meant to."""
        return any(time.monotonic() - began > LONGEST_CALL for began in list(self._began.values()))
