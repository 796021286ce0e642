"""Log-probabilities in OpenAI's two forms: four columns for completions, a list of entries for chat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from charloom.bundle import Vocabulary
from charloom.engine.loom.logprobs import TokenLogprob
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
    """

    def __init__(self, vocabulary: Vocabulary, offset: int, *, started: bool = False) -> None:
        self._started = started
        self._vocabulary = vocabulary
        self._offset = offset
        self._decoder = vocabulary.decoder()

    async def told(self, logprobs: Sequence[TokenLogprob]) -> str:
        """The next tokens of the text. The chosen one is always among the top ones."""
        columns: tuple[list[str], list[str], list[str], list[str]] = ([], [], [], [])
        if self._started:
            self._started = False
            for column, value in zip(columns, (json.dumps(START), "null", "null", str(self._offset)), strict=True):
                column.append(value)
        async for some in slices(logprobs):
            for found in some:
                for column, value in zip(columns, self._entry(found), strict=True):
                    column.append(value)
        tokens, own, top, offsets = (",".join(column) for column in columns)
        return f'{{"tokens":[{tokens}],"token_logprobs":[{own}],"top_logprobs":[{top}],"text_offset":[{offsets}]}}'

    def _entry(self, found: TokenLogprob) -> tuple[str, str, str, str]:
        text = token_text(self._vocabulary, found.token)
        top: dict[str, Any] = {token_text(self._vocabulary, token): logprob for token, logprob in found.top}
        top[text] = found.logprob
        offset = self._offset
        self._offset += len(self._decoder.feed([found.token]))
        return json.dumps(text), json.dumps(found.logprob), json.dumps(top, separators=(",", ":")), str(offset)


class Entries:
    """Tokens of one message, in order, as JSON.

    Args:
        vocabulary: of the model
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    async def told(self, logprobs: Sequence[TokenLogprob]) -> str:
        """The next tokens of the message."""
        entries: list[str] = []
        async for some in slices(logprobs):
            for found in some:
                top = [self._entry(token, logprob) for token, logprob in found.top]
                entry = {**self._entry(found.token, found.logprob), "top_logprobs": top}
                entries.append(json.dumps(entry, separators=(",", ":")))
        return f'{{"content":[{",".join(entries)}],"refusal":null}}'

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        symbol = self._vocabulary.symbol(token)
        return {"token": token_text(self._vocabulary, token), "logprob": logprob, "bytes": list(symbol)}
