"""What a client asks about texts that start from a fresh state, over asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence

from charloom.client import _classification, _watching_messages
from charloom.client._async.calls import AsyncCalls
from charloom.client._async.duplex import AsyncDuplex
from charloom.client._async.labelling import AsyncLabeller
from charloom.client._async.many import many
from charloom.client._async.observation import AsyncObserver
from charloom.client._async.watching import AsyncWatch
from charloom.client._classification_types import LabelledText
from charloom.client._inspection_types import Inspection
from charloom.client._options import NOT_GIVEN, Timeout, UnknownCharacters
from charloom.client._text_types import Score
from charloom.client._watching_types import Mask
from charloom.v1 import classification_pb2


class AsyncClientReading(AsyncCalls):
    """The calls of `AsyncClient` that read a text."""

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
        return await self._score(text, model, unknown_characters, top_logprobs, timeout)

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
        return await self._inspect(text, model, unknown_characters, layers, top_next, distributions, timeout)

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
        return self._observe(model, unknown_characters, top_logprobs, timeout)

    def watch(
        self,
        name: str,
        *,
        model: str | None = None,
        mask: Mask | None = None,
        rate: float | None = None,
        warm_up: int | None = None,
        time_to_live: float | None = None,
        characters: bool = False,
        silent_after: float | None = None,
        adaptive: bool = False,
        timeout: float | None = None,
    ) -> AsyncWatch:
        """Judge the lines of many sources as they come: each has a state and a threshold of its own.

        What is known of them stays on the server, as sessions: the next watch of the same name goes on with it.

        Args:
            name: of the watch, up to 32 letters, digits, '_' and '-'.
            model: name of the model, one of characters or bytes; default is that of the watch, or the server's first.
            mask: what becomes of numbers; default is what became of them when the model was trained.
            rate: the share of lines that may be alerts while nothing unusual happens; default is 0.001.
            warm_up: lines of a source before it is judged by its own, and never fewer than 1 / rate; until then it is
                judged by all sources together. Default is 100.
            time_to_live: seconds that a source is kept that says nothing; default is the server's.
            characters: also tell how surprising each character is.
            silent_after: seconds without a line after which `AsyncWatch.silent` tells a source; default is never. What
                it has to tell is kept until it is called, so call it from time to time.
            adaptive: let sources that are new learn from their lines, so that what they repeat surprises less.
            timeout: of the watch as a whole, in seconds; default is none.

        """
        first = _watching_messages.start(
            name, model, mask, rate, warm_up, time_to_live, characters, silent_after, adaptive
        )
        return AsyncWatch(self._connection.duplex(self._connection.watching.Watch, first, timeout), first.start)

    async def classify(self, text: str, *, model: str | None = None, timeout: Timeout = NOT_GIVEN) -> LabelledText:
        """The label that a classifier gives a text, and how probable each is.

        Args:
            text: the text; white space around it does not count.
            model: name of the classifier; default is the server's first one.
            timeout: of this call alone, in seconds.

        Raises:
            FailedPrecondition: the model is no classifier.

        """
        request = _classification.classify_request(text, model)
        answer = await self._connection.call(self._connection.classification.Classify, request, timeout)
        return _classification.labelled(answer.labelled)

    def classify_many(
        self, texts: Iterable[str], *, model: str | None = None, timeout: Timeout = None
    ) -> AsyncIterator[tuple[str, LabelledText]]:
        """Each of many texts with what `classify` tells of it, in order; much faster than a `classify` of each.

        Texts are taken some hundreds ahead of the labels, so there may be any number of them. One of nothing but white
        space has no label.

        Args:
            texts: the texts, for example the lines of a file
            model: name of the classifier; default is the server's first one.
            timeout: of all texts together, in seconds; default is none.

        Raises:
            InvalidArgument: a text is too long. It is named by its number, from 0; all before it have their labels by
                then, and whoever leaves it out can go on behind it.
            FailedPrecondition: the model is no classifier.

        """
        start = _classification.classify_many_start(model)

        def begin() -> AsyncDuplex[classification_pb2.ClassifyManyRequest, classification_pb2.ClassifyManyResponse]:
            return self._connection.duplex(self._connection.classification.ClassifyMany, start, timeout)

        request = _classification.classify_many_texts
        return many(begin, texts, request, lambda answer: answer.labelled, _classification.labelled_text)

    def classify_stream(self, *, model: str | None = None, timeout: Timeout = NOT_GIVEN) -> AsyncLabeller:
        """Label a text as it comes: after each part, what `classify` would tell of the text so far.

        Args:
            model: name of the classifier, one of characters or bytes; default is the server's first one.
            timeout: of all parts together, in seconds.

        """
        start = _classification.classify_start(model)
        return AsyncLabeller(self._connection.duplex(self._connection.classification.ClassifyStream, start, timeout))
