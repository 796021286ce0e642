"""What `benchmarks.adaptive` prints, and that its losses are those of a session that reads the text."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import adaptive, decoder
from charloom.bundle import Bundle, DecoderKind
from charloom.engine.decoding.onnx_decoder import OnnxDecoder
from charloom.engine.decoding.snapshot import Snapshot
from tests.unit.engine.looms import Harness


def test_losses_and_steps_are_told_without_and_with_learning(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.write_text(bundle.vocabulary.decode(range(3, 9)) * 500)
    options = ["--share", "0.5", "--steps", "--rows", "2", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["adaptive", str(bundle.path), str(text), *options])
    monkeypatch.setattr(decoder, "SECONDS", 0.001)
    adaptive.main()
    printed = capsys.readouterr().out
    found = json.loads(printed.splitlines()[-1])
    assert found["tokens"] == 1500
    assert [*found["loss"]["adaptive"]] == ["tail", "0 to 1,000", "1,000 to 1,499"]
    assert found["loss"]["adaptive"]["tail"] < found["loss"]["ordinary"]["tail"] - 1, "the text repeats itself"
    assert found["steps"].keys() == {"2"}
    assert found["steps"]["2"].keys() == {"bare", "generating", "one", "all"}
    assert printed.count("adaptive  ") == 1  # in the table


def test_losses_are_those_of_a_row_on_a_loom(bundle: Bundle) -> None:
    tokens = np.random.default_rng(1).integers(bundle.vocabulary.size, size=150)
    kind = next(kind for kind in bundle.manifest.decoders if kind is not DecoderKind.TORCHSCRIPT)
    onnx = OnnxDecoder(bundle.decoder_file(kind), kind.value)
    harness = Harness(onnx, bundle.manifest.start_token)
    for learns in (False, True):
        start = Snapshot.fresh(onnx.shape, int(tokens[0]), 1, adaptive=learns)
        job = harness.submit(start=start, prompt=tokens[1:].tolist(), max_tokens=0, top_logprobs=0, scored=True)
        job.wait()
        expected = [-token.logprob for chunk in job.chunks for token in chunk.logprobs]
        np.testing.assert_array_equal(adaptive.losses(onnx, tokens, learns=learns), np.array(expected, np.float32))
    assert harness.loom.drain(1)
