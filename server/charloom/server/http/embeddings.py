"""POST /v1/embeddings: the top layer's hidden state after a text, as a vector."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PlainValidator, WithJsonSchema

from charloom.bundle import Task
from charloom.engine.calls.requests import ReadingRequest, Text
from charloom.engine.decoding.decoder import Floats
from charloom.engine.engine import Engine
from charloom.engine.errors import InvalidRequest
from charloom.engine.limits import MOST_CONTINUATIONS
from charloom.engine.loom.model import Model
from charloom.engine.sessions.session import Key
from charloom.server.caller import current_caller
from charloom.server.http.bodies import Body, Count
from charloom.server.http.exchange import Exchange, list_of
from charloom.server.http.sampling import TEXTS_SCHEMA, texts_of
from charloom.server.merged import together


class EmbeddingBody(Body):
    """Texts."""

    model: str = Field("", description="a model of /v1/models; empty for the default one")
    input: Annotated[Sequence[Text], PlainValidator(texts_of), WithJsonSchema(TEXTS_SCHEMA)] = Field(
        description="text, texts, token ids, or lists of token ids"
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="numbers, or base64 of float32 in little-endian order"
    )
    dimensions: Count | None = Field(None, description="refused where it is not that of the model")
    user: str = Field("", description="taken, as others take it, and not used")


class Embeddings:
    """Answers requests for embeddings."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def answer(self, exchange: Exchange, body: EmbeddingBody) -> None:
        """The vector of each text."""
        model = self._engine.model(body.model, Task.LANGUAGE_MODEL).used()
        size = model.bundle.manifest.cell.hidden_size
        if body.dimensions not in (None, size):
            raise InvalidRequest("dimensions", f"the model has {size}; leave it out")
        if len(body.input) > MOST_CONTINUATIONS:
            raise InvalidRequest("input", f"{len(body.input)} texts are too many; up to {MOST_CONTINUATIONS}")
        found = await together([self._read(model, number, text) for number, text in enumerate(body.input)])
        data = [
            {"object": "embedding", "index": number, "embedding": _told(vector, body.encoding_format)}
            for number, (vector, _) in enumerate(found)
        ]
        await exchange.answer(list_of(model, data, sum(tokens for _, tokens in found)))

    async def _read(self, model: Model, number: int, text: Text) -> tuple[Floats, int]:
        """The vector of a text, and how many tokens it has."""
        if not len(text):
            raise InvalidRequest(f"input[{number}]", "it is empty; there is nothing to read")
        key = Key(current_caller().tenant, "")
        try:
            request = ReadingRequest(key=key, model=model.name, digest=model.digest, text=text)
            state, tokens = await self._engine.reading.state_after(request)
        except InvalidRequest as problem:
            raise InvalidRequest(f"input[{number}]", problem.problem) from problem
        hidden = state[0, -1]
        return hidden / np.linalg.norm(hidden), tokens


def _told(vector: Floats, encoding: str) -> list[float] | str:
    return vector.tolist() if encoding == "float" else base64.b64encode(vector.astype("<f4").tobytes()).decode()
