"""A loom on the default decoder of the small model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from charloom.bundle import Bundle
from charloom.engine.decoder import Decoder
from tests.unit.engine.looms import Harness


@pytest.fixture
def harness(decoder: Decoder, bundle: Bundle) -> Iterator[Harness]:
    harness = Harness(decoder, bundle.manifest.start_token)
    yield harness
    harness.loom.drain(0)
