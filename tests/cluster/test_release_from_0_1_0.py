"""A release of 0.1.0 with people at work goes to today's chart and back: a rehearsal with both versions' programs.

The chart, the command line, the operator and the gateway of 0.1.0 are those of the commit that it was made from.
"""

import asyncio
import base64
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.gateway_stage import PASSWORD, AsTraefik
from cluster.helm_tools import CHART, open_tools
from cluster.program_pods import ProgramPods, programs_run
from cluster.release_stage import Release
from support.csrf import csrf_of
from support.metrics_token import token_file
from support.passwords import HASHER
from support.postgres import Postgres, postgres_server
from support.waiting import wait_until
from vdi.gateway.login.users_file import KEY, LocalUser, write_users
from vdi.gateway.store.base import Database

__all__ = ["postgres_server"]
ROOT = CHART.parents[1]
COMMIT = "a9e4416"
IMAGE = "registry.example.com/vdi"
OLD, NEW = f"{IMAGE}:0.1.0", f"{IMAGE}:0.2.0-rc.1"
FIRST, NEWEST = "0001_c65dbe3c", "0004_usage"
RELEASE, SESSIONS = ("--namespace", "kasm"), ("--namespace", "vdi-sessions")
PORTAL = "https://portal.vdi.localhost:8443"
VALUES: dict[str, Any] = {
    "image": {"repository": IMAGE, "tag": "0.1.0"},
    "replicas": 1,
    "domain": "vdi.localhost",
    "urlPort": 8443,
    "templates": {"small": {"image": f"{IMAGE}-desktop:1", "persistence": {"enabled": True, "size": "1Gi"}}},
    "pools": {"warm": {"template": "bare", "ready": 1}},
}
VALUES["templates"]["bare"] = {"image": "registry.example.com/desktop:1", "persistence": {"enabled": False}}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of 0.1.0."""
    git = ["git", "-C", str(ROOT)]
    made = subprocess.run([*git, "archive", COMMIT, "src", "charts"], capture_output=True, timeout=60, check=False)
    if made.returncode != 0:
        shallow = subprocess.run([*git, "rev-parse", "--is-shallow-repository"], capture_output=True, check=False)
        if shallow.stdout.strip() != b"false":
            pytest.skip(
                f"this copy has no commit {COMMIT}: its history is shallow, or it is no clone; git fetch --unshallow"
            )
        pytest.fail(f"a full clone without the commit {COMMIT}: {made.stderr.decode()}")
    folder = tmp_path_factory.mktemp("0.1.0")
    with tarfile.open(fileobj=BytesIO(made.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


@dataclass(frozen=True)
class Rehearsal:
    """A release with its database and the programs of its pods."""

    release: Release
    pods: ProgramPods
    sources: Path
    newer: tuple[str, ...]
    """What names today's chart as 0.2.0-rc.1, and its image."""
    database: str
    """URL, as this machine reaches it."""

    def old_vdi(self, *words: str, values: str = "") -> None:
        """A command of 0.1.0."""
        command = [sys.executable, "-P", "-m", "vdi", *self.release.words(words, values)]
        environment = {**os.environ, "PYTHONPATH": str(self.sources / "src")}
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.pods.logs()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the database has."""

        async def read() -> list[tuple[Any, ...]]:
            database = Database(self.database)
            try:
                async with database.connect() as connection:
                    return [tuple(row) for row in await connection.exec_driver_sql(query)]
            finally:
                await database.close()

        return asyncio.run(read())

    def revision(self) -> str:
        """Of the database."""
        ((found,),) = self.rows("SELECT version_num FROM alembic_version")
        return str(found)

    def runs(self, pods: list[str]) -> list[tuple[Any, ...]]:
        """The runs of the history, once it has one of each of these pods that goes on."""
        found = self.rows("SELECT uid, pod FROM history_runs WHERE ended IS NULL ORDER BY pod")
        return found if [pod for _, pod in found] == sorted(pods) else []

    def uids(self, pod: str, *homes: str) -> list[str]:
        """Of a pod, its homes and all sessions whose pod it is."""
        found = [
            self.release.tools.get("pod", pod, *SESSIONS),
            *(self.release.tools.get("pvc", home, *SESSIONS) for home in homes),
        ]
        sessions = self.release.tools.get("vdi", *SESSIONS)["items"]
        found += [session for session in sessions if session["status"]["podName"] == pod]
        return [str(obj["metadata"]["uid"]) for obj in found]

    def start_desktop(self, name: str, user: str) -> str:
        """Make a session; the name of its pod, once it runs."""
        spec = {"user": user, "template": "small"}
        meta = {"name": name, "namespace": "vdi-sessions"}
        session = {"apiVersion": "vdi.kasm.io/v1alpha1", "kind": "VDISession", "metadata": meta, "spec": spec}
        self.release.tools.kubectl("create", "-f", "-", stdin=yaml.safe_dump(session))

        def running() -> str:
            status = self.release.tools.get("vdi", name, *SESSIONS).get("status") or {}
            return str(status.get("podName", "")) if status.get("phase") == "Running" else ""

        return wait_until(f"{name} runs", running)


@pytest.fixture(params=["sqlite", "postgresql"])
def rehearsal(
    request: pytest.FixtureRequest, sources: Path, postgres_server: Postgres, tmp_path: Path
) -> Iterator[Rehearsal]:
    """On a cluster of its own, with no release on it."""
    shutil.copytree(CHART, newer := tmp_path / "newer/vdi")
    chart = newer / "Chart.yaml"
    chart.write_text(chart.read_text().replace("0.0.0-dev", "0.2.0-rc.1"))
    for name in ("limits.yaml", "prices.yaml"):
        (tmp_path / name).write_text("{}\n")
    environment = {
        "VDI_LIMITS_FILE": str(tmp_path / "limits.yaml"),
        "VDI_PRICES_FILE": str(tmp_path / "prices.yaml"),
        "VDI_METRICS_TOKEN_FILE": str(token_file(tmp_path)),
    }
    if request.param == "sqlite":
        database = environment["VDI_DATABASE_URL"] = f"sqlite+aiosqlite:///{tmp_path}/vdi.db"
    else:
        database = postgres_server.new_database()
    with open_tools(tmp_path, f"u{os.getpid():x}") as tools:
        (tmp_path / "logs").mkdir()
        programs = {OLD: sources / "src", NEW: ROOT / "src"}
        with programs_run(ProgramPods(tools.kubeconfig, tmp_path / "logs", programs, environment)) as pods:
            words = ("--chart", str(newer), "--set", "image.tag=0.2.0-rc.1")
            yield Rehearsal(Release(tools), pods, sources, words, database)


def values_of(rehearsal: Rehearsal) -> dict[str, Any]:
    """For SQLite in the volume of the gateway, or for a server with its URL in a Secret."""
    if rehearsal.database.startswith("sqlite"):
        return VALUES
    kubectl = rehearsal.release.tools.kubectl
    kubectl("create", "namespace", "kasm")
    kubectl("create", "secret", "generic", "vdi-db", *RELEASE, f"--from-literal=url={rehearsal.database}")
    return {**VALUES, "gateway": {"database": {"existingSecret": "vdi-db"}}}


def add_alice(release: Release) -> None:
    users = write_users({"alice@example.com": LocalUser(password=HASHER.hash(PASSWORD), name="Alice")})
    patch = {"data": {KEY: base64.b64encode(users.encode()).decode()}}
    release.tools.kubectl("patch", "secret", "vdi-gateway-users", *RELEASE, "--patch", yaml.safe_dump(patch))


def log_in(port: int) -> dict[str, str]:
    """The cookies of a browser that has logged in."""

    async def submit() -> dict[str, str]:
        async with httpx.AsyncClient(transport=AsTraefik(port), base_url=PORTAL, timeout=20) as browser:
            page = await browser.get("/login")
            form = {"user": "alice@example.com", "password": PASSWORD, "csrf": csrf_of(page.text), "next": "/"}
            headers = {"Origin": PORTAL, "Sec-Fetch-Site": "same-origin"}
            answer = await browser.post("/login", data=form, headers=headers)
            assert answer.status_code == 303, (answer.status_code, answer.text)
            return dict(browser.cookies)

    return asyncio.run(submit())


def portal_of(port: int, cookies: dict[str, str], path: str = "/") -> str:
    """The portal as this browser sees it; empty: it has to log in."""

    async def read() -> str:
        headers = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "none"}
        transport = AsTraefik(port)
        async with httpx.AsyncClient(transport=transport, base_url=PORTAL, cookies=cookies, timeout=20) as browser:
            page = await browser.get(path, headers=headers)
            return page.text if page.status_code == 200 else ""

    return asyncio.run(read())


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_upgrade_and_the_rollback(rehearsal: Rehearsal) -> None:
    release, pods = rehearsal.release, rehearsal.pods
    values = yaml.safe_dump(values_of(rehearsal))
    rehearsal.old_vdi("install", *RELEASE, "--chart", str(rehearsal.sources / "charts/vdi"), values=values)
    add_alice(release)
    cookies = log_in(pods.gateway(OLD).public)
    alice = rehearsal.start_desktop("alice-desktop", "alice@example.com")
    home = release.tools.get("pvc", *SESSIONS)["items"][0]["metadata"]["name"]
    before = rehearsal.uids(alice, home)

    def holds(image: str, revision: str) -> bool:
        """Whether this version works with that database, and people have noticed nothing."""
        assert rehearsal.revision() == revision
        assert rehearsal.uids(alice, home) == before, "no pod, no home and no session was made again"
        return "alice-desktop" in portal_of(pods.gateway(image).public, cookies)

    assert holds(OLD, FIRST)
    a_failing_upgrade_goes_back_with_its_database(rehearsal)
    assert holds(OLD, FIRST)
    said = release.run("upgrade", *rehearsal.newer, "--yes")
    assert "Found the release vdi in namespace kasm." in said and "Upgraded: revision 4" in said
    assert holds(NEW, NEWEST)
    assert release.tools.get("vdipool", "warm")["spec"]["replicas"] == 1
    bob = rehearsal.start_desktop("bob-desktop", "bob@example.com")
    runs = wait_until("both runs are in the history", lambda: rehearsal.runs([alice, bob]))
    uids = rehearsal.uids(bob)
    the_rollback_says_what_it_does_to_the_database_and_does_it(rehearsal)
    assert holds(OLD, FIRST)
    assert rehearsal.runs([alice, bob]) == runs and rehearsal.uids(bob) == uids
    said = release.run("rollback", "4", "--yes")
    assert "the gateway is stopped" not in said, "forward again: the newer gateway upgrades its database by itself"
    assert holds(NEW, NEWEST)


def a_failing_upgrade_goes_back_with_its_database(rehearsal: Rehearsal) -> None:
    """The newer gateway is ready and has upgraded the database; the newer operator finds no node."""
    too_large = ("--set", "resources.requests.cpu=900", "--timeout", "120s")
    said = rehearsal.release.run("upgrade", *rehearsal.newer, *too_large, "--yes", status=1)
    assert "the database is at revision 0001_c65dbe3c" in said, said + rehearsal.pods.logs()
    assert "It was rolled back: revision 3 of vdi is deployed, with the content of revision 1" in said, said


def the_rollback_says_what_it_does_to_the_database_and_does_it(rehearsal: Rehearsal) -> None:
    shown = rehearsal.release.run("rollback", "--dry-run")
    assert "! the database goes back from revision 0004_usage to 0001_c65dbe3c and loses the columns" in shown
    assert "history_runs.renderer, history_runs.encoder" in shown
    assert rehearsal.revision() == NEWEST and rehearsal.pods.gateway(NEW).is_ready(), "nothing was changed by looking"
    said = rehearsal.release.run("rollback", "--yes")
    assert "the gateway is stopped" in said and "the database is at revision 0001_c65dbe3c" in said
    assert "Revision 5 of vdi is deployed, with the content of revision 3." in said
    assert not rehearsal.release.there("job", *RELEASE)
