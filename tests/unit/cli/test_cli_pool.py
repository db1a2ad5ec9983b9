"""The pool commands against a fake cluster."""

import json

import pytest

from unit.cli.conftest import Vdi
from unit.cli.fake_cluster import FakeCluster
from unit.cli.objects import POOLS, a_pool, conditions

STARTING = "One desktop is starting."
STATUS = {
    "ready": 1,
    "starting": 1,
    "claimed": 4,
    "message": STARTING,
    "conditions": conditions(Ready=STARTING),
}


pytestmark = pytest.mark.usefixtures("five_past_eight")


def test_pools_are_listed(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(POOLS, a_pool(status=STATUS))
    fake.put(POOLS, a_pool("cold", replicas=0))
    assert vdi("pool", "ls").out.splitlines() == [
        "NAME   TEMPLATE         DESIRED   READY   STARTING   CLAIMED   AGE",
        "cold   ubuntu-desktop   0         0       0          0         5m",
        "warm   ubuntu-desktop   2         1       1          4         5m",
    ]
    assert vdi("pool", "ls", "-o", "wide").out.splitlines()[2].endswith("One desktop is starting.")
    assert vdi("pool", "ls", "-o", "name").out == "vdipool/cold\nvdipool/warm\n"


def test_a_pool_is_shown(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(POOLS, a_pool(status=STATUS))
    assert vdi("pool", "show", "vdipool/warm").out == vdi("pool", "show", "warm").out
    assert (
        vdi("pool", "show", "warm").out == "Pool:      warm\n"
        "Template:  ubuntu-desktop\n"
        "Ready:     1 of 2, 1 starting\n"
        "Claimed:   running sessions with a desktop from this pool: 4\n"
        "Message:   One desktop is starting.\n"
        "Created:   2026-11-20T08:00:00Z (5m ago)\n"
        "\n"
        "Conditions\n"
        "  TYPE    STATUS   REASON    SINCE   MESSAGE\n"
        "  Ready   False    Waiting   4m55s   One desktop is starting.\n"
    )
    assert json.loads(vdi("pool", "show", "warm", "-o", "json").out)["status"]["claimed"] == 4


def test_scale_changes_what_is_desired(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(POOLS, a_pool())
    ran = vdi("pool", "scale", "warm", "--replicas", "5")
    assert (ran.code, ran.out) == (
        0,
        "pool warm: desktops to keep ready: 5; see vdi pool show warm\n",
    )
    assert fake.objects[f"{POOLS}/warm"]["spec"] == {"template": "ubuntu-desktop", "replicas": 5}


def test_fewer_than_none_is_refused_before_anything_is_sent(vdi: Vdi, fake: FakeCluster) -> None:
    ran = vdi("pool", "scale", "warm", "--replicas", "-1")
    assert ran.code == 2
    assert fake.requests == []


@pytest.mark.parametrize("words", [["show", "cold"], ["scale", "cold", "--replicas", "1"]])
def test_a_missing_pool_is_reported_with_the_known_pools(
    vdi: Vdi, fake: FakeCluster, words: list[str]
) -> None:
    fake.put(POOLS, a_pool())
    ran = vdi("pool", *words)
    assert (ran.code, ran.err) == (
        1,
        "Error: there is no pool cold; available on this cluster: warm\n",
    )
