"""A backup and a restore on a new cluster, with the commands of docs/backup.md: people find what
they had.

The commands are taken from the page, so that page and rehearsal cannot drift. What `kubectl exec`
runs in a pod runs here: the gateway's program with its database, PostgreSQL's own, and `sh` and
`tar` on a folder for each claim.
"""

import asyncio
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.gateway_stage import PASSWORD, GatewayStage
from cluster.helm_tools import CHART, Tools, open_tools
from cluster.program_pods import ProgramPods, programs_run
from cluster.release_stage import Release
from support.metrics_token import token_file
from support.passwords import HASHER, users_file
from support.postgres import Postgres, postgres_server
from support.waiting import wait_until
from vdi.gateway.login.local_users import USERS_KEY, LocalUser
from vdi.gateway.settings import Settings

__all__ = ["postgres_server"]
ROOT = CHART.parents[1]
PAGE = ROOT / "docs/backup.md"
IMAGE = "registry.example.com/vdi"
SESSIONS = ("--namespace", "vdi-sessions")
URL_PORT = 8443
VALUES: dict[str, Any] = {
    "image": {"repository": IMAGE, "tag": "1"},
    "replicas": 1,
    "domain": "vdi.localhost",
    "urlPort": URL_PORT,
    "probe": {"enabled": False},
    "templates": {
        "small": {"image": f"{IMAGE}-desktop:1", "persistence": {"enabled": True, "size": "1Gi"}}
    },
}
OWN_TEMPLATE: dict[str, Any] = {
    "apiVersion": "vdi.kasm.io/v1alpha1",
    "kind": "VDITemplate",
    "metadata": {"name": "own"},
    "spec": {
        "image": f"{IMAGE}-desktop:1",
        "persistence": {"enabled": False},
        "resources": {"defaultGPU": 0},
    },
}
_KUBECTL = """#!{python}
import os, subprocess, sys
words, real = sys.argv[1:], [{kubectl!r}, "--kubeconfig", {kubeconfig!r}]
if "exec" not in words:
    os.execv(real[0], [*real, *words])
pod, command = words[words.index("--") - 1], words[words.index("--") + 1:]
environment = {{**os.environ, **{environment!r}}}
if pod == "deploy/vdi-gateway":
    os.execve({python!r}, [{python!r}, *command[1:]], environment)
if pod == "vdi-postgresql-0":
    program = os.path.join({binaries!r}, command[0])
    os.execve(program, [program, "--host", {socket!r}, *command[1:]], environment)
claim = pod.removeprefix("copy-")
look = [*real, "-n", "vdi-sessions", "get", "pvc", claim, "-o", "jsonpath={{.metadata.uid}}"]
uid = subprocess.run(look, check=True, capture_output=True, text=True).stdout
home = os.path.join({volumes!r}, uid)
os.makedirs(home, exist_ok=True)
command = [word.replace("/home/user", home) for word in command]
os.execvpe(command[0], command, environment)
"""


def commands(section: str) -> list[str]:
    """The shell blocks of a section of the page."""
    _, _, rest = PAGE.read_text().partition(f"\n## {section}\n")
    assert rest, f"{PAGE} has no section {section!r}"
    text = rest.partition("\n## ")[0]
    return [
        textwrap.dedent(block)
        for block in re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    ]


def page_of(port: int, path: str = "/") -> str:
    """The text of a page of the portal for Alice, who logs in for it."""

    async def read() -> str:
        async with AsyncExitStack() as stack:
            gateway = GatewayStage(None, Settings(url_port=URL_PORT), port, 0, stack)  # type: ignore[arg-type]
            page = await (await gateway.log_in("alice@example.com")).get(path)
            assert page.status_code == 200, (page.status_code, page.text)
            return page.text

    return asyncio.run(read())


@dataclass(frozen=True)
class Site:
    """One cluster, with the release's programs, and a person at a terminal."""

    release: Release
    pods: ProgramPods
    backup: Path
    path: str

    @property
    def tools(self) -> Tools:
        return self.release.tools

    def type(self, text: str) -> str:
        """Commands of the page, typed in the folder of the backup."""
        text = text.replace("docs/examples/", f"{ROOT}/docs/examples/").replace(
            "/backup/homes", f"{self.backup}/homes"
        )
        environment = {**os.environ, "PATH": self.path, "IMAGE": "copies"}
        done = subprocess.run(
            ["sh", "-eu", "-c", text],
            cwd=self.backup, env=environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}\n{self.pods.logs()}"
        return done.stdout

    def install(self) -> None:
        self.release.run("install", "--yes", "--chart", str(CHART), values=yaml.safe_dump(VALUES))

    def portal(self) -> int:
        """Port of the gateway, once there is one that is ready."""

        def ready() -> int:
            found = [one for one in self.pods.running.values() if one.name == "gateway"]
            return found[0].public if len(found) == 1 and found[0].is_ready() else 0

        return wait_until("the gateway is ready", ready, 120)

    def history(self) -> str:
        """The text of Alice's page of earlier desktops."""
        return page_of(self.portal(), "/history")

    def running(self, name: str) -> dict[str, Any]:
        """A session, once it runs."""

        wait_until(f"{name} runs", lambda: self.tools.session_runs("vdi-sessions", name), 120)
        found: dict[str, Any] = self.tools.get("vdi", name, *SESSIONS)
        return found

    def volume(self, claim: str) -> Path:
        """The folder of a claim."""
        uid: str = self.tools.get("pvc", claim, *SESSIONS)["metadata"]["uid"]
        return self.tools.home / "volumes" / uid


@contextmanager
def a_site(folder: Path, backup: Path, database: str, postgres: Postgres) -> Iterator[Site]:
    """A machine with nothing on it but Kubernetes; thrown away with the context."""
    folder.mkdir()
    (folder / "limits.yaml").write_text("{}\n")
    environment = {
        "VDI_LIMITS_FILE": str(folder / "limits.yaml"),
        "VDI_METRICS_TOKEN_FILE": str(token_file(folder)),
        "VDI_GATEWAY_URL": (
            ""
        ),  # a Service's name, which is known in a cluster only: ends are seen, not reported
        "VDI_DATABASE_URL": database or f"sqlite+aiosqlite:///{folder}/vdi.db",
    }
    with open_tools(folder, f"b{os.getpid():x}") as tools:
        (folder / "logs").mkdir()
        kubectl = folder / "kubectl"
        kubectl.write_text(
            _KUBECTL.format(
                python=sys.executable,
                kubectl=str(tools.kubectl_binary),
                kubeconfig=str(tools.kubeconfig),
                environment=environment,
                binaries=str(postgres.binaries),
                socket=str(postgres.folder),
                volumes=str(folder / "volumes"),
            )
        )
        kubectl.chmod(0o755)
        sources = {f"{IMAGE}:1": ROOT / "src"}
        with programs_run(
            ProgramPods(tools.kubeconfig, folder / "logs", sources, environment)
        ) as pods:
            yield Site(Release(tools), pods, backup, f"{folder}:{os.environ['PATH']}")
    shutil.rmtree(folder / "volumes", ignore_errors=True)


def a_release_at_work(site: Site) -> dict[str, Any]:
    """Alice has a desktop with files and one that has ended; her session, running."""
    site.install()
    users = users_file(
        {"alice@example.com": LocalUser(password=HASHER.hash(PASSWORD), name="Alice")}
    )
    patch = {"data": {USERS_KEY: base64.b64encode(users.encode()).decode()}}
    site.tools.kubectl(
        "patch", "secret", "vdi-gateway-users", "-n", "vdi-system", "--patch", yaml.safe_dump(patch)
    )
    site.tools.kubectl("create", "-f", "-", stdin=json.dumps(OWN_TEMPLATE))
    alices = partial(site.tools.create_session, "vdi-sessions", user="alice@example.com")
    alices("earlier", "own")
    site.running("earlier")
    alices(
        "desk", "small", hostname="alices", access=[{"user": "bob@example.com", "role": "viewer"}]
    )
    wait_until("history has it", lambda: "earlier" in site.history())
    site.tools.kubectl("delete", "vdi", "earlier", *SESSIONS, "--wait=true", "--timeout=50s")
    return site.running("desk")


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", ["SQLite", "PostgreSQL"])
def test_lost_release_is_restored_from_its_backup(
    kind: str, postgres_server: Postgres, tmp_path: Path
) -> None:
    (backup := tmp_path / "backup").mkdir()
    sqlite_save, sqlite_load, postgres_save, postgres_load = commands("Database")
    save, load = (sqlite_save, sqlite_load) if kind == "SQLite" else (postgres_save, postgres_load)
    (save_objects,) = commands("Secrets, hosts, objects")
    before_chart, after_chart = commands("A new machine, from nothing")
    database = ""
    if kind == "PostgreSQL":
        postgres_server.psql("postgres", "CREATE ROLE vdi LOGIN")
        postgres_server.psql("postgres", "CREATE DATABASE vdi OWNER vdi")
        database = f"postgresql+asyncpg://vdi@/vdi?host={postgres_server.folder}"

    with a_site(tmp_path / "first", backup, database, postgres_server) as site:
        session = a_release_at_work(site)
        (claim,) = [one["metadata"]["name"] for one in site.tools.get("pvc", *SESSIONS)["items"]]
        site.volume(claim).mkdir(parents=True)
        (site.volume(claim) / ".hidden").write_text("precious")
        site.type("docs/examples/homes.sh save /backup/homes")
        site.type(save)
        site.type(save_objects)
        assert all(file.stat().st_mode & 0o077 == 0 for file in backup.glob("*.yaml")), (
            "for no one else"
        )

    if database:
        postgres_server.psql("postgres", "DROP DATABASE vdi WITH (FORCE)")
        postgres_server.psql("postgres", "CREATE DATABASE vdi OWNER vdi")

    with a_site(tmp_path / "second", backup, database, postgres_server) as site:
        site.type(before_chart)
        site.install()
        assert "earlier" not in site.history(), (
            "passwords are there before anything else; the history is not"
        )
        site.type(load)
        assert "earlier" in site.history()
        site.type(after_chart)
        restored = site.running("desk")
        assert restored["spec"] == session["spec"]
        assert restored["status"]["url"] == session["status"]["url"]
        assert (site.volume(claim) / ".hidden").read_text() == "precious"
        assert (
            site.tools.get("vditemplate", "own")["spec"]["image"] == OWN_TEMPLATE["spec"]["image"]
        )
        wait_until("the portal shows it", lambda: "desk" in page_of(site.portal()))
