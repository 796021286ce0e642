r"""The Python SDK: streaming text and sessions of a Charloom server, blocking or asyncio.

    from charloom.client import Client

    with Client("localhost:50051") as client:
        with client.session(seed=7) as session:
            with session.generate("ROMEO:\n", max_tokens=200, temperature=0.8) as stream:
                for text in stream:
                    print(text, end="", flush=True)
                print(stream.result().finish_reason.value)
            print(session.complete(max_tokens=100).text)

`AsyncClient` is the same with `async with`, `async for` and `await`. A call without a session starts from the zero
state and leaves nothing on the server. Errors are the classes below `CharloomError`.
"""

from charloom.client._async_client import AsyncClient
from charloom.client._client import DEFAULT_TARGET, Client
from charloom.client._continuations import AsyncContinuations, Continuations
from charloom.client._errors import (
    AlreadyExists,
    Cancelled,
    CharloomError,
    Conflict,
    ConnectionFailed,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidArgument,
    InvalidValue,
    NotFound,
    Overloaded,
    PermissionDenied,
    RequestError,
    SessionExpired,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from charloom.client._options import NOT_GIVEN, GenerateOptions, NotGiven
from charloom.client._session import AsyncSession, Session
from charloom.client._stream import AsyncTextStream, TextStream
from charloom.client._types import (
    Alternative,
    Completion,
    FinishReason,
    HealthStatus,
    ModelInfo,
    Result,
    Sampling,
    SessionInfo,
    Timings,
    TokenLogprob,
    Unit,
    Usage,
)

__all__ = [
    "DEFAULT_TARGET",
    "NOT_GIVEN",
    "AlreadyExists",
    "Alternative",
    "AsyncClient",
    "AsyncContinuations",
    "AsyncSession",
    "AsyncTextStream",
    "Cancelled",
    "CharloomError",
    "Client",
    "Completion",
    "Conflict",
    "ConnectionFailed",
    "Continuations",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "FinishReason",
    "GenerateOptions",
    "HealthStatus",
    "InternalError",
    "InvalidArgument",
    "InvalidValue",
    "ModelInfo",
    "NotFound",
    "NotGiven",
    "Overloaded",
    "PermissionDenied",
    "RequestError",
    "Result",
    "Sampling",
    "Session",
    "SessionExpired",
    "SessionInfo",
    "TextStream",
    "Timings",
    "TokenLogprob",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unit",
    "Usage",
]
