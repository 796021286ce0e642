"""The SDK and its commands against a real server."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator

import pytest

from charloom.bundle import Bundle
from charloom.cli.main import main
from charloom.client import (
    AsyncClient,
    Client,
    Conflict,
    DeadlineExceeded,
    FinishReason,
    InvalidArgument,
    NotFound,
    SessionExpired,
)
from charloom.server.app import Server
from tests.waiting import eventually


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


def test_a_stream_and_its_result(client: Client) -> None:
    with client.generate("The ", max_tokens=150, temperature=0.8, seed=5) as stream:
        pieces = list(stream)
        result = stream.result()
    assert "".join(pieces) == stream.text
    assert len(stream.text) == 150
    assert (result.finish_reason, result.seed, result.usage.prompt_tokens) == (FinishReason.LENGTH, 5, 4)
    assert result.sampling.temperature == pytest.approx(0.8)
    assert client.complete("The ", max_tokens=150, temperature=0.8, seed=5).text == stream.text


def test_two_calls_of_100_in_a_session_equal_one_of_200(client: Client) -> None:
    with client.session(seed=3) as session:
        first = session.complete("Of ", max_tokens=100)
        second = session.complete(max_tokens=100)
        assert session.info.position == 203
    assert first.text + second.text == client.complete("Of ", max_tokens=200, seed=3).text
    with pytest.raises(NotFound):
        client.get_session(session.id)


def test_a_session_can_be_opened_by_another_client(client: Client, server: Server) -> None:
    with client.session(id="shared", seed=1, keep=True) as session:
        text = session.complete(max_tokens=30).text
    with Client(server.address) as other, other.open_session("shared") as session:
        text += session.complete(max_tokens=30, expected_position=30).text
        with pytest.raises(Conflict, match="at position 60"):
            session.complete(max_tokens=30, expected_position=30)
    assert text == client.complete(max_tokens=60, seed=1).text
    assert "shared" in [info.id for info in client.sessions()]
    client.delete_session("shared")


def test_a_session_is_taken_back_to_before_a_call_that_its_deadline_ended(client: Client) -> None:
    with client.session(seed=6) as session:
        first = session.complete("Of ", max_tokens=20).text
        before = session.info.position
        with pytest.raises(DeadlineExceeded):
            session.complete(max_tokens=60_000, timeout=0.5)
        assert session.info.position == before  # as far as this client has been told
        session.rewind(before)
        second = session.complete(max_tokens=20).text
    assert first + second == client.complete("Of ", max_tokens=40, seed=6).text


def test_leaving_a_stream_early_frees_its_row_and_its_session(client: Client, server: Server) -> None:
    with client.session(seed=8) as session:
        with session.generate(max_tokens=60_000) as stream:
            next(stream)
        rest = session.complete(max_tokens=20)
        position = rest.result.position
    assert 20 < position < 60_000
    assert (client.complete(max_tokens=position, seed=8).text).endswith(rest.text)
    assert server.engine.models[0].loom.live == 0


def test_errors_are_typed(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="temperature") as refused:
        client.complete(temperature=-1)
    assert refused.value.violations[0][0] == "sampling.temperature"
    with pytest.raises(InvalidArgument, match=r"'☃' \(U\+2603\) at 0"):
        client.generate("☃").result()
    assert client.complete("☃", max_tokens=3, unknown_characters="skip").result.usage.prompt_tokens == 0
    with client.session(time_to_live=0.001, keep=True) as session, pytest.raises(SessionExpired):
        list(iter(session.refresh, None))


async def test_asyncio_streams_run_together_and_give_the_same_texts(server: Server, client: Client) -> None:
    async with AsyncClient(server.address) as many:

        async def one(seed: int) -> str:
            async with many.generate("It ", max_tokens=400, seed=seed) as stream:
                text = "".join([piece async for piece in stream])
                assert (await stream.result()).seed == seed
                return text

        texts = await asyncio.gather(*(one(seed) for seed in range(32)))
        async with many.session(seed=40) as session:
            halves = [
                (await session.complete("It ", max_tokens=100)).text,
                (await session.complete(max_tokens=100)).text,
            ]
    assert texts[:4] == [client.complete("It ", max_tokens=400, seed=seed).text for seed in range(4)]
    assert "".join(halves) == client.complete("It ", max_tokens=200, seed=40).text


async def test_a_cancelled_task_cancels_its_stream(server: Server) -> None:
    async with AsyncClient(server.address) as client:
        stream = client.generate(max_tokens=65_000)
        await stream.__anext__()

        async def read() -> None:
            async for _ in stream:
                pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(eventually, lambda: server.engine.models[0].loom.live == 0)


def test_models_are_described(client: Client, bundle: Bundle) -> None:
    (model,) = client.models()
    assert (model.name, model.digest, model.hidden_size) == ("small", bundle.manifest.digest, 48)
    assert model.validation["tail"]["onnx-int8"] == pytest.approx(bundle.manifest.validation["tail"]["onnx-int8"])


def test_the_generate_command_streams_text(server: Server, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "The ", "--target", server.address, "--max-tokens", "60", "--seed", "2", "--stats"]) == 0
    out = capsys.readouterr()
    assert out.out == client.complete("The ", max_tokens=60, seed=2).text
    assert "60 tokens" in out.err
    assert main(["generate", "--target", server.address, "--max-tokens", "5", "--seed", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"]["seed"] == 2


def test_the_chat_command_carries_state(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Is it\n☃\nThen\n/quit\n"))
    assert main(["chat", "--target", server.address, "--max-tokens", "40", "--seed", "6"]) == 0
    out = capsys.readouterr()
    with client.session(seed=6) as session:
        texts = [session.complete(line, max_tokens=40).text for line in ("Is it\n", "Then\n")]
    assert out.out == "".join(f"{text}\n" for text in texts)
    assert "U+2603" in out.err


def test_the_generate_command_makes_a_session_once_and_goes_on_in_it(
    server: Server, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "generate",
        "--target",
        server.address,
        "--session",
        "from-the-shell",
        "--max-tokens",
        "50",
        "--seed",
        "4",
    ]
    for told in (True, False):
        assert main(command) == 0
        assert ("a new session" in capsys.readouterr().err) is told
    assert client.get_session("from-the-shell").position == 100
    client.delete_session("from-the-shell")


def test_commands_say_what_is_wrong(server: Server, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    client.session(id="gone").delete()
    for arguments, message in [
        (["generate", "--target", "127.0.0.1:1", "--timeout", "5"], "127.0.0.1:1"),
        (["generate", "--target", server.address, "--model", "big"], "this server has: small"),
        (["generate", "--target", server.address, "--session", "no/body"], "'no/body' is not allowed"),
        (["generate", "--target", server.address, "--session", "gone"], "session 'gone' was deleted"),
        (["models", "--target", "127.0.0.1:1", "--timeout", "5"], "127.0.0.1:1"),
    ]:
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"charloom {arguments[0]}: ")
        assert message in error


def test_the_health_command_tells_by_its_status(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--target", server.address]) == 0
    assert main(["health", "--target", "127.0.0.1:1", "--timeout", "1"]) == 1
