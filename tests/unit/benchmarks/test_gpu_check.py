"""The check of a GPU, without one: which steps it has, how they end, and what it makes of their figures."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu, gpu_check
from benchmarks.gpu_check import ROOT, THERE, Step, figures_of_tests, file_of, needed, read, run, steps, summary
from benchmarks.gpu_report import AIMS, aims, problems, table
from benchmarks.reporting import Budget
from charloom.bundle import Bundle

DECODER = {"plain_step_us": 50.0, "plain_chars_per_s": 6_000_000, "full_step_us": 90.0, "full_chars_per_s": 3_000_000}
GOOD: dict[str, Any] = {
    "device": "cuda",
    "hardware": "NVIDIA H100 80GB HBM3, a processor, 16 cores",
    "steps": {"export": {"seconds": 9.0}},
    "tests": {"passed": 30, "skipped": 0, "failures": {}},
    "invariance": {"1": True, "1024": True},
    "decoder": {"1": DECODER, "1024": DECODER},
    "layouts": {"1 rows as 64x1": {"plain_step_us": 40.0, "plain_chars_per_s": 25_000}},
    "streams": {"64": {"chars_per_s": 70_000}},
}
JUNIT = """<testsuites><testsuite>
<testcase classname="a" name="passes"/>
<testcase classname="a" name="fails"><failure message="assert 1 == 2">long</failure></testcase>
<testcase classname="a" name="breaks"><error message="no fixture"/></testcase>
<testcase classname="a" name="waits"><skipped message="not now"/></testcase>
</testsuite></testsuites>"""


def test_good_figures_have_no_problem_and_meet_the_aims() -> None:
    assert problems(GOOD) == []
    assert [(value, met) for _, value, met in aims(GOOD)] == [(6_000_000, True), (50.0, True)]


@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("steps", {"export": {"seconds": 9.0, "problem": "ended after 9 s"}}, "export: ended after 9 s"),
        ("tests", {"passed": 1, "failures": {"a.b": "assert 1 == 2"}}, "test a.b: assert 1 == 2"),
        ("invariance", {"64": True, "1024": False}, "rows are not independent among 1024"),
        ("decoder", {"64": {"failed": "RuntimeError: out of memory"}}, "decoder 64: RuntimeError: out of memory"),
        ("profile", {"64": {"failed": "KeyError: x"}}, "profile 64: KeyError: x"),
    ],
)
def test_what_is_wrong_is_told(part: str, value: object, told: str) -> None:
    assert problems(GOOD | {part: value}) == [told]


@pytest.mark.parametrize(
    ("figures", "met"),
    [
        ({"plain_chars_per_s": 4_999_999, "plain_step_us": 60.0}, [False, True]),
        ({"plain_chars_per_s": 5_000_000, "plain_step_us": 60.1}, [True, False]),
        ({"failed": "RuntimeError: no kernel"}, [False, False]),
    ],
)
def test_an_aim_is_missed_by_a_figure_that_is_too_small_too_large_or_missing(
    figures: dict[str, object], met: list[bool]
) -> None:
    assert [good for *_, good in aims(GOOD | {"decoder": {aim.name: figures for aim in AIMS}})] == met
    assert [good for *_, good in aims({})] == [False, False]


def test_the_table_has_a_row_for_each_figure_and_says_which_failed() -> None:
    rows = table(GOOD | {"decoder": {"1": {"failed": "x"}}})
    assert rows[1:] == [
        ("1 rows", *["failed"] * 4),
        ("1 rows as 64x1", 40.0, 25_000, "", ""),
        ("64 streams", "", 70_000, "", ""),
    ]


def test_the_summary_names_hardware_steps_figures_aims_and_what_is_wrong() -> None:
    good = summary(GOOD)
    assert good.startswith("NVIDIA H100 80GB HBM3")
    assert re.search(r"export +9.0 +ok", good)
    assert "30 passed, 0 failed" in good
    assert good.endswith("nothing is wrong")
    bad = summary({"device": "cuda", "steps": {"export": {"seconds": 9.0, "problem": "status 1: no disk"}}})
    assert re.search(r"export +9.0 +FAILED", bad)
    assert bad.count("MISSED") == 2
    assert bad.endswith("WRONG: export: status 1: no disk")
    assert "aim" not in summary({"device": "cpu", "steps": {}})


def test_the_report_of_tests() -> None:
    found = figures_of_tests(JUNIT, "cpu")
    failures = {"a.fails": "assert 1 == 2", "a.breaks": "no fixture"}
    assert found == {"passed": 1, "skipped": 1, "failures": failures}
    assert "skipped" in figures_of_tests(JUNIT, "cuda")["failures"]["all"]
    assert figures_of_tests("<testsuites/>", "cpu")["failures"] == {"any": "no test passed"}


def test_the_result_is_named_after_the_hardware() -> None:
    assert file_of(GOOD).name == "gpu-nvidia-h100-80gb-hbm3.json"
    assert file_of({"device": "cuda"}).name == "gpu-unknown.json"
    assert file_of(GOOD | {"device": "cpu"}).name == "gpu-rehearsal.json"


def test_all_files_with_tests_for_cuda_are_run() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if "from tests.unit.devices import" in path.read_text("utf-8") and path != Path(__file__)
    }
    assert users == set(gpu_check.TESTS)


def test_what_travels_is_what_the_project_needs_but_for_what_is_there() -> None:
    names = {gpu_check._name(one) for one in needed()}
    assert {"grpcio", "protobuf", "pydantic", "pydantic-settings", "onnx", "redis", "pytest-timeout"} <= names
    assert names.isdisjoint(THERE)
    assert "hypothesis" in names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("numpy>=1.26,<3", "numpy"),
        ("grpcio-status>=1.81.1,<2", "grpcio-status"),
        ("numpy-2.5.5-cp312-cp312-manylinux_2_28_x86_64.whl", "numpy"),
        ("grpcio_status-1.85.3-py3-none-any.whl", "grpcio-status"),
        ("ml_dtypes-0.6.0-cp312-cp312-manylinux_2_27_x86_64.whl", "ml-dtypes"),
        ("tomli>=2; python_version < '3.11'", "tomli"),
    ],
)
def test_names_of_packages(text: str, name: str) -> None:
    assert gpu_check._name(text) == name


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_steps_and_their_time(device: str, tmp_path: Path) -> None:
    found = steps(device, None, tmp_path)
    assert sum(step.seconds for step in found if device == "cuda") <= 10 * 60  # some take less than they may
    assert [step.name for step in found] == ["export", "tests", *gpu.PARTS]
    for step in found[2:]:
        assert ("--device", device) == step.command[4:6]
    (tmp_path / "a.whl").touch()
    assert str(tmp_path / "a.whl") in steps(device, tmp_path, tmp_path)[0].command


def test_a_step_that_works_fails_or_takes_too_long(tmp_path: Path) -> None:
    def ran(code: str, seconds: float = 300.0, left: float = 10.0) -> dict[str, Any]:
        return run(Step("x", ("-c", code), seconds), Budget(left), dict(os.environ), tmp_path / "x.log")

    assert "problem" not in ran("print('well')")
    assert (tmp_path / "x.log").read_text() == "well\n"
    assert ran("raise SystemExit('no disk')")["problem"] == "status 1: no disk"
    assert ran("import time; time.sleep(60)", seconds=1.2)["problem"] == "ended after 1 s"
    assert ran("", left=1e-9) == {"seconds": 0.0, "problem": "no time was left"}


def test_what_a_step_started_ends_with_it(tmp_path: Path) -> None:
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
    run(Step("x", ("-c", code), 60), Budget(1), dict(os.environ), tmp_path / "x.log")
    stat, end = Path(f"/proc/{(tmp_path / 'x.log').read_text().strip()}/stat"), time.monotonic() + 60
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_check_writes_its_figures_and_goes_on_after_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def few(device: str, wheels: Path | None, folder: Path) -> list[Step]:
        code = f"open({str(folder / 'decoder.json')!r}, 'w').write('{{\"hardware\": \"here\"}}')"
        return [Step("export", ("-c", "raise SystemExit('no disk')"), 60), Step("decoder", ("-c", code), 60)]

    monkeypatch.setattr(gpu_check, "steps", few)
    out = tmp_path / "found.json"
    assert gpu_check.main(["--device", "cpu", "--out", str(out)]) == 1
    found = json.loads(out.read_text())
    assert found["hardware"] == "here"
    assert found["steps"]["export"]["problem"] == "status 1: no disk"
    assert "problem" not in found["steps"]["decoder"]
    assert "== export\nno disk" in (tmp_path / "found.log").read_text()
    assert "WRONG: export" in capsys.readouterr().out


def test_wheels_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu_check.main(["--wheels", str(tmp_path)])
    assert "there are no wheels in it" in capsys.readouterr().err


def test_figures_of_a_step_that_was_broken_off_are_read(tmp_path: Path) -> None:
    found = gpu.Found({"hardware": "here"}, tmp_path / "decoder.json")
    found.add("decoder", "1", lambda: DECODER)

    def break_off() -> None:
        raise RuntimeError("no kernel")

    found.add("decoder", "64", break_off)
    expected = {"hardware": "here", "decoder": {"1": DECODER, "64": {"failed": "RuntimeError: no kernel"}}}
    assert read(tmp_path, "cpu") == expected


def test_the_benchmark_measures_all_parts_on_the_cpu(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "all.json"
    small = "--rows 1,3 --part-rows 2 --steps 3 --seconds 0.01 --streams 2 --repeat 1 --device cpu --json"
    monkeypatch.setattr(sys, "argv", ["gpu", *small.split(), "--bundle", str(bundle.path), "--out", str(out)])
    monkeypatch.setattr(gpu, "LAYOUTS", [(2, 1), (1, 3)])
    monkeypatch.setattr(gpu, "LOAD_CHARACTERS", 100)
    assert gpu.main() == 0
    found = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text()) == found
    assert found["invariance"] == {"1": True, "3": True}
    assert list(found["decoder"]["3"]) == ["plain_step_us", "plain_chars_per_s", "full_step_us", "full_chars_per_s"]
    assert list(found["layouts"]) == ["1 rows as 2x1", "3 rows as 2x1", "1 rows as 1x3", "3 rows as 1x3"]
    assert any("addmm" in kernel["name"] for kernel in found["profile"]["3"]["kernels"])
    assert found["streams"]["2"]["chars_per_s"] > 0
