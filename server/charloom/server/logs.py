"""Log lines on standard error: text for people, JSON for collectors.

A traceback names functions and lines, never the values of variables: those can hold what users wrote.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import time
from datetime import datetime, timezone
from typing import Any, Literal

from charloom.engine.telemetry import running_call

_PLAIN = re.compile(r'[^\s"]*', re.ASCII)


class TextFormatter(logging.Formatter):
    """`TIME [level] message name=value ...`, and the traceback below it; the time in UTC.

    Args:
        process: number of the process among several; None: it is the only one, or the parent
    """

    def __init__(self, process: int | None = None) -> None:
        super().__init__("%(asctime)s [%(levelname)s] %(message)s")
        self._process = process

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={_on_a_line(value)}" for name, value in _fields(record, self._process).items())
        return super().formatMessage(record) + (f" {fields}" if fields else "")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return _time(record)


class JsonFormatter(logging.Formatter):
    """One object a line: `timestamp`, `level`, `event` (the message), its fields, and `exception` (a traceback).

    Args:
        process: as of `TextFormatter`
    """

    def __init__(self, process: int | None = None) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        fields = {"timestamp": _time(record), "level": record.levelname.lower(), "event": record.getMessage()}
        fields |= _fields(record, self._process)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


class TransportFilter(logging.Filter):
    """Keeps what gRPC and uvicorn report short and rare: clients cause it at will, by leaving or by sending nonsense.

    A record of their loggers, or about an exception of gRPC, becomes one line without traceback, at most one per place
    in the code every `SECONDS_BETWEEN`. Errors of our own handlers are logged by the transport, with traceback.
    """

    SECONDS_BETWEEN = 10.0

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.exc_info[0] if record.exc_info else None
        if not record.name.startswith(("grpc", "uvicorn")) and (kind is None or not kind.__module__.startswith("grpc")):
            return True
        place, now = (record.pathname, record.lineno), time.monotonic()
        if now - self._last.get(place, -math.inf) < self.SECONDS_BETWEEN:
            return False
        self._last[place] = now
        first = record.getMessage().partition("\n")[0][:300]
        record.msg, record.args = first if kind is None else f"{first}: {kind.__name__}", ()
        record.exc_info = record.exc_text = None
        return True


def set_up_logs(form: Literal["text", "json"], process: int | None = None) -> None:
    """Send all log records from INFO up to standard error, in one form; `process` as of `TextFormatter`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process) if form == "json" else TextFormatter(process))
    handler.addFilter(TransportFilter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)


def _fields(record: logging.LogRecord, process: int | None) -> dict[str, Any]:
    """Further fields of a line: its process and call, and the record's own `fields`."""
    fields: dict[str, Any] = {} if process is None else {"process": process}
    call = running_call()
    if call is not None:
        fields["request_id"] = call.request_id
    return fields | getattr(record, "fields", {})


def _on_a_line(value: Any) -> Any:
    """Escape a value: text of users could otherwise end the line, or look like other fields."""
    if isinstance(value, list) or (isinstance(value, str) and not (_PLAIN.fullmatch(value) and value.isprintable())):
        return json.dumps(value)
    return value


def _time(record: logging.LogRecord) -> str:
    time = datetime.fromtimestamp(record.created, timezone.utc)
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")
