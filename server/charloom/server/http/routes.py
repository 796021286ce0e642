"""All routes of the HTTP transport."""

from __future__ import annotations

from collections.abc import Sequence

from charloom.server.http import sessions as of_sessions
from charloom.server.http.app import Route
from charloom.server.http.chat import Chat, ChatBody
from charloom.server.http.completions import CompletionBody, Completions
from charloom.server.http.embeddings import EmbeddingBody, Embeddings
from charloom.server.http.models import Models
from charloom.server.http.sessions import Sessions
from charloom.server.http.tokenizers import DetokenizeBody, TokenizeBody, Tokenizers
from charloom.server.runtime import Runtime
from charloom.server.settings import ServerSettings


def routes_of(runtime: Runtime, settings: ServerSettings) -> Sequence[Route]:
    """The routes of a server."""
    engine, largest = runtime.engine, settings.max_message_bytes
    models, tokenizers = Models(runtime), Tokenizers(engine)
    completions, chat, embeddings = Completions(engine, largest), Chat(engine, largest), Embeddings(engine)
    sessions, one = Sessions(engine), "/v1/sessions/{session_id}"
    return (
        Route("GET", "/health", "Whether the server takes calls", models.health),
        Route("GET", "/v1/models", "The models", models.list),
        Route("GET", "/v1/models/{model}", "A model", models.get),
        Route("POST", "/v1/completions", "Text that goes on from a prompt", completions.answer, CompletionBody),
        Route("POST", "/v1/chat/completions", "The next message of a conversation", chat.answer, ChatBody),
        Route("POST", "/v1/embeddings", "Texts as vectors", embeddings.answer, EmbeddingBody),
        Route("POST", "/tokenize", "The tokens of a text", tokenizers.tokenize, TokenizeBody),
        Route("POST", "/detokenize", "The text of tokens", tokenizers.detokenize, DetokenizeBody),
        Route("GET", "/tokenizer_info", "What a model's tokens are", tokenizers.info, query=frozenset({"model"})),
        Route("POST", "/v1/sessions", "Make a session", sessions.create, of_sessions.NewSession),
        Route("GET", "/v1/sessions", "A page of sessions", sessions.list, query=frozenset({"limit", "after"})),
        Route("POST", "/v1/sessions/blend", "Mix sessions", sessions.blend, of_sessions.BlendedSession),
        Route("POST", "/v1/sessions/import", "Open a sealed state", sessions.import_, of_sessions.ImportedSession),
        Route("GET", one, "A session", sessions.get),
        Route("PATCH", one, "Renew a session", sessions.renew, of_sessions.Renewal),
        Route("DELETE", one, "Forget a session", sessions.delete),
        Route("POST", f"{one}/feed", "Let a session read a text", sessions.feed, of_sessions.Feeding),
        Route("POST", f"{one}/rewind", "Put a session back", sessions.rewind, of_sessions.Rewinding),
        Route("POST", f"{one}/fork", "Copy a session", sessions.fork, of_sessions.Forking),
        Route("POST", f"{one}/export", "Seal a session's state", sessions.export, of_sessions.Sealing),
    )
