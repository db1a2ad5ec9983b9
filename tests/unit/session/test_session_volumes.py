"""Volumes of templates: folders of users and groups, who gets them, and files inside the home."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders import a_pod, a_session, a_template
from unit.session.resolving import ALONE, BEHIND_GATEWAY, pod_of, refused
from vdi.api.session import VDISession
from vdi.cluster.explain import StartState, explain
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.volumes import GROUPS, depend_on_user, folder_name, groups_annotation, groups_of

CLAIM = {"persistentVolumeClaim": {"claimName": "teams"}}
TEAMS = [{"name": "cad", "readOnly": False}, {"name": "staff"}]


def a_volume(**fields: Any) -> dict[str, Any]:
    return {"name": "team", "mountPath": "/team", **CLAIM, **fields}


def a_member(*groups: str, **spec: Any) -> VDISession:
    session = a_session(**spec)
    annotation = groups_annotation(
        a_template(volumes=[a_volume(groups=[{"name": name} for name in groups])]), groups
    )
    if annotation:
        session.metadata.annotations[GROUPS] = annotation
    return session


def pod(session: VDISession, *volumes: dict[str, Any], **template: Any) -> dict[str, Any]:
    built: dict[str, Any] = pod_of(session, BEHIND_GATEWAY, volumes=list(volumes), **template)[
        "spec"
    ]
    return built


def mounts(session: VDISession, *volumes: dict[str, Any]) -> list[dict[str, Any]]:
    (container,) = pod(session, *volumes)["containers"]
    return [mount for mount in container["volumeMounts"] if mount["name"] not in ("shm", "home")]


def problem(
    *volumes: dict[str, Any], settings: ClusterSettings = BEHIND_GATEWAY, **template: Any
) -> str:
    blocked = refused(settings=settings, volumes=list(volumes), **template)
    assert blocked.reason == "InvalidTemplate", blocked
    return blocked.message


def test_a_user_gets_the_own_folder_and_no_other() -> None:
    own = a_volume(subPath="users/{user}", readOnly=False)
    assert mounts(a_session(), own) == [
        {"name": "team", "mountPath": "/team", "subPath": "users/alice@example.com"}
    ]
    hostile = a_session(user="../../bob@example.com")
    assert mounts(hostile, own)[0]["subPath"] == "users/%2E.%2F..%2Fbob@example.com"


def test_each_group_has_its_folder_and_write_access() -> None:
    teams = a_volume(mountPath="/teams/{group}", subPath="{group}", groups=TEAMS)
    assert mounts(a_member("cad", "staff", "others"), teams) == [
        {"name": "team", "mountPath": "/teams/cad", "subPath": "cad"},
        {"name": "team", "mountPath": "/teams/staff", "subPath": "staff", "readOnly": True},
    ]
    assert mounts(a_member("staff"), teams) == [
        {"name": "team", "mountPath": "/teams/staff", "subPath": "staff", "readOnly": True}
    ]
    slashes = a_volume(mountPath="/teams/{group}", subPath="{group}", groups=[{"name": "/eng/cad"}])
    (mount,) = mounts(a_member("/eng/cad"), slashes)
    assert (mount["mountPath"], mount["subPath"]) == ("/teams/%2Feng%2Fcad", "%2Feng%2Fcad")


def test_one_folder_is_written_by_one_group_and_read_by_another() -> None:
    team = a_volume(groups=TEAMS)
    assert mounts(a_member("staff"), team) == [
        {"name": "team", "mountPath": "/team", "readOnly": True}
    ]
    assert mounts(a_member("cad"), team) == mounts(a_member("cad", "staff"), team)
    assert mounts(a_member("cad"), team) == [{"name": "team", "mountPath": "/team"}]


def test_a_group_in_another_case_is_the_same_group() -> None:
    """On a file system that folds case its folder is the same one, so two spellings must not be two
    groups.
    """
    teams = a_volume(
        mountPath="/teams/{group}", subPath="{group}", groups=[{"name": "CAD"}, {"name": "Staff"}]
    )
    expected = [{"name": "team", "mountPath": "/teams/cad", "subPath": "cad", "readOnly": True}]
    assert mounts(a_member("cad"), teams) == mounts(a_member("CAD"), teams) == expected
    assert groups_annotation(a_template(volumes=[teams]), {"cad", "STAFF"}) == '["cad","staff"]'
    twice = a_volume(
        mountPath="/teams/{group}", subPath="{group}", groups=[{"name": "CAD"}, *TEAMS]
    )
    assert mounts(a_member("cad"), twice) == [
        {"name": "team", "mountPath": "/teams/cad", "subPath": "cad"}
    ]
    kelvin = "\u212aad"
    assert mounts(a_member(kelvin), a_volume(groups=[{"name": "kad"}])) == [], (
        "Unicode's folding is not applied"
    )


@pytest.mark.parametrize("annotation", [None, "", "cad", '"cad"', '{"cad": true}', "[1]", "[]"])
def test_groups_that_are_not_known_get_nothing(annotation: str | None) -> None:
    session = a_session()
    if annotation is not None:
        session.metadata.annotations[GROUPS] = annotation
    assert groups_of(session) == frozenset()
    spec = pod(session, a_volume(groups=TEAMS))
    assert [volume["name"] for volume in spec["volumes"]] == ["shm", "home"]
    assert [mount["name"] for mount in spec["containers"][0]["volumeMounts"]] == ["shm", "home"]


def test_several_folders_of_a_claim_are_one_volume_of_the_pod() -> None:
    whole = a_volume(mountPath="/all")
    own = a_volume(name="own", mountPath="/own", subPath="users/{user}", readOnly=False)
    other = a_volume(name="other", mountPath="/other", persistentVolumeClaim={"claimName": "other"})
    alice = a_session()
    found = pod(alice, whole, own, other)
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]
        for volume in found["volumes"]
        if volume["name"] != "shm"
    }
    del claims["home"]
    assert claims == {
        "team": {"claimName": "teams", "readOnly": False},
        "other": {"claimName": "other", "readOnly": True},
    }
    assert mounts(alice, whole, own, other) == [
        {"name": "team", "mountPath": "/all", "readOnly": True},
        {"name": "team", "mountPath": "/own", "subPath": "users/alice@example.com"},
        {"name": "other", "mountPath": "/other", "readOnly": True},
    ]


def test_groups_without_a_gateway_are_refused_in_words() -> None:
    message = problem(a_volume(groups=TEAMS), settings=ALONE)
    assert "'team' has groups, which only the gateway knows. Set gateway.enabled: true" in message


def test_only_groups_that_the_template_names_are_written_down() -> None:
    template = a_template(volumes=[a_volume(groups=TEAMS)])
    assert groups_annotation(template, {"staff", "secret-project", "cad"}) == '["cad","staff"]'
    assert groups_annotation(template, {"secret-project"}) is None
    assert groups_annotation(a_template(), {"staff"}) is None


def test_a_folder_of_the_group_collides_with_another_mount() -> None:
    teams = a_volume(mountPath="/teams/{group}", subPath="{group}", groups=TEAMS)
    assert "something is already mounted at /teams/cad" in problem(
        teams, a_volume(name="other", mountPath="/teams/cad")
    )


@given(st.text(max_size=300), st.text(max_size=300))
def test_folder_is_one_path_component_unique_to_its_name(name: str, other: str) -> None:
    folder = folder_name(name)
    assert "/" not in folder and not folder.startswith(".") and len(folder.encode()) <= 255
    assert ":" not in folder and "{" not in folder and "$" not in folder
    assert (folder == folder_name(other)) == (name == other)


def test_long_folder_name_keeps_its_beginning() -> None:
    folders = {folder_name("ü" * 100 + end) for end in ("", "a", "b")}
    assert len(folders) == 3 and all(folder.startswith("%C3%BC") for folder in folders)


def test_addresses_that_are_one_user_have_one_folder() -> None:
    own = a_volume(subPath="{user}")
    assert mounts(a_session(user="Alice@Example.com"), own) == mounts(a_session(), own)


def test_kubelet_can_create_a_read_only_folder() -> None:
    for volume in (a_volume(subPath="x"), a_volume(groups=[{"name": "cad"}])):
        spec = pod(a_member("cad"), volume)
        (source,) = [found for found in spec["volumes"] if found["name"] == "team"]
        assert source["persistentVolumeClaim"] == {"claimName": "teams", "readOnly": False}
        assert spec["containers"][0]["volumeMounts"][-1]["readOnly"] is True


def test_files_in_the_home_are_mounted_read_only() -> None:
    dotfiles = a_volume(
        name="git",
        mountPath="/home/user/.config/git/config",
        subPath="config",
        persistentVolumeClaim=None,
    ) | {"configMap": {"name": "dotfiles"}}
    licence = {
        "name": "licence",
        "mountPath": "/home/user/.licence",
        "secret": {"secretName": "cad-licence"},
    }
    spec = pod(a_session(), dotfiles, licence, resources={"defaultGPU": 1})
    assert {
        "name": "licence",
        "secret": {"secretName": "cad-licence", "defaultMode": 0o440},
    } in spec["volumes"]
    assert spec["containers"][0]["volumeMounts"][2:] == [
        {
            "name": "git",
            "mountPath": "/home/user/.config/git/config",
            "subPath": "config",
            "readOnly": True,
        },
        {"name": "licence", "mountPath": "/home/user/.licence", "readOnly": True},
    ]
    (maker,) = spec["initContainers"]
    assert maker["command"] == ["mkdir", "-p", "--", "/home/user/.config/git"]
    assert maker["volumeMounts"] == [{"name": "home", "mountPath": "/home/user"}]
    assert maker["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(maker["resources"]["limits"]) == {"cpu", "memory"}, "the GPU is the desktop's"
    assert (
        maker["resources"]["requests"].items()
        <= spec["containers"][0]["resources"]["requests"].items()
    )


def test_no_step_comes_before_a_desktop_that_needs_no_folder() -> None:
    assert "initContainers" not in pod(
        a_session(), a_volume(), a_volume(name="b", mountPath="/home/user/team")
    )
    inside = a_volume(mountPath="/home/user/.config/app")
    assert "initContainers" not in pod(a_session(persistence={"enabled": False}), inside)


def test_a_pool_cannot_know_whose_desktop_it_makes() -> None:
    assert depend_on_user(a_template(volumes=[a_volume(subPath="{user}")]).spec)
    assert depend_on_user(a_template(volumes=[a_volume(groups=TEAMS)]).spec)
    assert not depend_on_user(a_template(volumes=[a_volume(subPath="all")]).spec)


def test_only_a_failed_init_container_is_explained() -> None:
    waiting = {"state": {"waiting": {"reason": "PodInitializing"}}}

    def explained(maker: dict[str, Any], desktop: dict[str, Any] = waiting) -> str:
        statuses = [{"name": "home-folders", "image": "registry.example.com/desktop:1", **maker}]
        return explain(
            StartState(a_pod(container=desktop, status={"initContainerStatuses": statuses}))
        ).sentence

    words = "mkdir: cannot create directory '/home/user/.config': Not a directory"
    ended = {"exitCode": 1, "reason": "Error", "message": words}
    crashed = {"restartCount": 3, "lastState": {"terminated": ended}}
    assert words in explained({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, **crashed})
    assert words in explained({"state": {"terminated": ended}})
    assert "desktop:1" in explained({"state": {"waiting": {"reason": "ImagePullBackOff"}}})
    well = {"state": {"terminated": {"exitCode": 0}}}
    assert (
        explained(well)
        == explained({"state": {"running": {}}})
        == explain(StartState(a_pod(container=waiting))).sentence
    )
    pulled = {"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}
    assert "no such image" in explained(well, pulled)


def test_the_start_up_script_of_a_template_is_mounted_and_named() -> None:
    script = {"configMapKeyRef": {"name": "cad-startup", "key": "start"}}
    spec = pod(a_session(), startupScript=script)
    items = [{"key": "start", "path": "startup.sh"}]
    source = {"name": "cad-startup", "items": items, "defaultMode": 0o555}
    assert {"name": "vdi-startup", "configMap": source} in spec["volumes"]
    (container,) = spec["containers"]
    assert {"name": "vdi-startup", "mountPath": "/etc/vdi-startup", "readOnly": True} in container[
        "volumeMounts"
    ]
    assert {"name": "VDI_STARTUP_SCRIPT", "value": "/etc/vdi-startup/startup.sh"} in container[
        "env"
    ]
    assert "VDI_STARTUP_SCRIPT" not in {
        variable["name"] for variable in pod(a_session())["containers"][0]["env"]
    }


@pytest.mark.parametrize("fields", [{"name": "vdi-startup"}, {"mountPath": "/etc/vdi-startup/"}])
def test_a_volume_in_the_place_of_the_start_up_script_is_refused(fields: dict[str, str]) -> None:
    script = {"configMapKeyRef": {"name": "cad-startup"}}
    assert "vdi-startup" in problem(a_volume(**fields), startupScript=script)
