"""Soft targets: what teachers predict at each place of a text that another model is to learn.

The teachers read the training part once, before the first step; what they predict stays in the run directory, so that a
resumed run finds it and needs no teacher.

Axis letters: B rows, T time, N tokens, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charloom.bundle import Vocabulary, parse_json
from charloom.network.model import CharLSTM
from charloom.training.data.stream import Ints, Stream
from charloom.training.data.texts import digest_of
from charloom.training.files import CheckpointError, replace_file, replacing
from charloom.training.precision import full_precision
from charloom.training.teachers import Teachers, digests

SOFT_TARGETS_FILE, FACTS_FILE = "soft-targets.bin", "soft-targets.json"
SCHEMA = "charloom.soft-targets/1"
SoftTargets = npt.NDArray[np.float16]
"""[N - 1, V]: log-probabilities of all symbols after each token but the last, natural logarithms"""
ROWS, WARMUP = 32, 1024
"""The text is read in so many parts at once, each from a state that read so many tokens before it."""
BLOCK = 2**22
"""Probabilities that are computed at once, over all rows, per teacher"""


def read_soft_targets(
    directory: Path, text: Stream, vocabulary: Vocabulary, teachers: list[dict[str, str]]
) -> SoftTargets | None:
    """What these teachers predicted of this text, if it is in the directory and whole.

    Args:
        directory: of the run
        text: N tokens
        vocabulary: of V symbols
        teachers: their facts
    """
    try:
        said = parse_json((directory / FACTS_FILE).read_bytes())
        facts = _facts(text, vocabulary.size, said["teachers"])
        if digests(said["teachers"]) != digests(teachers) or facts != {name: said[name] for name in facts}:
            return None
        file = directory / SOFT_TARGETS_FILE
        shape = (len(text) - 1, vocabulary.size)
        if file.stat().st_size != 2 * math.prod(shape) or digest_of([file]) != said["sha256"]:
            return None
        return np.memmap(file, "<f2", "r", shape=shape)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_soft_targets(directory: Path, text: Stream, teachers: Teachers, device: torch.device) -> SoftTargets:
    """Let the teachers read a text; a kill leaves no files that `read_soft_targets` would take.

    Raises:
        CheckpointError: the disk is full, which shows before anything is computed; or a teacher predicts NaN.
    """
    full_precision()
    symbols, count = teachers.vocabulary.size, len(text) - 1
    models = [model.to(device).eval() for model in teachers.models]
    path = directory / SOFT_TARGETS_FILE
    with replacing(path) as file:
        os.posix_fallocate(file.fileno(), 0, 2 * count * symbols)
        for places, predicted in _predictions(models, text, symbols, device):
            for first, row in zip(places[:, 0].tolist(), predicted, strict=True):
                file.seek(2 * symbols * first)
                file.write(row[: max(0, count - first)].tobytes())
        (directory / FACTS_FILE).unlink(missing_ok=True)  # what it says is about to be true no more
    facts = _facts(text, symbols, teachers.facts) | {"sha256": digest_of([path])}
    replace_file(directory / FACTS_FILE, json.dumps(facts).encode())
    return np.memmap(path, "<f2", "r", shape=(count, symbols))


@torch.no_grad()
def _predictions(
    models: Sequence[CharLSTM], text: Stream, symbols: int, device: torch.device
) -> Iterator[tuple[Ints, npt.NDArray[np.float16]]]:
    """Places [B, T] of the text, and the log-probabilities after them, [B, T, V]; the last row may pass the end."""
    count = len(text) - 1
    rows = min(ROWS, max(1, count // (2 * WARMUP)))
    length = math.ceil(count / rows)
    starts = np.arange(rows)[:, None] * length
    states = [model.zero_state(rows) for model in models]
    if rows > 1:
        _, states = _read(models, text, np.maximum(starts + np.arange(-WARMUP, 0), 0), states, device)
        for state in states:
            state[:, :, 0] = 0.0  # the first part has nothing before it
    chunk = max(1, BLOCK // (rows * symbols))
    for begin in range(0, length, chunk):
        places = starts + np.arange(begin, min(begin + chunk, length))
        logits, states = _read(models, text, np.minimum(places, count), states, device)
        each = torch.stack([one.float().log_softmax(-1) for one in logits])
        mean = (each.logsumexp(0) - math.log(len(models))).to(torch.float16).cpu()
        if not mean.isfinite().all():
            raise CheckpointError("a teacher predicts NaN: its weights are damaged; give another one")
        yield places, mean.numpy()


def _read(
    models: Sequence[CharLSTM], text: Stream, places: Ints, states: list[Tensor], device: torch.device
) -> tuple[list[Tensor], list[Tensor]]:
    """Logits [B, T, V] and the state after the last place, of each model."""
    tokens, resets = torch.from_numpy(text[places]).to(device), text.resets(places)
    zeroed = None if resets is None else torch.from_numpy(resets).to(device)
    read = [model(tokens, state, zeroed) for model, state in zip(models, states, strict=True)]
    return [logits for logits, _ in read], [state for _, state in read]


def _facts(text: Stream, vocabulary_size: int, teachers: list[dict[str, str]]) -> dict[str, Any]:
    """What soft targets depend on, as JSON."""
    tokens = hashlib.sha256(np.ascontiguousarray(text.tokens).data)
    if text.starts is not None:
        tokens.update(np.ascontiguousarray(text.starts).data)
    return {"schema": SCHEMA, "text": tokens.hexdigest(), "symbols": vocabulary_size, "teachers": teachers}
