"""Sessions made and asked through generated stubs."""

from __future__ import annotations

import itertools
from typing import Any

import grpc

from charloom.v1 import (
    conversation_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    reading_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
)

Generation = generation_pb2_grpc.GenerationServiceStub
Sessions = sessions_pb2_grpc.SessionServiceStub
Reading = reading_pb2_grpc.ReadingServiceStub
Conversation = conversation_pb2_grpc.ConversationServiceStub
Session = sessions_pb2.Session

INVALID, OUT_OF_RANGE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE
NOT_FOUND, ABORTED = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ABORTED
names = (f"s{number}" for number in itertools.count())


def create(sessions: Sessions, **fields: Any) -> Session:
    return sessions.CreateSession(sessions_pb2.CreateSessionRequest(**{"session_id": next(names)} | fields)).session


def get(sessions: Sessions, session: Session) -> Session:
    return sessions.GetSession(sessions_pb2.GetSessionRequest(session_id=session.id)).session


def text_of(generation: Generation, session: Session, length: int, **fields: Any) -> str:
    options = generation_pb2.GenerationOptions(session_id=session.id, max_tokens=length, **fields)
    return generation.Complete(generation_pb2.CompleteRequest(options=options)).completions[0].text
