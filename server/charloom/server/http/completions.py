"""POST /v1/completions: text that continues a prompt, in the form of OpenAI's legacy route."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import Field, PlainValidator, WithJsonSchema

from charloom.bundle import Vocabulary
from charloom.engine.calls.requests import GenerationRequest, ReadingRequest, Text, check, within
from charloom.engine.engine import Engine
from charloom.engine.errors import InvalidRequest
from charloom.engine.limits import MOST_ALTERNATIVES, MOST_CONTINUATIONS
from charloom.engine.loom.model import Model
from charloom.engine.sessions.session import Key
from charloom.server.caller import current_caller
from charloom.server.continuations import begin_continuations
from charloom.server.http.bodies import Count
from charloom.server.http.choices import Form, Part, most_tokens, streamed, whole
from charloom.server.http.constraints import constraint_of
from charloom.server.http.exchange import Exchange
from charloom.server.http.json_parts import Json, member, members
from charloom.server.http.logprobs import Columns
from charloom.server.http.sampling import TEXTS_SCHEMA, GenerationBody, model_of, request_of, texts_of
from charloom.server.http.start import without_start
from charloom.server.merged import together


class CompletionBody(GenerationBody):
    """What is to be completed, and how."""

    prompt: Annotated[Sequence[Text], PlainValidator(texts_of), WithJsonSchema(TEXTS_SCHEMA)] = Field(
        default_factory=lambda: [""], description="text, texts, token ids, or lists of token ids"
    )
    max_tokens: Count | None = Field(None, description="most tokens to generate; 0 with echo only reads the prompt")
    best_of: Count | None = Field(None, description="of so many continuations, the n most probable ones are told")
    echo: bool = Field(False, description="whether the text begins with the prompt")
    logprobs: Count | None = Field(None, description="log-probabilities of the tokens, and of so many alternatives")
    suffix: str | None = Field(None, description="refused: the model reads forwards only")


class Completions:
    """Answers requests for completions.

    Args:
        engine: generates
        largest: bytes of an answer that is no stream
    """

    def __init__(self, engine: Engine, largest: int) -> None:
        self._engine = engine
        self._largest = largest

    async def answer(self, exchange: Exchange, body: CompletionBody) -> None:
        """Stream, or answer once all is there."""
        _check(body)
        tenant = current_caller().tenant
        count = body.best_of or body.n
        model = await model_of(body, self._engine, tenant)
        request = request_of(
            body,
            model,
            tenant,
            max_tokens=body.max_tokens,
            logprobs=body.logprobs is not None or count > body.n,
            top_logprobs=body.logprobs or 0,
            n=count,
            most_tokens=None if body.stream else most_tokens(self._largest, len(body.prompt) * count, body.logprobs),
        )
        parts = await together(
            [self._part(exchange, body, model, replace(request, prompt=prompt)) for prompt in body.prompt]
        )
        model = parts[0].model
        form = CompletionForm(model.name, model.digest, constrained=request.constraint is not None)
        if body.stream:
            await exchange.stream(streamed(parts, form, body.logprobs is not None, body.stream_options.include_usage))
        else:
            await exchange.answer_in_parts(await whole(parts, form, body.logprobs is not None, body.n))

    async def _part(self, exchange: Exchange, body: CompletionBody, model: Model, request: GenerationRequest) -> Part:
        """Score and generate for one prompt, as the body asks."""
        started = False
        if not (request.session_id or request.state):
            prompt, started = without_start(request.prompt, model.vocabulary)
            request = replace(request, prompt=prompt)
        scored = None
        if body.echo and (body.logprobs is not None or body.max_tokens == 0):
            # Check before anything is read; a request that generates nothing must pass the same checks.
            wanted = replace(request, prompt="", max_tokens=1 if body.max_tokens == 0 else body.max_tokens)
            check(wanted, self._engine.limits, model.vocabulary, model.decoder.lacks)
            if request.state:
                raise InvalidRequest("echo", "log-probabilities of a prompt that goes on from a state are not told")
            # Every choice of a whole answer repeats the echo; a stream sends it for all choices at once.
            scored, _ = await self._engine.reading.score(_reading(request, times=1 if body.stream else body.n))
            if request.session_id:  # the generation must start from the position at which the prompt was read
                request = replace(request, expected_position=scored.position - len(scored.logprobs))
        if body.max_tokens == 0:
            return Part(model, request.prompt, (), scored, body.echo, started)
        generations = await begin_continuations(self._engine, request)
        return Part(generations[0].model, request.prompt, generations, scored, body.echo, started)


def _check(body: CompletionBody) -> None:
    if body.suffix:
        raise InvalidRequest("suffix", "the model reads forwards only, and cannot write towards a text; leave it out")
    within("n", body.n, 1, MOST_CONTINUATIONS)
    if body.best_of is not None:
        within("best_of", body.best_of, body.n, MOST_CONTINUATIONS)
        if body.resample:
            raise InvalidRequest("best_of", "the weights of resampled texts are of all of them; leave one out")
        if body.stream and body.best_of > body.n:
            raise InvalidRequest("best_of", "the best are known once all have ended; leave out stream or best_of")
    if (sequences := len(body.prompt) * (body.best_of or body.n)) > MOST_CONTINUATIONS:
        raise InvalidRequest("prompt", f"prompts and continuations make {sequences} texts; up to {MOST_CONTINUATIONS}")
    if body.session_id and len(body.prompt) > 1:
        raise InvalidRequest("prompt", "a session goes on with one prompt; give one, or leave session_id out")
    if body.logprobs is not None:
        within("logprobs", body.logprobs, 0, MOST_ALTERNATIVES)
    if body.max_tokens == 0 and not (body.echo and body.n == 1 and body.best_of in (None, 1)):
        raise InvalidRequest("max_tokens", "0 is for one continuation with echo, which tells of the prompt alone")
    if body.max_tokens == 0:
        asked = {"return_state": body.return_state, "min_tokens": body.min_tokens, "resample": body.resample}
        if (constraint := constraint_of(body)) is not None:
            asked[constraint.field] = True
        if (name := next((name for name, value in asked.items() if value), None)) is not None:
            raise InvalidRequest(name, "max_tokens is 0, which generates nothing; leave one of the two out")


def _reading(request: GenerationRequest, times: int) -> ReadingRequest:
    """The prompt of a request as a text to score."""
    return ReadingRequest(
        key=Key(request.tenant, request.session_id),
        model=request.model,
        digest=request.digest,
        text=request.prompt,
        skip_unknown=request.skip_unknown,
        top_logprobs=request.top_logprobs,
        most_tokens=request.most_tokens,
        told=request.told,
        times=times,
        expected_position=request.expected_position,
    )


class CompletionForm(Form):
    """The JSON form of completions."""

    id_prefix, whole_object, chunk_object = "cmpl-", "text_completion", "text_completion"

    def columns(self, vocabulary: Vocabulary, offset: int, *, started: bool) -> Columns:
        """Makes the log-probabilities of a choice."""
        return Columns(vocabulary, offset, started=started, constrained=self.constrained)

    def chunk(self, index: int, text: str, logprobs: Json, ending: str) -> Json:
        """A piece of a choice."""
        told = f'"index":{index},"text":{json.dumps(text)}'
        return members([[told.encode()], member("logprobs", logprobs), [ending.encode()]])

    whole = chunk
