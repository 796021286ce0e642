"""Log lines on standard error: text for people, JSON for collectors.

A traceback names functions and lines, never the values of variables: those can hold what users wrote.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Literal


class TextFormatter(logging.Formatter):
    """`TIME [level] message`, and the traceback below it; the time in UTC."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s [%(levelname)s] %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return _time(record)


class JsonFormatter(logging.Formatter):
    """One object a line: `timestamp`, `level`, `event` (the message), and `exception` (a traceback) if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"timestamp": _time(record), "level": record.levelname.lower(), "event": record.getMessage()}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def set_up_logs(form: Literal["text", "json"]) -> None:
    """Send all log records from INFO up to standard error, in one form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)


def _time(record: logging.LogRecord) -> str:
    time = datetime.fromtimestamp(record.created, timezone.utc)
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")
