"""The blocking client."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from charloom.client import _conversation_requests, _reading_requests, _requests, _responses, _session_requests, _values
from charloom.client._connection import ChannelOptions, Connection
from charloom.client._continuations import Continuations
from charloom.client._conversation import Conversation
from charloom.client._errors import CharloomError
from charloom.client._inspection_types import Inspection
from charloom.client._observation import Observer
from charloom.client._options import NOT_GIVEN, GenerateOptions, Timeout, UnknownCharacters
from charloom.client._readiness import NOT_READY, POLL, Patience
from charloom.client._session_requests import SessionOrId
from charloom.client._session_types import DeletionReceipt, SessionInfo
from charloom.client._stream import TextStream
from charloom.client._sync.session import CLEANUP_TIMEOUT, Session
from charloom.client._text_types import Peek, Score
from charloom.client._types import Completion, HealthStatus, ModelInfo
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
        tenant: whose sessions to use, where a server keeps those of several apart.
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
        tenant: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        channel_options: ChannelOptions = (),
    ) -> None:
        self._connection = Connection(target, timeout, tenant, credentials, channel_options)

    def generate(
        self,
        prompt: str = "",
        *,
        resume: bool = True,
        timeout: Timeout = NOT_GIVEN,
        **options: Unpack[GenerateOptions],
    ) -> TextStream:
        """Feed a prompt to a fresh state and stream the text that follows. Errors appear when the stream is read.

        A stream that breaks off is resumed where it was, unless `resume` is `False`.
        """
        request = _requests.resumable_request(prompt, options)
        return self._connection.stream(request, timeout, resume=_values.flag("resume", resume))

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

    def converse(
        self, prompt: str = "", *, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> Conversation:
        """Feed a prompt to a fresh state and wait to be told when to generate, what else to read, and how."""
        return self._connection.converse(_conversation_requests.start(prompt, options), timeout)

    def score(
        self,
        text: str,
        *,
        model: str | None = None,
        unknown_characters: UnknownCharacters | None = None,
        top_logprobs: int = 0,
        timeout: Timeout = NOT_GIVEN,
    ) -> Score:
        """How probable a text is, from a fresh state.

        Args:
            text: the text.
            model: name of the model; default is the server's first one.
            unknown_characters: what to do with those that the model lacks; default is "reject".
            top_logprobs: also tell the most probable tokens at each position, this many; up to 20.
            timeout: of this call alone, in seconds.

        """
        request = _reading_requests.score_request(text, model, unknown_characters, top_logprobs)
        return _responses.score(self._connection.call(self._connection.reading.Score, request, timeout))

    def peek(
        self, prompt: str = "", *, top: int = 0, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> Peek:
        """What would come after a prompt, and how probable each token is there.

        The next token, or `max_tokens` of them, up to 256; at each position the `top` most probable ones, or all.
        """
        request = _reading_requests.peek_request(prompt, top, options)
        return _responses.peek(self._connection.call(self._connection.reading.Peek, request, timeout))

    def inspect(
        self,
        text: str,
        *,
        model: str | None = None,
        unknown_characters: UnknownCharacters | None = None,
        layers: Sequence[int] | None = None,
        top_next: int = 0,
        distributions: bool = False,
        timeout: Timeout = NOT_GIVEN,
    ) -> Inspection:
        """What happens inside the network while it reads a text, from a fresh state: gates and state of every unit.

        Args:
            text: the text, of up to 4,096 tokens.
            model: name of the model; default is the server's first one.
            unknown_characters: what to do with those that the model lacks; default is "reject".
            layers: which ones to tell, 0 for the first; default is all.
            top_next: also tell the most probable tokens after each token, this many; up to 20.
            distributions: also tell the probabilities of all tokens after each token.
            timeout: of this call alone, in seconds.

        Raises:
            FailedPrecondition: the model was exported without what this needs.

        """
        request = _reading_requests.inspect_request(text, model, unknown_characters, layers, top_next, distributions)
        return _responses.inspection(self._connection.gather(self._connection.reading.Inspect, request, timeout))

    def observe(
        self,
        *,
        model: str | None = None,
        unknown_characters: UnknownCharacters | None = None,
        top_logprobs: int = 0,
        timeout: Timeout = NOT_GIVEN,
    ) -> Observer:
        """Read text as it comes, from a fresh state, and tell how surprising each token is; arguments as `score`.

        The timeout is that of the observation as a whole.
        """
        start = _reading_requests.observe_start(model, unknown_characters, top_logprobs)
        return self._connection.observe(start, timeout)

    def session(
        self,
        *,
        model: str | None = None,
        id: str | None = None,
        seed: int | None = None,
        time_to_live: float | None = None,
        start: str | None = None,
        keep: bool = False,
        timeout: Timeout = NOT_GIVEN,
    ) -> Session:
        """Make a session with zero state, or with that of another one.

        Args:
            model: name of the model; default is the server's first one.
            id: up to 64 letters, digits, '.', '_', '-'; default is the server's choice.
            seed: of its random numbers; default is the server's draw.
            time_to_live: seconds that it is kept without use; default is the server's, or that of `start`.
            start: id of a session to start from, for example one that `prime` made; it stays as it is. The model is
                its own.
            keep: leave it on the server when the `with` block ends.
            timeout: of this call alone, in seconds.

        """
        if start is not None:
            fork = _session_requests.start_request(start, model, id, seed, time_to_live)
            forked = self._connection.call(self._connection.sessions.ForkSession, fork, timeout)
            (info,) = _responses.forks(forked, 1)
        else:
            request = _session_requests.create_session_request(model, id, seed, time_to_live)
            answer = self._connection.call(self._connection.sessions.CreateSession, request, timeout)
            info = _responses.session_info(answer.session)
        return Session(self._connection, info, keep=keep)

    def prime(
        self,
        id: str,
        text: str,
        *,
        model: str | None = None,
        time_to_live: float | None = None,
        timeout: Timeout = NOT_GIVEN,
    ) -> SessionInfo:
        """Make a session of this id that has read a text, for others to start from: `session(start=id)`.

        It is kept. The timeout is that of each of two calls; if the second one fails, the session is deleted again.
        """
        _values.text("text", text)
        session = self.session(id=id, model=model, time_to_live=time_to_live, keep=True, timeout=timeout)
        try:
            return session.feed(text, timeout=timeout)
        except BaseException:
            # Without the text it would pass for primed.
            with contextlib.suppress(CharloomError):
                session.delete(timeout=CLEANUP_TIMEOUT)
            raise

    def open_session(self, id: str, *, timeout: Timeout = NOT_GIVEN) -> Session:
        """Go on with a session that exists. It is kept when the `with` block ends."""
        return Session(self._connection, self.get_session(id, timeout=timeout), keep=True)

    def import_session(
        self,
        state: bytes,
        *,
        id: str | None = None,
        time_to_live: float | None = None,
        keep: bool = False,
        timeout: Timeout = NOT_GIVEN,
    ) -> Session:
        """Make a session of a state that `Session.export`, or a result, gave; further arguments as `session`.

        Raises:
            DataLoss: the state was changed, cut off, or sealed with a key that this server lacks.
            PermissionDenied: it is another tenant's.
            FailedPrecondition: it expired, or is of a model that this server lacks.

        """
        request = _session_requests.import_session_request(state, id=id, time_to_live=time_to_live)
        answer = self._connection.call(self._connection.sessions.ImportSession, request, timeout)
        info = _responses.session_info(answer.session)
        return Session(self._connection, info, keep=keep, restored_exactly=answer.exact)

    def blend(
        self,
        sources: Mapping[SessionOrId, float],
        *,
        id: str | None = None,
        seed: int | None = None,
        time_to_live: float | None = None,
        keep: bool = False,
        timeout: Timeout = NOT_GIVEN,
    ) -> Session:
        """Make a session whose state is the weighted mean of others'. Experimental: no network was trained on such.

        The sources are from 2 to 16 sessions, or their ids, with their weights above 0, of which only the proportions
        matter. The blend stands at the position of the first one, and reads that one's last token next. Further
        arguments as `session`.
        """
        request = _session_requests.blend_sessions_request(sources, id=id, seed=seed, time_to_live=time_to_live)
        answer = self._connection.call(self._connection.sessions.BlendSessions, request, timeout)
        return Session(self._connection, _responses.session_info(answer.session), keep=keep)

    def get_session(self, id: str, *, timeout: Timeout = NOT_GIVEN) -> SessionInfo:
        """Describe a session. Does not renew its expiry."""
        request = _session_requests.get_session_request(id)
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

    def delete_session(self, id: str, *, timeout: Timeout = NOT_GIVEN) -> DeletionReceipt:
        """Forget a session, its state and all that it could go back to."""
        request = _session_requests.delete_session_request(id)
        answer = self._connection.call(self._connection.sessions.DeleteSession, request, timeout)
        return _responses.deletion_receipt(answer)

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
