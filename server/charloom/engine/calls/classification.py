"""Labels for texts: the network reads a text on the loom, as any, and its last state says how probable each label is.

A text that comes in parts is read on from the state after the last part, so each part costs what it adds. What is told
after a part is, number for number, what is told of the whole text up to there.

Axis letters: A state arrays, L layers, H hidden, C labels, T time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from charloom.bundle import SHOWN_UNKNOWNS, LabelHead, Labelling, Task, Unit, UnknownSymbol
from charloom.engine.calls.price import of_reading
from charloom.engine.calls.reading import Reading
from charloom.engine.calls.requests import check_length
from charloom.engine.decoding.decoder import Ints
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.errors import InvalidRequest
from charloom.engine.loom.models import Model, Models
from charloom.engine.rates import Rates
from charloom.engine.telemetry import Totals, current_call

READ_BY_NONE = 0
"""The token that stands behind the last one of a text, so that the network reads that one."""


@dataclass(frozen=True)
class LabelledText:
    """What a classifier makes of a text, or of as much of it as has come."""

    labels: Sequence[str]
    """All that the model gives."""
    probabilities: Sequence[float]
    """[C], of each of them; empty where nothing but white space has come."""
    tokens: int
    """Tokens of the text, without the white space around it."""
    left_out: int
    """How many of them were not read, the text being longer than the model reads."""
    unknown: Sequence[UnknownSymbol]
    """The first of what the model has no symbol for, and read as unknown; positions are those in the text."""
    unknown_count: int
    """How many such there are in all."""

    @property
    def label(self) -> str:
        """The most probable one; empty where nothing but white space has come."""
        if not self.probabilities:
            return ""
        return self.labels[self.probabilities.index(max(self.probabilities))]


class Classifying:
    """Gives texts labels with an engine's classifiers."""

    def __init__(self, models: Models, reading: Reading, rates: Rates, totals: Totals) -> None:
        self._models = models
        self._reading = reading
        self._rates = rates
        self._totals = totals

    async def classify(self, text: str, model: str = "", digest: str = "") -> tuple[LabelledText, Model]:
        """The label of a text, and the model that gave it.

        Args:
            text: the text
            model: name of the classifier; empty: the first one
            digest: of the version that the call has in use already; empty: the one that serves

        Raises:
            InvalidRequest: the text is empty, or too long.
            ModelNotFound, ModelOfAnotherTask, QuotaExceeded, TooMuchMemory, Overloaded, Draining, DecoderFailure: as
            their names say.
        """
        chosen = await self._chosen(model, digest)
        if not text.strip():
            raise InvalidRequest("text", "it is empty; give a text to label")
        found = await TextToLabel(self._reading, chosen).read(text)
        self.given(found, chosen)
        return found, chosen

    async def begin(self, model: str = "") -> TextToLabel:
        """Begin a text that comes in parts; tell `given` how it ended.

        Raises:
            InvalidRequest: the model reads words.
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

    def given(self, found: LabelledText, model: Model) -> None:
        """Count a text that has its label."""
        if found.label:
            self._totals.labels[model.name, found.label] += 1

    async def _chosen(self, model: str, digest: str = "") -> Model:
        await self._rates.admit()
        return self._models.named(model, digest, Task.CLASSIFICATION)


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
        """Its pending token has no meaning here."""
        self._space = ""
        """White space at the end of what has come: it belongs to the text once something follows it."""
        self._position = 0
        """Where that begins, in characters."""
        self.latest = LabelledText(labelling.labels, (), 0, 0, (), 0)
        """What the text so far is."""

    async def read(self, part: str) -> LabelledText:
        """Read on; returns what the text so far is.

        Raises:
            InvalidRequest: the part is too long.
            QuotaExceeded, TooMuchMemory, Overloaded, Draining, DecoderFailure: as their names say.
        """
        text = self._space + part
        check_length("text", text, self._reading.limits)
        if (texts := current_call().texts) is not None:
            texts.read.add(part)
        before = self.latest
        tokens = self._tokens_of(text)
        read = tokens[: self._labelling.max_length - (before.tokens - before.left_out)]
        if len(read):
            with self._reading.budget.held_for(of_reading(self.model.decoder.shape, len(read), None)):
                await self._go_on(read)
        self.latest = replace(
            self.latest,
            tokens=before.tokens + len(tokens),
            left_out=before.left_out + len(tokens) - len(read),
        )
        return self.latest

    def _tokens_of(self, text: str) -> Ints:
        """Those of a part, without the white space before the text or at its end."""
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
        self.latest = replace(
            self.latest,
            unknown=(*self.latest.unknown, *named)[:SHOWN_UNKNOWNS],
            unknown_count=self.latest.unknown_count + found.unknown_count,
        )
        return found.tokens

    async def _go_on(self, tokens: Ints) -> None:
        """Let the network read these tokens, at least one."""
        start = replace(self._state, pending=(int(tokens[0]),))
        self._state, _ = await self._reading.read(self.model, np.append(tokens[1:], READ_BY_NONE), start)
        probabilities = self._head.probabilities(self._state.state[0, -1]).tolist()
        self.latest = replace(self.latest, probabilities=probabilities)
