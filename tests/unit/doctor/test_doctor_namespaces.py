"""What the doctor says of an operator that works in several namespaces of sessions."""

import msgspec
import pytest

from unit.doctor.doctor_builders import SPACE, Cluster
from unit.doctor.doctor_faults import second_operator
from vdi.doctor.checks.run import run_checks
from vdi.doctor.objects.components import is_led, lease_namespace
from vdi.snapshot.model import Scope

LAB = "lab"


@pytest.fixture
def cluster() -> Cluster:
    """A healthy cluster whose operator works in two namespaces."""
    cluster = Cluster()
    cluster.operator_env[0]["value"] = f"{SPACE},{LAB}"
    return cluster


def found(cluster: Cluster, namespace: str = "") -> list[tuple[str, str]]:
    snapshot = msgspec.structs.replace(cluster.snapshot(), scope=Scope(namespace))
    return [(finding.code, finding.message) for finding in run_checks(snapshot)]


def move_session(cluster: Cluster) -> None:
    """The session, with all that it has, into the second namespace."""
    for objects in cluster.objects.values():
        for raw in objects:
            meta = raw["metadata"]
            if meta.get("namespace") == SPACE and meta["name"].startswith(("alice", "home-")):
                meta["namespace"] = LAB


@pytest.mark.parametrize("namespace", ["", SPACE, LAB])
def test_a_healthy_operator_of_two_namespaces_has_no_finding(
    cluster: Cluster, namespace: str
) -> None:
    assert found(cluster, namespace) == []


def test_the_lease_of_the_second_namespace_is_in_the_first(cluster: Cluster) -> None:
    snapshot = cluster.snapshot()
    assert lease_namespace(snapshot, LAB) == SPACE
    assert is_led(snapshot, LAB)
    assert lease_namespace(snapshot, "elsewhere") == "elsewhere"


def test_sessions_of_the_second_namespace_are_watched(cluster: Cluster) -> None:
    move_session(cluster)
    assert "session_unwatched" not in {code for code, _ in found(cluster)}
    cluster.one("vdisessions")["metadata"]["namespace"] = "elsewhere"
    (message,) = [message for code, message in found(cluster) if code == "session_unwatched"]
    assert f"Watched: {LAB}, {SPACE}." in message


def test_operators_that_share_a_namespace_collide(cluster: Cluster) -> None:
    second_operator(cluster, VDI_NAMESPACE=f"third,{LAB}", VDI_DOMAIN="lab.example.com")
    (message,) = [message for code, message in found(cluster) if code == "operators_collide"]
    assert (
        "watch the namespace lab. Both are active there and revert each other's changes." in message
    )
