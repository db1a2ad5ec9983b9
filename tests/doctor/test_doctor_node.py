"""The doctor on a real node: each fault is made for real, the top finding is its cause, its bundle
says the same.
"""

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from doctor.node_faults import FAULTS, RELEASE
from doctor.outsider_faults import component_of, stopped
from doctor.test_outsider_faults import OLDER_NODE
from e2e.desktops import start
from e2e.world import NAMESPACE, World
from support.waiting import wait_until
from vdi.doctor.checks.run import CHECKS, UNPRIVILEGED, run_checks
from vdi.doctor.collect import collect
from vdi.findings.model import Finding, roots
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.config import load_config
from vdi.kube.transport import Client
from vdi.snapshot.model import Scope, Snapshot

pytestmark = pytest.mark.timeout(420)
# Seconds: the kubelet's pauses and the doctor's own patience with what may pass by itself.
PATIENCE = 150.0


def look(world: World, *, releases: bool = False) -> tuple[Snapshot, list[Finding]]:
    """What `vdi doctor` sees and says."""

    async def read() -> Snapshot:
        async with Client(load_config(world.kubeconfig, None), field_manager="doctor") as client:
            checks = CHECKS if releases else UNPRIVILEGED
            return await collect(client, Scope(NAMESPACE, ""), SYSTEM_CLOCK, checks)

    snapshot = asyncio.run(read())
    return snapshot, [finding for finding in run_checks(snapshot) if finding.code != OLDER_NODE]


def reported(findings: list[Finding]) -> list[str]:
    return [f"{finding.key}: {finding.message}" for finding in findings]


def finds(
    world: World, what: str, good: Callable[[list[Finding]], bool], *, releases: bool = False
) -> None:
    """Wait until the doctor says that."""
    last: list[str] = []

    def looked() -> bool:
        _, found = look(world, releases=releases)
        last[:] = reported(found)
        return good(found)

    try:
        wait_until(what, looked, PATIENCE, every=2.0)
    except AssertionError as error:
        raise AssertionError(f"{error}; it says {last}") from None


def is_healthy(world: World) -> None:
    """Wait until there is nothing to be found."""
    finds(world, "no problems found", lambda found: not found)


def command(world: World, *words: str) -> list[dict[str, Any]]:
    """The findings that the command prints, causes first."""
    said = world.vdi("doctor", "-o", "json", *words, check=False)
    found: list[dict[str, Any]] = json.loads(said)["findings"]
    return [finding for finding in found if finding["code"] != OLDER_NODE]


def secrets_of(world: World) -> set[str]:
    """The values of all Secrets of the cluster that are long enough to be one, but not the
    namespace beside a token.
    """
    secrets = json.loads(world.kubectl("get", "secrets", "-A", "-o", "json"))["items"]
    entries = [entry for secret in secrets for entry in (secret.get("data") or {}).items()]
    values = {base64.b64decode(value) for key, value in entries if key != "namespace"}
    return {
        text
        for value in values
        if 8 <= len(value) <= 4096 and (text := value.decode("utf-8", "ignore")).strip()
    }


def test_nothing_is_wrong(sessions: World) -> None:
    is_healthy(sessions)
    sessions.vdi(
        "session", "create", "well", "--user", "well@example.com", "--template", "small", "--wait"
    )
    is_healthy(sessions)


def test_the_way_in_is_tried(sessions: World) -> None:
    """Nothing enforces the node's NetworkPolicies; its own authority is no fault. What the probe
    made is gone then.
    """
    start(sessions, "tried", "small")
    is_healthy(sessions)
    found = command(sessions, "--probe")
    assert {one["code"] for one in found} == {"network_policy_not_enforced"}, found
    left = sessions.kubectl("get", "pods,pvc", "-o", "name")
    assert "vdi-probe" not in left


def test_without_names_the_probe_shows_no_second_cause(sessions: World) -> None:
    start(sessions, "nameless", "small")
    with FAULTS["names_are_not_found"][1](sessions):
        finds(sessions, "DNS is down", lambda found: bool(found) and found[0].code == "dns_down")
        found = command(sessions, "--probe")
        causes = {finding["code"] for finding in found if not finding["caused_by"]}
        assert causes - {"network_policy_not_enforced"} == {"dns_down"}, found
    is_healthy(sessions)


def test_stopped_kube_proxy_is_found_on_the_node(sessions: World) -> None:
    """By a plain run in the node's network: only there a Service's address leads anywhere. Rules
    for pods that do not change outlive kube-proxy.
    """
    kubelet = str(component_of("kubelet").pid)
    doctor = ["nsenter", "--target", kubelet, "--net", sys.executable, "-m", "vdi", "doctor"]
    env = {**os.environ, "KUBECONFIG": str(sessions.kubeconfig)}

    def first_code() -> str:
        done = subprocess.run(
            [*doctor, "-o", "json"], env=env, capture_output=True, text=True, check=False
        )
        found = json.loads(done.stdout)["findings"]
        return next((one["code"] for one in found if one["code"] != OLDER_NODE), "")

    assert first_code() == ""
    with stopped("kube-proxy"):
        sessions.kubectl(*RELEASE, "rollout", "restart", "deployment/vdi-gateway")
        wait_until(
            "kube-proxy is named first",
            lambda: first_code() == "kube_proxy_down",
            PATIENCE,
            every=3.0,
        )
    wait_until("nothing is found there", lambda: first_code() == "", PATIENCE, every=3.0)


def test_an_upgrade_and_ordinary_starts_are_no_findings(sessions: World) -> None:
    """A doctor that cries wolf is not used."""
    restart = ("rollout", "restart", "deployment/vdi-operator", "deployment/vdi-gateway")
    sessions.kubectl(*RELEASE, *restart)
    for name in ("early", "late"):
        start(sessions, name, "small", wait=False)
    cried = []
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        cried += reported(look(sessions)[1])
        status = sessions.kubectl(*RELEASE, "get", "deployments", "-o", "json")
        settled = all(is_rolled_out(one) for one in json.loads(status)["items"])
        running = [session["status"].get("phase") for session in sessions.items("vdi")]
        if settled and running == ["Running", "Running"]:
            break
    assert settled, "the upgrade did not end"
    assert running == ["Running", "Running"]
    assert cried == []


def is_rolled_out(deployment: dict[str, Any]) -> bool:
    """As `kubectl rollout status` sees it."""
    desired, status = deployment["spec"]["replicas"], deployment["status"]
    return bool(
        status.get("observedGeneration") == deployment["metadata"]["generation"]
        and status.get("updatedReplicas")
        == status.get("readyReplicas")
        == status.get("replicas")
        == desired
    )


@pytest.mark.parametrize(
    "names",
    [
        ("names_are_not_found", "the_template_is_gone"),
        ("the_image_is_nowhere", "the_middleware_is_gone"),
    ],
    ids="+".join,
)
def test_two_causes_at_once_are_both_named(sessions: World, names: tuple[str, str]) -> None:
    codes = {FAULTS[name][0] for name in names}
    with contextlib.ExitStack() as broken:
        for name in names:
            broken.enter_context(FAULTS[name][1](sessions))

        finds(
            sessions,
            f"{codes} are named as causes",
            lambda found: codes <= {root.code for root in roots(found)},
        )
    sessions.kubectl("delete", "vdi", "--all", "--wait=true", "--timeout=60s")
    is_healthy(sessions)


@pytest.mark.parametrize("name", FAULTS)
def test_the_cause_comes_first(sessions: World, name: str, tmp_path: Path) -> None:
    code, broken = FAULTS[name]
    bundle = tmp_path / "bundle.json"
    with broken(sessions):
        # Compared with Helm's record, most of these faults have that one cause.
        compares = code == "release_differs"
        what = f"the top finding is {code}"
        finds(
            sessions, what, lambda found: bool(found) and found[0].code == code, releases=compares
        )
        live = command(sessions, "--bundle", str(bundle))
        replayed = command(sessions, "--from", str(bundle))
        assert [(one["code"], one["caused_by"] != "") for one in replayed] == [
            (one["code"], one["caused_by"] != "") for one in live
        ]
        text = bundle.read_text()
        leaked = [value for value in secrets_of(sessions) if value in text]
        assert leaked == [], "a bundle holds no secret"
    sessions.kubectl("delete", "vdi", "--all", "--wait=true", "--timeout=60s")
    is_healthy(sessions)
