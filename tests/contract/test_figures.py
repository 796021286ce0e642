"""Figures that the guides promise are those of the code and of the bundled model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from charloom.bundle import read_bundle
from charloom.engine.sessions.stores.store import LEASE_SECONDS
from charloom.engine.sessions.writer import CHECKPOINT_SECONDS, MOST_TOKENS
from charloom.models import BUNDLED_MODEL
from charloom.server.grpc.errors import REQUEST_SECONDS
from charloom.server.grpc.services.turn import ON_THE_WAY
from charloom.server.http.connections import STALLED_SECONDS
from charloom.server.http.exchange import BODY_SECONDS, PING_SECONDS
from charloom.server.settings import ServerSettings

ROOT = Path(__file__).resolve().parents[2]
WORDS = {"a minute": 60.0, "half a second": 0.5, "second": 1.0}
MODEL = read_bundle(BUNDLED_MODEL)
CARRIED, COLD = MODEL.manifest.validation["tail"], MODEL.manifest.validation["windows-256"]
CELL, DECODER = MODEL.manifest.cell, MODEL.manifest.files["decoder.int8.onnx"]
STATE_KIB = 4 * len(CELL.arrays) * CELL.layers * CELL.hidden_size / 2**10
FIGURES = [
    ("docs/stores.md", r"renews the lease every ([\d.]+) s", LEASE_SECONDS / 4),
    ("docs/stores.md", r"nobody renews ends after (\d+) s", LEASE_SECONDS),
    ("docs/sessions.md", r"its lease ends after (\d+) s", LEASE_SECONDS),
    ("docs/stores.md", r"to a shared store also every (second)", CHECKPOINT_SECONDS),
    ("docs/sessions.md", r"observed text of more than ([\d,]+) tokens", MOST_TOKENS),
    ("docs/sessions.md", r"`--rewind-tokens` positions \(([\d,]+) by default\)", ServerSettings().rewind_tokens),
    ("docs/http.md", r"(\d+) s sends a comment", PING_SECONDS),
    ("docs/http.md", r"the body did not arrive within (a minute)", BODY_SECONDS),
    ("docs/http.md", r"One that reads nothing for (a minute)", STALLED_SECONDS),
    ("docs/operating.md", r"the request has not arrived within (a minute)", REQUEST_SECONDS),
    ("docs/operating.md", r"`DRAINING` if none does for (half a second)", ON_THE_WAY),
    ("README.md", r"layer of 768: ([\d.]+) M parameters", CELL.parameters / 1e6),
    ("README.md", r"([\d.]+) MB in int8", DECODER.bytes / 1e6),
    ("README.md", r"fixed size: (\d+) KiB for the bundled model", STATE_KIB),
    ("docs/sessions.md", r"fixed size \((\d+) KiB for the bundled model\)", STATE_KIB),
    ("docs/playground.md", r"\((\d+) KiB for the bundled model\)", STATE_KIB),
    ("README.md", r"\(`tail`\) is ([\d.]+) nats per character, and the same in int8", CARRIED["checkpoint"]),
    ("README.md", r"is ([\d.]+) nats per character, and the same in int8", CARRIED["onnx-int8"]),
    ("README.md", r"\(`windows-256`\) it is ([\d.]+),", COLD["checkpoint"]),
    ("docs/bundled-model.md", r"state carried \| ([\d.]+) \|", CARRIED["checkpoint"]),
    ("docs/bundled-model.md", r"nanoGPT's protocol\) \| ([\d.]+) \|", COLD["checkpoint"]),
]


@pytest.mark.parametrize(("page", "pattern", "value"), FIGURES)
def test_a_guide_promises_the_figure_of_the_code(page: str, pattern: str, value: float) -> None:
    """To as many digits as it tells."""
    found = re.findall(pattern, re.sub(r"\s+", " ", (ROOT / page).read_text("utf-8")))
    assert found, "the sentence is another: look whether its figure is right, and change the pattern"
    for text in found:
        if text in WORDS:
            assert WORDS[text] == value
        else:
            assert float(text.replace(",", "")) == round(value, len(text.partition(".")[2]))
