"""The server's settings: from flags, environment (`CHARLOOM_...`) and a TOML file, in this order of precedence."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from charloom.bundle import DecoderKind
from charloom.engine.limits import Limits
from charloom.engine.quotas import HIGHEST_RATE, LOWEST_RATE, Quota
from charloom.server.mistakes import NamesItsMistakes
from charloom.server.model_weights import weights_of
from charloom.server.origins import Origins, is_local
from charloom.server.process_cores import default_workers
from charloom.server.process_parts import LEAST_MEMORY, MOST_PROCESSES, hindrances, part_of
from charloom.server.same_ports import same_ports
from charloom.server.variables import PREFIX, Variables

CONFIG_VARIABLE = "CHARLOOM_CONFIG"

LONGEST_TIMER = 604_800
"""Of a connection or a call that waits, in seconds: a week. gRPC counts milliseconds in 32 bits."""


class ServerSettings(NamesItsMistakes):
    """Everything that can be set about a server, besides the bundles."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    host: str = Field(
        "127.0.0.1",
        description="address to listen on; 0.0.0.0 for all interfaces, unix:PATH for a Unix socket, which has no port",
    )
    port: int = Field(50051, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    tls_cert: Path | None = Field(
        None,
        description="PEM file of the server's certificate and what leads to its authority: connections are encrypted; "
        "a file that changes is read again",
    )
    tls_key: Path | None = Field(None, description="PEM file of the certificate's private key")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of the authorities of clients' certificates; every client then needs one"
    )
    keys: Path | None = Field(
        None,
        description="file of who may call, which charloom keys makes; read again when it changes "
        "(default: nobody is asked)",
    )
    jwt_keys: str | None = Field(
        None, description="JWKS file or https URL with the keys of JSON Web Tokens, which are then credentials too"
    )
    jwt_issuer: str | None = Field(None, description="who issues these tokens (their claim iss)")
    jwt_audience: str | None = Field(None, description="for whom they have to be (their claim aud)")
    insecure: bool = Field(
        False,
        description="listen for other machines although nothing is encrypted, or nobody is asked who calls",
    )
    reflection: bool = Field(True, description="tell clients which services there are")
    trusted_keys: Path | None = Field(
        None,
        description="PEM file of public keys: only bundles that one of them has signed, with charloom sign, are served",
    )
    model_folder: Path | None = Field(
        None,
        description="folder of models, NAME/VERSION/ with a bundle each; the newest complete version of each serves, "
        "also one that appears later",
    )
    model_grace_seconds: float = Field(
        600.0,
        ge=0,
        le=LONGEST_TIMER,
        description="how long sessions go on with a model that was replaced or unloaded",
    )
    model_weights: str = Field(
        "",
        description="parts of the cores that models get while several have work, as NAME=WEIGHT,NAME=WEIGHT; "
        "from 0.1 to 10, and 1 for those that are not named",
    )
    audit_log: Path | None = Field(
        None,
        description="file to which lines are added for each act of an administrator, before it begins and when it has "
        "ended; where that fails, the act is refused (default: they go to the log)",
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="where decoders run")
    decoder: DecoderKind | None = Field(
        None, description="onnx-int8, onnx-fp32 or torchscript (default: the fastest that the bundle has)"
    )
    max_tokens: int = Field(Limits.max_tokens, ge=1, description="most tokens that one call may generate")
    max_prompt_characters: int = Field(Limits.max_prompt_characters, ge=1, description="longest prompt, in characters")
    max_message_bytes: int = Field(
        64 * 2**20,
        ge=16 * 2**20,
        le=2**31 - 1,
        description="largest request and answer, in bytes; clients have a limit of their own, 4 MiB unless they set it",
    )
    max_sessions: int = Field(Limits.max_sessions, ge=1, description="most sessions that are kept")
    store: str = Field(
        "memory:",
        description="where sessions are: memory:, memory:PATH (a file keeps them between servers), sqlite:PATH (they "
        "outlive the server), or redis://HOST:PORT/DB (servers share them)",
    )
    sealing_keys: Path | None = Field(
        None,
        description="file with the keys of exported states, and of sessions in a store, one of 32 bytes in base64 a "
        "line, the newest first; read again when it changes (default: a key that ends with the server, for states)",
    )
    encrypt_records: bool = Field(
        True,
        description="encrypt sessions in SQLite and Redis where there are sealing keys; off only as long as servers of "
        "version 0.1 share the store",
    )
    rewind_tokens: int = Field(
        Limits.rewind_tokens, ge=0, description="how many positions a session can at least be put back by"
    )
    session_seconds: float = Field(
        Limits.default_time_to_live // timedelta(seconds=1),
        gt=0,
        le=Limits.max_time_to_live.total_seconds(),
        description="how long a session is kept without use, unless it asks for more",
    )
    processes: int = Field(
        1,
        ge=1,
        le=MOST_PROCESSES,
        description="processes that take calls, each with its part of cores, memory and limits",
    )
    workers: int | None = Field(
        None,
        ge=1,
        description="decoder calls at a time, per model (default: one per whole core that the control group allows; "
        "two on cuda, to overlap copies)",
    )
    max_rows: int = Field(Limits.max_rows, ge=1, description="most streams in one decoder call; more wait")
    max_waiting: int = Field(
        Limits.max_waiting,
        ge=1,
        description="most calls that wait, per model, more are refused; and most that nobody reads",
    )
    max_calls: int = Field(
        4096,
        ge=1,
        description="most calls at a time, of all clients together; more are refused, and told when to come back",
    )
    max_streams: int = Field(
        1000,
        ge=1,
        le=2**31 - 1,
        description="most calls at a time of one connection, and of one stream of calls; further ones wait",
    )
    tenant_sessions: int | None = Field(
        None, ge=1, description="most sessions of a tenant, or of a caller without one (default: only --max-sessions)"
    )
    tenant_session_bytes: int | None = Field(
        None, ge=1, description="most bytes of a tenant's sessions when it makes another one (default: any number)"
    )
    tenant_calls: int | None = Field(
        None, ge=1, description="most calls of a tenant at a time, on each server (default: only --max-calls)"
    )
    tenant_tokens_per_second: float | None = Field(
        None,
        ge=LOWEST_RATE,
        le=HIGHEST_RATE,
        description="tokens that a tenant may have read and generated a second, on average; servers that share a "
        "store count them together (default: any number)",
    )
    tenant_prompt_characters: int | None = Field(
        None, ge=1, description="longest prompt of a tenant (default: only --max-prompt-characters)"
    )
    memory_bytes: int | None = Field(
        None,
        ge=LEAST_MEMORY,
        description="memory that the server may use, in bytes; calls that may need more than is left are refused "
        "(default: what its control group allows, or what the machine has)",
    )
    trust_proxy: str = Field(
        "",
        description="proxies whose x-forwarded-for says who calls: addresses and networks, with commas; unix for "
        "whoever comes through the Unix socket (default: none; callers are told apart by their own address)",
    )
    tick_milliseconds: float = Field(
        Limits.tick_seconds * 1000,
        gt=0,
        le=1000,
        description="target duration of a decoder call of one stream; those of more are longer",
    )
    keepalive_seconds: float = Field(
        30.0,
        gt=0,
        le=LONGEST_TIMER,
        description="how often the server asks a client for a sign of life, to notice one that has vanished",
    )
    keepalive_timeout_seconds: float = Field(
        20.0, gt=0, le=LONGEST_TIMER, description="how long it waits for that sign before it ends the connection"
    )
    client_ping_seconds: float = Field(
        4.0,
        gt=0,
        le=LONGEST_TIMER,
        description="how often a client may ping while nothing is sent; one that pings more often loses its connection",
    )
    connection_idle_seconds: float | None = Field(
        None, gt=0, le=LONGEST_TIMER, description="how long a connection without calls is kept (default: for ever)"
    )
    connection_age_seconds: float | None = Field(
        None,
        gt=0,
        le=LONGEST_TIMER,
        description="how long a connection takes new calls; its client then opens another, and running calls go on "
        "(default: for ever)",
    )
    idle_seconds: float = Field(
        1800.0,
        gt=0,
        le=LONGEST_TIMER,
        description="how long a call whose client sends as it goes on, such as a conversation, a watch or ScoreMany, "
        "waits for the next message until it ends",
    )
    grace_seconds: float = Field(
        5.0, ge=0, le=86_400, description="after SIGTERM, how long running calls may go on before they are ended"
    )
    log_format: Literal["text", "json"] = Field("text", description="form of the log lines on standard error")
    log_calls: bool = Field(
        False, description="log a line for each call: sizes, times and how it ended, never what users wrote"
    )
    http_port: int | None = Field(
        None, ge=0, le=65535, description="port for OpenAI-style HTTP; 0 takes a free one (default: there is none)"
    )
    http_host: str = Field("127.0.0.1", description="address for HTTP; 0.0.0.0 for all interfaces")
    http_hosts: str = Field(
        "", description="names under which clients may call over HTTP, besides addresses and localhost, with commas"
    )
    http_origins: str = Field(
        "", description="sites whose pages may call over HTTP, such as https://example.org, with commas; * for any"
    )
    playground: bool = Field(
        True, description="answer / of the HTTP port with a page that shows models at work; what it calls needs a key"
    )
    log_text: bool = Field(
        False, description="tell in these lines what users wrote and were told too, up to 10,000 characters of each"
    )
    traces: bool = Field(
        False,
        description="send traces of calls over OTLP to where OTEL_EXPORTER_OTLP_ENDPOINT says, or as the other "
        "variables OTEL_... want it",
    )
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="port for metrics of Prometheus; 0 takes a free one (default: there are none)"
    )
    metrics_host: str = Field("127.0.0.1", description="address for metrics, which anybody there may read")
    metrics_per_tenant: bool = Field(False, description="tell metrics of each tenant too, with its name")

    @field_validator("trust_proxy")
    @classmethod
    def _proxies_are_addresses(cls, value: str) -> str:
        Origins(value)
        return value

    @field_validator("model_weights")
    @classmethod
    def _weights_are_numbers(cls, value: str) -> str:
        weights_of(value)
        return value

    def _contradictions(self) -> list[str]:
        """What does not go together, a sentence each that says what to do."""
        values = self.model_dump()
        found = [*hindrances(self.processes, values), *same_ports(values)]
        most = (self.max_message_bytes - 2**20) // 4  # up to 4 bytes a character in UTF-8, and the other options
        if self.max_prompt_characters > most:
            found.append(
                f"--max-prompt-characters {self.max_prompt_characters} is more than a request of "
                f"--max-message-bytes {self.max_message_bytes} can carry; lower it to {most}, or raise that"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            missing, given = ("key", "cert") if self.tls_key is None else ("cert", "key")
            found.append(f"--tls-{given} is given without --tls-{missing}; TLS needs both")
        elif self.tls_client_ca is not None and self.tls_cert is None:
            found.append("--tls-client-ca is given without --tls-cert and --tls-key, which TLS needs")
        tokens = ("jwt_keys", "jwt_issuer", "jwt_audience")
        missing_ones = [name for name in tokens if getattr(self, name) is None]
        if 0 < len(missing_ones) < len(tokens):
            flags = " and ".join("--" + name.replace("_", "-") for name in missing_ones)
            found.append(f"JSON Web Tokens need --jwt-keys, --jwt-issuer and --jwt-audience; not given: {flags}")
        if self.log_text and not self.log_calls:
            found.append("--log-text is given without --log-calls, whose lines it is about; add that")
        lacking, reachable = self.open_doors(), self.open_host()
        if reachable is not None and lacking and not self.insecure:
            flag, host = reachable
            found.append(
                f"{flag} {host} is for other machines too, and {' and '.join(lacking)}. One of these will do:\n"
                f"  charloom serve {flag} {host} --tls-cert FILE --tls-key FILE --keys FILE"
                "   (charloom keys create makes the last one)\n"
                f"  charloom serve {flag} {host} --insecure"
                "   (where nobody else can reach it, or a proxy in front does both)"
            )
        return found

    def open_host(self) -> tuple[str, str] | None:
        """A flag and its address that other machines can reach; None if there is none."""
        hosts = [("--host", self.host)] + ([] if self.http_port is None else [("--http-host", self.http_host)])
        return next(((flag, host) for flag, host in hosts if not is_local(host)), None)

    def open_doors(self) -> list[str]:
        """What strangers on other machines would find, a sentence each; empty where they find a closed door."""
        if self.open_host() is None:
            return []
        lacking = [] if self.tls_cert is not None else ["nothing is encrypted"]
        known = any(found is not None for found in (self.keys, self.jwt_keys, self.tls_client_ca))
        return lacking if known else [*lacking, "nobody is asked who calls"]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then the file that `CHARLOOM_CONFIG` names."""
        file = os.environ.get(CONFIG_VARIABLE)
        sources = (init_settings, Variables(settings_cls))
        return (*sources, TomlConfigSettingsSource(settings_cls, Path(file))) if file else sources

    def origins(self) -> Origins:
        """Who calls from where."""
        return Origins(self.trust_proxy)

    def quota(self) -> Quota:
        """What a caller may have that has no limits of its own."""
        return Quota(
            sessions=self.tenant_sessions,
            session_bytes=self.tenant_session_bytes,
            calls=self.tenant_calls,
            tokens_per_second=self.tenant_tokens_per_second,
            prompt_characters=self.tenant_prompt_characters,
        )

    def limits(self) -> Limits:
        """What the engine of each process is to accept."""
        workers = self.workers or (2 if self.device == "cuda" else default_workers())
        return Limits(
            max_tokens=self.max_tokens,
            max_prompt_characters=self.max_prompt_characters,
            default_time_to_live=timedelta(seconds=self.session_seconds),
            max_sessions=self.max_sessions,
            workers=max(1, workers // self.processes),
            max_rows=self.max_rows,
            max_waiting=part_of(self.max_waiting, self.processes),
            tick_seconds=self.tick_milliseconds / 1000,
            rewind_tokens=self.rewind_tokens,
            model_weights=weights_of(self.model_weights),
        )


def read_settings(given: dict[str, Any]) -> ServerSettings:
    """Settings from `given` (the flags), the environment and the file.

    Raises:
        pydantic.ValidationError: values are not allowed, or contradict each other, or the file has an unknown name;
            it has all of them.
        OSError, ValueError: the file cannot be read, or is not TOML.
    """
    file = os.environ.get(CONFIG_VARIABLE)
    if file:
        Path(file).open("rb").close()  # pydantic passes over a file that is missing, and over a directory
    try:
        return ServerSettings(**given)
    except ValidationError:
        raise
    except ValueError as problem:  # of the file's syntax
        raise ValueError(f"{file} is not TOML: {problem}") from problem
