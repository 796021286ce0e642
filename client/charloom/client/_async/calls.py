"""The calls that start from a state, written once for those with a session and those without, over asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from charloom.client import (
    _conversation_requests,
    _reading_requests,
    _reading_responses,
    _requests,
    _session_requests,
    _session_responses,
    _suggesting_requests,
    _suggesting_responses,
    _unheeded,
    _values,
)
from charloom.client._async.connection import AsyncConnection
from charloom.client._async.continuations import AsyncContinuations
from charloom.client._async.conversation import AsyncConversation
from charloom.client._async.duplex import AsyncDuplex
from charloom.client._async.many import many
from charloom.client._async.observation import AsyncObserver
from charloom.client._async.stream import AsyncTextStream
from charloom.client._generation_types import Completion, Result
from charloom.client._inspection_types import Inspection
from charloom.client._options import NOT_GIVEN, GenerateOptions, Timeout, UnknownCharacters
from charloom.client._session_types import DeletionReceipt, SessionInfo
from charloom.client._suggesting_types import RankedText, Suggestions
from charloom.client._text_types import Peek, Score, TextScore
from charloom.v1 import generation_pb2, reading_pb2, sessions_pb2

if TYPE_CHECKING:
    from typing_extensions import Unpack

AsyncRunning = AsyncTextStream | AsyncContinuations | AsyncConversation | AsyncObserver


class AsyncCalls:
    """Calls that start from a state: a fresh one or, where there is a session, the session's.

    The public calls are the same with and without a session; a subclass adds those whose arguments differ. A session
    overrides the private hooks: they give its id, and take in the calls that run for it and their results.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @property
    def _session_id(self) -> str:
        """Id of the session whose state the calls start from; empty is a fresh state."""
        return ""

    def _started(self, running: AsyncRunning) -> None:
        """Register a call that has begun."""

    def _make_first(self, options: generation_pb2.GenerationOptions) -> None:
        """Let this generation make the session, if it does not exist yet."""

    def _learn(self, result: Result) -> None:
        """Take in how a generation ended."""

    def generate(
        self,
        prompt: str = "",
        *,
        resume: bool = True,
        timeout: Timeout = NOT_GIVEN,
        **options: Unpack[GenerateOptions],
    ) -> AsyncTextStream:
        """Feed a prompt to a fresh state, or the session's, and stream the text that follows.

        Errors are raised when the stream is read. A stream that breaks off is resumed at the same character, unless
        `resume` is `False`.
        """
        request = _requests.resumable_request(prompt, options, self._session_id)
        self._make_first(request.options)
        context = self._connection.new_call(request)
        call = self._connection.generate_resuming(context, request, timeout, resume=_values.flag("resume", resume))
        stream = AsyncTextStream(call, context, _unheeded.checked(request.options, self._learn))
        self._started(stream)
        return stream

    async def complete(
        self, prompt: str = "", *, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> Completion:
        """Feed a prompt to a fresh state, or the session's, and return the text that follows as a whole.

        The text is gathered from a stream like that of `generate`: its length has no limit, and the stream is resumed
        if it breaks off. After an error, a session's state includes the text that had arrived by then, as after any
        stream; `session.rewind(session.info.position)` takes it back to before the call.
        """
        async with self.generate(prompt, timeout=timeout, **options) as stream:
            result = await stream.result()
            return Completion(text=stream.text, result=result, logprobs=stream.logprobs)

    def continuations(
        self,
        prompt: str = "",
        *,
        n: int,
        resample: bool = False,
        timeout: Timeout = NOT_GIVEN,
        **options: Unpack[GenerateOptions],
    ) -> AsyncContinuations:
        """Feed a prompt to a fresh state, or the session's, and stream `n` texts that follow, from 1 to 64.

        Errors are raised when the continuations are read. Continuation i has the call's seed plus i; `generate` with
        that seed gives the same text again. With `n` above 1 the session does not change: to continue it with the text
        you like, call `generate` with the seed of that text. `n=1` changes the session, as `generate` does.

        With `resample`, texts that the constraint has bent far from the model are replaced by copies of others while
        they run, so that together they come closer to the model's own matching texts. They arrive when all have ended;
        each result has the weight of its text (`Result.resampled`). The seed alone does not reproduce such a text.
        """
        request = _requests.continuations_request(prompt, n, resample, options, self._session_id)
        if request.options.n == 1:
            self._make_first(request.options)
        context = self._connection.new_call(request)
        call = self._connection.generate(context, request, timeout)
        on_result = _unheeded.checked(request.options, self._learn)
        continuations = AsyncContinuations(call, context, request.options.n, on_result)
        self._started(continuations)
        return continuations

    def converse(
        self, prompt: str = "", *, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> AsyncConversation:
        """Feed a prompt to a fresh state, or the session's, and open a conversation that steers what follows.

        Its methods say when to generate, what else to read, and with which sampling options.
        """
        start = _conversation_requests.start(prompt, options, self._session_id)
        self._make_first(start.start)
        duplex = self._connection.duplex(self._connection.conversation.Converse, start, timeout)
        conversation = AsyncConversation(duplex, _unheeded.checked(start.start, self._learn))
        self._started(conversation)
        return conversation

    async def peek(
        self, prompt: str = "", *, top: int = 0, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> Peek:
        """Predict the next token, or `max_tokens` of them (up to 256), with the distribution at each position.

        Starts from a fresh state or the session's, which does not change, and reads the prompt first. `top` is how many
        of the most probable tokens to list at each position; 0 lists all.
        """
        request = _reading_requests.peek_request(prompt, top, options, self._session_id)
        found = _reading_responses.peek(await self._connection.call(self._connection.reading.Peek, request, timeout))
        _unheeded.require_constrained(request.options, found.allowed_logprob)
        return found

    def score_many(
        self,
        texts: Iterable[str],
        *,
        model: str | None = None,
        unknown_characters: UnknownCharacters | None = None,
        timeout: Timeout = None,
    ) -> AsyncIterator[TextScore]:
        """Compute how probable each of many texts is, in order; faster than one `score` per text.

        Each text is read from a fresh state or the session's, which does not change. Texts are taken from the iterable
        some hundreds ahead of the scores, so it may be of any length. A text that cannot be read ends the call with an
        error that names its number, from 0. All texts before it have their scores by then; to continue, call again with
        the texts after it.

        Args:
            texts: the texts, for example the lines of a file
            model: name of the model; default is that of the session or, without one, the server's first one.
            unknown_characters: what to do with characters that the model lacks; default is "reject".
            timeout: of all texts together, in seconds; default is none.

        """
        start = _reading_requests.score_many_start(model, unknown_characters, self._session_id)

        def begin() -> AsyncDuplex[reading_pb2.ScoreManyRequest, reading_pb2.ScoreManyResponse]:
            return self._connection.duplex(self._connection.reading.ScoreMany, start, timeout)

        request = _reading_requests.score_many_texts
        return many(begin, texts, request, lambda answer: answer.scores, _reading_responses.text_score)

    async def rank(
        self,
        candidates: Sequence[str],
        *,
        prompt: str = "",
        model: str | None = None,
        state: bytes | None = None,
        unknown_characters: UnknownCharacters | None = None,
        timeout: Timeout = NOT_GIVEN,
    ) -> tuple[RankedText, ...]:
        """Compute how probable each candidate is after an optional prompt, in the order given.

        Starts from a fresh state or the session's, which does not change. A candidate is scored as a prefix, and not as
        a whole word or line: where one may begin another, end each with what ends it, such as a space.

        Args:
            candidates: the texts, from 1 to 256
            prompt: what comes before them
            model: name of the model; default is that of the session or the state, or the server's first one.
            state: a state from `Session.export` or an earlier call to start from, instead of a session.
            unknown_characters: what to do with characters that the model lacks; default is "reject".
            timeout: of this call alone, in seconds.

        """
        request = _suggesting_requests.rank_request(
            candidates, prompt, model, state, unknown_characters, self._session_id
        )
        answer = await self._connection.call(self._connection.suggesting.Rank, request, timeout)
        return _suggesting_responses.ranking(request.candidates, answer)

    async def suggest(
        self,
        prompt: str = "",
        *,
        count: int | None = None,
        boundary: Literal["word", "line", "length"] | None = None,
        regex: str | None = None,
        choices: Sequence[str] | None = None,
        json_schema: Mapping[str, Any] | str | None = None,
        max_tokens: int | None = None,
        beam: int | None = None,
        model: str | None = None,
        state: bytes | None = None,
        unknown_characters: UnknownCharacters | None = None,
        timeout: Timeout = NOT_GIVEN,
    ) -> Suggestions:
        """Find the most probable next texts after an optional prompt, by beam search.

        Starts from a fresh state or the session's, which does not change.

        Args:
            prompt: what comes before the suggestions
            count: number of suggestions, from 1 to 20; default is 5.
            boundary: where each ends: with a word or a line, or after `max_tokens`; default is "word".
            regex: a regular expression that each must match as a whole, instead of a boundary.
            choices: the texts to choose from, instead of a boundary.
            json_schema: a schema, as a mapping or a JSON string, that each must satisfy as JSON, instead of a boundary.
            max_tokens: the most tokens of each, from 1 to 256; default is 32.
            beam: how many unfinished texts are kept, from `count` to 64; default is 16, or `count` if more.
            model: name of the model; default is that of the session or the state, or the server's first one.
            state: a state from `Session.export` or an earlier call to start from, instead of a session.
            unknown_characters: what to do with characters that the model lacks; default is "reject".
            timeout: of this call alone, in seconds.

        """
        request = _suggesting_requests.suggest_request(
            prompt,
            model,
            state,
            unknown_characters,
            self._session_id,
            count=count,
            boundary=boundary,
            regex=regex,
            choices=choices,
            json_schema=json_schema,
            max_tokens=max_tokens,
            beam=beam,
        )
        answer = await self._connection.call(self._connection.suggesting.Suggest, request, timeout)
        return _suggesting_responses.suggestions(answer)

    async def _score(
        self,
        text: str,
        model: str | None,
        unknown_characters: UnknownCharacters | None,
        top_logprobs: int,
        timeout: Timeout,
    ) -> Score:
        request = _reading_requests.score_request(text, model, unknown_characters, top_logprobs, self._session_id)
        return _reading_responses.score(await self._connection.call(self._connection.reading.Score, request, timeout))

    async def _inspect(
        self,
        text: str,
        model: str | None,
        unknown_characters: UnknownCharacters | None,
        layers: Sequence[int] | None,
        top_next: int,
        distributions: bool,
        timeout: Timeout,
    ) -> Inspection:
        request = _reading_requests.inspect_request(
            text, model, unknown_characters, layers, top_next, distributions, self._session_id
        )
        return _reading_responses.inspection(
            await self._connection.gather(self._connection.reading.Inspect, request, timeout)
        )

    def _observe(
        self, model: str | None, unknown_characters: UnknownCharacters | None, top_logprobs: int, timeout: Timeout
    ) -> AsyncObserver:
        start = _reading_requests.observe_start(model, unknown_characters, top_logprobs, self._session_id)
        observer = AsyncObserver(self._connection.duplex(self._connection.reading.Observe, start, timeout))
        self._started(observer)
        return observer

    async def _get(self, id: str, timeout: Timeout) -> SessionInfo:
        request = _session_requests.get_session_request(id)
        answer = await self._connection.call(self._connection.sessions.GetSession, request, timeout)
        return _session_responses.session_info(answer.session)

    async def _delete(self, id: str, timeout: Timeout) -> DeletionReceipt:
        request = _session_requests.delete_session_request(id)
        answer = await self._connection.call(self._connection.sessions.DeleteSession, request, timeout)
        return _session_responses.deletion_receipt(answer)

    async def _fork(
        self, request: sessions_pb2.ForkSessionRequest, count: int, timeout: Timeout
    ) -> Sequence[SessionInfo]:
        answer = await self._connection.call(self._connection.sessions.ForkSession, request, timeout)
        return _session_responses.forks(answer, count)
