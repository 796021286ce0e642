from __future__ import annotations

from contextvars import Context

import pytest

from charloom.server.caller import Caller, current_caller, set_caller


def test_nobody_is_the_caller_where_no_transport_has_said_so() -> None:
    with pytest.raises(LookupError):
        Context().run(current_caller)


def test_the_caller_is_the_one_that_was_set_in_this_context() -> None:
    one, other = Context(), Context()
    one.run(set_caller, Caller("a"))
    other.run(set_caller, Caller("b"))
    assert (one.run(current_caller), other.run(current_caller)) == (Caller("a"), Caller("b"))
