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
state and leaves nothing on the server. A stream that breaks off is resumed. Errors are the classes below
`CharloomError`.
"""

from charloom.client._async.client import AsyncClient
from charloom.client._async.continuations import AsyncContinuations
from charloom.client._async.conversation import AsyncConversation
from charloom.client._async.labelling import AsyncLabeller
from charloom.client._async.observation import AsyncObserver
from charloom.client._async.session import AsyncSession
from charloom.client._async.stream import AsyncTextStream
from charloom.client._async.tenant import AsyncTenant
from charloom.client._async.watching import AsyncWatch
from charloom.client._classification_types import LabelledText, LabelScores, UnknownPart
from charloom.client._connection import DEFAULT_TARGET
from charloom.client._conversation_types import Applied, ConversationEvent, ConversationText, Ended
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
    MessageTooLarge,
    NotFound,
    Overloaded,
    PermissionDenied,
    PositionNotKept,
    QuotaExceeded,
    RequestError,
    SessionExpired,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from charloom.client._generation_types import Completion, FinishReason, Resampled, Result, Sampling, Timings, Usage
from charloom.client._inspection_types import Activations, InspectedToken, Inspection
from charloom.client._model_types import HealthStatus, LoadedModel, ModelInfo, ModelState, ModelVersion, Task, Unit
from charloom.client._options import NOT_GIVEN, GenerateOptions, NotGiven, SamplingOptions, UnknownCharacters
from charloom.client._request_ids import request_id
from charloom.client._session_types import DeletionReceipt, Origin, SealedState, SessionInfo
from charloom.client._status_types import Histogram, MethodStatus, ModelStatus, ServerStatus, TenantStatus
from charloom.client._suggesting_types import RankedText, Suggestion, Suggestions
from charloom.client._sync.client import Client
from charloom.client._sync.continuations import Continuations
from charloom.client._sync.conversation import Conversation
from charloom.client._sync.labelling import Labeller
from charloom.client._sync.observation import Observer
from charloom.client._sync.session import Session
from charloom.client._sync.stream import TextStream
from charloom.client._sync.tenant import Tenant
from charloom.client._sync.watching import Watch
from charloom.client._tenant_types import ErasureReceipt, ExportedSession, KeptSession
from charloom.client._text_types import Alternative, Observed, Peek, Score, TextScore, TokenLogprob
from charloom.client._watching_types import Verdict

__all__ = [
    "DEFAULT_TARGET",
    "NOT_GIVEN",
    "Activations",
    "AlreadyExists",
    "Alternative",
    "Applied",
    "AsyncClient",
    "AsyncContinuations",
    "AsyncConversation",
    "AsyncLabeller",
    "AsyncObserver",
    "AsyncSession",
    "AsyncTenant",
    "AsyncTextStream",
    "AsyncWatch",
    "Cancelled",
    "CharloomError",
    "Client",
    "Completion",
    "Conflict",
    "ConnectionFailed",
    "Continuations",
    "Conversation",
    "ConversationEvent",
    "ConversationText",
    "DataLoss",
    "DeadlineExceeded",
    "DeletionReceipt",
    "Ended",
    "ErasureReceipt",
    "ExportedSession",
    "FailedPrecondition",
    "FinishReason",
    "GenerateOptions",
    "HealthStatus",
    "Histogram",
    "InspectedToken",
    "Inspection",
    "InternalError",
    "InvalidArgument",
    "InvalidValue",
    "KeptSession",
    "LabelScores",
    "LabelledText",
    "Labeller",
    "LoadedModel",
    "MessageTooLarge",
    "MethodStatus",
    "ModelInfo",
    "ModelState",
    "ModelStatus",
    "ModelVersion",
    "NotFound",
    "NotGiven",
    "Observed",
    "Observer",
    "Origin",
    "Overloaded",
    "Peek",
    "PermissionDenied",
    "PositionNotKept",
    "QuotaExceeded",
    "RankedText",
    "RequestError",
    "Resampled",
    "Result",
    "Sampling",
    "SamplingOptions",
    "Score",
    "SealedState",
    "ServerStatus",
    "Session",
    "SessionExpired",
    "SessionInfo",
    "Suggestion",
    "Suggestions",
    "Task",
    "Tenant",
    "TenantStatus",
    "TextScore",
    "TextStream",
    "Timings",
    "TokenLogprob",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unit",
    "UnknownCharacters",
    "UnknownPart",
    "Usage",
    "Verdict",
    "Watch",
    "request_id",
]
