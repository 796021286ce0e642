"""Settings of a server inside this process."""

from __future__ import annotations

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from charloom.server.settings import ServerSettings


class LocalSettings(ServerSettings):
    """What the program says and nothing else: the environment may speak of a server that others use."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The arguments alone."""
        return (init_settings,)
