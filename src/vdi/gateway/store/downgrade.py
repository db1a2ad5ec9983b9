"""`python -m vdi.gateway.store.downgrade REVISION`: bring the database back to what an older gateway knows.

`vdi rollback` runs it in a Job, while no gateway runs. Columns that the older gateway does not know are lost.
"""

import asyncio
import os
import sys
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from vdi.gateway.settings import read_settings
from vdi.gateway.store.base import Database, DatabaseUnavailableError
from vdi.gateway.store.migrations import UnknownRevisionError, downgrade
from vdi.operator.variables import SettingsError

USAGE = "python -m vdi.gateway.store.downgrade REVISION    undo all changes after this revision of the database"


async def run(url: str, revision: str) -> list[str]:
    """Raises DatabaseUrlError, which is a ValueError, and what `downgrade` raises."""
    database = Database(url)
    try:
        return await downgrade(database, revision)
    finally:
        await database.close()


def main(arguments: Sequence[str]) -> int:
    """0: done; 1: not; 2: wrong command line."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(USAGE, file=sys.stderr)  # noqa: T201 -- a command's answer
        return 2
    (revision,) = arguments
    try:
        undone = asyncio.run(run(read_settings(os.environ).database_url, revision))
    except (DatabaseUnavailableError, SettingsError, UnknownRevisionError, ValueError, SQLAlchemyError) as error:
        print(f"{error}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"undone: {', '.join(undone) or 'nothing'}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
