"""Calls a loom's decoder, and detects calls that are stuck."""

from __future__ import annotations

import threading
import time

from charloom.engine.decoding.decoder import Inputs, Outputs, Steps

LONGEST_CALL = 60.0
"""Seconds after which a decoder call counts as stuck. A call normally takes hundredths of a second; on a busy machine
it can take tens of seconds."""


class DecoderCalls:
    """Calls a decoder, one call at a time from each thread.

    Args:
        decoder: the decoder to call
    """

    def __init__(self, decoder: Steps) -> None:
        self._decoder = decoder
        self._began: dict[int, float] = {}
        """By thread, when its current call began. Each thread writes only its own entry, without a lock."""

    def run(self, inputs: Inputs) -> Outputs:
        """Call the decoder.

        Raises:
            ValueError: the outputs have the wrong shape.
            Exception: any error of the decoder.
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
        """Whether any call has been running for longer than `LONGEST_CALL`."""
        return any(time.monotonic() - began > LONGEST_CALL for began in list(self._began.values()))
