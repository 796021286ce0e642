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

    The public ones are the same with and without a session. Of the others, those who inherit give the arguments that
    make sense for them. A session says who it is, and is told what runs for it and how that ended.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @property
    def _session_id(self) -> str:
        """Whose state to start from; empty is a fresh one."""
        return ""

    def _started(self, running: AsyncRunning) -> None:
        """Take in that this runs from now on."""

    def _make_first(self, options: generation_pb2.GenerationOptions) -> None:
        """Let a generation make the session, if it is one that is still to be made."""

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

        Errors appear when the stream is read. A stream that breaks off is resumed where it was, unless `resume` is
        `False`.
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

        It is gathered from a stream as of `generate`, so its length has no limit, and resumed where that breaks off.
        After an error a session stands after the text that had arrived by then, as after any stream;
        `session.rewind(session.info.position)` puts it back to before the call.
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

        Errors appear on reading. Number i has the seed of the call plus i; `generate` with one of these seeds gives
        that text again. More than one leave a session as it was: the same call with the seed of the one you like,
        without `n`, goes on with it. `n=1` goes on at once, as `generate` does.

        With `resample`, texts under a constraint that it has bent much are replaced by copies of others while they run,
        so that they come closer to the model's own texts that match. They arrive when all have ended; each result tells
        the weight of its text (`Result.resampled`), and no call with its seed alone gives it again.
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
        """Feed a prompt to a fresh state, or the session's, and wait to be told what to do next.

        That is when to generate, what else to read, and how.
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
        """What would come next, after a prompt if there is one, and how probable each token is there.

        From a fresh state or the session's, which stays as it is: the next token, or `max_tokens` of them, up to 256;
        at each position the `top` most probable ones, or all.
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
        """How probable each of many texts is, in order; faster than a `score` of each.

        Each is read from a fresh state or the session's, which stays as it is. They are taken some hundreds ahead of
        the scores, so there may be any number of them. One that cannot be read ends the call with an error that names
        it by its number, from 0; all before it have their scores by then, and whoever leaves it out can go on behind.

        Args:
            texts: the texts, for example the lines of a file
            model: name of the model; default is that of the session or, without one, the server's first one.
            unknown_characters: what to do with those that the model lacks; default is "reject".
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
        """How probable each of some texts is, after a prompt if there is one; in the order in which they are given.

        From a fresh state or the session's, which stays as it is. A candidate is read as far as it goes and not as a
        whole word or line: end each with what ends it, a space for instance, where one may begin another.

        Args:
            candidates: the texts, from 1 to 256
            prompt: what comes before them
            model: name of the model; default is that of the session or the state, or the server's first one.
            state: starts from the state that `Session.export` or an earlier call gave, instead of a session.
            unknown_characters: what to do with those that the model lacks; default is "reject".
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
        """The most probable texts that may come next, after a prompt if there is one, found by beam search.

        From a fresh state or the session's, which stays as it is.

        Args:
            prompt: what comes before them
            count: how many, from 1 to 20; default is 5.
            boundary: where each ends: with a word or a line, or after `max_tokens`; default is "word".
            regex: a regular expression that each is to match as a whole, in place of a boundary.
            choices: texts of which each is one, in place of a boundary.
            json_schema: what each is to be, JSON that this schema allows: a mapping, or JSON itself.
            max_tokens: the most tokens of each, from 1 to 256; default is 32.
            beam: how many texts are open at a time, from `count` to 64; default is 16, or `count` if more.
            model: name of the model; default is that of the session or the state, or the server's first one.
            state: starts from the state that `Session.export` or an earlier call gave, instead of a session.
            unknown_characters: what to do with those that the model lacks; default is "reject".
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
