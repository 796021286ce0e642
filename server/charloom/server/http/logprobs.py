"""Log-probabilities in OpenAI's two forms: four columns for completions, a list of entries for chat."""

from __future__ import annotations

import json
from typing import Any

from charloom.bundle import Vocabulary
from charloom.engine.loom.logprobs import Logprobs, TokenLogprob
from charloom.server.http.json_parts import NULL, Json, array, member, members
from charloom.server.http.start import START
from charloom.server.slices import slices


def token_text(vocabulary: Vocabulary, token: int) -> str:
    """A token as text. A byte that is no character becomes `bytes:` and its escape, as OpenAI writes it."""
    symbol = vocabulary.symbol(token)
    try:
        return symbol.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in symbol)


class Columns:
    """Tokens of one text, in order, as JSON.

    Args:
        vocabulary: of the model
        offset: characters of the text before the first of them
        started: whether the start is a token before that one
        constrained: whether to tell in a fifth column what a constraint left at each token; 0 of those of the prompt
    """

    def __init__(
        self, vocabulary: Vocabulary, offset: int, *, started: bool = False, constrained: bool = False
    ) -> None:
        self._started = started
        self._constrained = constrained
        self._vocabulary = vocabulary
        self._offset = offset
        self._decoder = vocabulary.decoder()

    async def told(self, logprobs: Logprobs) -> Json:
        """The next tokens of the text. The chosen one is always among the top ones."""
        names = ("tokens", "token_logprobs", "top_logprobs", "text_offset", "allowed_logprobs")
        columns: list[list[Json]] = [[] for _ in names]
        if self._started:
            self._started = False
            start = (json.dumps(START), "null", "null", str(self._offset), "null")
            for column, value in zip(columns, start, strict=True):
                column.append([value.encode()])
        async for some in slices(logprobs):
            for column, values in zip(columns, zip(*map(self._entry, some), strict=True), strict=True):
                column.append([",".join(values).encode()])
        told = list(zip(names, columns, strict=True))[: None if self._constrained else -1]
        return members(member(name, array(column)) for name, column in told)

    def _entry(self, found: TokenLogprob) -> tuple[str, ...]:
        text = token_text(self._vocabulary, found.token)
        top: dict[str, Any] = {token_text(self._vocabulary, token): logprob for token, logprob in found.top}
        top[text] = found.logprob
        offset = self._offset
        self._offset += len(self._decoder.feed([found.token]))
        shown = json.dumps(top, separators=(",", ":"))
        return json.dumps(text), json.dumps(found.logprob), shown, str(offset), json.dumps(found.allowed)


class Entries:
    """Tokens of one message, in order, as JSON.

    Args:
        vocabulary: of the model
        constrained: whether to tell of each what a constraint left there
    """

    def __init__(self, vocabulary: Vocabulary, *, constrained: bool = False) -> None:
        self._vocabulary = vocabulary
        self._constrained = constrained

    async def told(self, logprobs: Logprobs) -> Json:
        """The next tokens of the message."""
        entries = [[",".join(map(self._whole_entry, some)).encode()] async for some in slices(logprobs)]
        return members([member("content", array(entries)), member("refusal", NULL)])

    def _whole_entry(self, found: TokenLogprob) -> str:
        top = [self._entry(token, logprob) for token, logprob in found.top]
        entry = {**self._entry(found.token, found.logprob), "top_logprobs": top}
        if self._constrained:
            entry["allowed_logprob"] = found.allowed
        return json.dumps(entry, separators=(",", ":"))

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        symbol = self._vocabulary.symbol(token)
        return {"token": token_text(self._vocabulary, token), "logprob": logprob, "bytes": list(symbol)}
