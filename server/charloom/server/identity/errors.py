"""Why a call is not let in. What is said tells nobody whether something exists that is not theirs."""

from __future__ import annotations

from charloom.engine.errors import EngineError, ErrorKind


class CredentialsMissing(EngineError):
    """The call shows nothing that says who makes it."""

    kind = ErrorKind.UNAUTHENTICATED
    reason = "CREDENTIALS_MISSING"

    def __init__(self) -> None:
        super().__init__("this server wants to know who calls; give the key that its operator made for you, as a token")


class CredentialsInvalid(EngineError):
    """What the call shows is not known here."""

    kind = ErrorKind.UNAUTHENTICATED
    reason = "CREDENTIALS_INVALID"

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}; ask the server's operator for a key")


class ScopeMissing(EngineError):
    """The caller is known, and may not do this."""

    kind = ErrorKind.FORBIDDEN
    reason = "SCOPE_MISSING"

    def __init__(self, scope: str) -> None:
        self._scope = scope
        super().__init__(f"your credentials do not have the scope {scope}, which this call needs")

    @property
    def facts(self) -> dict[str, str]:
        return {"scope": self._scope}


class TenantNotAllowed(EngineError):
    """The call names a tenant that its caller cannot show to be."""

    kind = ErrorKind.FORBIDDEN
    reason = "TENANT_NOT_ALLOWED"

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
