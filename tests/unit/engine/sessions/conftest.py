"""An engine whose sessions can go back a little way."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.engine import Engine
from charloom.engine.limits import Limits


@pytest.fixture
async def engine(bundle: Bundle, decoder: Decoder) -> AsyncIterator[Engine]:
    engine = Engine([(bundle, decoder)], Limits(rewind_tokens=300))
    yield engine
    await engine.drain(0)
