"""Records of what has arrived: of one continuation, and of several from one state. Knows no call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Protocol, TypeVar

import grpc

from charloom.client import _responses
from charloom.client._errors import InternalError
from charloom.client._generation_types import Completion, Result
from charloom.client._text_types import TokenLogprob
from charloom.v1 import generation_pb2

OnResult = Callable[[Result], None]

Piece_co = TypeVar("Piece_co", covariant=True)
Outcome_co = TypeVar("Outcome_co", covariant=True)


class Record(Protocol[Piece_co, Outcome_co]):
    """Turns messages into the pieces that a reader sees, and into an outcome at the end."""

    @property
    def ended(self) -> bool:
        """Whether all that was asked for has arrived."""

    def add(self, message: generation_pb2.GenerateResponse) -> Piece_co | None:
        """Take in one message; returns the piece in it, if there is one."""

    def outcome(self) -> Outcome_co:
        """The outcome, once the server has closed the stream; `InternalError` if something is missing."""


class Transcript:
    """The record of one continuation; its pieces are text."""

    def __init__(self, on_result: OnResult) -> None:
        self._on_result = on_result
        self._pieces: list[str] = []
        # Number of pieces, and these pieces as one text. Replaced as a whole, because any thread may read the text.
        self._joined = (0, "")
        self._logprobs: list[TokenLogprob] = []
        self._result: Result | None = None
        self.position = 0

    @property
    def text(self) -> str:
        count, text = self._joined
        if more := self._pieces[count:]:
            text += "".join(more)
            self._joined = (count + len(more), text)
        return text

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        return tuple(self._logprobs)

    @property
    def ended(self) -> bool:
        return self._result is not None

    def add(self, message: generation_pb2.GenerateResponse) -> str | None:
        """Take in one message; returns its text, if it has any."""
        self.position = message.position
        self._logprobs += map(_responses.token_logprob, message.logprobs)
        if message.text:
            self._pieces.append(message.text)
        if message.HasField("result"):
            self._result = _responses.result(message.result)
            self._on_result(self._result)
        return message.text or None

    def outcome(self) -> Result:
        """The result, once the server has closed the stream."""
        if self._result is None:
            raise _incomplete("without a result")
        return self._result


class Transcripts:
    """The record of `n` continuations from one state; its pieces are pairs of an index and text."""

    def __init__(self, n: int, on_result: OnResult) -> None:
        self._n = n
        # Made as they begin, because `n` can be huge before the server refuses it.
        self._transcripts: dict[int, Transcript] = defaultdict(lambda: Transcript(on_result))

    @property
    def texts(self) -> list[str]:
        # `get` makes no transcript: only `add` may, which may be running in another thread.
        return [one.text if (one := self._transcripts.get(index)) else "" for index in range(self._n)]

    @property
    def ended(self) -> bool:
        return self._results == self._n

    @property
    def _results(self) -> int:
        return sum(transcript.ended for transcript in list(self._transcripts.values()))

    def add(self, message: generation_pb2.GenerateResponse) -> tuple[int, str] | None:
        """Take in one message; returns the index of its continuation and its text, if it has any."""
        index = message.index
        if index >= self._n:
            raise InternalError(
                f"the server sent a continuation of index {index} where {self._n} were asked for",
                code=grpc.StatusCode.INTERNAL,
            )
        text = self._transcripts[index].add(message)
        return None if text is None else (index, text)

    def outcome(self) -> list[Completion]:
        """The continuations in the order of their indices, once the server has closed the stream."""
        if not self.ended:
            raise _incomplete(f"after {self._results} of {self._n} results; it may be older than this client")
        found = [self._transcripts[index] for index in range(self._n)]
        return [Completion(text=one.text, result=one.outcome(), logprobs=one.logprobs) for one in found]


def _incomplete(how: str) -> InternalError:
    return InternalError(f"the server closed the stream {how}", code=grpc.StatusCode.INTERNAL)
