"""The dump: made by a real pg_dump of a real PostgreSQL, read back by a real pg_restore, whole or not there at all."""

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from support.postgres import Postgres, postgres_server
from vdi.helm.place import Place
from vdi.kasm.backup import Kubectl, back_up, database_pod, find_kubectl
from vdi.kasm.errors import KasmFailedError, KasmRefusedError
from vdi.kasm.generations import B, C
from vdi.kube.transport import Client

__all__ = ["postgres_server"]

LABELS = {"app.kubernetes.io/component": "db", "app.kubernetes.io/instance": "kasm"}


def a_pod(*, ready: bool = True, labels: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "metadata": {"name": "kasm-db-0", "labels": labels or LABELS},
        "status": {"containerStatuses": [{"name": "kasm-db", "ready": ready}]},
    }


class Pods:
    """Stands for the client: the backup asks it for pods alone."""

    def __init__(self, *pods: dict[str, Any]) -> None:
        self.pods = pods

    async def list(self, *_: Any, **__: Any) -> list[dict[str, Any]]:
        return list(self.pods)


def client_with(*pods: dict[str, Any]) -> Client:
    return cast(Client, Pods(*pods))


@pytest.fixture
def kasm_database(postgres_server: Postgres) -> str:
    """A database as Kasm has one."""
    url = postgres_server.new_database()
    name = url.partition("@/")[2].partition("?")[0]
    postgres_server.psql(name, "CREATE TABLE zones (zone_id text); INSERT INTO zones VALUES ('default')")
    postgres_server.psql(
        name, "CREATE TABLE users AS SELECT generate_series(1, 2000) AS id, md5(random()::text) AS hash"
    )
    return name


@pytest.fixture
def kubectl(postgres_server: Postgres, kasm_database: str, tmp_path: Path) -> Callable[..., Kubectl]:
    """Stands for `kubectl exec`: runs the script here, where the container's variables and programs are.

    What it was called with is written down; `before` is shell that runs in front of the script.
    """

    def make(before: str = "") -> Kubectl:
        program = tmp_path / "kubectl"
        program.write_text(
            "#!/bin/sh\n"
            f'echo "$*" >> {tmp_path}/calls\n'
            f"export PATH={postgres_server.binaries}:$PATH PGHOST={postgres_server.folder}\n"
            f"export POSTGRES_DB={kasm_database}\n"
            "export POSTGRES_USER=postgres POSTGRES_PASSWORD=hunter2\n"
            'while [ "$1" != -- ]; do shift; done; shift\n'
            f'{before}\nexec "$@"\n'
        )
        program.chmod(0o755)
        return Kubectl(program, Place("desks", Path("/etc/kubeconfig"), "here"))

    return make


def restore(server: Postgres, database: str, file: Path) -> None:
    program = [str(server.binaries / "pg_restore"), "-h", str(server.folder), "-U", "postgres"]
    subprocess.run([*program, "-d", database, "--no-owner", str(file)], check=True, capture_output=True)


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if "dump" in path.name]


async def test_a_dump_is_whole_private_and_restorable(
    kubectl: Callable[..., Kubectl],
    postgres_server: Postgres,
    tmp_path: Path,
) -> None:
    file = tmp_path / "kasm.dump"
    done = await back_up(client_with(a_pod()), kubectl(), C, "kasm", file)
    assert (done.file, done.tables) == (file, 2)
    assert done.size == file.stat().st_size > 1000
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    name = postgres_server.new_database().partition("@/")[2].partition("?")[0]
    restore(postgres_server, name, file)
    assert postgres_server.psql(name, "SELECT count(*), max(hash) FROM users").startswith("2000|")
    calls = (tmp_path / "calls").read_text()
    assert calls.startswith(
        "exec --namespace desks --kubeconfig /etc/kubeconfig --context here kasm-db-0 --container kasm-db -- sh -c"
    )
    assert "hunter2" not in calls


async def test_a_dump_that_breaks_off_is_found_and_not_kept(kubectl: Callable[..., Kubectl], tmp_path: Path) -> None:
    """As when the connection is cut and no one says so: the head and the list of contents are there, the end is not."""
    cut = 'case "$*" in *pg_dump*) "$@" | head -c 15000; exit 0;; esac'
    with pytest.raises(KasmFailedError, match="pg_restore in the database's pod failed"):
        await back_up(client_with(a_pod()), kubectl(cut), C, "kasm", tmp_path / "kasm.dump")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ('case "$*" in *pg_dump*) echo nonsense; exit 0;; esac', "produced no dump (9 bytes)"),
        ('case "$*" in *pg_dump*) exit 0;; esac', "produced no dump (0 bytes)"),
        (
            'case "$*" in *pg_dump*) echo no route to host >&2; exit 1;; esac',
            "pg_dump in the database's pod failed: no",
        ),
        ("export POSTGRES_DB=postgres", "has no data of table zones"),
    ],
)
async def test_what_is_no_dump_of_kasm_is_not_kept(
    kubectl: Callable[..., Kubectl], tmp_path: Path, before: str, words: str
) -> None:
    with pytest.raises(KasmFailedError) as error:
        await back_up(client_with(a_pod()), kubectl(before), C, "kasm", tmp_path / "kasm.dump")
    assert words in str(error.value)
    assert left_in(tmp_path) == []


async def test_a_file_that_is_there_is_never_written_over(kubectl: Callable[..., Kubectl], tmp_path: Path) -> None:
    file = tmp_path / "kasm.dump"
    file.write_text("older")
    with pytest.raises(KasmRefusedError, match="already exists"):
        await back_up(client_with(a_pod()), kubectl(), C, "kasm", file)
    meanwhile = tmp_path / "other.dump"
    late = f'case "$*" in *pg_restore*) echo mine > {meanwhile};; esac'
    with pytest.raises(KasmRefusedError, match="was created in the meantime"):
        await back_up(client_with(a_pod()), kubectl(late), C, "kasm", meanwhile)
    assert (file.read_text(), meanwhile.read_text()) == ("older", "mine\n")
    with pytest.raises(KasmRefusedError, match="the folder"):
        await back_up(client_with(a_pod()), kubectl(), C, "kasm", tmp_path / "no" / "kasm.dump")


def test_only_a_database_that_works_can_be_dumped() -> None:
    assert database_pod(C, [{"metadata": {"name": "x"}}, a_pod()], "kasm", Place("desks")) == ("kasm-db-0", "kasm-db")
    with pytest.raises(KasmRefusedError, match=r"is not working, so it cannot be dumped \(pod kasm-db-0\)"):
        database_pod(C, [a_pod(ready=False)], "kasm", Place("desks"))
    with pytest.raises(KasmRefusedError, match=r"If it is outside"):
        database_pod(B, [a_pod()], "other", Place("desks"))


def test_kubectl_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KasmRefusedError, match="kubectl, which connects to the database's pod, is not in PATH"):
        find_kubectl(Place("desks"))
    assert os.environ["PATH"] == str(tmp_path)
