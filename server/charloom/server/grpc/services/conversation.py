"""ConversationService: text that is steered while it is generated.

Decides whether the next command or the next text comes first, but not what a command does to the text.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from charloom.engine.calls.conversation import Conversation
from charloom.engine.calls.generation import TextDelta
from charloom.engine.engine import Engine
from charloom.engine.errors import InvalidRequest
from charloom.server.caller import current_caller
from charloom.server.grpc.services.turn import ClientTurn
from charloom.server.grpc.translation.generation import from_result, to_request, to_sampling
from charloom.v1 import conversation_pb2, conversation_pb2_grpc

Commands = AsyncIterator[conversation_pb2.ConverseRequest]
Replies = AsyncIterator[conversation_pb2.ConverseResponse]


class ConversationService(conversation_pb2_grpc.ConversationServiceServicer):
    """Lets a client steer a text while it is generated."""

    def __init__(self, engine: Engine, turn: ClientTurn) -> None:
        self._engine = engine
        self._turn = turn

    async def Converse(self, requests: Commands, context: Any) -> Replies:
        """Apply commands as they come, and stream the text between them."""
        start = await self._turn.start(requests)
        conversation = await self._engine.converse(to_request(start, current_caller().tenant))
        try:
            yield conversation_pb2.ConverseResponse(position=conversation.position, applied=0)
            async for reply in self._replies(conversation, requests):
                yield reply
        finally:
            await conversation.end()

    async def _replies(self, conversation: Conversation, requests: Commands) -> Replies:
        command: asyncio.Task[Any] | None = asyncio.ensure_future(anext(requests, None))
        text: asyncio.Task[Any] | None = None
        number = 0
        try:
            while command is not None or conversation.running:
                if text is None and conversation.running:
                    text = asyncio.ensure_future(conversation.next())
                if command is not None and text is None:
                    await self._turn.wait(command)
                else:
                    running = [task for task in (command, text) if task is not None]
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                if text is not None and text.done():
                    found, text = text.result(), None
                    if isinstance(found, TextDelta):
                        yield conversation_pb2.ConverseResponse(text=found.text, position=found.position)
                    else:
                        ended = from_result(found)
                        yield conversation_pb2.ConverseResponse(ended=ended, position=ended.position)
                elif command is not None and command.done():
                    asked, command = command.result(), None
                    if asked is None and not conversation.endless:
                        continue  # the client has no more commands; its text is generated to the end
                    if text is not None:
                        text.cancel()  # its text was not handed out yet, and is dropped
                        await asyncio.wait([text])
                        text = None
                    if asked is None:  # no command can end this endless text any more
                        conversation.pause()
                        continue
                    number += 1
                    position = await self._apply(conversation, asked)
                    yield conversation_pb2.ConverseResponse(applied=number, position=position)
                    command = asyncio.ensure_future(anext(requests, None))
        finally:
            for task in (command, text):
                if task is not None:
                    task.cancel()

    @staticmethod
    async def _apply(conversation: Conversation, command: conversation_pb2.ConverseRequest) -> int:
        kind = command.WhichOneof("event")
        if kind == "inject":
            return await conversation.inject(command.inject)
        if kind == "generate":
            return await conversation.generate(command.generate.max_tokens)
        if kind == "sampling":
            return await conversation.set_sampling(to_sampling(command.sampling))
        if kind == "pause":
            return conversation.pause()
        raise InvalidRequest("event", "each message but the first has to carry inject, generate, sampling or pause")
