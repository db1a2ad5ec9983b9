"""`vdi kasm preflight` against a real API server: what it sees there, and what it may not see.

Nodes, pods and Services of a K3s are placed by hand; ports and programs are real.
"""

import itertools
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.helm_tools import Tools
from cluster.kasm_site import ADDRESS, K3S, KasmK3s, in_path, open_k3s


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    with open_k3s(tmp_path_factory.mktemp("kasm")) as tools:
        yield tools


@pytest.fixture
def k3s(tools: Tools, capsys: pytest.CaptureFixture[str]) -> Iterator[KasmK3s]:
    with in_path(tools.helm_binary, tools.kubectl_binary):
        yield KasmK3s(tools, capsys)


def test_sufficient_k3s_passes_preflight(k3s: KasmK3s) -> None:
    status, lines = k3s.preflight("--chart-version", "1.1190.8")
    assert {check: line for check, line in lines.items() if line["severity"] != "ok"} == {}
    assert status == 0
    assert lines["kubernetes"]["observed"] == K3S
    assert lines["room"]["observed"] == "8 CPU and 16 GiB free"
    assert (
        lines["port-443"]["observed"]
        == "held by service kube-system/traefik (ServiceLB uses it on every node)"
    )
    assert lines["dns"]["observed"] == f"{ADDRESS} -> {ADDRESS}, InternalIP of node k3s-1"


def test_occupied_ports_are_errors(k3s: KasmK3s, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(
        yaml.safe_dump({"publicAddr": ADDRESS, "directRdpService": {"enabled": True}})
    )
    with socket.create_server((ADDRESS, 3389)) as listener:
        threading.Thread(target=_take, args=(listener,), daemon=True).start()
        status, lines = k3s.preflight("-f", str(values))
    assert status == 1
    assert lines["port-443"]["severity"] == "error"
    assert "--ingress traefik" in lines["port-443"]["remedy"]["sentence"]
    assert lines["port-3389"]["severity"] == "error"
    assert f"something responds at {ADDRESS}" in lines["port-3389"]["observed"]


def _take(listener: socket.socket) -> None:
    try:
        listener.accept()[0].close()
    except OSError:
        return


def test_preflight_names_missing_rights(k3s: KasmK3s) -> None:
    kubeconfig = k3s.tools.kubeconfig_of("default", "kasm")
    status, lines = k3s.preflight(kubeconfig=kubeconfig)
    assert status == 3
    unknown = [check for check, line in lines.items() if line["severity"] == "unknown"]
    assert {
        "kubernetes",
        "nodes",
        "room",
        "storage-class",
        "port-443",
        "way-in",
        "dns",
        "namespace",
    } <= set(unknown)
    assert (
        lines["room"]["message"]
        == "system:serviceaccount:kasm:default may not list nodes in the cluster."
    )
    assert "--verb=list --resource=nodes" in lines["room"]["remedy"]["commands"][0]
    assert lines["helm"]["severity"] == "ok"


@pytest.mark.long
def test_named_preflight_rights_are_sufficient(k3s: KasmK3s) -> None:
    """With the rights that the lines name, granted one after the other, no line stays unknown."""
    kubeconfig = k3s.tools.kubeconfig_of("default", "kasm")
    for number in range(13):  # at most as many rounds as there are lines
        _, lines = k3s.preflight(kubeconfig=kubeconfig)
        asked = [
            line["remedy"]["commands"] for line in lines.values() if "may not" in line["message"]
        ]
        if not asked:
            assert number > 0
            return
        for command in dict.fromkeys(itertools.chain.from_iterable(asked)):
            k3s.tools.kubectl(*command.removeprefix("kubectl ").split())
    pytest.fail("it asks for more and more")
