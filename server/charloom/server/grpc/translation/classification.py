"""classification.proto: what a classifier makes of a text."""

from __future__ import annotations

from charloom.engine.calls.classification import LabelledText
from charloom.v1 import classification_pb2


def from_labelled(found: LabelledText) -> classification_pb2.LabelledText:
    """The message for what a text is."""
    chances = zip(found.labels, found.probabilities, strict=False)  # there are none before any text
    return classification_pb2.LabelledText(
        label=found.label,
        probabilities=[
            classification_pb2.LabelProbability(label=label, probability=chance) for label, chance in chances
        ],
        tokens=found.tokens,
        left_out=found.left_out,
        unknown=[classification_pb2.UnknownPart(text=part.character, position=part.position) for part in found.unknown],
        unknown_count=found.unknown_count,
    )
