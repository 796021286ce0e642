"""The examples run, as their users run them, against a real server with the bundled model."""

from __future__ import annotations

import json
import os
import pty
import re
import runpy
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from charloom.bundle import read_bundle
from charloom.models import BUNDLED_MODEL
from charloom.server.open_runtime import open_models
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    settings = ServerSettings(grace_seconds=0)
    with running_server(open_models([BUNDLED_MODEL], settings), settings) as server:
        yield server.address


def run(name: str, *flags: str, lines: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, input=lines, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    return done


def output_of(name: str, *flags: str, lines: str = "") -> str:
    return run(name, *flags, lines=lines).stdout


def test_every_example_is_run_here() -> None:
    here = Path(__file__).read_text("utf-8")
    assert [path.name for path in EXAMPLES.glob("*.py") if not re.search(rf'"{path.stem}(\.py)?"', here)] == []


def test_a_story_branches(address: str) -> None:
    told = output_of("branching_story", "--target", address, "--branches", "3", "--length", "60")
    ways = [part.partition("---\n")[2] for part in told.split("\n--- ")[1:]]
    assert [len(way.removesuffix("\n")) for way in ways] == [60] * 4
    assert len(set(ways)) == 4


def test_an_editor_undoes(address: str) -> None:
    assert "the same again" in output_of("editor_undo", "--target", address)


def test_the_odd_line_of_a_log_is_found(address: str) -> None:
    usual = ["KING: What say you to the matter of the day?", "QUEEN: My lord, the people are not of your mind."]
    odd = "QUEEN: qx;;ZZk QJ!!x zqkq XX--vv jjq;;Z"
    lines = "".join(f"{line}\n" for line in [*usual * 20, odd, usual[0]])  # another source is not disturbed by it
    found = output_of("log_anomalies", "--target", address, "--rate", "0.05", lines=lines)
    assert [line[14:] for line in found.splitlines()] == [odd]
    again = output_of("log_anomalies", "--target", address, "--rate", "0.05", lines=f"{odd[:-1]}!\n")
    assert again.startswith("! ")  # the server knows the source


def test_a_log_too_short_to_judge_is_told_to_be(address: str) -> None:
    done = run("log_anomalies", "--target", address, "--name", "short", lines="KING: What say you?\n")
    assert (done.stdout, done.stderr) == (
        "",
        "no line was judged, for a threshold takes 100 lines before; --all shows them\n",
    )


def test_a_performance_is_played(address: str) -> None:
    played = output_of("live_performance", "--target", address)
    for cue in ("calm", "storm", "a new voice", "silence", "calm again"):
        assert f"~~ {cue} ~~" in played


def test_generated_names_are_told_from_chosen_ones(tmp_path: Path) -> None:
    """In small, so that the bound is far below what a minute of training reaches; always one label is right in half."""
    model = tmp_path / "names"
    told = output_of("generated_names", "--names", "1200", "--epochs", "2", "--model", str(model))
    found = re.search(r"2,000 names of the test: accuracy ([\d.]+)", told)
    assert found is not None
    assert float(found[1]) > 0.65
    assert "calibration error" in told
    for maker in ("hexadecimal", "congruential", "syllables", "joined", "word", "brand", "two_words"):
        assert re.search(rf"^  {maker} +[\d.]+ of \d+$", told, re.M)
    assert told.count(" p ") >= 2  # letter by letter
    assert read_bundle(model).manifest.labelling is not None


def test_forms_are_filled_in_that_a_schema_allows() -> None:
    told = output_of("filled_forms", "--records", "500", "--epochs", "1", "--forms", "4")
    forms = [json.loads(line.partition("   allowed")[0]) for line in told.splitlines() if line.startswith("{")]
    assert len(forms) == 4
    for form in forms:
        assert {"city", "goods", "crates", "paid"} <= form.keys() <= {"city", "goods", "crates", "paid", "note"}
        assert 1 <= form["crates"] <= 99
        assert 1 <= len(form["goods"]) <= 3


ABC = """X: 2
T:A jig
M:6/8
K:D
f|"D"faa "G"g2f|efd "A7"e3|"D"DFA d2f|"G"gfe "D"d3|
"G"BGB "D"A2F|"G"Bcd "A7"e2f|"D"fed "A7"e2c|"D"d3 D3|]
"""


def test_the_bars_of_a_tune_add_up() -> None:
    reel = "X: 1\nM:4/4\nK:D\nABcd efga|\n"
    (learned,) = runpy.run_path(str(EXAMPLES / "tunes.py"))["jigs_of"](f"{reel}\n\n{ABC}\n")
    assert learned == "faag2f|efde3|DFAd2f|gfed3|\nBGBA2F|Bcde2f|fede2c|d3D3|]\n"
    told = output_of("tunes", "--epochs", "1", "--count", "4")
    assert "1000 tunes to learn from" in told
    tunes = told.split("K:C\n")[1:]
    assert len(tunes) == 4
    for tune in tunes:
        first, second = tune.splitlines()[:2]
        bars = [*first.removesuffix("|").split("|"), *second.removesuffix("|]").split("|")]
        lengths = [sum(int(length or 1) for length in re.findall("[A-Ga-g]([23]?)", bar)) for bar in bars]
        assert lengths == [6] * 8


def test_a_line_is_completed_in_grey(address: str) -> None:
    """In a terminal: what is suggested appears by itself, and Tab takes it."""
    own, its = pty.openpty()
    command = [sys.executable, str(EXAMPLES / "autocomplete.py"), "--target", address, "--lines", "1"]
    environment = os.environ | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
    shown = b""

    def wait_for(text: bytes) -> None:
        nonlocal shown
        end = time.monotonic() + 60
        while text not in shown:
            assert time.monotonic() < end, shown
            if select.select([own], [], [], 1)[0]:
                shown += os.read(own, 65536)

    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment) as process:
        try:
            wait_for(b">")
            os.write(own, "Now is the wint\N{SNOWMAN}\x7f".encode())  # one key too many, unknown to the model, and back
            wait_for(b"er")
            os.write(own, b"\t")
            os.write(own, b"\r")
            wait_for(b"written: Now is the winter")
            assert process.wait(60) == 0
        finally:
            process.kill()
            os.close(own)
            os.close(its)


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_a_client_in_node_streams_cancels_carries_a_session_and_reads_an_error(address: str, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "node", tmp_path / "examples" / "node", ignore=shutil.ignore_patterns("node_modules"))
    shutil.copytree(EXAMPLES.parent / "proto", tmp_path / "proto")
    folder = tmp_path / "examples" / "node"
    made = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    if re.search(r"ENOTFOUND|EAI_AGAIN|ECONN|ETIMEDOUT", made.stderr):
        pytest.skip(f"npm cannot get the packages: {made.stderr[-300:]}")
    assert made.returncode == 0, made.stderr
    done = subprocess.run(
        ["node", "example.mjs", address], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    stream, cancelled, session, error = done.stdout.split("--- ")[1:]
    assert "FINISH_REASON_LENGTH, seed 7" in stream
    assert "cancelled after" in cancelled
    assert "(position 135)" in session
    assert "NOT_FOUND SESSION_DELETED of charloom" in error
