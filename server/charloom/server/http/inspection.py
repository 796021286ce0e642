"""POST /v1/inspect: gates and state of every unit while the network reads a text, gRPC's Inspect as one JSON answer."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from charloom.engine.calls.inspection import InspectionRequest
from charloom.engine.decoding.decoder import Floats
from charloom.engine.engine import Engine
from charloom.engine.errors import InvalidRequest
from charloom.engine.sessions.session import Key
from charloom.server.caller import current_caller
from charloom.server.http.bodies import Count, Items, ReadingBody
from charloom.server.http.choices import SPARE
from charloom.server.http.exchange import Exchange, json_of
from charloom.server.http.json_parts import Json, array, member, members
from charloom.server.http.logprobs import token_text

NUMBER_BYTES = {"float": 26, "base64": 6}
"""The most bytes of an answer for a number."""
HELD_BYTES = {"float": 26, "base64": 14}
"""The most bytes of memory per number until the answer is sent: packed numbers exist as rows, as an array and as text.
"""
HELD_ROW, HELD_TOKEN = 96, 512
"""Bytes of memory per token besides its numbers: in each array, and for text, log-probability and position."""


class InspectBody(ReadingBody):
    """A text to inspect."""

    model: str = Field("", description="a model of /v1/models; empty for the session's, or the default one")
    session_id: str = Field("", description="reads on from where this session stands, and leaves it there")
    text: str
    layers: Items[Count] = Field(default_factory=list, description="from 0 on; all if there are none")
    arrays: Items[str] = Field(
        default_factory=list, description="gates and states, as `cell` in /v1/models names them; all if there are none"
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="rows of numbers, or base64 of float32 in little-endian order, tokens x units"
    )


class Inspect:
    """Answers requests to look inside.

    Args:
        engine: inspects
        largest: bytes of an answer
    """

    def __init__(self, engine: Engine, largest: int) -> None:
        self._engine = engine
        self._largest = largest

    async def answer(self, exchange: Exchange, body: InspectBody) -> None:
        """Answer with the gates and states of all tokens, as columns."""
        request = InspectionRequest(
            key=Key(current_caller().tenant, body.session_id),
            model=body.model,
            text=body.text,
            skip_unknown=body.skip_unknown,
            layers=body.layers,
        )
        inspection = await self._engine.inspections.inspect(request)
        model = inspection.model
        cell, vocabulary = model.bundle.manifest.cell, model.vocabulary
        arrays = list(dict.fromkeys(body.arrays)) or [*cell.gates, *cell.arrays]
        for number, name in enumerate(arrays):
            if name not in (*cell.gates, *cell.arrays):
                raise InvalidRequest(f"arrays[{number}]", f"the model has {', '.join((*cell.gates, *cell.arrays))}")
        each = len(inspection.layers) * len(arrays) * cell.hidden_size * NUMBER_BYTES[body.encoding_format]
        if inspection.length > (most := max(0, self._largest - SPARE) // each):
            raise InvalidRequest(
                "text", f"the answer could be too large; up to {most} tokens fit: ask for less of each"
            )
        numbers = cell.hidden_size * HELD_BYTES[body.encoding_format] + HELD_ROW
        self._engine.budget.hold(inspection.length * (len(inspection.layers) * len(arrays) * numbers + HELD_TOKEN))
        texts: list[str] = []
        logprobs: list[float] = []
        positions: list[int] = []
        rows: dict[tuple[int, str], list[bytes]] = {(layer, name): [] for layer in inspection.layers for name in arrays}
        async for token in inspection.tokens:
            texts.append(token_text(vocabulary, token.token))
            logprobs.append(token.logprob)
            positions.append(token.position)
            for place, layer in enumerate(inspection.layers):
                found = dict(zip(cell.gates, token.gates[place], strict=True))
                found.update(zip(cell.arrays, token.state[:, place], strict=True))
                for name in arrays:
                    rows[layer, name].append(_row(found[name], body.encoding_format))
            await asyncio.sleep(0)  # others are served between two tokens
        head = json_of(
            {
                "object": "inspection",
                "model": model.name,
                "units": cell.hidden_size,
                "tokens": texts,
                "token_logprobs": logprobs,
                "positions": positions,
            }
        )
        told = [
            members(
                [
                    [json_of({"layer": layer, "name": name})[1:-1]],
                    member("values", _values(found, body.encoding_format)),
                ]
            )
            for (layer, name), found in rows.items()
        ]
        await exchange.answer_in_parts(members([[head[1:-1]], member("activations", array(told))]))


def _row(values: Floats, encoding: str) -> bytes:
    """Encode one token's row of one array."""
    return json_of(values.tolist()) if encoding == "float" else values.astype("<f4").tobytes()


def _values(rows: Sequence[bytes], encoding: str) -> Json:
    """All rows of one array, as JSON."""
    return array([row] for row in rows) if encoding == "float" else [b'"', base64.b64encode(b"".join(rows)), b'"']
