"""Alerts as JSON to an address, tried a few times."""

from __future__ import annotations

import argparse
import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

TRIES = 4
WAIT, TIMEOUT = 1.0, 5.0
"""Seconds before the second try, twice as long before each further one; and of one try."""
MOST_ALERTS = 100
"""Of one request."""


def address(text: str) -> str:
    """An address that alerts can be posted to, for a flag."""
    parts = urllib.parse.urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address of http or https")
    return text


class Webhook:
    """Posts alerts, `{"alerts": [...]}`. What it cannot deliver it gives up, and says so.

    Args:
        url: where to
        wait: called with seconds between two tries
    """

    def __init__(self, url: str, wait: Callable[[float], None] = time.sleep) -> None:
        self._url = url
        self._wait = wait

    def post(self, alerts: Sequence[dict[str, Any]]) -> str | None:
        """Deliver alerts; returns why some were not."""
        problem = None
        for start in range(0, len(alerts), MOST_ALERTS):
            problem = self._post(alerts[start : start + MOST_ALERTS]) or problem
        return problem

    def _post(self, alerts: Sequence[dict[str, Any]]) -> str | None:
        body = json.dumps({"alerts": alerts}).encode()
        request = urllib.request.Request(self._url, body, {"content-type": "application/json"})
        problem = ""
        for number in range(TRIES):
            if number:
                self._wait(WAIT * 2 ** (number - 1))
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT):
                    return None
            except urllib.error.HTTPError as refusal:
                problem = f"it answers {refusal.code}"
                refusal.close()
                if refusal.code < 500 and refusal.code not in (408, 429):
                    break  # the same request would be refused again
            except (OSError, http.client.HTTPException) as failure:
                problem = str(getattr(failure, "reason", failure))
        return f"{len(alerts)} alerts were not delivered to the webhook: {problem}"
