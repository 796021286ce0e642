"""A live-steered performance: one text that never stops while its temperature, its words and its pauses are played.

    charloom serve                          # in another terminal
    python examples/live_performance.py

The score is a list of cues, each after so many characters. Every change takes effect at a character that the server
tells, so that a performance can be repeated exactly: the same seed and the same cues at the same positions.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass

from charloom.client import Applied, AsyncClient, AsyncConversation, ConversationText


@dataclass(frozen=True)
class Cue:
    """Something to do once so many characters have been heard since the last cue."""

    after: int
    name: str
    temperature: float | None = None
    inject: str | None = None
    pause: float | None = None


SCORE = (
    Cue(120, "calm", temperature=0.3),
    Cue(120, "storm", temperature=1.3),
    Cue(80, "a new voice", inject="\n\nJULIET:\n"),
    Cue(100, "silence", pause=0.3),
    Cue(120, "calm again", temperature=0.5),
)


async def play(talk: AsyncConversation, cue: Cue) -> None:
    """Give one cue."""
    if cue.temperature is not None:
        await talk.set(temperature=cue.temperature)
    if cue.inject is not None:
        await talk.inject(cue.inject)
    if cue.pause is not None:
        await talk.pause()
        await asyncio.sleep(cue.pause)
        await talk.generate()


async def perform(target: str, seed: int) -> None:
    """Play the score, printing as it is heard."""
    async with (
        AsyncClient(target) as client,
        client.session(seed=seed) as session,
        session.converse("ROMEO:\n", temperature=0.8) as talk,
    ):
        await talk.generate()
        cues, heard = iter(SCORE), 0
        cue = next(cues)
        async for event in talk:
            if isinstance(event, ConversationText):
                print(event.text, end="", flush=True)
                heard += len(event.text)
            elif isinstance(event, Applied) and event.number:
                print(f" [{event.position}] ", end="", flush=True)
            if heard >= cue.after:
                print(f"\n~~ {cue.name} ~~", flush=True)
                await play(talk, cue)
                heard = 0
                following = next(cues, None)
                if following is None:
                    break
                cue = following
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="localhost:50051")
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()
    asyncio.run(perform(arguments.target, arguments.seed))


if __name__ == "__main__":
    main()
