"""The session commands and the operator against a real API server. The node is not real: the tests play the kubelet."""

import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cluster.stand_in import STAND_IN
from support.kubeconfigs import write_kubeconfig
from support.waiting import wait_until
from support.web_server import serve_handler
from vdi.devcluster.credentials import authority
from vdi.operator.release_keys import DESKTOP_KEY, HOST_KEY

TEMPLATE = """
apiVersion: vdi.kasm.io/v1alpha1
kind: VDITemplate
metadata: {name: cli-test}
spec:
  image: localhost/vdi/desktop:dev
  resources: {defaultGPU: 0}
  persistence: {enabled: false}
"""


@dataclass(frozen=True)
class Typed:
    """A cluster and a namespace, and the commands that are typed at them."""

    kubectl: list[str]
    environment: dict[str, str]
    namespace: str

    def vdi(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "vdi", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=50,
        )

    def kube(self, *words: str, stdin: str | None = None) -> str:
        command = [*self.kubectl, "--namespace", self.namespace, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, input=stdin, timeout=50).stdout


@pytest.fixture(scope="session")
def template(kubectl: list[str]) -> None:
    subprocess.run([*kubectl, "apply", "-f", "-"], input=TEMPLATE, check=True, capture_output=True, text=True)


@pytest.fixture
def typed(template: None, kubectl: list[str], kubeconfig: Path, namespace: str) -> Typed:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("VDI_")}
    environment = {**ours, "KUBECONFIG": str(kubeconfig), "VDI_NAMESPACE": namespace}
    return Typed(kubectl, environment, namespace)


@pytest.fixture
def desktop_port(tmp_path: Path) -> Iterator[int]:
    """Like a desktop behind Traefik: HTTPS with a certificate that no one trusts, and a question for the password."""

    class AsksForPassword(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with serve_handler(AsksForPassword, tls=untrusted_tls(tmp_path)) as server:
        yield server.server_port


def untrusted_tls(folder: Path) -> ssl.SSLContext:
    pair = authority(folder, "ca", "Nobody's authority").issue("server", "nobody", names=["127.0.0.1"], server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    return context


@pytest.fixture
def operator(typed: Typed, desktop_port: int, tmp_path: Path) -> Iterator[None]:
    """The operator as its own process, for this test's namespace."""
    for name in (HOST_KEY, DESKTOP_KEY):
        typed.kube("create", "secret", "generic", name)
    own = {"VDI_OPERATOR_NAMESPACE": typed.namespace, "VDI_METRICS_ADDR": "127.0.0.1:0"}
    environment = {**typed.environment, **own, "VDI_URL_PORT": str(desktop_port)}
    log = tmp_path / "operator.log"
    command = [sys.executable, "-m", "vdi", "operator", "run"]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)

    def begins() -> bool:
        assert process.poll() is None, f"the operator ended: {log.read_text()}"
        return "working on" in log.read_text()

    try:
        wait_until("the operator is working", begins)
        yield
        assert process.poll() is None, f"the operator ended: {log.read_text()}"
    finally:
        process.terminate()
        process.wait(15)
        sys.stderr.write(log.read_text())


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    """Do something in a thread while the body runs; what fails in it is raised here."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        yield
        done.result()


def pod_uid(typed: Typed, name: str) -> str:
    return typed.kube("get", "pod", name, "--ignore-not-found", "-o", "jsonpath={.metadata.uid}")


def start_pod(typed: Typed, pod: str, *, after: str = "") -> None:
    """Once the pod is placed, report that its desktop answers, as a kubelet does. `after`: uid of the one before it."""
    wait_until(f"pod {pod} is made", lambda: pod_uid(typed, pod) not in ("", after))
    typed.kube("wait", "--for=condition=PodScheduled", f"pod/{pod}", "--timeout=30s")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    container = {"name": "desktop", "image": "x", "imageID": "x", "ready": True, "restartCount": 0}
    container["state"] = {"running": {"startedAt": now}}
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": now}
    status = {"phase": "Running", "conditions": [ready], "containerStatuses": [container]}
    patch = json.dumps({"status": status})
    typed.kube("patch", "pod", pod, "--subresource=status", "--type=merge", "-p", patch)


def test_session_is_created_opened_and_deleted(typed: Typed, operator: None) -> None:
    with beside(lambda: start_pod(typed, "desk")):
        made = typed.vdi("session", "create", "desk", "-t", "cli-test", "--user", "alice@example.com", "--wait")
    assert made.returncode == 0, made.stderr
    stages = re.findall(r"^✓ (.*) \d+\.\ds$", made.stderr, re.MULTILINE)
    url = json.loads(typed.vdi("session", "show", "desk", "-o", "json").stdout)["status"]["url"]
    assert stages[:2] == ["the operator is processing it", "template cli-test found"]
    assert f"pod placed on node {STAND_IN}" in stages
    assert stages[-2:] == ["session Running", f"{url} responds, and asks for the password"]

    (header, row) = typed.vdi("session", "ls").stdout.splitlines()
    assert header.split() == ["NAME", "USER", "TEMPLATE", "PHASE", "NOTE", "AGE", "URL"]
    assert row.split()[:4] == ["desk", "alice@example.com", "cli-test", "Running"]

    shown = typed.vdi("session", "show", "desk").stdout
    assert re.search(r"^  Pod +desk +Running, ready +\d+s$", shown, re.MULTILINE), shown
    assert re.search(r"^  IngressRoute +desk +Host\(`desk-[2-7][a-z2-7]{7}\.vdi\.localhost`\)", shown, re.MULTILINE), (
        shown
    )
    assert "Could not check" not in shown

    opened = json.loads(typed.vdi("session", "open", "desk", "-o", "json").stdout)
    secret = json.loads(typed.kube("get", "secret", "desk-auth", "-o", "json"))
    assert opened["url"] == url
    assert opened["user"] == "user"
    assert len(opened["password"]) >= 16
    assert opened["password"] not in json.dumps(secret)  # it is there in base64 alone

    with beside(lambda: finish_pod(typed, "desk")):
        removed = typed.vdi("session", "rm", "desk", "--wait")
    assert removed.returncode == 0, removed.stderr
    assert removed.stdout.startswith("session desk was deleted in ")
    assert typed.vdi("session", "ls", "-o", "name").stdout == ""


def finish_pod(typed: Typed, pod: str) -> None:
    """Once the pod is being deleted, confirm its end, as the kubelet does."""
    typed.kube("wait", "--for=jsonpath={.metadata.deletionTimestamp}", f"pod/{pod}", "--timeout=30s")
    subprocess.run(
        [*typed.kubectl, "-n", typed.namespace, "delete", "pod", pod, "--force", "--grace-period=0"],
        capture_output=True,
        check=False,  # the operator may have been faster
    )


def expires(typed: Typed) -> datetime:
    return datetime.fromisoformat(typed.kube("get", "vdi", "desk", "-o", "jsonpath={.status.expiresAt}"))


@pytest.mark.long
def test_a_desktop_is_extended_suspended_and_restarted(typed: Typed, operator: None) -> None:
    with beside(lambda: start_pod(typed, "desk")):
        made = typed.vdi("session", "create", "desk", "-t", "cli-test", "--user", "alice@example.com", "--wait")
    assert made.returncode == 0, made.stderr

    before = expires(typed)
    reported = typed.vdi("session", "extend", "desk", "1h30m").stdout
    wait_until("the operator reckons with it", lambda: expires(typed) == before + timedelta(hours=1, minutes=30))
    assert reported.startswith(f"session desk ends at {expires(typed):%Y-%m-%dT%H:%M:%SZ} (in 9h2")

    stopped = typed.vdi("session", "suspend", "desk", "--wait")
    assert stopped.returncode == 0, stopped.stderr
    assert re.match(r"session desk was suspended in \d+\.\d s; start it again: vdi session resume desk", stopped.stdout)
    wait_until("its pod is gone", lambda: pod_uid(typed, "desk") == "")
    assert typed.vdi("session", "ls").stdout.splitlines()[1].split()[3] == "Suspended"
    assert "is Suspended, so there is nothing to open" in typed.vdi("session", "open", "desk").stderr
    assert "Resume it instead" in typed.vdi("session", "restart", "desk").stderr

    with beside(lambda: start_pod(typed, "desk")):
        resumed = typed.vdi("session", "resume", "desk", "--wait")
    assert resumed.returncode == 0, resumed.stderr
    assert "✓ session Running" in resumed.stderr

    uid = pod_uid(typed, "desk")
    with beside(lambda: start_pod(typed, "desk", after=uid)):
        assert typed.vdi("session", "restart", "desk").returncode == 0
    assert pod_uid(typed, "desk") != uid
    typed.kube("wait", "vdi/desk", "--for=jsonpath={.status.phase}=Running", "--timeout=20s")
    assert "Failures:" not in typed.vdi("session", "show", "desk").stdout


@pytest.mark.parametrize(
    ("words", "field", "allowed"),
    [
        ("--user alice", "spec.user: 'alice'", "alice@example.com"),
        ("--user a@b.cd --gpu 0", "spec.resources.gpu: Invalid value: 0", "greater than or equal to 1"),
    ],
)
def test_refusals_of_the_crd_name_field_and_value(typed: Typed, words: str, field: str, allowed: str) -> None:
    made = typed.vdi("session", "create", "s", "-t", "cli-test", *words.split())
    assert made.returncode == 2
    (said,) = [line for line in made.stderr.splitlines() if line.startswith("  spec.")]
    assert field in said
    assert allowed in said


def test_missing_rights_are_named(typed: Typed, kubeconfig: Path, tmp_path: Path) -> None:
    typed.kube("create", "serviceaccount", "eve")
    who = f"system:serviceaccount:{typed.namespace}:eve"
    for token, said in (
        (typed.kube("create", "token", "eve"), f"{who} may not list vdisessions in namespace {typed.namespace}"),
        ("nonsense", "rejects the credentials of kubeconfig"),
    ):
        file = write_kubeconfig(kubeconfig, token, tmp_path / "eve")
        looked = typed.vdi("session", "ls", "--kubeconfig", str(file))
        assert looked.returncode == 3 and said in looked.stderr, looked.stderr
