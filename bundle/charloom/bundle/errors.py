"""Errors of bundles and of texts; each message says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SHOWN_UNKNOWNS = 10
"""How many unknown characters or words an error names; the count is always complete."""


LONGEST_PROBLEM = 500
"""Characters that a message says of a problem. It may quote a bundle, or what a library says of its files."""


class BundleError(Exception):
    """A bundle cannot be used: names the bundle, the file or field at fault, and what to do, in one line."""

    def __init__(self, path: Path, problem: str, advice: str = "export the bundle again") -> None:
        self.path = path
        self.problem = _one_line(problem)
        self.advice = advice
        super().__init__(f"bundle {path}: {self.problem}; {advice}")


def _one_line(text: str) -> str:
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))
    return line if len(line) <= LONGEST_PROBLEM else line[: LONGEST_PROBLEM - 3] + "..."


@dataclass(frozen=True)
class UnknownSymbol:
    """One character or word that the vocabulary lacks."""

    character: str
    position: int
    """Where it begins in the text, counted in characters from 0."""

    def __str__(self) -> str:
        code = f" (U+{ord(self.character):04X})" if len(self.character) == 1 else ""
        return f"{self.character!r}{code} at {self.position}"


class UnknownSymbolsError(ValueError):
    """A text has characters or words outside the vocabulary: names the first ones with their positions."""

    def __init__(self, shown: Sequence[UnknownSymbol], count: int, what: str = "character") -> None:
        self.shown = tuple(shown)
        self.count = count
        more = f", and {count - len(self.shown)} more" if count > len(self.shown) else ""
        if any(symbol.character == "\r" for symbol in self.shown):
            more += r" (lines of files from Windows end in \r\n; skipping unknown characters leaves the \n)"
        super().__init__(
            f"{count} {what}(s) are not in the model's vocabulary: {', '.join(map(str, self.shown))}{more}"
        )
