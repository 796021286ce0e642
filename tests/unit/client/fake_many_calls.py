"""GenerateMany of the fake server: each call is answered by what answers Generate.

Knows: charloom.v1 and grpc. Does not know: the SDK under test, nor the fake server's answers.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc
from google.rpc import status_pb2

from charloom.v1 import generation_pb2

Answer = Callable[[generation_pb2.GenerateRequest, Any], Iterator[generation_pb2.GenerateResponse]]


def many_calls(
    answer: Answer,
) -> Callable[
    [Iterator[generation_pb2.GenerateManyRequest], grpc.ServicerContext],
    Iterator[generation_pb2.GenerateManyResponse],
]:
    """An answer of GenerateMany, made of one of Generate."""
    return lambda requests, context: iter(_Stream(answer, requests, context)._outbox.get, None)


class Aborted(Exception):
    """What an answer raises when it aborts its call."""


class CallContext:
    """What an answer of Generate is given in place of gRPC's context: those parts of it that the fakes use."""

    def __init__(
        self,
        call: generation_pb2.GenerateCall,
        stream: grpc.ServicerContext,
        on_end: Callable[[generation_pb2.GenerateEnd], None],
    ) -> None:
        own = {"charloom-request-id": call.request_id, **call.trace}
        self._metadata = tuple({**dict(stream.invocation_metadata()), **own}.items())
        self._number = call.number
        self._on_end = on_end
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._over = False
        self._deadline: float | None = None
        if call.HasField("timeout"):
            self._deadline = time.monotonic() + call.timeout.ToNanoseconds() / 1e9

    def watch_deadline(self) -> None:
        """End the call at its deadline, if it has one."""
        if (left := self.time_remaining()) is not None:
            timer = threading.Timer(left, self.end, (grpc.StatusCode.DEADLINE_EXCEEDED,))
            timer.daemon = True
            self._callbacks.append(timer.cancel)
            timer.start()

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else self._deadline - time.monotonic()

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._metadata

    def is_active(self) -> bool:
        return not self._over

    def add_callback(self, callback: Callable[[], None]) -> bool:
        with self._lock:
            if not self._over:
                self._callbacks.append(callback)
            return not self._over

    def abort_with_status(self, status: Any) -> NoReturn:
        (told,) = (value for key, value in status.trailing_metadata if key == "grpc-status-details-bin")
        raise Aborted(status_pb2.Status.FromString(told))

    def abort(self, code: grpc.StatusCode, text: str) -> NoReturn:
        raise Aborted(status_pb2.Status(code=code.value[0], message=text))

    def end(self, code: grpc.StatusCode, text: str = "", details: Any = ()) -> None:
        """Nothing more comes of the call; it ends once."""
        with self._lock:
            if self._over:
                return
            self._over = True
        for callback in self._callbacks:
            callback()
        self._on_end(generation_pb2.GenerateEnd(number=self._number, code=code.value[0], message=text, details=details))


class _Stream:
    """One stream, whose calls run in threads."""

    def __init__(
        self, answer: Answer, requests: Iterator[generation_pb2.GenerateManyRequest], context: grpc.ServicerContext
    ) -> None:
        self._answer = answer
        self._requests = requests
        self._context = context
        self._outbox: queue.SimpleQueue[generation_pb2.GenerateManyResponse | None] = queue.SimpleQueue()
        self._running: dict[int, CallContext] = {}
        self._lock = threading.Lock()
        self._closed = False
        context.add_callback(self._break_off)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for request in self._requests:
                for number in request.cancel:
                    if (found := self._running.get(number)) is not None:
                        found.end(grpc.StatusCode.CANCELLED)
                for call in request.calls:
                    context = CallContext(call, self._context, self._end)
                    self._running[call.number] = context
                    context.watch_deadline()
                    threading.Thread(target=self._run, args=(call, context), daemon=True).start()
        except grpc.RpcError:
            return  # the stream broke off
        with self._lock:
            self._closed = True
            self._close_after_last()

    def _run(self, call: generation_pb2.GenerateCall, context: CallContext) -> None:
        try:
            for response in self._answer(call.request, context):
                if not context.is_active():
                    return
                piece = generation_pb2.GeneratePiece(number=call.number, response=response)
                self._outbox.put(generation_pb2.GenerateManyResponse(pieces=[piece]))
        except Aborted as aborted:
            (status,) = aborted.args
            code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
            context.end(code, status.message, status.details)
        except Exception as problem:
            context.end(grpc.StatusCode.UNKNOWN, f"Exception calling application: {problem}")
        else:
            context.end(grpc.StatusCode.OK)

    def _end(self, end: generation_pb2.GenerateEnd) -> None:
        with self._lock:
            self._running.pop(end.number)
            self._outbox.put(generation_pb2.GenerateManyResponse(ends=[end]))
            self._close_after_last()

    def _close_after_last(self) -> None:
        if self._closed and not self._running:
            self._outbox.put(None)

    def _break_off(self) -> None:
        for context in list(self._running.values()):
            context.end(grpc.StatusCode.CANCELLED)
        self._outbox.put(None)
