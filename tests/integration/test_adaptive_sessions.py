"""Sessions that learn from their text, through a real server, the SDK, HTTP and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from charloom.bundle import Bundle, read_bundle
from charloom.cli.main import main
from charloom.client import Client, InvalidArgument, InvalidValue, Session
from charloom.controls.adaptation import state_size
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.server.app import Server
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from tests.integration.http_client import client as http_client

PHRASE = "Zebulon Quixby walked home. "
WRITTEN_BEFORE = Path(__file__).resolve().parents[1] / "fixtures" / "written-by-0.1" / "bundle"


@pytest.fixture(scope="module")
def client(http_server: Server) -> Iterator[Client]:
    with Client(http_server.address) as client:
        yield client


@pytest.fixture(scope="module")
def plain(http_server: Server) -> Iterator[httpx.Client]:
    with http_client(http_server) as plain:
        yield plain


def nats(session: Session) -> float:
    return session.score(PHRASE).nats_per_token


def test_what_comes_again_is_expected_and_other_sessions_are_as_ever(client: Client) -> None:
    with client.session(adaptive=True) as adaptive, client.session() as ordinary:
        assert (adaptive.info.adaptive, ordinary.info.adaptive) == (True, False)
        first, expected = (session.score("a").logprobs[0].logprob for session in (adaptive, ordinary))
        assert first == expected, "before its text a session has learnt nothing"
        for session in (adaptive, ordinary):
            session.feed(PHRASE * 12)
        assert nats(adaptive) < nats(ordinary) - 0.5
        with client.session() as other:
            other.feed(PHRASE * 12)
            assert nats(other) == nats(ordinary)
        expected = nats(adaptive)
        with adaptive.observe() as observer:
            observed = observer.read(PHRASE).logprobs
        assert -sum(one.logprob for one in observed) / len(observed) == pytest.approx(expected, abs=1e-6)


def test_texts_are_functions_of_session_and_seed_wherever_it_is_taken(client: Client) -> None:
    with client.session(adaptive=True, seed=3) as session:
        session.feed(PHRASE * 3)
        there = session.info.position
        sealed = session.export()
        copy = session.fork(seed=3)
        text = session.complete("Then ", max_tokens=120).text
        assert copy.info.adaptive
        assert copy.complete("Then ", max_tokens=120).text == text
        with client.import_session(sealed.state) as restored:
            assert restored.info.adaptive
            assert restored.complete("Then ", max_tokens=120, seed=3).text == text
        in_pieces = client.complete("Then ", max_tokens=50, seed=3, state=sealed.state, return_state=True)
        assert in_pieces.result.state is not None
        rest = client.complete("", max_tokens=70, seed=3, state=in_pieces.result.state)
        assert in_pieces.text + rest.text == text
        session.rewind(there)
        assert session.complete("Then ", max_tokens=120).text == text
    with client.session(adaptive=True, seed=3, at_first_text=True) as at_once, client.session(seed=3) as ordinary:
        lead = PHRASE * 3 + "Then "
        assert at_once.complete(lead, max_tokens=120).text == text
        assert at_once.info.adaptive
        assert ordinary.complete(lead, max_tokens=120).text != text


def test_suggestions_go_by_what_it_has_learnt_and_by_nothing_else(client: Client) -> None:
    """Each is as probable as the session says of the same text when it scores it."""
    with client.session(adaptive=True) as session:
        session.feed(PHRASE * 8 + "and then")
        session.rewind(session.refresh().position - len("and then"))
        for prompt in ("", "Zebulon Qu"):
            found = session.suggest(prompt, count=5, boundary="length", max_tokens=6).texts
            for one in found:
                scored = session.score(prompt + one.text).logprobs[len(prompt) :]
                assert one.logprob == pytest.approx(sum(each.logprob for each in scored), abs=1e-4)
        assert found[0].text == "ixby w"


def test_a_session_that_starts_from_another_is_like_it_and_a_blend_has_learnt_nothing(client: Client) -> None:
    client.prime("primed", PHRASE * 4, adaptive=True)
    with client.session(start="primed") as one, client.session(start="primed") as other:
        assert one.info.adaptive
        with client.blend({one: 1.0, other: 1.0}) as blend:
            assert not blend.info.adaptive
    with pytest.raises(InvalidValue, match="adaptive"):
        client.session(start="primed", adaptive=True)
    client.delete_session("primed")


def test_the_size_of_what_a_session_learns_is_told(client: Client, bundle: Bundle) -> None:
    assert client.model().adaptive_state_bytes == 4 * state_size(bundle.vocabulary.size) <= 64 * 1024


def test_a_bundle_from_before_says_how_its_sessions_could_learn() -> None:
    before = read_bundle(WRITTEN_BEFORE)
    settings = ServerSettings(grace_seconds=0)
    with running_server([(before, open_decoder(before))], settings) as server, Client(server.address) as client:
        assert client.model().adaptive_state_bytes == 0
        for at_first_text in (False, True):
            with pytest.raises(InvalidArgument, match=r"charloom export --from OLD NEW") as refused:
                client.session(adaptive=True, at_first_text=at_first_text).complete("a", max_tokens=1)
            assert [field for field, _ in refused.value.violations] == ["adaptive"]
        assert list(client.sessions()) == []
        with client.session() as session:
            assert session.complete("a", max_tokens=5).text


def test_a_watch_learns_what_its_sources_repeat(client: Client) -> None:
    lines = [("a", "zq7 jumped over wx9: done")] * 30
    with client.watch("plain-watch", rate=0.1) as watch:
        ordinary = watch.read(lines)
    with client.watch("learning-watch", rate=0.1, adaptive=True) as watch:
        learning = watch.read(lines)
    assert learning[0].nats == pytest.approx(ordinary[0].nats, rel=0.2)
    assert learning[-1].nats < 0.7 * ordinary[-1].nats
    assert client.get_session("watch.learning-watch.a").adaptive


def test_over_http(plain: httpx.Client) -> None:
    made = plain.post("/v1/sessions", json={"session_id": "over-http", "adaptive": True})
    assert (made.status_code, made.json()["adaptive"]) == (201, True)
    assert plain.post("/v1/sessions", json={}).json()["adaptive"] is False
    watched = plain.post("/v1/watch", json={"name": "http", "lines": [{"text": "a"}], "adaptive": True})
    assert watched.status_code == 200
    plain.delete("/v1/sessions/over-http")


def test_the_command_makes_them(http_server: Server, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    server = ["--target", http_server.address]
    assert main(["generate", "a", "--session", "by-command", "--adaptive", "--max-tokens", "5", *server]) == 0
    capsys.readouterr()
    assert main(["sessions", "show", "by-command", "--json", *server]) == 0
    assert json.loads(capsys.readouterr().out)["adaptive"] is True
    assert main(["generate", "a", "--adaptive", *server]) != 0
    assert "--session" in capsys.readouterr().err
    assert main(["generate", "a", "--session", "by-command", "--adaptive", "--max-tokens", "5", *server]) == 0
    client.prime("ordinary", "a")
    capsys.readouterr()
    assert main(["generate", "a", "--session", "ordinary", "--adaptive", *server]) != 0
    assert "session ordinary is there already and does not learn" in capsys.readouterr().err
    for made in ("by-command", "ordinary"):
        client.delete_session(made)
