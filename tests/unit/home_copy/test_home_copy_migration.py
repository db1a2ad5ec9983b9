"""Which homes move where, and what is in the way. Without a cluster."""

from typing import Any

import msgspec
import pytest

from support.builders import a_session, a_template
from vdi.api.template import HomeScope
from vdi.home_copy.migration import Migration, find_ending, find_refusal, plan_migrations
from vdi.session.home_list import HomeSummary
from vdi.session.naming import home_claim_name, user_home_claim_name
from vdi.session.observed import PersistentVolumeClaim, Pod

ALICE, BOB = "alice@example.com", "bob@example.com"
CAD = a_template("cad", persistence={"scope": "User", "size": "10Gi", "storageClass": "fast"})


def of_template(user: str, template: str = "cad") -> str:
    return home_claim_name(session_name="", user=user, template=template, retain=True)


def a_home(name: str, user: str, template: str = "", **more: Any) -> HomeSummary:
    scope = HomeScope.USER_AND_TEMPLATE if template else HomeScope.USER
    return HomeSummary(name=name, namespace="vdi", uid=name, user=user, scope=scope.value, template=template, **more)


def a_claim(name: str, **annotations: str) -> PersistentVolumeClaim:
    notes = {f"vdi.kasm.io/{key}": value for key, value in annotations.items()}
    return msgspec.convert({"metadata": {"name": name, "annotations": notes}}, PersistentVolumeClaim)


def test_homes_of_the_template_go_into_those_of_their_users() -> None:
    homes = [
        a_home(of_template(ALICE), ALICE, "cad", size="20Gi"),
        a_home(of_template(BOB), BOB, "cad", size="5Gi"),
        a_home(of_template(ALICE, "office"), ALICE, "office"),
        a_home(user_home_claim_name(ALICE), ALICE),
        a_home("alice-cad-home", ALICE, "cad", deleted="2026-11-20T08:00:00Z"),
    ]
    found = plan_migrations(homes, CAD, HomeScope.USER, None)
    assert [(one.source, one.target.claim) for one in found] == [
        (of_template(ALICE), user_home_claim_name(ALICE)),
        (of_template(BOB), user_home_claim_name(BOB)),
    ]
    assert [one.target.size for one in found] == ["20Gi", "10Gi"], "never smaller than the old home"
    assert (found[0].target.storage_class, found[0].target.of_user, found[0].replaces) == ("fast", True, True)
    (only,) = plan_migrations(homes, CAD, HomeScope.USER, BOB)
    assert only.user == BOB


def test_homes_of_users_go_into_those_of_the_template_and_stay_in_use() -> None:
    homes = [a_home(of_template(ALICE), ALICE, "cad"), a_home(user_home_claim_name(BOB), BOB)]
    (found,) = plan_migrations(homes, CAD, HomeScope.USER_AND_TEMPLATE, None)
    assert (found.source, found.target.claim, found.replaces) == (user_home_claim_name(BOB), of_template(BOB), False)


def test_what_has_moved_is_left_out_until_its_marks_are_left() -> None:
    """A run that was killed between the switch and its last line left a mark, which keeps desktops away."""
    moved = a_home(of_template(ALICE), ALICE, "cad", migrated_to=user_home_claim_name(ALICE))
    assert plan_migrations([moved], CAD, HomeScope.USER, None) == []
    marked = msgspec.structs.replace(moved, copying="vdi home migrate")
    (found,) = plan_migrations([marked], CAD, HomeScope.USER, None)
    assert found.switched


def a_migration() -> Migration:
    (found,) = plan_migrations([a_home(of_template(ALICE), ALICE, "cad")], CAD, HomeScope.USER, None)
    return found


def a_pod(claim: str, phase: str = "Running", owner: str = "") -> Pod:
    owners = [{"apiVersion": "x", "kind": "VDISession", "name": owner, "uid": "u"}] if owner else []
    volume = {"name": "home", "persistentVolumeClaim": {"claimName": claim}}
    body = {
        "metadata": {"name": "pod", "ownerReferences": owners},
        "spec": {"volumes": [volume]},
        "status": {"phase": phase},
    }
    return msgspec.convert(body, Pod)


@pytest.mark.parametrize("claim", [of_template(ALICE), user_home_claim_name(ALICE)])
def test_a_desktop_on_either_home_is_in_the_way(claim: str) -> None:
    found = find_refusal(a_migration(), [], [], [a_pod(claim, owner="desk")])
    assert found == "the session 'desk' uses the home; suspend it first: vdi session suspend desk --wait"
    elsewhere = find_refusal(a_migration(), [], [], [a_pod(claim, owner="desk")], " -n lab")
    assert str(elsewhere).endswith("vdi session suspend desk -n lab --wait")
    assert find_refusal(a_migration(), [], [], [a_pod(claim)]) == "the pod pod uses the home"
    assert find_refusal(a_migration(), [], [], [a_pod(claim, "Succeeded", "desk")]) is None
    starting = a_session(status={"homeClaim": claim, "podName": "desk"})
    assert "vdi session suspend" in str(find_refusal(a_migration(), [], [starting], []))
    suspended = a_session(status={"homeClaim": claim})
    assert find_refusal(a_migration(), [], [suspended], []) is None


def test_a_desktop_that_is_ending_is_waited_for() -> None:
    pod, running = a_pod(of_template(ALICE), owner="alice-desktop"), a_session("alice-desktop")
    assert find_ending(a_migration(), [running], [pod]) is None
    suspended = a_session("alice-desktop", suspended=True)
    assert find_ending(a_migration(), [suspended], [pod]) is pod
    assert find_refusal(a_migration(), [], [suspended], [pod]) is None
    pod.metadata.deletion_timestamp = "2026-11-20T08:00:00Z"
    assert find_ending(a_migration(), [running], [pod]) is pod
    assert find_refusal(a_migration(), [], [running], [pod]) is None
    elsewhere = a_pod("home-of-bob", owner="alice-desktop")
    assert find_ending(a_migration(), [suspended], [elsewhere]) is None


def test_another_command_is_in_the_way_and_an_interrupted_migration_is_not() -> None:
    source = of_template(ALICE)
    found = find_refusal(a_migration(), [a_claim(source, copying="vdi home import")], [], [])
    assert found == f"the home {source!r} is in use by `vdi home import`"
    assert find_refusal(a_migration(), [a_claim(source, copying="vdi home migrate")], [], []) is None
    leaving = a_claim(source)
    leaving.metadata.deletion_timestamp = "2026-11-20T08:00:00Z"
    assert "is being deleted" in str(find_refusal(a_migration(), [leaving], [], []))
