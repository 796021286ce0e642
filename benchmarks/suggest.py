"""How long suggestions take, key by key on one session, as an editor asks for them.

    python -m benchmarks.suggest [--bundle DIRECTORY] [--keys 150] [--count 5] [--beam 16] [--boundary word] [--json]

A server of the bundled model, or of another bundle, and its client are processes of their own on this machine. A
session reads each key of a text, and then words are suggested; both are timed. The last line is one JSON object:
milliseconds at the client ("key_ms" of both together), "exact" the part of the answers that are exact, and "saved" the
part of the text's keys that a writer need not press who takes the first suggestion wherever it is the rest of the word.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Literal

from benchmarks.processes import hardware, serving
from benchmarks.reporting import at_least_one, finish, new_parser
from charloom.cli.serving.load import milliseconds
from charloom.client import Client
from charloom.models import BUNDLED_MODEL

TEXT = (
    "Now is the winter of our discontent\nMade glorious summer by this sun of York;\n"
    "And all the clouds that lour'd upon our house\nIn the deep bosom of the ocean buried.\n"
)
"""The beginning of a play that the bundled model has read."""


def rest_of_word(text: str) -> str:
    """The letters with which a text begins."""
    return text[: next((place for place, one in enumerate(text) if not (one.isalnum() or one == "'")), len(text))]


def measured(client: Client, keys: str, count: int, beam: int, boundary: Literal["word", "line"]) -> dict[str, Any]:
    """Type a text and ask for suggestions after each key."""
    feeding: list[float] = []
    suggesting: list[float] = []
    exact = saved = skip = 0
    with client.session() as session:
        session.suggest("First Citizen:\n", count=count, beam=beam, boundary=boundary)
        for place, key in enumerate(keys):
            began = time.perf_counter()
            session.feed(key)
            known = time.perf_counter()
            found = session.suggest(count=count, beam=beam, boundary=boundary)
            suggesting.append(time.perf_counter() - known)
            feeding.append(known - began)
            exact += found.exact
            skip = max(0, skip - 1)
            rest = rest_of_word(keys[place + 1 :])
            if not skip and rest and found.texts and found.texts[0].text == rest:
                skip = len(rest) + 1
                saved += len(rest) - 1  # one key takes the suggestion
    return {
        "suggest_ms": milliseconds(suggesting),
        "feed_ms": milliseconds(feeding),
        "key_ms": milliseconds([fed + found for fed, found in zip(feeding, suggesting, strict=True)]),
        "exact": round(exact / len(keys), 3),
        "saved": round(saved / len(keys), 3),
        "keys": len(keys),
    }


def main() -> int:
    """Measure and print."""
    parser = new_parser(__doc__)
    parser.add_argument("--bundle", type=Path, default=BUNDLED_MODEL, help="what to serve (default: the bundled model)")
    parser.add_argument("--keys", type=at_least_one, default=150, help="keys of the text (default: 150)")
    parser.add_argument("--count", type=at_least_one, default=5, help="suggestions (default: 5)")
    parser.add_argument("--beam", type=at_least_one, default=16, help="texts that are open at a time (default: 16)")
    parser.add_argument("--boundary", choices=("word", "line"), default="word", help="where each ends (default: word)")
    arguments = parser.parse_args()
    with serving(arguments.bundle) as server, Client(server.target) as client:
        found = measured(client, TEXT[: arguments.keys], arguments.count, arguments.beam, arguments.boundary)
    asked = {name: getattr(arguments, name) for name in ("count", "beam", "boundary")}
    table = [("", "p50 ms", "p99 ms"), *((name, *found[f"{name}_ms"].values()) for name in ("suggest", "feed", "key"))]
    finish(found | asked | {"hardware": hardware()}, table, only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
