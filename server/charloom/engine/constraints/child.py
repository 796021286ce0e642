"""The process that compiles a constraint: it reads the constraint as JSON, and writes an automaton or the problem.

Its time and memory are limited, because a short expression can need any amount of both.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import traceback
from typing import Any, TextIO

import numpy as np

from charloom.engine.constraints.automata import automaton_of, is_plain
from charloom.engine.constraints.constraint import BadConstraint, Kind
from charloom.engine.constraints.json_schema import regex_of_schema
from charloom.engine.decoding.automaton import Automaton

FILES = 16
"""Most open files: its input and output, and the source file in which a fault is located."""


def main() -> None:
    """Compile the constraint on standard input; arguments: processor time in seconds, address space in bytes."""
    seconds, size = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    sys.stdout.buffer.write(_answer(sys.stdin))


def _answer(source: TextIO) -> bytes:
    """A line of JSON; without a problem, the arrays of the automaton follow it."""
    try:
        asked: dict[str, Any] = json.load(source)
        symbols = [symbol.encode("latin-1") for symbol in asked["symbols"]]
        made = _automaton(Kind(asked["kind"]), asked["content"], symbols, asked["bytewise"])
        head = json.dumps({"states": len(made.distance)}).encode()
        return head + b"\n" + np.ascontiguousarray(made.distance).tobytes() + np.ascontiguousarray(made.next).tobytes()
    except BadConstraint as problem:
        told = {"problem": str(problem)}
    except MemoryError:
        told = {"problem": "it takes too much memory"}
    except RecursionError:
        told = {"problem": "it is nested too deeply"}
    except Exception as problem:  # a fault of ours, but it must affect only this constraint, not the server
        place = traceback.extract_tb(problem.__traceback__)[-1]
        fault = f"{type(problem).__name__} at {place.filename}:{place.lineno}"
        told = {"problem": "it cannot be kept; write it otherwise", "fault": fault}
    return json.dumps(told).encode()


def _automaton(kind: Kind, content: list[str], symbols: list[bytes], bytewise: bool) -> Automaton:
    if kind is Kind.REGEX:
        pattern = content[0]
    elif kind is Kind.CHOICES:
        pattern = "|".join(map(re.escape, content))
    else:
        pattern = regex_of_schema(content[0], is_plain)
    return automaton_of(pattern, symbols, bytewise=bytewise)


if __name__ == "__main__":
    main()
