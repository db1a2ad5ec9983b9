"""A gateway of several namespaces: where a new session goes, and which one a name means."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.waiting import eventually
from unit.gateway.test_actions import ALICE, BOB, NS, ROOT, Replica, SharedCluster, requested
from unit.kube.kube_fake_api import fake_api
from vdi.gateway.denied import ActionDenied
from vdi.gateway.rights import User
from vdi.gateway.settings import Settings, read_settings
from vdi.session.actions import Suspend
from vdi.session.naming import MANAGED_BY, home_claim_name
from vdi.settings import SettingsError

LAB, THIRD = "lab", "third"
SETTINGS = Settings(
    namespaces=(NS, LAB, THIRD), group_namespaces={"engineering": LAB, "staff": NS, "guests": THIRD}
)
ENGINEER = User("carol@example.com", groups=frozenset({"engineering", "all"}))
OF_HOME = home_claim_name(session_name="", user=ALICE.email, template="desktop", retain=True)


@pytest.fixture
async def stage() -> AsyncIterator[SharedCluster]:
    async with fake_api() as api:
        yield SharedCluster(api)


@pytest.fixture
async def gateway(stage: SharedCluster) -> AsyncIterator[Replica]:
    async with stage.replica(settings=SETTINGS) as gateway:
        yield gateway


def places(stage: SharedCluster) -> dict[str, str]:
    """Namespace of each session, by name."""
    return {name: namespace for kind, namespace, name in stage.api.objects if kind == "vdisessions"}


def put_home(stage: SharedCluster, namespace: str) -> None:
    metadata = {"labels": MANAGED_BY, "annotations": {"vdi.kasm.io/user": ALICE.email}}
    stage.api.put(
        "persistentvolumeclaims", OF_HOME, namespace=namespace, metadata=metadata, spec={}
    )


@pytest.mark.parametrize(
    ("groups", "namespace"),
    [
        ((), NS),
        (("others",), NS),
        (("engineering",), LAB),
        (("guests", "engineering"), LAB),
        (("staff", "guests"), NS),
    ],
)
def test_the_first_namespace_of_the_groups_is_chosen(
    groups: tuple[str, ...], namespace: str
) -> None:
    assert SETTINGS.namespace_for(groups) == namespace


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"staff": "labs"}', "staff: 'labs': allowed: desks, lab"),
        ("staff=lab", "JSON with groups and namespaces"),
    ],
)
def test_unusable_group_namespaces_are_refused(text: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=f"VDI_GROUP_NAMESPACES.*{reason}"):
        read_settings({"VDI_NAMESPACE": "desks,lab", "VDI_GROUP_NAMESPACES": text})


async def test_a_new_session_goes_to_the_namespace_of_the_group(
    stage: SharedCluster, gateway: Replica
) -> None:
    made = await gateway.actions.start(ENGINEER, requested(ENGINEER))
    assert made.metadata.namespace == LAB
    await gateway.actions.start(ALICE, requested())
    await gateway.actions.start(ROOT, requested(BOB))
    assert places(stage) == {"carol-desktop": LAB, "alice-desktop": NS, "bob-desktop": NS}


async def test_an_action_goes_to_the_session_s_namespace(
    stage: SharedCluster, gateway: Replica
) -> None:
    await gateway.actions.start(ENGINEER, requested(ENGINEER))
    await gateway.actions.act(ENGINEER, "carol-desktop", Suspend())
    assert stage.api.objects["vdisessions", LAB, "carol-desktop"]["spec"]["suspended"] is True
    await gateway.actions.end(ENGINEER, "carol-desktop")
    assert places(stage) == {}


async def test_a_session_of_another_replica_is_found(
    stage: SharedCluster, gateway: Replica
) -> None:
    stage.put_session("new", namespace=THIRD)  # the watch may bring it later
    assert (await gateway.actions.act(ALICE, "new", Suspend())).metadata.namespace == THIRD


async def test_a_name_of_another_namespace_is_taken(stage: SharedCluster, gateway: Replica) -> None:
    stage.put_session("cad", ENGINEER, namespace=LAB)
    await eventually(lambda: gateway.world.session("cad"), "the watch has brought it")
    with pytest.raises(ActionDenied, match="name: 'cad' is not available"):
        await gateway.actions.start(ALICE, requested(name="cad"))
    with pytest.raises(ActionDenied, match="You already have the desktop 'cad'"):
        moved = User(ENGINEER.email)  # no member of the group any more
        await gateway.actions.start(moved, requested(moved, name="cad"))
    assert places(stage) == {"cad": LAB}


async def test_of_two_sessions_of_a_name_the_admitted_one_is_meant(
    stage: SharedCluster, gateway: Replica
) -> None:
    condition = {
        "type": "Admitted",
        "status": "False",
        "reason": "NameTaken",
        "message": "",
        "lastTransitionTime": "",
    }
    spec: dict[str, Any] = {"user": ALICE.email, "template": "desktop"}
    stage.api.put("vdisessions", "cad", namespace=NS, spec=spec, status={"conditions": [condition]})
    stage.put_session("cad", ENGINEER, namespace=LAB)
    await eventually(lambda: len(gateway.world.sessions) == 2, "both are known")
    session = gateway.world.session("cad")
    assert session and session.metadata.namespace == LAB
    with pytest.raises(ActionDenied, match="You have no desktop 'cad'"):
        await gateway.actions.act(ALICE, "cad", Suspend())


async def test_before_the_operator_the_older_session_has_the_name(
    stage: SharedCluster, gateway: Replica
) -> None:
    spec: dict[str, Any] = {"user": ALICE.email, "template": "desktop"}
    for namespace, created in ((NS, "2026-11-02T09:00:00Z"), (LAB, "2026-11-01T09:00:00Z")):
        stage.api.put(
            "vdisessions",
            "cad",
            namespace=namespace,
            spec=spec,
            metadata={"creationTimestamp": created},
        )
    await eventually(lambda: len(gateway.world.sessions) == 2, "both are known")
    session = gateway.world.session("cad")
    assert session and session.metadata.namespace == LAB


async def test_limits_count_sessions_of_all_namespaces(stage: SharedCluster) -> None:
    stage.put_session("first", ENGINEER, namespace=NS)
    async with stage.replica("default: {sessions: 1}", SETTINGS) as gateway:
        with pytest.raises(ActionDenied, match="first"):
            await gateway.actions.start(ENGINEER, requested(ENGINEER, name="second"))


async def test_a_home_is_deleted_where_it_is(stage: SharedCluster, gateway: Replica) -> None:
    put_home(stage, LAB)
    await eventually(lambda: gateway.world.home_of(ALICE.email, OF_HOME), "the home is known")
    await gateway.actions.delete_home(ALICE, OF_HOME)
    assert ("persistentvolumeclaims", LAB, OF_HOME) not in stage.api.objects


async def test_of_two_homes_of_one_name_none_is_deleted(
    stage: SharedCluster, gateway: Replica
) -> None:
    put_home(stage, NS)
    put_home(stage, LAB)
    await eventually(lambda: len(gateway.world.homes_of(ALICE.email)) == 2, "both are known")
    assert [home.namespace for home in gateway.world.homes_of(ALICE.email)] == [LAB, NS]
    with pytest.raises(
        ActionDenied, match=r"in each of the namespaces lab and vdi-sessions. Nothing was deleted"
    ):
        await gateway.actions.delete_home(ALICE, OF_HOME)
    assert len([kind for kind, _, _ in stage.api.objects if kind == "persistentvolumeclaims"]) == 2


async def test_one_namespace_has_two_watches_and_the_cluster_two(
    stage: SharedCluster, gateway: Replica
) -> None:
    """As many as before there could be several."""
    async with stage.replica() as single:
        assert len(single.world.reflectors) == 4
    assert len(gateway.world.reflectors) == 2 + 2 * len(SETTINGS.namespaces)
