"""The start of our PostgreSQL image: it creates a database where none exists, and deletes none."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools.generate.chart_render import ROOT

_PROGRAMS = {
    "initdb": 'mkdir -p "$2"; touch "$2/PG_VERSION"',  # initdb --pgdata FOLDER ...
    "pg_ctl": "",
    "createdb": "",
    "postgres": "",
}
_FIRST_START = ["initdb", "pg_ctl", "createdb", "pg_ctl", "postgres"]


@dataclass(frozen=True)
class Volume:
    """The volume of a PostgreSQL pod, and stand-ins for PostgreSQL's programs, which log their
    names.
    """

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "volume/pgdata"

    def start(self, **programs: str) -> list[str]:
        """The programs that ran, in their order. `programs`: what some of them do instead."""
        log, bin_folder = self.folder / "log", self.folder / "bin"
        bin_folder.mkdir(exist_ok=True)
        log.write_text("")
        for name, does in {**_PROGRAMS, **programs}.items():
            program = bin_folder / name
            program.write_text(f'#!/bin/sh\nset -eu\necho {name} >>"{log}"\n{does}\n')
            program.chmod(0o755)
        variables = {
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "PGDATA": str(self.data),
            "POSTGRES_USER": "vdi",
            "POSTGRES_DB": "vdi",
            "POSTGRES_PASSWORD_FILE": "/dev/null",
        }
        script = ROOT / "images/postgresql/start.sh"
        subprocess.run(
            ["sh", str(script)], env=variables, check=False, timeout=30, capture_output=True
        )
        return log.read_text().split()


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    (tmp_path / "volume").mkdir()
    return Volume(tmp_path)


def test_database_of_another_image_is_kept(volume: Volume) -> None:
    volume.data.mkdir()
    for name in ("PG_VERSION", "table"):
        (volume.data / name).touch()
    assert volume.start() == ["postgres"]
    assert {path.name for path in volume.data.iterdir()} == {"PG_VERSION", "table"}


@pytest.mark.parametrize("exists", [False, True], ids=["no folder", "an empty folder"])
def test_missing_database_is_created(volume: Volume, exists: bool) -> None:
    if exists:
        volume.data.mkdir()
    assert volume.start() == _FIRST_START
    assert {path.name for path in volume.data.iterdir()} == {"PG_VERSION", "pg_hba.conf"}
    assert list(volume.data.parent.iterdir()) == [volume.data]
    assert volume.start() == ["postgres"]


def test_interrupted_first_start_is_repeated(volume: Volume) -> None:
    assert volume.start(createdb="kill -9 $PPID") == ["initdb", "pg_ctl", "createdb"]
    assert volume.start(initdb=f'[ ! -e "$2" ]; {_PROGRAMS["initdb"]}') == _FIRST_START
    assert list(volume.data.parent.iterdir()) == [volume.data]


def test_files_without_a_database_are_kept_and_no_server_starts(volume: Volume) -> None:
    volume.data.mkdir()
    (volume.data / "table").touch()
    for _ in range(2):  # the kubelet starts it again
        assert "postgres" not in volume.start()
        assert (volume.data / "table").exists()
