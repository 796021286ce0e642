"""Whose call it is.

Knows: the metadata that says so. Does not know: who may say so. Whoever lets calls in from outside has to set it.
"""

from __future__ import annotations

from typing import Any

from charloom.engine.sessions.checks import require_id

TENANT_KEY = "charloom-tenant"


def tenant_of(context: Any) -> str:
    """The tenant of a call; empty for the only one of a server that has no tenants.

    Raises:
        InvalidRequest: the name is malformed.
    """
    for key, value in context.invocation_metadata() or ():
        if key == TENANT_KEY:
            require_id(TENANT_KEY, str(value))
            return str(value)
    return ""
