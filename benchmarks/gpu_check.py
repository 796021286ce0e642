"""Everything to do at the first chance of a GPU: one command, some minutes, no network.

    scripts/gpu-check --collect DIRECTORY                           # with a network: fetch the wheels
    scripts/gpu-check [--wheels DIRECTORY] [--out FILE]             # beside the GPU
    scripts/gpu-check --device cpu [--wheels DIRECTORY]             # a rehearsal: small sizes, no graphs

It exports a 2 x 512 model, runs the tests that need a CUDA device, and measures with `benchmarks.gpu`. Each step is a
process with a time of its own; one that fails or takes too long does not keep the next from running. The figures go to
`benchmarks/results/gpu-NAME.json`, with the hardware's name, or to `--out`; what the steps printed is beside that, in a
file with the ending `.log`. The exit status is 0 if nothing is wrong and, on a GPU, all aims are met.

The machine needs Python 3.12 with torch, numpy and onnxruntime; what else is needed comes with the wheels. They are not
installed into a virtual environment, because one that is made from another does not see the packages of that.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.ending import ends_on_sigterm
from benchmarks.gpu_report import Figures, aims, problems, table
from benchmarks.reporting import Budget, new_parser, say, some_minutes, table_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
TESTS = (
    "tests/unit/engine/decoding/test_device_decoder.py",
    "tests/unit/engine/decoding/test_state_pool.py",
    "tests/unit/training/test_training_on_cuda.py",
)
"""Where the tests are that are marked `cuda`."""
THERE = {"torch", "numpy", "onnxruntime"}
"""What is on a machine with a GPU; the rest of what is needed travels."""
MOST_BYTES = 64 * 10**6
"""Of the wheels together."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
LAST_LINES = 3
SITE = "site"
"""The folder that the wheels are installed in."""


@dataclass(frozen=True)
class Step:
    """A Python command of the check."""

    name: str
    command: tuple[str, ...]
    """Without the interpreter."""
    seconds: float
    """When it is ended."""


def needed() -> list[str]:
    """The requirements of client, server, export and tests, but for what is there."""
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    tools = [one for one in extras["dev"] if one.startswith(("pytest", "hypothesis"))]
    wanted = dict.fromkeys([*project["dependencies"], *extras["server"], *extras["training"], *tools])
    return [one for one in wanted if _name(one) not in THERE]


def collect(directory: Path) -> int:
    """Download the wheels of `needed`, and of what these need, for Python 3.12; returns the exit status."""
    platforms = [word for one in PLATFORMS for word in ("--platform", one)]
    target = ["--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp", *platforms]
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", *target, "-d", directory, *needed()], check=True)
    for wheel in directory.glob("*.whl"):
        if _name(wheel.name) in THERE:
            wheel.unlink()
    size = sum(wheel.stat().st_size for wheel in directory.glob("*.whl"))
    say(f"{directory} has {size / 1e6:.1f} MB of wheels; at most {MOST_BYTES / 1e6:.0f} may travel")
    return int(size > MOST_BYTES)


def steps(device: str, wheels: Path | None, folder: Path) -> list[Step]:
    """The steps in their order; `folder` gets what they make."""
    bundle, cuda = folder / "bundle", device == "cuda"
    slower = 1 if cuda else 4  # as long as a few busy cores may take

    def step(name: str, seconds: float, command: str, *words: str) -> Step:
        return Step(name, (*command.split(), *words), slower * seconds)

    found = []
    if wheels:
        install = f"-m pip install -q --no-index --no-deps --no-compile --target {folder / SITE}"
        found.append(step("wheels", 60, install, *map(str, sorted(wheels.glob("*.whl")))))
    found.append(step("export", 60, f"-m benchmarks.reference {bundle}"))
    # Other versions of libraries may warn of other things, which is no fault of the device.
    pytest = f"-m pytest -q -p no:cacheprovider -W default --tb=short --junitxml={folder / 'tests.xml'} -m"
    found.append(step("tests", 130, pytest, "cuda" if cuda else "not cuda", *TESTS))
    size = "--rows 1,64,1024,8192 --streams 64,1,1024,8192 --repeat 2 --seconds 1"
    if not cuda:
        size = "--rows 1,16 --streams 2,1 --repeat 1 --seconds 0.2 --steps 2 --part-rows 16"
    for part, seconds in {"invariance": 60, "decoder": 80, "layouts": 50, "profile": 45, "streams": 150}.items():
        where = f"--device {device} --bundle {bundle} --out {folder / f'{part}.json'}"
        found.append(step(part, seconds, f"-m benchmarks.gpu --only {part} {where} {size}"))
    return found


def run(step: Step, budget: Budget, environment: dict[str, str], log: Path) -> Figures:
    """Run a step to its end, or to that of its time; how long it took, and what went wrong if anything did."""
    allowed = min(step.seconds, budget.seconds)
    if allowed < 1:
        return {"seconds": 0.0, "problem": "no time was left"}
    say(f"{step.name}: at most {allowed:.0f} s")
    began, found = time.monotonic(), Figures()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *step.command],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            if status := process.wait(allowed):
                lines = [line for line in log.read_text("utf-8", "replace").split("\n") if line and line[0] != "{"]
                found["problem"] = f"status {status}: " + " | ".join(lines[-LAST_LINES:])[-500:]
        except subprocess.TimeoutExpired:
            found["problem"] = f"ended after {allowed:.0f} s"
        finally:
            with suppress(ProcessLookupError):  # what it left running, such as a server, ends with it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return {"seconds": round(time.monotonic() - began, 1)} | found


def figures_of_tests(report: str, device: str) -> Figures:
    """Of a report of pytest in JUnit's form: how many tests passed and were skipped, and what failed why."""
    failures, skipped, passed = dict[str, str](), 0, 0
    for case in ElementTree.fromstring(report).iter("testcase"):
        wrong = [child for child in case if child.tag in ("failure", "error")]
        if wrong:
            failures[f"{case.get('classname')}.{case.get('name')}"] = (wrong[0].get("message") or "")[:300]
        elif any(child.tag == "skipped" for child in case):
            skipped += 1
        else:
            passed += 1
    if not passed:
        failures["any"] = "no test passed"
    if skipped and device == "cuda":
        failures["all"] = f"{skipped} tests were skipped, which all need nothing but the device"
    return {"passed": passed, "skipped": skipped, "failures": failures}


def read(folder: Path, device: str) -> Figures:
    """What the steps left so far."""
    found: Figures = {}
    for file in sorted(folder.glob("*.json")):
        found |= json.loads(file.read_text("utf-8"))
    report = folder / "tests.xml"
    if report.exists():
        found["tests"] = figures_of_tests(report.read_text("utf-8"), device)
    return found


def summary(found: Figures) -> str:
    """For people: what ran, the figures, what is wrong."""
    ran = [("step", "seconds", ""), *_ran(found)]
    parts = [found.get("hardware", "no step named the hardware"), table_of(ran)]
    if tests := found.get("tests"):
        parts.append(f"tests: {tests['passed']} passed, {len(tests['failures'])} failed, {tests['skipped']} skipped")
    parts.append(table_of(table(found)))
    if found["device"] == "cuda":
        parts.append(
            "\n".join(f"aim, {words}: {value} {'met' if met else 'MISSED'}" for words, value, met in aims(found))
        )
    parts.append("\n".join(f"WRONG: {problem}" for problem in problems(found)) or "nothing is wrong")
    return "\n\n".join(parts)


def _ran(found: Figures) -> list[tuple[object, ...]]:
    return [(name, step["seconds"], "FAILED" if "problem" in step else "ok") for name, step in found["steps"].items()]


def write(found: Figures, folder: Path, out: Path) -> Path:
    """Keep the figures, and beside them what the steps printed; returns the file of that."""
    out.write_text(json.dumps(found) + "\n", "utf-8")
    logs = out.with_suffix(".log")
    said = (f"== {log.stem}\n{log.read_text('utf-8', 'replace')}\n" for log in sorted(folder.glob("*.log")))
    logs.write_text("".join(said), "utf-8")
    return logs


def file_of(found: Figures) -> Path:
    """Where the figures of a device are kept."""
    name = found.get("hardware", "unknown").partition(",")[0] if found["device"] == "cuda" else "rehearsal"
    return RESULTS / f"gpu-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"


def _name(requirement: str) -> str:
    """Of the package, from a requirement or a wheel's file name."""
    match = re.match(r"[A-Za-z0-9.]+(?:[-_][A-Za-z][A-Za-z0-9.]*)*", requirement)
    assert match is not None
    return match[0].lower().replace("_", "-")


def _environment(device: str, site: Path) -> dict[str, str]:
    """The wheels and this checkout before what is installed; one GPU, or none."""
    roots = [ROOT, *(ROOT / one for one in PYPROJECT["tool"]["hatch"]["build"]["dev-mode-dirs"])]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or "0"
    path = {"PYTHONPATH": os.pathsep.join(map(str, [site, *roots]))}
    if device == "cuda":
        return os.environ | path | {"CUDA_VISIBLE_DEVICES": visible}
    # Threads that spin make a busy machine many times slower.
    return os.environ | path | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect, or check."""
    parser = new_parser(__doc__)
    parser.add_argument("--collect", type=Path, metavar="DIRECTORY", help="download the wheels, and nothing else")
    parser.add_argument("--wheels", type=Path, metavar="DIRECTORY", help="use these wheels")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="where to run (default: cuda)")
    parser.add_argument("--minutes", type=some_minutes, default=8.0, help="for all steps together (default: 8)")
    parser.add_argument("--out", type=Path, help="the file with the figures")
    options = parser.parse_args(arguments)
    if options.collect:
        return collect(options.collect)
    if options.wheels and not list(options.wheels.glob("*.whl")):
        parser.error(f"--wheels {options.wheels}: there are no wheels in it")
    budget = Budget(options.minutes)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = _environment(options.device, folder / SITE)
        ran: Figures = {}
        for step in steps(options.device, options.wheels and options.wheels.resolve(), folder):
            ran[step.name] = run(step, budget, environment, folder / f"{step.name}.log")
            say(f"{step.name}: {ran[step.name]}")
            found = {"device": options.device, "python": sys.version.split()[0], "steps": ran} | read(
                folder, options.device
            )
            out = options.out or file_of(found)
            logs = write(found, folder, out)  # after each step, so that a run that is broken off leaves what it had
    print(json.dumps(found) if options.json else f"{summary(found)}\n\nwritten: {out}, {logs}")
    missed = options.device == "cuda" and not all(met for *_, met in aims(found))
    return int(bool(problems(found)) or missed)


if __name__ == "__main__":
    with ends_on_sigterm():
        sys.exit(main())
