"""What a constraint costs a step of the decoder, and what it gives beside two other ways to texts that match.

    python -m benchmarks.constraints [--json] [--rows 1,16,64] [--rounds 9] [--texts 64] [--at-once 16]

The steps are timed as by `benchmarks.decoder`: one thread, processor time, by turns, the reference artifact, int8. All
rows are under a constraint, or none. Then a server of its own, with the bundled model, writes texts that match:

- constrained: `regex` of the call
- by bias: calls of one token each, whose `allowed_characters` the client finds with the same automaton
- rejected: free texts, drawn until one begins with a match

The log-probability is the model's own, of each whole text after the prompt. Texts that were drawn until one matched are
distributed as the model's texts that match; so their log-probability is what the others can be compared with.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.ceiling import STEPS, bare_step
from benchmarks.decoder import Call, compared
from benchmarks.processes import hardware, serving
from benchmarks.reference import write_reference_bundle
from benchmarks.reporting import at_least_one, counts, finish, new_parser, say
from charloom.bundle import Bundle, DecoderKind, Vocabulary, read_bundle
from charloom.client import Client
from charloom.engine.constraints.automata import automaton_of
from charloom.engine.decoding.automaton import Automaton, table_of
from charloom.engine.decoding.invariance import plain_inputs
from charloom.engine.decoding.onnx_decoder import OnnxDecoder
from charloom.models import BUNDLED_MODEL

STEP_PATTERNS = ("[A-Za-z ,.]{400}", r"(?:[a-z]{1,9}, ){300}", r"[^\n]{500}", r"(?:\w+ ){300}")
"""None of them ends within the steps that are timed."""
PROMPT = "ROMEO:\n"
PATTERN = r"[A-Z][a-z' ,]{15,70}[.!?]"
MOST_TOKENS = 72
"""Of the longest text that matches."""
MOST_TRIES = 400
"""Free texts for one that matches."""

Writer = Callable[[Client, int], tuple[str | None, int]]
"""Writes a text with a seed; returns it, None where none was found, and how many calls were made."""


def main() -> None:
    """Run the benchmark."""
    parser = new_parser(__doc__)
    parser.add_argument("--rows", type=counts, default=[1, 16, 64], help="numbers of rows")
    parser.add_argument("--rounds", type=at_least_one, default=9, help="how often each step is timed")
    parser.add_argument("--texts", type=at_least_one, default=64, help="how many texts each way is to write")
    parser.add_argument("--at-once", type=at_least_one, default=16, help="how many are written at the same time")
    options = parser.parse_args()
    found: dict[str, Any] = {"hardware": hardware(), "rounds": options.rounds, "steps": {}, "texts": {}}
    with tempfile.TemporaryDirectory() as directory:
        bundle = read_bundle(write_reference_bundle(Path(directory) / "bundle"))
        for rows in options.rows:
            found["steps"][str(rows)] = compared(calls_of(bundle, rows), options.rounds)
            say(f"{rows} rows: {found['steps'][str(rows)]}")
    bundle = read_bundle(BUNDLED_MODEL)
    automaton = made(PATTERN, bundle.vocabulary)
    ways: dict[str, Writer] = {
        "constrained": constrained,
        "by bias": partial(by_bias, automaton, bundle.vocabulary),
        "rejected": rejected,
    }
    with serving(BUNDLED_MODEL) as server, Client(server.target) as client:
        for name, write in ways.items():
            found["texts"][name] = written(client, write, options.texts, options.at_once)
            say(f"{name}: {found['texts'][name]}")
    table: list[list[object]] = [["rows", "what", "us a step", "this / generating"]]
    for rows, figures in found["steps"].items():
        table += [[rows, what, each["us"], each["to_generating"]] for what, each in figures.items()]
    table.append(["way", "of the texts match", "characters/s", "calls a text", "nats a character"])
    for name, each in found["texts"].items():
        table.append([name, each["valid"], each["characters_per_second"], each["calls"], each["nats_per_character"]])
    width = max(map(len, table))
    finish(found, [[*row, *[""] * (width - len(row))] for row in table], only_json=options.json)


def calls_of(bundle: Bundle, rows: int) -> dict[str, Call]:
    """What is timed: the bare step, and calls that generate without and with constraints."""
    kind = DecoderKind.ONNX_INT8
    decoder = OnnxDecoder(bundle.path / kind.file, kind.value)
    free = plain_inputs(decoder, rows, STEPS)._replace(forced=np.full((STEPS, rows), -1), logprobs=False)
    automata = [made(pattern, bundle.vocabulary) for pattern in STEP_PATTERNS]
    constraints = table_of(
        [automata[row % len(automata)] for row in range(rows)], [10_000] * rows, decoder.shape.vocabulary
    )
    bound = free._replace(constraints=constraints)
    return {
        "bare": (bare_step(int8=True, rows=rows), 1),
        "generating": (partial(decoder.run, free), STEPS),
        "constrained": (partial(decoder.run, bound), STEPS),
    }


def made(pattern: str, vocabulary: Vocabulary) -> Automaton:
    """The automaton of an expression over a character model's symbols."""
    return automaton_of(pattern, [vocabulary.symbol(token) for token in range(vocabulary.size)], bytewise=False)


def written(client: Client, write: Writer, texts: int, at_once: int) -> dict[str, float | None]:
    """What a way to texts gives: share that matches, characters per second, calls, and log-probability."""
    write(client, texts)  # connects, and has the automaton made
    began = time.monotonic()
    with ThreadPoolExecutor(at_once) as threads:
        found = list(threads.map(partial(write, client), range(texts)))
    seconds = time.monotonic() - began
    good = [text for text, _ in found if text is not None and re.fullmatch(PATTERN, text)]
    losses = [_nats(client, text) / len(text) for text in good]
    return {
        "valid": round(len(good) / texts, 3),
        "characters_per_second": round(sum(map(len, good)) / seconds, 1),
        "calls": round(mean(calls for _, calls in found), 1),
        "nats_per_character": round(mean(losses), 3) if losses else None,
    }


def constrained(client: Client, seed: int) -> tuple[str | None, int]:
    """By the server."""
    return client.complete(PROMPT, regex=PATTERN, max_tokens=MOST_TOKENS, seed=seed).text, 1


def by_bias(automaton: Automaton, vocabulary: Vocabulary, client: Client, seed: int) -> tuple[str | None, int]:
    """By the client, one token after the other; the last character of a match says that it ends."""
    state, text, session = 0, "", client.session(seed=seed)
    session.feed(PROMPT)
    while automaton.distance[state]:
        left = MOST_TOKENS - len(text)
        after = automaton.next[state]
        allowed = (after >= 0) & (automaton.distance[np.maximum(after, 0)] < left)
        text += session.complete(
            max_tokens=1, allowed_characters=vocabulary.decode(np.flatnonzero(allowed).tolist())
        ).text
        state = int(after[vocabulary.encode(text[-1])[0]])
    return text, len(text) + 2


def rejected(client: Client, seed: int) -> tuple[str | None, int]:
    """Free texts until one begins with a match."""
    for number in range(MOST_TRIES):
        text = client.complete(PROMPT, max_tokens=MOST_TOKENS, seed=seed * MOST_TRIES + number).text
        if match := re.match(PATTERN, text):
            return match.group(), number + 1
    return None, MOST_TRIES


def _nats(client: Client, text: str) -> float:
    scored = client.score(PROMPT + text).logprobs[len(PROMPT) :]
    return -sum(one.logprob for one in scored)


if __name__ == "__main__":
    main()
