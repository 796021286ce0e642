"""Decides what to do when a stream breaks off, from what has arrived and from the failure. Makes no calls."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from charloom.client._connection import CallContext
from charloom.client._errors import CharloomError, ConnectionFailed, Overloaded, RequestError
from charloom.client._statuses import cancelled, from_rpc_error
from charloom.v1 import generation_pb2

PATIENCE = 60.0
"""Seconds for which a stream without a deadline is retried after a break."""

SHORTEST, LONGEST = 0.05, 1.0
"""Seconds before the first retry, and the most between later ones; a random part of up to half is subtracted."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Clock, jitter and patience of retries, replaceable in tests."""

    clock: Callable[[], float] = time.monotonic
    """Seconds since some moment."""

    jitter: Callable[[float, float], float] = random.uniform
    """A random number between two."""

    patience: float = PATIENCE
    """Seconds for which a stream without a deadline is retried after a break."""


_PACE = Pace()

# Reasons by which a server says that it did not start the call.
_TAKEN_BACK = {"DRAINING", "STORE_UNAVAILABLE"}
# gRPC's words where there never was a connection. If nobody listens, an error is more useful than retries.
_NEVER_CONNECTED = ("failed to connect to all addresses", "DNS resolution failed", "Name resolution failure")


class Resumption:
    """One stream and its breaks. Each method takes in an event; what to do next is in `pause` and `over`.

    Args:
        request: the first request, with a `call_id`.
        seconds: seconds until the deadline of the stream as a whole; `None` is no deadline.
        context: context of the call, for error messages.
        enabled: whether to resume at all.
        pace: clock, jitter and patience.

    """

    def __init__(
        self,
        request: generation_pb2.GenerateRequest,
        seconds: float | None,
        context: CallContext,
        *,
        enabled: bool,
        pace: Pace = _PACE,
    ) -> None:
        self._request = request
        self._context = context
        self._enabled = enabled
        self._pace = pace
        self._end = None if seconds is None else pace.clock() + seconds
        self.pause: float | None = None
        """Seconds after which to make the call again; `None` while there is a call to read from."""
        self.over = False
        """Whether nothing more will come."""
        self.count = 0
        """How often the stream was resumed after a break."""
        self._position: int | None = None
        self._model_digest = ""
        self._made_again = False
        # The first failure since text arrived last, and the time at which retries end.
        self._first: CharloomError | None = None
        self._give_up = 0.0
        self._backoff = SHORTEST
        # The result from a server that is stopping, held back while another server is asked to continue.
        self._draining: generation_pb2.GenerateResponse | None = None
        self._asked_another = False
        self._drained_at: int | None = None

    def request(self) -> generation_pb2.GenerateRequest:
        """The next request: for the whole text the first time, later for the part that has not arrived yet."""
        again = generation_pb2.GenerateRequest()
        again.CopyFrom(self._request)
        if self._position is not None:
            again.resume_position = self._position
            again.model_digest = self._model_digest
        self._made_again = self.pause is not None
        self.pause = None
        return again

    def seconds_left(self) -> float | None:
        """Seconds until the deadline; `None` is no deadline."""
        return None if self._end is None else max(0.0, self._end - self._pace.clock())

    def arrived(self, message: generation_pb2.GenerateResponse) -> generation_pb2.GenerateResponse:
        """Take in a message; returns it for the reader, without a result that is held back."""
        if self._made_again:
            self._made_again = False
            self.count += 1
        if self._position is None or message.position > self._position:
            self._first, self._backoff = None, SHORTEST
        self._position = message.position
        self._model_digest = message.model_digest or self._model_digest
        self._draining, self._asked_another = None, False
        if not self._is_worth_asking_another(message):
            return message
        self._drained_at = self._position = message.result.position
        self._draining = generation_pb2.GenerateResponse(position=message.position, result=message.result)
        piece = generation_pb2.GenerateResponse()
        piece.CopyFrom(message)
        piece.ClearField("result")
        return piece

    def ended(self) -> generation_pb2.GenerateResponse | None:
        """Take in that the server has closed the stream; returns a last message for the reader, if there is one."""
        if self._draining is not None:
            return self._ask_another_once(self._draining)
        self.over = True
        return None

    def broke(self, error: grpc.RpcError, *, stopped: bool) -> generation_pb2.GenerateResponse | None:
        """Take in an error; `stopped` is whether the caller cancelled the call or closed the client.

        Returns a last message for the reader, if there is one.

        Raises:
            CharloomError: the stream cannot be resumed.

        """
        if self._draining is not None and not stopped:
            return self._ask_another_once(self._draining)
        failure = from_rpc_error(error, self._context.target, stopped=stopped, request_id=self._context.request_id)
        failure.__cause__ = error
        if not (self._enabled and self._is_break(failure)):
            # Raise this failure and not the first one: only it says what is wrong now, such as a session that is gone.
            failure.__cause__ = self._first or error
            raise failure
        if stopped:
            raise cancelled(self._context.request_id)
        now = self._pace.clock()
        pause = self._backoff * self._pace.jitter(0.5, 1.0)
        self._backoff = min(2 * self._backoff, LONGEST)
        if self._first is None:
            self._first = failure
            self._give_up = now + self._pace.patience if self._end is None else self._end
        told = self._first
        if isinstance(failure, Overloaded):
            # Longer than the server asks for, because many streams broke at the same time and come back now.
            pause += failure.retry_after or 0.0
            failure.__cause__, told = self._first, failure
        if now + pause >= self._give_up:
            raise told
        self.pause = pause
        return None

    def _is_break(self, failure: CharloomError) -> bool:
        """Whether the failure is a break, after which the same call may continue if it is made again."""
        begun = self._position is not None or self._first is not None
        if isinstance(failure, ConnectionFailed):
            return begun or not _never_connected(failure)
        if isinstance(failure, RequestError) and failure.code is grpc.StatusCode.UNAVAILABLE:
            return begun or failure.reason in _TAKEN_BACK
        if isinstance(failure, Overloaded):
            # A server that is asked to resume may be full for a moment. For a running or a new call it is the answer.
            return self._first is not None and failure.retry_after is not None
        return False

    def _is_worth_asking_another(self, message: generation_pb2.GenerateResponse) -> bool:
        """Whether a stopping server cut a session's text short, so that another server may go on with it.

        Not if it stopped at the same position as the server before: then asking again brings nothing.
        """
        return (
            self._enabled
            and self._request.options.session_id != ""
            and message.result.finish_reason == generation_pb2.FINISH_REASON_DRAINING
            and message.result.position != self._drained_at
        )

    def _ask_another_once(self, result: generation_pb2.GenerateResponse) -> generation_pb2.GenerateResponse | None:
        if self._asked_another:
            self.over = True
            return result
        self._asked_another = True
        self.pause = 0.0
        return None


def _never_connected(failure: ConnectionFailed) -> bool:
    return any(sign in str(failure) for sign in _NEVER_CONNECTED)
