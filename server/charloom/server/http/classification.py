"""POST /v1/classify: labels for texts."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PlainValidator

from charloom.engine.calls.classification import EMPTY, LabelledText
from charloom.engine.engine import Engine
from charloom.engine.errors import InvalidRequest
from charloom.server.http.bodies import Body
from charloom.server.http.exchange import Exchange, list_of


def _texts(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(one, str) for one in texts):
        raise ValueError("give a string, or a list of strings")
    return texts


class ClassifyBody(Body):
    """Texts to label."""

    model: str = Field("", description="a classifier of /v1/models; empty for the first one")
    input: Annotated[str | list[str], PlainValidator(_texts, json_schema_input_type=str | list[str])] = Field(
        description="text or texts; white space around them does not count"
    )


class Classification:
    """Answers requests for labels."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def answer(self, exchange: Exchange, body: ClassifyBody) -> None:
        """The label of each text."""
        many = await self._engine.classifying.many(body.model, "input")
        for number, text in enumerate(body.input):
            if not text.strip():
                raise InvalidRequest(f"input[{number}]", EMPTY)
        found = await many.read(body.input)
        if found.refused is not None:
            raise found.refused
        data = [_told(number, one) for number, one in enumerate(found.labelled)]
        read = sum(one.tokens - one.left_out for one in found.labelled)
        await exchange.answer(list_of(many.model, data, read))


def _told(number: int, found: LabelledText) -> dict[str, Any]:
    return {
        "object": "labelled_text",
        "index": number,
        "label": found.label,
        "probabilities": dict(zip(found.labels, found.probabilities, strict=True)),
        "tokens": found.tokens,
        "left_out": found.left_out,
        "unknown": [{"text": part.character, "position": part.position} for part in found.unknown],
        "unknown_count": found.unknown_count,
    }
