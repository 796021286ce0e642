"""Why a call is not let in. No message reveals whether something of another caller exists."""

from __future__ import annotations

from charloom.engine.errors import EngineError, ErrorKind


class CredentialsMissing(EngineError):
    """The call has no credentials."""

    kind = ErrorKind.UNAUTHENTICATED
    reason = "CREDENTIALS_MISSING"

    def __init__(self) -> None:
        super().__init__("this server wants to know who calls; give the key that its operator made for you, as a token")


class CredentialsInvalid(EngineError):
    """The call's credentials are not valid here."""

    kind = ErrorKind.UNAUTHENTICATED
    reason = "CREDENTIALS_INVALID"

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}; ask the server's operator for a key")


class ScopeMissing(EngineError):
    """The caller may not do this.

    Args:
        scope: that the call needs
        known: whether the caller has shown credentials; those who show none lack only `admin`
    """

    kind = ErrorKind.FORBIDDEN
    reason = "SCOPE_MISSING"

    def __init__(self, scope: str, *, known: bool = True) -> None:
        self._scope = scope
        super().__init__(
            f"your credentials do not have the scope {scope}, which this call needs"
            if known
            else f"this call needs the scope {scope}, which a server that other machines or a proxy reach gives only "
            "to a key; start it with --keys FILE and show a key made by charloom keys create --tenant NAME --scopes "
            f"{scope}"
        )

    @property
    def facts(self) -> dict[str, str]:
        return {"scope": self._scope}


class TenantNotAllowed(EngineError):
    """The call names a tenant without a credential for it."""

    kind = ErrorKind.FORBIDDEN
    reason = "TENANT_NOT_ALLOWED"

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
