"""Several watchers at once, on a terminal, as a page and as event files; and what happens when one fails."""

from __future__ import annotations

import errno
import html
import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from charloom.training.files import CheckpointError
from charloom.training.loop import Trainer
from charloom.training.records import Advice, Evaluation, Progress
from charloom.training.watching import html_report
from charloom.training.watching.advice import Adviser
from charloom.training.watching.charts import Line, line_chart
from charloom.training.watching.dashboard import Dashboard, sparkline
from charloom.training.watching.figures import printable
from charloom.training.watching.history import add_warning, read_evaluations, read_warnings
from charloom.training.watching.html_report import HtmlReport, report_page, write_report
from charloom.training.watching.terminal import TerminalReporter
from charloom.training.watching.watchers import WarningsFile, Watchers
from tests.unit.training.test_advice import Advised
from tests.unit.training.training_runs import checkpoint_tensors, corpus_of, tiny_config

SETTINGS: dict[str, Any] = {"epochs": 2, "evaluations_per_epoch": 2}
NASTY = "<script>alert(1)</script>\n\x1b[2Jgone & \u2028 lost"


@pytest.fixture(scope="module")
def text(text_file: Path) -> str:
    return text_file.read_text("utf-8")[:4000]


@pytest.fixture(scope="module")
def finished(text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all the files of a watched one. Tests that change it copy it first."""
    run = tmp_path_factory.mktemp("watching") / "run & <more>"
    trainer = Trainer(tiny_config(**SETTINGS), corpus_of(text), run)
    with Watchers([WarningsFile(run), HtmlReport(run)], Adviser(trainer.config)) as watching:
        trainer.train(watching)
    return run


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copied"))


# Watchers that fail.


class Failing(Advised):
    def __init__(self, at: str) -> None:
        super().__init__()
        self._at, self.calls = at, 0

    def _fail(self, what: str) -> None:
        if what == self._at:
            self.calls += 1
            raise OSError(errno.ENOSPC, "No space left on device")

    def step(self, progress: Progress) -> None:
        super().step(progress)
        self._fail("step")

    def evaluation(self, evaluation: Evaluation) -> None:
        self._fail("evaluation")

    def close(self) -> None:
        super().close()
        self._fail("close")


@pytest.mark.parametrize("at", ["step", "evaluation", "close"])
def test_a_watcher_that_fails_is_closed_and_left_out_and_the_run_is_the_same(
    at: str, text: str, finished: Path, tmp_path: Path
) -> None:
    run, failing, other = tmp_path / "run", Failing(at), Advised()
    trainer = Trainer(tiny_config(**SETTINGS), corpus_of(text), run)
    with Watchers([failing, other, WarningsFile(run)], Adviser(trainer.config)) as watching:
        outcome = trainer.train(watching)
    assert outcome.finished
    assert failing.calls == failing.closed == (2 if at == "close" else 1)  # a close that failed is tried once more
    (advice,) = other.advised
    assert advice.text == "the run goes on without Failing, which failed: OSError: [Errno 28] No space left on device"
    assert read_warnings(run) == [advice]
    assert len(other.steps) == outcome.step
    assert len(other.evaluations) == len(read_evaluations(run)) == 4
    assert other.closed == 1
    left, right = (checkpoint_tensors(each / "last.safetensors") for each in (run, finished))
    assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def test_a_person_who_stops_the_run_is_heard(text: str, tmp_path: Path) -> None:
    class Interrupting(Advised):
        def step(self, progress: Progress) -> None:
            raise KeyboardInterrupt

    watcher = Interrupting()
    trainer = Trainer(tiny_config(**SETTINGS), corpus_of(text), tmp_path / "run")
    with pytest.raises(KeyboardInterrupt), Watchers([watcher], Adviser(trainer.config)) as watching:
        trainer.train(watching)
    assert watcher.closed == 1


def test_a_run_goes_on_when_its_page_cannot_be_written(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise CheckpointError("cannot write it: No space left on device")

    monkeypatch.setattr(html_report, "replace_file", full)
    run, other = tmp_path / "run", Advised()
    trainer = Trainer(tiny_config(**SETTINGS), corpus_of(text), run)
    with Watchers([HtmlReport(run), other], Adviser(trainer.config)) as watching:
        assert trainer.train(watching).finished
    assert [advice.cause for advice in other.advised] == ["watcher failed"]
    assert not (run / "report.html").exists()


# The log.


def test_the_log_is_read_back_as_it_was_told(text: str, tmp_path: Path) -> None:
    run, watcher = tmp_path / "run", Advised()
    trainer = Trainer(tiny_config(**SETTINGS), corpus_of(text), run)
    trainer.train(watcher)
    assert read_evaluations(run) == watcher.evaluations
    assert watcher.evaluations[0].gates.keys() == {"layer 1", "layer 2"}
    assert [step.epoch for step in watcher.steps] == pytest.approx([s.step * 2 / s.total_steps for s in watcher.steps])


def test_a_log_without_gates_is_read_and_a_damaged_one_is_refused(copied: Path) -> None:
    log = copied / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text("utf-8").split("\n") if line]
    for line in lines:
        del line["gates"]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [evaluation.gates for evaluation in read_evaluations(copied)] == [{}] * 4
    assert "Gates" not in report_page(copied)
    log.write_text('{"step": 1}\n')
    with pytest.raises(CheckpointError, match=r"log\.jsonl is of another version"):
        read_evaluations(copied)
    log.write_text('{"step": \n')
    with pytest.raises(CheckpointError, match=r"log\.jsonl is damaged"):
        read_evaluations(copied)


# The dashboard.


def screen(evaluations: list[Evaluation], width: int = 80, height: int = 23, parts: int = 2) -> list[str]:
    """The dashboard after an epoch and a half, and two warnings."""
    dashboard = Dashboard("mine", "character", 400, 0, evaluations)
    norms = {"embedding": 0.05} | {f"layer {number}": 0.2 for number in range(1, parts + 1)} | {"head": 0.14}
    for step in range(1, 151):
        dashboard.step(Progress(step, 400, step / 100, 2.0, 2.3e-3, 0.4321, norms, step % 4 == 0, 52310.0))
    for number in (1, 2):
        dashboard.advice(Advice(100 * number, "flat loss", 1.0, f"number {number}: change something. " * 12))
    return [line.plain for line in dashboard.lines(width, height)]


def evaluations_of(run: Path) -> list[Evaluation]:
    return [replace(e, sample=NASTY, validation_loss=3 - number) for number, e in enumerate(read_evaluations(run)[:3])]


def test_the_dashboard_shows_all_figures(finished: Path) -> None:
    shown = "\n".join(screen(evaluations_of(finished)))
    for figure in (
        "37.5%  step 150 of 400",
        "epoch 1.50 of 4",
        "52,310 characters/s",
        "training      2.0000     2.8854       7.389   mean of 20 steps",
        "best          1.0000     1.4427       2.718",
        "█▅▁  3.000 to 1.000",
        "gradient   0.432  clipped 25%   learning rate 2.30e-03",
        "embedding 0.05  layer 1 0.2  layer 2 0.2  head 0.14",
        "sample     <script>",
        "           ·[2Jgone & · lost",
        "warning    step 200: number 2",
    ):
        assert figure in shown, shown
    found = evaluations_of(finished)[-1].gates["layer 2"]
    saturations = [f"{100 * found[kind].near_low:.0f} {100 * found[kind].near_high:.0f}".split() for kind in found]
    (line,) = [line for line in shown.split("\n") if line.startswith("layer 2 ")]
    assert line.split()[2:] == [figure for pair in saturations for figure in pair]


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("height", [5, 12, 23, 50])
@pytest.mark.parametrize("layers", [1, 16])
def test_the_dashboard_fits_any_terminal(finished: Path, width: int, height: int, layers: int) -> None:
    few = evaluations_of(finished)
    gates = {f"layer {number}": few[0].gates["layer 1"] for number in range(1, layers + 1)}
    lines = screen([replace(each, gates=gates) for each in few], width, height, layers)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert "step 150 of 400" in lines[0]
    if height == 23:
        assert any(line.startswith("warning") for line in lines)
        assert any(line.startswith("layer 1") for line in lines)
        assert any("more layers" in line for line in lines) == (layers == 16)


def test_a_dashboard_with_nothing_to_show_yet_shows_that_it_starts() -> None:
    lines = [line.plain for line in Dashboard("mine", "byte", 400).lines(80, 23)]
    assert "step 0 of 400" in lines[0]
    assert "starting" in lines[1]
    assert "bits/byte" in lines[3]


def test_a_sparkline_goes_from_the_lowest_to_the_highest_and_leaves_gaps() -> None:
    assert sparkline([1.0, 2.0, float("nan"), 8.0], 10) == "▁▂ █"
    assert sparkline([3.0, 3.0], 10) == "▁▁"
    assert sparkline([float("inf")], 10) == ""
    assert sparkline([float(value) for value in range(1000)], 8) == "▁▂▃▄▅▆▇█"


def test_what_a_model_writes_cannot_steer_a_terminal() -> None:
    assert printable("a\x1b[31mb\r\n\x07é") == ["a·[31mb·", "·é"]


def reported(finished: Path, **console: Any) -> str:
    file = io.StringIO()
    evaluations = evaluations_of(finished)
    shown = Console(file=file, width=80, height=24, highlight=False, markup=False, soft_wrap=True, **console)
    reporter = TerminalReporter(shown, Dashboard("mine", "byte", 9), "byte")
    for step in range(1, 4):
        reporter.step(Progress(step, 9, step / 3, 2.0, 1e-3, 0.4, {"head": 0.4}, False, 10.0))
        reporter.evaluation(evaluations[step - 1])
    reporter.advice(Advice(3, "flat loss", 1.0, "change --learning-rate"))
    reporter.advice(Advice(3, "diverged", 1.0, "the command says so"))
    reporter.close()
    return file.getvalue()


def test_anywhere_but_on_a_terminal_there_are_plain_lines(finished: Path) -> None:
    lines = reported(finished).split("\n")
    assert [bool(re.match(r"epoch +\d", line)) for line in lines].count(True) == 3
    assert "warning: flat loss, step 3: change --learning-rate" in lines
    assert lines.count("    | <script>alert(1)</script>") == 3
    assert "\x1b" not in "".join(lines)
    assert "━" not in "".join(lines)
    assert not [line for line in lines if "the command says so" in line]


def test_on_a_terminal_the_evaluations_stay_above_a_dashboard(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = reported(finished, force_terminal=True, legacy_windows=False)
    assert "epoch " in shown
    assert "━" in shown
    assert "\x1b[2J" not in shown
    last = shown.rindex("warning: flat loss")
    assert "step 3 of 9" in shown[last:]  # drawn again below what was printed


def test_the_dashboard_is_drawn_at_most_twice_a_second(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    file, drawn = io.StringIO(), []
    console = Console(file=file, width=80, height=24, force_terminal=True, legacy_windows=False)
    now = [1000.0]
    monkeypatch.setattr("charloom.training.watching.terminal.time.monotonic", lambda: now[0])
    dashboard = Dashboard("mine", "byte", 1000)
    lines = dashboard.lines
    monkeypatch.setattr(dashboard, "lines", lambda *size: drawn.append(now[0]) or lines(*size))
    reporter = TerminalReporter(console, dashboard, "byte")
    for step in range(1, 1001):
        now[0] += 0.01
        reporter.step(Progress(step, 1000, 1.0, 2.0, 1e-3, 0.4, {"head": 0.4}, False, 10.0))
    reporter.close()
    assert 15 <= len(drawn) <= 21


# The page.


def svgs(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def test_a_run_leaves_a_page_that_says_everything(finished: Path) -> None:
    page = (finished / "report.html").read_text("utf-8")
    assert "run &amp; &lt;more&gt;" in page
    assert "<more>" not in page
    for title in ("Curves", "Gates", "Samples", "Settings", "Corpus and environment", "How to go on"):
        assert f"<h2>{title}" in page
    for figure in ("text.txt", "hidden_size", "<td>16</td>", torch.__version__, "charloom export"):
        assert figure in page
    changed, usual = page.split("settings as they are by default")
    assert "<th>hidden_size</th>" in changed
    assert "<th>gradient_clip</th>" in usual
    assert len(svgs(page)) == 6 + 2 * 5
    best = min(evaluation.validation_loss for evaluation in read_evaluations(finished))
    assert f"<b>{best:.4f}</b>" in page


def test_the_page_needs_neither_network_nor_scripts(finished: Path) -> None:
    page = (finished / "report.html").read_text("utf-8")
    assert not re.findall(r"(?:src|href|@import|url\(|https?:|<script|<link|<iframe)", page)


def test_what_came_from_texts_is_escaped(copied: Path) -> None:
    log = copied / "log.jsonl"
    lines = [json.loads(line) | {"sample": NASTY} for line in log.read_text("utf-8").split("\n") if line]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    add_warning(copied, Advice(7, "<b>", 1.0, "<img src=x onerror=alert(1)>"))
    (copied / "config.json").write_text(json.dumps({"<i>": "<i>", "unit": "<u>", "epochs": "<u>"}))
    page = report_page(copied)
    assert html.escape(NASTY.split("\n")[0]) in page
    assert not re.findall(r"<(?:script|img|i>|u>|b><)", page)


def test_warnings_and_final_losses_are_on_the_page(copied: Path) -> None:
    assert "<h2>Warnings" not in report_page(copied)
    assert "<h2>Final losses" not in report_page(copied)
    add_warning(copied, Advice(7, "flat loss", 1.0, "change --learning-rate"))
    (copied / "losses.json").write_text(json.dumps({"step": 1234, "losses": {"tail": 1.5}}))
    page = write_report(copied).read_text("utf-8")
    assert "flat loss</b>, step 7: change --learning-rate" in page
    assert "step 1,234" in page
    assert "1.5000 nats  2.1640 bits" in page


def test_a_page_is_refused_where_there_is_no_run_or_a_damaged_one(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no run in"):
        write_report(tmp_path / "nothing")
    (copied / "best.safetensors").write_bytes(b"{")
    with pytest.raises(CheckpointError, match=r"best\.safetensors is damaged or cut short"):
        write_report(copied)
    (copied / "config.json").write_bytes(b"{")
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        write_report(copied)


@pytest.mark.parametrize(
    "values", [[1.0], [2.0, 2.0], [0.0, 0.0], [1.0, float("nan"), 3.0], [float("inf")], [1e-9, 1e6]]
)
@pytest.mark.parametrize("how", [{}, {"log": True}, {"from_zero": True}, {"second": ("bits", 1.44)}], ids=str)
def test_charts_are_whole_whatever_the_values(values: list[float], how: dict[str, Any]) -> None:
    x = [float(number) for number in range(len(values))]
    chart = line_chart("<title>", x, [Line("<a>", values), Line("b", values)], x_name="x", y_name="y", **how)
    assert not re.findall(r"nan|inf\b|<a>|<title><", chart)
    for drawn in svgs(chart):
        for circle in drawn.iter("circle"):
            assert 0 <= float(circle.attrib["cx"]) <= 560
            assert 0 <= float(circle.attrib["cy"]) <= 230


def test_a_chart_has_a_point_for_each_value_and_higher_ones_are_higher() -> None:
    (drawn,) = svgs(line_chart("t", [1.0, 2.0, 3.0], [Line("a", [3.0, 1.0, 2.0])], x_name="x", y_name="y"))
    places = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in drawn.iter("circle")]
    assert sorted(places) == places
    assert [sorted(y for _, y in places).index(y) for _, y in places] == [0, 2, 1]


# TensorBoard.


def test_event_files_hold_what_the_run_told(text: str, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from charloom.training.watching.tensorboard import DIRECTORY, TensorBoard

    run, watcher = tmp_path / "run", Advised()
    config, corpus = tiny_config(**SETTINGS), corpus_of(text)

    def train(stop_after: int | None, resume: bool) -> None:
        trainer = Trainer(config, corpus, run, resume=resume)
        watcher._on_step = lambda step: trainer.stop() if step == stop_after else None
        with Watchers([TensorBoard(run, trainer.step), watcher], Adviser(config)) as watching:
            trainer.train(watching)
            if stop_after is None:
                watching._advise([Advice(9, "flat loss", 1.0, "change something")])

    train(20, False)
    train(None, True)
    events = EventAccumulator(str(run / DIRECTORY), size_guidance={"scalars": 0, "histograms": 0, "tensors": 0})
    events.Reload()
    told = watcher.evaluations

    def scalars(tag: str) -> list[tuple[int, float]]:
        return [(event.step, event.value) for event in events.Scalars(tag)]

    def near(expected: list[tuple[int, float]]) -> Any:
        return [(step, pytest.approx(value, rel=1e-5)) for step, value in expected]

    assert scalars("loss/validation") == near([(e.step, e.validation_loss) for e in told])
    assert scalars("loss/training") == near([(e.step, e.train_loss) for e in told])
    assert scalars("bits/validation")[0][1] == pytest.approx(told[0].validation_loss / 0.693147, rel=1e-5)
    assert scalars("perplexity/validation")[0][1] == pytest.approx(2.718282 ** told[0].validation_loss, rel=1e-5)
    assert scalars("clipped_share") == near([(e.step, e.clipped_share) for e in told])
    assert scalars("memory_bytes") == near([(e.step, e.memory_bytes) for e in told])
    tenth = [s for s in watcher.steps if s.step % 10 == 0]
    assert scalars("loss/step") == near([(s.step, s.loss) for s in tenth])
    assert scalars("learning_rate") == near([(s.step, s.learning_rate) for s in tenth])
    assert scalars("tokens_per_second") == near([(s.step, s.tokens_per_second) for s in tenth])
    assert scalars("gradient_norm/layer_1") == near([(s.step, s.gradient_norms["layer 1"]) for s in tenth])
    histogram = events.Histograms("layer_2/forget")[-1].histogram_value
    assert histogram.num == sum(told[-1].gates["layer 2"]["forget"].counts)
    assert list(histogram.bucket) == told[-1].gates["layer 2"]["forget"].counts
    sample = events.Tensors("sample/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert [line.removeprefix("    ") for line in sample.split("\n")] == told[-1].sample.split("\n")
    assert b"change something" in events.Tensors("warnings/text_summary")[0].tensor_proto.string_val[0]
