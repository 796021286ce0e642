"""Options that an older server passes over, as the fake one does, are told by both clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from charloom.client import AsyncClient, Ended, Unimplemented
from charloom.client._watching_messages import answered, asking, start
from charloom.v1 import generation_pb2, sessions_pb2, watching_pb2
from tests.unit.client.conftest import Run
from tests.unit.client.fake_answers import TEXT, session, stream
from tests.unit.client.fake_server import FakeServer

OPTIONS: list[dict[str, Any]] = [{"regex": "a"}, {"choices": ["a"]}, {"json_schema": {"const": 1}}]


class TestAdaptive:
    async def test_a_session_that_does_not_learn_is_deleted_again(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        with pytest.raises(
            Unimplemented, match=r"^adaptive: session 'mine' does not learn; the server is older"
        ) as told:
            await either.session(id="mine", adaptive=True)
        assert told.value.code is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(Unimplemented, match=r"^adaptive: "):
            await either.prime("intro", "text", adaptive=True)
        assert [one.session_id for one in server.asked("DeleteSession")] == ["mine", "intro"]
        assert not server.asked("FeedSession")

    async def test_one_that_its_first_text_makes_is_told_with_the_text(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        async with either.session(id="mine", at_first_text=True, adaptive=True) as session:
            reading = session.generate("Hi")
            with pytest.raises(Unimplemented, match="session 'mine' does not learn; it was there already, or"):
                await reading.result()
            assert (reading.text, session.info.position) == (TEXT, 3 + len(TEXT))
        async with (
            either.session(id="other", at_first_text=True, adaptive=True) as session,
            session.converse("Hi") as conversation,
        ):
            await conversation.generate(5)
            with pytest.raises(Unimplemented, match="session 'other'"):
                async for _ in conversation:
                    pass

    async def test_one_that_learns_is_as_it_was_asked_for(self, server: FakeServer, either: AsyncClient) -> None:
        def learning(request: sessions_pb2.CreateSessionRequest, _: Any) -> sessions_pb2.CreateSessionResponse:
            made = session(request.session_id)
            made.adaptive = request.adaptive
            return sessions_pb2.CreateSessionResponse(session=made)

        server.answers["CreateSession"] = learning
        assert (await either.session(id="mine", adaptive=True, keep=True)).info.adaptive
        assert not server.asked("DeleteSession")

    def test_a_watch_whose_sources_do_not_learn(self) -> None:
        asked = start("web", None, None, None, None, None, False, None, True).start
        with pytest.raises(Unimplemented, match=r"^adaptive: the sources of this watch do not learn"):
            answered(asked, asking(), watching_pb2.WatchResponse())
        assert answered(asked, asking(), watching_pb2.WatchResponse(adaptive=True)) == ([], [])


class TestConstraints:
    @pytest.mark.parametrize("options", OPTIONS)
    async def test_a_text_without_its_constraint_is_told_at_its_end(
        self, either: AsyncClient, options: dict[str, Any]
    ) -> None:
        (name,) = options
        reading = either.generate("Hi", **options)
        with pytest.raises(Unimplemented, match=f"^{name}: the text need not match; the server is older"):
            await reading.result()
        assert reading.text == TEXT
        with pytest.raises(Unimplemented, match=f"^{name}: "):
            await either.complete("Hi", **options)
        with pytest.raises(Unimplemented, match=f"^{name}: "):
            await either.continuations("Hi", n=2, **options).completions()
        with pytest.raises(Unimplemented, match=f"^{name}: "):
            await either.peek("Hi", **options)

    async def test_texts_that_were_not_resampled(self, server: FakeServer, either: AsyncClient) -> None:
        def constrained(request: generation_pb2.GenerateRequest, context: grpc.ServicerContext) -> Iterator[Any]:
            for message in stream(request, context):
                if message.HasField("result"):
                    message.result.allowed_logprob = 0
                yield message

        server.answers["Generate"] = constrained
        assert (await either.complete("Hi", regex=".*")).text == TEXT
        with pytest.raises(Unimplemented, match=r"^resample: the texts were not resampled"):
            await either.continuations("Hi", n=1, regex=".*", resample=True).completions()

    async def test_what_was_not_asked_for_is_not_missed(self, either: AsyncClient) -> None:
        assert (await either.complete("Hi")).text == TEXT
        assert (await either.peek("Hi")).allowed_logprob is None
        async with either.converse("Hi") as conversation:
            await conversation.generate(5)
            await conversation.close()
            assert [True async for event in conversation if isinstance(event, Ended)] == [True]


def test_the_command_says_it_too(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "Hi", "--regex", ".*") == 1
    printed = capsys.readouterr()
    assert printed.out.startswith(TEXT)
    assert "regex: the text need not match; the server is older than this client" in printed.err
