"""Valid, odd and hostile requests to every method, made from the wire contract's descriptors: what does the server say?

    python -m benchmarks.fuzz [--requests 100000] [--minutes 10] [--seed 1] [--json]

A real server process that asks for a key, with a small store; some requests have no key, or one of too little scope.
A request is a message with values from the edges of each field's type, one with bytes changed or cut off, or no
message at all; metadata are odd at times, and calls are given up at times. What has to hold: no INTERNAL and no
UNKNOWN (each is a fault that the server did not foresee), a server that lives and answers an ordinary call at the
end (else "at_its_death" has the requests that it was answering when it died), and memory that does not grow by more
than `--max-growth` over the second half. "codes" counts answers, and apart those of calls that share a stream;
"given_up" calls without one. The last line is one JSON object; the exit status is 1 if a requirement fails.
"""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import random
import string
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from benchmarks.processes import Process, hardware, memory_measure, new_key, serving
from benchmarks.reporting import Budget, at_least_one, finish, new_parser, say, some_minutes
from charloom import inference, v1
from charloom.client import Client
from charloom.models import BUNDLED_MODEL
from charloom.v1 import generation_pb2

SERVICES: list[ServiceDescriptor] = [
    service
    for module in pkgutil.iter_modules(v1.__path__, f"{v1.__name__}.")
    if module.name.endswith("_pb2")
    for service in importlib.import_module(module.name).DESCRIPTOR.services_by_name.values()
]
METHODS: list[MethodDescriptor] = [method for service in (*SERVICES, inference.SERVICE) for method in service.methods]
CODES = {code.value[0]: code for code in grpc.StatusCode}
FAULTS = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
WRITTEN_LATE = "Internal error from Core"
"""What grpc.aio says in place of the answer where the client still writes when the server has ended the call."""
AT_ONCE, DEEPEST, SAY = 64, 4, 10_000
LIMITS = ("--max-sessions", "500", "--max-tokens", "500", "--max-prompt-characters", "5000")
"""Of the server: small, so that many requests are at them."""
IDS = [*(f"s{number}" for number in range(8)), "none", "", ".", "a" * 64, "a" * 65, "a/b", "\x00", "ü"]


class Requests:
    """Makes requests, a pure function of the seed.

    Args:
        seed: of the random choices
        states: exported states to send back
    """

    def __init__(self, seed: int, states: Sequence[bytes]) -> None:
        self._chance = random.Random(seed)
        self._states = states

    def message(self, method: MethodDescriptor) -> bytes:
        """One request of a method: well-formed, changed, or no message at all."""
        kind, chance = self._chance.random(), self._chance
        if kind < 0.02:
            return chance.randbytes(chance.choice((0, 1, 10, 1000)))
        request = GetMessageClass(method.input_type)()
        self._fill(request, depth=0)
        content = bytearray(request.SerializeToString())
        if kind < 0.1 and content:
            for _ in range(chance.randint(1, 4)):
                content[chance.randrange(len(content))] = chance.randrange(256)
        elif kind < 0.12:
            del content[chance.randrange(len(content) + 1) :]
        return bytes(content)

    def metadata(self, keys: Sequence[str]) -> list[tuple[str, str]]:
        """What comes with a call; mostly the first of the keys."""
        chance = self._chance
        found = [("authorization", f"Bearer {keys[0] if chance.random() < 0.95 else chance.choice(keys)}")]
        if chance.random() < 0.02:
            found = []
        for name in ("charloom-tenant", "x-forwarded-for", "charloom-session", "authorization"):
            if chance.random() < 0.01:
                found.append((name, chance.choice(("fuzz", "other", "a/b", "1.2.3.4", "999.1.1.1, ::1", "x" * 2000))))
        return found

    def chance(self, share: float) -> bool:
        """True for that share of the answers."""
        return self._chance.random() < share

    def number(self, most: int) -> int:
        """From 0 to `most`."""
        return self._chance.randint(0, most)

    def method(self) -> MethodDescriptor:
        """Any one."""
        return METHODS[self._chance.randrange(len(METHODS))]

    def _fill(self, message: Message, depth: int) -> None:
        for field in message.DESCRIPTOR.fields:
            if not self.chance(0.35 if depth else 0.6):
                continue
            if field.is_repeated:
                count = self._chance.choice((0, 1, 2, 3, 40))
                for _ in range(count):
                    if field.message_type is not None:
                        if field.message_type.GetOptions().map_entry:
                            self._fill_entry(message, field, depth + 1)
                        elif depth < DEEPEST:
                            self._fill(getattr(message, field.name).add(), depth + 1)
                    else:
                        getattr(message, field.name).append(self._value(field))
                if field.name == "calls" and self.chance(0.8):  # else two of one number end most streams
                    for number, call in enumerate(message.calls):  # type: ignore[attr-defined]
                        call.number = number
            elif field.message_type is not None:
                if depth < DEEPEST:
                    part = getattr(message, field.name)
                    part.SetInParent()
                    self._fill(part, depth + 1)
            else:
                setattr(message, field.name, self._value(field))

    def _fill_entry(self, message: Message, field: Any, depth: int) -> None:
        """Add an entry to a map."""
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        entries = getattr(message, field.name)
        if value.message_type is not None:
            self._fill(entries[self._value(key)], depth)
        else:
            entries[self._value(key)] = self._value(value)

    def _value(self, field: Any) -> Any:
        chance = self._chance
        kind = field.cpp_type
        if kind == FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return self._bytes()
            return chance.choice(IDS) if field.name.endswith(("id", "ids")) else self._text()
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return self.chance(0.5)
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            return chance.choice((0, 1, 2, 3, 99, -1))
        if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
            edges = (0.0, 1.0, -1.0, 0.5, 1e-46, 1e38, float("nan"), float("inf"), float("-inf"), 100.00001)
            return chance.choice((*edges, chance.random(), chance.random()))
        bits = 32 if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32) else 64
        signed = kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
        most = 2 ** (bits - signed) - 1
        small = chance.randint(0, 40)
        return chance.choice((0, 1, 2, small, small, small, 501, most, -1 if signed else most - 1))

    def _bytes(self) -> bytes:
        chance = self._chance
        if self._states and self.chance(0.7):
            state = bytearray(chance.choice(self._states))
            if self.chance(0.5):
                state[chance.randrange(len(state))] ^= 1 << chance.randrange(8)
            return bytes(state)
        return chance.randbytes(chance.choice((0, 1, 33, 5000)))

    def _text(self) -> str:
        chance = self._chance
        letters = string.ascii_letters + " \n.,;"
        made: Callable[[], str] = chance.choice(
            (
                lambda: "",
                lambda: "KING:",
                lambda: "".join(chance.choices(letters, k=chance.randint(1, 60))),
                lambda: "".join(map(chr, chance.choices(range(0xD7FF), k=chance.randint(1, 30)))),
                lambda: "\x00",
                lambda: "x" * chance.choice((4999, 5001, 70_000)),
                lambda: "e\u0301\u200d\U0001f600\ufeff",
            )
        )
        return made()


class Fuzz:
    """Sends requests and counts what comes back.

    Args:
        channels: to the server
        requests: makes them
        keys: to show, the one of all scopes first
        alive: whether the server is
    """

    def __init__(
        self,
        channels: Sequence[grpc.aio.Channel],
        requests: Requests,
        keys: Sequence[str],
        alive: Callable[[], bool],
    ) -> None:
        self._channels, self._requests, self._keys, self._alive = channels, requests, keys, alive
        self._unanswered: dict[int, str] = {}
        self.sent = self.given_up = 0
        self.codes: Counter[str] = Counter()
        self.faults: list[str] = []
        self.at_its_death: list[str] = []
        """The requests that the server was answering when it died."""

    async def run(self, most: int, budget: Budget) -> None:
        """Send up to so many requests, many at once."""

        async def send(number: int) -> None:
            while self.sent < most and budget.seconds and not self.at_its_death:
                self.sent += 1
                if self.sent % SAY == 0:
                    say(f"{self.sent:,} requests: {dict(self.codes.most_common())}")
                try:
                    await self._one(self._channels[number % len(self._channels)], number)
                finally:
                    self._unanswered.pop(number, None)

        await asyncio.gather(*(send(number) for number in range(AT_ONCE)))

    async def _one(self, channel: grpc.aio.Channel, number: int) -> None:
        requests, method = self._requests, self._requests.method()
        path = f"/{method.containing_service.full_name}/{method.name}"
        metadata = requests.metadata(self._keys)
        count = requests.number(4) if method.client_streaming else 1
        contents = [requests.message(method) for _ in range(count)]
        self._unanswered[number] = f"{method.name}: {contents!r:.500}"
        timeout = 0.05 if requests.chance(0.03) else 20.0
        abandons = requests.chance(0.05)
        try:
            if method.client_streaming:
                call: Any = channel.stream_stream(path)(_each(contents), metadata=metadata, timeout=timeout)
            elif method.server_streaming:
                stream: Any = channel.unary_stream(path)
                call = stream(contents[0], metadata=metadata, timeout=timeout)
            else:
                unary: Any = channel.unary_unary(path)
                await unary(contents[0], metadata=metadata, timeout=timeout)
                self.codes["OK"] += 1
                return
            async for reply in call:
                if method.name == "GenerateMany":
                    self._count_ends(generation_pb2.GenerateManyResponse.FromString(reply), contents)
                if abandons:
                    call.cancel()
                    self.given_up += 1
                    return
            self.codes["OK"] += 1
        except grpc.aio.AioRpcError as problem:
            if problem.details() == WRITTEN_LATE:
                self.given_up += 1
                return
            if problem.code() is grpc.StatusCode.UNAVAILABLE and not self.at_its_death and not self._alive():
                self.at_its_death = list(self._unanswered.values())
            self.codes[problem.code().name] += 1
            self._note_fault(method.name, problem.code(), problem.details(), contents)
        except asyncio.CancelledError:
            self.given_up += 1

    def _count_ends(self, reply: generation_pb2.GenerateManyResponse, contents: Sequence[bytes]) -> None:
        """Count how calls ended that share a stream."""
        for end in reply.ends:
            code = CODES[end.code]
            self.codes[f"{code.name} on a stream of many"] += 1
            self._note_fault("a call of GenerateMany", code, end.message, contents)

    def _note_fault(self, method: str, code: grpc.StatusCode, details: str | None, contents: Sequence[bytes]) -> None:
        if code in FAULTS:
            self.faults.append(f"{method}: {code.name}: {details}; {contents!r:.500}")


async def _each(contents: Sequence[bytes]) -> Any:
    for content in contents:
        yield content


def keys_in(file: Path) -> list[str]:
    """A key of all scopes, and others, made in a new file."""
    everything = "read,generate,sessions,inspect,admin"
    first = new_key(file, "fuzz", everything)
    return [first, new_key(file, "other", everything), new_key(file, "fuzz", "read"), first[:-1], "x"]


def states_of(server: Process, key: str) -> Iterator[bytes]:
    """Exported states of some sessions, which stay."""
    with Client(server.target, token=key) as client:
        for number in range(4):
            session = client.session(id=f"s{number}", keep=True)
            session.complete("KING:", max_tokens=10)
            yield session.export().state


async def fuzzed(server: Process, seed: int, keys: Sequence[str], most: int, budget: Budget) -> tuple[Fuzz, list[int]]:
    """Send the requests; with the memory of the server in KiB at the beginning, in the middle and at the end."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(server.target, options) for _ in range(4)]
    fuzz = Fuzz(channels, Requests(seed, list(states_of(server, keys[0]))), keys, lambda: server.alive)
    memory = [server.memory_kib()]
    for part in (most // 2, most):
        await fuzz.run(part, budget)
        memory.append(server.memory_kib())
    for channel in channels:
        await channel.close()
    return fuzz, memory


def main() -> int:
    """Send, count and print."""
    parser = new_parser(__doc__)
    parser.add_argument("--requests", type=at_least_one, default=100_000, help="how many (default: 100000)")
    parser.add_argument("--minutes", type=some_minutes, default=10.0, help="when to stop (default: after 10)")
    parser.add_argument("--seed", type=int, default=1, help="of the requests (default: 1)")
    parser.add_argument(
        "--max-growth", type=float, default=30.0, help="of memory over the second half, in MiB (default: 30)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        keys = keys_in(Path(folder) / "keys.json")
        with serving(BUNDLED_MODEL, "--keys", str(Path(folder) / "keys.json"), *LIMITS) as server:
            budget = Budget(arguments.minutes)
            fuzz, memory = asyncio.run(fuzzed(server, arguments.seed, keys, arguments.requests, budget))
            alive = server.alive
            text = ""
            if alive:
                with Client(server.target, token=keys[0]) as client:
                    text = client.complete("KING:", max_tokens=20, seed=1).text
    growth = round((memory[2] - memory[1]) / 1024, 1)
    figures = {
        "memory_measure": memory_measure(),
        "hardware": hardware(),
        "requests": fuzz.sent,
        "seed": arguments.seed,
        "codes": dict(fuzz.codes.most_common()),
        "given_up": fuzz.given_up,
        "faults": fuzz.faults[:20],
        "memory_mib": [round(one / 1024, 1) for one in memory],
        "growth_mib": growth,
        "alive": alive,
        "at_its_death": fuzz.at_its_death,
        "answers": len(text) == 20,
    }
    table = [("answer", "requests"), *fuzz.codes.most_common(), ("calls that were given up", fuzz.given_up)]
    finish(figures, table, only_json=arguments.json)
    for fault in fuzz.faults[:20]:
        say(fault)
    for request in fuzz.at_its_death:
        say(f"unanswered when the server died: {request}")
    return int(bool(fuzz.faults) or not alive or len(text) != 20 or growth > arguments.max_growth)


if __name__ == "__main__":
    sys.exit(main())
