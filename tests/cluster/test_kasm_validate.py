"""`vdi kasm validate` against a real API server, with the stand-in chart of generation C installed
by real Helm.

There is no kubelet: what it would report of pods is played. The web UI is a real HTTPS server with
the certificate that the chart has made.
"""

import asyncio
import base64
import json
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from cluster.helm_tools import Tools
from cluster.kasm_site import ADDRESS, KasmK3s, helm_of, open_k3s
from kasm.kasm_ward import given_values
from support.waiting import wait_until
from support.web_server import serve_handler
from vdi.kube.config import load_config
from vdi.kube.resource import CLAIMS, INGRESSES, PODS, VOLUMES, Resource
from vdi.kube.transport import Client

CHARTS = Path(__file__).parents[1] / "kasm/charts"
HOST = "kasm.example.test"
READY = [{"type": "Ready", "status": "True"}]
Object = dict[str, Any]


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    with open_k3s(tmp_path_factory.mktemp("kasm")) as tools:
        yield tools


@dataclass
class Kasm:
    """An installed stand-in chart, and what browsers would meet."""

    k3s: KasmK3s
    # Path -> status of the web UI.
    answers: dict[str, int] = field(default_factory=dict)
    port: int = 0

    def kube(self, *words: str, stdin: str = "") -> str:
        return self.k3s.tools.kubectl("--namespace", "kasm", *words, stdin=stdin)

    def all(self, plural: str) -> list[Object]:
        found: list[Object] = json.loads(self.kube("get", plural, "-o", "json"))["items"]
        return found

    def on_api(self, work: Callable[[Client], Awaitable[None]]) -> None:
        async def opened() -> None:
            async with Client(load_config(self.k3s.tools.kubeconfig), field_manager="test") as api:
                await work(api)

        asyncio.run(opened())

    def play(self) -> None:
        """Play provisioner, kubelet and Traefik of a healthy installation."""
        wait_until(
            "all pods are made",
            lambda: len(self.all("pods")) >= len(self.all("deployments")) + 2,
            100,
        )
        self.on_api(_bind_volumes)
        wait_until(
            "claims are bound",
            lambda: all(one["status"].get("phase") == "Bound" for one in self.all("pvc")),
            100,
        )
        self.on_api(_report)

    def validate(self, *words: str) -> tuple[int, dict[str, Object]]:
        """Exit status, and lines by check."""
        status, data = self.k3s.kasm("validate", "--connect", f"127.0.0.1:{self.port}", *words)
        return status, {line["code"]: line for line in data["findings"]}

    def bad(self) -> dict[str, str]:
        """The observed values of the lines that do not pass."""
        _, lines = self.validate()
        return {
            check: line["observed"] for check, line in lines.items() if line["severity"] != "ok"
        }


async def _patch(api: Client, kind: Resource, name: str, status: Object) -> None:
    await api.patch(
        kind, name, {"status": status}, namespace="kasm", subresource="status", into=dict
    )


async def _bind_volumes(api: Client) -> None:
    for claim in await api.list(CLAIMS, namespace="kasm", into=dict[str, Any]):
        meta, spec = claim["metadata"], claim["spec"]
        volume = {
            "metadata": {"name": f"pv-{meta['uid']}"},
            "spec": {
                "capacity": spec["resources"]["requests"],
                "accessModes": spec["accessModes"],
                "storageClassName": spec.get("storageClassName", ""),
                "hostPath": {"path": "/nowhere"},
                "claimRef": {"namespace": "kasm", "name": meta["name"], "uid": meta["uid"]},
            },
        }
        await api.create(VOLUMES, volume, into=dict)


async def _report(api: Client) -> None:
    for pod in await api.list(PODS, namespace="kasm", into=dict[str, Any]):
        ready = {
            "phase": "Running",
            "podIP": "10.42.0.9",
            "podIPs": [{"ip": "10.42.0.9"}],
            "conditions": READY,
        }
        done = {"phase": "Succeeded", "conditions": []}
        await _patch(
            api,
            PODS,
            pod["metadata"]["name"],
            done if "job-name" in pod["metadata"]["labels"] else ready,
        )
    for ingress in await api.list(INGRESSES, namespace="kasm", into=dict[str, Any]):
        await _patch(
            api,
            INGRESSES,
            ingress["metadata"]["name"],
            {"loadBalancer": {"ingress": [{"ip": ADDRESS}]}},
        )


@contextmanager
def installed(k3s: KasmK3s) -> Iterator[Kasm]:
    kasm = Kasm(k3s)
    helm_of(
        k3s.tools,
        "install",
        "kasm",
        str(CHARTS / "c"),
        "--namespace",
        "kasm",
        *given_values("c", {}),
    )
    try:
        with web_ui(kasm, "kasm-cert-manager"):
            kasm.play()
            wait_until(
                "everything is ready", lambda: {"pods", "services"}.isdisjoint(kasm.bad()), 100
            )
            yield kasm
    finally:
        kinds = "deployments,statefulsets,jobs,ingresses,services,configmaps,secrets,pods,pvc"
        kasm.kube("delete", kinds, "--all", "--timeout=40s", "--grace-period=0", "--force")


@contextmanager
def web_ui(kasm: Kasm, secret: str) -> Iterator[None]:
    """Answers as Kasm's proxy, with the certificate of this Secret."""
    data = json.loads(kasm.kube("get", "secret", secret, "-o", "json"))["data"]
    file = kasm.k3s.tools.home / "tls.pem"
    file.write_bytes(base64.b64decode(data["tls.crt"]) + b"\n" + base64.b64decode(data["tls.key"]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            right = self.path == "/api/__healthcheck" and self.headers["Host"] == HOST
            self.send_response(kasm.answers.get(self.path, 200) if right else 404)
            self.end_headers()
            self.wfile.write(b'{"ok": true}')

        def log_message(self, *_words: object) -> None:
            """Say nothing."""

    with serve_handler(Page, tls=context) as server:
        kasm.port = server.server_port
        yield


def test_installation_is_valid_and_missing_rights_are_named(
    tools: Tools, capsys: pytest.CaptureFixture[str]
) -> None:
    with installed(KasmK3s(tools, capsys)) as kasm:
        status, lines = kasm.validate()
        left = {
            check: line["observed"] for check, line in lines.items() if line["severity"] != "ok"
        }
        assert set(left) <= {"web-ui", "db-init"}, left
        assert status == 0
        assert lines["web-ui"]["expected"] == f"200 from https://{HOST}/api/__healthcheck"
        assert "does not trust" in lines["web-ui"]["observed"]
        assert lines["release"]["observed"].endswith("(release kasm), revision 1 deployed")
        assert_rights_are_named(kasm)
        kasm.answers["/api/__healthcheck"] = 503
        assert kasm.bad()["web-ui"].startswith("503")


def assert_rights_are_named(kasm: Kasm) -> None:
    """Without any, and with those of the role `view`, which may see all but Secrets and kinds that
    were added.
    """
    kubeconfig = kasm.k3s.tools.kubeconfig_of("default", "kasm")
    words = ("validate", "--connect", f"127.0.0.1:{kasm.port}", "--hostname", HOST)
    status, data = kasm.k3s.kasm(*words, kubeconfig=kubeconfig)
    (line,) = data["findings"]
    assert (status, line["severity"]) == (3, "unknown")
    assert "may not list deployments in namespace kasm" in line["message"]
    kasm.kube(
        "create", "rolebinding", "viewer", "--clusterrole=view", "--serviceaccount=kasm:default"
    )
    status, data = kasm.k3s.kasm(*words, kubeconfig=kubeconfig)
    unknown = {
        finding["code"]: finding["message"]
        for finding in data["findings"]
        if finding["severity"] == "unknown"
    }
    assert status == 3
    assert set(unknown) == {"release", "way-in"}
    assert "may not list secrets in namespace kasm" in unknown["release"]
    assert "may not list ingressroutes" in unknown["way-in"]
