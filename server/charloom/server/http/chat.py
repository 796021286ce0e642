"""POST /v1/chat/completions: the assistant's next message, from messages in the form of the model's template."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from charloom.bundle import TRANSCRIPT, ChatTemplate, Role, Vocabulary
from charloom.engine.calls.requests import within
from charloom.engine.engine import Engine
from charloom.engine.errors import InvalidRequest
from charloom.engine.limits import MOST_ALTERNATIVES, MOST_CONTINUATIONS
from charloom.engine.loom.model import Model
from charloom.server.caller import current_caller
from charloom.server.continuations import begin_continuations
from charloom.server.http.bodies import Body, Count, Items
from charloom.server.http.choices import ESCAPED, UNFINISHED, Form, Part, most_tokens, streamed, whole
from charloom.server.http.exchange import Exchange
from charloom.server.http.json_parts import NULL, Json, member, members
from charloom.server.http.logprobs import Entries
from charloom.server.http.sampling import GenerationBody, model_of, request_of

MOST_MESSAGES = 4096
"""Most messages of a conversation, parts included: checking each takes the event loop some ten microseconds."""
ALTERNATIVE = 70
"""Bytes of an answer for each alternative's entry, besides its text and its bytes."""
ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class TextContent(Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Body):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[Items[TextContent], Field(min_length=1, max_length=MOST_MESSAGES)]

    @property
    def text(self) -> str:
        """All of it."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(GenerationBody):
    """A conversation so far."""

    messages: Items[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_tokens: Count | None = Field(None, description="most tokens to generate")
    max_completion_tokens: Count | None = Field(None, description="the same under its newer name")
    logprobs: bool = Field(False, description="whether to tell log-probabilities of the tokens")
    top_logprobs: Count | None = Field(None, description="of so many alternatives too; needs logprobs")

    @field_validator("messages", mode="before")
    @classmethod
    def _of_few_parts(cls, value: Any) -> Any:
        """Limit the number of messages and parts before any of them is validated."""
        if isinstance(value, list):
            contents = [one.get("content") for one in value if isinstance(one, dict)]
            count = len(value) + sum(len(content) for content in contents if isinstance(content, list))
            if count > MOST_MESSAGES:
                raise ValueError(f"they and their parts are {count}; give up to {MOST_MESSAGES}")
        return value


def template_of(model: Model) -> ChatTemplate:
    """How messages become text for a model."""
    return model.bundle.manifest.chat or TRANSCRIPT


class Chat:
    """Answers requests for the next message of a conversation.

    Args:
        engine: generates
        largest: bytes of an answer that is no stream
    """

    def __init__(self, engine: Engine, largest: int) -> None:
        self._engine = engine
        self._largest = largest

    async def answer(self, exchange: Exchange, body: ChatBody) -> None:
        """Stream, or answer once all is there."""
        top = _checked(body)
        tenant = current_caller().tenant
        model = await model_of(body, self._engine, tenant)
        template = template_of(model)
        request = request_of(
            body,
            model,
            tenant,
            prompt=template.prompt([(ROLES[message.role], message.text) for message in body.messages]),
            max_tokens=body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens,
            logprobs=body.logprobs,
            top_logprobs=top,
            n=body.n,
            most_tokens=None
            if body.stream
            else most_tokens(
                self._largest, body.n, top if body.logprobs else None, escaped=ESCAPED + 4, alternative=ALTERNATIVE
            ),
        )
        if request.constraint is None:  # a constraint determines by itself where the text ends
            request = replace(request, template_stop=template.stop)
        try:
            generations = await begin_continuations(self._engine, request)
        except InvalidRequest as problem:
            if problem.field != "prompt":
                raise
            raise InvalidRequest("messages", f"as one text, {problem.problem}") from problem
        model = generations[0].model
        form = ChatForm(model.name, model.digest, constrained=request.constraint is not None)
        parts = [Part(model, request.prompt, generations)]
        if body.stream:
            await exchange.stream(streamed(parts, form, body.logprobs, body.stream_options.include_usage))
        else:
            await exchange.answer_in_parts(await whole(parts, form, body.logprobs, body.n))


def _checked(body: ChatBody) -> int:
    """How many alternatives are asked for."""
    within("n", body.n, 1, MOST_CONTINUATIONS)
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("top_logprobs", "it needs logprobs; set that too, or leave both out")
    top = body.top_logprobs or 0
    within("top_logprobs", top, 0, MOST_ALTERNATIVES)
    return top


class ChatForm(Form):
    """The JSON form of chat answers."""

    id_prefix, whole_object, chunk_object = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def columns(self, vocabulary: Vocabulary, offset: int, *, started: bool) -> Entries:
        """Makes the log-probabilities of a choice."""
        return Entries(vocabulary, constrained=self.constrained)

    def first(self, index: int) -> Json | None:
        """The first chunk of a choice, with the role."""
        return _choice(index, "delta", {"role": "assistant", "content": ""}, NULL, UNFINISHED)

    def chunk(self, index: int, text: str, logprobs: Json, ending: str) -> Json:
        """A piece of a choice."""
        return _choice(index, "delta", {"content": text} if text else {}, logprobs, ending)

    def whole(self, index: int, text: str, logprobs: Json, ending: str) -> Json:
        """A choice."""
        return _choice(index, "message", {"role": "assistant", "content": text, "refusal": None}, logprobs, ending)


def _choice(index: int, kind: str, message: dict[str, Any], logprobs: Json, ending: str) -> Json:
    told = f'"index":{index},"{kind}":{json.dumps(message)}'
    return members([[told.encode()], member("logprobs", logprobs), [ending.encode()]])
