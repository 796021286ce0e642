"""A line editor that completes in grey: the right arrow key takes what the model suggests, Enter begins a new line.

    charloom serve                          # in another terminal
    pip install prompt_toolkit
    python examples/autocomplete.py

A session reads each key. What it has read is what stands on the screen: where a writer deletes, it is put back. After
each key the most probable rest of the word is asked for, and the session stays as it is.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggest, Suggestion
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document

from charloom.client import AsyncClient, AsyncSession


class FromModel(AutoSuggest):
    """Suggests what a model finds most probable after the text so far."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._read = ""
        self._one_at_a_time = asyncio.Lock()

    def get_suggestion(self, buffer: Buffer, document: Document) -> Suggestion | None:
        """Only the asyncio form is used."""
        return None

    async def get_suggestion_async(self, buffer: Buffer, document: Document) -> Suggestion | None:
        """The most probable word to come, or the rest of it."""
        async with self._one_at_a_time:
            await self._follow(document.text)
            found = await self._session.suggest(count=1, max_tokens=24)
        return Suggestion(found.texts[0].text) if found.texts else None

    async def end_line(self, text: str) -> None:
        """Let the session read a line that is complete."""
        async with self._one_at_a_time:
            await self._follow(text)
            await self._session.feed("\n")
            self._read = ""

    async def _follow(self, text: str) -> None:
        """Let the session have read this of the line, and no more."""
        pairs = enumerate(zip(self._read, text, strict=False))
        same = next((place for place, (old, new) in pairs if old != new), min(len(self._read), len(text)))
        if same < len(self._read):
            await self._session.rewind(self._session.info.position - len(self._read) + same)
        if text[same:]:
            await self._session.feed(text[same:])
        self._read = text


async def write(target: str, lines: int) -> None:
    """Let a person write lines."""
    async with AsyncClient(target) as client, client.session() as session:
        model = FromModel(session)
        editor: PromptSession[str] = PromptSession(auto_suggest=model)
        for _ in range(lines):
            text = await editor.prompt_async("> ")
            await model.end_line(text)
            print(f"written: {text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="localhost:50051")
    parser.add_argument("--lines", type=int, default=1000, help="after so many it ends")
    arguments = parser.parse_args()
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        asyncio.run(write(arguments.target, arguments.lines))


if __name__ == "__main__":
    main()
