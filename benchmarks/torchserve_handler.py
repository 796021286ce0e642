"""What TorchServe runs for `benchmarks.torchserve`: texts of the reference network, in a continuous batch.

It runs in TorchServe's own environment and imports nothing of this project. TorchServe calls `handle` with all calls
that are going on, again and again until they have ended, and adds new ones between two of these rounds. A round is
`steps` decoder steps of all rows in one batch, so a call is answered in a few messages. A session's state is a row of
one tensor. The section "handler" of the model's configuration has:

- decoder: "torch-fp32", "torch-int8" (dynamic quantization of the products), or "onnx-int8": the graph of Charloom's
  own bundle, in ONNX Runtime, so that both servers compute the same
- threads: of one decoder
- steps: of a round
- sessions: whose states are kept; past that the one that was used longest ago is forgotten

Axis letters: K steps, B rows, S sessions, H hidden, V vocabulary.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

NOTHING = -1
"""In a matrix of forced tokens: the step samples."""


class Decoder(Protocol):
    """Some steps of some rows."""

    def run(self, token: Tensor, state: Tensor, forced: Tensor) -> tuple[Tensor, Tensor]:
        """From what each row takes next [B], states [4, B, H] and forced tokens [K, B] to tokens [K, B] and states."""


class Steps(nn.Module):
    """Two layers of LSTM, the output layer and sampling, as matrix products; a loop that TorchScript compiles."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.table = nn.Parameter(weights["table"], requires_grad=False)
        self.first = _linear(weights["first"])
        self.second = _linear(weights["second"], weights["second_bias"])
        self.head = _linear(weights["head"], weights["head_bias"])

    def forward(self, token: Tensor, state: Tensor, forced: Tensor) -> tuple[Tensor, Tensor]:
        h1, c1, h2, c2 = state.unbind(0)
        tokens: list[Tensor] = []
        for wanted in forced.unbind(0):
            gates = self.table[token] + self.first(h1)
            n = 3 * h1.size(1)
            i, f, o = torch.sigmoid(gates[:, :n]).chunk(3, 1)
            c1 = f * c1 + i * torch.tanh(gates[:, n:])
            h1 = o * torch.tanh(c1)
            gates = self.second(torch.cat([h1, h2], 1))
            i, f, o = torch.sigmoid(gates[:, :n]).chunk(3, 1)
            c2 = f * c2 + i * torch.tanh(gates[:, n:])
            h2 = o * torch.tanh(c2)
            probability = torch.softmax(self.head(h2), 1)
            # The largest of probabilities divided by exponential noise is a sample of them.
            sampled = (probability / torch.empty_like(probability).exponential_()).argmax(1)
            token = torch.where(wanted >= 0, wanted, sampled)
            tokens.append(token)
        return torch.stack(tokens), torch.stack([h1, c1, h2, c2])


class TorchDecoder:
    """The network in torch, oneDNN's products or int8 ones."""

    def __init__(self, weights: Path, threads: int, *, int8: bool) -> None:
        torch.set_num_threads(threads)
        arrays = np.load(weights)
        steps: nn.Module = Steps({name: torch.from_numpy(arrays[name]) for name in arrays.files}).eval()
        if int8:
            steps = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
                steps, {nn.Linear}, dtype=torch.qint8
            )
        self._run: Any = torch.jit.freeze(torch.jit.script(steps))

    def run(self, token: Tensor, state: Tensor, forced: Tensor) -> tuple[Tensor, Tensor]:
        tokens, state = self._run(token, state, forced)
        return tokens, state


class OnnxDecoder:
    """The int8 graph of a bundle, which has the same loop inside."""

    def __init__(self, graph: Path, inputs: Path, threads: int) -> None:
        import onnxruntime

        torch.set_num_threads(1)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        arrays = np.load(inputs)
        by_row = {value.name for value in self._session.get_inputs() if value.shape[:1] == ["B"]}
        self._by_row = {name: arrays[name] for name in arrays.files if name in by_row}
        self._shared = {name: arrays[name] for name in arrays.files if name not in by_row}
        self._noise = np.random.default_rng()

    def run(self, token: Tensor, state: Tensor, forced: Tensor) -> tuple[Tensor, Tensor]:
        steps, rows = forced.shape
        own = {
            "token": token.numpy(),
            "state": state.view(2, 2, rows, -1).transpose(0, 1).numpy(),  # its axes: arrays, layers, rows
            "forced": forced.numpy(),
            "steps": np.full(rows, steps),
            "uniform": self._noise.random((steps, rows), np.float32),
        }
        neutral = {name: array[:rows] for name, array in self._by_row.items()}
        tokens, after = self._session.run(["tokens", "state_out"], own | neutral | self._shared)
        return torch.from_numpy(tokens), torch.from_numpy(after).transpose(0, 1).reshape(4, rows, -1)


@dataclass
class Call:
    """A call that is going on."""

    slot: int
    """Of its session."""
    prompt: list[int]
    """What has not been read yet."""
    left: int
    """Characters to generate."""


class Sessions:
    """The states of sessions in one tensor [4, S, H], and the token [S] that each takes next."""

    def __init__(self, count: int, hidden: int, start: int) -> None:
        self.state = torch.zeros(4, count, hidden)
        self.token = torch.full((count,), start)
        self._start = start
        self._free = list(range(count))
        self._slots: OrderedDict[str, int] = OrderedDict()

    def slot(self, name: str) -> int:
        """Of a session, a new one if nobody knows the name."""
        if name not in self._slots:
            slot = self._slots[name] = self._free.pop() if self._free else self._slots.popitem(last=False)[1]
            self.state[:, slot] = 0
            self.token[slot] = self._start
        self._slots.move_to_end(name)
        return self._slots[name]


class Batch:
    """The calls of a worker."""

    def __init__(self, context: Any) -> None:
        asked = context.model_yaml_config["handler"]
        folder = Path(context.system_properties["model_dir"])
        self._symbols: str = asked["symbols"]
        self._tokens = {symbol: token for token, symbol in enumerate(self._symbols)}
        self._steps: int = asked["steps"]
        self.sessions = Sessions(asked["sessions"], asked["hidden"], self._tokens["\n"])
        self._calls: dict[str, Call] = {}
        self.decoder: Decoder
        if asked["decoder"] == "onnx-int8":
            self.decoder = OnnxDecoder(folder / "decoder.onnx", folder / "inputs.npz", asked["threads"])
        else:
            self.decoder = TorchDecoder(folder / "weights.npz", asked["threads"], int8=asked["decoder"] == "torch-int8")

    def round(self, data: Sequence[dict[str, Any]], context: Any) -> list[str]:
        """One round: the text that each call has got in it."""
        names = [context.get_request_id(place) for place in range(len(data))]
        # What is not asked for any more has ended, or its client has gone.
        self._calls = {
            name: self._calls.get(name) or self._new_call(request["body"])
            for name, request in zip(names, data, strict=True)
        }
        calls = list(self._calls.values())
        with torch.inference_mode():
            texts = self._texts(calls)
        context.stopping_criteria = [_Ended(call.left == 0) for call in calls]
        return texts

    def _new_call(self, body: dict[str, Any]) -> Call:
        prompt = [self._tokens[symbol] for symbol in body["prompt"]]
        return Call(self.sessions.slot(body["session"]), prompt, body["length"])

    def _texts(self, calls: list[Call]) -> list[str]:
        """Rows that end before others leave the batch at their end."""
        texts = [""] * len(calls)
        steps = [min(self._steps, len(call.prompt) + call.left) for call in calls]
        done = 0
        for until in sorted(set(steps)):
            places = [place for place, end in enumerate(steps) if end >= until]
            for place, tokens in zip(
                places, self._advance([calls[place] for place in places], until - done), strict=True
            ):
                texts[place] += "".join(self._symbols[token] for token in tokens)
            done = until
        return texts

    def _advance(self, calls: list[Call], steps: int) -> list[list[int]]:
        """So many steps of some calls: what each has generated in them."""
        slots = torch.tensor([call.slot for call in calls])
        read = [min(steps, len(call.prompt)) for call in calls]
        forced = torch.tensor(
            [call.prompt[:count] + [NOTHING] * (steps - count) for call, count in zip(calls, read, strict=True)]
        ).T.contiguous()
        sessions = self.sessions
        tokens, state = self.decoder.run(sessions.token[slots], sessions.state[:, slots], forced)
        sessions.token[slots] = tokens[-1]
        sessions.state[:, slots] = state
        for call, count in zip(calls, read, strict=True):
            del call.prompt[:count]
            call.left -= steps - count
        return [row[count:] for row, count in zip(tokens.T.tolist(), read, strict=True)]


def handle(data: Sequence[dict[str, Any]] | None, context: Any) -> list[str]:
    """What TorchServe calls: with nothing, once, and then for each round."""
    if data is None:
        logging.getLogger().setLevel(logging.WARNING)  # TorchServe's worker tells of each round
        context.calls = Batch(context)
        return []
    calls: Batch = context.calls
    return calls.round(data, context)


class _Ended:
    """TorchServe asks it, with an answer, whether that was the last one."""

    def __init__(self, ended: bool) -> None:
        self._ended = ended

    def __call__(self, answer: object) -> bool:
        return self._ended


def _linear(matrix: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """From [in, out]."""
    made = nn.Linear(matrix.size(0), matrix.size(1), bias=bias is not None)
    made.weight = nn.Parameter(matrix.T.contiguous(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias, requires_grad=False)
    return made
