"""`charloom sessions` against the fake server."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest
from google.protobuf import duration_pb2

from charloom.cli.main import main
from charloom.client import request_id
from charloom.v1 import sessions_pb2, text_pb2
from tests.unit.client.conftest import Run
from tests.unit.client.fake_answers import error_info, failing, session
from tests.unit.client.fake_server import FakeServer

GONE = failing(grpc.StatusCode.NOT_FOUND, "there is no session 's1' here", error_info("SESSION_NOT_FOUND"))
HEADINGS = ["ID", "MODEL", "POSITION", "EARLIEST", "SEED", "ADAPTIVE", "EXPIRES", "FROM"]
SKIP = text_pb2.UNKNOWN_CHARACTERS_SKIP
Capture = pytest.CaptureFixture[str]


def rows(printed: str) -> list[list[str]]:
    return [line.split(maxsplit=7) for line in printed.splitlines()]


class TestSessions:
    def test_list_is_a_table(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        bare = session("longer-id", position=12)
        bare.ClearField("origin")
        imported = session("c")
        imported.origin.session_id = ""
        imported.adaptive = True
        server.answers["ListSessions"] = lambda _, __: sessions_pb2.ListSessionsResponse(
            sessions=[session("a", position=4), bare, imported]
        )
        assert run("sessions", "list") == 0
        out, err = capsys.readouterr()
        seed, expiry = str(2**64 - 1), "2023-11-14T22:23:21+00:00"
        assert rows(out) == [
            HEADINGS,
            ["a", "small", "4", "2", seed, "no", expiry, "parent at 2"],
            ["longer-id", "small", "12", "6", seed, "no", expiry, "-"],
            ["c", "small", "0", "0", seed, "yes", expiry, "elsewhere at 2"],
        ]
        assert len({line.index("small") for line in out.splitlines()[1:]}) == 1
        assert err == ""

    def test_list_as_json_is_a_list(self, run: Run, capsys: Capture) -> None:
        assert run("sessions", "list", "--json") == 0
        (one,) = json.loads(capsys.readouterr().out)
        assert (one["id"], one["expire_time"], one["earliest_position"]) == ("s1", "2023-11-14T22:23:21+00:00", 0)
        assert one["origin"] == {"session_id": "parent", "position": 2}

    def test_no_sessions_are_a_table_of_headings(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        server.answers["ListSessions"] = lambda _, __: sessions_pb2.ListSessionsResponse()
        assert run("sessions", "list") == 0
        assert rows(capsys.readouterr().out) == [HEADINGS]

    def test_show_is_one_of_them(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        assert run("sessions", "show", "s7") == 0
        assert rows(capsys.readouterr().out)[1][0] == "s7"
        assert run("sessions", "show", "s7", "--json") == 0
        assert json.loads(capsys.readouterr().out)["id"] == "s7"
        assert {request.session_id for request in server.asked("GetSession")} == {"s7"}

    def test_delete_tells_what_is_gone(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        assert run("sessions", "delete", "s7") == 0
        assert capsys.readouterr().out == "s7 is deleted; it stood at position 0\n"
        assert run("sessions", "delete", "s7", "--json") == 0
        receipt = json.loads(capsys.readouterr().out)
        assert (receipt["session"]["id"], receipt["deleted"]) == ("s7", "2023-11-14T22:13:22+00:00")
        assert len(server.asked("DeleteSession")) == 2

    def test_fork_makes_copies_and_keeps_them(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        flags = "--at 7 --count 2 --seed 0 --seconds 90 --id a --id b"
        assert run("sessions", "fork", "s1", *flags.split()) == 0
        assert [row[0] for row in rows(capsys.readouterr().out)] == ["ID", "a", "b"]
        assert server.asked("ForkSession") == [
            sessions_pb2.ForkSessionRequest(
                session_id="s1",
                position=7,
                count=2,
                seed=0,
                new_session_ids=["a", "b"],
                time_to_live=duration_pb2.Duration(seconds=90),
            )
        ]
        assert server.asked("DeleteSession") == []

    def test_fork_makes_one_where_it_stands(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        assert run("sessions", "fork", "s1", "--json") == 0
        assert [one["id"] for one in json.loads(capsys.readouterr().out)] == ["fork0"]
        assert server.asked("ForkSession") == [sessions_pb2.ForkSessionRequest(session_id="s1", count=1)]

    def test_rewind_puts_it_back(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        assert run("sessions", "rewind", "s1", "7") == 0
        assert rows(capsys.readouterr().out)[1][:3] == ["s1", "small", "7"]
        assert run("sessions", "rewind", "s1", "0", "--seed", "3", "--json") == 0
        assert json.loads(capsys.readouterr().out)["position"] == 0
        assert server.asked("RewindSession") == [
            sessions_pb2.RewindSessionRequest(session_id="s1", position=7),
            sessions_pb2.RewindSessionRequest(session_id="s1", position=0, seed=3),
        ]

    def test_move_gives_it_another_model(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        assert run("sessions", "move", "s1", "--model", "big", "--skip-unknown") == 0
        assert rows(capsys.readouterr().out)[1][:2] == ["s1", "big"]
        assert run("sessions", "move", "s1") == 0
        assert server.asked("MoveSession") == [
            sessions_pb2.MoveSessionRequest(
                session_id="s1", model="big", unknown_characters=text_pb2.UNKNOWN_CHARACTERS_SKIP
            ),
            sessions_pb2.MoveSessionRequest(session_id="s1"),
        ]

    def test_a_position_that_is_not_kept_is_one_line(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        info = error_info("POSITION_NOT_KEPT", position="7", earliest="9")
        server.answers["RewindSession"] = failing(grpc.StatusCode.OUT_OF_RANGE, "position 7 is no longer kept", info)
        with request_id("r1"):
            assert run("sessions", "rewind", "s1", "7") == 1
        assert capsys.readouterr() == ("", "charloom sessions: position 7 is no longer kept [request r1]\n")

    def test_renew_puts_the_expiry_off(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        assert run("sessions", "renew", "s1", "--seconds", "1.5") == 0
        assert run("sessions", "renew", "s1", "--json") == 0
        assert server.asked("UpdateSession") == [
            sessions_pb2.UpdateSessionRequest(
                session_id="s1", time_to_live=duration_pb2.Duration(seconds=1, nanos=500_000_000)
            ),
            sessions_pb2.UpdateSessionRequest(session_id="s1"),
        ]
        assert capsys.readouterr().out.count("s1") == 2

    def test_feed_reads_a_text(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        assert run("sessions", "feed", "s1", "Hi", "--skip-unknown") == 0
        assert rows(capsys.readouterr().out)[1][2] == "2"
        assert run("sessions", "feed", "s1", "-", stdin="é\n") == 0
        assert server.asked("FeedSession") == [
            sessions_pb2.FeedSessionRequest(session_id="s1", text="Hi", unknown_characters=SKIP),
            sessions_pb2.FeedSessionRequest(session_id="s1", text="é\n"),
        ]

    def test_feed_makes_the_session_where_it_is_told_to(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        def made(request: sessions_pb2.CreateSessionRequest, _: object) -> sessions_pb2.CreateSessionResponse:
            one = session(request.session_id)
            one.adaptive = request.adaptive
            return sessions_pb2.CreateSessionResponse(session=one)

        server.answers["CreateSession"] = made
        flags = "--create --model small --adaptive --seconds 90 --skip-unknown"
        assert run("sessions", "feed", "intro", "Once", *flags.split()) == 0
        assert rows(capsys.readouterr().out)[1][::2][:2] == ["intro", "4"]
        assert run("sessions", "feed", "plain", "-", "--create", stdin="a\n") == 0
        asked = server.asked("CreateSession")
        for one in asked:  # a seed of the SDK's, by which it knows a session of its own
            assert one.HasField("seed")
            one.ClearField("seed")
        assert asked == [
            sessions_pb2.CreateSessionRequest(
                model="small", session_id="intro", time_to_live=duration_pb2.Duration(seconds=90), adaptive=True
            ),
            sessions_pb2.CreateSessionRequest(session_id="plain"),
        ]
        assert server.asked("FeedSession") == [
            sessions_pb2.FeedSessionRequest(session_id="intro", text="Once", unknown_characters=SKIP),
            sessions_pb2.FeedSessionRequest(session_id="plain", text="a\n"),
        ]
        assert server.asked("DeleteSession") == []

    def test_feed_makes_none_whose_id_is_taken(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        said = "session 'intro' exists already"
        server.answers["CreateSession"] = failing(grpc.StatusCode.ALREADY_EXISTS, said, error_info("SESSION_EXISTS"))
        assert run("sessions", "feed", "intro", "Once", "--create") == 1
        assert capsys.readouterr().err.startswith(f"charloom sessions: {said}")
        assert server.asked("FeedSession") == server.asked("DeleteSession") == []

    def test_export_writes_a_file_that_import_reads(
        self, run: Run, server: FakeServer, tmp_path: Path, capsys: Capture
    ) -> None:
        file = tmp_path / "state"
        assert run("sessions", "export", "s1", "--output", str(file), "--seconds", "60") == 0
        assert capsys.readouterr() == ("", "8 bytes, to be used before 2023-11-14T22:23:20+00:00\n")
        assert file.read_bytes() == b"\x00sealed\xff"
        assert server.asked("ExportSession") == [
            sessions_pb2.ExportSessionRequest(session_id="s1", time_to_live=duration_pb2.Duration(seconds=60))
        ]
        assert run("sessions", "import", str(file), "--id", "copy", "--seconds", "9") == 0
        assert rows(capsys.readouterr().out)[1][0] == "copy"
        assert server.asked("ImportSession") == [
            sessions_pb2.ImportSessionRequest(
                state=b"\x00sealed\xff", session_id="copy", time_to_live=duration_pb2.Duration(seconds=9)
            )
        ]
        assert server.asked("DeleteSession") == []

    def test_export_and_import_can_be_piped(
        self, run: Run, server: FakeServer, capsysbinary: pytest.CaptureFixture[bytes]
    ) -> None:
        assert run("sessions", "export", "s1") == 0
        out, _ = capsysbinary.readouterr()
        assert out == b"\x00sealed\xff"
        assert run("sessions", "import", "-", "--json", stdin=out) == 0
        assert json.loads(capsysbinary.readouterr().out)["id"] == "imported"
        assert server.asked("ImportSession") == [sessions_pb2.ImportSessionRequest(state=out)]

    def test_a_terminal_gets_no_bytes(
        self, run: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        assert run("sessions", "export", "s1") == 1
        assert "no text for a terminal; give --output FILE" in capsys.readouterr().err
        assert server.calls == []

    def test_a_state_of_another_decoder_is_told(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        server.answers["ImportSession"] = lambda _, __: sessions_pb2.ImportSessionResponse(session=session("a"))
        assert run("sessions", "import", "-", stdin=b"sealed") == 0
        assert "another decoder" in capsys.readouterr().err

    def test_an_exact_import_says_nothing_more(self, run: Run, capsys: Capture) -> None:
        assert run("sessions", "import", "-", stdin=b"sealed") == 0
        assert capsys.readouterr().err == ""

    def test_files_that_are_none_are_one_line(self, run: Run, tmp_path: Path, capsys: Capture) -> None:
        assert run("sessions", "import", str(tmp_path / "none")) == 1
        assert capsys.readouterr().err == f"charloom sessions: there is no {tmp_path / 'none'}; check the path\n"
        assert run("sessions", "import", "-", stdin=b"") == 1
        assert "charloom sessions: state: it is empty" in capsys.readouterr().err
        assert run("sessions", "export", "s1", "--output", str(tmp_path)) == 1
        assert "charloom sessions: " in capsys.readouterr().err

    @pytest.mark.parametrize("words", ["show s1", "rewind s1 0", "fork s1", "renew s1", "export s1"])
    def test_a_session_that_is_gone_is_one_line(
        self, run: Run, server: FakeServer, capsys: Capture, words: str
    ) -> None:
        server.answers["GetSession"] = GONE
        with request_id("r1"):
            assert run("sessions", *words.split()) == 1
        assert capsys.readouterr() == ("", "charloom sessions: there is no session 's1' here [request r1]\n")

    def test_text_for_a_session_that_is_gone_names_the_flag_that_makes_one(
        self, run: Run, server: FakeServer, capsys: Capture
    ) -> None:
        server.answers["GetSession"] = GONE
        assert run("sessions", "feed", "s1", "Hi") == 1
        assert capsys.readouterr() == ("", "charloom sessions: there is no session 's1'; add --create to make it\n")

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ("", "the following arguments are required: ACTION"),
            ("paint s1", "invalid choice: 'paint'"),
            ("show", "the following arguments are required: ID"),
            ("rewind s1", "the following arguments are required: POSITION"),
            ("rewind s1 back", "invalid int value: 'back'"),
            ("list --colour", "unrecognized arguments: --colour"),
            ("export s1 --json", "unrecognized arguments: --json"),
            ("renew s1 --sec 5", "unrecognized arguments: --sec 5"),
        ],
    )
    def test_a_wrong_use_is_said(self, run: Run, server: FakeServer, capsys: Capture, words: str, message: str) -> None:
        with pytest.raises(SystemExit) as caught:
            run("sessions", *words.split())
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
        assert server.calls == []

    def test_target_and_timeout_are_those_of_every_command(
        self, server: FakeServer, nobody: str, capsys: Capture
    ) -> None:
        assert main(["sessions", "show", "s1", "--target", server.target, "--timeout", "300"]) == 0
        assert server.remaining["GetSession"] == pytest.approx(300, abs=30)
        assert main(["sessions", "delete", "s1", "--target", nobody]) == 1
        assert f"charloom sessions: no answer from {nobody}" in capsys.readouterr().err

    def test_a_value_that_cannot_be_sent_is_one_line(self, run: Run, capsys: Capture) -> None:
        assert run("sessions", "fork", "s1", "--at=-1") == 1
        assert "charloom sessions: position: -1 is not between" in capsys.readouterr().err
