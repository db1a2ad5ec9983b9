"""The two checklists on a real node: preflight before, validation after, through the node's own
Traefik.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from kasm.conftest import NAME
from kasm.kasm_ward import KasmStage
from support.waiting import wait_until
from vdi.cli.main import main
from vdi.devcluster import cluster
from vdi.devcluster.progress import Progress


def checklist(
    ward: KasmStage, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, dict[str, Any]]:
    """Exit status, and lines by check."""
    place = (
        "--namespace",
        ward.namespace,
        "--kubeconfig",
        str(ward.tools.kubeconfig),
        "-o",
        "json",
    )
    capsys.readouterr()
    status = main(["kasm", *words, *place])
    return status, {line["code"]: line for line in json.loads(capsys.readouterr().out)["findings"]}


@pytest.fixture
def traefik(ward: KasmStage, tmp_path: Path) -> str:
    """The address at which the node's Traefik takes HTTPS."""
    with Progress(tmp_path) as progress:
        return f"127.0.0.1:{cluster.up(NAME, progress=progress).websecure_port}"


@pytest.mark.parametrize("letter", ["a", "b", "c"])
def test_installation_is_valid_through_the_ingress(
    ward: KasmStage, letter: str, traefik: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ward.install(letter, **answering(letter, f"{letter}.kasm.example.test"))
    seen: dict[str, Any] = {}

    def whole() -> bool:
        seen.update(checklist(ward, capsys, "validate", "--connect", traefik)[1])
        return all(line["severity"] in ("ok", "warning") for line in seen.values())

    try:
        wait_until(f"generation {letter} is whole", whole, 180)
    except AssertionError as error:
        bad = {check: line for check, line in seen.items() if line["severity"] != "ok"}
        raise AssertionError(f"{error}: {json.dumps(bad, indent=1)}") from None
    assert {check for check, line in seen.items() if line["severity"] == "warning"} <= {
        "web-ui",
        "way-in",
    }
    assert seen["web-ui"]["observed"].startswith("200")

    ward.kubectl("scale", "deployment", "--all", "--replicas=0")
    wait_until("nobody answers any more", lambda: "web-ui" in failing(ward, capsys, traefik))
    assert {"web-ui", "services"} <= failing(ward, capsys, traefik)


def answering(letter: str, host: str) -> dict[str, str]:
    """A host of its own, since the node has one Traefik; and a proxy that hands on to the API, as
    Kasm's does.
    """
    health = "/api/__healthcheck"
    if letter == "a":
        return {"global__hostname": host, "kasmApp__servicesToDeploy__kasmProxy__health": health}
    return {"publicAddr": host, "components__proxy__health": health}


def failing(ward: KasmStage, capsys: pytest.CaptureFixture[str], traefik: str) -> set[str]:
    _, lines = checklist(ward, capsys, "validate", "--connect", traefik)
    return {check for check, line in lines.items() if line["severity"] == "error"}


def test_preflight_measures_this_machine(
    ward: KasmStage, capsys: pytest.CaptureFixture[str]
) -> None:
    _, lines = checklist(ward, capsys, "preflight", "--chart-version", "1.1190.8")
    assert lines["cpu"]["observed"] == f"{os.cpu_count()} cores"
    size = shutil.disk_usage("/var/lib").total / 1e9
    assert abs(float(lines["disk"]["observed"].split(" GB")[0]) - size) < 0.2 * size
    assert lines["storage-class"]["severity"] == "ok"
