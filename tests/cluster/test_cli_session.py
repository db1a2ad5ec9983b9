"""The session commands and the operator against a real API server. The node is not real: the tests
play the kubelet.
"""

import asyncio
import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cluster.operator_stage import Object, Stage
from cluster.stand_in import STAND_IN
from support.kubeconfigs import write_kubeconfig
from support.waiting import eventually
from support.web_server import serve_handler
from vdi.devcluster.credentials import authority
from vdi.kinds import SESSIONS
from vdi.kube.resource import PODS, SECRETS
from vdi.session.cluster_settings import ClusterSettings

Result = subprocess.CompletedProcess[str]
Typed = Callable[..., Awaitable[Result]]


@pytest.fixture
def vdi(kubeconfig: Path, namespace: str) -> Typed:
    """`vdi session` as a process, typed at the test's namespace."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VDI_")}
    environment |= {"KUBECONFIG": str(kubeconfig), "VDI_NAMESPACE": namespace}

    def run(*words: str) -> Result:
        command = [sys.executable, "-m", "vdi", "session", *words]
        return subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=50,
        )

    return partial(asyncio.to_thread, run)


@pytest.fixture
def desktop_port(tmp_path: Path) -> Iterator[int]:
    """Like a desktop behind Traefik: HTTPS with a certificate that no one trusts, and a question
    for the password.
    """

    class AsksForPassword(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with serve_handler(AsksForPassword, tls=untrusted_tls(tmp_path)) as server:
        yield server.server_port


def untrusted_tls(folder: Path) -> ssl.SSLContext:
    pair = authority(folder, "ca", "Nobody's authority").issue(
        "server", "nobody", names=["127.0.0.1"], server=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    return context


async def start_pod(stage: Stage, *, after: str = "") -> None:
    """Once its pod is placed, report that the desktop answers, as a kubelet does. `after`: uid of
    the pod before it.
    """

    async def placed() -> Object | None:
        pod = await stage.get(PODS, "desk")
        return (
            pod if pod and pod["metadata"]["uid"] != after and pod["spec"].get("nodeName") else None
        )

    await stage.make_ready(await eventually(placed, "the pod is placed"))


async def create(stage: Stage, vdi: Typed) -> str:
    """What `vdi session create --wait` reports while the desktop starts."""
    template = await stage.template(resources={"defaultGPU": 0}, persistence={"enabled": False})
    words = ("create", "desk", "-t", template, "--user", "alice@example.com", "--wait")
    made, _ = await asyncio.gather(vdi(*words), start_pod(stage))
    assert made.returncode == 0, made.stderr
    return made.stderr


async def test_session_is_created_opened_and_deleted(
    stage: Stage, vdi: Typed, desktop_port: int
) -> None:
    async with stage.operator(cluster=ClusterSettings(url_port=desktop_port)):
        stages = re.findall(r"^✓ (.*) \d+\.\ds$", await create(stage, vdi), re.MULTILINE)
        session = json.loads((await vdi("show", "desk", "-o", "json")).stdout)
        url, template = session["status"]["url"], session["spec"]["template"]
        assert stages[:2] == ["the operator is processing it", f"template {template} found"]
        assert f"pod placed on node {STAND_IN}" in stages
        assert stages[-2:] == ["session Running", f"{url} responds, and asks for the password"]

        header, row = (await vdi("ls")).stdout.splitlines()
        assert header.split() == ["NAME", "USER", "TEMPLATE", "PHASE", "NOTE", "AGE", "URL"]
        assert row.split()[:4] == ["desk", "alice@example.com", template, "Running"]

        shown = (await vdi("show", "desk")).stdout
        assert re.search(r"^  Pod +desk +Running, ready +\d+s$", shown, re.MULTILINE), shown
        host = r"Host\(`desk-[2-7][a-z2-7]{7}\.vdi\.localhost`\)"
        assert re.search(rf"^  IngressRoute +desk +{host}", shown, re.MULTILINE), shown
        assert "Could not check" not in shown

        opened = json.loads((await vdi("open", "desk", "-o", "json")).stdout)
        assert (opened["url"], opened["user"]) == (url, "user")
        assert len(opened["password"]) >= 16
        secret = await stage.get(SECRETS, "desk-auth")
        # It is there in base64 alone.
        assert secret and opened["password"] not in json.dumps(secret)

        removed = await vdi("rm", "desk", "--wait")
        assert removed.returncode == 0, removed.stderr
        assert removed.stdout.startswith("session desk was deleted in ")
        assert (await vdi("ls", "-o", "name")).stdout == ""


@pytest.mark.long
async def test_a_desktop_is_extended_suspended_and_restarted(
    stage: Stage, vdi: Typed, desktop_port: int
) -> None:
    async def expires() -> datetime:
        session = await stage.get(SESSIONS, "desk") or {}
        return datetime.fromisoformat(session["status"]["expiresAt"])

    async with stage.operator(cluster=ClusterSettings(url_port=desktop_port)):
        await create(stage, vdi)
        later = await expires() + timedelta(hours=1, minutes=30)
        reported = (await vdi("extend", "desk", "1h30m")).stdout
        assert reported.startswith(f"session desk ends at {later:%Y-%m-%dT%H:%M:%SZ} (in 9h2")

        async def is_extended() -> bool:
            return await expires() == later

        await eventually(is_extended, "the operator reckons with it")

        stopped = await vdi("suspend", "desk", "--wait")
        assert stopped.returncode == 0, stopped.stderr
        report = r"session desk was suspended in \d+\.\d s; start it again: vdi session resume desk"
        assert re.match(report, stopped.stdout)
        await stage.gone(PODS, "desk")
        assert (await vdi("ls")).stdout.splitlines()[1].split()[3] == "Suspended"
        assert "is Suspended, so there is nothing to open" in (await vdi("open", "desk")).stderr
        assert "Resume it instead" in (await vdi("restart", "desk")).stderr

        resumed, _ = await asyncio.gather(vdi("resume", "desk", "--wait"), start_pod(stage))
        assert resumed.returncode == 0, resumed.stderr
        assert "✓ session Running" in resumed.stderr

        old = await stage.get(PODS, "desk")
        assert old
        restarted, _ = await asyncio.gather(
            vdi("restart", "desk"), start_pod(stage, after=old["metadata"]["uid"])
        )
        assert restarted.returncode == 0, restarted.stderr
        await stage.reach("desk", "Running")
        assert "Failures:" not in (await vdi("show", "desk")).stdout


@pytest.mark.parametrize(
    ("words", "field", "allowed"),
    [
        ("--user alice", "spec.user: 'alice'", "alice@example.com"),
        (
            "--user a@b.cd --gpu 0",
            "spec.resources.gpu: Invalid value: 0",
            "greater than or equal to 1",
        ),
    ],
)
async def test_refusals_of_the_crd_name_field_and_value(
    stage: Stage, vdi: Typed, words: str, field: str, allowed: str
) -> None:
    made = await vdi("create", "s", "-t", await stage.template(), *words.split())
    assert made.returncode == 2
    (said,) = [line for line in made.stderr.splitlines() if line.startswith("  spec.")]
    assert field in said and allowed in said


async def test_missing_rights_are_named(
    vdi: Typed, kubectl: list[str], kubeconfig: Path, namespace: str, tmp_path: Path
) -> None:
    def kube(*words: str) -> str:
        command = [*kubectl, "--namespace", namespace, *words]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=50
        ).stdout

    kube("create", "serviceaccount", "eve")
    who = f"system:serviceaccount:{namespace}:eve"
    for token, said in (
        (
            kube("create", "token", "eve"),
            f"{who} may not list vdisessions in namespace {namespace}",
        ),
        ("nonsense", "rejects the credentials of kubeconfig"),
    ):
        file = write_kubeconfig(kubeconfig, token, tmp_path / "eve")
        looked = await vdi("ls", "--kubeconfig", str(file))
        assert looked.returncode == 3 and said in looked.stderr, looked.stderr
