"""What callers may do: the scopes, and the one table of the scope that each call needs."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Scope(str, Enum):
    """Something that a caller may do."""

    READ = "read"
    """Ask for models, score, rank and label texts, look ahead, observe."""
    GENERATE = "generate"
    """Have text generated, with or without a session of the caller's tenant."""
    SESSIONS = "sessions"
    """Make, list, copy, move and delete sessions."""
    INSPECT = "inspect"
    """See what is inside the network while it reads."""
    ADMIN = "admin"
    """See what the server does for whom; change what it serves; list, export and erase what it keeps of any tenant."""


SERVICES = {
    "charloom.v1.GenerationService": Scope.GENERATE,
    "charloom.v1.ConversationService": Scope.GENERATE,
    "charloom.v1.ReadingService": Scope.READ,
    "charloom.v1.SuggestingService": Scope.READ,
    "charloom.v1.ClassificationService": Scope.READ,
    "charloom.v1.WatchingService": Scope.SESSIONS,  # it keeps sources as sessions
    "charloom.v1.SessionService": Scope.SESSIONS,
    "charloom.v1.ModelService": Scope.READ,
    "charloom.v1.TenantService": Scope.ADMIN,
    "charloom.v1.StatusService": Scope.ADMIN,  # it names all tenants, and how much each asks for
    "grpc.reflection.v1alpha.ServerReflection": Scope.READ,
    "inference.GRPCInferenceService": Scope.READ,
}
"""Scope of the methods of a service, by its full name."""
METHODS = {
    "charloom.v1.ReadingService/Inspect": Scope.INSPECT,
    "charloom.v1.ModelService/LoadModel": Scope.ADMIN,
    "charloom.v1.ModelService/ReloadModel": Scope.ADMIN,
    "charloom.v1.ModelService/UnloadModel": Scope.ADMIN,
    "inference.GRPCInferenceService/ModelInfer": Scope.GENERATE,
    "inference.GRPCInferenceService/ModelStreamInfer": Scope.GENERATE,
}
"""Methods that need another scope than their service."""
OPEN = frozenset({"grpc.health.v1.Health"})
"""Services that answer anybody."""
ROUTES: Mapping[str, Scope | None] = {
    "GET /health": None,
    "GET /openapi.json": None,
    "GET /": None,
    "GET /play/{file}": None,
    "GET /v1/models": Scope.READ,
    "GET /v1/models/{model}": Scope.READ,
    "POST /v1/completions": Scope.GENERATE,
    "POST /v1/chat/completions": Scope.GENERATE,
    "POST /v1/embeddings": Scope.READ,
    "POST /v1/score": Scope.READ,
    "POST /v1/rank": Scope.READ,
    "POST /v1/suggest": Scope.READ,
    "POST /v1/classify": Scope.READ,
    "POST /v1/watch": Scope.SESSIONS,
    "POST /v1/inspect": Scope.INSPECT,
    "POST /tokenize": Scope.READ,
    "POST /detokenize": Scope.READ,
    "GET /tokenizer_info": Scope.READ,
    "POST /v1/sessions": Scope.SESSIONS,
    "GET /v1/sessions": Scope.SESSIONS,
    "POST /v1/sessions/blend": Scope.SESSIONS,
    "POST /v1/sessions/import": Scope.SESSIONS,
    "GET /v1/sessions/{session_id}": Scope.SESSIONS,
    "PATCH /v1/sessions/{session_id}": Scope.SESSIONS,
    "DELETE /v1/sessions/{session_id}": Scope.SESSIONS,
    "POST /v1/sessions/{session_id}/feed": Scope.SESSIONS,
    "POST /v1/sessions/{session_id}/rewind": Scope.SESSIONS,
    "POST /v1/sessions/{session_id}/move": Scope.SESSIONS,
    "POST /v1/sessions/{session_id}/fork": Scope.SESSIONS,
    "POST /v1/sessions/{session_id}/export": Scope.SESSIONS,
    "GET /v2/health/live": None,
    "GET /v2/health/ready": None,
    "GET /v2": Scope.READ,
    "GET /v2/models/{model}": Scope.READ,
    "GET /v2/models/{model}/ready": Scope.READ,
    "POST /v2/models/{model}/infer": Scope.GENERATE,
    "GET /v2/models/{model}/versions/{version}": Scope.READ,
    "GET /v2/models/{model}/versions/{version}/ready": Scope.READ,
    "POST /v2/models/{model}/versions/{version}/infer": Scope.GENERATE,
    "POST /v2/repository/index": Scope.READ,
}
"""Scope of each HTTP route; None for routes that answer anybody."""


def scope_of(method: str) -> Scope | None:
    """The scope of a method, as gRPC names it ("/service/method"); None if it answers anybody.

    Raises:
        LookupError: the table has no such method.
    """
    name = method.removeprefix("/")
    service = name.partition("/")[0]
    if service in OPEN:
        return None
    return METHODS[name] if name in METHODS else SERVICES[service]
