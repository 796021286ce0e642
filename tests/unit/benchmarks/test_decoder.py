"""What `benchmarks.decoder` prints; and its ratios, on calls whose cost is known."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import decoder
from benchmarks.reference import write_reference_bundle

MEASURED = {"bare", "generating", "reading", "earlier_generating", "earlier_reading"}


def test_each_decoder_is_told_beside_the_bare_step_and_beside_an_earlier_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = write_reference_bundle(tmp_path / "other")
    monkeypatch.setattr(sys, "argv", ["decoder", "--rows", "1,2", "--rounds", "1", "--against", str(other)])
    monkeypatch.setattr(decoder, "SECONDS", 0.001)
    decoder.main()
    printed = capsys.readouterr().out
    found = json.loads(printed.splitlines()[-1])
    assert found["rounds"] == 1
    assert found["hardware"]
    for kind in ("onnx-int8", "onnx-fp32"):
        for rows in ("1", "2"):
            figures = found[kind][rows]
            assert figures.keys() == MEASURED
            assert figures["bare"]["of_bare"] == figures["generating"]["to_generating"] == 1
            assert all(each["us"] > 0 for each in figures.values())
    assert printed.count("earlier_reading  ") == 4  # in the table


def test_ratios_are_medians_over_rounds_of_times_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"bare": [2.0, 4.0, 6.0], "generating": [10.0, 10.0, 60.0], "reading": [5.0, 10.0, 15.0]}
    clock = {name: iter([1.0, *times]) for name, times in seconds.items()}  # the first one tells how often to call
    monkeypatch.setattr(decoder, "_seconds", lambda call, repeats: next(clock[call()]))
    found = decoder.compared({name: (lambda name=name: name, 1 if name == "bare" else 2) for name in seconds}, 3)  # type: ignore[misc]
    assert found["bare"]["us"] == 4e6
    assert found["generating"] == {"us": 5e6, "of_bare": 0.4, "to_generating": 1.0}
    assert found["reading"] == {"us": 5e6, "of_bare": 0.8, "to_generating": 0.5}
