"""The banner: one text that administrators show on all pages of the portal."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated

import msgspec
from sqlalchemy import String, delete, select

from vdi.gateway.store.database import Database, DatabaseUnavailableError, table_of

MAX_CHARACTERS = 200
# Another replica shows a new banner after so many seconds.
_KEPT_SECONDS = 5.0


class BannerRow(msgspec.Struct, frozen=True):
    """The only row; none: there is no banner."""

    text: Annotated[str, String(MAX_CHARACTERS)]


banner = table_of("banner", BannerRow, key=("text",))


class Banner:
    """Reads and sets the text."""

    def __init__(self, database: Database, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._monotonic = monotonic
        self._text = ""
        self._due = 0.0

    async def read(self) -> str:
        """The text, or an empty one. While the database does not answer, the text that was read last."""
        if self._monotonic() >= self._due:
            self._due = self._monotonic() + _KEPT_SECONDS
            with suppress(DatabaseUnavailableError):
                async with self._database.connect() as connection:
                    self._text = (await connection.execute(select(banner.c.text))).scalar() or ""
        return self._text

    async def set(self, text: str) -> None:
        """Replace the text; an empty one removes it. Raises DatabaseUnavailableError."""
        async with self._database.begin() as connection:
            await connection.execute(delete(banner))
            if text:
                await connection.execute(banner.insert().values(text=text))
        self._due = 0.0
