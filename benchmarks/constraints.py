"""What a constraint costs a step of the decoder, and what it gives beside two other ways to texts that match.

    python -m benchmarks.constraints [--json] [--rows 1,16,64] [--rounds 9] [--texts 64] [--at-once 16]

The steps are timed as by `benchmarks.decoder`: one thread, processor time, by turns, the reference artifact, int8. All
rows are under a constraint, or none. Then a server of its own, with the bundled model, writes texts that match:

- constrained: `regex` of the call
- resampled: the same, `--at-once` of them in a call with `resample`
- by bias: calls of one token each, whose `allowed_characters` the client finds with the same automaton
- rejected: free texts, drawn until one begins with a match

The log-probability is the model's own, of each whole text after the prompt; those of resampled texts count by their
weights. Texts that were drawn until one matched are
distributed as the model's texts that match; so their log-probability is what the others can be compared with.
"""

from __future__ import annotations

import math
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
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
from charloom.engine.decoding.invariance import generating_inputs
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

Written = tuple[Sequence[tuple[str, float]], int]
"""The texts that were found, with their weights, and how many calls that took."""
Writer = Callable[[Client, int], Written]
"""Writes with a seed."""


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
    ways: dict[str, tuple[Writer, int]] = {
        "constrained": (constrained, 1),
        "resampled": (partial(resampled, options.at_once), options.at_once),
        "by bias": (partial(by_bias, automaton, bundle.vocabulary), 1),
        "rejected": (rejected, 1),
    }
    with serving(BUNDLED_MODEL) as server, Client(server.target) as client:
        for name, (write, each) in ways.items():
            found["texts"][name] = written(client, write, options.texts, options.at_once, each)
            say(f"{name}: {found['texts'][name]}")
    table: list[list[object]] = [["rows", "what", "us a step", "this / generating"]]
    for rows, figures in found["steps"].items():
        table += [[rows, what, each["us"], each["to_generating"]] for what, each in figures.items()]
    table.append(["way", "of the texts match", "characters/s", "calls a text", "nats a character"])
    for name, told in found["texts"].items():
        table.append([name, told["valid"], told["characters_per_second"], told["calls"], told["nats_per_character"]])
    width = max(map(len, table))
    finish(found, [[*row, *[""] * (width - len(row))] for row in table], only_json=options.json)


def calls_of(bundle: Bundle, rows: int) -> dict[str, Call]:
    """What is timed: the bare step, and calls that generate without and with constraints."""
    kind = DecoderKind.ONNX_INT8
    decoder = OnnxDecoder(bundle.path / kind.file, kind.value)
    free = generating_inputs(decoder, rows, STEPS)
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


def written(client: Client, write: Writer, texts: int, at_once: int, each: int) -> dict[str, float | None]:
    """What a way to texts gives: share that matches, characters per second, calls, and log-probability.

    Args:
        client: of the server
        write: the way
        texts: how many to write
        at_once: how many at the same time
        each: how many `write` writes
    """
    write(client, texts)  # connects, and has the automaton made
    began = time.monotonic()
    with ThreadPoolExecutor(max(1, at_once // each)) as threads:
        found = list(threads.map(partial(write, client), range(0, texts, each)))
    seconds = time.monotonic() - began
    good = [one for some, _ in found for one in some if re.fullmatch(PATTERN, one[0])]
    total = sum(weight for _, weight in good)
    loss = sum(weight * _nats(client, text) / len(text) for text, weight in good)
    return {
        "valid": round(len(good) / (each * len(found)), 3),
        "characters_per_second": round(sum(len(text) for text, _ in good) / seconds, 1),
        "calls": round(sum(calls for _, calls in found) / (each * len(found)), 2),
        "nats_per_character": round(loss / total, 3) if good else None,
    }


def constrained(client: Client, seed: int) -> Written:
    """By the server."""
    return [(client.complete(PROMPT, regex=PATTERN, max_tokens=MOST_TOKENS, seed=seed).text, 1.0)], 1


def resampled(n: int, client: Client, seed: int) -> Written:
    """By the server, `n` at a time; weights compare between calls."""
    found = client.continuations(PROMPT, n=n, resample=True, regex=PATTERN, max_tokens=MOST_TOKENS, seed=seed)
    told = [(one.text, one.result.resampled) for one in found.completions()]
    return [(text, one.weight * math.exp(one.match_logprob)) for text, one in told if one is not None], 1


def by_bias(automaton: Automaton, vocabulary: Vocabulary, client: Client, seed: int) -> Written:
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
    return [(text, 1.0)], len(text) + 2


def rejected(client: Client, seed: int) -> Written:
    """Free texts until one begins with a match."""
    for number in range(MOST_TRIES):
        text = client.complete(PROMPT, max_tokens=MOST_TOKENS, seed=seed * MOST_TRIES + number).text
        if match := re.match(PATTERN, text):
            return [(match.group(), 1.0)], number + 1
    return [], MOST_TRIES


def _nats(client: Client, text: str) -> float:
    scored = client.score(PROMPT + text).logprobs[len(PROMPT) :]
    return -sum(one.logprob for one in scored)


if __name__ == "__main__":
    main()
