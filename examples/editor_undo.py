"""Undo in an editor: the model's state follows the text, back and forth.

    charloom serve                          # in another terminal
    python examples/editor_undo.py

An editor keeps a session beside its text. What is typed is fed; a completion is generated; undo puts the session back,
which costs no computation. Whatever the way that led there, the same text stands for the same state, and so the same
suggestion.
"""

from __future__ import annotations

import argparse

from charloom.client import Client, Session


class Editor:
    """A text, and the session that has read it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.text = ""
        self._undo = [0]

    def type(self, text: str) -> None:
        """Add what a person typed."""
        self._session.feed(text, expected_position=len(self.text))
        self.text += text
        self._undo.append(len(self.text))

    def complete(self, characters: int) -> str:
        """Let the model go on."""
        added = self._session.complete(max_tokens=characters, temperature=0.5).text
        self.text += added
        self._undo.append(len(self.text))
        return added

    def suggest(self, characters: int) -> str:
        """What `complete` would add; nothing changes."""
        return self._session.peek(max_tokens=characters, temperature=0.5, top=1).text

    def undo(self) -> None:
        """Take the last change back."""
        if len(self._undo) > 1:
            self._undo.pop()
        self._session.rewind(self._undo[-1])
        self.text = self.text[: self._undo[-1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="localhost:50051")
    arguments = parser.parse_args()
    with Client(arguments.target) as client, client.session(seed=11) as session:
        editor = Editor(session)
        editor.type("First Citizen:\n")
        editor.type("Before we proceed ")
        suggested = editor.suggest(40)
        print(f"typed:      {editor.text!r}\nsuggestion: {suggested!r}")
        assert editor.complete(40) == suggested
        print(f"completed:  {editor.text!r}")
        editor.undo()
        editor.undo()
        editor.type("Speak, ")
        print(f"undone:     {editor.text!r}\nsuggestion: {editor.suggest(40)!r}")
        editor.undo()
        editor.type("Before we proceed ")
        assert editor.suggest(40) == suggested
        print("typed again, the suggestion is the same again")


if __name__ == "__main__":
    main()
