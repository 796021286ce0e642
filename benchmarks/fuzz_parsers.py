"""Coverage-guided fuzzing of what reads bundles, graphs, sealed tokens and session records.

    python -m benchmarks.fuzz_parsers [--minutes 10] [--parsers bundle,graph,token,record] [--json]

Each of `benchmarks/parsers.py` runs that long, one after the other, and begins with the inputs in tests/fixtures/fuzz.
Those that reach new code are then kept there, as few as reach all of it; the tests replay them. An input that brings a
parser to fail ends its run, is written to the working directory, and its name is in "failures". Half of the changes to
an input are made to the JSON in it, the others to its bytes. Needs atheris (`pip install atheris`). The last line is
one JSON object; the exit status is 1 if a parser failed.
"""

from __future__ import annotations

import copy
import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.processes import hardware
from benchmarks.reporting import finish, names_of, new_parser, say, some_minutes

CORPUS = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "fuzz"
NAMES = ("bundle", "graph", "token", "record")
LONGEST = 4096
"""Bytes of an input."""
SLOWEST_SECONDS, MOST_MEMORY_MIB = 10, 2048
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 3, 1.5, float("inf"), float("nan"), 2**31, 2**53, 2**63, 2**64, 10**400, 1e308),
    *("", "a", "a\n", "\ud800", "\x00", "../a", "x" * 300, "<u1", "<u4", [], [1], [[]], {}, {"x": 1}, ["a", "a"]),
)
"""What a value in JSON is replaced with."""


def changed(content: Any, chance: random.Random) -> Any:
    """A JSON value with one part, anywhere in it, replaced, left out, repeated, or put in another's place."""
    content = copy.deepcopy(content)
    places: list[tuple[Any, Any]] = []
    rest = [content] if isinstance(content, dict | list) else []
    while rest:
        whole = rest.pop()
        keys = whole if isinstance(whole, dict) else range(len(whole))
        places += [(whole, key) for key in keys]
        rest += [whole[key] for key in keys if isinstance(whole[key], dict | list)]
    if not places:
        return chance.choice(VALUES)
    whole, key = chance.choice(places)
    what = chance.randrange(5)
    if what == 0:
        del whole[key]
    elif what == 1 and isinstance(whole, list):
        whole.append(whole[key])
    elif what == 2:
        other, there = chance.choice(places)
        whole[key] = copy.deepcopy(other[there])
    else:
        whole[key] = chance.choice(VALUES)
    return content


def fuzz(name: str, arguments: list[str]) -> None:
    """Run libFuzzer on a parser; it ends the process."""
    import atheris

    with atheris.instrument_imports(include=["charloom", "benchmarks.parsers"]):
        from benchmarks.parsers import BETWEEN, PARSERS

    def mutated(data: bytes, longest: int, seed: int) -> bytes:
        chance = random.Random(seed)
        text, between, rest = data.partition(BETWEEN)
        if chance.random() < 0.5:
            try:
                found = json.dumps(changed(json.loads(text), chance)).encode() + between + rest
            except (ValueError, RecursionError):
                return bytes(atheris.Mutate(data, longest))
            return found[:longest]
        return bytes(atheris.Mutate(data, longest))

    options = {} if name == "graph" else {"custom_mutator": mutated}
    again = f"{sys.executable} -m benchmarks.fuzz_parsers --only {name}"  # a merge runs itself, by a shell
    atheris.Setup([again, *arguments], PARSERS[name], **options)
    atheris.Fuzz()


def run(name: str, minutes: float) -> dict[str, Any]:
    """Fuzz a parser in a process of its own, and keep what was found."""
    from benchmarks.parsers import seeds

    kept = CORPUS / name
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        fresh, smallest = Path(folder, "fresh"), Path(folder, "smallest")
        fresh.mkdir()
        smallest.mkdir()
        for number, seed in enumerate(seeds(name)):
            (fresh / f"seed-{number}").write_bytes(seed)
        limits = [f"-timeout={SLOWEST_SECONDS}", f"-rss_limit_mb={MOST_MEMORY_MIB}", f"-max_len={LONGEST}"]
        said = _child(
            name, f"-max_total_time={60 * minutes:.0f}", *limits, "-print_final_stats=1", str(fresh), str(kept)
        )
        failures = re.findall(r"Test unit written to (\S+)", said)
        _child(name, "-merge=1", *limits, str(smallest), str(kept), str(fresh))
        if not failures:
            for path in kept.iterdir():
                path.unlink()
            for path in smallest.iterdir():
                (kept / path.name).write_bytes(path.read_bytes())
    inputs = re.search(r"stat::number_of_executed_units: *(\d+)", said)
    coverage = re.findall(r"cov: (\d+)", said)
    return {
        "inputs": int(inputs.group(1)) if inputs else 0,
        "coverage": int(coverage[-1]) if coverage else 0,
        "kept": len([*kept.iterdir()]),
        "failures": failures,
        "said": "" if not failures else said[-4000:],
    }


def _child(name: str, *arguments: str) -> str:
    """What libFuzzer says.

    Raises:
        RuntimeError: it failed and has written no input.
    """
    command = [sys.executable, "-m", "benchmarks.fuzz_parsers", "--only", name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    if done.returncode and "Test unit written to" not in done.stderr:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return done.stderr


def main() -> int:
    """Fuzz and print."""
    if sys.argv[1:2] == ["--only"]:
        fuzz(sys.argv[2], sys.argv[3:])
    parser = new_parser(__doc__)
    parser.add_argument("--minutes", type=some_minutes, default=10.0, help="for each (default: 10)")
    parser.add_argument("--parsers", type=names_of(NAMES), default=[*NAMES], help=f"which (default: {','.join(NAMES)})")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    for name in arguments.parsers:
        found[name] = run(name, arguments.minutes)
        say(f"{name}: {found[name]}")
    columns = ("inputs", "coverage", "kept", "failures")
    rows = [(name, *(str(one[column]) for column in columns)) for name, one in found.items()]
    figures = {"hardware": hardware(), "minutes": arguments.minutes, "parsers": found}
    finish(figures, [("parser", *columns), *rows], only_json=arguments.json)
    return int(any(one["failures"] for one in found.values()))


if __name__ == "__main__":
    sys.exit(main())
