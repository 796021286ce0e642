from __future__ import annotations

import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from charloom.client import (
    AsyncClient,
    Client,
    ConnectionFailed,
    Conversation,
    FinishReason,
    HealthStatus,
    InvalidValue,
    MessageTooLarge,
    Overloaded,
    Unavailable,
    _readiness,
    _values,
)
from charloom.v1 import generation_pb2, sessions_pb2
from tests.unit.client.fake_answers import TEXT, error_info, failing, session, stream
from tests.unit.client.fake_server import FakeServer

# Seconds that a call may spend on its way, and by which gRPC rounds its deadline.
NEAR = 30.0

READS: dict[str, Callable[[Client], Any]] = {
    "ListModels": lambda client: client.models(),
    "GetModel": lambda client: client.model("small"),
    "GetSession": lambda client: client.get_session("s1"),
    "ListSessions": lambda client: list(client.sessions()),
    "ExportSession": lambda client: client.open_session("s1").export(),
    "Score": lambda client: client.score("Hi"),
    "Peek": lambda client: client.peek("Hi"),
    "Inspect": lambda client: client.inspect("Hi"),
}
CHANGES: dict[str, Callable[[Client], Any]] = {
    "Generate": lambda client: client.generate("Hi", resume=False).result(),
    "CreateSession": lambda client: client.session(),
    "DeleteSession": lambda client: client.delete_session("s1"),
    "FeedSession": lambda client: client.open_session("s1").feed("Hi"),
    "RewindSession": lambda client: client.open_session("s1").rewind(0),
    "UpdateSession": lambda client: client.open_session("s1").renew(),
    "ForkSession": lambda client: client.open_session("s1").fork(),
    "BlendSessions": lambda client: client.blend({"s1": 1.0}),
    "ImportSession": lambda client: client.import_session(b"sealed"),
}
DUPLEX: dict[str, Callable[[Client], Any]] = {
    "Observe": lambda client: client.observe().close(),
    "ClassifyStream": lambda client: client.classify_stream().close(),
    "Converse": lambda client: list(_closed(client.converse())),
}


def _closed(talk: Conversation) -> Conversation:
    talk.close()
    return talk


def paged(request: Any, context: grpc.ServicerContext) -> sessions_pb2.ListSessionsResponse:
    pages = {"": (["a", "b"], "2"), "2": ([], "3"), "3": (["c"], "")}
    ids, following = pages[request.page_token]
    return sessions_pb2.ListSessionsResponse(sessions=[session(id) for id in ids], next_page_token=following)


def test_complete_gives_log_probabilities_and_the_stop_string(server: FakeServer, client: Client) -> None:
    def stopped(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        *pieces, last = stream(request, context)
        last.result.finish_reason = generation_pb2.FINISH_REASON_STOP
        last.result.stop = "END"
        yield from (*pieces, last)

    server.answers["Generate"] = stopped
    completion = client.complete("Hi", logprobs=True, stop="END")
    assert "".join(token.text for token in completion.logprobs) == TEXT
    assert (completion.result.finish_reason, completion.result.stop) == (FinishReason.STOP, "END")
    assert client.complete("Hi").logprobs == ()


def test_a_page_is_fetched_only_when_it_is_needed(server: FakeServer, client: Client) -> None:
    server.answers["ListSessions"] = paged
    sessions = client.sessions()
    assert server.calls == []
    assert [next(sessions).id, next(sessions).id] == ["a", "b"]
    assert len(server.calls) == 1


async def test_complete_gives_text_and_result(server: FakeServer, either: AsyncClient) -> None:
    completion = await either.complete("Hi", temperature=0, max_tokens=16, seed=1, top_k=3)
    assert (completion.text, completion.result.seed) == (TEXT, 42)
    sampling = generation_pb2.Sampling(temperature=0, top_k=3)
    options = generation_pb2.GenerationOptions(prompt="Hi", max_tokens=16, seed=1, sampling=sampling)
    (request,) = server.asked("Generate")
    assert request == generation_pb2.GenerateRequest(options=options, call_id=request.call_id)


async def test_models_are_listed_and_described(server: FakeServer, either: AsyncClient) -> None:
    assert [model.name for model in await either.models()] == ["small", "other"]
    assert (await either.model("other")).name == "other"
    assert (await either.model()).name == "small"
    assert [request.name for request in server.asked("GetModel")] == ["other", ""]


async def test_sessions_are_read_page_by_page(server: FakeServer, either: AsyncClient) -> None:
    server.answers["ListSessions"] = paged
    assert [info.id async for info in either.sessions()] == ["a", "b", "c"]
    assert [request.page_token for request in server.asked("ListSessions")] == ["", "2", "3"]


async def test_a_session_is_described_and_deleted_by_its_id(server: FakeServer, either: AsyncClient) -> None:
    assert (await either.get_session("s7")).id == "s7"
    assert (await either.delete_session("s8")).session.id == "s8"
    assert [name for name, _ in server.calls] == ["GetSession", "DeleteSession"]
    assert [request.session_id for request in server.asked("DeleteSession")] == ["s8"]


class TestDeadlines:
    async def test_a_call_may_have_its_own(self, server: FakeServer, either: AsyncClient) -> None:
        await either.complete(timeout=300.0)
        assert server.remaining["Generate"] == pytest.approx(300, abs=NEAR)
        await either.generate(timeout=400.0).result()
        assert server.remaining["Generate"] == pytest.approx(400, abs=NEAR)
        await either.continuations(n=2, timeout=500.0).completions()
        assert server.remaining["Generate"] == pytest.approx(500, abs=NEAR)

    async def test_the_default_is_a_minute(self, server: FakeServer, either: AsyncClient) -> None:
        await either.complete()
        assert server.remaining["Generate"] == pytest.approx(60, abs=NEAR)
        await either.continuations(n=2).completions()
        assert server.remaining["Generate"] == pytest.approx(60, abs=NEAR)

    @pytest.mark.parametrize(("method", "call"), [*READS.items(), *CHANGES.items(), *DUPLEX.items()])
    def test_every_call_has_the_clients_deadline(
        self, server: FakeServer, method: str, call: Callable[[Client], Any]
    ) -> None:
        with Client(server.target, timeout=600.0) as client:
            call(client)
        assert server.remaining[method] == pytest.approx(600, abs=NEAR)

    @pytest.mark.parametrize("timeout", [None, math.inf])
    def test_none_is_no_deadline(self, server: FakeServer, client: Client, timeout: float | None) -> None:
        client.complete(timeout=timeout)
        # Servers tell the lack of a deadline by None or by centuries.
        left = server.remaining["Generate"]
        assert left is None or left > 1e8

    def test_a_timeout_that_is_no_number_is_refused(self, client: Client) -> None:
        with pytest.raises(InvalidValue, match="timeout"):
            client.complete(timeout=math.nan)


class TestRetries:
    async def test_a_read_is_tried_four_times(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["ListModels"] = failing(grpc.StatusCode.UNAVAILABLE, "stopping", error_info("DRAINING"))
        with pytest.raises(Unavailable):
            await either.models()
        assert len(server.asked("ListModels")) == 4

    async def test_a_read_is_not_repeated_for_other_errors(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["ListModels"] = failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        with pytest.raises(Overloaded):
            await either.models()
        assert len(server.calls) == 1

    @pytest.mark.parametrize(("method", "call"), READS.items())
    def test_a_read_is_tried_again_until_the_server_answers(
        self, server: FakeServer, client: Client, method: str, call: Callable[[Client], Any]
    ) -> None:
        usual, starting = server.answers[method], failing(grpc.StatusCode.UNAVAILABLE, "not yet")
        server.answers[method] = lambda *given: (usual if len(server.asked(method)) == 3 else starting)(*given)
        call(client)
        assert len(server.asked(method)) == 3

    @pytest.mark.parametrize(("method", "call"), CHANGES.items())
    def test_a_call_that_changes_something_is_made_once(
        self, server: FakeServer, client: Client, method: str, call: Callable[[Client], Any]
    ) -> None:
        server.answers[method] = failing(grpc.StatusCode.UNAVAILABLE, "stopping", error_info("DRAINING"))
        with pytest.raises(Unavailable):
            call(client)
        assert len(server.asked(method)) == 1


class TestReadiness:
    def not_serving_for(self, server: FakeServer, answers: int) -> None:
        def check(request: Any, context: grpc.ServicerContext) -> health_pb2.HealthCheckResponse:
            serving = len(server.asked("Check")) > answers
            return health_pb2.HealthCheckResponse(status="SERVING" if serving else "NOT_SERVING")

        server.answers["Check"] = check

    async def test_a_serving_server_says_so(self, server: FakeServer, either: AsyncClient) -> None:
        assert await either.health() is HealthStatus.SERVING
        assert await either.is_serving()
        assert server.asked("Check") == [health_pb2.HealthCheckRequest()] * 2

    async def test_a_loading_server_does_not_serve(self, server: FakeServer, either: AsyncClient) -> None:
        self.not_serving_for(server, 99)
        assert await either.health() is HealthStatus.NOT_SERVING
        assert not await either.is_serving()

    async def test_nobody_does_not_serve(self, make: Callable[..., Any], nobody: str) -> None:
        async with make(nobody) as client:
            assert not await client.is_serving()

    @pytest.mark.parametrize("timeout", [10, None])
    async def test_waiting_ends_when_the_server_serves(
        self, server: FakeServer, either: AsyncClient, timeout: float | None
    ) -> None:
        self.not_serving_for(server, 2)
        await either.wait_until_ready(timeout)
        assert len(server.asked("Check")) == 3

    async def test_waiting_in_vain_says_what_the_server_said(
        self, server: FakeServer, either: AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.not_serving_for(server, 99)
        monkeypatch.setattr(_readiness, "POLL", 59.8)  # so that there is no time to ask many times
        with pytest.raises(ConnectionFailed, match=r"was not ready within 60 s \(it says NOT_SERVING\)"):
            await either.wait_until_ready(60)

    async def test_waiting_for_nobody_ends_in_time(self, make: Callable[..., Any], nobody: str) -> None:
        began = time.monotonic()
        async with make(nobody) as client:
            with pytest.raises(ConnectionFailed, match="was not ready within"):
                await client.wait_until_ready(0.3)
        assert time.monotonic() - began < 20

    def test_a_server_that_comes_later_is_noticed(self, nobody: str) -> None:
        late: list[grpc.Server] = []

        def start() -> None:
            from concurrent.futures import ThreadPoolExecutor

            from grpc_health.v1 import health, health_pb2_grpc

            server = grpc.server(ThreadPoolExecutor(1))
            servicer = health.HealthServicer()
            servicer.set("", health_pb2.HealthCheckResponse.SERVING)
            health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
            server.add_insecure_port(nobody.replace("127.0.0.1", "127.0.0.2"))
            server.start()
            late.append(server)

        timer = threading.Timer(0.4, start)
        with Client(nobody.replace("127.0.0.1", "127.0.0.2")) as client:
            assert not client.is_serving()
            timer.start()
            client.wait_until_ready(60)
        timer.join()
        late[0].stop(None).wait()


class TestClosing:
    async def test_a_closed_client_says_so(self, server: FakeServer, either: AsyncClient) -> None:
        await either.models()
        await either.close()
        for begin in (
            either.generate,
            lambda: either.continuations(n=2),
            either.converse,
            either.observe,
            either.classify_stream,
        ):
            with pytest.raises(RuntimeError, match="this client is closed"):
                begin()
        for ask in (either.models, either.complete):
            with pytest.raises(RuntimeError, match="this client is closed"):
                await ask()
        with pytest.raises(RuntimeError, match="this client is closed"):
            await either.session()
        await either.close()

    async def test_an_async_client_that_was_never_used_closes(self) -> None:
        client = AsyncClient("127.0.0.1:1")
        await client.close()
        with pytest.raises(RuntimeError, match="this client is closed"):
            await client.models()

    def test_an_async_client_may_be_made_where_no_loop_runs(self, server: FakeServer) -> None:
        import asyncio

        client = AsyncClient(server.target)

        async def use() -> int:
            async with client:
                return len(await client.models())

        assert asyncio.run(use()) == 2
        with pytest.raises(RuntimeError, match="no running event loop"):
            AsyncClient(server.target).generate("Hi")

    def test_an_async_client_in_a_second_event_loop_says_what_to_do(self, server: FakeServer) -> None:
        import asyncio

        client = AsyncClient(server.target)
        calls: list[Callable[[], Any]] = [
            client.models,
            client.complete,
            lambda: client.generate().result(),
            lambda: client.observe().read("Hi"),
            lambda: client.inspect("Hi"),
        ]

        async def call(one: Callable[[], Any]) -> Any:
            return await one()

        asyncio.run(call(client.models))
        for one in calls:
            with pytest.raises(RuntimeError, match=r"make a client in each asyncio\.run"):
                asyncio.run(call(one))
        asyncio.run(call(client.close))

    def test_and_so_do_the_calls_that_it_has_begun(self, server: FakeServer) -> None:
        import asyncio

        client = AsyncClient(server.target)

        async def begin() -> list[Callable[[], Any]]:
            text, talk, observer = client.generate("Hi"), client.converse("Hi"), client.observe()
            await anext(talk)
            return [lambda: anext(text), lambda: anext(talk), lambda: talk.inject("Ho"), lambda: observer.read("Ho")]

        async def call(one: Callable[[], Any]) -> Any:
            return await one()

        for one in asyncio.run(begin()):
            with pytest.raises(RuntimeError, match=r"make a client in each asyncio\.run"):
                asyncio.run(call(one))
        asyncio.run(call(client.close))

    def test_an_async_client_needs_a_loop_for_several_too(self, server: FakeServer) -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            AsyncClient(server.target).continuations("Hi", n=2)


def test_channel_options_are_added_to_the_clients_own(server: FakeServer) -> None:
    with (
        Client(server.target, channel_options=[("grpc.max_receive_message_length", 8)]) as client,
        pytest.raises(MessageTooLarge, match="this client takes at most 8"),
    ):
        client.models()


def test_a_target_is_text() -> None:
    with pytest.raises(InvalidValue, match="target: it is empty; give HOST:PORT, or unix:PATH"):
        Client("")
    for url in ("http://localhost:50051", "HTTPS://my.host", "grpc://localhost:50051"):
        with pytest.raises(InvalidValue, match=f"target: '{url}' is a URL; give HOST:PORT of the gRPC port, or unix"):
            Client(url)
    for port in ("5o051", "65536", "050051", "1²"):
        for host in ("localhost", "[::1]"):
            with pytest.raises(InvalidValue, match=f"target: '{port}' in .* is no port, a number up to 65535"):
                Client(f"{host}:{port}")
    for fine in ("localhost:http", "unix:1.sock", "[::1]:65535", "::1", "dns:my.host:50051"):
        assert _values.target("target", fine) == fine
    with pytest.raises(InvalidValue, match="target: '50051' names no host; give HOST:PORT, or unix:PATH"):
        Client("50051")
    with pytest.raises(InvalidValue, match="target: 50051 is not a string"):
        Client(50051)  # type: ignore[arg-type]


def test_the_sdk_needs_nothing_but_grpc_and_protobuf() -> None:
    program = (
        "import sys\n"
        "absent = 'grpc_health grpc_reflection numpy onnx onnxruntime pydantic rich torch'.split()\n"
        "sys.modules.update(dict.fromkeys(absent))\n"
        "import charloom.client, charloom.cli.main, charloom.cli.sessions.generate, charloom.cli.sessions.chat\n"
        "import charloom.cli.serving.models, charloom.cli.serving.health\n"
        "import charloom.cli.sessions.sessions, charloom.cli.sessions.score, charloom.cli.sessions.peek\n"
        "print(sorted(name for name in sys.modules if name.startswith('charloom.') and name.count('.') == 1))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert found.stderr == ""
    assert found.stdout.strip() == "['charloom.cli', 'charloom.client', 'charloom.controls', 'charloom.v1']"
