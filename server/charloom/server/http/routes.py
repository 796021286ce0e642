"""All routes of the HTTP transport."""

from __future__ import annotations

from collections.abc import Sequence

from charloom.server.http.app import Route
from charloom.server.http.chat import Chat, ChatBody
from charloom.server.http.completions import CompletionBody, Completions
from charloom.server.http.models import Models
from charloom.server.http.tokenizers import DetokenizeBody, TokenizeBody, Tokenizers
from charloom.server.runtime import Runtime
from charloom.server.settings import ServerSettings


def routes_of(runtime: Runtime, settings: ServerSettings) -> Sequence[Route]:
    """The routes of a server."""
    engine = runtime.engine
    models, tokenizers = Models(runtime), Tokenizers(engine)
    completions, chat = Completions(engine, settings.max_message_bytes), Chat(engine, settings.max_message_bytes)
    return (
        Route("GET", "/health", "Whether the server takes calls", models.health),
        Route("GET", "/v1/models", "The models", models.list),
        Route("GET", "/v1/models/{model}", "A model", models.get),
        Route("POST", "/v1/completions", "Text that goes on from a prompt", completions.answer, CompletionBody),
        Route("POST", "/v1/chat/completions", "The next message of a conversation", chat.answer, ChatBody),
        Route("POST", "/tokenize", "The tokens of a text", tokenizers.tokenize, TokenizeBody),
        Route("POST", "/detokenize", "The text of tokens", tokenizers.detokenize, DetokenizeBody),
        Route("GET", "/tokenizer_info", "What a model's tokens are", tokenizers.info, query=frozenset({"model"})),
    )
