"""What users write and are told is in the log where it is asked for, and nowhere else."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from charloom.bundle import Bundle
from charloom.client import Client, InvalidArgument, request_id
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.telemetry import MOST_LOGGED
from charloom.server.app import Server
from charloom.server.logs import JsonFormatter, TextFormatter
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from tests.integration import http_client
from tests.waiting import eventually

SECRET = "to be or not"


@pytest.fixture(scope="module", params=[False, True], ids=["without", "with"])
def log_text(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def server(bundle: Bundle, decoder: Decoder, log_text: bool) -> Iterator[Server]:
    settings = ServerSettings(grace_seconds=0, log_calls=True, log_text=log_text, http_port=0)
    with running_server([(bundle, decoder)], settings) as server:
        yield server


def line_of(caplog: pytest.LogCaptureFixture, id: str) -> dict[str, object]:
    """The line of a call, as JSON."""

    def lines() -> list[logging.LogRecord]:
        return [record for record in caplog.records if getattr(record, "fields", {}).get("request_id") == id]

    eventually(lambda: len(lines()) == 1)
    found: dict[str, object] = json.loads(JsonFormatter().format(lines()[0]))
    return found


def test_texts_of_all_kinds_of_calls(
    server: Server, bundle: Bundle, caplog: pytest.LogCaptureFixture, log_text: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    told: dict[str, object] = {}
    with Client(server.address) as client, client.session() as session:
        with request_id("complete"):
            told["complete"] = client.complete(SECRET, max_tokens=40).text
        with request_id("several"):
            told["several"] = [one.text for one in client.continuations(SECRET, n=3, max_tokens=40).completions()]
        with request_id("feed"):
            session.feed(SECRET)
        with request_id("score"):
            client.score(SECRET)
        with request_id("observe"), client.observe() as observer:
            observer.read(SECRET[:5])
            observer.read(SECRET[5:])
        with request_id("converse"), session.converse(SECRET) as talk:
            talk.generate(max_tokens=40)
            talk.close()
            told["converse"] = "".join(getattr(event, "text", "") for event in talk)
        with request_id("watch"), client.watch("logs") as watch:
            watch.read([("a", SECRET), ("b", "here")])
        with request_id("refused"), pytest.raises(InvalidArgument):
            client.complete(SECRET + "\N{SNOWMAN}")
    with http_client.client(server) as web:
        body = {"model": bundle.manifest.name, "prompt": SECRET, "max_tokens": 40}
        answer = web.post("/v1/completions", json=body, headers={"x-request-id": "http"})
        told["http"] = answer.json()["choices"][0]["text"]
    watched = line_of(caplog, "watch").get("prompt")
    assert watched == (f"{SECRET}\nhere\n" if log_text else None)
    ids = ("complete", "several", "feed", "score", "observe", "converse", "refused", "http")
    lines = {id: line_of(caplog, id) for id in ids}
    if log_text:
        assert {id: str(line["prompt"]).rstrip("\N{SNOWMAN}") for id, line in lines.items()} == dict.fromkeys(
            ids, SECRET
        )
        assert {id: line["text"] for id, line in lines.items() if "text" in line} == told
    else:
        generated = [text for one in told.values() for text in (one if isinstance(one, list) else [one])]
        assert all(len(str(text)) >= 20 for text in generated)
        for record in caplog.records:
            for form in (JsonFormatter(), TextFormatter()):
                shown = form.format(record)
                assert [text for text in (SECRET, *generated) if json.dumps(text)[1:-1] in shown] == []
                assert [text for text in (SECRET, *generated) if str(text) in shown] == []


def test_a_long_text_is_cut_and_no_text_ends_its_line(
    server: Server, caplog: pytest.LogCaptureFixture, log_text: bool
) -> None:
    caplog.set_level(logging.INFO)
    text = "a\nb " * (MOST_LOGGED // 4 + 1)
    with Client(server.address) as client, request_id("long"):
        client.complete(text, max_tokens=1)
    line = line_of(caplog, "long")
    assert line.get("prompt") == (text[:MOST_LOGGED] + "\N{HORIZONTAL ELLIPSIS}" if log_text else None)
    (record,) = (one for one in caplog.records if getattr(one, "fields", {}).get("request_id") == "long")
    assert len(TextFormatter().format(record).splitlines()) == 1
