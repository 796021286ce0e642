"""Texts to label to protobuf, and their labels from protobuf, for both clients.

Functions that build a request raise `InvalidValue` for a value that a message cannot carry.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from charloom.client import _values
from charloom.client._classification_types import LabelledText, UnknownPart
from charloom.client._errors import InternalError
from charloom.v1 import classification_pb2


def classify_request(text: str, model: str | None) -> classification_pb2.ClassifyRequest:
    """Build the request of Classify."""
    return classification_pb2.ClassifyRequest(text=_values.text("text", text), model=_model(model))


def classify_start(model: str | None) -> classification_pb2.ClassifyStreamRequest:
    """Build the first request of ClassifyStream."""
    start = classification_pb2.ClassifyStart(model=_model(model))
    return classification_pb2.ClassifyStreamRequest(start=start)


def classify_part(text: str) -> classification_pb2.ClassifyStreamRequest:
    """Build a further request of ClassifyStream."""
    return classification_pb2.ClassifyStreamRequest(text=_values.text("text", text))


def classify_many_start(model: str | None) -> classification_pb2.ClassifyManyRequest:
    """Build the first message of ClassifyMany."""
    return classification_pb2.ClassifyManyRequest(start=classification_pb2.ClassifyManyStart(model=_model(model)))


def classify_many_texts(texts: Sequence[str]) -> classification_pb2.ClassifyManyRequest:
    """Build a further message of ClassifyMany."""
    return classification_pb2.ClassifyManyRequest(texts=classification_pb2.ClassifyManyTexts(texts=texts))


def labelled_text(text: str, message: classification_pb2.LabelledText) -> tuple[str, LabelledText]:
    """Read the result of one of many texts."""
    return text, labelled(message)


def labelled(message: classification_pb2.LabelledText) -> LabelledText:
    """Read the labels of a text."""
    return LabelledText(
        label=message.label,
        probabilities={one.label: one.probability for one in message.probabilities},
        tokens=message.tokens,
        left_out=message.left_out,
        unknown=tuple(UnknownPart(text=part.text, position=part.position) for part in message.unknown),
        unknown_count=message.unknown_count,
    )


def labelled_part(message: classification_pb2.ClassifyStreamResponse | None) -> LabelledText:
    """Read the labels of a text after one of its parts.

    Raises:
        InternalError: the message is `None`, because the server closed the stream instead of answering.

    """
    if message is None:
        text = "the server closed the stream without an answer to this text"
        raise InternalError(text, code=grpc.StatusCode.INTERNAL)
    return labelled(message.labelled)


def _model(model: str | None) -> str:
    return "" if model is None else _values.text("model", model)
