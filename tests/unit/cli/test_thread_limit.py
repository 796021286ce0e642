"""Commands that may start too few threads: one line that says so, at once; and none is asked for that is not needed."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator

import pytest

from charloom.cli import CommandError
from charloom.cli.main import COMMANDS, main
from charloom.cli.thread_limit import ADVICE, check_threads, grpc_threads, numpy_threads
from charloom.cli.training.threads import BESIDE
from tests.unit.client.fake_answers import TEXT
from tests.unit.client.fake_server import FakeServer

CAPABILITIES = "-all,+dac_override,+dac_read_search"
USER = 100_000 + os.getpid()
ANOTHER_USER = (
    f"setpriv --reuid {USER} --regid {USER} --clear-groups "
    f"--inh-caps={CAPABILITIES} --ambient-caps={CAPABILITIES} --bounding-set={CAPABILITIES}"
)
"""The limit counts all threads of a user, and is none for root; this user has no others, and may read what root may."""
limited = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("setpriv", "prlimit"))),
    reason="only root can limit the threads of a user that has none yet (setpriv and prlimit, of util-linux)",
)
FLAGS = {
    "score": ["text"],
    "sessions": ["list"],
    "inspect": ["text"],
    "train": ["text.txt", "--run", "run", "--threads", "4"],
    "report": ["run"],
    "evaluate": ["run", "--threads", "4"],
    "classify": ["train", "folder", "--run", "run", "--threads", "4"],
    "export": ["run", "bundle", "--threads", "4"],
    "study": ["copy", "--out", "out", "--threads", "4"],
}
REFUSED_LATE = (
    "import sys, threading; from charloom.cli import main, thread_limit; from charloom.cli.serving import one_process\n"
    "one_process.check_threads = main.check_threads = lambda count: None\n"
    "left, start = [int(sys.argv[1])], threading.Thread.start\n"
    "def refused(thread):\n"
    "    left[0] -= 1\n"
    '    if left[0] < 0: raise RuntimeError("can\'t start new thread")\n'
    "    start(thread)\n"
    "threading.Thread.start = refused\n"
    "sys.exit(main.main(sys.argv[2:]))"
)
"""The command, its threads tried in vain, and refused from one on."""


@pytest.fixture
def server() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.stop()


@pytest.fixture
def home() -> Iterator[str]:
    """A directory of the other user."""
    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, USER, USER)
        yield directory


def with_tasks(most: int, *command: str) -> list[str]:
    """A command line that may have so many tasks, the first thread of the process included."""
    return [*ANOTHER_USER.split(), "prlimit", f"--nproc={most}", sys.executable, "-m", "charloom.cli.main", *command]


ONE_OF_EACH_KIND = {(command.room, command.extra, name in FLAGS): name for name, command in COMMANDS.items()}
"""What they import, and so which threads they start, follows from these."""
OF_TORCH = [name for name, flags in FLAGS.items() if "--threads" in flags]
"""Those that also ask for threads of torch, whose import takes seconds of processor time."""


@limited
@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        *((name, 1) for name in COMMANDS if name not in OF_TORCH or name in ONE_OF_EACH_KIND.values()),
        *(
            (name, tasks)
            for name, tasks in itertools.product(ONE_OF_EACH_KIND.values(), (4, 8))
            if name not in OF_TORCH
        ),
    ],
)
def test_a_command_that_may_start_too_few_threads_says_so(name: str, tasks: int, home: str) -> None:
    torch = 3 + BESIDE if name in OF_TORCH else 0
    if COMMANDS[name].room == "training" and tasks > numpy_threads() + torch:
        pytest.skip("it needs no more")
    environment = os.environ | {"HOME": home, "PYTHONDONTWRITEBYTECODE": "1"}
    command = with_tasks(tasks, name, *FLAGS.get(name, []))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500, env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"charloom {name}: it needs ")
    assert done.stderr.endswith(f" can be started; {ADVICE}\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", OF_TORCH)
def test_a_command_asks_for_the_threads_of_torch(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("charloom.cli.main.numpy_threads", lambda: 0)
    monkeypatch.setattr(threading.Thread, "start", refused)
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)
    assert main([name, *FLAGS[name]]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        f"charloom {name}: it needs {3 + BESIDE} more threads, and only 0 can be started; {ADVICE}\n"
    )


@limited
def test_as_many_threads_as_a_client_asks_for_are_enough(server: FakeServer) -> None:
    command = with_tasks(grpc_threads() + 1, "generate", "Hi", "--target", server.target)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert (done.returncode, done.stdout, done.stderr) == (0, TEXT, "")


@limited
def test_as_many_threads_as_a_server_asks_for_are_enough() -> None:
    most = 1 + numpy_threads() + grpc_threads() + 3 + (4 + 2)
    command = with_tasks(most, "serve", "shakespeare", "--port", "0", "--workers", "4")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("listening on ")
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=500)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "thread" not in errors


@pytest.mark.parametrize("left", range(5))
def test_a_server_whose_threads_are_refused_later_ends_with_one_line(left: int) -> None:
    command = [sys.executable, "-c", REFUSED_LATE, str(left), "serve", "--port", "0", "--workers", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"charloom serve: a thread could not be started; {ADVICE}\n"


def test_the_threads_that_were_tried_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    before, start, started = set(threading.enumerate()), threading.Thread.start, list[threading.Thread]()

    def third_is_refused(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        start(thread)
        started.append(thread)

    check_threads(5)
    assert set(threading.enumerate()) <= before
    monkeypatch.setattr(threading.Thread, "start", third_is_refused)
    with pytest.raises(CommandError, match="it needs 5 more threads, and only 2 can be started; raise the limit"):
        check_threads(5)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    ("environment", "most"),
    [({"OPENBLAS_NUM_THREADS": "1"}, 0), ({"OMP_NUM_THREADS": "2"}, 1), ({"OMP_NUM_THREADS": "2,4"}, 63)],
)
def test_the_pool_of_numpy_is_as_large_as_it_is_told(
    environment: dict[str, str], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(128))
    assert numpy_threads() == most


def test_another_runtime_error_is_not_taken_for_one_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> int:
        raise RuntimeError("another")

    monkeypatch.setattr("charloom.cli.serving.health.run", fails)
    with pytest.raises(RuntimeError, match="another"):
        main(["health"])
