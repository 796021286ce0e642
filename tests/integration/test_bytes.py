"""A byte model: any language, no character split on its way."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from charloom.bundle import Bundle, DecoderKind, Unit, read_bundle
from charloom.client import Client, InvalidArgument
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.export import export_bundle
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.training.checkpoint import load_trained
from charloom.training.config import TrainingConfig
from charloom.training.data.corpus import read_corpus
from charloom.training.loop import Trainer
from charloom.training.run_directory import load_validation
from tests.conftest import SMALL, Silent

TEXT = "Ночь, улица, фонарь, аптека. 夜は短し歩けよ乙女。 Füße 👩‍🚀!\n" * 400
"""Characters of one, two, three and four bytes."""


@pytest.fixture(scope="module")
def byte_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "text.txt").write_text(TEXT, "utf-8")
    settings = {**SMALL, "unit": Unit.BYTE, "epochs": 3, "sequence_length": 32, "learning_rate": 1e-2}
    config = TrainingConfig.model_validate(settings)
    Trainer(config, read_corpus(folder / "text.txt", Unit.BYTE), folder / "run").train(Silent())
    run, path = folder / "run", folder / "bytes"
    export_bundle(load_trained(run), load_validation(run), path, name="bytes", decoders=[DecoderKind.ONNX_FP32])
    return read_bundle(path)


@pytest.fixture(scope="module")
def client(byte_bundle: Bundle) -> Iterator[Client]:
    settings = ServerSettings(grace_seconds=0, tick_milliseconds=0.5)  # short ticks cut the text in many places
    models = [(byte_bundle, open_decoder(byte_bundle))]
    with running_server(models, settings) as server, Client(server.address) as client:
        server.engine.models[0].loom._unread_limit = 50  # no piece has more, however late its reader is
        yield client


def test_any_language_can_be_read_and_is_written_whole(client: Client) -> None:
    stream = client.generate("Ночь 夜 👩", max_tokens=400, temperature=0.3, seed=1)
    pieces = list(stream)
    assert len(pieces) > 5
    text = "".join(pieces)
    assert any(ord(character) > 0x400 for character in text)
    result = stream.result()
    assert result.usage.prompt_tokens == len("Ночь 夜 👩".encode())
    whole = client.complete("Ночь 夜 👩", max_tokens=400, temperature=0.3, seed=1).text
    assert text == whole


@pytest.mark.parametrize("length", [1, 2, 3, 5, 7])
def test_a_character_cut_by_the_end_of_a_call_comes_whole_in_the_next(client: Client, length: int) -> None:
    total = 140 - 140 % length
    whole = client.complete("夜", max_tokens=total, temperature=0.3, seed=2).text
    with client.session(seed=2) as session:
        parts = [session.complete("夜", max_tokens=length, temperature=0.3).text]
        parts += [session.complete(max_tokens=length, temperature=0.3).text for _ in range(total // length - 1)]
    assert "".join(parts) == whole
    assert length > 1 or "" in parts  # a call of one byte has no text unless it ends a character


def test_wild_bytes_become_replacement_characters_and_nothing_breaks(client: Client) -> None:
    text = client.complete(max_tokens=500, temperature=3.0, seed=3).text
    assert "�" in text
    assert text.encode("utf-8").decode("utf-8") == text


def test_the_model_says_that_its_tokens_are_bytes(client: Client, byte_bundle: Bundle, tmp_path: Path) -> None:
    model = client.model()
    assert (model.unit.value, model.vocabulary_size, model.symbols) == ("byte", 256, ())


def test_a_text_is_inspected_byte_by_byte(client: Client) -> None:
    found = client.inspect("Ночь 夜")
    assert b"".join(token.symbol for token in found.tokens).decode() == "Ночь 夜"
    assert found.tokens[-1].position == len("Ночь 夜".encode()) == found.layers[0].cell.shape[0]
    assert sum(token.logprob for token in found.tokens) == pytest.approx(
        sum(token.logprob for token in client.score("Ночь 夜").logprobs), abs=1e-4
    )


def test_an_inspection_is_limited_in_tokens(client: Client) -> None:
    """A short text of long characters is as much work as its bytes."""
    found = client.inspect("夜👩", layers=[0], top_next=2)
    assert len(found.tokens) == len("夜👩".encode())
    assert len(client.inspect("👩" * 1024, layers=[0]).tokens) == 4096
    with pytest.raises(InvalidArgument, match="it has 4100 tokens, more than 4096"):
        client.inspect("👩" * 1025)


def test_a_constrained_text_has_whole_characters_and_may_have_any(client: Client) -> None:
    pattern = r"(?:[а-яё]{2,9}|[\u4e00-\u9fff]{1,4}|👩‍🚀)(?:, (?:[а-яё]{2,9}|[\u4e00-\u9fff]{1,4}|👩‍🚀)){2,5}\."
    for seed in range(10):
        found = client.complete("Ночь ", regex=pattern, max_tokens=150, seed=seed)
        assert re.fullmatch(pattern, found.text)
        assert found.result.usage.completion_tokens == len(found.text.encode())
    assert {client.complete("", choices=["да", "夜", "👩"], seed=seed).text for seed in range(30)} <= {"да", "夜", "👩"}
    with pytest.raises(InvalidArgument, match="give at least 12"):
        client.complete("", choices=["夜夜夜夜"], max_tokens=11)


def test_a_form_is_filled_in_any_language(client: Client) -> None:
    """With an automaton for each of all characters in a string, within the time that a constraint has."""
    word = {"type": "string", "minLength": 1, "maxLength": 12}
    schema = {"type": "object", "properties": {"слово": word, "言葉": word}, "required": ["слово", "言葉"]}
    for seed in range(5):
        text = client.complete("Ночь ", json_schema=schema, max_tokens=200, seed=seed).text
        jsonschema.validate(json.loads(text), schema)
