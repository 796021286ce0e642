"""The log samples of loghub as lines with labels, and lines of other logs put into them.

Zhu, He, He, Liu, Lyu: "Loghub: A Large Collection of System Log Datasets for AI-driven Log Analytics", ISSRE 2023,
https://github.com/logpai/loghub: 2,000 lines each of BGL, HDFS, Apache and Zookeeper.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

HALF = 1000
"""Lines that are learnt from; the others are scored."""
INJECTED = 60
HEADERS = {"BGL": 5, "HDFS": 3, "Apache": 5, "Zookeeper": 2}
"""Fields before the message: times, places, and of BGL the component that tells."""


class Line(NamedTuple):
    """A line of a log."""

    source: str
    """The node in BGL, empty elsewhere."""
    text: str
    """Without times and places."""
    alert: bool
    """By its label, or because it was put in."""


def read_log(folder: Path, name: str) -> list[Line]:
    """The lines of a sample; labels are in BGL alone, as its first field."""
    found = []
    for line in (folder / f"{name}_2k.log").read_text("utf-8", errors="replace").splitlines():
        label, rest = line.split(" ", 1) if name == "BGL" else ("-", line)
        fields = rest.split(" ", HEADERS[name])
        found.append(Line(fields[2] if name == "BGL" else "", fields[-1], label != "-"))
    return found


def with_injected(lines: list[Line], foreign: list[Line], known: list[Line], seed: int) -> list[Line]:
    """The lines, with some changed: words in another order, another system's line from some word on, another word."""
    chance, changed = random.Random(seed), list(lines)
    words = sorted({word for line in known for word in line.text.split(" ")})
    for number, place in enumerate(chance.sample(range(len(lines)), INJECTED)):
        own = lines[place].text.split(" ")
        if number % 3 == 0:
            chance.shuffle(own)
        elif number % 3 == 1:
            own[chance.randrange(len(own)) :] = chance.choice(foreign).text.split(" ")
        else:
            own[chance.randrange(len(own))] = chance.choice(words)
        text = " ".join(own)
        changed[place] = Line(lines[place].source, text, text != lines[place].text)
    return changed
