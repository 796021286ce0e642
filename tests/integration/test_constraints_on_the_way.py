"""Constrained texts that are broken off, resumed, copied, put back and sealed in their middle, by the SDK."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charloom.bundle import Bundle
from charloom.client import Client
from charloom.engine.decoding.decoder import Decoder
from charloom.server.app import Server
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from tests.unit.client.proxy import Proxy

PROMPT = "The "
LONG = r"(?:[a-z ]{30,60}[.,] ){110}[A-Z]{3,}"
NARROW = {"grpc.http2.lookahead_bytes": 1024, "grpc.http2.bdp_probe": 0}
"""Little is buffered on the way, so that no stream is over before it breaks."""


@pytest.fixture(scope="module")
def server(bundle: Bundle, decoder: Decoder) -> Iterator[Server]:
    with running_server([(bundle, decoder)], ServerSettings(grace_seconds=0)) as server:
        server.engine.models[0].loom._unread_limit = 300  # no piece has more
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


@pytest.mark.parametrize("kept", [False, True], ids=["without a session", "in a session"])
def test_a_stream_that_breaks_goes_on_in_the_middle_of_its_text(server: Server, client: Client, kept: bool) -> None:
    expected = client.complete(PROMPT, regex=LONG, max_tokens=7_500, seed=4)
    assert re.fullmatch(LONG, expected.text)
    proxy = Proxy(server.address)
    try:
        with Client(proxy.target, channel_options=NARROW, timeout=None) as breaking:
            source = breaking.session(seed=4) if kept else breaking
            text, cuts = "", 0
            with source.generate(PROMPT, regex=LONG, max_tokens=7_500, **({} if kept else {"seed": 4})) as stream:
                for piece in stream:
                    text += piece
                    if len(text) > 1_000 * (cuts + 1) and cuts < 3:
                        proxy.cut()
                        cuts += 1
                result = stream.result()
        assert cuts == 3
        assert proxy.connections > 3
    finally:
        proxy.stop()
    assert text == expected.text
    assert (result.finish_reason, result.position) == (expected.result.finish_reason, expected.result.position)


PATTERNS = [r"[A-Z]{3,8}: [a-z ]+\.", "(?:one|two|three)(?:, (?:one|two|three))*", r"[a-z]{1,9}(?: \w+){2,9}"]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(PATTERNS), st.integers(0, 2**64 - 1), st.floats(0, 1), st.sampled_from(PATTERNS))
def test_a_session_may_be_copied_put_back_and_sealed_in_the_middle(
    client: Client, pattern: str, seed: int, share: float, other: str
) -> None:
    options = {"max_tokens": 40, "seed": seed}
    with client.session(seed=seed) as session:
        begin = session.feed(PROMPT).position
        text = session.complete(regex=pattern, **options).text
        assert re.fullmatch(pattern, text)
        middle = begin + int(share * len(text))
        fork = session.fork(position=middle)
        sealed = fork.export().state
        # What follows a place in the middle is a text of its own, whoever asks for it.
        again = fork.complete(regex=other, **options).text
        assert re.fullmatch(other, again)
        assert client.complete(regex=other, state=sealed, **options).text == again
        session.rewind(middle)
        assert session.complete(regex=other, **options).text == again
        session.rewind(begin)
        assert session.complete(regex=pattern, **options).text == text
        fork.delete()


def test_min_tokens_is_about_stop_strings_and_changes_nothing(client: Client) -> None:
    short = client.complete(PROMPT, regex="[a-z]+", seed=1)
    assert client.complete(PROMPT, regex="[a-z]+", seed=1, min_tokens=200).text == short.text
