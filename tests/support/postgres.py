"""A real PostgreSQL for tests: a process of the test's own, on a socket in a folder of its own,
gone at the end.

Import the fixtures where they are needed: `from support.postgres import postgres_server,
postgres_url`.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from support.waiting import wait_until

# PostgreSQL refuses to run as root.
_NO_ONE = 65534


def _binaries() -> Path:
    """Debian keeps them off the PATH; the newest version, if there are several."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3])
    )
    if found:
        return found[-1].parent
    if program := shutil.which("postgres"):
        return Path(program).parent
    raise FileNotFoundError(
        "there is no PostgreSQL in /usr/lib/postgresql and none in PATH: apt-get install postgresql"
    )


class Postgres:
    """A server that can be stopped and started again, with its data."""

    def __init__(self, folder: Path) -> None:
        """`folder` belongs to who the server runs as. Makes the data; `start` starts."""
        self.folder = folder
        self.binaries = _binaries()
        self._process: subprocess.Popen[bytes] | None = None
        self._as_whom = (
            {"user": _NO_ONE, "group": _NO_ONE, "extra_groups": []} if os.geteuid() == 0 else {}
        )
        self.run(
            "initdb",
            "-D",
            str(folder / "data"),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
        )

    def start(self) -> None:
        """Return when it answers."""
        options = [
            "-k",
            str(self.folder),
            "-c",
            "listen_addresses=",
            "-c",
            "fsync=off",
            "-c",
            "shared_buffers=16MB",
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.folder / "data", *options],
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the test, which then stops it
                **self._as_whom,  # type: ignore[call-overload]
            )
        wait_until("PostgreSQL answers", self._answers)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: cut everybody off and shut down; SIGQUIT: as if the machine had lost its
        power.
        """
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
        self._process = None

    def send(self, how: signal.Signals) -> None:
        """To every process of the server: SIGSTOP freezes it, SIGCONT lets it go on."""
        assert self._process is not None
        main = self._process.pid
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        for pid in (main, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(pid, how)

    def new_database(self) -> str:
        """The URL of an empty one."""
        name = f"test_{uuid4().hex[:12]}"
        self.psql("postgres", f"CREATE DATABASE {name}")
        return f"postgresql+asyncpg://postgres@/{name}?host={self.folder}"

    def psql(self, database: str, statement: str) -> str:
        """The output of psql for a statement."""
        return self.run(
            "psql", "-h", str(self.folder), "-U", "postgres", "-d", database, "-qAtc", statement
        )

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"PostgreSQL has ended: {(self.folder / 'log').read_text()}")
        ready = [str(self.binaries / "pg_isready"), "-h", str(self.folder), "-U", "postgres", "-q"]
        return subprocess.run(ready, check=False).returncode == 0

    def run(self, program: str, *arguments: str) -> str:
        """The output of one of PostgreSQL's own programs. Raises AssertionError with its message
        when it fails.
        """
        command = [self.binaries / program, *arguments]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            **self._as_whom,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"
        return str(done.stdout)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """One server for all tests of the run; a test that stops it starts it again."""
    # Not pytest's: those only their owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="vdi-pg-"))
    if os.geteuid() == 0:
        os.chown(folder, _NO_ONE, _NO_ONE)
    try:
        server = Postgres(folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def postgres_url(postgres_server: Postgres) -> str:
    """The URL of an empty database."""
    return postgres_server.new_database()
