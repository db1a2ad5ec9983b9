"""The way in, tried for real on loopback: servers with certificates of all sorts, and what is said
of each.
"""

import asyncio
import base64
import os
import socket
import socketserver
import ssl
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from unit.doctor import doctor_builders
from unit.doctor.doctor_gateways import with_gateway
from vdi.api.template import VDITemplate
from vdi.cluster.objects import Pod
from vdi.doctor.checks.run import rank
from vdi.doctor.objects.components import Gateway
from vdi.doctor.probe.reach import (
    DeniedPort,
    Seen,
    Target,
    build_probe,
    judge,
    judge_network,
    probe_health,
    probe_here,
    probe_pod,
    try_way,
)
from vdi.doctor.probe.run import find_denied_port, probe_process_limits, probe_turn, turn_settings
from vdi.doctor.probe.turn import TurnError, allocate
from vdi.doctor.report import summarize
from vdi.findings.model import Finding, Remedy, Severity, roots
from vdi.kube.clock import SystemClock
from vdi.kube.errors import Forbidden
from vdi.kube.resource import PODS, Resource
from vdi.kube.transport import Client
from vdi.session.credentials import make_turn_credentials
from vdi.snapshot.objects import convert_object

REFUSED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of no one that this machine trusts."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    words = (
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    )
    files = ("-keyout", str(key), "-out", str(cert), "-addext", "subjectAltName=DNS:localhost")
    subprocess.run(["openssl", "req", "-x509", *words, *files], check=True, capture_output=True)
    return cert, key


@asynccontextmanager
async def server(
    certificate: tuple[Path, Path], page: bytes, upgrade: bytes = REFUSED
) -> AsyncIterator[str]:
    """Answers pages with one thing and upgrades with another; gives its URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                writer.write(upgrade if b"upgrade: websocket" in head.lower() else page)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with listening:
        yield f"https://localhost:{listening.sockets[0].getsockname()[1]}"


def http(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.fixture
def trusted(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))


async def found_at(url: str) -> set[str]:
    return {one.code for one in await probe_here([Target("vdisession/vdi-sessions/alice", url)])}


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(
    ("page", "upgrade", "code"),
    [
        ("302 Found", REFUSED, set()),
        ("401 Unauthorized", http("403 Forbidden"), set()),
        ("404 Not Found", http("404 Not Found"), {"probe_bad_answer"}),
        ("502 Bad Gateway", http("502 Bad Gateway"), {"probe_bad_answer"}),
        ("200 OK", http("400 Bad Request"), {"probe_websocket_refused"}),
        ("200 OK", http("200 OK"), {"probe_websocket_refused"}),
    ],
)
async def test_what_is_answered_is_said(
    certificate: tuple[Path, Path], page: str, upgrade: bytes, code: set[str]
) -> None:
    async with server(certificate, http(page), upgrade) as url:
        assert await found_at(url) == code


async def test_an_untrusted_certificate_does_not_stop_the_probe(
    certificate: tuple[Path, Path],
) -> None:
    async with server(certificate, http("404 Not Found"), http("404 Not Found")) as url:
        assert await found_at(url) == {"probe_certificate_refused", "probe_bad_answer"}


async def test_an_unknown_name_and_a_closed_port_are_told_apart() -> None:
    assert await found_at("https://nobody.invalid") == {"probe_name_not_found"}
    seen = await try_way("https://127.0.0.1:9")
    assert (seen.problem, seen.status) == ("connection", 0)


def test_a_probe_finding_has_address_and_command() -> None:
    target = Target(
        "vdisession/vdi-sessions/alice", "https://alice.vdi.example.com:8443", ("node/one",)
    )
    (finding,) = judge(
        target, Seen(certificate="certificate has expired.", status=200, websocket=101)
    )
    assert finding.remedy.commands == ("openssl s_client -connect alice.vdi.example.com:8443",)
    assert finding.evidence == ("tried: https://alice.vdi.example.com:8443",)
    assert finding.related_objects == ("node/one",)


async def test_a_turn_server_that_is_not_there_is_said_at_once() -> None:
    with pytest.raises(TurnError, match="nothing listens there"):
        await allocate("127.0.0.1", 9, "user", "word")


def a_template(*, enabled: bool) -> VDITemplate:
    persistence = {"enabled": enabled, "storageClass": "fast"}
    spec = {"image": "localhost/desktop:1", "resources": {}, "persistence": persistence}
    return msgspec.convert({"metadata": {"name": "small"}, "spec": spec}, VDITemplate)


def test_a_template_without_homes_is_tried_without_a_volume() -> None:
    """Its storage class may not be there at all."""
    claim, pod = build_probe("vdi-sessions", "vdi-probe-1", a_template(enabled=True))
    assert claim[1]["spec"]["storageClassName"] == "fast"
    assert pod[1]["spec"]["volumes"] == [
        {"name": "probe", "persistentVolumeClaim": {"claimName": "vdi-probe-1"}}
    ]
    ((kind, alone),) = build_probe("vdi-sessions", "vdi-probe-1", a_template(enabled=False))
    assert (kind, alone["spec"]["volumes"]) == (PODS, [{"name": "probe", "emptyDir": {}}])


async def test_a_health_page_that_may_not_be_read_is_not_silent() -> None:
    class Api:
        async def page_of_pod(self, *_: object, **__: object) -> bytes:
            raise Forbidden(403, "Forbidden", "pods/proxy is forbidden")

    pod = msgspec.convert({"metadata": {"name": "alice", "namespace": "vdi-sessions"}}, Pod)
    with pytest.raises(Forbidden):
        await probe_health(
            cast(Client, Api()), "vdisession/vdi-sessions/alice", pod, 8080, "/health"
        )


@pytest.mark.parametrize(
    ("limit", "reported"), [(-1, True), (0, True), (None, True), (4096, False)]
)
async def test_kubelet_that_limits_no_processes_is_reported(
    limit: int | None, reported: bool
) -> None:
    class Api:
        async def get(
            self, kind: Resource, name: str, *, subresource: str, **_: object
        ) -> dict[str, Any]:
            assert kind.path(None, name, subresource) == "/api/v1/nodes/node-1/proxy/configz"
            return {"kubeletconfig": {} if limit is None else {"podPidsLimit": limit}}

    findings = await probe_process_limits(cast(Client, Api()), {"node-1"})
    assert [finding.object for finding in findings] == (["node/node-1"] if reported else [])


@pytest.mark.parametrize(
    ("daemon_set", "version", "policies", "noted"),
    [
        ("kube-flannel-ds", "v1.36.3", True, True),
        ("kube-flannel-ds", "v1.36.3", False, False),
        ("calico-node", "v1.36.3", True, False),
        ("cilium", "v1.36.3", True, False),
        ("svclb-traefik", "v1.36.3+k3s1", True, False),
    ],
)
def test_plain_run_notes_that_no_enforcer_is_known(
    daemon_set: str, version: str, policies: bool, noted: bool
) -> None:
    """In the summary: no finding, which would fail the run."""
    cluster = doctor_builders.Cluster(0)
    cluster.one("nodes")["status"]["nodeInfo"] = {"kubeletVersion": version}
    cluster.add("daemonsets", doctor_builders.meta_of("kube-system", daemon_set), spec={})
    if policies:
        cluster.add(
            "networkpolicies", doctor_builders.meta_of("vdi-sessions", "vdi-desktops"), spec={}
        )
    assert ("`vdi doctor --probe` tests" in summarize([], cluster.snapshot())) == noted


def test_a_port_denied_to_desktops_is_found() -> None:
    cluster = doctor_builders.Cluster(0)
    cluster.one("deployments", "vdi-operator")["metadata"]["labels"] = {
        "app.kubernetes.io/instance": "vdi"
    }
    closed = {"podSelector": {}, "policyTypes": ["Egress"], "egress": []}
    cluster.add(
        "networkpolicies", doctor_builders.meta_of("vdi-sessions", "vdi-desktops"), spec=closed
    )
    found = find_denied_port(cluster.snapshot(), "vdi-sessions")
    assert found and (found.namespace, found.pod, found.port) == ("kasm", doctor_builders.POD, 8081)
    assert found.policies == ("networkpolicy/vdi-sessions/vdi-desktops",)
    assert found.remedy == Remedy.run("helm test vdi --namespace kasm --logs")
    cluster.one("pods")["status"]["conditions"] = []
    assert find_denied_port(cluster.snapshot(), "vdi-sessions") is None, (
        "nothing listens there for sure"
    )
    without_policies = doctor_builders.Cluster(0).snapshot()
    assert find_denied_port(without_policies, "vdi-sessions") is None, (
        "there is none that could be enforced"
    )


class Cluster:
    """Answers the probe as an API server would whose kubelet has run the pod's script for real.

    `dns`: port of the cluster's DNS on loopback; None: it has none. `service`: whether a Service
    leads to it.
    """

    def __init__(self, dns: int | None = None, *, service: bool = True, names: bool = True) -> None:
        self.dns, self.service, self.names = dns, service, names
        self.pod: dict[str, Any] = {}
        self.made: list[str] = []
        self.removed: list[str] = []

    async def findings(self, denied: DeniedPort | None = None) -> list[Finding]:
        template = a_template(enabled=False)
        return await probe_pod(cast(Client, self), "vdi-sessions", template, SystemClock(), denied)

    async def create(self, kind: Resource, body: dict[str, Any], **_: object) -> dict[str, Any]:
        self.made.append(kind.plural)
        if kind is PODS:
            self.pod = body
        return {"spec": {"clusterIP": "127.0.0.1" if self.service else "127.0.0.2"}}

    async def delete(self, kind: Resource, *_: object, **__: object) -> None:
        self.removed.append(kind.plural)

    async def list(self, *_: object, **__: object) -> list[Pod]:
        ready = {"conditions": [{"type": "Ready", "status": "True"}], "podIP": "127.0.0.1"}
        found = {"metadata": {"name": "coredns"}, "status": {"phase": "Running", **ready}}
        return [msgspec.convert(found, Pod)] if self.dns else []

    async def get(self, _kind: Resource, name: str, **__: object) -> Pod:
        if name == "one":
            return msgspec.convert(
                {"metadata": {"name": name}, "status": {"podIP": "127.0.0.1"}}, Pod
            )
        script = self.pod["spec"]["containers"][0]["command"][2]
        # One attempt of each connection, without the seconds that a real network may need.
        assert "+ 3))" in script
        script = script.replace("+ 3))", "+ 0))").replace("/probe/file", os.devnull)
        script = script.replace(" 53\n", f" {self.dns}\n")
        found = "localhost" if self.names else "nobody.invalid"
        with tempfile.NamedTemporaryFile("r") as words:
            script = script.replace("/dev/termination-log", words.name).replace(
                "kubernetes.default.svc", found
            )
            ran = await asyncio.create_subprocess_exec("sh", "-c", script)
            code = await ran.wait()
            ended = {"exitCode": code, "message": words.read()}
        statuses = [{"name": "desktop", "state": {"terminated": ended}}]
        status = {"phase": "Failed" if code else "Succeeded", "containerStatuses": statuses}
        pod = {"metadata": self.pod["metadata"], "spec": {"nodeName": "node-1"}, "status": status}
        return msgspec.convert(pod, Pod)


@pytest.mark.parametrize("enforced", [True, False])
async def test_a_denied_connection_shows_unenforced_policies(enforced: bool) -> None:
    cluster = Cluster()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if enforced:
            server.close()
        test = Remedy.run("helm test vdi")
        denied = DeniedPort(
            "deployment/kasm/vdi-operator", "kasm", "one", port, ("networkpolicy/a/b",), test
        )
        findings = await cluster.findings(denied)
    assert "pods" in cluster.removed
    if enforced:
        assert findings == []
        return
    (finding,) = findings
    assert (finding.code, finding.severity) == ("network_policy_not_enforced", Severity.WARNING)
    words = (
        f"connected to port {port} of deployment/kasm/vdi-operator, which networkpolicy/a/b denies"
    )
    assert words in finding.message
    assert finding.remedy.commands == ("helm test vdi",)


class Dns(socketserver.BaseRequestHandler):
    """Refuses a status request at once, as a server of names does."""

    def handle(self) -> None:
        length = int.from_bytes(self.request.recv(2), "big")
        query = self.request.recv(length)
        assert query[2] == 2 << 3, "the operation is a status request"
        self.request.sendall(b"\x00\x0c" + query[:2] + bytes(10))


@pytest.mark.parametrize(
    ("listens", "service", "names", "words"),
    [
        (True, True, True, ""),
        (False, True, False, "not even by its pod's address: a policy or the network plugin"),
        (True, False, False, "by its pod's address, but not by a new Service's: its kube-proxy"),
        (True, True, False, "finds no name, though it reaches addresses: the cluster's DNS"),
    ],
    ids=["all is well", "policy", "kube-proxy", "DNS"],
)
async def test_one_finding_names_the_layer_that_fails(
    listens: bool, service: bool, names: bool, words: str
) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Dns) as server:
        cluster = Cluster(server.server_address[1], service=service, names=names)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        if not listens:
            server.socket.close()
        findings = await cluster.findings()
        server.shutdown()
    assert [finding.code for finding in findings] == (["probe_network_broken"] if words else [])
    assert all(words in finding.message for finding in findings)
    assert {"pods", "services", "endpointslices"} == {*cluster.made} & {*cluster.removed}


async def test_interrupted_probe_removes_what_is_still_being_made() -> None:
    """The request that creates the pod is on its way when the run is cancelled."""

    class Slow(Cluster):
        def __init__(self) -> None:
            super().__init__(53)
            self.began, self.goes_on = asyncio.Event(), asyncio.Event()

        async def create(
            self, kind: Resource, body: dict[str, Any], **names: object
        ) -> dict[str, Any]:
            if kind is PODS:
                self.began.set()
                await self.goes_on.wait()
            return await super().create(kind, body, **names)

    cluster = Slow()
    run = asyncio.create_task(cluster.findings())
    await cluster.began.wait()
    run.cancel()
    asyncio.get_running_loop().call_later(0.05, cluster.goes_on.set)
    with pytest.raises(asyncio.CancelledError):
        await run
    assert {*cluster.made} <= {*cluster.removed}
    assert "pods" in cluster.made


async def test_without_dns_pods_no_service_is_made() -> None:
    cluster = Cluster()
    assert await cluster.findings() == []
    assert cluster.made == ["pods"]


def test_what_a_broken_network_explains_follows_from_it() -> None:
    cluster = doctor_builders.Cluster()
    with_gateway(cluster)
    cluster.logs["kasm/vdi-gateway-1"].append(
        'msg="trouble: database: Temporary failure in name resolution"'
    )
    (broken,) = judge_network("node-1", "vdi-sessions", ["name", "service"])
    target = Target("vdisession/vdi-sessions/alice-0", "https://alice-0.vdi.example.com")
    found = rank([*cluster.findings(), broken, *judge(target, Seen(status=500))])
    assert [root.code for root in roots(found)] == ["probe_network_broken"]


@pytest.mark.parametrize(
    ("volumes", "of_the_server", "secret"),
    [
        ([{"name": "tmp", "emptyDir": {}}, {"name": "turn", "secret": {"secretName": "own"}}], [], ("own", "secret")),
        (
            [{"name": "turn", "emptyDir": {"medium": "Memory"}}],
            [{"name": "auth", "secret": {"secretName": "vdi-coturn", "items": [
                {"key": "secret-2", "path": "secret"}, {"key": "secret-1", "path": "previousSecret"}]}}],
            ("vdi-coturn", "secret-2"),
        ),
        ([{"name": "turn", "projected": {}}], [], ("", "")),
        ([], [], ("", "")),
    ],
    ids=["own Secret", "made by the gateway", "something else", "none"],
)  # fmt: skip
def test_turn_secret_is_the_gateways_or_coturns(
    volumes: list[dict[str, object]],
    of_the_server: list[dict[str, object]],
    secret: tuple[str, str],
) -> None:
    url = "turn:turn.example.com:3478?transport=udp"
    container = {"name": "gateway", "env": [{"name": "VDI_TURN_URLS", "value": url}]}
    cluster = doctor_builders.Cluster()
    with_gateway(cluster)
    gateway = cluster.one("deployments", "vdi-gateway")
    coturn = cluster.one("deployments", "coturn")
    gateway["spec"]["template"]["spec"] = {
        "containers": [{"name": "mesh"}, container],
        "volumes": volumes,
    }
    coturn["spec"]["template"]["spec"]["volumes"] = of_the_server
    snapshot = cluster.snapshot()
    assert turn_settings(
        snapshot, Gateway("deployment", convert_object("deployments", gateway), ("vdi-sessions",))
    ) == (url, *secret)


async def test_turn_probe_uses_the_gateways_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Secret made from a file may end with a line feed: gateway and server leave it out."""
    asked: list[tuple[Any, ...]] = []

    async def ask(*words: Any) -> None:
        asked.append(words)

    class Api:
        async def get(self, *_: object, **__: object) -> dict[str, Any]:
            return {"data": {"secret": base64.b64encode(f"{'s' * 40}\n".encode()).decode()}}

    monkeypatch.setattr("vdi.doctor.probe.run.allocate", ask)
    env = [{"name": "VDI_TURN_URLS", "value": "turn:turn.example.com:3478?transport=udp"}]
    volumes = [{"name": "turn", "secret": {"secretName": "t"}}]
    spec = {"containers": [{"name": "gateway", "env": env}], "volumes": volumes}
    gateway = Gateway(
        "deployment",
        convert_object("deployments", doctor_builders.deployment("vdi-gateway", "kasm", {}, spec)),
        ("vdi-sessions",),
    )
    now = datetime(2026, 11, 20, tzinfo=UTC)
    assert (
        await probe_turn(cast(Client, Api()), doctor_builders.Cluster().snapshot(), gateway, now)
        == []
    )
    good = make_turn_credentials("s" * 40, "vdi-doctor", now + timedelta(minutes=2))
    assert asked == [("turn.example.com", 3478, *good)]
