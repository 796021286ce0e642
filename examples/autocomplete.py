"""A line editor that completes in grey: Tab takes what the model suggests, Enter begins a new line, Ctrl-C ends.

    charloom serve                          # in another terminal
    pip install prompt_toolkit
    python examples/autocomplete.py

A session reads each key. What it has read is what stands on the screen: where a writer deletes, it is put back. After
each key the most probable rest of the word is asked for, and the session stays as it is. Characters that the model does
not know are left out of what it reads. Where the server is gone, the writer goes on without suggestions.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggest, Suggestion
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from charloom.client import AsyncClient, AsyncSession, CharloomError


class FromModel(AutoSuggest):
    """Suggests what a model finds most probable after the text so far."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._line_begins = session.info.position
        self._read: str | None = ""
        """What the session has read of the line; None where that is not known, because a call broke off."""
        self.works = True
        """Whether the server has answered last."""
        self._one_at_a_time = asyncio.Lock()

    def get_suggestion(self, buffer: Buffer, document: Document) -> Suggestion | None:
        """Only the asyncio form is used."""
        return None

    async def get_suggestion_async(self, buffer: Buffer, document: Document) -> Suggestion | None:
        """The most probable word to come, or the rest of it."""
        async with self._one_at_a_time:
            try:
                await self._follow(document.text)
                found = await self._session.suggest(count=1, max_tokens=24)
            except CharloomError:
                self.works = False
                return None
        self.works = True
        return Suggestion(found.texts[0].text) if found.texts else None

    async def end_line(self, text: str) -> None:
        """Let the session read a line that is complete."""
        async with self._one_at_a_time:
            with contextlib.suppress(CharloomError):  # told at the next key
                await self._follow(text + "\n")
                self._line_begins = self._session.info.position
                self._read = ""

    async def _follow(self, text: str) -> None:
        """Let the session have read this of the line, and no more."""
        read, self._read = self._read, None
        if read is None or not text.startswith(read):
            await self._session.rewind(self._line_begins)
            read = ""
        if text != read:
            await self._session.feed(text[len(read) :], unknown_characters="skip")
        self._read = text


def keys() -> KeyBindings:
    """Tab takes the suggestion, as the right arrow key does."""
    bindings = KeyBindings()

    @bindings.add("tab")
    def take(event: KeyPressEvent) -> None:
        if event.current_buffer.suggestion is not None:
            event.current_buffer.insert_text(event.current_buffer.suggestion.text)

    return bindings


async def write(target: str, lines: int) -> None:
    """Let a person write lines."""
    async with AsyncClient(target) as client, client.session() as session:
        model = FromModel(session)
        editor: PromptSession[str] = PromptSession(
            auto_suggest=model, key_bindings=keys(), rprompt=lambda: "" if model.works else "(no suggestions)"
        )
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
        try:
            asyncio.run(write(arguments.target, arguments.lines))
        except CharloomError as problem:
            parser.exit(1, f"{problem}\n")


if __name__ == "__main__":
    main()
