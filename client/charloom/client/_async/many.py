"""Many texts in one call, each with one result, over asyncio."""

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
    """Yield the result of each text, in order; messages are sent some way ahead of the answers.

    Args:
        begin: begins the call
        texts: the texts
        request: makes the message for some of the texts
        items: the items of an answer, one per text of its message; if the server refused a text, those before it
        tell: makes the result of a text from the text and its item

    Raises:
        InvalidValue: one of the texts is no string, or one that a message cannot carry.
        InternalError: the server answered for too few or too many texts, without an error.
        CharloomError: the call failed; the results that arrived before are yielded first.

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
                await duplex.receive()  # raises the server's refusal
                raise miscounted(len(found), len(asked))
        await duplex.close()
        while not duplex.over:
            await duplex.receive()
    finally:
        if not duplex.over:
            duplex.cancel()
