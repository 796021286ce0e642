"""A classifier in the form that a server can read text with, as it comes: a recurrent network and what its last h says.

Only a forward classifier has that form. One that reads in both directions needs the end of a text before it can begin.

Axis letters: H hidden, C labels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from charloom.bundle import CellKind
from charloom.lab.tasks.predict import TextClassifier
from charloom.lab.tasks.symbols import MARKS, UNKNOWN
from charloom.network.config import ModelConfig
from charloom.network.model import CharLSTM
from charloom.training.files import CheckpointError


class StreamingForm(NamedTuple):
    """What a forward classifier computes: h of the network's last layer after the text, times a matrix."""

    network: CharLSTM
    """It reads the vocabulary's tokens and `unknown_token`; its own output layer is 0 and says nothing."""
    unknown_token: int | None
    """The token of all that the vocabulary lacks; None where it lacks nothing."""
    head: npt.NDArray[np.float32]
    """[H + 1, C], the biases last; divided by the classifier's temperature"""


@torch.no_grad()
def streaming_form(classifier: TextClassifier) -> StreamingForm:
    """The same classifier in this form.

    Raises:
        CheckpointError: it reads in both directions.
    """
    trained, vocabulary = classifier.model, classifier.symbols.vocabulary
    lstm = trained.lstm
    if lstm.bidirectional:
        raise CheckpointError(
            "the classifier reads in both directions, so it could tell nothing before the end of a text, and a server "
            "reads text once, as it comes; train one without --bidirectional"
        )
    rows = list(range(MARKS, MARKS + vocabulary.size))
    unknown = vocabulary.unknown
    if unknown is not None:
        rows[unknown] = UNKNOWN
    elif classifier.symbols.lacks_some:
        unknown = len(rows)
        rows.append(UNKNOWN)
    config = ModelConfig(
        cell=CellKind.LSTM,
        layers=lstm.num_layers,
        hidden_size=lstm.hidden_size,
        embedding_size=lstm.input_size,
        dropout=0.0,
    )
    network = CharLSTM(len(rows), config)
    parts = {"embedding.weight": trained.embedding.weight[rows]}
    for number in range(lstm.num_layers):
        own = {name: getattr(lstm, f"{name}_l{number}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        parts[f"layers.{number}.weight_ih"], parts[f"layers.{number}.weight_hh"] = own["weight_ih"], own["weight_hh"]
        parts[f"layers.{number}.bias"] = own["bias_ih"] + own["bias_hh"]
    silent = {f"head.{name}": torch.zeros_like(tensor) for name, tensor in network.head.state_dict().items()}
    network.load_state_dict(parts | silent)
    head = torch.cat([trained.head.weight.T, trained.head.bias[None]]).double() / classifier.temperature
    return StreamingForm(network.eval(), unknown, head.float().numpy())
