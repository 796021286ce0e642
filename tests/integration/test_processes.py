"""`charloom serve --processes 2`: what clients and operators see of it, with real processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import ANY

import pytest
from prometheus_client.parser import text_string_to_metric_families

from charloom.bundle import Bundle, DecoderKind, Unit, read_bundle
from charloom.client import CharloomError, Client, Conflict, QuotaExceeded
from tests.integration.model_versions import Folder
from tests.integration.several import Processes, serving
from tests.unit.bundle.bundle_files import change_manifest
from tests.unit.export.classifier_runs import classifier_bundle
from tests.waiting import eventually


def scraped(server: Processes) -> dict[str, float]:
    """The metrics that have no label, or only that of the model."""
    (where,) = re.findall(r"metrics are at (\S+)", server.log)
    with urllib.request.urlopen(where, timeout=60) as answer:
        families = [*text_string_to_metric_families(answer.read().decode())]
    return {one.name: one.value for family in families for one in family.samples if not one.labels.keys() - {"model"}}


@pytest.fixture(scope="module")
def server(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    options = ["--max-tokens", "1000000", "--metrics-port", "0", "--workers", "2"]
    with serving(bundle.path, tmp_path_factory.mktemp("processes"), *options) as server:
        yield server


def test_a_session_of_one_process_goes_on_in_another_and_is_busy_there_meanwhile(server: Processes) -> None:
    with server.clients() as clients:
        first, second = clients.values()
        with first.session(id="whole", seed=3) as session:
            whole = session.complete("ROMEO:", max_tokens=60).text
        with first.session(id="shared", seed=3, keep=True) as session:
            began = session.complete("ROMEO:", max_tokens=25).text
        other = second.open_session("shared")
        assert began + other.complete(max_tokens=35).text == whole
        with other.generate(max_tokens=100_000) as stream:
            next(iter(stream))
            with pytest.raises(Conflict) as refused:
                first.open_session("shared").complete(max_tokens=1)
            assert refused.value.reason == "SESSION_BUSY"
        other.delete()


def test_a_state_that_one_process_has_sealed_another_opens(server: Processes) -> None:
    """The keys were made once, by the parent."""
    with server.clients() as clients:
        first, second = clients.values()
        with first.session(seed=4) as session:
            session.complete("A", max_tokens=9)
            state = session.export().state
            rest = session.complete(max_tokens=20).text
        with second.import_session(state) as copy:
            assert copy.complete(max_tokens=20).text == rest


def test_metrics_and_status_are_those_of_all_processes_together(server: Processes) -> None:
    def delivered() -> float:
        return scraped(server)["charloom_generation_tokens_total"]

    with server.clients() as clients:
        before, status = delivered(), [client.status() for client in clients.values()]
        for client in clients.values():
            assert len(client.complete("A", max_tokens=50).text) == 50
        eventually(lambda: delivered() == before + 100)
        for client, was in zip(clients.values(), status, strict=True):
            now = client.status()
            assert now.models[0].generation_tokens == was.models[0].generation_tokens + 100
            assert now.models[0].places == 2 * 256
    eventually(lambda: scraped(server)["charloom_processes"] == 2)
    # Of the store that they share, and so not added up; they are counted several times a minute.
    eventually(lambda: scraped(server)["charloom_sessions"] == 0, 120)


def test_a_process_that_is_killed_is_replaced_and_its_stream_goes_on_in_the_other(server: Processes) -> None:
    with server.clients() as clients:
        for client in clients.values():
            client.complete("A", max_tokens=9)
    before = scraped(server)
    with server.clients() as clients:
        victim, client = next(iter(clients.items()))
        with client.session(seed=5, keep=True) as session, session.generate("ROMEO:", max_tokens=1_000_000) as stream:
            pieces = iter(stream)
            text = next(pieces)
            os.kill(victim, signal.SIGKILL)
            while not stream.resumptions:  # what was on its way arrives first
                text += next(pieces)
            text += next(pieces) + next(pieces)
        with client.session(seed=5) as session:
            assert session.complete("ROMEO:", max_tokens=len(text)).text == text
    eventually(lambda: server.log.count("takes calls") == 3, 120)
    assert "has ended with -9 (SIGKILL); another takes its place" in server.log
    assert victim not in server.children
    with server.clients() as clients:
        assert len(clients) == 2
    eventually(lambda: scraped(server)["charloom_processes"] == 2)
    after = scraped(server)
    assert after["charloom_processes_replaced_total"] == before["charloom_processes_replaced_total"] + 1
    for name in ("charloom_generation_tokens_total", "charloom_tick_rows_count"):  # what only rises does not fall
        assert after[name] >= before[name] > 0


IMPATIENT = """
import sys
from charloom.server.processes import child
child.BEAT_SECONDS = 1.0
from charloom.cli.main import main
sys.exit(main())
"""


def test_a_process_that_hangs_is_killed_and_replaced_and_its_stream_goes_on(bundle: Bundle, tmp_path: Path) -> None:
    options = ["--max-tokens", "1000000", "--metrics-port", "0"]
    with serving(bundle.path, tmp_path, *options, parent=("-c", IMPATIENT)) as server:
        with server.clients() as clients:
            victim, client = next(iter(clients.items()))
            with client.generate("ROMEO:", max_tokens=1_000_000, seed=5) as stream:
                pieces = iter(stream)
                text = next(pieces)
                os.kill(victim, signal.SIGSTOP)
                while not stream.resumptions:
                    text += next(pieces)
                text += next(pieces)
            (other,) = (client for pid, client in clients.items() if pid != victim)
            assert other.complete("ROMEO:", max_tokens=len(text), seed=5).text == text
        eventually(lambda: server.log.count("takes calls") == 3, 120)
        assert f"({victim}) does not answer, and is killed" in server.log
        assert victim not in server.children
        assert scraped(server)["charloom_processes_hung_total"] == 1
        assert scraped(server)["charloom_processes_replaced_total"] == 1
        assert server.stop() == 0


def test_a_second_server_does_not_get_its_port(server: Processes, bundle: Bundle, tmp_path: Path) -> None:
    port = server.address.rpartition(":")[2]
    for more in ([], ["--processes", "2", "--store", f"sqlite:{tmp_path / 'own.db'}"]):
        command = [sys.executable, "-m", "charloom.cli.main", "serve", str(bundle.path), "--port", port, *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
        assert done.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_models_change_in_all_processes_or_in_none(bundle: Bundle, copied: Callable[[], Path], tmp_path: Path) -> None:
    path = copied()
    with serving(path, tmp_path) as server:
        with server.clients() as clients:
            first, second = clients.values()
            change_manifest(path, lambda manifest: manifest.update(training={}))
            digest = read_bundle(path).manifest.digest
            assert first.reload_model("small").changed
            assert {client.models()[0].digest for client in clients.values()} == {digest}
            assert not second.reload_model("small").changed
            with pytest.raises(CharloomError, match="the only one here"):
                second.unload_model("small")
            (path / "decoder.int8.onnx").write_bytes(b"broken")
            with pytest.raises(CharloomError, match="nothing has changed"):
                second.reload_model("small")
            assert {client.models()[0].digest for client in clients.values()} == {digest}
        assert server.stop() == 0


def test_a_process_that_finds_other_files_than_those_that_serve_takes_no_calls_until_all_have_loaded_them(
    bundle: Bundle, copied: Callable[[], Path], tmp_path: Path
) -> None:
    path = copied()
    with serving(path, tmp_path) as server:
        change_manifest(path, lambda manifest: manifest.update(training={}))
        victim = server.children[0]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: "the other processes serve what was there before" in server.log, 120)
        assert server.log.count("takes calls") == 2
        with Client(server.address) as client:
            assert client.models()[0].digest == bundle.manifest.digest
            assert client.reload_model("small").changed
        eventually(lambda: server.log.count("takes calls") == 3, 120)
        with server.clients() as clients:
            digest = read_bundle(path).manifest.digest
            assert [client.models()[0].digest for client in clients.values()] == [digest, digest]
        assert server.stop() == 0


def test_a_process_that_is_replaced_serves_what_the_others_do_after_changes_by_request(
    bundle: Bundle, tmp_path: Path
) -> None:
    folder = Folder(tmp_path / "models", bundle)
    older, _ = folder.add("1", "rolled"), folder.add("2", "rolled")
    folder.add("1", "unloaded")
    with serving(bundle.path, tmp_path, "--model-folder", str(folder.path)) as server:
        with server.clients() as clients:
            first, _ = clients.values()
            assert first.load_model("rolled/1").changed
            first.unload_model("unloaded")
            victim = next(iter(clients))
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: server.log.count("takes calls") == 3, 120)
        folder.add("1", "other")  # what brings it are looks at the folder in each process
        with server.clients() as clients:
            expected = {"small": bundle.manifest.digest, "rolled": read_bundle(older).manifest.digest, "other": ANY}
            for client in clients.values():
                eventually(lambda client=client: len(client.models()) == 3, 120)
                assert {model.name: model.digest for model in client.models()} == expected
            client.load_model("unloaded/1")
            for client in clients.values():  # in one order, also where it was unloaded before the process was there
                assert [model.name for model in client.models()] == ["small", "rolled", "unloaded", "other"]
        assert server.stop() == 0


def test_a_watch_goes_on_in_another_process_and_texts_get_labels_in_each(bundle: Bundle, tmp_path: Path) -> None:
    classifier = classifier_bundle(tmp_path, Unit.CHARACTER, name="labels", decoders=[DecoderKind.ONNX_INT8])
    shutil.copytree(classifier.path, tmp_path / "models" / "labels" / "1")
    with (
        serving(bundle.path, tmp_path, "--model-folder", str(tmp_path / "models")) as server,
        server.clients() as clients,
    ):
        first, second = clients.values()
        usual = [("a", "the class is here"), ("b", "the function is not")]
        with first.watch("whole", characters=True) as watch:
            whole = watch.read(usual * 3)
        with first.watch("log", characters=True) as watch:
            began = watch.read(usual)
            with pytest.raises(Conflict), second.watch("log") as other:
                other.read(usual)
            began += watch.read(usual)
        with second.watch("log", characters=True) as other:
            assert began + other.read(usual) == whole
        for client in clients.values():
            with client.classify_stream(model="labels") as labeller:
                told = [labeller.read(part) for part in ("a go", "od d", "ay")]
            assert told[-1].label == client.classify("a good day", model="labels").label
            assert [one.probabilities for one in told] == [
                pytest.approx(client.classify(text, model="labels").probabilities)
                for text in ("a go", "a good d", "a good day")
            ]


def test_limits_of_a_tenant_hold_for_all_processes_together(bundle: Bundle, tmp_path: Path) -> None:
    options = ["--tenant-sessions", "2", "--tenant-tokens-per-second", "50", "--http-port", "0"]
    with serving(bundle.path, tmp_path, "--trust-proxy", "127.0.0.1", *options) as server:
        with server.clients(tenant="shop") as clients:
            first, second = clients.values()
            first.session(keep=True)
            second.session(keep=True)
            for client in (first, second):
                with pytest.raises(QuotaExceeded, match="your limit of sessions is 2, and you have 2"):
                    client.session()
            with first.generate("A" * 3000, max_tokens=10) as stream, ThreadPoolExecutor(1) as pool:
                reading = pool.submit(list, stream)  # it waits until what it has read too much has come back
                eventually(lambda: refused_for_tokens(second))
                stream.cancel()
                reading.exception()
        assert server.process.stdout is not None
        http = server.process.stdout.readline().split()[-1]
        for _ in range(8):  # each a connection of its own
            with urllib.request.urlopen(f"http://{http}/health", timeout=60) as answer:
                assert answer.status == 200


def refused_for_tokens(client: Client) -> bool:
    time.sleep(0.1)  # so that what is asked for here comes back by itself
    try:
        client.complete(max_tokens=1)
    except QuotaExceeded as problem:
        return problem.metadata["limit"] == "tokens_per_second"
    return False


def test_sigterm_lets_calls_of_all_processes_end(bundle: Bundle, tmp_path: Path) -> None:
    with serving(bundle.path, tmp_path, "--grace-seconds", "60") as server, server.clients() as clients:
        streams = [client.generate(max_tokens=3000) for client in clients.values()]
        pieces = [iter(stream) for stream in streams]
        for one in pieces:
            next(one)
        server.process.send_signal(signal.SIGTERM)
        for one, stream in zip(pieces, streams, strict=True):
            list(one)
            assert stream.result().finish_reason.value == "length"
        assert server.process.wait(timeout=120) == 0
        for number in (1, 2):
            assert f"[INFO] stopped process={number}\n" in server.log


def test_a_child_that_cannot_start_ends_the_command_with_its_reason(bundle: Bundle, tmp_path: Path) -> None:
    broken = shutil.copytree(bundle.path, tmp_path / "broken")
    (broken / "vocabulary.json").write_text("{}")
    options = ["--processes", "2", "--store", f"sqlite:{tmp_path / 'db'}", "--port", "0"]
    command = [sys.executable, "-m", "charloom.cli.main", "serve", str(broken), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 1
    assert "charloom serve: " in done.stderr
    assert "vocabulary.json" in done.stderr
