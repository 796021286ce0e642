"""Text that is looked at by one thread while another one reads it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from charloom.client import _transcript
from charloom.client._transcript import Transcript, Transcripts
from charloom.v1 import generation_pb2

PIECE = generation_pb2.GenerateResponse(text="x", position=1)


def at_each_step(look: Callable[[], object], add: Callable[[], object]) -> int:
    """Look at a transcript, and add to it at every step of that, as another thread may; returns how often it did."""
    added = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal added
        if frame.f_code.co_filename != _transcript.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            add()
            added += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        look()
    finally:
        sys.settrace(before)
    assert added
    return added


def test_whoever_asks_for_the_text_loses_none_of_it() -> None:
    transcript = Transcript(lambda _: None)
    added = 0
    for _ in range(3):
        added += at_each_step(lambda: transcript.text, lambda: transcript.add(PIECE))
    assert transcript.text == "x" * added


def test_nor_does_whoever_asks_for_several() -> None:
    transcripts = Transcripts(2, lambda _: None)
    added = 0
    for _ in range(3):
        added += at_each_step(lambda: (transcripts.texts, transcripts.ended), lambda: transcripts.add(PIECE))
    assert transcripts.texts == ["x" * added, ""]
