"""From generations to the choices of an answer: as a stream of chunks, or as a whole. Routes say in which form."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import math
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from charloom.bundle import Vocabulary
from charloom.engine.calls.generation import Continuation, GenerationResult, TextDelta
from charloom.engine.calls.reading import ScoredText
from charloom.engine.calls.requests import MostTokens, Text
from charloom.engine.loom.jobs import FinishReason
from charloom.engine.loom.logprobs import NONE_TOLD, Logprobs
from charloom.engine.loom.model import Model
from charloom.server.continuations import largest_symbol
from charloom.server.http.json_parts import NULL, Json, array, member, members
from charloom.server.merged import merged

ESCAPED = 6
"""The most bytes that JSON takes for a byte of a text."""
LOGPROB, ALTERNATIVE = 125, 30
"""Bytes of an answer for a token's log-probabilities and offset, and for each alternative's, besides their texts."""
SPARE = 2**21
"""Bytes for what an answer holds besides its tokens."""
ECHOED = 4096
"""About how many log-probabilities of a prompt, alternatives included, one event has in a stream of several choices."""
UNFINISHED = '"finish_reason":null'
PROMPT_ALONE = f'"finish_reason":"{FinishReason.LENGTH.value}"'
"""Ending of a choice for which nothing is generated."""


@dataclass(frozen=True)
class Part:
    """A prompt and its generations."""

    model: Model
    prompt: Text
    generations: Sequence[Continuation]
    scored: ScoredText | None = None
    """The prompt's log-probabilities, if the answer has them."""
    echo: bool = False
    """Whether the answer repeats the prompt."""
    started: bool = False
    """Whether the prompt begins with the start token."""

    @functools.cached_property
    def text(self) -> str:
        """The prompt as the answer repeats it."""
        if self.scored is not None:
            return self.model.vocabulary.decode(self.scored.logprobs.tokens)
        return self.prompt if isinstance(self.prompt, str) else self.model.vocabulary.decode(self.prompt)


class LogprobsTeller(Protocol):
    """Encodes the log-probabilities of one text as JSON."""

    async def told(self, logprobs: Logprobs) -> Json:
        """Encode the next tokens of the text."""


class Form(ABC):
    """The JSON form in which a route answers with choices.

    Args:
        model: the model's name
        digest: the model's
        constrained: whether there is a constraint; log-probabilities then include what it allowed
    """

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, model: str, digest: str, *, constrained: bool = False) -> None:
        self.constrained = constrained
        self._head: dict[str, Any] = {
            "id": f"{self.id_prefix}{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": digest,
        }

    @abstractmethod
    def columns(self, vocabulary: Vocabulary, offset: int, *, started: bool) -> LogprobsTeller:
        """Makes the log-probabilities of a choice.

        Args:
            vocabulary: of the model
            offset: character offset of the first token in the answer
            started: whether the start is a token before that one
        """

    @abstractmethod
    def chunk(self, index: int, text: str, logprobs: Json, ending: str) -> Json:
        """A piece of choice number `index`, as JSON; `ending` has the members that say how it ended."""

    @abstractmethod
    def whole(self, index: int, text: str, logprobs: Json, ending: str) -> Json:
        """Choice number `index`, as JSON."""

    def first(self, index: int) -> Json | None:
        """What a stream sends for a choice before its text; None for nothing."""
        return None

    @functools.cached_property
    def _chunk_head(self) -> str:
        return json.dumps({**self._head, "object": self.chunk_object})[:-1]

    def event(self, choice: Json = (), more: str = "") -> bytes:
        """A chunk as an event of a stream; more: further members of it."""
        return b"".join((f'data: {self._chunk_head},"choices":['.encode(), *choice, f"]{more}}}\n\n".encode()))

    def answer(self, choices: Sequence[Json], usage: Usage) -> Json:
        """The whole answer."""
        head = json.dumps({**self._head, "object": self.whole_object})[1:-1]
        usages = usage.told().encode()
        return members([[head.encode()], member("choices", array(choices)), member("usage", [usages])])


@dataclass
class Usage:
    """How many tokens a call has read and generated."""

    prompt: int = 0
    completion: int = 0

    def told(self) -> str:
        """As JSON."""
        total = self.prompt + self.completion
        return json.dumps({"prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": total})


def most_tokens(
    largest: int, sequences: int, top: int | None, *, escaped: int = ESCAPED, alternative: int = ALTERNATIVE
) -> MostTokens:
    """How many tokens of each text fit an answer.

    Args:
        largest: bytes of the answer
        sequences: how many texts there are
        top: alternatives of each token; None: no log-probabilities at all
        escaped: bytes of the answer for a byte of a token's text
        alternative: bytes of the answer for each alternative, besides its text
    """

    def most(vocabulary: Vocabulary) -> int:
        text = escaped * largest_symbol(vocabulary)
        each = text if top is None else (3 + top) * text + LOGPROB + alternative * (1 + top)
        return max(0, largest - SPARE) // (sequences * each)

    return most


async def streamed(parts: Sequence[Part], form: Form, logprobs: bool, include_usage: bool) -> AsyncIterator[bytes]:
    """The events of a stream.

    Args:
        parts: prompts with their generations
        form: JSON form of the choices
        logprobs: whether to include log-probabilities
        include_usage: whether the last chunk has the numbers of tokens
    """
    usage = Usage()
    sources: list[AsyncIterator[bytes]] = []
    count = 0
    for part in parts:
        numbers = range(count, count + max(1, len(part.generations)))
        sources.append(_of_part(part, form, logprobs, numbers, usage))
        count = numbers.stop
    async for event in _merged(sources):
        yield event
    if include_usage:
        yield form.event(more=f',"usage":{usage.told()}')


def _merged(sources: Sequence[AsyncIterator[bytes]]) -> AsyncIterator[bytes]:
    return sources[0] if len(sources) == 1 else merged(sources)


async def _of_part(part: Part, form: Form, logprobs: bool, numbers: range, usage: Usage) -> AsyncIterator[bytes]:
    """The events of a prompt's choices, which have these numbers.

    The echo is made once, and each piece is sent for all choices before the next piece is made: so it is in memory at
    most once, however many choices there are and however slowly they are read.
    """
    if part.echo:
        async for text, told, last in _echo(part, form, logprobs, len(numbers)):
            ending = UNFINISHED if part.generations or not last else PROMPT_ALONE
            for number in numbers:
                yield form.event(form.chunk(number, text, told, ending))
                await asyncio.sleep(0)  # others have their turns between
    if not part.generations:
        usage.prompt += 0 if part.scored is None else len(part.scored.logprobs)
        return
    choices = [
        _events(part, generation, form, logprobs, number, usage, counts_prompt=number == numbers.start)
        for number, generation in zip(numbers, part.generations, strict=True)
    ]
    async for event in _merged(choices):
        yield event


async def _echo(part: Part, form: Form, logprobs: bool, choices: int) -> AsyncIterator[tuple[str, Json, bool]]:
    """Yield the prompt in one or more pieces, each with its log-probabilities if wanted, and whether it is the last.
    There are several pieces only with log-probabilities and several choices, so that a client of one choice, such as
    the playground, knows where the prompt ends.
    """
    if part.scored is None or not logprobs:
        yield part.text, NULL, True
        return
    columns, decoder, found = _columns(part, form), part.model.vocabulary.decoder(), part.scored.logprobs
    each = max(1, ECHOED // (1 + len(found[0].top)) if found and choices > 1 else len(found))
    for start in range(0, max(1, len(found)), each):
        some = found[start : start + each]
        yield decoder.feed(some.tokens), await columns.told(some), start + each >= len(found)


async def _events(
    part: Part, generation: Continuation, form: Form, logprobs: bool, index: int, usage: Usage, *, counts_prompt: bool
) -> AsyncIterator[bytes]:
    columns = form.columns(part.model.vocabulary, len(part.text), started=False) if logprobs else None
    if (first := form.first(index)) is not None:
        yield form.event(first)
    async for delta in generation:
        told = NULL if columns is None else await columns.told(delta.logprobs)
        yield form.event(form.chunk(index, delta.text, told, UNFINISHED))
    result = generation.result
    if result is None:  # the client has gone
        return
    usage.completion += result.finish.generated
    usage.prompt += result.finish.fed if counts_prompt else 0
    yield form.event(form.chunk(index, "", NULL, _ending(result)))


def _columns(part: Part, form: Form) -> LogprobsTeller:
    offset = 0 if part.echo else len(part.text)
    return form.columns(part.model.vocabulary, offset, started=part.started and part.scored is not None)


async def _scored(part: Part, form: Form, logprobs: bool, usage: Usage) -> tuple[str, Json, str]:
    """Text, log-probabilities and ending of a prompt after which nothing is generated."""
    assert part.scored is not None
    usage.prompt += len(part.scored.logprobs)
    told = await _columns(part, form).told(part.scored.logprobs) if logprobs else NULL
    return part.text, told, PROMPT_ALONE


async def whole(parts: Sequence[Part], form: Form, logprobs: bool, n: int) -> Json:
    """The whole answer, once all texts are complete.

    Args:
        parts: prompts with their generations
        form: JSON form of the choices
        logprobs: whether to include log-probabilities
        n: number of choices of each prompt; if more were generated, the most probable ones are chosen
    """
    usage = Usage()
    choices: list[Json] = []
    # Read all at once: a generation that nobody reads pauses, and may be ended.
    deltas = iter(await asyncio.gather(*(generation.whole() for part in parts for generation in part.generations)))
    for part in parts:
        if not part.generations:
            choices.append(form.whole(len(choices), *await _scored(part, form, logprobs, usage)))
            continue
        made = []
        for generation, delta in zip(part.generations, deltas, strict=False):
            assert generation.result is not None
            usage.completion += generation.result.finish.generated
            made.append((generation.result, delta))
        usage.prompt += made[0][0].finish.fed
        if n < len(made):
            made = sorted(made, key=lambda one: _mean(one[1]), reverse=True)[:n]
        for result, delta in made:
            choices.append(await _choice(part, result, delta, form, logprobs, len(choices)))
    return form.answer(choices, usage)


async def _choice(
    part: Part, result: GenerationResult, delta: TextDelta, form: Form, logprobs: bool, index: int
) -> Json:
    told = NULL
    if logprobs:
        echoed = NONE_TOLD if part.scored is None else part.scored.logprobs
        told = await _columns(part, form).told(Logprobs.joined((echoed, delta.logprobs)))
    text = part.text + delta.text if part.echo else delta.text
    return form.whole(index, text, told, _ending(result))


def _mean(delta: TextDelta) -> float:
    """The mean log-probability of a text's tokens, by which texts of any length compare."""
    return math.fsum(delta.logprobs.values) / max(1, len(delta.logprobs))


def _ending(result: GenerationResult) -> str:
    """The members for the end of a choice; those after the first are this server's own."""
    snapshot = result.finish.snapshot
    members: dict[str, Any] = {
        "finish_reason": result.finish.reason.value,
        "stop_reason": result.stop,
        "position": snapshot.position,
        "seed": snapshot.seed,
    }
    if result.finish.allowed is not None:
        members["allowed_logprob"] = result.finish.allowed
    if result.resampled is not None:
        members["resampled"] = asdict(result.resampled)
    if result.state:
        members["state"] = base64.b64encode(result.state).decode()
    return json.dumps(members)[1:-1]
