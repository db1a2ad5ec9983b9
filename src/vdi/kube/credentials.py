"""The bearer token, kept fresh: service account tokens are replaced on disk, plugins' tokens expire."""

import asyncio

from vdi.kube.clock import Clock
from vdi.kube.config import ClusterConfig
from vdi.kube.errors import ConfigError

REREAD_AFTER = 60.0
"""Seconds; the kubelet replaces a token when 80 % of its life is over, so the old one is good for minutes more."""


class Credentials:
    """The Authorization header of a Client."""

    def __init__(self, config: ClusterConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._token = config.token
        self._read_at = float("-inf")

    def headers(self) -> dict[str, str]:
        """The header, in a new dict; empty where a certificate is used. Raises ConfigError when the file is gone."""
        if self._config.token_file is not None and self._clock.monotonic() - self._read_at >= REREAD_AFTER:
            self._read()
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    async def renew(self) -> bool:
        """Look for a new token after a 401; False without one: trying again would be in vain."""
        before = self._token
        if self._config.token_file is not None:
            self._read()
        elif self._config.token_plugin is not None:
            self._token = await asyncio.to_thread(self._config.token_plugin)
        return self._token != before

    def _read(self) -> None:
        file = self._config.token_file
        assert file is not None  # noqa: S101 - both callers have looked
        try:
            self._token = file.read_text().strip()
        except OSError as error:
            raise ConfigError(f"token file {file}: {error.strerror or error}") from error
        self._read_at = self._clock.monotonic()
