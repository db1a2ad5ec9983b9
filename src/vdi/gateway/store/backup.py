"""Backup of a SQLite database: `python -m vdi.gateway.store.backup save|load`, run with `kubectl
exec` in the pod.

`save` writes a consistent copy to standard output while the gateway works. `load` replaces
everything with the copy from standard input; the gateway must be restarted then. For PostgreSQL
there are pg_dump and pg_restore.
"""

import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from vdi.gateway.settings import Settings, read_settings
from vdi.gateway.store.database import DatabaseUrlError, read_url
from vdi.gateway.store.migrations import UnknownRevisionError, known_revisions
from vdi.settings import SettingsError

USAGE = """\
python -m vdi.gateway.store.backup save > vdi.db     copy the database that VDI_DATABASE_URL names (SQLite only)
python -m vdi.gateway.store.backup load < vdi.db     replace it with such a copy; then restart the gateway
"""

# Tables that are emptied: their old rows would let in people whose access was revoked after the
# backup.
NOT_BROUGHT_BACK = ("grants", "logins", "api_tokens")


class BackupError(Exception):
    """Raised when there is nothing to copy, or the copy to load is no database of this gateway."""


def save(database: Path, out: BinaryIO) -> None:
    """Write a copy. Raises BackupError, OSError."""
    if not database.is_file():
        raise BackupError(f"the database {database} does not exist")
    # Beside the database: /tmp of the gateway's pod is small.
    with tempfile.TemporaryDirectory(dir=database.parent) as folder:
        copy = Path(folder) / "copy.db"
        with closing(sqlite3.connect(database)) as source:
            source.execute("VACUUM INTO ?", (str(copy),))
        with copy.open("rb") as done:
            shutil.copyfileobj(done, out)


def load(database: Path, source: BinaryIO) -> None:
    """Replace the database; a gateway that uses it may run. Raises BackupError,
    UnknownRevisionError, OSError.
    """
    with tempfile.TemporaryDirectory(dir=database.parent) as folder:
        copy = Path(folder) / "copy.db"
        with copy.open("wb") as out:
            shutil.copyfileobj(source, out)
        try:
            with closing(sqlite3.connect(copy)) as connection:
                _examine(connection)
                with connection:
                    for table in NOT_BROUGHT_BACK:
                        connection.execute(f"DELETE FROM {table}")  # noqa: S608 -- names of our own
                with closing(sqlite3.connect(database)) as target:
                    connection.backup(target)
        except sqlite3.Error as error:
            raise BackupError(f"this cannot be loaded: {error}; nothing was changed") from error


def _examine(connection: sqlite3.Connection) -> None:
    (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
    if verdict != "ok":
        raise BackupError(f"this copy is damaged: {verdict}; nothing was changed")
    for (revision,) in connection.execute("SELECT version_num FROM alembic_version"):
        if revision not in known_revisions():
            raise UnknownRevisionError(revision)


def main(arguments: Sequence[str], settings: Settings) -> int:
    """0: done; 1: not; 2: wrong command line."""
    url = read_url(settings.database_url)
    if list(arguments) not in (["save"], ["load"]):
        print(USAGE, file=sys.stderr, end="")  # noqa: T201 -- a command's answer
        return 2
    if url.get_backend_name() != "sqlite" or not url.database:
        print(  # noqa: T201
            "VDI_DATABASE_URL does not name a SQLite file; for PostgreSQL use pg_dump",
            file=sys.stderr,
        )
        return 2
    try:
        if arguments[0] == "save":
            save(Path(url.database), sys.stdout.buffer)
        else:
            load(Path(url.database), sys.stdin.buffer)
    except (BackupError, UnknownRevisionError, OSError, sqlite3.Error) as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:], read_settings(os.environ)))
    except (SettingsError, DatabaseUrlError) as error:
        sys.exit(f"{error}")
