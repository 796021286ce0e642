"""Which variables of the environment are settings of a server."""

from __future__ import annotations

import re

from pydantic_settings import BaseSettings, EnvSettingsSource

PREFIX = "CHARLOOM_"

_SERVICE_LINK = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://.*")


def is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes has made this variable, of a Service named `charloom`, or `charloom-...`.

    It makes several of each (`enableServiceLinks` of a pod). Names of some are settings too, such as CHARLOOM_PORT;
    their values, such as tcp://10.0.0.1:50051, are of no setting.
    """
    if name.upper().endswith("_PORT") and _SERVICE_URL.fullmatch(value):
        return True
    return _SERVICE_LINK.fullmatch(name.upper()) is not None


class Variables(EnvSettingsSource):
    """The variables that somebody has set, and not Kubernetes."""

    def __init__(self, settings: type[BaseSettings]) -> None:
        super().__init__(settings)
        self.env_vars = {
            name: value for name, value in self.env_vars.items() if value is None or not is_service_link(name, value)
        }
