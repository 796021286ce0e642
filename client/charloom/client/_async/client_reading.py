"""The client's calls that read a text from a fresh state, over asyncio."""

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
        """Compute how probable a text is, from a fresh state.

        Args:
            text: the text.
            model: name of the model; default is the server's first one.
            unknown_characters: what to do with characters that the model lacks; default is "reject".
            top_logprobs: how many of the most probable tokens to list at each position, up to 20.
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
        """Return the gates and the state of every unit while the network reads a text, from a fresh state.

        Args:
            text: the text, of up to 4,096 tokens.
            model: name of the model; default is the server's first one.
            unknown_characters: what to do with characters that the model lacks; default is "reject".
            layers: the layers to return, 0 for the first; default is all.
            top_next: how many of the most probable next tokens to list after each token, up to 20.
            distributions: also return the log-probabilities of all tokens after each token.
            timeout: of this call alone, in seconds.

        Raises:
            FailedPrecondition: the model's bundle has no usable inspector.

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
        """Read text piece by piece from a fresh state, and report how surprising each token is.

        The arguments are those of `score`; the timeout is that of the observation as a whole.
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
        """Judge lines of many sources as they arrive; each source has its own state and threshold.

        Both are kept on the server, in a session for each source: the next watch of the same name continues with them.

        Args:
            name: of the watch, up to 32 letters, digits, '_' and '-'.
            model: name of a character or byte model; default is that of the watch, or the server's first.
            mask: how numbers are masked; default is the mask that the model was trained with.
            rate: the share of lines that may be alerts while nothing unusual happens; default is 0.001.
            warm_up: lines of a source before its own threshold is used, at least 1 / rate; until then, the threshold of
                all sources together is. Default is 100.
            time_to_live: seconds that a source without new lines is kept; default is the server's.
            characters: also report how surprising each character is.
            silent_after: seconds without a line after which `AsyncWatch.silent` reports a source; default is never. The
                names of silent sources are kept until it is called, so call it from time to time.
            adaptive: let new sources learn from their lines, so that repeated text surprises less.
            timeout: of the watch as a whole, in seconds; default is none.

        """
        first = _watching_messages.start(
            name, model, mask, rate, warm_up, time_to_live, characters, silent_after, adaptive
        )
        return AsyncWatch(self._connection.duplex(self._connection.watching.Watch, first, timeout), first.start)

    async def classify(self, text: str, *, model: str | None = None, timeout: Timeout = NOT_GIVEN) -> LabelledText:
        """Label a text with a classifier, and return the probability of each label.

        Args:
            text: the text; white space around it is ignored.
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
        """Label many texts; yields each text with its result, in order. Much faster than one `classify` per text.

        Texts are taken from the iterable some hundreds ahead of the labels, so it may be of any length. A text of white
        space alone has no label.

        Args:
            texts: the texts, for example the lines of a file
            model: name of the classifier; default is the server's first one.
            timeout: of all texts together, in seconds; default is none.

        Raises:
            InvalidArgument: a text is too long. The error names its number, from 0. All texts before it have their
                labels by then; to continue, call again with the texts after it.
            FailedPrecondition: the model is no classifier.

        """
        start = _classification.classify_many_start(model)

        def begin() -> AsyncDuplex[classification_pb2.ClassifyManyRequest, classification_pb2.ClassifyManyResponse]:
            return self._connection.duplex(self._connection.classification.ClassifyMany, start, timeout)

        request = _classification.classify_many_texts
        return many(begin, texts, request, lambda answer: answer.labelled, _classification.labelled_text)

    def classify_stream(self, *, model: str | None = None, timeout: Timeout = NOT_GIVEN) -> AsyncLabeller:
        """Label a text part by part: after each part, the result that `classify` would give for the text so far.

        Args:
            model: name of a classifier of characters or bytes; default is the server's first one.
            timeout: of all parts together, in seconds.

        """
        start = _classification.classify_start(model)
        return AsyncLabeller(self._connection.duplex(self._connection.classification.ClassifyStream, start, timeout))
