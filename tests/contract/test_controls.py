"""Whoever spells the sampling controls spells them as the table does."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import fields
from typing import get_type_hints

import pytest
from google.protobuf.descriptor import FieldDescriptor

from charloom.cli.sessions.generate import add_generation_arguments, sampling_options
from charloom.client import Sampling as ClientSampling
from charloom.client._options import SamplingOptions
from charloom.controls import INPUTS, Control, Effect, controls
from charloom.engine.decoding.sampling import Sampling
from charloom.v1 import generation_pb2
from tests.contract.test_architecture import ROOT

NUMBERS = {control.option: control.type for control in controls()}
TEXTS = {"logit_bias", "allowed_characters", "forbidden_characters"}
"""What else a request says of sampling; all of it goes into the input `bias`."""


def test_the_names_of_options_are_different() -> None:
    assert len(NUMBERS) == len(controls())


def test_the_wire_has_the_controls() -> None:
    by_name = generation_pb2.Sampling.DESCRIPTOR.fields_by_name
    assert set(by_name) == NUMBERS.keys() | TEXTS
    wire = {float: FieldDescriptor.TYPE_FLOAT, int: FieldDescriptor.TYPE_UINT32}
    assert {name: by_name[name].type for name in NUMBERS} == {name: wire[kind] for name, kind in NUMBERS.items()}
    assert [name for name in NUMBERS if not by_name[name].has_presence] == []


def test_the_engine_has_the_controls_with_their_neutral_values() -> None:
    assert {name: kind for name, kind in get_type_hints(Sampling).items() if name not in TEXTS} == NUMBERS
    defaults = {field.name: field.default for field in fields(Sampling) if field.name not in TEXTS}
    assert defaults == {control.option: control.neutral for control in controls()}
    assert Sampling().asked == ()


def test_the_sdk_takes_the_controls_and_tells_them() -> None:
    taken, told = get_type_hints(SamplingOptions), get_type_hints(ClientSampling)
    assert taken.keys() == told.keys() == NUMBERS.keys() | TEXTS
    assert {name: taken[name] for name in NUMBERS} == {name: kind | None for name, kind in NUMBERS.items()}
    assert {name: told[name] for name in NUMBERS} == NUMBERS


def test_the_command_has_a_flag_for_each_control_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    new = Control(
        name="fond",
        option="fond_of",
        type=int,
        effect=Effect.FILTERS,
        neutral=0,
        lowest=0,
        wanted="0 (off) or more",
        words="likes a token",
        tried=(0, 1),
    )
    monkeypatch.setitem(INPUTS, new.name, new)
    parser = argparse.ArgumentParser()
    add_generation_arguments(parser)
    assert "likes a token; 0 (off) or more" in parser.format_help()
    words = [word for control in controls() for word in (f"--{control.option.replace('_', '-')}", "1")]
    options = sampling_options(parser.parse_args(words))
    assert {control.option: options.get(control.option) for control in controls()} == {
        **dict.fromkeys(NUMBERS, 1),
        "fond_of": 1,
    }


def test_the_page_has_the_table() -> None:
    command = [sys.executable, ROOT / "scripts" / "generate-sampling-table", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
