"""POST /v1/score: how probable texts are, each by itself."""

from __future__ import annotations

from pydantic import Field

from charloom.engine.calls.requests import ReadingRequest
from charloom.engine.engine import Engine
from charloom.engine.sessions.session import Key
from charloom.server.caller import current_caller
from charloom.server.http.bodies import Items, ReadingBody
from charloom.server.http.exchange import Exchange, list_of


class ScoreBody(ReadingBody):
    """Texts, each to be read by itself."""

    model: str = Field("", description="a model of /v1/models; empty for the session's, or the default one")
    texts: Items[str] = Field(description="the texts")
    session_id: str = Field("", description="the session from whose state each is read; it stays as it is")


class Reading:
    """Answers requests to read texts."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def score(self, exchange: Exchange, body: ScoreBody) -> None:
        """How probable each of some texts is, as a whole."""
        key = Key(current_caller().tenant, body.session_id)
        request = ReadingRequest(key=key, model=body.model, skip_unknown=body.skip_unknown)
        scores = await self._engine.reading.score_many(request)
        found = await scores.read(body.texts, whole=True)
        data = [
            {
                "object": "score",
                "index": number,
                "tokens": len(one.logprobs),
                "logprob": -one.nats,
                "nats_per_token": one.nats_per_token,
                "bits_per_character": one.bits_per_character(scores.model.vocabulary),
                "perplexity": one.perplexity,
            }
            for number, one in enumerate(found.scored)
        ]
        read = sum(len(one.logprobs) for one in found.scored)
        await exchange.answer(list_of(scores.model, data, read))
