"""POST /v1/rank and /v1/suggest: how probable texts are after a state, and which are the most probable ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from charloom.engine.calls.beam_search import Boundary
from charloom.engine.calls.requests import ReadingRequest
from charloom.engine.calls.suggesting import SuggestionRequest
from charloom.engine.constraints.constraint import Constraint, Kind
from charloom.engine.engine import Engine
from charloom.engine.errors import InvalidRequest
from charloom.engine.limits import DEFAULT_BEAM, DEFAULT_SUGGESTED, DEFAULT_SUGGESTIONS
from charloom.engine.sessions.session import Key
from charloom.server.caller import current_caller
from charloom.server.http.bodies import Count, Items, ReadingBody
from charloom.server.http.constraints import MatchingBody, constraint_of
from charloom.server.http.exchange import Exchange, list_of
from charloom.server.http.sampling import decoded_state


class SuggestingBody(ReadingBody):
    """What comes before the texts."""

    model: str = Field("", description="a model of /v1/models; empty for the session's, or the default one")
    prompt: str = Field("", description="what is read first")
    session_id: str = Field("", description="the session to start from; it stays as it is")
    state: str = Field("", description="a sealed state to start from, in base64")


class RankBody(SuggestingBody):
    """Texts to compare."""

    candidates: Items[str] = Field(description="the texts, none of them empty")


class SuggestBody(SuggestingBody, MatchingBody):
    """Texts to find."""

    count: Count = Field(DEFAULT_SUGGESTIONS, description="how many texts")
    boundary: Literal["word", "line", "length"] = Field("word", description="where each ends, without a constraint")
    pattern: str | None = Field(None, description="`regex` under its older name")
    max_tokens: Count = Field(DEFAULT_SUGGESTED, description="the most tokens of a text")
    beam: Count | None = Field(None, description=f"how many texts are open at a time; {DEFAULT_BEAM}, or count if more")

    def constraints(self) -> Iterator[Constraint]:
        """As of `MatchingBody`."""
        if self.pattern is not None:
            yield Constraint(Kind.REGEX, (self.pattern,), "pattern")
        yield from super().constraints()


class Suggesting:
    """Answers requests about which texts are probable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def rank(self, exchange: Exchange, body: RankBody) -> None:
        """How probable each of some texts is."""
        ranking = await self._engine.suggesting.rank(_start(body), body.candidates)
        read = ranking.prompt_tokens + sum(one.tokens for one in ranking.candidates)
        data = [
            {
                "object": "ranked_text",
                "index": number,
                "logprob": one.logprob,
                "tokens": one.tokens,
                "probability": one.probability,
            }
            for number, one in enumerate(ranking.candidates)
        ]
        await exchange.answer(list_of(ranking.model, data, read, position=ranking.position))

    async def suggest(self, exchange: Exchange, body: SuggestBody) -> None:
        """The most probable texts."""
        boundary, constraint = Boundary(body.boundary), constraint_of(body)
        if constraint is not None and boundary is not Boundary.WORD:
            raise InvalidRequest(
                "boundary", f"{constraint.field} says already where a text ends; leave one of the two out"
            )
        request = SuggestionRequest(_start(body), body.count, boundary, constraint, body.max_tokens, body.beam)
        found = await self._engine.suggesting.suggest(request)
        data = [
            {
                "object": "suggestion",
                "index": number,
                "text": one.text,
                "tokens": one.tokens,
                "logprob": one.logprob,
                "ended": one.ended,
            }
            for number, one in enumerate(found.texts)
        ]
        more = {"position": found.position, "beam": request.width, "exact": found.exact}
        await exchange.answer(list_of(found.model, data, found.prompt_tokens, **more))


def _start(body: SuggestingBody) -> ReadingRequest:
    return ReadingRequest(
        key=Key(current_caller().tenant, body.session_id),
        model=body.model,
        state=decoded_state(body.state),
        text=body.prompt,
        skip_unknown=body.skip_unknown,
    )
