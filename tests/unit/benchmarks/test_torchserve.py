"""That TorchServe's handler computes the reference network and carries sessions, and that what is missing is named."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import torchserve_server
from benchmarks.reference import SYMBOLS, reference_model
from benchmarks.reporting import table_of
from benchmarks.torchserve import result, table
from benchmarks.torchserve_handler import Batch, Decoder, OnnxDecoder, TorchDecoder, handle
from benchmarks.torchserve_server import Setup, missing, write_model

START = SYMBOLS.index("\n")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_model(tmp_path_factory.mktemp("peer"))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A decoder sets how many threads torch has in its process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def zero_state(rows: int) -> torch.Tensor:
    return torch.zeros(4, rows, 512)


def context_of(folder: Path, decoder: str, steps: int) -> Any:
    """What TorchServe gives the handler; `names` are those of the calls that are going on."""
    names: list[str] = []
    return SimpleNamespace(
        model_yaml_config=Setup(decoder, workers=1, steps=steps, delay=1).configuration,
        system_properties={"model_dir": str(folder)},
        names=names,
        get_request_id=names.__getitem__,
    )


def round_of(context: Any, calls: dict[str, dict[str, Any]]) -> dict[str, tuple[str, bool]]:
    """The text of each call in a round, and whether it was its last."""
    context.names[:] = calls
    texts = handle([{"body": body} for body in calls.values()], context)
    ended = [asked(text) for asked, text in zip(context.stopping_criteria, texts, strict=True)]
    return dict(zip(calls, zip(texts, ended, strict=True), strict=True))


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")  # its successor: torchao
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_all_decoders_compute_the_reference_network(files: Sequence[Path]) -> None:
    text = torch.randint(len(SYMBOLS), (40, 3), generator=torch.Generator().manual_seed(1))
    token = torch.full((3,), START)
    inputs = torch.cat([token.unsqueeze(0), text])[:-1]
    with torch.inference_mode():
        model = reference_model()
        _, wanted = model(inputs.T.contiguous(), model.zero_state(3))
    decoders: list[tuple[Decoder, float]] = [
        (TorchDecoder(files[0], 1, int8=False), 1e-4),
        (TorchDecoder(files[0], 1, int8=True), 0.05),
        (OnnxDecoder(files[2], files[1], 1), 0.05),
    ]
    for decoder, within in decoders:
        tokens, state = decoder.run(token, zero_state(3), text)
        assert torch.equal(tokens, text)
        found = state.view(2, 2, 3, -1).transpose(0, 1)  # arrays, layers, rows, hidden
        assert torch.allclose(found, wanted.reshape(found.shape), atol=within)


@pytest.mark.parametrize("decoder", ["torch-fp32", "onnx-int8"])
def test_a_session_goes_on_where_its_last_call_ended_beside_other_calls(files: Sequence[Path], decoder: str) -> None:
    context = context_of(files[0].parent, decoder, steps=5)
    handle(None, context)
    first = {"session": "one", "prompt": "abcdefg", "length": 9}  # 16 steps: 5 + 5 + 5 + 1
    other = {"session": "two", "prompt": "xy", "length": 2}
    assert round_of(context, {"a": first}) == {"a": ("", False)}
    both = round_of(context, {"a": first, "b": other})
    assert [(len(text), ended) for text, ended in both.values()] == [(3, False), (2, True)]
    text = both["a"][0]
    for length, ended in [(5, False), (1, True)]:
        found = round_of(context, {"a": first})["a"]
        assert (len(found[0]), found[1]) == (length, ended)
        text += found[0]
    last, ended = round_of(context, {"c": {"session": "one", "prompt": "z", "length": 4}})["c"]
    assert (len(last), ended) == (4, True)

    read = torch.tensor([SYMBOLS.index(symbol) for symbol in f"abcdefg{text}z{last}"]).unsqueeze(1)
    batch: Batch = context.calls
    _, wanted = batch.decoder.run(torch.tensor([START]), zero_state(1), read)
    state = batch.sessions.state[:, batch.sessions.slot("one")]
    assert torch.allclose(state, wanted[:, 0], atol=1e-4)


def test_the_fastest_setup_is_the_one_to_compare_with() -> None:
    def runs(*speeds: int) -> list[dict[str, Any]]:
        rest = {"ttfc_ms": {"p50": 1.0, "p99": 2.0}, "messages_per_call": 2.0, "server_ms": 3.0, "client_ms": 0.1}
        return [{"chars_per_s": speed, **rest} for speed in speeds]

    found = result(
        {"ours": runs(20, 30, 10), "shared_stream": runs(45, 70, 50), "slow": runs(15, 5), "fast": runs(40, 60, 50)}
    )
    assert (found["fastest"], found["ratio"], found["ratio_median"]) == ("fast", 0.5, 0.4)
    assert (found["shared_stream_ratio"], found["shared_stream_ratio_median"]) == (1.17, 1.0)
    assert found["torchserve"]["slow"]["median"]["chars_per_s"] == 5
    assert [line.split()[:3] for line in table_of(table(found)).splitlines()[1:]] == [
        ["ours", "30", "20"],
        ["shared_stream", "70", "50"],
        ["slow", "15", "5"],
        ["fast", "60", "50"],
    ]


def test_what_the_peer_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None if name == "java" else name)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert "Java" in str(missing(sys.executable))
    monkeypatch.setattr("shutil.which", lambda name: None if name == "nowhere" else name)
    assert missing("nowhere") == "nowhere: there is no such Python"
    assert "has no ts, model_archiver:" in str(missing(sys.executable))


def test_a_group_of_which_nothing_runs_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert torchserve_server._members(ended.pid) == ()
    ended.wait()
    seen = iter([(ended.pid,), ()])
    monkeypatch.setattr(torchserve_server, "_members", lambda _: next(seen))
    torchserve_server._end(ended)
