"""A release that Helm installed, changed by hand: the doctor names object, field and program; Helm puts it back."""

import asyncio
import time

import pytest

from cluster.helm_tools import Tools
from vdi.doctor.installed import read_differences
from vdi.kube.config import load_config
from vdi.kube.transport import Client
from vdi.snapshot.model import Difference

pytestmark = pytest.mark.timeout(120)
SESSIONS, RELEASE = ("-n", "vdi-sessions"), ("-n", "vdi-system")
MERGE = ("--type", "merge", "--patch")
POLICY = '{"spec":{"egress":[{"to":[{"podSelector":{}}]}]}}'
# Command of kubectl, object as findings name it, and the field; empty: the object.
CHANGES = [
    (("delete", "ingressroute", "vdi-gateway", *RELEASE), "ingressroute/vdi-system/vdi-gateway", ""),
    (("delete", "secret", "vdi-gateway-users", *RELEASE), "secret/vdi-system/vdi-gateway-users", ""),
    (("delete", "rolebinding", "vdi-operator", *SESSIONS), "rolebinding/vdi-sessions/vdi-operator", ""),
    (("patch", "role", "vdi-operator", *SESSIONS, *MERGE, '{"rules":[]}'), "role/vdi-sessions/vdi-operator", "rules"),
    (
        ("set", "env", "deployment/vdi-operator", "VDI_DOMAIN=b.example.com", *RELEASE),
        "deployment/vdi-system/vdi-operator",
        "spec.template.spec.containers[operator].env[VDI_DOMAIN].value",
    ),
    (
        ("patch", "service", "vdi-gateway", *RELEASE, *MERGE, '{"spec":{"selector":{"track":"stable"}}}'),
        "service/vdi-system/vdi-gateway",
        "spec.selector",
    ),
    (
        ("label", "namespace", "vdi-sessions", "app.kubernetes.io/instance-"),
        "namespace/vdi-sessions",
        "metadata.labels",
    ),
]


def look(tools: Tools) -> list[Difference]:
    async def read() -> list[Difference]:
        async with Client(load_config(tools.kubeconfig, None), field_manager="doctor") as client:
            return await read_differences(client, "vdi-system", "vdi")

    return asyncio.run(read())


def test_a_release_as_installed_has_no_differences(release: Tools) -> None:
    began = time.monotonic()
    assert look(release) == []
    print(f"{time.monotonic() - began:.2f} s")
    rollout = ("rollout", "restart", "deployment/vdi-operator", *RELEASE)
    release.kubectl(*rollout)
    assert look(release) == []


def test_changes_by_hand_are_named_and_put_back_by_helm(release: Tools) -> None:
    for command, _, _ in CHANGES:
        release.kubectl(*command)
    found = look(release)
    for difference in found:
        print(difference)
    assert {difference.object for difference in found} == {name for _, name, _ in CHANGES}
    for _, name, field in CHANGES:
        assert any(one.object == name and one.field.startswith(field) for one in found), name
    # Of a label that was taken away no trace is left.
    assert {one.manager.partition("-")[0] for one in found if one.field} == {"kubectl", ""}
    rollback = release.helm(*found[0].rollback.split()[1:])
    assert rollback.returncode == 0, rollback.stderr
    print(look(release))
    assert look(release) == []
