"""A line of the log for each call that has ended: its sizes, its times and how it ended.

Texts of users and answers are in it only if the record has them.
"""

from __future__ import annotations

import logging
from typing import Any

from charloom.engine.telemetry import CallRecord

log = logging.getLogger(__name__)


def log_call(call: CallRecord) -> None:
    """Log a call; its fields are those of the record that have a meaning for it."""
    if log.isEnabledFor(logging.INFO):
        log.info("call", extra={"fields": call_fields(call)})


def call_fields(call: CallRecord) -> dict[str, Any]:
    """The log fields of a call by name; times in seconds."""
    fields: dict[str, Any] = {
        "request_id": call.request_id,
        "method": call.method,
        "code": call.code,
        "reason": call.reason,
        "finish": call.finish,
        "tenant": call.tenant,
        "model": call.model,
        "prompt_tokens": call.prompt_tokens,
        "generation_tokens": call.generation_tokens,
        "queued": call.queued,
        "first_token": call.first_token,
        "store": call.store_seconds or None,
        "resumed": call.resumed or None,
        "total": call.seconds,
    }
    if call.texts is not None:
        fields["prompt"] = str(call.texts.read)
        generated = [str(text) for text in call.texts.generated]
        fields["text"] = generated[0] if len(generated) == 1 else generated or None
    present = {name: value for name, value in fields.items() if value not in ("", None)}
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in present.items()}
