"""What a server did between two of its statuses."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from charloom.cli.serving import top
from charloom.cli.serving.activity import MOST_TENANTS, Latency, activity, lines
from charloom.client import (
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    Histogram,
    MethodStatus,
    ModelStatus,
    ServerStatus,
    TenantStatus,
    Unavailable,
)

BOUNDS = (0.001, 0.01, 0.1)


def histogram(*counts: int, total: float = 0.0) -> Histogram:
    return Histogram(bounds=BOUNDS, counts=counts, sum=total)


def status(seconds: float, times: int, tenants: tuple[TenantStatus, ...] = ()) -> ServerStatus:
    """A status in which everything was counted so many times."""
    same = histogram(0, times, 0, 0, total=0.005 * times)
    return ServerStatus(
        seconds=seconds,
        usage=0.25,
        models=(
            ModelStatus(
                name="small",
                decoder="onnx-int8",
                device="cpu",
                running=3,
                waiting=1,
                places=512,
                generation_tokens=1000 * times,
                prompt_tokens=100 * times,
                tick_rows=Histogram(bounds=(1, 2), counts=(0, times, 0), sum=2.0 * times),
                tick_seconds=same,
                queue_seconds=same,
                first_token_seconds=same,
                inter_token_seconds=same,
            ),
        ),
        methods=(
            MethodStatus(
                name="charloom.v1.GenerationService/Generate", running=3, ended=4 * times, failed=times, seconds=same
            ),
        ),
        tenants=tenants,
        refusals={"OVERLOADED": times},
        sessions=1234,
        sessions_in_use=2,
        session_bytes=2**20,
        call_bytes=2**21,
        most_bytes=2**30,
    )


def test_rates_and_latencies_are_those_of_the_time_in_between() -> None:
    found = activity(status(10.0, 100), status(12.0, 110))
    [model], [method] = found.models, found.methods
    assert (found.over_seconds, model.tokens_per_second, model.prompt_tokens_per_second) == (2.0, 5000.0, 500.0)
    assert model.rows_per_tick == 2.0
    assert (method.calls_per_second, method.errors_per_second) == (20.0, 5.0)
    assert found.refusals_per_second == {"OVERLOADED": 5.0}
    assert model.first_token == method.latency
    assert (method.latency.p50, method.latency.p99) == pytest.approx((0.0055, 0.00991))


def test_where_nothing_ended_there_are_no_latencies() -> None:
    [model] = activity(status(10.0, 100), status(12.0, 100)).models
    assert (model.tokens_per_second, model.queue, model.rows_per_tick) == (0.0, Latency(None, None), None)


def test_of_a_server_that_started_again_all_is_counted() -> None:
    found = activity(status(100.0, 1000), status(4.0, 8))
    assert (found.over_seconds, found.models[0].tokens_per_second) == (4.0, 2000.0)


def test_a_model_and_a_tenant_that_are_new_are_counted_from_nothing() -> None:
    before = replace(status(10.0, 5), models=())
    tenant = TenantStatus(name="shop", running=1, ended=2, failed=0, prompt_tokens=0, generation_tokens=40)
    found = activity(before, status(12.0, 5, (tenant,)))
    assert found.models[0].tokens_per_second == 2500.0
    assert found.tenants[0].tokens_per_second == 20.0


def test_tenants_are_shown_by_how_much_they_are_given_and_only_so_many() -> None:
    tenants = tuple(
        TenantStatus(name=f"t{number}", running=0, ended=0, failed=0, prompt_tokens=0, generation_tokens=number)
        for number in range(MOST_TENANTS + 5)
    )
    shown = lines(activity(status(10.0, 1), status(11.0, 1, tenants)), "here:50051")
    assert [line.split()[0] for line in shown[-MOST_TENANTS - 1 :]] == [
        *(f"t{number}" for number in range(MOST_TENANTS + 4, 4, -1)),
        "and",
    ]


def test_callers_who_have_no_tenant_need_no_table_of_tenants() -> None:
    nobody = TenantStatus(name="", running=1, ended=2, failed=0, prompt_tokens=0, generation_tokens=40)
    shown = "\n".join(lines(activity(status(10.0, 1), status(11.0, 2, (nobody,))), "here:50051"))
    assert "TENANT" not in shown
    assert "GenerationService/Generate" in shown
    assert "refused 1.0/s (OVERLOADED 1.0)" in shown
    assert "5.5 ms" in shown
    assert "sessions 1,234, 2 in use" in shown
    assert "WAITING  ROWS  CHARS/S" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_method_that_does_nothing_is_no_line_and_stays_in_the_json() -> None:
    running, idle = status(11.0, 2), MethodStatus(name="a.Rare/Call", running=0, ended=7, failed=0, seconds=Histogram())
    found = activity(replace(status(10.0, 1), methods=(idle,)), replace(running, methods=(*running.methods, idle)))
    assert "Rare/Call" not in "\n".join(lines(found, "here:50051"))
    assert [one.name for one in found.methods][-1] == "a.Rare/Call"


def test_a_store_that_does_not_answer_is_told() -> None:
    now = replace(status(11.0, 2), sessions=None)
    assert any("sessions unknown, 2 in use" in line for line in lines(activity(status(10.0, 1), now), "here"))


def test_no_name_can_steer_the_terminal() -> None:
    evil = status(11.0, 2)
    evil = replace(evil, models=(replace(evil.models[0], name="\x1b[2J\nsmall"),))
    assert all(line.isprintable() for line in lines(activity(status(10.0, 1), evil), "here:50051"))


def test_a_screen_goes_on_where_the_server_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = [
        DeadlineExceeded("it took too long"),
        Unavailable("it stops"),
        ConnectionFailed("nobody"),
        KeyboardInterrupt(),
    ]
    answers = iter([status(1.0, 1), status(2.0, 2), *gone])
    shown = list[list[str]]()

    class Server:
        def status(self) -> ServerStatus:
            answer = next(answers)
            if isinstance(answer, BaseException):
                raise answer
            return answer

    monkeypatch.setattr(top, "_draw", shown.append)
    with pytest.raises(KeyboardInterrupt):
        top._show(cast("Client", Server()), 0.0, "here")
    assert [one[0] for one in shown[1:]] == ["here: it took too long", "here: it stops", "here: nobody"]
