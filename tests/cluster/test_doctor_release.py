"""A release that Helm installed, changed by hand: the doctor names object, field and program; Helm
puts it back.
"""

import asyncio
from collections.abc import Iterator

import pytest

from cluster.helm_tools import Tools
from cluster.release_stage import pods_get_ready
from vdi.doctor.checks.run import CHECKS, run_checks
from vdi.doctor.collect import collect
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.config import load_config
from vdi.kube.transport import Client
from vdi.snapshot.model import Difference, Scope, Snapshot

pytestmark = pytest.mark.timeout(400)
SESSIONS, RELEASE = ("-n", "vdi-sessions"), ("-n", "vdi-system")
MERGE = ("--type", "merge", "--patch")
_EDGE = "middlewares.traefik.io"
_AUTH = '{"spec":{"forwardAuth":{"address":"http://vdi-gateway.kasm.svc:8081/edge/verify"}}}'
_CHAIN = '{"spec":{"chain":{"middlewares":[{"name":"vdi-edge-headers"}]}}}'
_PORTS = '[{"op":"replace","path":"/spec/ports/1/targetPort","value":9091}]'
_WHOM = "vdi-who-may-name-whom.vdi-system.vdi"
_STATUS = '[{"op":"remove","path":"/spec/versions/0/subresources/status"}]'
# Command of kubectl, object as findings name it, and the beginning of the field; empty: the object.
CHANGES = [
    (
        ("delete", "ingressroute", "vdi-gateway", *RELEASE),
        "ingressroute/vdi-system/vdi-gateway",
        "",
    ),
    (
        ("delete", "secret", "vdi-gateway-users", *RELEASE),
        "secret/vdi-system/vdi-gateway-users",
        "",
    ),
    (("delete", "rolebinding", "vdi-gateway", *RELEASE), "rolebinding/vdi-system/vdi-gateway", ""),
    (
        ("delete", "rolebinding", "vdi-operator", *SESSIONS),
        "rolebinding/vdi-sessions/vdi-operator",
        "",
    ),
    (
        ("delete", "validatingadmissionpolicybinding", _WHOM),
        f"validatingadmissionpolicybinding/{_WHOM}",
        "",
    ),
    (
        ("patch", "role", "vdi-operator", *SESSIONS, *MERGE, '{"rules":[]}'),
        "role/vdi-sessions/vdi-operator",
        "rules",
    ),
    (
        ("set", "env", "deployment/vdi-operator", "VDI_DOMAIN=b.example.com", *RELEASE),
        "deployment/vdi-system/vdi-operator",
        "spec.template.spec.containers[operator].env[VDI_DOMAIN].value",
    ),
    (
        (
            "patch",
            "service",
            "vdi-gateway",
            *RELEASE,
            *MERGE,
            '{"spec":{"selector":{"track":"stable"}}}',
        ),
        "service/vdi-system/vdi-gateway",
        "spec.selector",
    ),
    (
        ("patch", "service", "vdi-gateway", *RELEASE, "--type", "json", "--patch", _PORTS),
        "service/vdi-system/vdi-gateway",
        "spec.ports",
    ),
    (
        ("patch", "networkpolicy", "vdi-desktops", *SESSIONS, *MERGE, '{"spec":{"egress":[]}}'),
        "networkpolicy/vdi-sessions/vdi-desktops",
        "spec.egress",
    ),
    (
        ("patch", _EDGE, "vdi-edge-auth", *SESSIONS, *MERGE, _AUTH),
        "middleware/vdi-sessions/vdi-edge-auth",
        "spec.forwardAuth.address",
    ),
    (
        ("patch", _EDGE, "vdi-edge", *SESSIONS, *MERGE, _CHAIN),
        "middleware/vdi-sessions/vdi-edge",
        "spec.chain",
    ),
    (
        (
            "patch",
            "ingressroute",
            "vdi-gateway",
            *RELEASE,
            *MERGE,
            '{"spec":{"entryPoints":["https"]}}',
        ),
        "ingressroute/vdi-system/vdi-gateway",
        "spec.entryPoints",
    ),
    (
        ("patch", "crd", "vdisessions.vdi.kasm.io", "--type", "json", "--patch", _STATUS),
        "customresourcedefinition/vdisessions.vdi.kasm.io",
        "spec.versions",
    ),
]


@pytest.fixture(scope="module")
def well(tools: Tools) -> Iterator[Tools]:
    """A release whose pods are ready."""
    tools.upgrade()
    with pods_get_ready(tools.kubeconfig):
        tools.kubectl("rollout", "status", "deployment/vdi-operator", *RELEASE, "--timeout=60s")
        tools.kubectl("rollout", "status", "deployment/vdi-gateway", *RELEASE, "--timeout=60s")
        yield tools


def look(tools: Tools) -> Snapshot:
    async def read() -> Snapshot:
        async with Client(load_config(tools.kubeconfig, None), field_manager="doctor") as client:
            return await collect(client, Scope(), SYSTEM_CLOCK, CHECKS)

    return asyncio.run(read())


def put_back(tools: Tools, difference: Difference) -> None:
    done = tools.helm(*difference.rollback.split()[1:])
    assert done.returncode == 0, done.stderr


def test_a_release_as_installed_has_no_differences(well: Tools) -> None:
    assert look(well).differences == ()
    well.kubectl("rollout", "restart", "deployment/vdi-operator", *RELEASE)
    assert look(well).differences == (), "a restart changes nothing that Helm has set"


@pytest.mark.parametrize(
    ("command", "name", "field"),
    [CHANGES[0], *(pytest.param(*change, marks=pytest.mark.ci) for change in CHANGES[1:])],
    ids=[name for _, name, _ in CHANGES],
)
def test_a_change_by_hand_is_named_first_and_put_back(
    well: Tools, command: tuple[str, ...], name: str, field: str
) -> None:
    well.kubectl(*command)
    snapshot = look(well)
    first = run_checks(snapshot)[0]
    difference = snapshot.differences[0]
    assert (first.code, first.object, difference.object) == ("release_differs", name, name)
    assert difference.field.startswith(field)
    # Where a field was only taken away, no trace of the program is left.
    assert not difference.manager or difference.manager.startswith("kubectl-")
    put_back(well, difference)
    assert look(well).differences == ()
