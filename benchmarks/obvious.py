"""The obvious server, to compare with: grpc.aio, one `nn.LSTM` step per session and character, one message each.

It is tuned: oneDNN is switched off, which is several times faster at one row; one thread; inference mode. It speaks
enough of `charloom.v1` for the load generator. Started as `python -m benchmarks.obvious`, it prints its address.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import grpc
import torch

from benchmarks.reference import SYMBOLS, reference_model
from charloom.v1 import generation_pb2, generation_pb2_grpc, sessions_pb2, sessions_pb2_grpc

model = reference_model()
states: dict[str, tuple[torch.Tensor, int]] = {}
numbers = itertools.count()
START = SYMBOLS.index("\n")


def step(token: int, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        logits, state = model(torch.tensor([[token]]), state)
        return logits[0, -1], state


class Generation(generation_pb2_grpc.GenerationServiceServicer):
    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        options = request.options
        state, token = states.get(options.session_id) or (model.zero_state(1), START)
        for character in options.prompt:
            _, state = step(token, state)
            token = SYMBOLS.index(character)
            await asyncio.sleep(0)
        for _ in range(options.max_tokens):
            logits, state = step(token, state)
            token = int(torch.multinomial(torch.softmax(logits, 0), 1))
            yield generation_pb2.GenerateResponse(text=SYMBOLS[token])
        states[options.session_id] = (state, token)
        yield generation_pb2.GenerateResponse(result=generation_pb2.GenerationResult())


class Sessions(sessions_pb2_grpc.SessionServiceServicer):
    async def CreateSession(
        self, request: sessions_pb2.CreateSessionRequest, context: Any
    ) -> sessions_pb2.CreateSessionResponse:
        return sessions_pb2.CreateSessionResponse(session=sessions_pb2.Session(id=f"session-{next(numbers)}"))


async def main() -> None:
    torch.set_num_threads(1)
    torch.backends.mkldnn.set_flags(False)  # type: ignore[no-untyped-call]
    server = grpc.aio.server()
    # Neither servicer has more methods than the load asks for.
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(Generation(), server)  # type: ignore[abstract]
    sessions_pb2_grpc.add_SessionServiceServicer_to_server(Sessions(), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
