"""The wire tests of sessions, where each call goes to another process than the one before."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest

from charloom.bundle import Bundle
from tests.integration.several import serving
from tests.integration.test_conversation_wire import (  # noqa: F401  # collected here too, with the channel of this module
    test_a_conversation_makes_its_session,
    test_a_text_is_steered_while_it_runs,
)
from tests.integration.test_reading_wire import (  # noqa: F401
    test_text_is_observed_as_it_comes,
    test_texts_are_scored,
    test_what_comes_next_is_peeked_at,
)
from tests.integration.test_sessions_wire import (  # noqa: F401
    test_a_call_that_is_refused_makes_no_session,
    test_a_call_that_made_its_session_and_broke_off_is_made_again,
    test_a_generation_makes_its_session_where_there_never_was_one,
    test_a_session_is_fed_put_back_copied_renewed_and_forgotten,
    test_a_state_is_exported_imported_and_used_without_a_session,
    test_positions_that_cannot_be_had,
    test_states_are_blended,
    test_states_that_cannot_be_opened,
    test_tenants_are_apart,
)

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class InTurn:
    """What generated stubs need of a channel; calls go to one after the other of several."""

    def __init__(self, channels: Sequence[grpc.Channel]) -> None:
        self._turns = itertools.cycle(range(len(channels)))
        self._channels = channels

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        if kind not in KINDS:
            raise AttributeError(kind)

        def method(*arguments: Any, **options: Any) -> Callable[..., Any]:
            methods = [getattr(channel, kind)(*arguments, **options) for channel in self._channels]
            return lambda *call, **more: methods[next(self._turns)](*call, **more)

        return method


@pytest.fixture(scope="module")
def channel(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InTurn]:
    folder = tmp_path_factory.mktemp("sessions")
    with serving(bundle.path, folder, "--trust-proxy", "127.0.0.1") as server, server.channels() as channels:
        yield InTurn(channels)
