"""POST /tokenize and /detokenize, GET /tokenizer_info: text to token ids and back, under the names that vLLM uses.

With them lm-evaluation-harness works without a tokenizer of its own (`tokenizer_backend=remote`).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from charloom.engine.calls.requests import check_text
from charloom.engine.engine import Engine
from charloom.server.http.bodies import Body, Items, ReadingBody
from charloom.server.http.exchange import Exchange, json_of
from charloom.server.http.logprobs import token_text
from charloom.server.http.start import START, start_id, without_start

Token = Annotated[int, Field(ge=0, lt=2**31)]


class TokenizeBody(ReadingBody):
    """A text."""

    model: str = Field("", description="a model of /v1/models; empty for the default one")
    prompt: str
    add_special_tokens: bool = Field(False, description="whether the start stands before the tokens")
    return_token_strs: bool = Field(False, description="whether to tell the tokens as texts too")


class DetokenizeBody(Body):
    """Tokens."""

    model: str = Field("", description="a model of /v1/models; empty for the default one")
    tokens: Items[Token]


class Tokenizers:
    """Translates between texts and tokens."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def tokenize(self, exchange: Exchange, body: TokenizeBody) -> None:
        """The tokens of a text."""
        vocabulary, limits = self._engine.model(body.model).vocabulary, self._engine.limits
        text = body.prompt.removeprefix(START)
        tokens = check_text("prompt", text, body.skip_unknown, limits, vocabulary).tolist()
        texts = [token_text(vocabulary, token) for token in tokens] if body.return_token_strs else None
        if body.add_special_tokens or text != body.prompt:
            tokens = [start_id(vocabulary), *tokens]
            texts = None if texts is None else [START, *texts]
        await exchange.answer(
            json_of(
                {
                    "count": len(tokens),
                    "max_model_len": limits.max_prompt_characters,
                    "tokens": tokens,
                    "token_strs": texts,
                }
            )
        )

    async def detokenize(self, exchange: Exchange, body: DetokenizeBody) -> None:
        """The text of tokens; bytes that are no character become U+FFFD."""
        vocabulary = self._engine.model(body.model).vocabulary
        given, _ = without_start(body.tokens, vocabulary)
        tokens = check_text("tokens", given, False, self._engine.limits, vocabulary).tolist()
        await exchange.answer(json_of({"prompt": vocabulary.decode(tokens)}))

    async def info(self, exchange: Exchange, body: None) -> None:
        """What there is to know of a model's tokens."""
        vocabulary = self._engine.model(dict(exchange.query).get("model", "")).vocabulary
        await exchange.answer(
            json_of(
                {
                    "tokenizer_class": type(vocabulary).__name__,
                    "unit": vocabulary.unit.value,
                    "vocab_size": vocabulary.size,
                    "bos_token": START,
                    "eos_token": None,
                    "pad_token": None,
                    "chat_template": None,
                }
            )
        )
