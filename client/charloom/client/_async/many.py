"""Many texts that are answered in one call, over asyncio."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from charloom.client._async.duplex import AsyncDuplex
from charloom.client._many_texts import MESSAGES_AHEAD, messages, miscounted

Asked = TypeVar("Asked", bound=Message)
Answered = TypeVar("Answered")
Item = TypeVar("Item")
Told = TypeVar("Told")


async def many(
    begin: Callable[[], AsyncDuplex[Asked, Answered]],
    texts: Iterable[str],
    request: Callable[[Sequence[str]], Asked],
    items: Callable[[Answered], Sequence[Item]],
    tell: Callable[[str, Item], Told],
) -> AsyncIterator[Told]:
    """What is told of each text, in order, while texts are taken some messages ahead of the answers.

    Args:
        begin: begins the call
        texts: the texts
        request: the message of some of them
        items: what its answer has of them: of all, or where the server refused one, of those before it
        tell: what is told of a text by what the answer has of it

    Raises:
        InvalidValue: one of the texts is none, or one that a message cannot carry.
        InternalError: the server told of too few texts, or too many, without an error.
        CharloomError: the call failed; what was told by then is yielded first.

    """
    duplex = begin()
    unanswered = deque[Sequence[str]]()
    coming = messages(texts)
    try:
        while (some := next(coming, None)) is not None or unanswered:
            if some is None:
                await duplex.close()
            else:
                await duplex.send(request(some))
                unanswered.append(some)
                if len(unanswered) <= MESSAGES_AHEAD:
                    continue
            asked, answer = unanswered.popleft(), await duplex.receive()
            found = () if answer is None else items(answer)
            for text, one in zip(asked, found, strict=False):
                yield tell(text, one)
            if len(found) != len(asked):
                await duplex.receive()  # raises what the server refused
                raise miscounted(len(found), len(asked))
        await duplex.close()
        while not duplex.over:
            await duplex.receive()
    finally:
        if not duplex.over:
            duplex.cancel()
