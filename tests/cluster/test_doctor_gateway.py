"""A gateway beside the operator is nothing that the doctor complains of; what is lost of it is."""

import shlex
import subprocess
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from cluster.doctor_ward import DoctorStage
from cluster.operator_stage import Stage
from support.waiting import eventually
from tools.generate import chart
from vdi.findings.model import Finding, roots
from vdi.kinds import ROUTES
from vdi.kube.resource import DEPLOYMENTS, NETWORK_POLICIES, SECRETS, SERVICES
from vdi.session.children import DESKTOP_TRANSPORT
from vdi.session.cluster_settings import ClusterSettings
from vdi.snapshot.objects import MIDDLEWARES, SERVERS_TRANSPORTS

NO_HOME: dict[str, Any] = {"persistence": {"enabled": False}, "resources": {"defaultGPU": 0}}
KINDS = {
    kind.kind: kind
    for kind in (DEPLOYMENTS, SERVICES, ROUTES, MIDDLEWARES, SERVERS_TRANSPORTS, NETWORK_POLICIES)
}
SETTINGS = ClusterSettings(edge_middleware="vdi-edge")


@pytest.fixture
async def ward(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DoctorStage]:
    """Operator and gateway as the chart installs them, their pods played by the test."""
    ward = DoctorStage(stage, monkeypatch)
    await ward.deploy(
        VDI_EDGE_MIDDLEWARE="vdi-edge",
        VDI_GATEWAY_URL=f"http://vdi-gateway.{stage.namespace}.svc:8081",
    )
    env = {"VDI_NAMESPACE": stage.namespace, "VDI_GATEWAY_NAMESPACE": stage.namespace}
    ports = {"http": 8080, "internal": 8081}
    await ward.workload("vdi-gateway", env, ports=ports)
    for body in yaml.safe_load_all(chart.MANIFEST.read_text()):
        component = (
            (body or {}).get("metadata", {}).get("labels", {}).get("app.kubernetes.io/component")
        )
        if component == "gateway" and body["kind"] in KINDS and body["kind"] != "Deployment":
            del body["metadata"]["namespace"]
            if body["kind"] == "Service":
                body["spec"]["selector"] = {"app": "vdi-gateway"}
            if auth := body["spec"].get("forwardAuth"):
                auth["address"] = auth["address"].replace(".vdi-system.", f".{stage.namespace}.")
            await stage.api.create(
                KINDS[body["kind"]], body, namespace=stage.namespace, into=msgspec.Raw
            )
    yield ward
    await ward.clear()


async def test_a_healthy_cluster_with_a_gateway_has_no_findings(ward: DoctorStage) -> None:
    ward.later = timedelta()
    template = await ward.stage.template(**NO_HOME)
    async with ward.at_work(cluster=SETTINGS):
        await ward.running("alice", template)
        route = await ward.stage.get(ROUTES, "alice")
        assert route and route["spec"]["routes"][0]["middlewares"] == [{"name": "vdi-edge"}]
        assert ward.of_here(await ward.look()) == []


@pytest.mark.long
async def test_transport_and_login_secret_are_found_missing(
    ward: DoctorStage, kubectl: list[str], tmp_path: Path
) -> None:
    """The findings are gone after their remedies."""

    def paste(finding: Finding) -> None:
        (command,) = finding.remedy.commands
        script = f'kubectl() {{ {shlex.join(kubectl)} "$@"; }}; set -o pipefail; {command}'
        run = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert run.returncode == 0, run.stderr

    async def found(*codes: str) -> dict[str, Finding]:
        seen: dict[str, Finding] = {}

        async def look() -> bool:
            seen.clear()
            seen.update(
                {finding.code: finding for finding in roots(ward.of_here(await ward.look()))}
            )
            return set(seen) == set(codes)

        await eventually(look, f"the findings are {codes}")
        return seen

    template = await ward.stage.template(
        **NO_HOME, protocol="Web", scheme="HTTPS", port=6901, basicAuthSecret={"name": "kasmvnc"}
    )
    (tmp_path / "username").write_text("kasm_user")
    (tmp_path / "password").write_text("of-the-image")
    async with ward.at_work(cluster=SETTINGS):
        await ward.running("alice", template)
        first = await found("servers_transport_missing", "basic_auth_secret_missing")
        assert (
            f"Template {template} names in basicAuthSecret"
            in first["basic_auth_secret_missing"].message
        )
        assert "which does not exist" in first["basic_auth_secret_missing"].message
        # Its remedy is an upgrade of the release, and here is none.
        meta = {"metadata": {"name": DESKTOP_TRANSPORT}, "spec": {"insecureSkipVerify": True}}
        body = {
            "apiVersion": SERVERS_TRANSPORTS.api_version,
            "kind": SERVERS_TRANSPORTS.kind,
            **meta,
        }
        await ward.stage.api.create(
            SERVERS_TRANSPORTS, body, namespace=ward.namespace, into=msgspec.Raw
        )
        paste((await found("basic_auth_secret_missing"))["basic_auth_secret_missing"])
        await found()
        await ward.stage.patch(SECRETS, "kasmvnc", {"data": {"password": None}})
        without_key = (await found("basic_auth_secret_missing"))["basic_auth_secret_missing"]
        assert (
            "which needs the keys 'username' (without a colon) and 'password'"
            in without_key.message
        )
        paste(without_key)
        await found()
