"""Labels texts: the network reads a text on the loom, and its last state gives the probability of each label.

Each part of a text that comes in parts is read from the state after the part before, so that it costs only its own
tokens. The result after a part equals, bit for bit, that of the whole text up to there.

Axis letters: A state arrays, L layers, H hidden, C labels, T time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from charloom.bundle import SHOWN_UNKNOWNS, LabelHead, Labelling, Task, Unit, UnknownSymbol
from charloom.engine.calls.price import of_reading
from charloom.engine.calls.reading import Reading
from charloom.engine.calls.requests import check_count, check_length
from charloom.engine.calls_in_progress import CallsInProgress
from charloom.engine.decoding.decoder import Ints
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.errors import EngineError, InvalidRequest
from charloom.engine.loom.model import Model
from charloom.engine.loom.models import Models
from charloom.engine.quotas import QuotaExceeded
from charloom.engine.telemetry import Totals, current_call

READ_BY_NONE = 0
"""An arbitrary token that is appended to a text, so that the network reads the text's last token."""
EMPTY = "it is empty; give a text to label"
CHARACTERS_AT_ONCE = 65_536
"""Characters of many texts that are encoded before other calls get a turn on the event loop; a text is not split."""


@dataclass(frozen=True)
class LabelledText:
    """The result for a text, or for the part of it that has come so far."""

    labels: Sequence[str]
    """All labels of the model."""
    probabilities: Sequence[float]
    """[C], of each label; empty while the text is only white space."""
    tokens: int
    """Number of tokens of the text, without the white space around it."""
    left_out: int
    """How many of them were not read, because the text is longer than the model reads."""
    unknown: Sequence[UnknownSymbol]
    """The first symbols that the model lacks, and read as unknown, with their positions in the text."""
    unknown_count: int
    """Number of all such symbols."""

    @property
    def label(self) -> str:
        """The most probable label; empty while the text is only white space."""
        if not self.probabilities:
            return ""
        return self.labels[self.probabilities.index(max(self.probabilities))]


@dataclass(frozen=True)
class LabelledTexts:
    """The results for some of many texts."""

    labelled: Sequence[LabelledText]
    """Of each text, or of those before the first refused one."""
    refused: EngineError | None
    """Why a text was refused; None: none was."""


class Classifying:
    """Labels texts with an engine's classifiers."""

    def __init__(self, models: Models, reading: Reading, calls: CallsInProgress, totals: Totals) -> None:
        self._models = models
        self._reading = reading
        self._calls = calls
        self._totals = totals

    async def classify(self, text: str, model: str = "") -> tuple[LabelledText, Model]:
        """Label a text; returns the result, and the model that gave it.

        Args:
            text: the text
            model: name of the classifier; empty: the first one

        Raises:
            InvalidRequest: the text is empty, or too long.
            ModelNotFound, ModelOfAnotherTask, QuotaExceeded, TooMuchMemory, Overloaded, Draining, DecoderFailure: as
            their names say.
        """
        chosen = await self._chosen(model)
        if not text.strip():
            raise InvalidRequest("text", EMPTY)
        found = await TextToLabel(self._reading, chosen).read(text)
        self.given(found, chosen)
        return found, chosen

    async def begin(self, model: str = "") -> TextToLabel:
        """Begin a text that comes in parts; call `given` with the result at its end.

        Raises:
            InvalidRequest: the model's tokens are words.
            ModelNotFound, ModelOfAnotherTask, QuotaExceeded: as their names say.
        """
        chosen = await self._chosen(model)
        if chosen.bundle.manifest.unit is Unit.WORD:
            raise InvalidRequest(
                "start.model",
                f"{chosen.name!r} reads words, and whether one has ended only the text after it says; label the whole "
                "text (Classify), or use a model of characters or bytes",
            )
        return TextToLabel(self._reading, chosen)

    async def many(self, model: str = "", field_name: str = "texts") -> ManyLabels:
        """Begin a call with many texts.

        Args:
            model: as of `classify`
            field_name: name of the texts in the request, for errors

        Raises:
            ModelNotFound, ModelOfAnotherTask, QuotaExceeded: as their names say.
        """
        return ManyLabels(self, self._reading, await self._chosen(model), field_name)

    def given(self, found: LabelledText, model: Model) -> None:
        """Count a finished text by its label."""
        if found.label:
            self._totals.labels[model.name, found.label] += 1

    async def _chosen(self, model: str) -> Model:
        await self._calls.begin()
        return self._models.named(model, task=Task.CLASSIFICATION)


class TextToLabel:
    """A text that may come in parts; made by `Classifying`."""

    def __init__(self, reading: Reading, model: Model) -> None:
        labelling, head = model.bundle.manifest.labelling, model.head
        assert labelling is not None
        assert head is not None
        self.model = model
        self._reading = reading
        self._labelling: Labelling = labelling
        self._head: LabelHead = head
        self._state: Snapshot = model.fresh(0)
        """The state after the parts so far; its pending token is replaced by the next part's first."""
        self._space = ""
        """White space at the end of the parts so far: it belongs to the text only if something follows."""
        self._position = 0
        """Where `_space` begins, in characters."""
        self.latest = LabelledText(labelling.labels, (), 0, 0, (), 0)
        """The result for the text so far."""

    async def read(self, part: str) -> LabelledText:
        """Read the next part; returns the result for the text so far.

        Raises:
            InvalidRequest: the part is too long.
            QuotaExceeded, TooMuchMemory, Overloaded, Draining, DecoderFailure: as their names say.
        """
        check_length("text", self._space + part, self._reading.limits)
        tokens = self.take(part)
        if len(tokens):
            with self._reading.budget.held_for(of_reading(self.model.decoder.shape, len(tokens), None)):
                start, rest = self.work(tokens)
                after, _ = await self._reading.read(self.model, rest, start)
            self.went_on(after)
        return self.latest

    def take(self, part: str) -> Ints:
        """Add the next part; returns its tokens that the network has to read, for `work` and then `went_on`."""
        if (texts := current_call().texts) is not None:
            texts.read.add(part)
        before = self.latest
        tokens = self._tokens_of(self._space + part)
        read = tokens[: self._labelling.max_length - (before.tokens - before.left_out)]
        self.latest = replace(
            self.latest,
            tokens=before.tokens + len(tokens),
            left_out=before.left_out + len(tokens) - len(read),
        )
        return read

    def work(self, tokens: Ints) -> tuple[Snapshot, Ints]:
        """The start state and the tokens to feed, so that the network reads these tokens; at least one token."""
        return replace(self._state, pending=(int(tokens[0]),)), np.append(tokens[1:], READ_BY_NONE)

    def went_on(self, after: Snapshot) -> None:
        """Set the state after the tokens that `take` returned, and compute the result."""
        self._state = after
        probabilities = self._head.probabilities(after.state[0, -1]).tolist()
        self.latest = replace(self.latest, probabilities=probabilities)

    def _tokens_of(self, text: str) -> Ints:
        """Encode a part, without white space before the text or at the end of the part."""
        if not self.latest.tokens:
            begins = len(text) - len(text.lstrip())
            text, self._position = text[begins:], self._position + begins
        read = text.rstrip()
        self._space = text[len(read) :]
        if not read:
            return np.zeros(0, np.int64)
        found = self.model.vocabulary.encode_marked(read, self._labelling.unknown_token or 0)
        named = [UnknownSymbol(one.character, self._position + one.position) for one in found.unknown]
        self._position += len(read)
        if found.unknown_count:
            self.latest = replace(
                self.latest,
                unknown=(*self.latest.unknown, *named)[:SHOWN_UNKNOWNS],
                unknown_count=self.latest.unknown_count + found.unknown_count,
            )
        return found.tokens


class ManyLabels:
    """Labels many texts, some at a time; made by `Classifying.many`."""

    def __init__(self, classifying: Classifying, reading: Reading, model: Model, field_name: str) -> None:
        self.model = model
        self._classifying = classifying
        self._reading = reading
        self._field_name = field_name
        self._count = 0
        """Number of texts so far."""

    async def read(self, texts: Sequence[str]) -> LabelledTexts:
        """Label the next texts together; with a batch-invariant decoder, each result equals, bit for bit, that of the
        text alone. A text of only white space gets no label.

        Raises:
            InvalidRequest: there are too many, or none.
            TooMuchMemory, Overloaded, Draining, DecoderFailure: as their names say.
        """
        check_count(self._field_name, texts)
        number, self._count = self._count, self._count + len(texts)
        taken: list[tuple[TextToLabel, Ints]] = []
        refused: EngineError | None = None
        characters = 0
        for text in texts:
            try:
                check_length(f"{self._field_name}[{number + len(taken)}]", text, self._reading.limits)
            except (InvalidRequest, QuotaExceeded) as problem:
                refused = problem
                break
            if (characters := characters + len(text)) > CHARACTERS_AT_ONCE:
                await asyncio.sleep(0)
                characters = len(text)
            one = TextToLabel(self._reading, self.model)
            taken.append((one, one.take(text).copy()))  # not a view, which would keep the left-out tokens in memory
        await self._read([(one, tokens) for one, tokens in taken if len(tokens)])
        for one, _ in taken:
            self._classifying.given(one.latest, self.model)
        return LabelledTexts([one.latest for one, _ in taken], refused)

    async def _read(self, taken: Sequence[tuple[TextToLabel, Ints]]) -> None:
        """Read these texts with the network, each with at least one token."""
        if not taken:
            return
        tokens = sum(len(tokens) for _, tokens in taken)
        with self._reading.budget.held_for(of_reading(self.model.decoder.shape, tokens, None, len(taken))):
            found = await self._reading.read_together(self.model, [one.work(tokens) for one, tokens in taken])
        for (one, _), (after, _) in zip(taken, found, strict=True):
            one.went_on(after)
