"""All routes of the HTTP transport."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence

from charloom.engine.limits import LARGEST_PAGE
from charloom.server.http import sessions as of_sessions
from charloom.server.http.app import Route
from charloom.server.http.chat import Chat, ChatBody
from charloom.server.http.classification import Classification, ClassifyBody
from charloom.server.http.completions import CompletionBody, Completions
from charloom.server.http.embeddings import EmbeddingBody, Embeddings
from charloom.server.http.inference import OCTETS, OpenInference
from charloom.server.http.inference_bodies import IndexBody, InferBody, read_infer, read_json
from charloom.server.http.inspection import Inspect, InspectBody
from charloom.server.http.models import Models
from charloom.server.http.openapi import Document
from charloom.server.http.page import Page
from charloom.server.http.reading import Reading, ScoreBody
from charloom.server.http.response_schemas import (
    CHAT,
    COMPLETION,
    DOCUMENT,
    EMBEDDINGS,
    HEALTH,
    INFERENCE,
    INFERENCE_MODEL,
    INFERENCE_SERVER,
    INSPECTION,
    LABELS,
    LIVE,
    MODEL,
    MODELS,
    PROMPT,
    RANKING,
    READY,
    REPOSITORY,
    SCORES,
    SESSION,
    SESSIONS,
    STATE,
    SUGGESTIONS,
    TEXT,
    TOKENIZER,
    TOKENS,
    VERDICTS,
)
from charloom.server.http.sessions import Sessions
from charloom.server.http.suggesting import RankBody, SuggestBody, Suggesting
from charloom.server.http.tokenizers import DetokenizeBody, TokenizeBody, Tokenizers
from charloom.server.http.watching import WatchBody, Watching
from charloom.server.runtime import Runtime
from charloom.server.settings import ServerSettings

EVENTS = "text/event-stream"


def routes_of(runtime: Runtime, settings: ServerSettings) -> Sequence[Route]:
    """The routes of a server."""
    engine, largest = runtime.engine, settings.max_message_bytes
    models, tokenizers = Models(runtime), Tokenizers(engine)
    completions, chat, embeddings = Completions(engine, largest), Chat(engine, largest), Embeddings(engine)
    reading, suggesting = Reading(engine), Suggesting(engine)
    classification, watching = Classification(engine), Watching(engine)
    sessions, one = Sessions(runtime), "/v1/sessions/{session_id}"
    routes = (
        Route("GET", "/health", "Whether the server takes calls", models.health, HEALTH),
        Route("GET", "/v1/models", "The models", models.list, MODELS),
        Route("GET", "/v1/models/{model}", "A model", models.get, MODEL),
        Route(
            "POST",
            "/v1/completions",
            "Text that goes on from a prompt",
            completions.answer,
            COMPLETION,
            CompletionBody,
            other_content_type=EVENTS,
        ),
        Route(
            "POST",
            "/v1/chat/completions",
            "The next message of a conversation",
            chat.answer,
            CHAT,
            ChatBody,
            other_content_type=EVENTS,
        ),
        Route("POST", "/v1/embeddings", "Texts as vectors", embeddings.answer, EMBEDDINGS, EmbeddingBody),
        Route("POST", "/v1/score", "How probable texts are, each by itself", reading.score, SCORES, ScoreBody),
        Route("POST", "/v1/rank", "How probable each of some texts is", suggesting.rank, RANKING, RankBody),
        Route("POST", "/v1/classify", "Labels for texts", classification.answer, LABELS, ClassifyBody),
        Route("POST", "/v1/watch", "Which lines of logs are unlike those before", watching.answer, VERDICTS, WatchBody),
        Route(
            "POST",
            "/v1/inspect",
            "What the units of the network do while it reads a text",
            Inspect(engine, largest).answer,
            INSPECTION,
            InspectBody,
        ),
        Route("POST", "/v1/suggest", "The most probable texts", suggesting.suggest, SUGGESTIONS, SuggestBody),
        Route("POST", "/tokenize", "The tokens of a text", tokenizers.tokenize, TOKENS, TokenizeBody),
        Route("POST", "/detokenize", "The text of tokens", tokenizers.detokenize, PROMPT, DetokenizeBody),
        Route("GET", "/tokenizer_info", "What a model's tokens are", tokenizers.info, TOKENIZER, query={"model": TEXT}),
        Route("POST", "/v1/sessions", "Make a session", sessions.create, SESSION, of_sessions.NewSession, status=201),
        Route(
            "GET",
            "/v1/sessions",
            "A page of sessions, in the order of their ids",
            sessions.list,
            SESSIONS,
            query={"limit": {"type": "integer", "minimum": 1, "maximum": LARGEST_PAGE}, "after": TEXT},
        ),
        Route(
            "POST",
            "/v1/sessions/blend",
            "Make a session whose state is the mean of others' states",
            sessions.blend,
            SESSION,
            of_sessions.BlendedSession,
            status=201,
        ),
        Route(
            "POST",
            "/v1/sessions/import",
            "Make a session of a sealed state",
            sessions.import_,
            SESSION,
            of_sessions.ImportedSession,
            status=201,
        ),
        Route("GET", one, "A session", sessions.get, SESSION),
        Route("PATCH", one, "Renew a session", sessions.renew, SESSION, of_sessions.Renewal),
        Route("DELETE", one, "Forget a session", sessions.delete, SESSION),
        Route("POST", f"{one}/feed", "Let a session read a text", sessions.feed, SESSION, of_sessions.Feeding),
        Route("POST", f"{one}/rewind", "Put a session back", sessions.rewind, SESSION, of_sessions.Rewinding),
        Route("POST", f"{one}/move", "Move a session to another model", sessions.move, SESSION, of_sessions.Moving),
        Route("POST", f"{one}/fork", "Copy a session", sessions.fork, SESSIONS, of_sessions.Forking, status=201),
        Route("POST", f"{one}/export", "Seal a session's state", sessions.export, STATE, of_sessions.Sealing),
        *_open_inference(OpenInference(runtime)),
    )
    described = Document(routes, importlib.metadata.version("charloom"))
    document = Route("GET", "/openapi.json", "This document", described.answer, DOCUMENT)
    return (*routes, document, *(_playground(Page()) if settings.playground else ()))


def _playground(page: Page) -> Iterator[Route]:
    """The page at /; it is for people, so the document says nothing of it."""
    yield Route("GET", "/", "The playground", page.index, TEXT)
    yield Route("GET", "/play/{file}", "A file of it", page.file, TEXT)


def _open_inference(served: OpenInference) -> Iterator[Route]:
    """Those of the Open Inference Protocol."""
    yield Route("GET", "/v2/health/live", "Whether the server runs", served.live, LIVE)
    yield Route("GET", "/v2/health/ready", "Whether the server takes calls", served.ready, READY)
    yield Route(
        "GET", "/v2", "The server, as the Open Inference Protocol describes it", served.server, INFERENCE_SERVER
    )
    for model, which in (
        ("/v2/models/{model}", "a model"),
        ("/v2/models/{model}/versions/{version}", "a version of a model"),
    ):
        yield Route("GET", model, f"The tensors of {which}", served.model, INFERENCE_MODEL)
        yield Route("GET", f"{model}/ready", f"Whether {which} takes calls", served.model_ready, READY)
        yield Route(
            "POST",
            f"{model}/infer",
            f"Text that {which} goes on with, as tensors",
            served.infer,
            INFERENCE,
            InferBody,
            parse=read_infer,
            other_content_type=OCTETS,
        )
    yield Route(
        "POST",
        "/v2/repository/index",
        "The models, and those that are about to go",
        served.index,
        REPOSITORY,
        IndexBody,
        body_needed=False,
        parse=read_json,
    )
