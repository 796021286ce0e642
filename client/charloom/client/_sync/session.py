"""A session as a local object, blocking."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

from charloom.client import _conversation_requests, _reading_requests, _requests, _responses, _session_requests, _values
from charloom.client._connection import Connection
from charloom.client._continuations import Continuations
from charloom.client._conversation import Conversation
from charloom.client._errors import CharloomError, NotFound
from charloom.client._inspection_types import Inspection
from charloom.client._observation import Observer
from charloom.client._options import NOT_GIVEN, GenerateOptions, Timeout, UnknownCharacters
from charloom.client._session_types import DeletionReceipt, SealedState, SessionInfo
from charloom.client._stream import TextStream
from charloom.client._text_types import Peek, Score
from charloom.client._types import Completion, Result
from charloom.v1 import sessions_pb2

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

# Cleaning up must not keep a program from ending: the server forgets the session later anyway.
CLEANUP_TIMEOUT = 5.0


class Session:
    """A session on the server: each call goes on where the last one ended.

    Made by `Client.session`, `open_session`, `import_session` and `blend`, and by `fork`. As a context manager it ends
    what is still running and, unless it is to be kept, deletes the session from the server.
    """

    def __init__(
        self, connection: Connection, info: SessionInfo, *, keep: bool, restored_exactly: bool | None = None
    ) -> None:
        self._connection = connection
        self._info = info
        self._restored_exactly = restored_exactly
        self._keep = keep
        self._deleted = False
        self._running: weakref.WeakSet[TextStream | Continuations | Conversation | Observer] = weakref.WeakSet()

    @property
    def id(self) -> str:
        """Identifies the session on its server."""
        return self._info.id

    @property
    def info(self) -> SessionInfo:
        """The session after the last call that told of it; `refresh` asks the server."""
        return self._info

    @property
    def restored_exactly(self) -> bool | None:
        """Whether text goes on bit for bit as where the imported state was exported; `None` without an import."""
        return self._restored_exactly

    def generate(
        self,
        prompt: str = "",
        *,
        resume: bool = True,
        timeout: Timeout = NOT_GIVEN,
        **options: Unpack[GenerateOptions],
    ) -> TextStream:
        """Feed a prompt and stream the text that follows; as `Client.generate`, from the session's state."""
        request = _requests.resumable_request(prompt, options, self.id)
        stream = self._connection.stream(request, timeout, self._take, resume=_values.flag("resume", resume))
        self._running.add(stream)
        return stream

    def complete(
        self, prompt: str = "", *, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> Completion:
        """Feed a prompt and return the text that follows as a whole."""
        request = _requests.complete_request(prompt, options, self.id)
        answer = self._connection.call(self._connection.generation.Complete, request, timeout)
        completion = _responses.completion(answer)
        self._take(completion.result)
        return completion

    def continuations(
        self, prompt: str = "", *, n: int, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> Continuations:
        """Feed a prompt and stream `n` texts that follow, from 1 to 64; as `Client.continuations`.

        More than one leave the session as it was: the same call with the seed of the one you like, without `n`, goes on
        with it. `n=1` goes on at once, as `generate` does.
        """
        request = _requests.continuations_request(prompt, n, options, self.id)
        continuations = self._connection.continuations(request, timeout, self._take)
        self._running.add(continuations)
        return continuations

    def converse(
        self, prompt: str = "", *, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> Conversation:
        """Read a prompt and wait to be told when to generate, what else to read, and how; as `Client.converse`."""
        start = _conversation_requests.start(prompt, options, self.id)
        conversation = self._connection.converse(start, timeout, self._take)
        self._running.add(conversation)
        return conversation

    def feed(
        self,
        text: str,
        *,
        unknown_characters: UnknownCharacters | None = None,
        expected_position: int | None = None,
        timeout: Timeout = NOT_GIVEN,
    ) -> SessionInfo:
        """Read a text without generating any. In two parts it is the same as in one."""
        request = _session_requests.feed_session_request(
            self.id, text, unknown_characters=unknown_characters, expected_position=expected_position
        )
        answer = self._connection.call(self._connection.sessions.FeedSession, request, timeout)
        return self._learn(answer.session)

    def score(
        self,
        text: str,
        *,
        unknown_characters: UnknownCharacters | None = None,
        top_logprobs: int = 0,
        timeout: Timeout = NOT_GIVEN,
    ) -> Score:
        """How probable a text is from here on; as `Client.score`. The session stays as it is."""
        request = _reading_requests.score_request(text, None, unknown_characters, top_logprobs, self.id)
        return _responses.score(self._connection.call(self._connection.reading.Score, request, timeout))

    def peek(
        self, prompt: str = "", *, top: int = 0, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> Peek:
        """What would come next, after a prompt if there is one; as `Client.peek`. The session stays as it is."""
        request = _reading_requests.peek_request(prompt, top, options, self.id)
        return _responses.peek(self._connection.call(self._connection.reading.Peek, request, timeout))

    def inspect(
        self,
        text: str,
        *,
        unknown_characters: UnknownCharacters | None = None,
        layers: Sequence[int] | None = None,
        top_next: int = 0,
        distributions: bool = False,
        timeout: Timeout = NOT_GIVEN,
    ) -> Inspection:
        """What happens in the network while it reads a text; as `Client.inspect`. The session stays as it is."""
        request = _reading_requests.inspect_request(
            text, None, unknown_characters, layers, top_next, distributions, self.id
        )
        return _responses.inspection(self._connection.gather(self._connection.reading.Inspect, request, timeout))

    def observe(
        self,
        *,
        unknown_characters: UnknownCharacters | None = None,
        top_logprobs: int = 0,
        timeout: Timeout = NOT_GIVEN,
    ) -> Observer:
        """Read text as it comes and tell how surprising it is; as `Client.observe`. The session goes on with it."""
        start = _reading_requests.observe_start(None, unknown_characters, top_logprobs, self.id)
        observer = self._connection.observe(start, timeout)
        self._running.add(observer)
        return observer

    def rewind(
        self,
        position: int,
        *,
        seed: int | None = None,
        expected_position: int | None = None,
        timeout: Timeout = NOT_GIVEN,
    ) -> SessionInfo:
        """Put the session back to an earlier position; what came after it is forgotten.

        Without a `seed` the same options give the same text again from there.

        Raises:
            PositionNotKept: the position lies in the future, or before `info.earliest_position`.

        """
        request = _session_requests.rewind_session_request(
            self.id, position, seed=seed, expected_position=expected_position
        )
        answer = self._connection.call(self._connection.sessions.RewindSession, request, timeout)
        return self._learn(answer.session)

    def fork(
        self,
        *,
        position: int | None = None,
        seed: int | None = None,
        id: str | None = None,
        time_to_live: float | None = None,
        keep: bool = False,
        timeout: Timeout = NOT_GIVEN,
    ) -> Session:
        """Make a session that goes on from where this one stands. This one stays as it is.

        Args:
            position: where to take it instead, as for `rewind`.
            seed: of its random numbers; default is the server's draw.
            id: default is the server's choice.
            time_to_live: seconds that it is kept without use; default is that of this one.
            keep: leave it on the server when its `with` block ends.
            timeout: of this call alone, in seconds.

        """
        request = _session_requests.fork_session_request(
            self.id, position=position, seed=seed, id=id, time_to_live=time_to_live
        )
        answer = self._connection.call(self._connection.sessions.ForkSession, request, timeout)
        (info,) = _responses.forks(answer, 1)
        return Session(self._connection, info, keep=keep)

    def forks(
        self,
        count: int,
        *,
        position: int | None = None,
        seed: int | None = None,
        ids: Sequence[str] | None = None,
        time_to_live: float | None = None,
        keep: bool = False,
        timeout: Timeout = NOT_GIVEN,
    ) -> list[Session]:
        """Make several sessions as `fork` does, in one call. Number i has the seed `seed` + i."""
        request = _session_requests.fork_sessions_request(
            self.id, count, position=position, seed=seed, ids=ids, time_to_live=time_to_live
        )
        answer = self._connection.call(self._connection.sessions.ForkSession, request, timeout)
        return [Session(self._connection, info, keep=keep) for info in _responses.forks(answer, request.count)]

    def renew(self, time_to_live: float | None = None, *, timeout: Timeout = NOT_GIVEN) -> SessionInfo:
        """Put the expiry off, and set how many seconds the session is kept without use; default is as before."""
        request = _session_requests.update_session_request(self.id, time_to_live)
        answer = self._connection.call(self._connection.sessions.UpdateSession, request, timeout)
        return self._learn(answer.session)

    def export(self, time_to_live: float | None = None, *, timeout: Timeout = NOT_GIVEN) -> SealedState:
        """Give out the state, encrypted, for any server with the same key and model. The session stays as it is.

        It can be used for `time_to_live` seconds; default is the server's for sessions.
        """
        request = _session_requests.export_session_request(self.id, time_to_live)
        answer = self._connection.call(self._connection.sessions.ExportSession, request, timeout)
        return _responses.sealed_state(answer)

    def refresh(self, *, timeout: Timeout = NOT_GIVEN) -> SessionInfo:
        """Ask the server for the session as it is now. Does not renew its expiry."""
        request = _session_requests.get_session_request(self.id)
        answer = self._connection.call(self._connection.sessions.GetSession, request, timeout)
        return self._learn(answer.session)

    def delete(self, *, timeout: Timeout = NOT_GIVEN) -> DeletionReceipt:
        """Forget the session, its state and all that it could go back to."""
        request = _session_requests.delete_session_request(self.id)
        answer = self._connection.call(self._connection.sessions.DeleteSession, request, timeout)
        self._deleted = True
        self._learn(answer.session)
        return _responses.deletion_receipt(answer)

    def _learn(self, session: sessions_pb2.Session) -> SessionInfo:
        self._info = _responses.session_info(session)
        return self._info

    def _take(self, result: Result) -> None:
        self._info = result.session or self._info

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for running in self._running:
            running.cancel()
        if self._keep or self._deleted or self._connection.closed:
            return
        try:
            self.delete(timeout=CLEANUP_TIMEOUT)
        except NotFound:
            pass
        except CharloomError:
            if error is None:
                raise
