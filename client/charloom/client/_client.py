"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from charloom.client import _requests, _responses, _values
from charloom.client._connection import ChannelOptions, Connection
from charloom.client._continuations import Continuations
from charloom.client._errors import CharloomError
from charloom.client._options import NOT_GIVEN, GenerateOptions, Timeout
from charloom.client._readiness import NOT_READY, POLL, Patience
from charloom.client._session import Session
from charloom.client._stream import TextStream
from charloom.client._types import Completion, HealthStatus, ModelInfo, SessionInfo
from charloom.v1 import models_pb2, sessions_pb2

if TYPE_CHECKING:
    from types import TracebackType

    import grpc
    from typing_extensions import Self, Unpack

DEFAULT_TARGET = "localhost:50051"
DEFAULT_TIMEOUT = 60.0
PAGE_SIZE = 500


class Client:
    """Talks to one server, or to several identical ones behind one name. May be shared by threads.

    Args:
        target: host and port.
        timeout: seconds that each call may take unless it is given its own; `None` is no deadline.
        credentials: of TLS; without any, the connection is not encrypted.
        channel_options: further options of the gRPC channel.

    Every call may raise `ConnectionFailed` and the kinds of `RequestError`; options that no message can carry raise
    `InvalidValue` before anything is sent.

    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float | None = DEFAULT_TIMEOUT,
        credentials: grpc.ChannelCredentials | None = None,
        channel_options: ChannelOptions = (),
    ) -> None:
        self._connection = Connection(target, timeout, credentials, channel_options)

    def generate(
        self, prompt: str = "", *, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> TextStream:
        """Feed a prompt to a fresh state and stream the text that follows. Errors appear when the stream is read."""
        return self._connection.stream(_requests.generate_request(prompt, options), timeout)

    def complete(
        self, prompt: str = "", *, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> Completion:
        """Feed a prompt to a fresh state and return the text that follows as a whole."""
        request = _requests.complete_request(prompt, options)
        return _responses.completion(self._connection.call(self._connection.generation.Complete, request, timeout))

    def continuations(
        self, prompt: str = "", *, n: int, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> Continuations:
        """Feed a prompt to a fresh state and stream `n` texts that follow, from 1 to 64; errors appear on reading.

        Number i has the seed of the call plus i. `generate` with one of these seeds gives that text again.
        """
        return self._connection.continuations(_requests.continuations_request(prompt, n, options), timeout)

    def session(
        self,
        *,
        model: str | None = None,
        id: str | None = None,
        seed: int | None = None,
        time_to_live: float | None = None,
        keep: bool = False,
        timeout: Timeout = NOT_GIVEN,
    ) -> Session:
        """Make a session with zero state.

        Args:
            model: name of the model; default is the server's first one.
            id: up to 64 letters, digits, '.', '_', '-'; default is the server's choice.
            seed: of its random numbers; default is the server's draw.
            time_to_live: seconds that it is kept without use; default is the server's.
            keep: leave it on the server when the `with` block ends.
            timeout: of this call alone, in seconds.

        """
        request = _requests.create_session_request(model, id, seed, time_to_live)
        answer = self._connection.call(self._connection.sessions.CreateSession, request, timeout)
        return Session(self._connection, _responses.session_info(answer.session), keep=keep)

    def open_session(self, id: str, *, timeout: Timeout = NOT_GIVEN) -> Session:
        """Go on with a session that exists. It is kept when the `with` block ends."""
        return Session(self._connection, self.get_session(id, timeout=timeout), keep=True)

    def get_session(self, id: str, *, timeout: Timeout = NOT_GIVEN) -> SessionInfo:
        """Describe a session. Does not renew its expiry."""
        request = sessions_pb2.GetSessionRequest(session_id=_values.text("id", id))
        answer = self._connection.call(self._connection.sessions.GetSession, request, timeout)
        return _responses.session_info(answer.session)

    def sessions(self, *, timeout: Timeout = NOT_GIVEN) -> Iterator[SessionInfo]:
        """All sessions in the order of their ids, fetched page by page; the timeout is that of one page."""
        request = sessions_pb2.ListSessionsRequest(page_size=PAGE_SIZE)
        while True:
            page = self._connection.call(self._connection.sessions.ListSessions, request, timeout)
            yield from map(_responses.session_info, page.sessions)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def delete_session(self, id: str, *, timeout: Timeout = NOT_GIVEN) -> SessionInfo:
        """Forget a session and its state; returns it as it was."""
        request = sessions_pb2.DeleteSessionRequest(session_id=_values.text("id", id))
        answer = self._connection.call(self._connection.sessions.DeleteSession, request, timeout)
        return _responses.session_info(answer.session)

    def models(self, *, timeout: Timeout = NOT_GIVEN) -> list[ModelInfo]:
        """All models that the server has loaded, the default one first."""
        request = models_pb2.ListModelsRequest()
        answer = self._connection.call(self._connection.models.ListModels, request, timeout)
        return [_responses.model_info(model) for model in answer.models]

    def model(self, name: str = "", *, timeout: Timeout = NOT_GIVEN) -> ModelInfo:
        """Describe one model; without a name the default one."""
        request = models_pb2.GetModelRequest(name=_values.text("name", name))
        answer = self._connection.call(self._connection.models.GetModel, request, timeout)
        return _responses.model_info(answer.model)

    def health(self, *, timeout: Timeout = NOT_GIVEN) -> HealthStatus:
        """What the server says about itself."""
        return self._connection.health(timeout)

    def is_serving(self, *, timeout: Timeout = NOT_GIVEN) -> bool:
        """Whether a server answers in time and takes calls."""
        try:
            return self.health(timeout=timeout) is HealthStatus.SERVING
        except NOT_READY:
            return False

    def wait_until_ready(self, timeout: float | None = 30.0) -> None:
        """Return as soon as the server takes calls.

        Raises:
            ConnectionFailed: if it does not within `timeout` seconds.

        """
        patience = Patience(self._connection.target, self._connection.seconds(timeout))
        while True:
            answer: HealthStatus | CharloomError
            try:
                answer = self._connection.health(patience.left(), wait_for_ready=True)
            except NOT_READY as problem:
                answer = problem
            if patience.is_over(answer):
                return
            time.sleep(POLL)

    def close(self) -> None:
        """Close the connection; calls that are running are cancelled."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
