from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from charloom.bundle import DecoderKind
from charloom.cli.flags import explain
from charloom.engine.quotas import UNLIMITED, Quota
from charloom.server.same_ports import same_ports
from charloom.server.settings import ServerSettings, read_settings


def test_defaults_listen_on_this_machine_only() -> None:
    settings = read_settings({})
    assert (settings.host, settings.port, settings.device, settings.decoder) == ("127.0.0.1", 50051, "cpu", None)


def test_flags_win_over_environment_and_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "charloom.toml"
    file.write_text('port = 1111\nmax_rows = 11\ndecoder = "onnx-fp32"\n')
    monkeypatch.setenv("CHARLOOM_CONFIG", str(file))
    monkeypatch.setenv("CHARLOOM_PORT", "2222")
    monkeypatch.setenv("CHARLOOM_MAX_ROWS", "22")
    settings = read_settings({"max_rows": "33"})
    assert (settings.port, settings.max_rows, settings.decoder) == (2222, 33, DecoderKind.ONNX_FP32)


@pytest.mark.parametrize(
    ("name", "value"), [("port", "70000"), ("port", "x"), ("device", "tpu"), ("max_rows", "0"), ("decoder", "pickle")]
)
def test_a_bad_value_is_named(name: str, value: str) -> None:
    with pytest.raises(ValidationError) as refused:
        read_settings({name: value})
    assert f"--{name.replace('_', '-')} {value}:" in explain(refused.value)


def test_prompts_that_no_message_can_carry_are_refused() -> None:
    with pytest.raises(ValidationError) as refused:
        read_settings({"max_prompt_characters": "20000000"})
    assert explain(refused.value).startswith("--max-prompt-characters 20000000 is more than")
    assert "lower it to 16515072" in explain(refused.value)
    assert read_settings({"max_prompt_characters": "16515072"}).max_message_bytes == 67_108_864
    read_settings({"max_prompt_characters": "20000000", "max_message_bytes": "100000000"})


def test_an_unknown_name_in_the_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "charloom.toml"
    file.write_text("prot = 1\n")
    monkeypatch.setenv("CHARLOOM_CONFIG", str(file))
    with pytest.raises(ValidationError, match="prot"):
        read_settings({})


def test_a_missing_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARLOOM_CONFIG", "/nowhere.toml")
    with pytest.raises(FileNotFoundError, match=r"/nowhere\.toml"):
        read_settings({})


def test_a_directory_is_no_file_of_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARLOOM_CONFIG", str(tmp_path))
    with pytest.raises(IsADirectoryError):
        read_settings({})


def test_limits_of_a_tenant_follow_the_settings() -> None:
    assert ServerSettings().quota() == UNLIMITED
    settings = ServerSettings(
        tenant_sessions=1,
        tenant_session_bytes=2,
        tenant_calls=3,
        tenant_tokens_per_second=0.5,
        tenant_prompt_characters=4,
    )
    assert settings.quota() == Quota(sessions=1, session_bytes=2, calls=3, tokens_per_second=0.5, prompt_characters=4)
    with pytest.raises(ValueError, match="tenant_calls"):
        ServerSettings(tenant_calls=0)
    for rate in (1e-300, 1e308, float("inf")):
        with pytest.raises(ValueError, match="tenant_tokens_per_second"):
            ServerSettings(tenant_tokens_per_second=rate)


def test_limits_follow_the_settings() -> None:
    limits = read_settings({"tick_milliseconds": 8, "max_sessions": 5, "session_seconds": 7}).limits()
    assert (limits.tick_seconds, limits.max_sessions, limits.default_time_to_live.total_seconds()) == (0.008, 5, 7)


CLOSED = {"tls_cert": "a", "tls_key": "b"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "unix:charloom.sock"])
def test_this_machine_alone_needs_no_credentials(host: str) -> None:
    assert ServerSettings(host=host).open_doors() == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "my.host", "::ffff:10.0.0.1"])
@pytest.mark.parametrize(
    ("given", "lacking"),
    [
        ({}, "nothing is encrypted and nobody is asked who calls"),
        (CLOSED, "nobody is asked who calls"),
        ({"keys": "k"}, "nothing is encrypted"),
    ],
)
def test_other_machines_are_let_in_only_with_both_or_where_it_is_said(
    host: str, given: dict[str, Any], lacking: str
) -> None:
    with pytest.raises(ValidationError) as problem:
        ServerSettings(host=host, **given)
    said = str(problem.value)
    assert f"--host {host} is for other machines too, and {lacking}." in said
    assert f"charloom serve --host {host} --tls-cert FILE --tls-key FILE --keys FILE" in said
    assert " and ".join(ServerSettings(host=host, insecure=True, **given).open_doors()) == lacking


@pytest.mark.parametrize("identity", [{"keys": "k"}, {"tls_client_ca": "c"}])
def test_tls_and_an_identity_are_enough(identity: dict[str, Any]) -> None:
    assert ServerSettings(host="0.0.0.0", **CLOSED, **identity).open_doors() == []  # type: ignore[arg-type]


MISTAKES = {
    "host": "0.0.0.0",
    "port": "70000",
    "device": "tpu",
    "max_rows": "0",
    "trust_proxy": "nonsense",
    "tls_key": "k",
    "jwt_issuer": "i",
    "max_prompt_characters": "20000000",
}


def test_all_mistakes_are_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "charloom.toml"
    file.write_text("prot = 1\n")
    monkeypatch.setenv("CHARLOOM_CONFIG", str(file))
    with pytest.raises(ValidationError) as refused:
        read_settings(MISTAKES)
    said = explain(refused.value)
    for part in (
        "--port 70000: Input should be less than",
        "--device tpu: Input should be 'cpu' or 'cuda'",
        "--max-rows 0: Input should be greater",
        "--trust-proxy nonsense: 'nonsense' does not appear to be an IPv4 or IPv6 network",
        "there is no setting 'prot';",
        "--tls-key is given without --tls-cert; TLS needs both",
        "--jwt-issuer and --jwt-audience; not given: --jwt-keys and --jwt-audience",
        "--max-prompt-characters 20000000 is more than a request",
        "--host 0.0.0.0 is for other machines too, and nothing is encrypted and nobody is asked who calls.",
    ):
        assert part in said
    assert refused.value.error_count() == 9


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("prot = 1", "there is no setting 'prot'"),
        ("max-rows = 16", "there is no setting 'max-rows'; in a file its words have underscores: max_rows"),
        (
            "[server]\nmax_rows = 16",
            "there is no setting 'server'; settings stand at the top of the file, and in no table",
        ),
    ],
)
def test_an_unknown_name_in_the_file_is_told_as_such_and_not_as_a_flag(
    written: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "charloom.toml"
    file.write_text(written)
    monkeypatch.setenv("CHARLOOM_CONFIG", str(file))
    with pytest.raises(ValidationError) as refused:
        read_settings({})
    assert explain(refused.value) == said


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ({"http_port": 50051}, ["--port and --http-port"]),
        ({"http_port": 50051, "http_host": "localhost"}, ["--port and --http-port"]),
        ({"metrics_port": 50051, "metrics_host": "0.0.0.0"}, ["--port and --metrics-port"]),
        ({"host": "::1", "metrics_port": 50051, "metrics_host": "::"}, ["--port and --metrics-port"]),
        (
            {"port": 7, "http_port": 7, "metrics_port": 7},
            ["--port and --http-port", "--port and --metrics-port", "--http-port and --metrics-port"],
        ),
        ({"http_port": 8080, "metrics_port": 8080}, ["--http-port and --metrics-port"]),
        ({"port": 0, "http_port": 0, "metrics_port": 0}, []),
        ({"http_port": 50051, "http_host": "127.0.0.2"}, []),
        ({"http_port": 50051, "http_host": "::1"}, []),
        ({"host": "unix:/tmp/50051", "http_port": 50051}, []),
        ({"host": "one.host", "http_port": 50051}, []),
    ],
)
def test_each_listener_has_a_port_of_its_own(given: dict[str, Any], same: list[str]) -> None:
    found = list(same_ports(ServerSettings.model_construct(**given).model_dump()))
    assert [said.partition(" are both ")[0] for said in found] == same
    if not same:
        ServerSettings(**given, insecure=True)
        return
    with pytest.raises(ValidationError) as refused:
        ServerSettings(**given, insecure=True)
    for said in found:
        assert said in explain(refused.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"store": "memory:"}, "give --store sqlite:PATH, or redis://HOST:PORT/DB"),
        ({"store": "memory:/tmp/kept"}, "--store memory:/tmp/kept is one process's own"),
        ({"host": "unix:/tmp/socket"}, "cannot listen on one Unix socket"),
        ({"device": "cuda"}, "would each take all of --device cuda"),
        ({"workers": "3"}, "is more than --workers 3"),
        ({"max_calls": "3"}, "is more than --max-calls 3"),
        ({"max_waiting": "3"}, "is more than --max-waiting 3"),
        ({"memory_bytes": str(2**30 - 1)}, "raise that to 1073741824"),
        ({"processes": "257"}, "--processes 257"),
    ],
)
def test_what_several_processes_cannot_have_is_refused(given: dict[str, str], said: str) -> None:
    several = {"processes": "4", "store": "sqlite:sessions.db", "host": "127.0.0.1"}
    with pytest.raises(ValidationError) as refused:
        read_settings(several | given)
    assert said in explain(refused.value)
    read_settings(several | {"workers": "4", "max_calls": "4", "max_waiting": "4", "memory_bytes": str(2**30)})


def test_each_process_has_its_part_of_the_limits() -> None:
    settings = ServerSettings(processes=3, store="sqlite:sessions.db", workers=8, max_waiting=10)
    assert (settings.limits().workers, settings.limits().max_waiting) == (2, 4)
    assert settings.limits().max_sessions == ServerSettings().limits().max_sessions  # the store counts them
