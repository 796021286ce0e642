"""POST /v1/watch: what is unlike the lines before it, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest

from charloom.client import Client
from charloom.engine.limits import LONGEST_LINE, MOST_LINES
from charloom.server.app import Server
from tests.integration.http_client import JSON, client, refused

USUAL = [{"source": "a", "text": "the class is here"}, {"source": "b", "text": "the function is not"}]
QUICK = {"rate": 0.2, "warm_up": 5}


@pytest.fixture(scope="module")
def plain(http_server: Server) -> Iterator[httpx.Client]:
    with client(http_server) as plain:
        yield plain


def watched(plain: httpx.Client, name: str, lines: list[dict[str, str]], **options: Any) -> list[dict[str, Any]]:
    answer = plain.post("/v1/watch", json={"name": name, "lines": lines, **options})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    assert told["usage"]["total_tokens"] == sum(one["tokens"] for one in told["data"])
    found: list[dict[str, Any]] = told["data"]
    return found


def test_calls_go_on_with_what_is_known_and_judge_as_grpc_does(http_server: Server, plain: httpx.Client) -> None:
    strange = {"source": "a", "text": "€€€€€€"}
    found = [verdict for _ in range(6) for verdict in watched(plain, "http", USUAL, characters=True, **QUICK)]
    found += watched(plain, "http", [strange], characters=True, **QUICK)
    with Client(http_server.address) as sdk, sdk.watch("grpc", characters=True, **QUICK) as watch:
        same = [verdict for _ in range(6) for verdict in watch.read([(one["source"], one["text"]) for one in USUAL])]
        same += watch.read([(strange["source"], strange["text"])])
    fields = ("source", "surprise", "threshold", "alert", "own_threshold", "drifting", "cut", "nats", "tokens", "lines")
    assert [[one[name] for name in fields] for one in found] == [
        [getattr(one, name) for name in fields] for one in same
    ]
    assert found[-1]["alert"]
    assert [one["characters"] for one in found] == [pytest.approx(one.characters) for one in same]
    with Client(http_server.address) as sdk, sdk.watch("http", **QUICK) as watch:
        assert watch.read([("a", "the class is here")])[0].lines == 8


def test_no_line_is_refused(plain: httpx.Client) -> None:
    texts = ["x" * 5000, "", "\x00\x1b[2J binary \ufffd", "caf\u00e9 \u20ac \U0001f600", "two\nlines"]
    found = watched(plain, "odd", [{"source": "any name, € too", "text": text} for text in texts], characters=True)
    assert [one["cut"] for one in found] == [True, *[False] * 4]
    assert [len(one["characters"]) for one in found] == [LONGEST_LINE, *map(len, texts[1:])]
    assert [one["index"] for one in found] == list(range(5))
    assert "characters" not in watched(plain, "odd", [{"text": "nobody says who"}])[0]
    assert watched(plain, "odd", []) == []


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"name": "a/b"}, "name", "32 letters"),
        ({"name": None}, "name", "required"),
        ({"rate": 0.9}, "rate", "0.0001 to 0.5"),
        ({"warm_up": 0}, "warm_up", "1 to 1000000"),
        ({"warm_up": 2.5}, "warm_up", "integer"),
        ({"mask": "words"}, "mask", "'numbers'"),
        ({"time_to_live": -1}, "time_to_live", ""),
        ({"time_to_live": 1e300}, "time_to_live", ""),
        ({"model": "nowhere"}, None, "nowhere"),
        ({"lines": "text"}, "lines", "list"),
        ({"lines": ["text"]}, "lines[0]", "it is no object; give {...}"),
        ({"lines": [{"text": "one"}, {"source": "a"}]}, "lines[1].text", "required"),
        ({"lines": [{"text": "x"}] * (MOST_LINES + 1)}, "lines", str(MOST_LINES)),
        ({"lines": [{"text": "x" * LONGEST_LINE}] * 17}, "lines", "give fewer"),
    ],
)
def test_what_cannot_be_watched_is_refused(
    plain: httpx.Client, changes: dict[str, Any], field: str | None, said: str
) -> None:
    answer = plain.post("/v1/watch", json={"name": "refused", "lines": USUAL, **changes})
    status, code, param, message = refused(answer)
    assert (status, code) == ((404, "model_not_found") if field is None else (400, "invalid_request"))
    assert param == field
    assert said in message


def test_bodies_that_are_no_text_or_too_large_are_refused(plain: httpx.Client) -> None:
    def problem(content: bytes) -> tuple[int, str]:
        return refused(plain.post("/v1/watch", content=content, headers=JSON))[:2]

    assert problem(b'{"name": "odd", "lines": [{"text": "\xff\xfe"}]}') == (400, "not_json")
    assert problem(b'{"name": "odd", "lines": [{"text": "half \\ud83d"}]}') == (400, "not_json")
    assert problem(b'{"name": "odd", "lines": [{"text": "' + b"x" * 10_000_000 + b'"}]}') == (413, "body_too_large")


def test_one_call_watches_under_a_name(http_server: Server, plain: httpx.Client) -> None:
    with Client(http_server.address) as sdk, sdk.watch("taken") as watch:
        watch.read([("a", "one")])
        answer = plain.post("/v1/watch", json={"name": "taken", "lines": USUAL})
        assert refused(answer)[:2] == (409, "session_busy")
    assert watched(plain, "taken", USUAL)[0]["lines"] == 2
