"""The asyncio client: the same surface as the blocking one, over the same requests, responses and errors."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING

from charloom.client import _conversation_requests, _reading_requests, _requests, _responses, _session_requests, _values
from charloom.client._async.session import AsyncSession, Opened
from charloom.client._connection import AsyncConnection, ChannelOptions
from charloom.client._continuations import AsyncContinuations
from charloom.client._conversation import AsyncConversation
from charloom.client._errors import CharloomError
from charloom.client._inspection_types import Inspection
from charloom.client._observation import AsyncObserver
from charloom.client._options import NOT_GIVEN, GenerateOptions, Timeout, UnknownCharacters
from charloom.client._readiness import NOT_READY, POLL, Patience
from charloom.client._session_requests import SessionOrId
from charloom.client._session_types import DeletionReceipt, SessionInfo
from charloom.client._stream import AsyncTextStream
from charloom.client._sync.client import DEFAULT_TARGET, DEFAULT_TIMEOUT, PAGE_SIZE
from charloom.client._sync.session import CLEANUP_TIMEOUT
from charloom.client._text_types import Peek, Score
from charloom.client._types import Completion, HealthStatus, ModelInfo
from charloom.v1 import models_pb2, sessions_pb2

if TYPE_CHECKING:
    from types import TracebackType

    import grpc
    from typing_extensions import Self, Unpack


class AsyncClient:
    """Talks to one server, or to several identical ones behind one name; the twin of `Client`.

    It belongs to the event loop of its first call. Arguments and errors are those of `Client`.
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
        self._connection = AsyncConnection(target, timeout, tenant, credentials, channel_options)

    def generate(
        self,
        prompt: str = "",
        *,
        resume: bool = True,
        timeout: Timeout = NOT_GIVEN,
        **options: Unpack[GenerateOptions],
    ) -> AsyncTextStream:
        """Feed a prompt to a fresh state and stream the text that follows. Errors appear when the stream is read.

        A stream that breaks off is resumed where it was, unless `resume` is `False`.
        """
        request = _requests.resumable_request(prompt, options)
        return self._connection.stream(request, timeout, resume=_values.flag("resume", resume))

    async def complete(
        self, prompt: str = "", *, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> Completion:
        """Feed a prompt to a fresh state and return the text that follows as a whole."""
        request = _requests.complete_request(prompt, options)
        return _responses.completion(
            await self._connection.call(self._connection.generation.Complete, request, timeout)
        )

    def continuations(
        self, prompt: str = "", *, n: int, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> AsyncContinuations:
        """Feed a prompt to a fresh state and stream `n` texts that follow, from 1 to 64; errors appear on reading.

        Number i has the seed of the call plus i. `generate` with one of these seeds gives that text again.
        """
        return self._connection.continuations(_requests.continuations_request(prompt, n, options), timeout)

    def converse(
        self, prompt: str = "", *, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> AsyncConversation:
        """Feed a prompt to a fresh state and wait to be told when to generate, what else to read, and how."""
        return self._connection.converse(_conversation_requests.start(prompt, options), timeout)

    async def score(
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
        return _responses.score(await self._connection.call(self._connection.reading.Score, request, timeout))

    async def peek(
        self, prompt: str = "", *, top: int = 0, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> Peek:
        """What would come after a prompt, and how probable each token is there.

        The next token, or `max_tokens` of them, up to 256; at each position the `top` most probable ones, or all.
        """
        request = _reading_requests.peek_request(prompt, top, options)
        return _responses.peek(await self._connection.call(self._connection.reading.Peek, request, timeout))

    async def inspect(
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
        return _responses.inspection(await self._connection.gather(self._connection.reading.Inspect, request, timeout))

    def observe(
        self,
        *,
        model: str | None = None,
        unknown_characters: UnknownCharacters | None = None,
        top_logprobs: int = 0,
        timeout: Timeout = NOT_GIVEN,
    ) -> AsyncObserver:
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
    ) -> AsyncSession:
        """Make a session with zero state, or with that of another one, when it is entered or awaited.

        Arguments as `Client.session`.
        """
        if start is not None:
            fork_request = _session_requests.start_request(start, model, id, seed, time_to_live)

            async def fork() -> Opened:
                answer = await self._connection.call(self._connection.sessions.ForkSession, fork_request, timeout)
                (info,) = _responses.forks(answer, 1)
                return Opened(info)

            return AsyncSession(self._connection, fork, keep=keep)
        request = _session_requests.create_session_request(model, id, seed, time_to_live)

        async def create() -> Opened:
            answer = await self._connection.call(self._connection.sessions.CreateSession, request, timeout)
            return Opened(_responses.session_info(answer.session))

        return AsyncSession(self._connection, create, keep=keep)

    async def prime(
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
        session = await self.session(id=id, model=model, time_to_live=time_to_live, keep=True, timeout=timeout)
        try:
            return await session.feed(text, timeout=timeout)
        except BaseException:
            # Without the text it would pass for primed.
            with contextlib.suppress(CharloomError):
                await session.delete(timeout=CLEANUP_TIMEOUT)
            raise

    def open_session(self, id: str, *, timeout: Timeout = NOT_GIVEN) -> AsyncSession:
        """Go on with a session that exists, when it is entered or awaited. It is kept when the block ends."""

        async def find() -> Opened:
            return Opened(await self.get_session(id, timeout=timeout))

        return AsyncSession(self._connection, find, keep=True)

    def import_session(
        self,
        state: bytes,
        *,
        id: str | None = None,
        time_to_live: float | None = None,
        keep: bool = False,
        timeout: Timeout = NOT_GIVEN,
    ) -> AsyncSession:
        """Make a session of a state, when it is entered or awaited; arguments and errors as `Client.import_session`."""
        request = _session_requests.import_session_request(state, id=id, time_to_live=time_to_live)

        async def restore() -> Opened:
            answer = await self._connection.call(self._connection.sessions.ImportSession, request, timeout)
            return Opened(_responses.session_info(answer.session), answer.exact)

        return AsyncSession(self._connection, restore, keep=keep)

    def blend(
        self,
        sources: Mapping[SessionOrId, float],
        *,
        id: str | None = None,
        seed: int | None = None,
        time_to_live: float | None = None,
        keep: bool = False,
        timeout: Timeout = NOT_GIVEN,
    ) -> AsyncSession:
        """Make a session whose state is the weighted mean of others', when it is entered or awaited. Experimental.

        Arguments as `Client.blend`.
        """
        request = _session_requests.blend_sessions_request(sources, id=id, seed=seed, time_to_live=time_to_live)

        async def blend() -> Opened:
            answer = await self._connection.call(self._connection.sessions.BlendSessions, request, timeout)
            return Opened(_responses.session_info(answer.session))

        return AsyncSession(self._connection, blend, keep=keep)

    async def get_session(self, id: str, *, timeout: Timeout = NOT_GIVEN) -> SessionInfo:
        """Describe a session. Does not renew its expiry."""
        request = _session_requests.get_session_request(id)
        answer = await self._connection.call(self._connection.sessions.GetSession, request, timeout)
        return _responses.session_info(answer.session)

    async def sessions(self, *, timeout: Timeout = NOT_GIVEN) -> AsyncIterator[SessionInfo]:
        """All sessions in the order of their ids, fetched page by page; the timeout is that of one page."""
        request = sessions_pb2.ListSessionsRequest(page_size=PAGE_SIZE)
        while True:
            page = await self._connection.call(self._connection.sessions.ListSessions, request, timeout)
            for session in page.sessions:
                yield _responses.session_info(session)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def delete_session(self, id: str, *, timeout: Timeout = NOT_GIVEN) -> DeletionReceipt:
        """Forget a session, its state and all that it could go back to."""
        request = _session_requests.delete_session_request(id)
        answer = await self._connection.call(self._connection.sessions.DeleteSession, request, timeout)
        return _responses.deletion_receipt(answer)

    async def models(self, *, timeout: Timeout = NOT_GIVEN) -> list[ModelInfo]:
        """All models that the server has loaded, the default one first."""
        request = models_pb2.ListModelsRequest()
        answer = await self._connection.call(self._connection.models.ListModels, request, timeout)
        return [_responses.model_info(model) for model in answer.models]

    async def model(self, name: str = "", *, timeout: Timeout = NOT_GIVEN) -> ModelInfo:
        """Describe one model; without a name the default one."""
        request = models_pb2.GetModelRequest(name=_values.text("name", name))
        answer = await self._connection.call(self._connection.models.GetModel, request, timeout)
        return _responses.model_info(answer.model)

    async def health(self, *, timeout: Timeout = NOT_GIVEN) -> HealthStatus:
        """What the server says about itself."""
        return await self._connection.health(timeout)

    async def is_serving(self, *, timeout: Timeout = NOT_GIVEN) -> bool:
        """Whether a server answers in time and takes calls."""
        try:
            return await self.health(timeout=timeout) is HealthStatus.SERVING
        except NOT_READY:
            return False

    async def wait_until_ready(self, timeout: float | None = 30.0) -> None:
        """Return as soon as the server takes calls.

        Raises:
            ConnectionFailed: if it does not within `timeout` seconds.

        """
        patience = Patience(self._connection.target, self._connection.seconds(timeout))
        while True:
            answer: HealthStatus | CharloomError
            try:
                answer = await self._connection.health(patience.left(), wait_for_ready=True)
            except NOT_READY as problem:
                answer = problem
            if patience.is_over(answer):
                return
            await asyncio.sleep(POLL)

    async def close(self) -> None:
        """Close the connection; calls that are running are cancelled."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
