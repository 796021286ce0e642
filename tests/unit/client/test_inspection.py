"""Looking inside the network: the SDK and `charloom inspect` against the fake server."""

from __future__ import annotations

import asyncio
import builtins
import json
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from charloom.cli.sessions.heatmap import Heatmap
from charloom.cli.sessions.heatmap_png import save
from charloom.client import AsyncClient, Cancelled, Client, FailedPrecondition, InvalidValue, request_id
from charloom.v1 import reading_pb2, text_pb2
from tests.unit.client.conftest import Run
from tests.unit.client.fake_answers import activation, error_info, failing, inspect
from tests.unit.client.fake_server import FakeServer
from tests.unit.client.twins import interrupt_soon

NOT_INSPECTABLE = failing(
    grpc.StatusCode.FAILED_PRECONDITION, "export the model again", error_info("MODEL_NOT_INSPECTABLE")
)
SKIP = text_pb2.UNKNOWN_CHARACTERS_SKIP
Capture = pytest.CaptureFixture[str]


def expected(layer: int, tokens: int) -> np.ndarray[Any, Any]:
    return np.array([[activation(layer, place, unit) for unit in range(3)] for place in range(tokens)], np.float32)


class TestSDK:
    def test_layers_are_matrices_of_tokens_and_units(self, client: Client) -> None:
        found = client.inspect("Hi!", top_next=2, distributions=True)
        assert [(token.text, token.position) for token in found.tokens] == [("H", 1), ("i", 2), ("!", 3)]
        assert [token.logprob for token in found.tokens] == pytest.approx([-math.log(2)] * 3)
        assert [other.text for other in found.tokens[0].next] == ["a", "b"]
        assert list(found.layers) == [0, 1]
        for layer, one in found.layers.items():
            for name in ("input_gate", "candidate", "output_gate", "cell", "hidden"):
                assert np.array_equal(np.asarray(getattr(one, name)), expected(layer, 3)), name
            assert np.array_equal(np.asarray(one.forget_gate), expected(layer, 3) / 2)
            assert list(one.gates) == ["forget", "candidate"]
            assert np.array_equal(np.asarray(one.gates["forget"]), expected(layer, 3) / 2)
            assert np.array_equal(np.asarray(one.gates["candidate"]), expected(layer, 3))
        assert np.asarray(found.distributions).shape == (3, 3)

    def test_a_matrix_can_be_read_without_numpy_and_is_not_copied_for_it(self, client: Client) -> None:
        cell = client.inspect("Hi!").layers[1].cell
        assert (cell.shape, cell.format, cell.readonly) == ((3, 3), "f", True)
        assert cell[2, 1] == activation(1, 2, 1) == 1.0
        assert cell.tolist() == expected(1, 3).tolist()
        array = np.asarray(cell)
        assert array.dtype == np.float32
        assert np.shares_memory(array, np.asarray(cell))

    async def test_what_a_cell_does_not_have_is_empty(self, server: FakeServer, either: AsyncClient) -> None:
        def gru(request: reading_pb2.InspectRequest, context: grpc.ServicerContext) -> Iterator[Any]:
            for place in range(2):
                gates = [reading_pb2.Gate(name=name, values=[place, 0.5]) for name in ("reset", "update", "candidate")]
                layer = reading_pb2.LayerActivations(candidate=[place, 0.5], hidden=[0.25, place], gates=gates)
                yield reading_pb2.InspectResponse(position=place + 1, layers=[layer])

        server.answers["Inspect"] = gru
        one = (await either.inspect("Hi")).layers[0]
        assert list(one.gates) == ["reset", "update", "candidate"]
        assert one.gates["update"].tolist() == one.candidate.tolist() == [[0, 0.5], [1, 0.5]]
        assert one.hidden.tolist() == [[0.25, 0], [0.25, 1]]
        for absent in (one.input_gate, one.forget_gate, one.output_gate, one.cell):
            assert (absent.shape, absent.format, absent.readonly) == ((0,), "f", True)

    async def test_a_server_that_names_no_gates_has_those_of_an_lstm(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        def earlier(request: reading_pb2.InspectRequest, context: grpc.ServicerContext) -> Iterator[Any]:
            for message in inspect(request, context):
                for layer in message.layers:
                    layer.ClearField("gates")
                yield message

        server.answers["Inspect"] = earlier
        one = (await either.inspect("Hi")).layers[0]
        found = (one.input_gate, one.forget_gate, one.candidate, one.output_gate)
        assert one.gates == dict(zip(("input", "forget", "candidate", "output"), found, strict=True))

    async def test_a_client_and_a_session_ask_the_same(self, server: FakeServer, either: AsyncClient) -> None:
        options: dict[str, Any] = {
            "unknown_characters": "skip",
            "layers": [1],
            "top_next": 3,
            "distributions": True,
        }
        told = await either.inspect("Hi", model="m", **options)
        async with either.session(id="s1") as session:
            assert await session.inspect("Hi", **options) == told
        asked: dict[str, Any] = {
            "text": "Hi",
            "unknown_characters": SKIP,
            "layers": [1],
            "top_next": 3,
            "distribution": True,
        }
        assert server.asked("Inspect") == [
            reading_pb2.InspectRequest(model="m", **asked),
            reading_pb2.InspectRequest(session_id="s1", **asked),
        ]
        assert server.headers["Inspect"]["charloom-session"] == "s1"

    async def test_a_model_that_cannot_be_inspected_is_told(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Inspect"] = NOT_INSPECTABLE
        with pytest.raises(FailedPrecondition, match="export the model again") as caught:
            await either.inspect("Hi")
        assert caught.value.reason == "MODEL_NOT_INSPECTABLE"

    async def test_an_error_in_the_middle_is_no_shorter_text(self, server: FakeServer, either: AsyncClient) -> None:
        def breaking(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            yield next(inspect(request, context))
            NOT_INSPECTABLE(request, context)

        server.answers["Inspect"] = breaking
        with pytest.raises(FailedPrecondition):
            await either.inspect("Hi")

    def test_nothing_to_read_is_nothing(self, client: Client) -> None:
        found = client.inspect("", distributions=True)
        assert (found.tokens, found.layers, found.distributions) == ((), {}, None)

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"text": 5}, "text: 5 is not a string"),
            ({"layers": 1}, "layers: 1 is not a list of whole numbers"),
            ({"layers": "01"}, "layers: '01' is not a list of whole numbers"),
            ({"layers": [0, -1]}, r"layers\[1\]: -1 is not between"),
            ({"layers": []}, "layers: it names none; leave it out for all of them"),
            ({"top_next": 1.5}, "top_next: 1.5 is not a whole number"),
            ({"distributions": 1}, "distributions: 1 is neither True nor False"),
        ],
    )
    def test_what_no_message_can_carry_is_refused(
        self, server: FakeServer, client: Client, given: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(InvalidValue, match=words):
            client.inspect(**{"text": "a"} | given)
        assert server.calls == []


def holding(server: FakeServer, begun: threading.Event) -> Any:
    """Answers one token and then nothing until the call ends; sets `ended` then."""

    def answer(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        server.note_end(context)
        yield next(inspect(request, context))
        begun.set()
        server.ended.wait(120)

    return answer


class TestLeaving:
    def test_ctrl_c_while_it_waits_leaves_no_call(self, server: FakeServer, client: Client) -> None:
        def interrupt(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            server.note_end(context)
            yield next(inspect(request, context))
            interrupt_soon()
            server.ended.wait(120)

        server.answers["Inspect"] = interrupt
        with pytest.raises(KeyboardInterrupt) as caught:
            client.inspect("Hi")
        assert server.ended.wait(30)
        assert caught.traceback  # which has kept the call from being forgotten

    async def test_cancelling_the_task_cancels_the_call(self, server: FakeServer, async_client: AsyncClient) -> None:
        begun = threading.Event()
        server.answers["Inspect"] = holding(server, begun)
        task = asyncio.create_task(async_client.inspect("Hi"))
        assert await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.ended.wait, 30)

    async def test_closing_the_client_is_told(self, server: FakeServer, async_client: AsyncClient) -> None:
        begun = threading.Event()
        server.answers["Inspect"] = holding(server, begun)
        task = asyncio.create_task(async_client.inspect("Hi"))
        assert await asyncio.to_thread(begun.wait, 30)
        await async_client.close()
        with pytest.raises(Cancelled):
            await task

    def test_closing_the_blocking_client_is_told(self, server: FakeServer) -> None:
        begun = threading.Event()
        server.answers["Inspect"] = holding(server, begun)
        client = Client(server.target)

        def close() -> None:
            begun.wait(30)
            time.sleep(0.05)
            client.close()

        thread = threading.Thread(target=close)
        thread.start()
        with pytest.raises(Cancelled):
            client.inspect("Hi")
        thread.join()


class TestCommand:
    def test_without_colours_there_are_bars_in_bands_as_wide_as_the_terminal(
        self, run: Run, server: FakeServer, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "10")
        assert run("inspect", "Hi\nyou.", "--rows", "2") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines == [
            "small, layer 1: cell state c",
            "     Hi↵yo",
            "bits 11111",
            "   1 ▅▅▆▆▇",
            "   2 ▅▄▄▄▃",
            "",
            "     u.",
            "bits 11",
            "   1 ▇█",
            "   2 ▃▃",
            "",
            "-3 ▁▂▃▄▅▆▇█ 3",
            "7 characters, 1.00 bits per character",
        ]
        assert server.asked("Inspect") == [reading_pb2.InspectRequest(model="small", text="Hi\nyou.", layers=[1])]

    def test_a_terminal_with_colours_gets_blocks(
        self, run: Run, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in {"FORCE_COLOR": "1", "COLORTERM": "truecolor", "TERM": "xterm"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("NO_COLOR", raising=False)
        assert run("inspect", "Hi", "--gate", "forget", "--units", "0,1") == 0
        out = capsys.readouterr().out
        assert "▅" not in out
        lowest, quarter, highest = "\x1b[48;2;68;1;84m ", "\x1b[48;2;59;82;139m ", "\x1b[48;2;253;231;37m "
        (first,) = [line for line in out.splitlines() if line.startswith("   0 ")]
        (second,) = [line for line in out.splitlines() if line.startswith("   1 ")]
        assert first.count(lowest) == 2
        assert (second.count(lowest), second.count(quarter)) == (1, 1)
        assert highest in out.splitlines()[-2]  # the legend
        monkeypatch.setenv("NO_COLOR", "1")
        assert run("inspect", "Hi", "--gate", "forget") == 0
        assert "\x1b[48" not in (plain := capsys.readouterr().out)
        assert "0 ▁▂▃▄▅▆▇█ 1" in plain

    def test_a_gate_that_the_cell_does_not_have_is_refused_with_those_it_has(self, run: Run, capsys: Capture) -> None:
        assert run("inspect", "Hi", "--gate", "reset") == 1
        assert "--gate reset: small (lstm) has forget, candidate, cell, hidden" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("text", "header", "row"),
        [
            ("夜a", "     夜a ", "   1 ▅▅██"),
            ("a\x00b\u0301", "     a·b·", "   1 ▅▆▇█"),
            ("a b", "     a b", "   1 ▅▆█"),
        ],
    )
    def test_each_character_stands_above_its_blocks(
        self, run: Run, capsys: Capture, text: str, header: str, row: str
    ) -> None:
        assert run("inspect", text, "--units", "1") == 0
        lines = capsys.readouterr().out.splitlines()
        assert (lines[1], lines[3]) == (header, row)

    def test_bytes_that_are_no_characters_are_shown_as_digits(
        self, run: Run, server: FakeServer, capsys: Capture
    ) -> None:
        def byte_by_byte(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            for message, byte in zip(inspect(request, context), "aé".encode(), strict=False):
                message.token.symbol = bytes([byte])
                yield message

        server.answers["Inspect"] = byte_by_byte
        assert run("inspect", "aé!", "--units", "1") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[1] == "     a c3a9"
        assert lines[-1] == "2 characters, 1.50 bits per character"

    def test_what_is_shown_can_be_chosen(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        flags = "--session s1 --layer 0 --gate hidden --units 2,0 --skip-unknown --json"
        assert run("inspect", "-", *flags.split(), stdin="Hi!") == 0
        found = json.loads(capsys.readouterr().out)
        assert found == {
            "title": "small, layer 0: hidden state h",
            "tokens": ["H", "i", "!"],
            "bits": [1, 1, 1],
            "units": {"2": [0, -0.125, -0.25], "0": [0, 0, 0]},
        }
        assert server.asked("Inspect") == [
            reading_pb2.InspectRequest(text="Hi!", session_id="s1", layers=[0], unknown_characters=SKIP)
        ]

    def test_units_that_vary_most_come_first(self, run: Run, capsys: Capture) -> None:
        assert run("inspect", "Hi!", "--rows", "2", "--json") == 0
        assert list(json.loads(capsys.readouterr().out)["units"]) == ["1", "2"]
        assert run("inspect", "Hi!", "--units", "auto", "--json") == 0
        assert list(json.loads(capsys.readouterr().out)["units"]) == ["1", "2", "0"]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["a", "--units", "1,3"], "--units 3: layer 1 has units 0 to 2"),
            (["a", "--rows", "0"], "--rows 0: give at least 1"),
            ([""], "there is nothing to inspect"),
            (["a", "--png", "/"], "/ is a directory"),
        ],
    )
    def test_what_cannot_be_shown_is_one_line(self, run: Run, capsys: Capture, words: list[str], message: str) -> None:
        assert run("inspect", *words) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("charloom inspect: ")
        assert message in err
        assert err.count("\n") == 1

    @pytest.mark.parametrize("form", [["--json"], []])
    def test_a_unit_that_is_named_twice_is_shown_once(self, run: Run, capsys: Capture, form: list[str]) -> None:
        shown = []
        for units in ("2,0,2,2,0", "2,0"):
            assert run("inspect", "Hi!", "--units", units, *form) == 0
            shown.append(capsys.readouterr().out)
        assert shown[0] == shown[1]

    def test_a_picture_and_json_are_not_both_made(self, run: Run, tmp_path: Path, capsys: Capture) -> None:
        with pytest.raises(SystemExit, match="2"):
            run("inspect", "Hi", "--json", "--png", str(tmp_path / "a.png"))
        out, err = capsys.readouterr()
        assert out == ""
        assert "argument --png: not allowed with argument --json" in err

    @pytest.mark.parametrize("units", ["x", "1,", "-1", "1.5"])
    def test_units_are_numbers(self, run: Run, capsys: Capture, units: str) -> None:
        with pytest.raises(SystemExit):
            run("inspect", "a", f"--units={units}")
        assert "is neither auto nor numbers of units; give for example 3,17,40" in capsys.readouterr().err

    def test_a_model_that_cannot_be_inspected_is_one_line(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        server.answers["Inspect"] = NOT_INSPECTABLE
        with request_id("r1"):
            assert run("inspect", "Hi") == 1
        assert capsys.readouterr() == ("", "charloom inspect: export the model again [request r1]\n")


class TestPNG:
    @pytest.mark.parametrize("text", ["Hi", "a $x$ 夜 \n" * 20], ids=["short", "long"])
    def test_it_has_the_colours_of_the_values(self, run: Run, tmp_path: Path, capsys: Capture, text: str) -> None:
        file = tmp_path / "a.png"
        assert run("inspect", text, "--png", str(file)) == 0
        assert capsys.readouterr().out.startswith(f"wrote {file}: small, layer 1: cell state c; {len(text)} characters")
        seen = {
            tuple(colour) for colour in (imread(file)[::3, ::3, :3] * 255).round().astype(int).reshape(-1, 3).tolist()
        }
        assert (103, 0, 31) in seen  # the highest value there is, on unit 1 and on the scale
        assert (255, 255, 255) in seen
        assert len(seen) > 20

    @pytest.mark.parametrize(
        "symbols",
        [
            ["characters", "a", "$", "incomprehensibilities", " ", "\n", "words"] * 30,
            ["_" * 500, "夜" * 20],
            ["a", "夜", "b", " "] * 60,
            ["a", "\n"],
        ],
        ids=["words", "long-words", "characters", "short"],
    )
    @pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
    def test_no_label_runs_into_another_one_or_what_is_below(
        self, symbols: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        figures: list[Figure] = []
        real = Figure.savefig

        def kept(figure: Figure, *arguments: Any, **options: Any) -> None:
            figures.append(figure)
            real(figure, *arguments, **options)

        monkeypatch.setattr(Figure, "savefig", kept)
        values = np.zeros((3, len(symbols)), np.float32)
        tokens = [symbol.encode() for symbol in symbols]
        save(Heatmap("title", tokens, values[0], [0, 1, 2], values, -1, 1), tmp_path / "a.png")
        (figure,) = figures
        renderer = FigureCanvasAgg(figure).get_renderer()
        labels = [label for axes in figure.axes for label in axes.get_xticklabels() if label.get_text()]
        places = [label.get_window_extent(renderer) for label in labels]
        assert len(places) == len(symbols)
        for one, place in enumerate(places):
            assert place.count_overlaps([*places[:one], *places[one + 1 :]]) == 0, labels[one]
            assert place.count_overlaps([axes.get_window_extent() for axes in figure.axes]) == 0, labels[one]
            assert (place.x0 >= 0, place.y0 >= 0) == (True, True), labels[one]
        assert figure.bbox.height < 2000  # long words are shortened

    def test_one_that_would_be_too_large_is_one_line(
        self, run: Run, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("charloom.cli.sessions.heatmap_png.MOST_DOTS", 300)
        assert run("inspect", "Hi", "--png", str(tmp_path / "a.png")) == 1
        assert "give a shorter text, or fewer --rows or --units" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_where_matplotlib_is_missing_it_says_what_to_install(
        self, run: Run, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = builtins.__import__

        def without(name: str, *rest: Any) -> Any:
            if name == "charloom.cli.sessions.heatmap_png":
                raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
            return real(name, *rest)

        monkeypatch.setattr(builtins, "__import__", without)
        assert run("inspect", "Hi", "--png", str(tmp_path / "a.png")) == 1
        message = "--png needs matplotlib, which is not installed; run: pip install 'charloom[studies]'"
        assert capsys.readouterr().err == f"charloom inspect: {message}\n"
        assert run("inspect", "Hi") == 0
