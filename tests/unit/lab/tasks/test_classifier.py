from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from charloom.bundle import ByteVocabulary, CharacterVocabulary, Unit, vocabulary_of
from charloom.lab.tasks.classifier import Classifier
from charloom.lab.tasks.config import ClassifierConfig
from charloom.lab.tasks.symbols import END, MARKS, PADDING, UNKNOWN, Symbols, padded
from tests.unit.lab.tasks.gradients import assert_gradients

SHAPES = [(layers, both) for layers in (1, 2, 3) for both in (False, True)]
ROWS = [np.random.default_rng(length).integers(MARKS, 12, length) for length in (5, 1, 9, 3)]


def classifier(layers: int, bidirectional: bool, dropout: float = 0.0) -> Classifier:
    torch.manual_seed(layers)
    config = ClassifierConfig(
        layers=layers, bidirectional=bidirectional, hidden_size=6, embedding_size=4, dropout=dropout
    )
    return Classifier(12, 3, config).double().eval()


@pytest.mark.parametrize(("layers", "both"), SHAPES)
def test_a_text_has_the_same_logits_alone_and_in_a_padded_batch(layers: int, both: bool) -> None:
    model = classifier(layers, both)
    together = model(padded(ROWS))
    for row, logits in zip(ROWS, together, strict=True):
        torch.testing.assert_close(model(padded([row]))[0], logits, rtol=0, atol=1e-12)
    assert (together[0] - together[2]).abs().max() > 1e-3  # it does depend on the text


@pytest.mark.parametrize(("layers", "both"), SHAPES)
def test_gradients_are_those_of_each_text_alone_and_padding_gets_none(layers: int, both: bool) -> None:
    model, labels = classifier(layers, both), torch.tensor([0, 2, 1, 1])
    cross_entropy(model(padded(ROWS)), labels, reduction="sum").backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for row, label in zip(ROWS, labels, strict=True):
        cross_entropy(model(padded([row])), label[None], reduction="sum").backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=0, atol=1e-11, msg=name)
        assert parameter.grad.abs().max() > 0, name
    assert not found["embedding.weight"][PADDING].any()


@pytest.mark.parametrize(("layers", "both"), SHAPES)
def test_gradients_are_those_of_finite_differences(layers: int, both: bool) -> None:
    model, labels = classifier(layers, both), torch.tensor([0, 2, 1, 1])

    def loss() -> torch.Tensor:
        return cross_entropy(model(padded(ROWS)), labels)

    assert_gradients(model, loss)


def test_the_final_states_are_after_the_last_symbol_and_backwards_after_the_first() -> None:
    model = classifier(1, True)
    row = ROWS[2]
    outputs, _ = model.lstm(model.embedding(torch.from_numpy(row))[None])
    final = torch.cat([outputs[:, -1, :6], outputs[:, 0, 6:]], dim=1)
    torch.testing.assert_close(model(padded([row])), model.head(final))


def test_dropout_is_between_layers_and_on_the_final_states_in_training_alone() -> None:
    model = classifier(1, False, dropout=0.5)
    assert torch.equal(model(padded(ROWS)), model(padded(ROWS)))
    model.train()
    assert not torch.equal(model(padded(ROWS)), model(padded(ROWS)))
    assert model.lstm.dropout == 0  # there is no second layer; torch would warn
    assert classifier(2, False, dropout=0.5).lstm.dropout == 0.5


def test_an_unknown_symbol_says_nothing_at_first() -> None:
    assert not classifier(1, False).embedding.weight[UNKNOWN].any()


def test_characters_without_a_symbol_are_unknown_and_the_others_keep_theirs() -> None:
    symbols = Symbols(CharacterVocabulary("abc"))
    assert symbols.size == MARKS + 3
    assert symbols.encode("cab").tolist() == [MARKS + 2, MARKS, MARKS + 1]
    assert symbols.encode("a😀b\na").tolist() == [MARKS, UNKNOWN, MARKS + 1, UNKNOWN, MARKS]
    assert symbols.decode([MARKS, UNKNOWN, MARKS + 1, END, MARKS]) == "ab"


def test_words_without_a_symbol_are_unknown_and_the_others_keep_theirs() -> None:
    symbols = Symbols(vocabulary_of("not a good film", Unit.WORD))
    good, space = (int(symbols.vocabulary.encode(word)[0]) + MARKS for word in ("good", " "))
    assert symbols.encode("good gooood good").tolist() == [good, space, UNKNOWN, space, good]


def test_bytes_are_never_unknown() -> None:
    assert Symbols(ByteVocabulary()).encode("é").tolist() == [MARKS + 0xC3, MARKS + 0xA9]
