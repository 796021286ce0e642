from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

from charloom.engine.calls.generation import TextDelta
from charloom.engine.engine import Engine
from charloom.server.caller import Caller, set_caller
from charloom.server.grpc.services.conversation import ConversationService
from charloom.server.grpc.services.turn import ClientTurn
from charloom.v1 import conversation_pb2, generation_pb2


class SlowConversation:
    """One that says one word, and only when it is told to."""

    position = 0

    def __init__(self, *, endless: bool) -> None:
        self.endless = endless
        self.running = True
        self.may_speak = asyncio.Event()
        self.interrupted = False

    async def next(self) -> TextDelta:
        try:
            await self.may_speak.wait()
        except asyncio.CancelledError:
            self.interrupted = True
            raise
        self.running = False
        return TextDelta("word", 4, [])

    def pause(self) -> int:
        self.running = False
        return 0

    async def end(self) -> None:
        self.may_speak.set()


async def texts_after_the_last_command(conversation: SlowConversation) -> list[str]:
    """What a client reads that has no more commands before the first text comes."""

    class OneConversation:
        async def converse(self, request: object) -> SlowConversation:
            return conversation

    async def commands() -> AsyncIterator[conversation_pb2.ConverseRequest]:
        yield conversation_pb2.ConverseRequest(start=generation_pb2.GenerationOptions())
        asyncio.get_running_loop().call_later(0.05, conversation.may_speak.set)

    set_caller(Caller())
    service = ConversationService(cast(Engine, OneConversation()), ClientTurn(asyncio.Event(), seconds=60))
    replies = [reply async for reply in service.Converse(commands(), None)]
    return [reply.text for reply in replies if reply.HasField("text")]


async def test_a_text_of_a_given_length_goes_on_when_there_are_no_more_commands() -> None:
    conversation = SlowConversation(endless=False)
    assert await texts_after_the_last_command(conversation) == ["word"]
    assert not conversation.interrupted


async def test_a_text_without_end_ends_with_the_commands() -> None:
    conversation = SlowConversation(endless=True)
    assert await texts_after_the_last_command(conversation) == []
    assert conversation.interrupted
